"""What a node has around it: the arbiter, the edge and its client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.edge import Deliver, EdgeCore, EdgeEffect, Fault, MachineHalted, SendNode, StreamReset
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    ArbiterRequest,
    Claim,
    EdgeMessage,
    Final,
    Granted,
    Ledger,
    Refused,
)
from tests.sim.clock import MS
from tests.sim.guest import DEVICE
from tests.sim.host import Host
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.faults import Strike


def stream_boot(stream: str) -> int:
    """The cold boot that a stream id names."""
    return int(stream.rpartition("@")[2])


class Arbiter:
    """The production rule over a durable ledger, behind a network and in a process that may fail. Every request is
    three steps: it arrives, what it changes is durable, its answer leaves."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.ledger = Ledger()
        self.steps = 0
        self.doomed_at = 0
        """It crashes before this step, and is back 100 ms later."""
        self._incarnation = 0
        self._trouble: dict[str, Strike] = {}
        self.loss = cluster.clock.random.choice((0.0, 0.0, 0.0, 0.2))

    def suffer(self, strike: Strike) -> None:
        kind = strike.fault.kind
        self._trouble[kind] = strike
        if kind in ("arbiter down", "arbiter slow", "arbiter deaf"):
            time_ns = 30 * MS + int(strike.fault.y * 600 * MS)
            self._cluster.clock.after(time_ns, self._recover, kind, strike)

    def _recover(self, kind: str, strike: Strike) -> None:
        if self._trouble.get(kind) is strike:
            del self._trouble[kind]

    def recover(self) -> None:
        """Of everything: the world has become kind."""
        self._trouble.clear()
        self.loss = 0.0
        self.doomed_at = 0

    def _troubled(self, kind: str, host: Host) -> bool:
        strike = self._trouble.get(kind)
        if strike is not None:
            strike.felt(host.node.state)
        return strike is not None

    def ask(self, host: Host, request: ArbiterRequest) -> None:
        cluster, random = self._cluster, self._cluster.clock.random
        strike = cluster.network.blocked.get((host.name, "arbiter"))
        if strike is not None:
            strike.felt()
        if strike is not None or self._troubled("arbiter down", host):
            if random.random() < 0.5:
                host.tell(int(random.random() * 20 * MS), "arbiter_failed", "no route")
            return
        if random.random() >= self.loss:
            slow = 400 * MS if random.random() < 0.05 or self._troubled("arbiter slow", host) else 4 * MS
            cluster.clock.after(int(random.random() * slow), self._answer, host, host.incarnation, request)

    def _step(self, host: Host) -> bool:
        """Whether the arbiter does its next step, or is dead instead."""
        if "dead" in self._trouble:
            return False
        self.steps += 1
        strike = self._trouble.get("arbiter crash")
        chosen = strike is not None and self._cluster.clock.random.random() < 0.5
        if not chosen and self.steps != self.doomed_at:
            return True
        self._cluster.trace("the arbiter crashes")
        if strike is not None:
            strike.felt(host.node.state)
            self._trouble["dead"] = self._trouble.pop("arbiter crash")
            self._cluster.clock.after(100 * MS, self._trouble.pop, "dead", None)
        return False

    def _answer(self, host: Host, incarnation: int, request: ArbiterRequest) -> None:
        if not self._step(host):
            return
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
        if not self._step(host):
            return
        random = self._cluster.clock.random
        if random.random() >= self.loss and not self._troubled("arbiter deaf", host):
            slow = random.random() < 0.03 or self._troubled("arbiter slow", host)
            delay = int(random.random() * (400 if slow else 4) * MS)
            self._cluster.clock.after(delay, self._tell, host, incarnation, answer)

    def _tell(self, host: Host, incarnation: int, answer: ArbiterAnswer) -> None:
        if (host.name, "arbiter") not in self._cluster.network.blocked:
            self._step(host)
            host.deliver(incarnation, host.event, "arbiter_answered", answer)

    def _spring(self, host: Host, incarnation: int) -> None:
        """A trap: who was granted a generation dies, or stops for a while, before it can know or activate."""
        if not host.alive or host.incarnation != incarnation:
            return
        for kind in ("crash at grant", "pause at grant"):
            if not self._troubled(kind, host):
                continue
            strike = self._trouble.pop(kind)
            if kind == "crash at grant":
                self._cluster.crash(host, silently=strike.fault.x < 0.5, back_ns=int((0.1 + strike.fault.y) * 400 * MS))
            elif not host.paused:
                self._cluster.pause(host, int(strike.fault.y * 4000 * MS))
            return


