"""Hosts, arbiter, edge and client of one simulated run. The replication core in it is the production code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftvm.replication import effects as fx
from ftvm.replication.arbitration import State, decide, decide_activation
from ftvm.replication.edge import Deliver, EdgeCore, EdgeEffect, Fault, MachineHalted, SendNode
from ftvm.replication.events import Absence
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    ArbiterRequest,
    Claim,
    EdgeMessage,
    Granted,
    Ledger,
    Refused,
)
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig
from tests.sim.checks import Observer
from tests.sim.clock import Clockwork
from tests.sim.guest import DEVICE, Engine
from tests.sim.network import MS, Network

LIFE_BITS = 128


class Process:
    """Something that can be paused and can die. What happens to it while paused, happens when it resumes."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.incarnation = 0
        self.alive = False
        self.paused = False
        self._missed: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []

    def deliver(self, incarnation: int, call: Callable[..., None], *arguments: object) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.paused:
            self._missed.append((incarnation, call, arguments))
        else:
            call(*arguments)

    def resume(self) -> None:
        self.paused = False
        missed, self._missed = self._missed, []
        for incarnation, call, arguments in missed:
            self.cluster.clock.after(0, self.deliver, incarnation, call, *arguments)


class Host(Process):
    def __init__(self, cluster: Cluster, name: str, peers: tuple[str, ...]) -> None:
        super().__init__(cluster, name)
        random = cluster.clock.random
        self._config = ReplicationConfig(name, peers, (DEVICE,), **cluster.bounds)
        self._skew_ns = random.getrandbits(40)
        self._timer_ns = 0
        self._report_ns = 0
        self.slowness_ns = int(random.choice((1, 1, 1, 5, 30)) * MS)
        self.edge_sessions: set[int] = set()
        self.carried_out = 0
        """Effects, over all lives."""
        self._doom = 0
        self.exit: fx.Exit | None = None
        self.gone_silently = False
        self.seen_live = 0

    # ---- life and death

    def start(self, *, primary: bool, force: bool = False) -> None:
        self.alive = True
        self.gone_silently = False
        self._begin()
        start = self.node.start_primary if primary else self.node.start_shadow
        self.carry_out(start(self.now(), **({"force": force} if primary else {})))
        self.cluster.edge.reconnect(self)

    def _begin(self) -> None:
        cluster = self.cluster
        self.incarnation += 1
        self.life = cluster.clock.random.getrandbits(LIFE_BITS).to_bytes(16, "little")
        self.node = Node(self._config, self.life)
        self.gate = self.node._replica.gate
        self.engine = Engine(self, cluster.clock.random, slowness_ns=self.slowness_ns, digests=cluster.digests)
        self.seen_live = 0
        self.heard_seen = 0
        self.doomed, self._doom = self._doom, 0
        self._timer_ns = 1 << 62
        self._report_ns = 0

    def die(self, *, silently: bool) -> None:
        self.cluster.trace(f"{self.name} dies{' silently' if silently else ''}")
        self.cluster.network.die(self, silently=silently)
        self.alive = False
        self.gone_silently = silently
        self.paused = False
        self._missed.clear()

    def doom(self, effects: int) -> None:
        """It dies once it has carried out so many more, in this life or, not started yet, in its first."""
        if self.alive:
            self.doomed = effects
        else:
            self._doom = effects

    def pause(self) -> None:
        self.cluster.trace(f"{self.name} is paused")
        self.paused = True

    def now(self) -> int:
        return self.cluster.clock.now_ns + self._skew_ns

    # ---- events in

    def event(self, name: str, *arguments: Any) -> None:
        if self.cluster.tracing:
            self.cluster.trace(f"{self.name} {name} {arguments!r}")
        self.carry_out(getattr(self.node, name)(*arguments, self.now()))

    def tell(self, delay_ns: int, name: str, *arguments: Any) -> None:
        """An event for this life, later."""
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, self._told, name, *arguments)

    def _told(self, name: str, *arguments: Any) -> None:
        self.event(name, *arguments)

    def on_message(self, session: int, message: object) -> None:
        self.event("edge_received" if session in self.edge_sessions else "received", session, message)

    def on_lost(self, session: int) -> None:
        self.event("edge_lost" if session in self.edge_sessions else "session_lost", session)

    def _timer(self) -> None:
        due = self.node.next_timer_ns()
        self._timer_ns = 1 << 62
        if due is not None and due <= self.now():
            self.carry_out(self.node.timer(self.now()))
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        due = self.node.next_timer_ns()
        if due is not None and due < self._timer_ns:
            self._timer_ns = due
            self.cluster.clock.at(due - self._skew_ns, self.deliver, self.incarnation, self._timer)

    # ---- the engine's owner

    def later(self, delay_ns: int, action: str, *arguments: object) -> None:
        call = self.engine.slice if action == "slice" else self.engine.follow_on
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, call, *arguments)

    def report(self, event: str, *arguments: object) -> None:
        self._report_ns = max(self._report_ns, self.cluster.clock.now_ns + self.cluster.engine_delay())
        self.cluster.clock.at(self._report_ns, self.deliver, self.incarnation, self._told, event, *arguments)

    # ---- effects out

    def carry_out(self, effects: Sequence[fx.Effect]) -> None:
        cluster = self.cluster
        cluster.observer.looked_at(self)
        for effect in effects:
            if cluster.tracing and not isinstance(effect, fx.Note):
                cluster.trace(f"{self.name} [{self.node.state.name}] -> {effect!r}")
            self._effect(effect)
            self.carried_out += 1
            if isinstance(effect, fx.StartOver | fx.Exit):
                return
            if self.doomed:
                self.doomed -= 1
                if not self.doomed:
                    cluster.crash(self)
                    return
        self._set_timer()

    def _effect(self, effect: fx.Effect) -> None:
        cluster, engine = self.cluster, self.engine
        match effect:
            case fx.Send():
                cluster.network.send(effect.session, self, effect.message)
            case fx.SendEdge():
                cluster.observer.released_by(self, effect.message)
                cluster.network.send(effect.edge, self, effect.message)
            case fx.CloseSession():
                cluster.network.close(effect.session, self)
            case fx.CloseEdge():
                cluster.observer.complain(f"{self.name} faults the edge: {effect.reason}")
            case fx.AskArbiter():
                cluster.arbiter.ask(self, effect.request)
            case fx.Probe():
                cluster.probe(self, effect.peer)
            case fx.Join():
                cluster.join(self, effect.peer)
            case fx.TakeSnapshot():
                self.report("snapshot_taken", engine.guest.save())
            case fx.RestoreSnapshot():
                engine.restore(effect.state)
                self.report("restored")
            case fx.Apply():
                engine.follow(effect.pos, effect.entries)
            case fx.GoLive():
                engine.go_live()
                engine.report_halt()
            case fx.InjectInput():
                engine.inject(effect.offset, effect.data, effect.is_break)
            case fx.Throttle():
                engine.throttle(effect.on)
            case fx.Quiesce():
                engine.stands = True
                self.report("quiesced")
            case fx.Frozen():
                cluster.count("frozen")
            case fx.StartOver():
                cluster.network.die(self, silently=False)
                self._missed.clear()
                self.start(primary=False)
            case fx.Exit():
                self.exit = effect
                self.die(silently=False)
                cluster.exited(self, effect)
            case fx.Note():
                if "broke the protocol" in effect.text:
                    cluster.observer.complain(f"{self.name}: {effect.text}")
            case _:
                raise AssertionError(effect)


