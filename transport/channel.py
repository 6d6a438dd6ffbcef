"""Channels: messages, whole and in order, between two nodes that know who the other is."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import trio

from transport.background import open_background
from transport.errors import (
    ChannelClosed,
    ConnectFailed,
    HandshakeTimeout,
    SessionViolation,
    TransportError,
)
from transport.frame import PAYLOAD_SIZE_MAX, Frame, FrameType
from transport.handshake import (
    HANDSHAKE_SIZE_MAX,
    ClientHandshake,
    Hello,
    Parameters,
    decode_reason,
    encode_hello,
    encode_reason,
)
from transport.heartbeat import HeartbeatKeys
from transport.identity import Expectation, Identity
from transport.path import WRITE_SIZE, Path, PathLost, SocketWire
from transport.session import MESSAGE_SIZE_MAX, QUEUE_SIZE_MAX, Session
from transport.tls import TlsCipher

FRAMES_PER_TURN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one channel, or of the channels of one listener."""

    handshake_timeout_s: float = 5.0
    close_timeout_s: float = 1.0
    message_size_max: int = MESSAGE_SIZE_MAX
    queue_size_max: int = QUEUE_SIZE_MAX


@dataclass(frozen=True, slots=True)
class Peer:
    """What the handshake told about the other side."""

    identity: Identity
    parameters: Parameters
    host: str
    port: int
    heartbeat_keys: HeartbeatKeys
    heartbeat_port: int
    """The peer's UDP port; 0: it takes no heartbeats."""


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """Messages and their bytes as the application sees them; wire bytes with all overhead."""

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    wire_bytes_in: int
    wire_bytes_out: int
    queued_bytes: int
    unacknowledged_bytes: int
    messages_waiting: int


