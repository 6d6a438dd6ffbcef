"""What must hold at every step, seen from outside: by an observer who knows everything and trusts no node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftvm.replication.arbitration import LIVE, State
from ftvm.replication.messages import EdgeMessage, InputAck, Output
from tests.sim.guest import DEVICE

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import Host


class Violation(AssertionError):
    """A promise was broken."""


ELIGIBLE = frozenset({State.IN_SYNC, State.SUSPECT, State.CLAIMING})


class Observer:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.released = bytearray()
        """Every output that any node let out, by its offset."""
        self.acked = 0
        self.sent = bytearray()
        """Every input unit that the client gave to the edge."""
        self.delivered = 0
        self._live: dict[int, bytes] = {}
        self._releasers: dict[int, bytes] = {}
        self.went_live = 0

    def _demand(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(what)

    def released_by(self, host: Host, message: EdgeMessage) -> None:
        """Invariants 1 to 3: one releaser a generation, whose history extends what was released; and whoever could
        win the next generation now holds all that explains it."""
        if not isinstance(message, Output | InputAck):
            return
        life = host.life
        self._demand(self._releasers.setdefault(message.gen, life) == life, f"two releasers in {message.gen}")
        if isinstance(message, Output):
            end = message.offset + len(message.data)
            overlap = bytes(self.released[message.offset : end])
            self._demand(message.offset <= len(self.released), "released history has a gap")
            self._demand(message.data[: len(overlap)] == overlap, "released history was contradicted")
            self.released[message.offset : end] = message.data
            self._demand(bytes(host.engine.guest.said[message.offset : end]) == message.data, "said otherwise")
        else:
            self.acked = max(self.acked, message.offset)
        committed = host.gate.committed
        for other in self._cluster.hosts:
            if other is not host and other.alive and other.node.state in ELIGIBLE:
                fits = other.node.generation == message.gen and other.node.status().primary == host.name
                self._demand(not fits or other.gate.end >= committed, f"released beyond what {other.name} holds")

    def looked_at(self, host: Host) -> None:
        """After every event of a node: invariants 1, 2, 5 and 6."""
        node, guest = host.node, host.engine.guest
        if len(guest.heard) != host.heard_seen:
            host.heard_seen = len(guest.heard)
            self._demand(self.sent.startswith(guest.heard), "an input was applied twice, lost or changed")
        confirmed = host.gate.confirmed()[DEVICE]
        self._demand(confirmed <= self._cluster.edge.delivered, f"{host.name} trimmed what the edge lacks")
        if node.state not in LIVE:
            return
        generation = node.generation
        holder = self._live.setdefault(generation, host.life)
        self._demand(holder == host.life, f"two live machines in generation {generation}")
        if host.seen_live == generation:
            return
        host.seen_live = generation
        self.went_live += 1
        ledger = self._cluster.arbiter.ledger
        record = ledger.record(generation)
        self._demand(record is not None and record.life == host.life, "live without a grant")
        if record is not None and record.keep and generation < ledger.current:
            # The answer to its activation was late, and a member it had named has gone on without it: it is a
            # zombie, whose gate waits for acknowledgements that will not come. What it releases is checked above.
            return
        self._demand(generation == ledger.current, f"{host.name} went live in a superseded generation")
        self._demand(guest.said.startswith(self.released), f"{host.name} went live without what was released")
        self._demand(len(guest.heard) >= self.acked, f"{host.name} went live without an acknowledged input")

    def delivered_at_edge(self, generation: int, fence: int, device: str, offset: int, data: bytes) -> None:
        """Invariant 4, and exactly once: the world sees the released history, each byte in its place."""
        self._demand(device == DEVICE, "another device spoke")
        self._demand(generation >= fence, "the edge took an older generation")
        self._demand(offset == self.delivered, "the edge delivered twice or left out")
        self.delivered += len(data)
        self._demand(self.released[offset : self.delivered] == data, "the edge delivered what nobody released")

    def complain(self, text: str) -> None:
        raise Violation(text)
