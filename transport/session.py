"""A session: numbered messages, acknowledgements and windows, apart from the path that carries them.

A message is cut into segments of at most one frame each. Segments are numbered over the whole session
(frames are numbered over one path), so which path carried a segment does not matter to this file. The
receiver acknowledges, cumulatively, the segments that its application took; the sender never has more
than WINDOW_SIZE unacknowledged bytes under way. So the receiver's memory is bounded without its reader
ever waiting for the application: a reader that waits cannot see acknowledgements, and two such sides
with full queues stand still for ever. Acknowledgements go out a quarter of a window at a time: they are
for flow control, the application's own acknowledgements are its own messages.

A path may be lost and the session go on over another one. The sender keeps every segment until it is
acknowledged; on the new path each side first says which number it expects next (`received`), and the
other goes on from exactly there (`resume`). Nothing is lost, for what the peer had not received is still
kept: it acknowledges only what it received. Nothing is doubled or reordered, for a receiver takes one
number only, the next. What was received and not yet taken stays in the window, and what was acknowledged
on the old path is acknowledged again on the new one, where the acknowledgement may have been lost.
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from transport.errors import ResumeFailed, SessionViolation
from transport.frame import PAYLOAD_SIZE_MAX, Frame, FrameType

WINDOW_SIZE = 4 * 1024 * 1024
SEGMENT_OVERHEAD = 128
"""Counted per segment on top of its bytes, so that empty messages use up the window too."""
ACK_AFTER_SIZE = WINDOW_SIZE // 4
MESSAGE_SIZE_MAX = 256 * 1024 * 1024
QUEUE_SIZE_MAX = 4 * 1024 * 1024
FRUITLESS_RESUMES_MAX = 8
"""So many new paths in a row that carry nothing of what is owed: the network takes a handshake and no more."""

_NUMBER = struct.Struct(">Q")
SEGMENT_SIZE_MAX = PAYLOAD_SIZE_MAX - _NUMBER.size

assert ACK_AFTER_SIZE + SEGMENT_SIZE_MAX + SEGMENT_OVERHEAD <= WINDOW_SIZE, "a sender could wait for ever"


@dataclass(frozen=True, slots=True)
class OutgoingFrame:
    type: FrameType
    head: bytes
    body: bytes


@dataclass(slots=True)
class SessionCounters:
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class _Incoming:
    """A whole message that waits for the application, and what taking it gives back to the window."""

    message: bytes
    segments: int
    cost: int


@dataclass(slots=True)
class _Partial:
    """The message under assembly. `segments` and `cost` are what of it the window still counts."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    segments: int = 0
    cost: int = 0


