"""Hosts, arbiter, edge and network of one simulated run, and the misfortunes that befall them."""

from __future__ import annotations

from collections.abc import Callable

from ftvm.replication import effects as fx
from ftvm.replication.arbitration import State
from ftvm.replication.events import Absence
from tests.sim.checks import Observer
from tests.sim.clock import Clockwork
from tests.sim.host import Host
from tests.sim.network import MS, Network
from tests.sim.surroundings import Arbiter, Edge


class Cluster:
    def __init__(self, seed: int, names: tuple[str, ...], tracer: Callable[[str], None] | None) -> None:
        self.clock = Clockwork(seed)
        random = self.clock.random
        self._tracer = tracer
        self.tracing = tracer is not None
        self.counts: dict[str, int] = {}
        self.digests = random.random() < 0.5
        self.bounds = {"off_wait_ns": 6000 * MS, "void_delay_ns": random.choice((150, 600, 2000)) * MS}
        if random.random() < 0.3:
            self.bounds |= {"lag_ticks_max": 400, "unacked_bytes_max": 1500, "retained_bytes_max": 600}
        self.network = Network(self.clock, random.choice((300_000, 2 * MS, 8 * MS)), encoded=seed % 8 == 1)
        self._engine_delay_ns = random.choice((0, 100_000, 3 * MS))
        self.observer = Observer(self)
        self.arbiter = Arbiter(self)
        self.edge = Edge(self)
        self.hosts = [Host(self, name, tuple(n for n in names if n != name)) for name in names]
        self._by_name = {host.name: host for host in self.hosts}

    def trace(self, line: str) -> None:
        if self._tracer is not None:
            self._tracer(f"{self.clock.now_ns / MS:12.6f} {line}")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def engine_delay(self) -> int:
        return int(self.clock.random.random() * self._engine_delay_ns)

    def probe(self, asker: Host, name: str) -> None:
        there = self.network.delay()
        self.clock.after(there, self._probe, asker, asker.incarnation, self._by_name[name])

    def _probe(self, asker: Host, incarnation: int, asked: Host) -> None:
        back = self.network.delay()
        if not self.network.reachable(asker.name, asked.name) or asked.paused or asked.gone_silently:
            answer: object = Absence.NO_ANSWER
            back += 50 * MS
        elif asked.alive:
            answer = asked.node.presence()
        else:
            answer = Absence.REFUSED
        self.clock.after(back, asker.deliver, incarnation, asker._told, "probed", asked.name, answer)

    def join(self, joiner: Host, name: str) -> None:
        self.clock.after(self.network.delay(), self._join, joiner, joiner.incarnation, self._by_name[name])

    def _join(self, joiner: Host, incarnation: int, peer: Host) -> None:
        there = joiner.alive and joiner.incarnation == incarnation and not joiner.paused
        if not (there and peer.alive and not peer.paused and self.network.reachable(joiner.name, peer.name)):
            return
        connection = self.network.connect(joiner, peer)
        peer_life = peer.life
        peer.event("session_opened", connection.id, joiner.name, joiner.life)
        delay = self.network.delay()
        connection.due_ns[1] = max(connection.due_ns[1], self.clock.now_ns + delay)
        self.clock.after(
            delay, joiner.deliver, incarnation, joiner._told, "session_opened", connection.id, peer.name, peer_life
        )

    def exited(self, host: Host, exit: fx.Exit) -> None:
        self.count(f"exit {exit.code.name.lower()}")
        self.trace(f"{host.name} exits: {exit.line}")

    def live(self) -> Host | None:
        """The one who is live in the newest generation, if any."""
        for host in self.hosts:
            current = host.alive and host.node.generation == self.arbiter.ledger.current
            if current and host.node.state in (State.SOLO, State.PROTECTED):
                return host
        return None

    # ---- misfortunes

    def crash(self, host: Host) -> None:
        """It will be started again, as a shadow."""
        random = self.clock.random
        host.die(silently=random.random() < 0.3)
        self.clock.after(int((0.05 + random.random()) * 500 * MS), self.restart, host)

    def restart(self, host: Host) -> None:
        if not host.alive and host.exit is None:
            host.start(primary=False)

    def pause(self, host: Host, time_max_ns: int) -> None:
        host.pause()
        self.clock.after(int(self.clock.random.random() * time_max_ns), self._resume, host, host.incarnation)

    def _resume(self, host: Host, incarnation: int) -> None:
        if host.paused and host.incarnation == incarnation:
            self.trace(f"{host.name} resumes")
            host.resume()
