"""A client of the edge: a socket that the edge writes to without ever waiting for it."""

from __future__ import annotations

import socket

import trio

from ftvm.host import logs

RECEIVE_SIZE = 65536
CLIENT_BUFFER_MAX = 8 << 20
"""Bytes of answers that one client may leave unread. Then it is disconnected, and the machine goes on."""

_log = logs.get_logger("edge")


class Client:
    """One client's socket. `push` never waits; `drain` is one task's. OSError if it is gone already."""

    def __init__(self, stream: trio.SocketStream) -> None:
        name = stream.socket.getpeername()
        self.name = f"{name[0]}:{name[1]}"
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent = bytearray()
        self._more = trio.Event()
        self._sent = trio.lowlevel.ParkingLot()
        self.gone = trio.Event()

    def push(self, data: bytes) -> None:
        """Send what the kernel takes now, keep the rest. A client that leaves too much unread is gone."""
        if self.gone.is_set():
            return
        if not self._unsent:
            try:
                data = data[self._socket.send(data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.gone.set()
                return
        if data:
            self._unsent += data
            self._more.set()
            if len(self._unsent) > CLIENT_BUFFER_MAX:
                _log.warning("client does not read: disconnected", client=self.name, unread=len(self._unsent))
                self.gone.set()

    async def drain(self) -> None:
        """Send what `push` had to keep, until the client is gone."""
        while not self.gone.is_set():
            if not self._unsent:
                self._sent.unpark_all()
                self._more = trio.Event()
                await self._more.wait()
                continue  # it may be gone, and closed
            try:
                await trio.lowlevel.wait_writable(self._socket)
                del self._unsent[: self._socket.send(self._unsent[:RECEIVE_SIZE])]
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError):
                self.gone.set()

    async def flushed(self) -> None:
        """Until `drain` has nothing left to send."""
        while self._unsent and not self.gone.is_set():
            await self._sent.park()

    async def receive(self) -> bytes:
        """What the client sent; b"" at its end."""
        while not self.gone.is_set():
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return self._socket.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError):
                break
        return b""

    def close(self) -> None:
        self.gone.set()
        self._more.set()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
