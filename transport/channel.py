"""Channels: messages, whole and in order, between two nodes that know who the other is."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import trio

from transport.background import open_background
from transport.carrier import Carrier, Redial
from transport.dial import dial
from transport.errors import (
    ChannelClosed,
    HandshakeTimeout,
    HandshakeViolation,
    IdentityMismatch,
    PeerRefused,
    SessionViolation,
)
from transport.frame import Frame, FrameType
from transport.handshake import (
    ClientHandshake,
    Hello,
    Parameters,
    decode_reason,
    encode_hello,
    encode_reason,
    resume_ms,
)
from transport.heartbeat import HeartbeatKeys
from transport.identity import Expectation, Identity
from transport.path import Path
from transport.resume import Resume, Resumption
from transport.session import MESSAGE_SIZE_MAX, QUEUE_SIZE_MAX, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one channel, or of the channels of one listener."""

    handshake_timeout_s: float = 5.0
    close_timeout_s: float = 1.0
    message_size_max: int = MESSAGE_SIZE_MAX
    queue_size_max: int = QUEUE_SIZE_MAX
    resume_timeout_s: float = 0.0
    """How long a session waits for its lost connection to come back; the smaller value of both sides holds.
    0: it ends with its connection."""


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
    resumes: int
    """How often the session went on over another connection."""


@dataclass(frozen=True, slots=True)
class ResumeTerms:
    """What WELCOME says about bringing the session back."""

    secret: bytes = field(repr=False)
    timeout_s: float


