"""Frames in a byte stream: four bytes of length, big-endian, then the frame. (QEMU net/stream.c.)"""

from collections import deque
from collections.abc import Iterator

from ftvm.errors import ProtocolError

LENGTH_SIZE = 4
ETHERNET_HEADER_SIZE = 14
FRAME_SIZE_MAX = 65521 + 18
"""The largest MTU, with an Ethernet header and a VLAN tag."""


def encode_frame(frame: bytes) -> bytes:
    """`frame` as the stream carries it."""
    assert 0 < len(frame) <= FRAME_SIZE_MAX
    return len(frame).to_bytes(LENGTH_SIZE, "big") + frame


class FrameDecoder:
    """Cuts a stream into frames. Holds at most one frame that is not complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete with `data`. To be iterated to its end.

        Raises `ProtocolError` at a length that no frame has; then the stream has lost its framing: `reset` it where
        the sender begins anew.
        """
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        try:
            while end - start >= LENGTH_SIZE:
                size = int.from_bytes(buffer[start : start + LENGTH_SIZE], "big")
                if not 0 < size <= FRAME_SIZE_MAX:
                    raise ProtocolError(f"a frame of {size} bytes announced: expected 1 to {FRAME_SIZE_MAX}")
                if end - start - LENGTH_SIZE < size:
                    break
                start += LENGTH_SIZE
                yield bytes(buffer[start : start + size])
                start += size
        finally:
            del buffer[:start]

    def reset(self) -> None:
        """Forget a frame that has begun: its rest will not come."""
        self._buffer.clear()


class FrameQueue:
    """Frames that wait, bounded in bytes. A frame that would go beyond `size_max` is dropped and counted."""

    def __init__(self, size_max: int) -> None:
        assert size_max >= FRAME_SIZE_MAX
        self._size_max = size_max
        self._frames: deque[bytes] = deque()
        self.size = 0
        self.count = 0
        """Of all frames that were ever put."""
        self.dropped = 0

    def put(self, frame: bytes) -> bool:
        """Returns whether it had room."""
        weight = len(frame) + LENGTH_SIZE
        if self.size + weight > self._size_max:
            self.dropped += 1
            return False
        self._frames.append(frame)
        self.size += weight
        self.count += 1
        return True

    def get(self) -> bytes | None:
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self.size -= len(frame) + LENGTH_SIZE
        return frame

    def clear(self) -> None:
        self._frames.clear()
        self.size = 0

    def __len__(self) -> int:
        return len(self._frames)
