"""Listening: who may come in, and what a stranger can cost us.

Until WELCOME a connection has one of HALF_OPEN_MAX places, a deadline, a bounded buffer, and ends in one
log line. When all places are taken the oldest is thrown out: a good client needs milliseconds, so the
oldest is the one that dawdles.
"""

import errno
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from transport.channel import Channel, Limits, Peer, run_channel
from transport.errors import ChannelClosed, IdentityMismatch, ListenFailed, Refuse, TransportError
from transport.frame import FrameType
from transport.handshake import (
    HANDSHAKE_SIZE_MAX,
    HEARTBEAT_KEY_SIZE,
    Parameters,
    ServerHandshake,
    Welcome,
    encode_reason,
    encode_welcome,
)
from transport.heartbeat import HeartbeatKeys
from transport.identity import Expectation, Identity
from transport.path import Path, PathLost, SocketWire
from transport.tls import TlsCipher

HALF_OPEN_MAX = 64
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
        try:
            path = Path(wire, TlsCipher(self.context, server_side=True))
            peer = await self.admit(path)
            if peer is None:
                return
            try:
                async with run_channel(path, peer, self.limits) as channel:
                    await self.handler(channel)
            except ChannelClosed as error:
                _logger.debug("%s: %s", peer.identity, error)
            except TransportError as error:
                _logger.warning("%s: %s", peer.identity, error)
        finally:
            wire.close()

    async def admit(self, path: Path) -> Peer | None:
        """The handshake, within its deadline; None when the client was refused and the log says so."""
        if len(self.half_open) >= HALF_OPEN_MAX:
            next(iter(self.half_open)).cancel()
        where = f"{path.wire.peer_host}:{path.wire.peer_port}"
        is_logged = False
        with trio.move_on_after(self.limits.handshake_timeout_s) as scope:
            self.half_open[scope] = None
            try:
                return await self.shake_hands(path)
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
        return None

    async def shake_hands(self, path: Path) -> Peer:
        path.decoder.payload_size_max = HANDSHAKE_SIZE_MAX
        await path.handshake()
        try:
            identity = path.cipher.peer_identity()
            self.expect.check(identity)
            hello = ServerHandshake().receive(await path.read_frame())
            parameters = self.accept(identity, hello.parameters)
        except (IdentityMismatch, Refuse) as error:
            path.write(path.encode(FrameType.REFUSED, encode_reason(str(error))))
            raise
        welcome = Welcome(
            parameters,
            self.heartbeat_port,
            secrets.randbits(64),
            secrets.token_bytes(HEARTBEAT_KEY_SIZE),
            secrets.token_bytes(HEARTBEAT_KEY_SIZE),
        )
        path.write(path.encode(FrameType.WELCOME, encode_welcome(welcome)))
        await path.drain()
        keys = HeartbeatKeys(welcome.session_id, welcome.key_to_client, welcome.key_to_server)
        wire = path.wire
        return Peer(identity, hello.parameters, wire.peer_host, wire.peer_port, keys, hello.heartbeat_port)