class Session:
    """Both directions of one session. No I/O: frames in, frames out."""

    def __init__(self, *, message_size_max: int = MESSAGE_SIZE_MAX, queue_size_max: int = QUEUE_SIZE_MAX) -> None:
        self.message_size_max = message_size_max
        self.queue_size_max = queue_size_max
        self.counters = SessionCounters()
        # Sending: segments wait in _queue, without a number; those that were sent stay in _unacknowledged, and
        # their numbers end before _next_number_out. _next_on_path is less only while some are sent again.
        self._queue: deque[tuple[FrameType, memoryview]] = deque()
        self._queue_size = 0
        self._next_number_out = 0
        self._next_on_path = 0
        self._unacknowledged: deque[tuple[FrameType, bytes]] = deque()
        self._unacknowledged_size = 0
        self._resumed_at = 0
        self._fruitless_resumes = 0
        # Receiving: _partial is the message under assembly, _inbox the whole ones.
        self._next_number_in = 0
        self._partial = _Partial()
        self._inbox: deque[_Incoming] = deque()
        self._held_size = 0
        self._taken_number = 0
        self._taken_size = 0
        self._ack_due = False

    # ------------------------------------------------------------------ sending

    @property
    def queue_size(self) -> int:
        """Bytes (with overhead) that wait for the window or for the path."""
        return self._queue_size

    @property
    def unacknowledged_size(self) -> int:
        return self._unacknowledged_size

    def has_room(self) -> bool:
        """Whether `queue` may be called: one message may overshoot the bound, never a second."""
        return self._queue_size < self.queue_size_max

    def queue(self, message: bytes) -> None:
        """Accept a message for sending. Raises ValueError if it is larger than `message_size_max`."""
        assert self.has_room()
        if len(message) > self.message_size_max:
            raise ValueError(f"a message of {len(message)} bytes; at most {self.message_size_max} are allowed")
        view = memoryview(message)
        last = max(0, (len(view) - 1) // SEGMENT_SIZE_MAX)
        for index in range(last + 1):
            segment = view[index * SEGMENT_SIZE_MAX : (index + 1) * SEGMENT_SIZE_MAX]
            frame_type = FrameType.SEGMENT_LAST if index == last else FrameType.SEGMENT
            self._queue.append((frame_type, segment))
            self._queue_size += len(segment) + SEGMENT_OVERHEAD
        self.counters.messages_out += 1
        self.counters.bytes_out += len(message)

    @property
    def all_sent(self) -> bool:
        """Everything queued is on the path, though perhaps not at the peer."""
        return not self._queue and self._next_on_path == self._next_number_out

    def take_outgoing(self, size_max: int) -> Iterator[OutgoingFrame]:
        """What may go on the path now, acknowledgement first; stops after about `size_max` bytes."""
        if self._ack_due:
            self._ack_due = False
            self._taken_size = 0
            yield OutgoingFrame(FrameType.ACK, _NUMBER.pack(self._taken_number), b"")
        while self._next_on_path < self._next_number_out and size_max > 0:
            number = self._next_on_path
            self._next_on_path += 1
            frame_type, kept = self._unacknowledged[number - self._oldest]
            size_max -= len(kept) + SEGMENT_OVERHEAD
            yield OutgoingFrame(frame_type, _NUMBER.pack(number), kept)
        while self._queue and size_max > 0:
            frame_type, segment = self._queue[0]
            cost = len(segment) + SEGMENT_OVERHEAD
            if self._unacknowledged_size + cost > WINDOW_SIZE:
                return
            self._queue.popleft()
            self._queue_size -= cost
            # Copied: a view of a piece would keep the whole message, which may be very large.
            kept = bytes(segment)
            self._unacknowledged.append((frame_type, kept))
            self._unacknowledged_size += cost
            number = self._next_number_out
            self._next_number_out = self._next_on_path = number + 1
            size_max -= cost
            yield OutgoingFrame(frame_type, _NUMBER.pack(number), kept)

    # ----------------------------------------------------------------- resuming

    @property
    def received(self) -> int:
        """The number of the segment that is due next: what this side tells the peer on a new path."""
        return self._next_number_in

    def resume(self, received: int) -> None:
        """Go on over a new path, to a peer that expects segment `received` next.

        Raises SessionViolation if that cannot be so, and ResumeFailed if new paths bring nothing. The session
        is unchanged then.
        """
        oldest = max(self._oldest, self._resumed_at)
        if not oldest <= received <= self._next_number_out:
            raise SessionViolation(
                f"the peer expects segment {received}; only {oldest} to {self._next_number_out} can be next"
            )
        fruitless = received == self._resumed_at and received < self._next_number_out
        if fruitless and self._fruitless_resumes >= FRUITLESS_RESUMES_MAX:
            raise ResumeFailed(f"{self._fruitless_resumes} connections in a row were lost before anything passed")
        self._fruitless_resumes = self._fruitless_resumes + 1 if fruitless else 0
        self._resumed_at = self._next_on_path = received
        self._ack_due = True

    # ---------------------------------------------------------------- receiving

    def receive(self, frame: Frame) -> int:
        """Take a frame of this session; returns how many whole messages it completed (0 or 1).

        Raises SessionViolation.
        """
        if frame.type is FrameType.ACK:
            self._receive_ack(frame.payload)
            return 0
        assert frame.type in (FrameType.SEGMENT, FrameType.SEGMENT_LAST)
        return self._receive_segment(frame.payload, is_last=frame.type is FrameType.SEGMENT_LAST)

    @property
    def ack_due(self) -> bool:
        return self._ack_due

    @property
    def messages_waiting(self) -> int:
        return len(self._inbox)

    def next_message(self) -> bytes | None:
        """The next whole message. Taking it opens the window (see `ack_due`)."""
        if not self._inbox:
            return None
        incoming = self._inbox.popleft()
        self._give_back(incoming.segments, incoming.cost)
        if not self._inbox:
            self._give_back_partial()
        return incoming.message

    def _receive_segment(self, payload: bytes, *, is_last: bool) -> int:
        if len(payload) < _NUMBER.size:
            raise SessionViolation(f"a segment of {len(payload)} bytes has no number")
        (number,) = _NUMBER.unpack_from(payload)
        if number != self._next_number_in:
            raise SessionViolation(f"segment {number} came where segment {self._next_number_in} was due")
        self._next_number_in += 1
        body = payload[_NUMBER.size :]
        cost = len(body) + SEGMENT_OVERHEAD
        if self._held_size + cost > WINDOW_SIZE:
            raise SessionViolation(f"segment {number} is beyond the window of {WINDOW_SIZE} bytes")
        self._held_size += cost
        partial = self._partial
        if partial.size + len(body) > self.message_size_max:
            raise SessionViolation(f"a message larger than {self.message_size_max} bytes")
        if not is_last and not body:
            raise SessionViolation(f"segment {number} is empty and not the last of its message")
        partial.parts.append(body)
        partial.size += len(body)
        partial.segments += 1
        partial.cost += cost
        if not is_last:
            if not self._inbox:
                self._give_back_partial()
            return 0
        message = b"".join(partial.parts) if len(partial.parts) > 1 else body
        self._inbox.append(_Incoming(message, partial.segments, partial.cost))
        self._partial = _Partial()
        self.counters.messages_in += 1
        self.counters.bytes_in += len(message)
        return 1

    def _give_back_partial(self) -> None:
        """Open the window for the rest of a message that is larger than it.

        Only with nothing before it in the inbox: acknowledgements are cumulative, and the memory of a
        message that is larger than the window is then held once, not once per message.
        """
        self._give_back(self._partial.segments, self._partial.cost)
        self._partial.segments = 0
        self._partial.cost = 0

    def _give_back(self, segments: int, cost: int) -> None:
        self._held_size -= cost
        self._taken_number += segments
        self._taken_size += cost
        if self._taken_size >= ACK_AFTER_SIZE:
            self._ack_due = True

    def _receive_ack(self, payload: bytes) -> None:
        if len(payload) != _NUMBER.size:
            raise SessionViolation(f"an acknowledgement of {len(payload)} bytes")
        (acknowledged,) = _NUMBER.unpack(payload)
        oldest = self._oldest
        if not oldest <= acknowledged <= self._next_on_path:
            raise SessionViolation(
                f"segment {acknowledged} acknowledged; only {oldest} to {self._next_on_path} are open"
            )
        for _ in range(acknowledged - oldest):
            _, segment = self._unacknowledged.popleft()
            self._unacknowledged_size -= len(segment) + SEGMENT_OVERHEAD

    @property
    def _oldest(self) -> int:
        """The number of the oldest segment that is not acknowledged."""
        return self._next_number_out - len(self._unacknowledged)
