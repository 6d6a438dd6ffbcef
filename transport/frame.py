"""Frames: what one path carries, as bytes.

    0      4        12     13            17           21
    | size | number | type | payload crc | header crc | payload ...     big-endian

The header has a checksum of its own, so that a damaged size is found at once instead of making the
decoder wait for bytes that never come. `number` counts the frames of one direction of one path from 0:
a gap, a duplicate or a reordering of whole frames is found too. TLS already keeps an attacker out; the
checksums are for broken memory and for our own mistakes.

Payloads, and where their layout is written down:

    HELLO WELCOME REFUSED    transport/handshake.py    the first frame of either side of a path,
    RESUME RESUMED REFUSED   transport/resume.py       of a new session or of one that goes on
    SEGMENT SEGMENT_LAST     number u64, bytes         a piece of a message; the last one (transport/session.py)
    ACK                      number u64                every segment before it was taken by the application
    GOODBYE                  reason, UTF-8             nothing follows; the session is over
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

from transport.errors import (
    FrameCorrupt,
    FrameDuplicate,
    FrameError,
    FrameGap,
    FrameOversize,
    FrameTruncated,
    FrameUnknownType,
)

_HEADER = struct.Struct(">IQBI")
_CHECKSUM = struct.Struct(">I")
HEADER_SIZE = _HEADER.size + _CHECKSUM.size
PAYLOAD_SIZE_MAX = 256 * 1024


class FrameType(IntEnum):
    """Numbers are never reused."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    SEGMENT = 4
    SEGMENT_LAST = 5
    ACK = 6
    GOODBYE = 7
    RESUME = 8
    RESUMED = 9


_KNOWN_TYPES = frozenset(FrameType)


@dataclass(frozen=True, slots=True)
class Frame:
    type: FrameType
    number: int
    payload: bytes


class FrameEncoder:
    """Numbers and encodes the frames of one direction of one path."""

    def __init__(self) -> None:
        self._next_number = 0

    def encode(self, frame_type: FrameType, *parts: bytes | memoryview) -> bytes:
        """One frame whose payload is the parts, joined; at most PAYLOAD_SIZE_MAX bytes together."""
        size = 0
        checksum = 0
        for part in parts:
            size += len(part)
            checksum = crc32(part, checksum)
        assert size <= PAYLOAD_SIZE_MAX
        header = _HEADER.pack(size, self._next_number, frame_type, checksum)
        self._next_number += 1
        return b"".join((header, _CHECKSUM.pack(crc32(header)), *parts))


class FrameDecoder:
    """Takes bytes in any chunks and gives whole, checked frames in order.

    `payload_size_max` may be changed between frames: small before the peer is welcome. Memory is bounded
    by one frame and one chunk. After an error the decoder stays broken and raises the same error again.
    """

    def __init__(self, payload_size_max: int = PAYLOAD_SIZE_MAX) -> None:
        assert 0 < payload_size_max <= PAYLOAD_SIZE_MAX
        self.payload_size_max = payload_size_max
        self._buffer = bytearray()
        self._next_number = 0
        self._header: tuple[int, FrameType, int] | None = None
        self._error: FrameError | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed. Raises FrameError."""
        if self._error is not None:
            raise self._error
        try:
            return self._next_frame()
        except FrameError as error:
            self._error = error
            self._buffer.clear()
            raise

    def finish(self) -> None:
        """The path has ended. Raises FrameTruncated if that was inside a frame."""
        if self._error is not None:
            raise self._error
        if self._buffer or self._header is not None:
            self._error = FrameTruncated(f"the connection ended inside frame {self._next_number}")
            raise self._error

    def _next_frame(self) -> Frame | None:
        buffer = self._buffer
        if self._header is None:
            if len(buffer) < HEADER_SIZE:
                return None
            self._header = self._check_header(bytes(buffer[:HEADER_SIZE]))
            del buffer[:HEADER_SIZE]
        size, frame_type, checksum = self._header
        if len(buffer) < size:
            return None
        with memoryview(buffer) as view:
            payload = bytes(view[:size])
        del buffer[:size]
        if crc32(payload) != checksum:
            raise FrameCorrupt(f"the payload of frame {self._next_number} does not match its checksum")
        self._header = None
        frame = Frame(frame_type, self._next_number, payload)
        self._next_number += 1
        return frame

    def _check_header(self, raw: bytes) -> tuple[int, FrameType, int]:
        fields = raw[: _HEADER.size]
        size, number, type_number, checksum = _HEADER.unpack(fields)
        expected = self._next_number
        if (crc32(fields),) != _CHECKSUM.unpack(raw[_HEADER.size :]):
            raise FrameCorrupt(f"the header of frame {expected} does not match its checksum")
        if type_number not in _KNOWN_TYPES:
            raise FrameUnknownType(f"frame {expected} has the unknown type {type_number}")
        if number > expected:
            raise FrameGap(f"frame {expected} is missing: frame {number} came")
        if number < expected:
            raise FrameDuplicate(f"frame {number} came again where frame {expected} was due")
        if size > self.payload_size_max:
            raise FrameOversize(f"frame {number} has {size} bytes; at most {self.payload_size_max} are allowed")
        return size, FrameType(type_number), checksum
