"""For tests: channels over memory (they run under a mock clock) and a TCP proxy that misbehaves."""

import math
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from transport.background import open_background
from transport.carrier import Redial
from transport.channel import Channel, Limits, Peer, ResumeTerms, run_channel
from transport.errors import PeerRefused, Refuse, TransportError
from transport.frame import FrameType
from transport.handshake import RESUME_SECRET_SIZE, decode_reason, encode_reason
from transport.heartbeat import HeartbeatKeys
from transport.identity import Identity
from transport.path import RECEIVE_SIZE, Path, PathLost
from transport.resume import decode_resume

MEMORY_WIRE_SIZE = 256 * 1024
"""How many bytes a memory wire holds under way, as a kernel's socket buffer would."""

CHUNKS_DELAYED_MAX = 256
"""How many chunks (of up to 64 KiB) one direction of the proxy holds back before it stops reading."""

NODE_A = Identity("testing", "node", "a")
NODE_B = Identity("testing", "node", "b")


class PlainCipher:
    """No encryption, and a peer that is who we say it is."""

    def __init__(self, peer: Identity) -> None:
        self._peer = peer
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._is_closed = False

    def handshake(self) -> bool:
        return True

    def peer_identity(self) -> Identity:
        return self._peer

    def feed(self, data: bytes) -> None:
        self._incoming += data

    def read(self) -> bytes:
        return _take_all(self._incoming)

    def write(self, data: bytes) -> None:
        assert not self._is_closed
        self._outgoing += data

    def take(self) -> bytes:
        return _take_all(self._outgoing)

    def close(self) -> None:
        self._is_closed = True


@dataclass(slots=True, eq=False)
class MemoryWire:
    """One end of a pair; `cut` ends both at once, as a lost connection does."""

    peer_host: str = "127.0.0.1"
    peer_port: int = 0
    allowance: float = math.inf
    """How many bytes may still be sent."""
    _buffer: bytearray = field(default_factory=bytearray)
    _is_eof: bool = False
    _is_lost: bool = False
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _other: "MemoryWire | None" = None

    def try_send(self, data: memoryview) -> int:
        other = self._far_end()
        size = int(min(len(data), MEMORY_WIRE_SIZE - len(other._buffer), self.allowance))
        other._buffer += data[:size]
        other._changed.unpark_all()
        self.allowance -= size
        if not self.allowance:
            self.cut()
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

    def fail(self) -> None:
        """Only this end notices that the connection is gone: for the other one it is silent, for ever."""
        self._is_lost = True
        self._other = None
        self._buffer.clear()
        self._changed.unpark_all()

    def _far_end(self) -> "MemoryWire":
        if self._is_lost or self._other is None:
            raise PathLost("connection lost")
        return self._other


def memory_wire_pair(cut_after: tuple[float, float] = (math.inf, math.inf)) -> tuple[MemoryWire, MemoryWire]:
    """Two wires, each the far end of the other. `cut_after`: how many bytes the first and the second may send before
    both are cut, in mid-frame if need be."""
    a, b = MemoryWire(allowance=cut_after[0]), MemoryWire(allowance=cut_after[1])
    a._other, b._other = b, a
    return a, b


