"""The live role: feeds followers with the log, knows what all members hold, and keeps the engine within bounds.

A follower is a joiner until its `Mark`: it is sent a snapshot and then the log, and neither its acknowledgements nor
its loss mean anything. With the Mark, which closes the gate in the same step, it is a member: nothing is committed
any more that it has not acknowledged. From then on it may believe itself eligible, so its loss can only be answered
by winning the next generation from the arbiter (`Node` does that); until then nothing more is committed at all.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ftvm.errors import ProtocolError
from ftvm.log.entry import Entry, Input
from ftvm.replication.edge_sessions import EdgeSessions
from ftvm.replication.effects import CloseSession, Send, TakeSnapshot, Throttle
from ftvm.replication.events import OutputLike
from ftvm.replication.failure_detector import FailureDetector
from ftvm.replication.messages import (
    Ack,
    HandOver,
    Life,
    Log,
    Mark,
    NewGeneration,
    PeerMessage,
    Ready,
    Snapshot,
    SnapshotChunk,
)
from ftvm.replication.replica import Replica

SNAPSHOT_CHUNK_SIZE = 256 * 1024
LOG_ENTRIES_MAX = 1024
"""Entries in one `Log`; with `LOG_BYTES_MAX` this keeps it below what the log codec takes."""
LOG_BYTES_MAX = 128 * 1024
ENTRY_BYTES = 48
"""What an entry weighs beside the data of an input, on the wire and in memory, at most."""


class Stage(Enum):
    AWAITING = "waits for a snapshot"
    FOLLOWING = "was sent a snapshot"
    MEMBER = "counts"


@dataclass(slots=True)
class Follower:
    session: int
    peer: str
    life: Life
    detector: FailureDetector
    join_deadline_ns: int
    stage: Stage = Stage.AWAITING
    acked: int = 0
    tick: int = 0
    backlog_bytes: int = 0
    spoken_to: bool = False
    """Since the last beat: who gets log needs no heartbeat."""


class Primary:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.edges = EdgeSessions(replica)
        self.followers: dict[int, Follower] = {}
        self.committing = False
        """Off while a generation is being claimed: the gate stands where it stood."""
        self.running = False
        """The guest may execute, bounds permitting."""
        self._throttled = True
        self._weights: deque[tuple[int, int]] = deque()
        self._unacked_bytes = 0

    # ---- followers

    def members(self) -> list[Follower]:
        return [follower for follower in self.followers.values() if follower.stage is Stage.MEMBER]

    def admit(self, session: int, peer: str, life: Life, now_ns: int) -> None:
        config = self._replica.config
        waiting = any(follower.stage is Stage.AWAITING for follower in self.followers.values())
        detector = FailureDetector(config.joiner_silence_ns, now_ns)
        self.followers[session] = Follower(session, peer, life, detector, now_ns + config.join_wait_ns)
        if not waiting:
            self._replica.emit(TakeSnapshot())

    def snapshot_taken(self, state: bytes) -> None:
        replica = self._replica
        cut = max(len(state) - SNAPSHOT_CHUNK_SIZE, 0)
        for follower in self.followers.values():
            if follower.stage is not Stage.AWAITING:
                continue
            follower.stage = Stage.FOLLOWING
            follower.tick = replica.tick
            for start in range(0, cut, SNAPSHOT_CHUNK_SIZE):
                chunk = state[start : min(start + SNAPSHOT_CHUNK_SIZE, cut)]
                self._send(follower, SnapshotChunk(replica.generation, chunk))
            gate = replica.gate
            snapshot = Snapshot(
                replica.generation,
                gate.end,
                replica.tick,
                replica.boot,
                state[cut:],
                gate.retained(),
                gate.confirmed(),
                gate.logged(),
            )
            self._send(follower, snapshot)

    def mark(self, follower: Follower, now_ns: int) -> None:
        """P4. The gate is closed before the Mark is on its way: nothing after this position is committed without
        this follower, so whoever has the Mark holds all that was ever released."""
        replica = self._replica
        assert follower.stage is Stage.FOLLOWING
        follower.stage = Stage.MEMBER
        follower.detector.tighten(replica.config.timeout_ns, now_ns)
        follower.acked = replica.gate.end
        members = self.members()
        mark = Mark(replica.generation, replica.gate.end, tuple(member.life for member in members))
        for member in members:
            self._send(member, mark)

    def hand_over(self) -> None:
        for member in self.members():
            self._send(member, HandOver(self._replica.generation, self._replica.gate.end))

    def new_generation(self, keep: Iterable[Life]) -> None:
        """P7. Members whose life is in `keep` stay, everybody else has to join again."""
        kept = set(keep)
        replica = self._replica
        for follower in list(self.followers.values()):
            if follower.stage is not Stage.MEMBER or follower.life not in kept:
                self.close(follower, "a new generation without it began")
        members = self.members()
        for member in members:
            lives = tuple(other.life for other in members)
            self._send(member, NewGeneration(replica.generation, replica.gate.end, lives))

    def close(self, follower: Follower, reason: str) -> None:
        del self.followers[follower.session]
        self._replica.emit(CloseSession(follower.session, reason))

    def received(self, follower: Follower, message: PeerMessage) -> bool:
        """Returns whether the follower asks to be marked. Raises `ProtocolError`."""
        gate = self._replica.gate
        if message.gen != self._replica.generation:
            return False
        match message:
            case Ready():
                if follower.stage is not Stage.FOLLOWING or message.life != follower.life:
                    raise ProtocolError(f"{follower.peer} is ready for nothing that it was sent")
                return True
            case Ack() if follower.stage is Stage.MEMBER:
                if message.pos > gate.end or message.life != follower.life:
                    raise ProtocolError(f"{follower.peer} acknowledges what it was not sent")
                follower.acked = max(follower.acked, message.pos)
                follower.tick = max(follower.tick, message.tick)
                self.commit()
        return False

    def beat(self) -> None:
        for follower in self.followers.values():
            if not follower.spoken_to:
                self._send(follower, self._replica.heartbeat())
            follower.spoken_to = False

    def _send(self, follower: Follower, message: PeerMessage) -> None:
        follower.spoken_to = True
        self._replica.emit(Send(follower.session, message))

    # ---- the log

    def executed(self, tick: int, entries: Sequence[Entry], outputs: Sequence[OutputLike]) -> None:
        """The engine logged `entries` and, running as far as the last one's tick, said `outputs`."""
        replica, gate = self._replica, self._replica.gate
        assert entries or not outputs, "an output that no entry explains could never be released"
        start = gate.end
        gate.log(entries)
        gate.produce(outputs)
        if entries:
            assert replica.tick <= entries[-1].tick <= tick
            replica.tick = entries[-1].tick
            self._weigh(entries)
            confirmed = gate.confirmed()
            for offset, batch in _batches(entries):
                log = Log(replica.generation, start + offset, batch, confirmed)
                weight = _weight(batch)
                for follower in self.followers.values():
                    if follower.stage is not Stage.AWAITING:
                        self._send(follower, log)
                    if follower.stage is Stage.FOLLOWING:
                        follower.backlog_bytes += weight
            self._drop_hopeless_joiners()
        self.commit()

    def _drop_hopeless_joiners(self) -> None:
        bound = self._replica.config.joiner_backlog_bytes_max
        for follower in list(self.followers.values()):
            if follower.stage is Stage.FOLLOWING and follower.backlog_bytes > bound:
                self.close(follower, "it joins more slowly than the machine runs")

    def commit(self) -> None:
        """P5: what all members hold is committed; alone, all of it."""
        if not self.committing:
            return
        gate = self._replica.gate
        if gate.commit(min((member.acked for member in self.members()), default=gate.end)):
            while self._weights and self._weights[0][0] <= gate.committed:
                self._unacked_bytes -= self._weights.popleft()[1]
            self.edges.release()

    def _weigh(self, entries: Sequence[Entry]) -> None:
        weight = _weight(entries)
        self._weights.append((self._replica.gate.end, weight))
        self._unacked_bytes += weight

    # ---- the bounds

    def govern(self) -> None:
        """Tells the engine to wait or to run, if that changed. Off again only well below a bound, so that the two
        do not alternate."""
        why = self._bound_reached(resume=self._throttled)
        if bool(why) != self._throttled:
            self._throttled = bool(why)
            self._replica.emit(Throttle(self._throttled, why))

    def stand_still(self) -> None:
        """The engine stands (it was quiesced), as if throttled."""
        self.running = False
        self._throttled = True

    def _bound_reached(self, *, resume: bool) -> str:
        config, gate = self._replica.config, self._replica.gate
        share = 2 if resume else 1
        if not self.running:
            return "not live"
        if gate.retained_bytes * share > config.retained_bytes_max:
            return "the edge does not confirm outputs"
        if self._unacked_bytes * share > config.unacked_bytes_max:
            return "members do not acknowledge the log"
        lag = max((self._replica.tick - member.tick for member in self.members()), default=0)
        if lag * share > config.lag_ticks_max:
            return "a member executes too slowly"
        return ""


def _weight(entries: Sequence[Entry]) -> int:
    return sum(ENTRY_BYTES + (len(entry.data) if isinstance(entry, Input) else 0) for entry in entries)


def _batches(entries: Sequence[Entry]) -> Iterable[tuple[int, tuple[Entry, ...]]]:
    """Cuts a list into messages, with the index of each one's first entry."""
    start = weight = 0
    for index, entry in enumerate(entries):
        weight += _weight((entry,))
        if index - start == LOG_ENTRIES_MAX or weight > LOG_BYTES_MAX:
            yield start, tuple(entries[start:index])
            start, weight = index, _weight((entry,))
    yield start, tuple(entries[start:])
