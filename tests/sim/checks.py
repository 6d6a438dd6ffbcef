"""What must hold at every step, seen from outside: by an observer who knows everything and trusts no node.

| invariant (DESIGN, section 6) | check |
|---|---|
| 1 output commit | `released_by`: whoever may claim the next generation holds all that explains it |
| 2 output consistency | `released_by`, `_went_live`: history is only extended; who goes live has all of it |
| 3 effects exactly once | `delivered_at_edge` (each byte in its place, one life of the edge), `_hears` (inputs) |
| 4 state at equal tick, 5 exact delivery | `executed_to`: the same state at each position of one log |
| 6 input closure | `tests/sim/test_sim.py`: the same trace in another process |
| 7 one live machine a generation | `_is_live`, `released_by` (one releaser), `_went_live` (with a grant) |
| 8 stale fencing | `delivered_at_edge`: never of a generation older than the edge has seen |
| 9 detection bound | `detects`: silence is noticed within T, and nobody claims before |
| 10 failover bound | `run.py`: in a kind world all is healed within `LIVENESS_NS` |
| 11 bounded lag and memory | `_bounded`, `lags`, `network.HELD_MAX` |
| 12 crash anywhere | `boundaries.py`, and faults in the middle of effects |
| 14 divergence | `test_sim.py`: a flipped bit is found before the replica goes live |
| 15 re-protection | `run.py`: healed means that every node is a member again |
| 16 clean power-off | `run.py`: off means that all was delivered, and everybody leaves with exit code 0 |
| 20 reproducible | `test_sim.py` |

Beside those: nothing is trimmed that the edge lacks (`_trims`); the only holder of what counts never gives it up
(`gives_up`); who is live and in order is not left throttled (`run.py`); no busy timer (`host.TIMERS_MAX`). Invariants
13, 18, 19 are about bytes, guests and handshakes: `tests/log`, `tests/transport`, `tests/host`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftvm.replication.arbitration import LIVE, State
from ftvm.replication.edge import Deliver
from ftvm.replication.messages import ArbiterRequest, Claim, EdgeMessage, InputAck, Kind, Life, Output
from tests.sim.clock import MS
from tests.sim.guest import DEVICE, SLICE_TICKS_MAX

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.host import Host


class Violation(AssertionError):
    """A promise was broken."""


ELIGIBLE = frozenset({State.IN_SYNC, State.SUSPECT, State.CLAIMING})
SPEAKS = frozenset({State.SOLO, State.PROTECTED})


UNWRITTEN_NS = 250 * MS
"""With all clocks and disks in order, what was released so long ago is on a disk."""


class History:
    """Of one machine, from one boot on."""

    __slots__ = ("acked", "checkpoints", "delivered", "edge_at", "released", "sent")

    def __init__(self) -> None:
        self.released = bytearray()
        """Every output that any node let out, by its offset."""
        self.acked = 0
        self.sent = [bytearray()]
        """What the client gave to the edge. Each life of the edge goes on where a node told it to, so that there may
        be several, the newest last; what was acknowledged they have in common."""
        self.delivered = 0
        """How far any life of the edge came."""
        self.edge_at: int | None = None
        """How far this one has come."""
        self.checkpoints = [(0, 0, 0)]
        """Time, released, acknowledged by then."""

    def checkpoint(self, now_ns: int) -> None:
        if now_ns >= self.checkpoints[-1][0] + 10 * MS:
            self.checkpoints.append((now_ns, len(self.released), self.acked))

    def at(self, time_ns: int) -> tuple[int, int]:
        """What had been released and acknowledged by then."""
        for then_ns, released, acked in reversed(self.checkpoints):
            if then_ns <= time_ns:
                return released, acked
        return 0, 0


class Observer:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.histories: dict[int, History] = {}
        self._live: dict[int, Life] = {}
        self._releasers: dict[int, Life] = {}
        self._points: dict[tuple[Life, int], tuple[int, ...]] = {}
        self.went_live = 0

    def _demand(self, holds: bool, what: str) -> None:
        if not holds:
            raise Violation(what)

    def complain(self, text: str) -> None:
        raise Violation(text)

    def history(self, boot: int) -> History:
        history = self.histories.get(boot)
        if history is None:
            history = self.histories[boot] = History()
        return history

    # ---- nodes

    def released_by(self, host: Host, message: EdgeMessage) -> None:
        """Invariants 1 and 2: one releaser a generation, whose history extends what was released; and whoever could
        win the next generation now holds all that explains it."""
        kind = type(message)
        if kind is not Output and kind is not InputAck:
            return
        life = host.life
        self._demand(self._releasers.setdefault(message.gen, life) == life, f"two releasers in {message.gen}")
        history = self.history(host.node._replica.boot)
        if isinstance(message, Output):
            end = message.offset + len(message.data)
            released = history.released
            overlap = released[message.offset : end]
            self._demand(message.offset <= len(released), "released history has a gap")
            self._demand(message.data[: len(overlap)] == overlap, "released history was contradicted")
            released[message.offset : end] = message.data
            self._demand(host.engine.guest.said[message.offset : end] == message.data, "said otherwise")
        elif isinstance(message, InputAck):
            history.acked = max(history.acked, message.offset)
        history.checkpoint(self._cluster.clock.now_ns)
        committed = host.gate.committed
        for other in self._cluster.hosts:
            if other is not host and other.alive and other.node._state in ELIGIBLE:
                fits = other.node.generation == message.gen and other.node._shadow.peer == host.name
                self._demand(not fits or other.gate.end >= committed, f"released beyond what {other.name} holds")

    def looked_at(self, host: Host) -> None:
        """After every event of a node. What changes rarely is looked at where it changes."""
        node = host.node
        replica, state = node._replica, node._state
        if state in LIVE:
            if replica.generation != host.seen_live:
                self._is_live(host)
            gate, config = replica.gate, host.config
            if gate.retained_bytes > config.retained_bytes_max or (
                node._primary._unacked_bytes > config.unacked_bytes_max
            ):
                self._bounded(host)
        # Without a boot it has no machine, or one from its log, and does not know yet in which generation that will
        # go on; while it joins, the one that it is sent has not taken that one's place.
        if replica.boot and state is not State.JOINING:
            if len(host.engine.guest.heard) != host.heard_seen:
                self._hears(host)
            confirmed = replica.gate._streams[DEVICE].confirmed
            if confirmed != host.confirmed_seen:
                self._trims(host, confirmed)

    def _hears(self, host: Host) -> None:
        heard = host.engine.guest.heard
        host.heard_seen = len(heard)
        sent = self.history(host.node._replica.boot).sent
        fits = sent[-1].startswith(heard) or any(older.startswith(heard) for older in sent)
        self._demand(fits, "an input was applied twice, lost or changed")

    def _trims(self, host: Host, confirmed: int) -> None:
        host.confirmed_seen = confirmed
        lacks = confirmed > self.history(host.node._replica.boot).delivered
        self._demand(not lacks, f"{host.name} trimmed what the edge lacks")

    def _bounded(self, host: Host) -> None:
        """A node throttles its engine in the very step in which it learns that a bound is reached; so only what
        the engine had reported by then, and was under way, may come on top of it."""
        config, beyond = host.config, host.pending_bytes_max
        if host.gate.retained_bytes > config.retained_bytes_max:
            # Unconfirmed output also comes with a snapshot, or with a log that is run out before going live.
            beyond_now = host.gate.retained_bytes - config.retained_bytes_max
            self._demand(beyond_now <= max(beyond, host.inherited_bytes), "outputs are retained beyond the bound")
        if host.node._primary._unacked_bytes > config.unacked_bytes_max + beyond:
            raise Violation("log is unacknowledged beyond the bound")

    def lags(self, host: Host) -> None:
        """After each slice: how far any member is really behind, while nothing waits for it."""
        config, primary = host.config, host.node._primary
        if host.node._state is State.PROTECTED and primary.running and not primary._throttled:
            ticks = config.lag_ticks_max + host.pending_ticks_max + SLICE_TICKS_MAX
            for member in primary.members():
                other = self._cluster.by_life.get(member.life)
                if other is not None and other.alive and other.life == member.life:
                    lag = host.node._replica.tick - other.engine.guest.tick
                    self._demand(lag <= ticks, f"{other.name} lags by {lag} ticks, and nothing waits for it")

    def detects(self, host: Host) -> None:
        """With each call of its timer, which comes at least once a heartbeat."""
        if not host.silence_known or host.node._state is not State.IN_SYNC:
            return
        silence = host.now() - host.heard_primary_ns
        bound = host.config.timeout_ns + 2 * host.config.heartbeat_ns
        self._demand(silence <= bound, f"{host.name} did not notice {silence // MS} ms of silence")

    def asked(self, host: Host, request: ArbiterRequest) -> None:
        """Nobody claims while its primary is heard, unless it was asked to."""
        if not isinstance(request, Claim) or request.kind is not Kind.PROMOTE or host.may_claim:
            return
        host.may_claim = True
        if host.silence_known and host.before_state is State.IN_SYNC and host.state_seen is State.CLAIMING:
            silence = host.now() - host.heard_primary_ns
            self._demand(silence >= host.config.timeout_ns, f"{host.name} claims after {silence // MS} ms of silence")

    def _is_live(self, host: Host) -> None:
        generation = host.node.generation
        holder = self._live.setdefault(generation, host.life)
        self._demand(holder == host.life, f"two live machines in generation {generation}")
        host.seen_live = generation
        host.inherited_bytes = host.gate.retained_bytes
        self._went_live(host, generation)

    def _went_live(self, host: Host, generation: int) -> None:
        self.went_live += 1
        ledger, guest = self._cluster.arbiter.ledger, host.engine.guest
        record = ledger.record(generation)
        self._demand(record is not None and record.life == host.life, "live without a grant")
        if record is not None and record.keep and generation < ledger.current:
            # The answer to its activation was late, and a member it had named has gone on without it: it is a
            # zombie, whose gate waits for acknowledgements that will not come. What it releases is checked above.
            return
        self._demand(generation == ledger.current, f"{host.name} went live in a superseded generation")
        if record is not None and record.kind is Kind.RESTART:
            self._restarted(host, generation)
        history = self.history(host.node._replica.boot)
        self._demand(guest.said.startswith(history.released), f"{host.name} went live without what was released")
        self._demand(len(guest.heard) >= history.acked, f"{host.name} went live without an acknowledged input")
        acked = history.sent[-1][: history.acked]
        self._demand(guest.heard.startswith(acked), f"{host.name} went live with other input than was acknowledged")

    def _restarted(self, host: Host, generation: int) -> None:
        """The machine goes on from a log. No history is forked: it is one with the former, as far as both go; and
        with all disks in order nothing is lost but what was not written yet."""
        guest, former = host.engine.guest, None
        for boot in sorted(self.histories):
            if boot < generation:
                former = self.histories[boot]
        history = self.histories[generation] = History()
        history.released += guest.said
        history.sent = [bytearray(guest.heard)]
        history.acked, history.delivered = len(guest.heard), len(guest.said)
        if former is None or self._cluster.forced:
            return
        record = self._cluster.arbiter.ledger.record(generation)
        assert record is not None
        hosts, blocked = self._cluster.hosts, self._cluster.network.blocked
        disk_lost = any(other.disk.harmed for other in hosts)
        for other in hosts:
            more = other.alive and other.gate.end > host.gate.end and self._holds(other, record.base)
            # That a member counts is safe on the disk of the primary only. Where that is gone, a member that cannot be
            # asked either is not known of.
            unasked = other.paused or (host.name, other.name) in blocked or (other.name, host.name) in blocked
            known = not (disk_lost and unasked)
            self._demand(not (more and known), f"{host.name} restarted beside {other.name}, which holds more in memory")
        common = min(len(former.released), len(guest.said))
        self._demand(former.released[:common] == guest.said[:common], f"{host.name} restarted another history")
        heard = any(sent.startswith(guest.heard) for sent in former.sent)
        self._demand(heard, f"{host.name} restarted with input that nobody gave")
        # A process that dies just after it was resumed had no time of its own to write.
        spared = former.checkpoints[-1][0] - UNWRITTEN_NS
        if not any(other.disk.harmed or other.disk.torn or other.resumed_ns > spared for other in hosts):
            released, acked = former.at(spared)
            kept = len(guest.said) >= released and len(guest.heard) >= acked
            self._demand(kept, f"{host.name} restarted without what must have been on its disk")

    def executed_to(self, author: Life, pos: int, point: tuple[int, ...]) -> None:
        """Invariants 4 and 5: whoever has executed an author's log so far is in the author's state."""
        if self._points.setdefault((author, pos), point) != point and not self._cluster.flips:
            raise Violation(f"two nodes differ that have executed one log up to position {pos}")

    def gives_up(self, host: Host) -> None:
        """A node starts over. It may not be the only one who could still win the next generation."""
        if self.entitled(host):
            others = any(other is not host and self.entitled(other) for other in self._cluster.hosts)
            self._demand(others, f"{host.name} gave up the only machine that counts")

    def entitled(self, host: Host) -> bool:
        """Whether the arbiter's rule would let it go on from the newest activated generation, with what it holds."""
        ledger = self._cluster.arbiter.ledger
        return host.alive and not ledger.off and self._holds(host, ledger.last_activated)

    def _holds(self, host: Host, generation: int) -> bool:
        """Whether it has the machine of this generation in memory, and counts in it."""
        node, record = host.node, self._cluster.arbiter.ledger.record(generation)
        if record is None or node.generation != generation:
            return False
        return record.life == host.life or (node._shadow.in_sync and node._shadow.primary_life == record.life)

    # ---- the edge and its client

    def client_sent(self, boot: int, data: bytes) -> None:
        self.history(boot).sent[-1].extend(data)

    def input_begins(self, boot: int, offset: int, early: bytes) -> None:
        """A life of the edge was told where its inputs begin. What an earlier one sent beyond that is lost, with the
        connection of the client who sent it."""
        history = self.history(boot)
        before = history.sent[-1]
        fits = history.acked <= offset <= len(before)
        self._demand(fits, f"the edge is told to go on at {offset}, not from {history.acked} to {len(before)}")
        history.sent.append(before[:offset] + early)

    def edge_crashed(self) -> None:
        for history in self.histories.values():
            history.edge_at = None

    def delivered_at_edge(self, boot: int, generation: int, fence: int, deliver: Deliver) -> None:
        """Invariants 3 and 8: the world sees the released history, each byte in its place. A new life of the edge
        may repeat what an earlier one had not confirmed, never leave anything out."""
        history = self.history(boot)
        offset, data = deliver.offset, deliver.data
        self._demand(deliver.device == DEVICE, "another device spoke")
        self._demand(generation >= fence, "the edge took an older generation")
        at = history.edge_at
        fits = offset <= history.delivered if at is None else offset == at
        self._demand(fits, "the edge delivered twice or left out")
        history.edge_at = offset + len(data)
        history.delivered = max(history.delivered, history.edge_at)
        self._demand(history.released[offset : history.edge_at] == data, "the edge delivered what nobody released")
