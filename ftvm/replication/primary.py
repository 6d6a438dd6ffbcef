"""The live role: feeds followers with the log, knows what all members hold, and keeps the engine within bounds.

A follower is a joiner until its `Mark`: it says what it has of an older memory, is sent the rest while the guest runs,
and then the log, and neither its acknowledgements nor its loss mean anything. The machine is copied to one joiner at
a time; others wait for their turn. With the Mark, which closes the gate in the same step, it is a member: nothing is
committed any more that it has not acknowledged. From then on it may believe itself eligible, so its loss can only be
answered by winning the next generation from the arbiter (`Node` does that); until then nothing more is committed.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ftvm.errors import ProtocolError
from ftvm.log.entry import Entry, Input
from ftvm.replication.edge_sessions import EdgeSessions
from ftvm.replication.effects import CancelCopy, CloseSession, CopyMachine, Note, Send, Throttle
from ftvm.replication.events import OutputLike
from ftvm.replication.failure_detector import FailureDetector
from ftvm.replication.local_streams import LocalStreams
from ftvm.replication.messages import (
    Ack,
    HandOver,
    Heartbeat,
    Inventory,
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

LOG_ENTRIES_MAX = 1024
"""Entries in one `Log`; with `LOG_BYTES_MAX` this keeps it below what the log codec takes."""
LOG_BYTES_MAX = 128 * 1024
ENTRY_BYTES = 48
"""What an entry weighs beside the data of an input, on the wire and in memory, at most."""


class Stage(Enum):
    AWAITING = "waits for the copy"
    COPYING = "is sent the machine"
    FOLLOWING = "follows the log"
    MEMBER = "counts"


FED = frozenset({Stage.FOLLOWING, Stage.MEMBER})
"""Who gets the log."""


@dataclass(slots=True)
class Follower:
    session: int
    peer: str
    life: Life
    detector: FailureDetector
    join_deadline_ns: int
    stage: Stage = Stage.AWAITING
    inventory: bytearray = field(default_factory=bytearray)
    inventory_complete: bool = False
    acked: int = 0
    tick: int = 0
    backlog_bytes: int = 0
    token: int = 0
    spoken_to: bool = False
    """Since the last beat: who gets log needs no heartbeat."""


class Primary:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.edges = EdgeSessions(replica)
        self.local = LocalStreams(replica)
        self.followers: dict[int, Follower] = {}
        self.committing = False
        """Off while a generation is being claimed: the gate stands where it stood."""
        self.running = False
        """The guest may execute, bounds permitting."""
        self._throttled = True
        self._weights: deque[tuple[int, int]] = deque()
        self._unacked_bytes = 0
        self._token = 0

    # ---- followers

    def behind_ticks(self) -> int:
        """By how much the slowest that gets the log, counting or not, was behind when it last said so."""
        ticks = self._replica.tick
        return max((ticks - one.tick for one in self.followers.values() if one.stage in FED), default=0)

    def members(self) -> list[Follower]:
        return [follower for follower in self.followers.values() if follower.stage is Stage.MEMBER]

    def admit(self, session: int, peer: str, life: Life, now_ns: int) -> None:
        config = self._replica.config
        detector = FailureDetector(config.joiner_silence_ns, now_ns)
        self.followers[session] = Follower(session, peer, life, detector, now_ns + config.join_wait_ns)

    def _take_inventory(self, follower: Follower, message: Inventory) -> None:
        if follower.inventory_complete or message.life != follower.life:
            raise ProtocolError(f"{follower.peer} tells twice what it has, or what another one has")
        follower.inventory += message.hashes
        if len(follower.inventory) > self._replica.config.inventory_bytes_max:
            raise ProtocolError(f"{follower.peer} has more pages than this machine")
        follower.inventory_complete = message.last

    def copy_next(self, now_ns: int) -> None:
        """Start the copy for who waits longest, if none is going on."""
        waiting = None
        for follower in self.followers.values():
            if follower.stage is Stage.COPYING:
                return
            if waiting is None and follower.stage is Stage.AWAITING and follower.inventory_complete:
                waiting = follower
        if waiting is not None:
            waiting.stage = Stage.COPYING
            waiting.join_deadline_ns = now_ns + self._replica.config.join_wait_ns
            self._replica.emit(CopyMachine(waiting.session, bytes(waiting.inventory)))
            waiting.inventory.clear()

    def copying(self, session: int) -> Follower | None:
        """Whose copy goes on, if it is this one."""
        follower = self.followers.get(session)
        return follower if follower is not None and follower.stage is Stage.COPYING else None

    def copied(self, session: int, data: bytes) -> None:
        follower = self.copying(session)
        if follower is not None:
            self._send(follower, SnapshotChunk(self._replica.generation, data))

    def copy_finished(self, session: int, state: bytes) -> None:
        """The machine as it was copied stands where the log ends: from here on this joiner gets the log."""
        follower, replica = self.copying(session), self._replica
        if follower is None:
            return
        follower.stage = Stage.FOLLOWING
        follower.tick = replica.tick
        gate = replica.gate
        snapshot = Snapshot(
            replica.generation,
            gate.end,
            replica.tick,
            replica.boot,
            state,
            gate.retained(),
            gate.confirmed(),
            gate.logged(),
        )
        self._send(follower, snapshot)

    def is_late(self, follower: Follower, now_ns: int) -> bool:
        """A joiner has had its time. While it waits for its turn it has all the time."""
        its_turn = follower.stage is not Stage.AWAITING or not follower.inventory_complete
        return follower.stage is not Stage.MEMBER and its_turn and now_ns >= follower.join_deadline_ns

    def mark(self, follower: Follower, now_ns: int) -> None:
        """P4. The gate is closed before the Mark is on its way: nothing after this position is committed without
        this follower, so whoever has the Mark holds all that was ever released."""
        replica = self._replica
        assert follower.stage is Stage.FOLLOWING
        follower.stage = Stage.MEMBER
        follower.token = self._token
        follower.detector.tighten(replica.config.timeout_ns, now_ns)
        follower.acked = replica.gate.end
        members = self.members()
        lives, names = tuple(member.life for member in members), tuple(member.peer for member in members)
        mark = Mark(replica.generation, replica.gate.end, lives, names)
        for member in members:
            self._send(member, mark)

    def hand_over(self, to: str) -> None:
        """The member of this name is asked to take over; "": whoever does."""
        for member in self.members():
            if to in ("", member.peer):
                self._send(member, HandOver(self._replica.generation, self._replica.gate.end))

    def new_generation(self, keep: Iterable[Life]) -> None:
        """P7. Members whose life is in `keep` stay, everybody else has to join again."""
        kept = set(keep)
        replica = self._replica
        for follower in list(self.followers.values()):
            if follower.stage is not Stage.MEMBER or follower.life not in kept:
                self.close(follower, "a new generation without it began")
        members = self.members()
        lives, names = tuple(member.life for member in members), tuple(member.peer for member in members)
        for member in members:
            self._send(member, NewGeneration(replica.generation, replica.gate.end, lives, names))

    def close(self, follower: Follower, reason: str) -> None:
        self.remove(follower)
        self._replica.emit(CloseSession(follower.session, reason))

    def drop(self, follower: Follower, why: str) -> None:
        """It fails. Whoever looks why there is no shadow shall find it."""
        if follower.stage is not Stage.MEMBER:
            self._replica.emit(Note(f"{follower.peer} does not become a shadow: {why}"))
        self.close(follower, why)

    def remove(self, follower: Follower) -> None:
        """Its session is over."""
        del self.followers[follower.session]
        if follower.stage is Stage.COPYING:
            self._replica.emit(CancelCopy(follower.session))

    def received(self, follower: Follower, message: PeerMessage) -> bool:
        """Returns whether the follower asks to be marked. Raises `ProtocolError`."""
        gate = self._replica.gate
        if isinstance(message, Inventory):
            self._take_inventory(follower, message)
            return False
        if message.gen != self._replica.generation:
            return False
        match message:
            case Heartbeat() if follower.stage is Stage.FOLLOWING:
                follower.tick = max(follower.tick, message.tick)
            case Ready():
                if follower.stage is not Stage.FOLLOWING or message.life != follower.life:
                    raise ProtocolError(f"{follower.peer} is ready for nothing that it was sent")
                follower.tick = max(follower.tick, message.tick)
                return True
            case Ack() if follower.stage is Stage.MEMBER:
                if message.pos > gate.end or message.life != follower.life:
                    raise ProtocolError(f"{follower.peer} acknowledges what it was not sent")
                follower.acked = max(follower.acked, message.pos)
                follower.tick = max(follower.tick, message.tick)
                follower.token = max(follower.token, message.token)
                self.commit()
                self.vouch()
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
                    if follower.stage in FED:
                        self._send(follower, log)
                    if follower.stage is Stage.FOLLOWING:
                        follower.backlog_bytes += weight
            self.local.sent(replica.now_ns)
            self._drop_hopeless_joiners()
        self.commit()

    def _drop_hopeless_joiners(self) -> None:
        bound = self._replica.config.joiner_backlog_bytes_max
        for follower in list(self.followers.values()):
            if follower.stage is Stage.FOLLOWING and follower.backlog_bytes > bound:
                self.drop(follower, "it joins more slowly than the machine runs")

    def commit(self) -> None:
        """P5: what all members hold is committed; alone, all of it."""
        if not self.committing:
            return
        gate = self._replica.gate
        if gate.commit(min((member.acked for member in self.members()), default=gate.end)):
            while self._weights and self._weights[0][0] <= gate.committed:
                self._unacked_bytes -= self._weights.popleft()[1]
            self.edges.release()
            self.local.release()

    def vouch(self) -> None:
        """An edge that does not know where its streams stand is told once every member has said, after it asked, that
        it still is one. A primary that was superseded never hears that: what it would tell is no longer true."""
        stranger, gate = self.edges.stranger, self._replica.gate
        if stranger is None or not self.committing:
            return
        members = self.members()
        if not stranger.token:
            self._token += 1
            stranger.token = self._token
            for member in members:
                self._send(member, Log(self._replica.generation, gate.end, (), gate.confirmed(), self._token))
        if all(member.token >= stranger.token for member in members):
            self.edges.welcome()

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
        late = self._replica.tick - config.lag_ticks_max // share
        for follower in self.followers.values():
            if follower.stage is Stage.MEMBER and follower.tick < late:
                return "a member executes too slowly"
        return ""


def _weight(entries: Sequence[Entry]) -> int:
    weight = ENTRY_BYTES * len(entries)
    for entry in entries:
        if isinstance(entry, Input):
            weight += len(entry.data)
    return weight


def _batches(entries: Sequence[Entry]) -> Iterable[tuple[int, tuple[Entry, ...]]]:
    """Cuts a list into messages, with the index of each one's first entry."""
    if len(entries) <= LOG_ENTRIES_MAX and _weight(entries) <= LOG_BYTES_MAX:
        yield 0, tuple(entries)
        return
    start = weight = 0
    for index, entry in enumerate(entries):
        weight += _weight((entry,))
        if index - start == LOG_ENTRIES_MAX or weight > LOG_BYTES_MAX:
            yield start, tuple(entries[start:index])
            start, weight = index, _weight((entry,))
    yield start, tuple(entries[start:])
