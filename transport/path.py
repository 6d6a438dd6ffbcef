"""One path: frames over one encrypted connection.

Writing is split in two. `write` encrypts and hands to the kernel what it takes at once; the rest stays in
a buffer, and `drain` (one task only) waits for the kernel. Nothing is lost when `drain` is cancelled, and
in the usual case, an idle connection, a message is on its way without a round through the scheduler.
"""

import contextlib
import socket
from typing import Protocol

import trio

from transport.errors import TransportError
from transport.frame import Frame, FrameDecoder, FrameEncoder, FrameType
from transport.tls import Cipher

RECEIVE_SIZE = 128 * 1024
WRITE_SIZE = 256 * 1024
"""How much plaintext is encrypted at once: what waits in the buffer is at most this and a frame."""
UNSENT_SIZE_MAX = 4 * WRITE_SIZE
"""What waits for the kernel when TLS itself has to answer a peer that asks without end and does not read."""

_SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # A host that vanished without a word is found in the end, also where nobody beats.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5),
    # And a flow that swallows what is sent, while datagrams still pass, does not hold outputs back for a quarter hour.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000),
)
_CLOSED_HERE = "connection closed by this side"


class PathLost(TransportError):
    """The connection ended without a goodbye."""


class PathEnded(PathLost):
    """The peer ended the connection in order, with nothing half said."""


class Wire(Protocol):
    """A raw connection of bytes, as a path wants it."""

    def try_send(self, data: memoryview) -> int:
        """Send what can be sent without waiting; returns how many bytes. Raises PathLost."""

    async def wait_sendable(self) -> None:
        """Wait until `try_send` may get on. Raises PathLost if closed."""

    async def receive_some(self) -> bytes:
        """b"" at the end. Cancellation loses nothing. Raises PathLost."""

    def send_eof(self) -> None:
        """Nothing more will be sent; the peer may go on."""

    def close(self) -> None:
        """At once; wakes who waits. May be called again."""

    @property
    def peer_host(self) -> str: ...

    @property
    def peer_port(self) -> int: ...


class SocketWire:
    """A connected TCP socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        address = stream.socket.getpeername()
        self._peer = (str(address[0]), int(address[1]))
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        for level, option, value in _SOCKET_OPTIONS:
            self._socket.setsockopt(level, option, value)

    @property
    def peer_host(self) -> str:
        return self._peer[0]

    @property
    def peer_port(self) -> int:
        return self._peer[1]

    def try_send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise PathLost(f"connection lost: {error.strerror}") from error

    async def wait_sendable(self) -> None:
        self._check_open()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError as error:
            raise PathLost(_CLOSED_HERE) from error

    async def receive_some(self) -> bytes:
        while True:
            self._check_open()
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return self._socket.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                continue
            except trio.ClosedResourceError as error:
                raise PathLost(_CLOSED_HERE) from error
            except OSError as error:
                raise PathLost(f"connection lost: {error.strerror}") from error

    def send_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _check_open(self) -> None:
        """A wait for a closed socket, whose number is -1, would never leave trio's books."""
        if self._socket.fileno() < 0:
            raise PathLost(_CLOSED_HERE)


class Path:
    """Frames over a wire and a cipher. One reading task, one draining task."""

    def __init__(self, wire: Wire, cipher: Cipher) -> None:
        self.wire = wire
        self.cipher = cipher
        self.decoder = FrameDecoder()
        self._encoder = FrameEncoder()
        self._unsent = memoryview(b"")
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def is_drained(self) -> bool:
        return not self._unsent

    async def handshake(self) -> None:
        """The TLS handshake. Raises what the cipher raises, after its alert is on the way, or PathLost."""
        while True:
            try:
                is_done = self.cipher.handshake()
            except TransportError:
                with contextlib.suppress(PathLost):
                    self._send_ciphertext()
                raise
            self._send_ciphertext()
            await self.drain()
            if is_done:
                # The peer's first frame may have come with the end of its handshake.
                self.decoder.feed(self.cipher.read())
                return
            self.cipher.feed(await self._receive_some())

    def encode(self, frame_type: FrameType, *parts: bytes | memoryview) -> bytes:
        return self._encoder.encode(frame_type, *parts)

    def write(self, frames: bytes) -> None:
        """Encrypt encoded frames and send what the kernel takes. Never waits. Raises PathLost."""
        self.cipher.write(frames)
        self._send_ciphertext()

    async def drain(self) -> None:
        """Wait until everything written is with the kernel. Cancellation loses nothing."""
        while self._unsent:
            await self.wire.wait_sendable()
            self._send_unsent()

    async def read_frame(self) -> Frame:
        """The next frame. Raises FrameError, PathLost, or what the cipher raises."""
        while (frame := self.decoder.next_frame()) is None:
            self.cipher.feed(await self._receive_some())
            self.decoder.feed(self.cipher.read())
            self._send_ciphertext()
            if len(self._unsent) > UNSENT_SIZE_MAX:
                raise PathLost("connection given up: the peer does not read the answers to what it asks")
        return frame

    async def wait_end(self) -> None:
        """Read and throw away until the peer ends the connection."""
        with contextlib.suppress(TransportError):
            while True:
                await self._receive_some()

    def end(self) -> None:
        """Say that nothing more will be sent. Only when drained."""
        with contextlib.suppress(TransportError):
            self.cipher.close()
            self._send_ciphertext()
        self.wire.send_eof()

    def close(self) -> None:
        self.wire.close()

    async def _receive_some(self) -> bytes:
        data = await self.wire.receive_some()
        if not data:
            self.decoder.finish()
            raise PathEnded("connection lost: the peer ended it without a goodbye")
        self.bytes_in += len(data)
        return data

    def _send_ciphertext(self) -> None:
        ciphertext = self.cipher.take()
        if not ciphertext:
            return
        self.bytes_out += len(ciphertext)
        if self._unsent:
            self._unsent = memoryview(bytes(self._unsent) + ciphertext)
        else:
            self._unsent = memoryview(ciphertext)
            self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent:
            sent = self.wire.try_send(self._unsent)
            if not sent:
                return
            self._unsent = self._unsent[sent:]
