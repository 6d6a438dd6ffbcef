"""What a node has around it: the arbiter, the edge and its client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.edge import Deliver, EdgeCore, EdgeEffect, Fault, MachineHalted, SendNode
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
from tests.sim.guest import DEVICE
from tests.sim.host import Host, Process
from tests.sim.network import MS

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster


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
