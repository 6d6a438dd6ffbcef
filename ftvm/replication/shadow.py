"""The following role: takes the machine, holds and acknowledges the log, executes it, and watches its primary.

It acknowledges on receipt, for what counts is that it *can* execute as far: a promoted shadow first runs out all the
log it holds. Before its Mark it acknowledges nothing and is not eligible; once it claims, it is sealed: it takes and
acknowledges nothing more, so that what it goes live with is what it had when it asked.
"""

from collections.abc import Sequence

from ftvm.errors import ProtocolError
from ftvm.log.entry import Entry, Input
from ftvm.replication.effects import Apply, CloseSession, CollectSnapshot, RestoreSnapshot, Send, TakeInventory
from ftvm.replication.events import OutputLike
from ftvm.replication.failure_detector import FailureDetector
from ftvm.replication.messages import (
    Ack,
    HandOver,
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

INVENTORY_PART_SIZE = 256 * 1024
"""Bytes of hashes in one message."""
READY_LAG_SHARE = 4
"""A joiner asks for the Mark when it is behind by no more than this part of what a member may be: the Mark shall not
make the guest wait."""


class Shadow:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._detector = FailureDetector(replica.config.timeout_ns, 0)
        self._collected_bytes = 0
        self._installed_ns: int | None = None
        self._told_tick = 0
        self._config = 0
        self._token = 0
        self._spoke = False
        self.session: int | None = None
        self.peer = ""
        self.primary_life: Life = b""
        self.tainted = False
        """Something of a machine was received: it can be gone on with, or discarded as a whole."""
        self.restored = False
        self._ready = False
        """The engine holds the machine of the snapshot, and the primary was told so."""
        self._logged_tick = 0
        self.in_sync = False
        self.applied = 0

    @property
    def detector(self) -> FailureDetector:
        return self._detector

    @property
    def consumed(self) -> bool:
        """All the log that is held was executed."""
        return self.restored and self.applied == self._replica.gate.end

    # ---- the session

    def attach(self, session: int, peer: str, life: Life, now_ns: int) -> None:
        assert self.session is None
        assert not self.tainted
        self.session, self.peer, self.primary_life = session, peer, life
        self._detector = FailureDetector(self._replica.config.joiner_silence_ns, now_ns)
        self._replica.emit(TakeInventory(session))

    def inventory_taken(self, session: int, hashes: bytes) -> None:
        if session != self.session or self.tainted:
            return
        for start in range(0, max(len(hashes), 1), INVENTORY_PART_SIZE):
            end = start + INVENTORY_PART_SIZE
            self._send(session, Inventory(self._replica.life, hashes[start:end], end >= len(hashes)))

    def detach(self, reason: str) -> None:
        """The session is over, from our side if it was not already."""
        if self.session is not None:
            self._replica.emit(CloseSession(self.session, reason))
            self.session = None

    def received(self, message: PeerMessage) -> bool:
        """Returns whether it is the Mark that puts this node in sync, or a `HandOver`. Raises `ProtocolError`."""
        match message:
            case SnapshotChunk() if not self.restored:
                self._collect(message.data)
            case Snapshot() if not self.restored:
                self._begin(message)
            case Inventory():
                pass
            case _ if message.gen != self._replica.generation and not isinstance(message, NewGeneration):
                pass
            case Log():
                self._log(message)
            case Mark():
                return self._mark(message)
            case NewGeneration() if message.gen > self._replica.generation:
                self._new_generation(message)
            case HandOver() if self.in_sync:
                self._at(message.pos, "hands over")
                return True
        return False

    def beat(self, now_ns: int) -> None:
        self._declare_ready(now_ns)
        if self.session is not None and not self._spoke:
            self._replica.emit(Send(self.session, self._replica.heartbeat()))
        self._spoke = False

    # ---- the stream

    def _collect(self, chunk: bytes) -> None:
        self.tainted = True
        bytes_max = self._replica.config.copy_bytes_max
        self._collected_bytes += len(chunk)
        if self._collected_bytes > bytes_max:
            raise ProtocolError(f"{self.peer} sends more than {bytes_max} bytes of one machine")
        self._replica.emit(CollectSnapshot(chunk))

    def _begin(self, message: Snapshot) -> None:
        self.tainted = True
        replica = self._replica
        try:
            replica.gate.restore(message.pos, message.outputs, message.confirmed, message.inputs)
        except (KeyError, ValueError) as error:
            raise ProtocolError(f"{self.peer} sent a snapshot that does not fit this machine: {error}") from error
        replica.generation, replica.boot, replica.tick = message.gen, message.boot, message.tick
        self.applied = message.pos
        self._told_tick = self._logged_tick = message.tick
        replica.emit(RestoreSnapshot(message.state, message.pos, message.tick))
        self.restored = True

    def installed(self, now_ns: int) -> None:
        """The engine has the machine, and executes the log."""
        self._installed_ns = now_ns
        self._declare_ready(now_ns)

    def _declare_ready(self, now_ns: int) -> None:
        replica = self._replica
        if self._ready or self._installed_ns is None or self.session is None:
            return
        behind = self._logged_tick - replica.tick
        patient = now_ns - self._installed_ns < replica.config.catch_up_wait_ns
        if behind > replica.config.lag_ticks_max // READY_LAG_SHARE and patient:
            return
        self._ready = True
        self._send(self.session, Ready(replica.generation, replica.life, replica.tick))

    def _log(self, message: Log) -> None:
        self._at(message.pos, "sends log")
        gate = self._replica.gate
        self._check_ticks(message.entries)
        self._check_inputs(message.entries)
        gate.log(message.entries)
        for device, offset in message.confirmed.items():
            if device not in self._replica.config.devices:
                raise ProtocolError(f"{self.peer} has a device {device}, which is unknown here")
            gate.confirm(device, offset)
        self._token = message.token or self._token
        # First the answer, for the primary's outputs wait for it: what counts is that the entries are held.
        self._acknowledge()
        if message.entries:
            self._replica.emit(Apply(message.pos, message.entries))

    def _check_ticks(self, entries: tuple[Entry, ...]) -> None:
        """They do not fall within one message: the log's codec sees to that."""
        if entries:
            if entries[0].tick < self._logged_tick:
                raise ProtocolError(f"{self.peer} logged tick {entries[0].tick} after tick {self._logged_tick}")
            self._logged_tick = entries[-1].tick

    def _check_inputs(self, entries: tuple[Entry, ...]) -> None:
        logged = dict(self._replica.gate.logged())
        for entry in entries:
            if isinstance(entry, Input):
                if logged.get(entry.device) != entry.offset:
                    raise ProtocolError(f"{self.peer} logged an input to {entry.device} twice or left one out")
                logged[entry.device] += len(entry.data)

    def _mark(self, message: Mark) -> bool:
        if self._replica.life not in message.members:
            if self.in_sync:
                raise ProtocolError(f"{self.peer} dropped this member within a generation")
            return False
        self._at(message.pos, "marks")
        if not self._ready:
            raise ProtocolError(f"{self.peer} marks a joiner that is not ready")
        news = not self.in_sync
        self.in_sync = True
        self._config = message.pos
        self._acknowledge()
        return news

    def _new_generation(self, message: NewGeneration) -> None:
        if not self.in_sync or self._replica.life not in message.members:
            raise ProtocolError(f"{self.peer} takes this node into a generation that it does not belong to")
        self._at(message.pos, "renews its generation")
        self._replica.generation = message.gen
        self._config = 0
        self._acknowledge()

    def _at(self, pos: int, what: str) -> None:
        if not self.restored or pos != self._replica.gate.end:
            raise ProtocolError(f"{self.peer} {what} at position {pos}, held are {self._replica.gate.end}")

    # ---- the engine

    def progress(self, pos: int, tick: int, outputs: Sequence[OutputLike], now_ns: int) -> None:
        """Raises `ProtocolError` where the machine of the snapshot is not the one that was told of with it."""
        assert self.applied <= pos <= self._replica.gate.end
        if outputs and outputs[0].offset != self._replica.gate.output_end(outputs[0].device):
            raise ProtocolError(f"the machine that {self.peer} sent says output {outputs[0].offset} of a stream next")
        self.applied = pos
        self._replica.gate.produce(outputs)
        self._replica.tick = max(self._replica.tick, tick)
        self._declare_ready(now_ns)
        # The primary waits for slow executors; so it must hear of progress also while it sends nothing.
        if self._replica.tick - self._told_tick >= self._replica.config.lag_ticks_max // 4:
            self._acknowledge()

    def _acknowledge(self) -> None:
        replica = self._replica
        if not self.in_sync or self.session is None:
            return
        self._told_tick = replica.tick
        ack = Ack(replica.generation, replica.life, replica.gate.end, self._config, replica.tick, self._token)
        self._send(self.session, ack)

    def _send(self, session: int, message: PeerMessage) -> None:
        self._spoke = True
        self._replica.emit(Send(session, message))