class Arbiter:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.ledger = Ledger()
        self.down = False
        self.trap = ""
        self.loss = cluster.clock.random.choice((0.0, 0.0, 0.1, 0.3))

    def ask(self, host: Host, request: ArbiterRequest) -> None:
        random = self._cluster.clock.random
        if self.down or (host.name, "arbiter") in self._cluster.network.blocked:
            if random.random() < 0.5:
                host.tell(int(random.random() * 20 * MS), "arbiter_failed", "no route")
            return
        if random.random() >= self.loss:
            slow = 400 * MS if random.random() < 0.05 else 4 * MS
            delay = int(random.random() * slow)
            self._cluster.clock.after(delay, self._answer, host, host.incarnation, request)

    def _answer(self, host: Host, incarnation: int, request: ArbiterRequest) -> None:
        random = self._cluster.clock.random
        answer: ArbiterAnswer
        if isinstance(request, Claim):
            answer, record = decide(self.ledger, request)
            if record is not None:
                self.ledger = Ledger((*self.ledger.records, record), self.ledger.last_activated)
                self._cluster.count(f"granted {record.kind.name.lower()}")
                self._spring(host, incarnation)
        elif isinstance(request, Activate):
            answer, new = decide_activation(self.ledger, request)
            if new:
                self.ledger = Ledger(self.ledger.records, request.gen)
        else:
            answer = self.ledger
        assert isinstance(answer, Granted | Refused | Activated | Ledger)
        if self._cluster.tracing:
            self._cluster.trace(f"arbiter {request!r} -> {answer!r}")
        if not self.down and random.random() >= self.loss:
            delay = int(random.random() * (400 if random.random() < 0.03 else 4) * MS)
            self._cluster.clock.after(delay, host.deliver, incarnation, host._told, "arbiter_answered", answer)

    def _spring(self, host: Host, incarnation: int) -> None:
        """A trap: who was granted a generation dies, or stops for a while, before it can know or activate."""
        if self.trap and host.alive and host.incarnation == incarnation and self.ledger.current > 1:
            trap, self.trap = self.trap, ""
            self._cluster.count(f"sprung {trap}")
            if trap == "crash":
                self._cluster.crash(host)
            elif not host.paused:
                self._cluster.pause(host, 4000 * MS)


