"""What every network can do, and how one is joined with the guest's stream."""

from dataclasses import dataclass
from typing import Protocol

from ftvm.errors import ProtocolError
from ftvm.host.network.frames import FrameDecoder, encode_frame

DEVICE = "net0"


@dataclass(frozen=True, slots=True)
class NetworkStatistics:
    """Counted since the network was opened."""

    from_guest: int = 0
    """Frames."""
    to_guest: int = 0
    dropped_from_guest: int = 0
    """Too long, too short, or more than the world took."""
    dropped_to_guest: int = 0
    """More than the guest took."""
    flows: int | None = None
    """Connections that the network itself keeps; None: it does not know of any."""


class Network(Protocol):
    """Not thread-safe. Nothing in here ever waits.

    The owner's loop: `process()`, then `receive()` until it has nothing more or the guest takes no more, and only then
    wait until `fileno()` is readable or `timeout_s()` has passed. Both may have changed after any call.
    """

    def fileno(self) -> int:
        """Readable when `process` has something to do. The same one all the time."""

    def timeout_s(self) -> float | None:
        """So long `process` may be put off if nothing is readable; None: for ever."""

    def process(self) -> None:
        """Do what is due, and take in what the world has sent. Harmless at any time."""

    def send(self, frame: bytes) -> None:
        """From the guest to the world: any bytes at all. What cannot be sent now is dropped and counted."""

    def receive(self) -> bytes | None:
        """The next frame for the guest, of at most `FRAME_SIZE_MAX` bytes; None: there is none now."""

    def statistics(self) -> NetworkStatistics:
        """What went through."""

    def close(self) -> None:
        """Every socket is closed. Nothing may be called after it."""


class GuestPort:
    """Between a network and the byte stream of the guest's card."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._decoder = FrameDecoder()
        self._rest = b""

    def from_guest(self, data: bytes) -> None:
        """What the guest said, in any pieces. Raises `ProtocolError` when that are no frames."""
        try:
            for frame in self._decoder.feed(data):
                self._network.send(frame)
        except ProtocolError as error:
            raise ProtocolError(f"{DEVICE}: {error}") from None

    def for_guest(self, size_max: int) -> bytes:
        """Up to `size_max` bytes more of the guest's input; b"" when there are none. A frame that is longer comes in
        parts."""
        data = bytearray(self._rest)
        while len(data) < size_max and (frame := self._network.receive()) is not None:
            data += encode_frame(frame)
        self._rest = bytes(data[size_max:])
        return bytes(data[:size_max])

    def reset(self) -> None:
        """The machine was started anew: frames that were half on their way, either way, end here."""
        self._decoder.reset()
        self._rest = b""