class Channel:
    """One end of a channel; made by `open_channel` or `serve`.

    Any task may send and any may receive, at the same time. The reader runs apart from both: a side that
    only sends still notices the end of the channel and the acknowledgements of the other.
    """

    def __init__(self, path: Path, peer: Peer, limits: Limits) -> None:
        self.peer = peer
        self._path = path
        self._limits = limits
        self._session = Session(
            message_size_max=limits.message_size_max, queue_size_max=limits.queue_size_max
        )
        self._closed: ChannelClosed | None = None
        self._handler: Callable[[bytes], None] | None = None
        self._handler_failure: Exception | None = None
        self._is_path_over = False
        self._room = trio.lowlevel.ParkingLot()
        self._arrival = trio.lowlevel.ParkingLot()
        self._undrained = trio.lowlevel.ParkingLot()
        self._reader_ended = trio.Event()

    async def send(self, message: bytes) -> None:
        """Accept a message for the peer; waits while the queue is full. Raises ChannelClosed.

        Either the message is accepted whole, or the call is cancelled and nothing of it is sent. Accepted
        is not delivered: only an answer of the peer's application tells that.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                self.send_nowait(message)
            except trio.WouldBlock:
                await self._room.park()
            else:
                break
        await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, message: bytes) -> None:
        """Like `send`; raises trio.WouldBlock when the queue is full."""
        self.queue_nowait(message)
        self._flush()

    def queue_nowait(self, message: bytes) -> None:
        """Accept a message that goes out with the next `flush` at the latest: several then share one write.

        Raises ChannelClosed, or trio.WouldBlock when the queue is full.
        """
        if self._closed is not None:
            raise self._closed_error()
        if not self._session.has_room():
            raise trio.WouldBlock
        self._session.queue(message)

    def flush(self) -> None:
        """Put on the path what was queued. Never waits, and never fails: a lost path shows at the next call."""
        if self._closed is None:
            self._flush()

    async def receive(self) -> bytes:
        """The next message. After the last one, raises ChannelClosed. Cancellation loses nothing."""
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while True:
            try:
                message = self.receive_nowait()
            except trio.WouldBlock:
                await self._arrival.park()
                has_waited = True
            else:
                break
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return message

    def receive_nowait(self) -> bytes:
        """Like `receive`; raises trio.WouldBlock when no message is there."""
        message = self._session.next_message()
        if message is None:
            if self._closed is not None:
                raise self._closed_error()
            raise trio.WouldBlock
        if self._session.ack_due:
            self._flush()
        return message

    async def receive_each(self, handler: Callable[[bytes], None]) -> NoReturn:
        """Call `handler(message)` for every message, in the very step in which it arrived, until the channel ends.

        Spares the switch to another task that `receive` costs. The handler must not wait. Raises ChannelClosed at
        the end, or what the handler raised; after that (or after a cancellation) `receive` works again.
        """
        assert self._handler is None, "one task at a time"
        await trio.lowlevel.checkpoint()
        self._handler = handler
        try:
            self._hand_over()
            while self._handler_failure is None:
                if self._closed is not None and not self._session.messages_waiting:
                    raise self._closed_error()
                await self._arrival.park()
            raise self._handler_failure
        finally:
            self._handler = self._handler_failure = None

    def _hand_over(self) -> None:
        """Give all messages that are here to the handler. What it raises is raised by `receive_each`."""
        assert self._handler is not None
        try:
            while self._handler_failure is None and (message := self._session.next_message()) is not None:
                self._handler(message)
        except Exception as error:
            self._handler_failure = error
            self._arrival.unpark_all()
        if self._session.ack_due:
            self._flush()

    async def close(self, reason: str = "done") -> None:
        """Send what is queued, say goodbye with a reason, and wait for the peer's end: clean for both.

        Bounded by `Limits.close_timeout_s`; a peer that takes longer sees a lost connection. Called again,
        or after the end, it does nothing.
        """
        if self._closed is not None:
            return
        self._end(ChannelClosed(f"closed by this side: {reason}", clean=True))
        self._flush()
        with trio.move_on_after(self._limits.close_timeout_s):
            while self._session.queue_size and not self._is_path_over:
                await self._room.park()
            await self._wait_drained()
            if not self._is_path_over:
                try:
                    self._path.write(self._path.encode(FrameType.GOODBYE, encode_reason(reason)))
                except PathLost:
                    return
                self._undrained.unpark_all()
                await self._wait_drained()
                self._end_path()
            await self._reader_ended.wait()

    def statistics(self) -> ChannelStatistics:
        counters = self._session.counters
        return ChannelStatistics(
            messages_in=counters.messages_in,
            messages_out=counters.messages_out,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            wire_bytes_in=self._path.bytes_in,
            wire_bytes_out=self._path.bytes_out,
            queued_bytes=self._session.queue_size,
            unacknowledged_bytes=self._session.unacknowledged_size,
            messages_waiting=self._session.messages_waiting,
        )

    # ----------------------------------------------------------------- inside

    def _closed_error(self) -> ChannelClosed:
        assert self._closed is not None
        error = ChannelClosed(self._closed.reason, clean=self._closed.clean)
        error.__cause__ = self._closed.__cause__
        return error

    def _end(self, closed: ChannelClosed) -> None:
        """No more sends; receives only of what is here. The first reason stays."""
        if self._closed is None:
            self._closed = closed
        self._room.unpark_all()
        self._arrival.unpark_all()

    def _end_path(self) -> None:
        """Nothing may follow: not even an acknowledgement that falls due while the peer's last frames come."""
        self._is_path_over = True
        self._path.end()

    async def _wait_drained(self) -> None:
        """Let the one draining task do its work."""
        while not self._path.is_drained and not self._is_path_over:
            await self._room.park()

    def _flush(self) -> None:
        """Put on the path what may go. What the kernel does not take, `_write_loop` waits for."""
        path = self._path
        try:
            while path.is_drained and not self._is_path_over:
                frames = [path.encode(out.type, out.head, out.body) for out in self._session.take_outgoing(WRITE_SIZE)]
                if not frames:
                    break
                path.write(frames[0] if len(frames) == 1 else b"".join(frames))
        except PathLost:
            # The reader will find the end too, and perhaps before it a reason from the peer.
            self._is_path_over = True
        if not path.is_drained:
            self._undrained.unpark_all()
        if self._session.has_room():
            self._room.unpark_all()

    async def _write_loop(self) -> None:
        while True:
            if self._path.is_drained:
                await self._undrained.park()
            try:
                await self._path.drain()
            except PathLost:
                self._is_path_over = True
                self._room.unpark_all()
                return
            self._flush()

    async def _read_loop(self) -> None:
        try:
            count = 1
            while self._take(await self._path.read_frame()):
                # Frames that came together are taken without a wait; heartbeats and others must get a turn.
                if count % FRAMES_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
                count += 1
        except TransportError as error:
            closed = ChannelClosed(str(error), clean=False)
            closed.__cause__ = error
            self._end(closed)
        finally:
            self._is_path_over = True
            self._reader_ended.set()
            self._room.unpark_all()

    def _take(self, frame: Frame) -> bool:
        """Handle a frame; False when the peer has said goodbye."""
        if frame.type is FrameType.GOODBYE:
            self._end(ChannelClosed(decode_reason(frame.payload), clean=True))
            if self._path.is_drained:
                self._end_path()
            return False
        if frame.type not in (FrameType.SEGMENT, FrameType.SEGMENT_LAST, FrameType.ACK):
            raise SessionViolation(f"a {frame.type.name} frame inside a session")
        if self._session.receive(frame):
            if self._handler is not None:
                self._hand_over()
            else:
                self._arrival.unpark()
        elif self._session.ack_due or frame.type is FrameType.ACK:
            self._flush()
        return True


