"""Listening: who may come in, and what a stranger can cost us.

Until WELCOME a connection has one of HALF_OPEN_MAX places, a deadline, a bounded buffer, and ends in one
log line. When all places are taken the oldest is thrown out: a good client needs milliseconds, so the
oldest is the one that dawdles.

A client that brings back a session whose connection was lost goes through the same door, and its connection
then belongs to the channel that waits for it. At most INTERRUPTED_MAX channels wait; then the one that waits
longest is given up.
"""

import errno
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from transport.channel import Channel, Limits, Peer, ResumeTerms, run_channel
from transport.errors import (
    ChannelClosed,
    IdentityMismatch,
    ListenFailed,
    Refuse,
    ResumeFailed,
    SessionViolation,
    TransportError,
)
from transport.frame import Frame, FrameType
from transport.handshake import (
    HANDSHAKE_SIZE_MAX,
    HEARTBEAT_KEY_SIZE,
    RESUME_SECRET_SIZE,
    Hello,
    Parameters,
    ServerHandshake,
    Welcome,
    encode_reason,
    encode_welcome,
    resume_ms,
)
from transport.heartbeat import HeartbeatKeys
from transport.identity import Expectation, Identity
from transport.path import Path, PathLost, SocketWire
from transport.resume import UNKNOWN_SESSION, decode_resume
from transport.tls import TlsCipher

HALF_OPEN_MAX = 64
CHANNELS_MAX = 512
"""Welcome clients at a time: what one of them may hold is bounded, and so is how often it may come."""
INTERRUPTED_MAX = 16
REFUSAL_LINGER_S = 0.5
"""How long a refused client has to read why, before unread bytes of its own reset the connection."""
ACCEPT_RETRY_S = 0.1

Accept = Callable[[Identity, Parameters], Parameters]
"""Looks at a client's certificate and HELLO parameters; returns the WELCOME's, or raises Refuse(reason)."""

Handler = Callable[[Channel], Awaitable[None]]

_logger = logging.getLogger(__name__)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