@asynccontextmanager
async def memory_channel_pair(
    limits: Limits | None = None,
    *,
    a: Identity = NODE_A,
    b: Identity = NODE_B,
    cuts: Iterator[tuple[float, float]] | None = None,
) -> AsyncIterator[tuple[Channel, Channel]]:
    """The channel of node a and the channel of node b, joined: everything but TLS and the kernel is real.

    Node a is the client: with `Limits.resume_timeout_s` it connects again. `cuts` gives `cut_after` of one
    connection after the other; then, or without it, they last.
    """
    limits = limits or Limits()
    cuts = cuts or iter(())
    terms = ResumeTerms(bytes(range(RESUME_SECRET_SIZE)), limits.resume_timeout_s)
    keys = (HeartbeatKeys(1, bytes(32), bytes([1] * 32)), HeartbeatKeys(1, bytes([1] * 32), bytes(32)))
    wires = memory_wire_pair(next(cuts, (math.inf, math.inf)))
    server: Channel

    async def redial(request: bytes) -> tuple[Path, bytes]:
        near, far = (Path(wire, PlainCipher(peer)) for wire, peer in zip(_again(cuts), (b, a), strict=True))
        near.write(near.encode(FrameType.RESUME, request))
        frame = await far.read_frame()
        try:
            if not server.resume(far, a, decode_resume(frame.payload)):
                raise Refuse("over")
        except TransportError as error:
            far.write(far.encode(FrameType.REFUSED, encode_reason(str(error))))
        answer = await near.read_frame()
        if answer.type is FrameType.REFUSED:
            raise PeerRefused(decode_reason(answer.payload))
        return near, answer.payload

    async with AsyncExitStack() as stack:
        channels = []
        roles: tuple[Redial | None, ...] = (redial, None)
        for wire, key, peer, role in zip(wires, keys, (b, a), roles, strict=True):
            about = Peer(peer, {}, wire.peer_host, wire.peer_port, key, 0)
            channel = Channel(Path(wire, PlainCipher(peer)), about, limits, terms, role)
            channels.append(await stack.enter_async_context(run_channel(channel)))
        server = channels[1]
        yield channels[0], channels[1]


def _again(cuts: Iterator[tuple[float, float]]) -> tuple[MemoryWire, MemoryWire]:
    return memory_wire_pair(next(cuts, (math.inf, math.inf)))


@dataclass(slots=True)
class Direction:
    """What the proxy does to the bytes of one direction. May be changed at any time."""

    delay_s: float = 0.0
    cut_after: float = math.inf
    """After so many bytes (of all connections together) the connection is cut, in mid-frame if need be."""
    is_blackhole: bool = False
    """Bytes are taken and thrown away, and nobody is told."""
    passed: int = 0


class ChaosProxy:
    """A TCP proxy on loopback between a client and a server."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.port = port
        self.target = target
        self.to_server = Direction()
        self.to_client = Direction()
        self._connections: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Reset all connections there are now, at both ends."""
        for scope in self._connections:
            scope.cancel()

    async def _serve_one(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            try:
                server = await trio.open_tcp_stream(*self.target)
            except OSError:
                _reset(client)
                return
            self._connections.add(scope)
            async with client, server:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._copy, client, server, self.to_server, scope)
                        nursery.start_soon(self._copy, server, client, self.to_client, scope)
                finally:
                    self._connections.discard(scope)
                    if scope.cancel_called:
                        _reset(client)
                        _reset(server)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, direction: Direction, scope: trio.CancelScope
    ) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](CHUNKS_DELAYED_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receive, sink, direction, scope)
            async with send:
                try:
                    async for chunk in source:
                        await send.send((trio.current_time() + direction.delay_s, bytes(chunk)))
                except trio.BrokenResourceError:
                    scope.cancel()

    async def _deliver(
        self,
        receive: trio.MemoryReceiveChannel[tuple[float, bytes]],
        sink: trio.SocketStream,
        direction: Direction,
        scope: trio.CancelScope,
    ) -> None:
        try:
            async for due, chunk in receive:
                await trio.sleep_until(due)
                if direction.is_blackhole:
                    continue
                room = direction.cut_after - direction.passed
                part = chunk if len(chunk) <= room else chunk[: int(room)]
                direction.passed += len(part)
                await sink.send_all(part)
                if direction.passed >= direction.cut_after:
                    scope.cancel()
            await sink.send_eof()
        except trio.BrokenResourceError:
            scope.cancel()


@asynccontextmanager
async def open_chaos_proxy(host: str, port: int) -> AsyncIterator[ChaosProxy]:
    """A proxy to host:port; clients connect to 127.0.0.1 and the proxy's `port`."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy = ChaosProxy(listeners[0].socket.getsockname()[1], (host, port))
    async with open_background() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy._serve_one, listeners)
        yield proxy


def _reset(stream: trio.SocketStream) -> None:
    """Close with a reset, so that neither end takes it for a clean end of stream."""
    if stream.socket.fileno() >= 0:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


def _take_all(buffer: bytearray) -> bytes:
    data = bytes(buffer)
    buffer.clear()
    return data