@asynccontextmanager
async def run_channel(path: Path, peer: Peer, limits: Limits) -> AsyncIterator[Channel]:
    """A channel over a path whose handshake is done. For `open_channel`, `serve` and tests.

    Leaving the block closes the channel cleanly; when cancelled, at once, which the peer sees as a loss.
    """
    path.decoder.payload_size_max = PAYLOAD_SIZE_MAX
    channel = Channel(path, peer, limits)
    async with open_background() as nursery:
        nursery.start_soon(channel._read_loop)
        nursery.start_soon(channel._write_loop)
        try:
            yield channel
        except Exception as error:
            await channel.close(f"failed: {type(error).__name__}")
            raise
        else:
            await channel.close()
        finally:
            path.close()
            channel._end(ChannelClosed("closed by this side: cancelled", clean=False))


@asynccontextmanager
async def open_channel(
    host: str,
    port: int,
    context: ssl.SSLContext,
    expect: Expectation,
    hello: Parameters,
    *,
    heartbeat_port: int = 0,
    limits: Limits | None = None,
) -> AsyncIterator[Channel]:
    """Connect to a listener, and be welcome there.

    Raises ConnectFailed, HandshakeTimeout, PeerRefused (with the peer's reason), CertificateProblem and its
    kinds, or another TransportError. The block may be cancelled at any time.
    """
    limits = limits or Limits()
    try:
        with trio.fail_after(limits.handshake_timeout_s):
            path, peer = await _connect(host, port, context, expect, Hello(hello, heartbeat_port))
    except trio.TooSlowError:
        raise HandshakeTimeout(
            f"no WELCOME from {host}:{port} within {limits.handshake_timeout_s:g} s"
        ) from None
    async with run_channel(path, peer, limits) as channel:
        yield channel


async def _connect(
    host: str, port: int, context: ssl.SSLContext, expect: Expectation, hello: Hello
) -> tuple[Path, Peer]:
    hello_payload = encode_hello(hello)
    try:
        wire = SocketWire(await trio.open_tcp_stream(host, port))
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {host}:{port}: {_why(error)}") from error
    path = Path(wire, TlsCipher(context, server_side=False))
    path.decoder.payload_size_max = HANDSHAKE_SIZE_MAX
    try:
        await path.handshake()
        identity = path.cipher.peer_identity()
        expect.check(identity)
        path.write(path.encode(FrameType.HELLO, hello_payload))
        await path.drain()
        welcome = ClientHandshake().receive(await path.read_frame())
    except BaseException:
        path.close()
        raise
    keys = HeartbeatKeys(welcome.session_id, welcome.key_to_server, welcome.key_to_client)
    peer = Peer(identity, welcome.parameters, wire.peer_host, wire.peer_port, keys, welcome.heartbeat_port)
    return path, peer


def _why(error: OSError) -> str:
    """What the operating system said, for every address that the name has."""
    cause = error.__cause__
    attempts = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (error,)
    return ", ".join(dict.fromkeys(getattr(attempt, "strerror", None) or str(attempt) for attempt in attempts))