async def serve(
    host: str,
    port: int,
    context: ssl.SSLContext,
    expect: Expectation,
    handler: Handler,
    *,
    accept: Accept,
    heartbeat_port: int = 0,
    limits: Limits | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled; `task_status` gets the port (give port 0 for any free one).

    Each welcome client gets a task that runs `handler(channel)` and closes the channel after it. The
    handler's TransportErrors end that connection; any other exception is our own mistake and ends `serve`.
    Raises ListenFailed.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    server = _Server(context, expect, handler, accept, heartbeat_port, limits or Limits())
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(server.accept_loop, listener, nursery)
        task_status.started(int(listeners[0].socket.getsockname()[1]))


@dataclass(slots=True, eq=False)
class _Server:
    context: ssl.SSLContext
    expect: Expectation
    handler: Handler
    accept: Accept
    heartbeat_port: int
    limits: Limits
    half_open: dict[trio.CancelScope, None] = field(default_factory=dict)
    sessions: dict[int, Channel] = field(default_factory=dict)
    """Those that may be brought back."""
    interrupted: dict[int, None] = field(default_factory=dict)
    """Those that wait for it, and perhaps some that came back meanwhile; the longest waiting first."""

    async def accept_loop(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in _OUT_OF_RESOURCES:
                        raise
                    _logger.warning("cannot accept a connection: %s", error.strerror)
                    await trio.sleep(ACCEPT_RETRY_S)
                else:
                    nursery.start_soon(self.serve_one, stream)

    async def serve_one(self, stream: trio.SocketStream) -> None:
        try:
            wire = SocketWire(stream)
        except OSError:
            stream.socket.close()
            return
        channel = await self.admit(Path(wire, TlsCipher(self.context, server_side=True)))
        if channel is not None:
            await self.serve_channel(channel)

    async def serve_channel(self, channel: Channel) -> None:
        peer, session_id = channel.peer, channel.peer.heartbeat_keys.session_id
        self.sessions[session_id] = channel
        try:
            async with run_channel(channel):
                await self.handler(channel)
        except ChannelClosed as error:
            _logger.debug("%s: %s", peer.identity, error)
        except TransportError as error:
            _logger.warning("%s: %s", peer.identity, error)
        finally:
            del self.sessions[session_id]
            self.interrupted.pop(session_id, None)

    def wait_for(self, session_id: int) -> None:
        """This session is interrupted."""
        self.interrupted.pop(session_id, None)
        self.interrupted[session_id] = None
        waiting = [one for one in self.interrupted if self.sessions[one].is_interrupted]
        self.interrupted = dict.fromkeys(waiting)
        if len(waiting) > INTERRUPTED_MAX:
            self.sessions[waiting[0]].abandon(f"more than {INTERRUPTED_MAX} sessions wait for their connection")

    async def admit(self, path: Path) -> Channel | None:
        """The handshake, within its deadline. A new channel for a client that is welcome; None when the path went
        to a channel that there was, or when the client was refused, the log says so, and the path is closed."""
        if len(self.half_open) >= HALF_OPEN_MAX:
            next(iter(self.half_open)).cancel()
        where = f"{path.wire.peer_host}:{path.wire.peer_port}"
        is_logged = is_welcome = False
        channel = None
        try:
            with trio.move_on_after(self.limits.handshake_timeout_s) as scope:
                self.half_open[scope] = None
                try:
                    channel = await self.shake_hands(path)
                    is_logged = is_welcome = True
                except PathLost as error:
                    is_logged = True
                    # A connection without a byte is a probe, and no news.
                    level = logging.WARNING if path.bytes_in else logging.DEBUG
                    _logger.log(level, "refused %s: %s", where, error)
                except TransportError as error:
                    is_logged = True
                    _logger.warning("refused %s: %s", where, error)
                    path.end()
                    with trio.move_on_after(REFUSAL_LINGER_S):
                        await path.wait_end()
                finally:
                    del self.half_open[scope]
            if not is_logged:
                _logger.warning("refused %s: no handshake in time", where)
        finally:
            if not is_welcome:
                path.close()
        return channel

    async def shake_hands(self, path: Path) -> Channel | None:
        """Welcome a new client (returns its channel) or one that is back (returns None)."""
        path.decoder.payload_size_max = HANDSHAKE_SIZE_MAX
        await path.handshake()
        try:
            identity = path.cipher.peer_identity()
            self.expect.check(identity)
            frame = await path.read_frame()
            if frame.type is FrameType.RESUME:
                self.resume(path, identity, frame)
                return None
            hello = ServerHandshake().receive(frame)
            if len(self.sessions) >= CHANNELS_MAX:
                raise Refuse(f"{CHANNELS_MAX} channels are open here, and no more are taken")
            parameters = self.accept(identity, hello.parameters)
        except (IdentityMismatch, Refuse, SessionViolation, ResumeFailed) as error:
            path.write(path.encode(FrameType.REFUSED, encode_reason(str(error))))
            raise
        welcome = Welcome(
            parameters,
            self.heartbeat_port,
            secrets.randbits(64),
            secrets.token_bytes(HEARTBEAT_KEY_SIZE),
            secrets.token_bytes(HEARTBEAT_KEY_SIZE),
            min(hello.resume_ms, resume_ms(self.limits.resume_timeout_s)),
            secrets.token_bytes(RESUME_SECRET_SIZE),
        )
        path.write(path.encode(FrameType.WELCOME, encode_welcome(welcome)))
        await path.drain()
        return self.channel_of(path, identity, hello, welcome)

    def channel_of(self, path: Path, identity: Identity, hello: Hello, welcome: Welcome) -> Channel:
        session_id = welcome.session_id
        keys = HeartbeatKeys(session_id, welcome.key_to_client, welcome.key_to_server)
        wire = path.wire
        peer = Peer(identity, hello.parameters, wire.peer_host, wire.peer_port, keys, hello.heartbeat_port)
        terms = ResumeTerms(welcome.resume_secret, welcome.resume_ms / 1000)
        return Channel(path, peer, self.limits, terms, on_interrupted=lambda: self.wait_for(session_id))

    def resume(self, path: Path, identity: Identity, frame: Frame) -> None:
        request = decode_resume(frame.payload)
        channel = self.sessions.get(request.session_id)
        if channel is None or not channel.resume(path, identity, request):
            raise Refuse(UNKNOWN_SESSION)
        _logger.info("%s: connected again", identity)
