"""Dialling: a connection to a listener, with mutual TLS, our first frame and the answer to it."""

import errno
import ssl
from collections.abc import Callable

import trio

from transport.errors import ConnectFailed
from transport.frame import Frame, FrameType
from transport.handshake import HANDSHAKE_SIZE_MAX
from transport.identity import Identity
from transport.path import Path, SocketWire
from transport.tls import TlsCipher


async def dial(
    host: str,
    port: int,
    context: ssl.SSLContext,
    check: Callable[[Identity], None],
    first: FrameType,
    payload: bytes,
) -> tuple[Path, Identity, Frame]:
    """The path, who the peer is, and its answer to our first frame.

    `check(identity)` sees the peer's certificate before anything is said, and raises what it does not like.
    Raises ConnectFailed or another TransportError. Cancellation closes what was opened.
    """
    try:
        wire = SocketWire(await trio.open_tcp_stream(host, port))
    except OSError as error:
        why = ", ".join(dict.fromkeys(getattr(one, "strerror", None) or str(one) for one in _attempts(error)))
        raise ConnectFailed(f"cannot connect to {host}:{port}: {why}", refused=is_refused(error)) from error
    path = Path(wire, TlsCipher(context, server_side=False))
    path.decoder.payload_size_max = HANDSHAKE_SIZE_MAX
    try:
        await path.handshake()
        identity = path.cipher.peer_identity()
        check(identity)
        path.write(path.encode(first, payload))
        await path.drain()
        return path, identity, await path.read_frame()
    except BaseException:
        path.close()
        raise


def is_refused(error: OSError) -> bool:
    """Whether nobody listens, on every address that the name has."""
    return all(isinstance(one, OSError) and one.errno == errno.ECONNREFUSED for one in _attempts(error))


def _attempts(error: OSError) -> tuple[BaseException, ...]:
    """What the operating system said, for every address that the name has."""
    cause = error.__cause__
    return cause.exceptions if isinstance(cause, BaseExceptionGroup) else (error,)