class Channel:
    """One end of a channel; made by `open_channel` or `serve`.

    Any task may send and any may receive, at the same time. The reader runs apart from both: a side that
    only sends still notices the end of the channel and the acknowledgements of the other.

    With `Limits.resume_timeout_s` the channel outlives its connection: while that is lost, sends queue and
    receives wait, and what is on its way arrives once and in order when the client has connected again.
    """

    def __init__(
        self,
        path: Path,
        peer: Peer,
        limits: Limits,
        terms: ResumeTerms | None = None,
        redial: Redial | None = None,
        on_interrupted: Callable[[], None] = lambda: None,
    ) -> None:
        self.peer = peer
        self._limits = limits
        self._session = Session(
            message_size_max=limits.message_size_max, queue_size_max=limits.queue_size_max
        )
        self._closed: ChannelClosed | None = None
        self._handler: Callable[[bytes], None] | None = None
        self._handler_failure: Exception | None = None
        resumption = None
        if terms is not None and terms.timeout_s > 0:
            session_id = peer.heartbeat_keys.session_id
            resumption = Resumption(self._session, session_id, terms.secret, terms.timeout_s)
        self._carrier = Carrier(path, self._session, self._take, self._make_room, self._interrupt, resumption, redial)
        self._on_interrupted = on_interrupted
        self._room = trio.lowlevel.ParkingLot()
        self._arrival = trio.lowlevel.ParkingLot()
        self._interrupted = trio.lowlevel.ParkingLot()

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
        self._carrier.flush()

    def queue_nowait(self, message: bytes) -> None:
        """Accept a message that goes out with the next `flush` at the latest: several then share one write.

        Raises ChannelClosed, or trio.WouldBlock when the queue is full.
        """
        if self._closed is not None:
            raise self._closed_error()
        if not self._session.has_room():
            raise trio.WouldBlock
        self._session.queue(message)

    async def wait_queue(self, size_max: int) -> None:
        """Wait until no more than `size_max` bytes wait to be sent. Raises ChannelClosed."""
        await trio.lowlevel.checkpoint()
        while self._closed is None and self._session.queue_size > size_max:
            await self._room.park()
        if self._closed is not None:
            raise self._closed_error()

    def flush(self) -> None:
        """Put on the path what was queued. Never waits, and never fails: a lost path shows at the next call."""
        if self._closed is None:
            self._carrier.flush()

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
            self._carrier.flush()
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
            self._carrier.flush()

    async def close(self, reason: str = "done") -> None:
        """Send what is queued, say goodbye with a reason, and wait for the peer's end: clean for both.

        Bounded by `Limits.close_timeout_s`; a peer that takes longer sees a lost connection. Called again,
        or after the end, it does nothing.
        """
        if self._closed is not None:
            return
        self._end(ChannelClosed(f"closed by this side: {reason}", clean=True))
        self._carrier.say_goodbye(encode_reason(reason))
        with trio.move_on_after(self._limits.close_timeout_s):
            await self._carrier.over.wait()

    # ---------------------------------------------------------------- the connection

    @property
    def is_interrupted(self) -> bool:
        """The connection is lost, and the channel waits for it to come back."""
        return self._carrier.is_interrupted

    async def wait_interrupted(self) -> None:
        """Until the connection is lost in a way that another one can mend; for ever, if that never happens.

        It may be back when this returns.
        """
        if self.is_interrupted:
            await trio.lowlevel.checkpoint()
        else:
            await self._interrupted.park()

    def abandon(self, reason: str) -> None:
        """If the channel is interrupted, it is over: the owner knows that nobody will come back."""
        self._carrier.abandon(reason)

    def resume(self, path: Path, identity: Identity, request: Resume) -> bool:
        """For a listener: go on over `path`, which brought the request, and which is the channel's from here on.

        Never waits. False if the channel is over, or another's. Raises Refuse, and the channel is as it was;
        or SessionViolation or ResumeFailed, and the channel is over.
        """
        if not self._carrier.is_resumable or identity != self.peer.identity:
            return False
        self._carrier.resume(path, request)
        return True

    def statistics(self) -> ChannelStatistics:
        counters = self._session.counters
        return ChannelStatistics(
            messages_in=counters.messages_in,
            messages_out=counters.messages_out,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            wire_bytes_in=self._carrier.bytes_in,
            wire_bytes_out=self._carrier.bytes_out,
            queued_bytes=self._session.queue_size,
            unacknowledged_bytes=self._session.unacknowledged_size,
            messages_waiting=self._session.messages_waiting,
            resumes=self._carrier.resumes,
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

    def _make_room(self) -> None:
        if self._session.has_room():
            self._room.unpark_all()

    def _interrupt(self) -> None:
        self._interrupted.unpark_all()
        self._on_interrupted()

    async def _read(self) -> None:
        error = await self._carrier.read()
        if error is not None:
            closed = ChannelClosed(str(error), clean=False)
            closed.__cause__ = error
            self._end(closed)

    def _take(self, frame: Frame) -> bool:
        """Handle a frame; False when the peer has said goodbye."""
        if frame.type is FrameType.GOODBYE:
            self._end(ChannelClosed(decode_reason(frame.payload), clean=True))
            if self._carrier.path.is_drained:
                self._carrier.end_path()
            return False
        if frame.type not in (FrameType.SEGMENT, FrameType.SEGMENT_LAST, FrameType.ACK):
            raise SessionViolation(f"a {frame.type.name} frame inside a session")
        if self._session.receive(frame):
            if self._handler is not None:
                self._hand_over()
            else:
                self._arrival.unpark()
        elif self._session.ack_due or frame.type is FrameType.ACK:
            self._carrier.flush()
        return True


@asynccontextmanager
async def run_channel(channel: Channel) -> AsyncIterator[Channel]:
    """Carry a new channel. For `open_channel`, `serve` and tests.

    Leaving the block closes the channel cleanly; when cancelled, at once, which the peer sees as a loss.
    """
    async with open_background() as nursery:
        nursery.start_soon(channel._read)
        nursery.start_soon(channel._carrier.write)
        try:
            yield channel
        except Exception as error:
            await channel.close(f"failed: {type(error).__name__}")
            raise
        else:
            await channel.close()
        finally:
            channel._carrier.close()
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
    payload = encode_hello(Hello(hello, heartbeat_port, resume_ms(limits.resume_timeout_s)))
    try:
        with trio.fail_after(limits.handshake_timeout_s):
            path, identity, answer = await dial(host, port, context, expect.check, FrameType.HELLO, payload)
    except trio.TooSlowError:
        raise HandshakeTimeout(
            f"no WELCOME from {host}:{port} within {limits.handshake_timeout_s:g} s"
        ) from None
    try:
        welcome = ClientHandshake().receive(answer)
    except BaseException:
        path.close()
        raise

    def check_same(again: Identity) -> None:
        if again != identity:
            raise IdentityMismatch(f"{again} answers where {identity} did")

    async def redial(request: bytes) -> tuple[Path, bytes]:
        path, _, answer = await dial(host, port, context, check_same, FrameType.RESUME, request)
        if answer.type is FrameType.RESUMED:
            return path, answer.payload
        path.close()
        if answer.type is FrameType.REFUSED:
            raise PeerRefused(decode_reason(answer.payload))
        raise HandshakeViolation(f"a {answer.type.name} frame where RESUMED was due")

    keys = HeartbeatKeys(welcome.session_id, welcome.key_to_server, welcome.key_to_client)
    wire = path.wire
    peer = Peer(identity, welcome.parameters, wire.peer_host, wire.peer_port, keys, welcome.heartbeat_port)
    terms = ResumeTerms(welcome.resume_secret, min(welcome.resume_ms / 1000, limits.resume_timeout_s))
    async with run_channel(Channel(path, peer, limits, terms, redial)) as channel:
        yield channel