class Edge(Process):
    """The edge and its one client, who sends unique bytes and never gives up."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, "edge")
        self.alive = True
        self.core = EdgeCore((DEVICE,))
        self.delivered = 0
        self.halted = False
        self._peers: dict[int, Host] = {}

    def reconnect(self, host: Host) -> None:
        self.cluster.clock.after(self.cluster.network.delay(), self._connect, host, host.incarnation)

    def _connect(self, host: Host, incarnation: int) -> None:
        network = self.cluster.network
        if not host.alive or host.incarnation != incarnation or host in self._peers.values():
            return
        if host.paused or not network.reachable(self.name, host.name):
            self.cluster.clock.after(20 * MS, self._connect, host, incarnation)
            return
        connection = network.connect(self, host)
        self._peers[connection.id] = host
        host.edge_sessions.add(connection.id)
        host.event("edge_opened", connection.id)

    def on_message(self, session: int, message: EdgeMessage) -> None:  # type: ignore[override]
        fence = self.core.generation
        self._carry_out(self.core.received(session, message), message.gen, fence)

    def on_lost(self, session: int) -> None:
        host = self._peers.pop(session)
        self._carry_out(self.core.node_lost(session), 0, 0)
        self.reconnect(host)

    def client(self, data: bytes, *, is_break: bool = False) -> bool:
        if self.core.input_room(DEVICE) < len(data):
            return False
        self.cluster.observer.sent += data
        self._carry_out(self.core.client_input(DEVICE, data, is_break=is_break), 0, 0)
        return True

    def flush(self) -> None:
        self._carry_out(self.core.flush(), 0, 0)

    def _carry_out(self, effects: Sequence[EdgeEffect], generation: int, fence: int) -> None:
        for effect in effects:
            match effect:
                case SendNode():
                    self.cluster.network.send(effect.session, self, effect.message)
                case Deliver():
                    self.delivered += len(effect.data)
                    self.cluster.observer.delivered_at_edge(
                        generation, fence, effect.device, effect.offset, effect.data
                    )
                case Fault():
                    self.cluster.observer.complain(f"the edge faults a node: {effect.text}")
                case MachineHalted():
                    self.halted = True


class Cluster:
    def __init__(self, seed: int, names: tuple[str, ...], tracer: Callable[[str], None] | None) -> None:
        self.clock = Clockwork(seed)
        random = self.clock.random
        self._tracer = tracer
        self.tracing = tracer is not None
        self.counts: dict[str, int] = {}
        self.digests = random.random() < 0.5
        self.bounds: dict[str, int] = {"off_wait_ns": 6000 * MS}
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
