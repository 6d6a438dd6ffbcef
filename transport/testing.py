"""For tests: channels over memory (they run under a mock clock) and a TCP proxy that misbehaves."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from transport.channel import Channel, Limits, Peer, run_channel
from transport.heartbeat import HeartbeatKeys
from transport.identity import Identity
from transport.path import RECEIVE_SIZE, Path, PathLost

MEMORY_WIRE_SIZE = 256 * 1024
"""How many bytes a memory wire holds under way, as a kernel's socket buffer would."""

NODE_A = Identity("testing", "node", "a")
NODE_B = Identity("testing", "node", "b")


class PlainCipher:
    """No encryption, and a peer that is who we say it is."""

    def __init__(self, peer: Identity) -> None:
        self._peer = peer
        self._incoming = bytearray()
        self._outgoing = bytearray()

    def handshake(self) -> bool:
        return True

    def peer_identity(self) -> Identity:
        return self._peer

    def feed(self, data: bytes) -> None:
        self._incoming += data

    def read(self) -> bytes:
        return _take_all(self._incoming)

    def write(self, data: bytes) -> None:
        self._outgoing += data

    def take(self) -> bytes:
        return _take_all(self._outgoing)

    def close(self) -> None:
        pass


@dataclass(slots=True, eq=False)
class MemoryWire:
    """One end of a pair; `cut` ends both at once, as a lost connection does."""

    peer_host: str = "127.0.0.1"
    peer_port: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _is_eof: bool = False
    _is_lost: bool = False
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _other: "MemoryWire | None" = None

    def try_send(self, data: memoryview) -> int:
        other = self._far_end()
        size = min(len(data), MEMORY_WIRE_SIZE - len(other._buffer))
        other._buffer += data[:size]
        other._changed.unpark_all()
        return size

    async def wait_sendable(self) -> None:
        while len(self._far_end()._buffer) >= MEMORY_WIRE_SIZE:
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._buffer and not self._is_eof:
            if self._is_lost:
                raise PathLost("connection lost")
            await self._changed.park()
        data = bytes(self._buffer[:RECEIVE_SIZE])
        del self._buffer[:RECEIVE_SIZE]
        if self._other is not None:
            self._other._changed.unpark_all()
        return data

    def send_eof(self) -> None:
        if self._other is not None:
            self._other._is_eof = True
            self._other._changed.unpark_all()

    def close(self) -> None:
        self.send_eof()
        self.cut()

    def cut(self) -> None:
        for wire in (self, self._other):
            if wire is not None:
                wire._is_lost = True
                wire._changed.unpark_all()
        self._other = None

    def _far_end(self) -> "MemoryWire":
        if self._is_lost or self._other is None:
            raise PathLost("connection lost")
        return self._other


def memory_wire_pair() -> tuple[MemoryWire, MemoryWire]:
    """Two wires, each the far end of the other."""
    a, b = MemoryWire(), MemoryWire()
    a._other, b._other = b, a
    return a, b


@asynccontextmanager
async def memory_channel_pair(
    limits: Limits | None = None, *, a: Identity = NODE_A, b: Identity = NODE_B
) -> AsyncIterator[tuple[Channel, Channel]]:
    """The channel of node a and the channel of node b, joined: everything but TLS and the kernel is real."""
    wires = memory_wire_pair()
    keys = (HeartbeatKeys(1, bytes(32), bytes([1] * 32)), HeartbeatKeys(1, bytes([1] * 32), bytes(32)))
    async with AsyncExitStack() as stack:
        channels = []
        for wire, key, peer in zip(wires, keys, (b, a), strict=True):
            about = Peer(peer, {}, wire.peer_host, wire.peer_port, key, 0)
            path = Path(wire, PlainCipher(peer))
            channels.append(await stack.enter_async_context(run_channel(path, about, limits or Limits())))
        yield channels[0], channels[1]


def _take_all(buffer: bytearray) -> bytes:
    data = bytes(buffer)
    buffer.clear()
    return data