class Edge(Process):
    """The edge and its one client, who sends unique bytes and never gives up.

    A new life of it knows nothing: neither its fence nor where the streams stand. Its client's bytes wait until a
    node has told it where the next one belongs.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, "edge")
        self.finished = False
        """It has said that it has everything."""
        self._peers: dict[int, Host] = {}
        self._begin()

    def _begin(self) -> None:
        self.incarnation += 1
        self.alive = True
        self.core = EdgeCore((DEVICE,))
        self._early = bytearray()
        self._flushes = False
        self.boot = 0
        """Of the machine whose streams it knows."""
        self._peers.clear()

    def crash(self, back_ns: int) -> None:
        self.cluster.trace("the edge crashes")
        self.cluster.network.die(self, silently=False)
        self.alive = False
        self.paused = False
        self._missed.clear()
        self.doom(0, None)
        self.cluster.observer.edge_crashed()
        self.cluster.clock.after(back_ns, self.restart)

    def crash_at(self, effects: int, strike: Strike | None, back_ns: int = 100 * MS) -> None:
        self.doom(effects, lambda: self.crash(back_ns), strike)

    def restart(self) -> None:
        if not self.alive:
            self._begin()
            for host in self.cluster.hosts:
                if host.alive:
                    self.reconnect(host)

    def knows(self, session: int) -> bool:
        """Whether the session is one of this life: what an earlier one had sent may still come, and be refused."""
        return session in self._peers

    def reconnect(self, host: Host) -> None:
        self.cluster.clock.after(
            self.cluster.network.delay(), self._connect, self.incarnation, host, host.incarnation
        )

    def _connect(self, mine: int, host: Host, incarnation: int) -> None:
        network = self.cluster.network
        if not self.alive or self.incarnation != mine or not host.alive or host.incarnation != incarnation:
            return
        for id, peer in list(self._peers.items()):
            if peer is host and network.is_open(id):
                return
        if host.paused or self.paused or not network.reachable(self.name, host.name):
            self.cluster.clock.after(20 * MS, self._connect, mine, host, incarnation)
            return
        connection = network.connect(self, host)
        self._peers[connection.id] = host
        host.edge_sessions.add(connection.id)
        host.event("edge_opened", connection.id)

    def on_message(self, session: int, message: EdgeMessage) -> None:  # type: ignore[override]
        fence = self.core.generation
        if self.cluster.tracing:
            self.cluster.trace(f"edge receives {session} {message!r}")
        effects = self.core.received(session, message)
        self._look_at_stream()
        self._carry_out(effects, message.gen, fence)

    def _look_at_stream(self) -> None:
        """A stream that has just become known: from here the client's bytes have offsets."""
        stream = self.core._streams[DEVICE]
        if stream is None or stream.acked is None:
            self.boot = 0
            return
        boot = stream_boot(stream.name)
        if boot != self.boot:
            self.boot = boot
            early, self._early = self._early, bytearray()
            self.cluster.observer.input_begins(boot, stream.accepted - len(early), early)

    def on_lost(self, session: int) -> None:
        host = self._peers.pop(session)
        self._carry_out(self.core.node_lost(session), 0, 0)
        self.reconnect(host)

    def client(self, data: bytes, *, is_break: bool = False) -> bool:
        if not self.alive or self.paused or self.core.input_room(DEVICE) < len(data):
            return False
        if self.boot:
            self.cluster.observer.client_sent(self.boot, data)
        else:
            self._early += data
        self._carry_out(self.core.client_input(DEVICE, data, is_break=is_break), 0, 0)
        return True

    def _flush(self) -> None:
        self._flushes = False
        self._carry_out(self.core.flush(), 0, 0)

    def _carry_out(self, effects: Sequence[EdgeEffect], generation: int, fence: int) -> None:
        for effect in effects:
            match effect:
                case SendNode():
                    self.cluster.network.send(effect.session, self, effect.message)
                    self.finished |= type(effect.message) is Final
                case Deliver():
                    stream = self.core._streams[DEVICE]
                    assert stream is not None
                    self.cluster.observer.delivered_at_edge(stream_boot(stream.name), generation, fence, effect)
                    if not self._flushes:
                        self._flushes = True
                        self.cluster.clock.after(40 * MS, self.deliver, self.incarnation, self._flush)
                case Fault():
                    self.cluster.observer.complain(f"the edge faults a node: {effect.text}")
                case StreamReset():
                    self.cluster.count("streams reset")
                case MachineHalted():
                    pass
            self.carried_out += 1
            if self.carried_out == self._doom_at:
                self._meet_doom()
                return
