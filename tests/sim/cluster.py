"""Hosts, arbiter, edge and network of one simulated run, and how they reach each other."""

from __future__ import annotations

from collections.abc import Callable

from ftvm.errors import ExitCode
from ftvm.replication import effects as fx
from ftvm.replication.arbitration import ACCEPTING
from ftvm.replication.events import Absence
from tests.sim.checks import Observer
from tests.sim.clock import MS, Clockwork
from tests.sim.faults import Faults
from tests.sim.host import Host
from tests.sim.network import Network
from tests.sim.process import Process
from tests.sim.surroundings import Arbiter, Edge


class Cluster:
    """The world that follows from a seed, without its faults."""

    def __init__(self, seed: int, tracer: Callable[[str], None] | None) -> None:
        self.clock = Clockwork(seed)
        random = self.clock.random
        self._tracer = tracer
        self.tracing = tracer is not None
        self.counts: dict[str, int] = {}
        self.calm = False
        self.flips = False
        self.forced = False
        """The operator gave up what may have been lost."""
        names = ("a", "b", "c") if random.random() < 0.25 else ("a", "b")
        self.disks = random.random() < 0.98
        """All hosts have one. Otherwise some have."""
        self.digests = random.random() < 0.5
        self.bounds = {
            "off_wait_ns": 6000 * MS,
            "void_delay_ns": random.choice((150, 400, 1000)) * MS,
            "claim_retry_ns": random.choice((100, 200, 500)) * MS,
        }
        if random.random() < 0.3:
            self.bounds |= {"lag_ticks_max": 400, "unacked_bytes_max": 1500, "retained_bytes_max": 600}
        self.network = Network(
            self.clock,
            random.choice((300_000, 2 * MS, 8 * MS)),
            encoded=random.random() < 0.05,
            datagrams=random.random() < 0.8,
        )
        self.rest_ns = 15 * MS * (len(names) - 1)
        """A live engine rests up to so long after a slice; the more hear of each, the longer."""
        self._engine_delay_ns = random.choice((0, 0, 0, 3 * MS))
        self.observer = Observer(self)
        self.faults = Faults(self)
        self.arbiter = Arbiter(self)
        self.edge = Edge(self)
        self.by_life: dict[bytes, Host] = {}
        self.hosts = [Host(self, name, tuple(n for n in names if n != name)) for name in names]
        self._by_name = {host.name: host for host in self.hosts}

    def trace(self, line: str) -> None:
        if self._tracer is not None:
            self._tracer(f"{self.clock.now_ns / MS:12.6f} {line}")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def engine_delay(self) -> int:
        return int(self.clock.random.random() * self._engine_delay_ns) if self._engine_delay_ns else 0

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
        self.clock.after(back, asker.deliver, incarnation, asker.event, "probed", asked.name, answer)

    def join(self, joiner: Host, name: str) -> None:
        self.clock.after(self.network.delay(), self._join, joiner, joiner.incarnation, self._by_name[name])

    def _join(self, joiner: Host, incarnation: int, peer: Host) -> None:
        there = joiner.alive and joiner.incarnation == incarnation and not joiner.paused
        if not (there and peer.alive and not peer.paused and self.network.reachable(joiner.name, peer.name)):
            return
        connection = self.network.connect(joiner, peer)
        peer_life = peer.life
        delay = self.network.delay()
        connection.due_ns[0] = self.clock.now_ns + delay
        self.clock.after(
            delay, joiner.deliver, incarnation, joiner.event, "session_opened", connection.id, peer.name, peer_life
        )
        peer.event("session_opened", connection.id, joiner.name, joiner.life)

    def exited(self, host: Host, exit: fx.Exit) -> None:
        self.count(f"exit {exit.code.name.lower()}")
        self.trace(f"{host.name} exits: {exit.line}")
        if exit.code in (ExitCode.CLAIM_LOST, ExitCode.BAD_LOG):
            # What its operator reads there: start it as a shadow, or make room.
            host.exit = None
            self.clock.after(200 * MS, self._restart_as_shadow, host)

    def _restart_as_shadow(self, host: Host) -> None:
        if not host.alive and host.exit is None:
            host.start(primary=False)

    def live(self) -> Host | None:
        """The one who is live in the newest generation, if any."""
        current = self.arbiter.ledger.current
        for host in self.hosts:
            if host.alive and host.node.generation == current and host.node._state in ACCEPTING:
                return host
        return None

    # ---- misfortunes

    def crash(self, host: Host, *, silently: bool, back_ns: int) -> None:
        """It will be started again."""
        host.die(silently=silently)
        self.clock.after(back_ns, self.restart, host)

    def restart(self, host: Host) -> None:
        if host.alive or host.exit is not None:
            return
        ledger = self.arbiter.ledger
        if host is self.hosts[0] and ledger.last_activated == 0:
            # The machine never lived: its operator starts it again, and gives up a grant that nobody used.
            host.start(primary=True, force=bool(ledger.records))
        else:
            first = host is self.hosts[0] and host.disk.inspect() is not None
            host.start(primary=first and self.clock.random.random() < 0.5)

    def pause(self, process: Process, time_max_ns: int) -> None:
        process.pause()
        self.clock.after(time_max_ns, self._resume, process, process.incarnation)

    def _resume(self, process: Process, incarnation: int) -> None:
        if process.paused and process.incarnation == incarnation:
            process.resume()
