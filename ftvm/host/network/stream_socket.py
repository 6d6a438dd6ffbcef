"""Frames on a stream socket, as QEMU's `-netdev stream` has them: to join two machines, or to plug one into a switch.

A client connects again for as long as it takes; a server serves one peer at a time, the newest. While there is no peer
the cable is out: what the guest sends is dropped.
"""

import os
import select
import socket
import stat
import time
from contextlib import suppress

from ftvm.errors import FtvmError, ProtocolError
from ftvm.host.network.frames import FRAME_SIZE_MAX, FrameDecoder, FrameQueue, encode_frame
from ftvm.host.network.interface import NetworkStatistics
from ftvm.host.network.readiness import Readiness
from ftvm.networks import StreamNetwork

RECONNECT_S = 0.5
RECEIVE_SIZE = 65536
UNSENT_MAX = 1 << 20
QUEUE_PAUSE = 256 * 1024
QUEUE_MAX = QUEUE_PAUSE + 2 * (RECEIVE_SIZE + FRAME_SIZE_MAX)


class StreamSocket:
    """A `Network`."""

    def __init__(self, spec: StreamNetwork) -> None:
        self._spec = spec
        self._queue = FrameQueue(QUEUE_MAX)
        self._decoder = FrameDecoder()
        self._unsent = bytearray()
        self._from_guest = self._dropped = 0
        self._peer: socket.socket | None = None
        self._is_connecting = False
        self._retry_at: float | None = None
        self._readiness = Readiness()
        self._address = self._resolve()
        self._listener: socket.socket | None = None
        if spec.is_server:
            self._listener = self._listen()
            self._readiness.watched.register(self._listener, select.EPOLLIN)
        else:
            self._connect()

    def _resolve(self) -> tuple[int, object]:
        """Address family and address."""
        spec = self._spec
        if spec.path:
            return socket.AF_UNIX, spec.path
        try:
            found = socket.getaddrinfo(spec.host, spec.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise FtvmError(f"--net {spec}: {error.strerror}; give an address that exists") from None
        return found[0][0], found[0][4]

    def _listen(self) -> socket.socket:
        family, address = self._address
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_UNIX:
                _remove_dead_socket(self._spec.path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)  # type: ignore[arg-type]
            listener.listen(1)
        except OSError as error:
            listener.close()
            self._readiness.close()
            raise FtvmError(f"--net {self._spec}: {error.strerror}; choose another address") from None
        return listener

    # ---- a network

    def fileno(self) -> int:
        return self._readiness.fileno()

    def timeout_s(self) -> float | None:
        return None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())

    def process(self) -> None:
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._connect()
        for fd, events in self._readiness.watched.poll(0):
            if self._listener is not None and fd == self._listener.fileno():
                self._accept()
            elif self._peer is not None and fd == self._peer.fileno():
                self._serve(events)

    def send(self, frame: bytes) -> None:
        self._from_guest += 1
        is_up = self._peer is not None and not self._is_connecting
        if is_up and 0 < len(frame) <= FRAME_SIZE_MAX and len(self._unsent) + len(frame) <= UNSENT_MAX:
            self._unsent += encode_frame(frame)
            self._push()
        else:
            self._dropped += 1

    def receive(self) -> bytes | None:
        frame = self._queue.get()
        if self._queue.size < QUEUE_PAUSE // 2:
            self._readiness.pause(False)
        return frame

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics(self._from_guest, self._queue.count, self._dropped, self._queue.dropped)

    def close(self) -> None:
        self._drop_peer()
        if self._listener is not None:
            self._listener.close()
            if self._spec.path:
                with suppress(OSError):
                    os.unlink(self._spec.path)
        self._readiness.close()

    # ---- the peer

    def _connect(self) -> None:
        family, address = self._address
        self._retry_at = None
        peer = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            peer.connect(address)  # type: ignore[arg-type]
        except BlockingIOError:
            pass
        except OSError:
            peer.close()
            self._retry_at = time.monotonic() + RECONNECT_S
            return
        self._is_connecting = True
        self._take_peer(peer, select.EPOLLOUT)

    def _accept(self) -> None:
        assert self._listener is not None
        with suppress(OSError):
            peer, _ = self._listener.accept()
            peer.setblocking(False)
            self._drop_peer()
            self._take_peer(peer, select.EPOLLIN)

    def _take_peer(self, peer: socket.socket, events: int) -> None:
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peer = peer
        self._readiness.watched.register(peer, events)

    def _drop_peer(self) -> None:
        """Frames that were half on their way end here."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._decoder.reset()
        self._unsent.clear()
        self._is_connecting = False

    def _lose_peer(self) -> None:
        self._drop_peer()
        if self._listener is None:
            self._retry_at = time.monotonic() + RECONNECT_S

    def _serve(self, events: int) -> None:
        assert self._peer is not None
        if self._is_connecting:
            if self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._lose_peer()
                return
            self._is_connecting = False
            self._readiness.watched.modify(self._peer, select.EPOLLIN)
            return
        if events & select.EPOLLOUT:
            self._push()
        if events & ~select.EPOLLOUT:
            self._take_in()

    def _push(self) -> None:
        """Send what the kernel takes; the rest when it takes more."""
        assert self._peer is not None
        try:
            del self._unsent[: self._peer.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose_peer()
            return
        self._readiness.watched.modify(self._peer, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))

    def _take_in(self) -> None:
        while self._peer is not None:
            if self._queue.size >= QUEUE_PAUSE:
                self._readiness.pause(True)
                return
            try:
                data = self._peer.recv(RECEIVE_SIZE)
                if not data:
                    raise ConnectionResetError
                for frame in self._decoder.feed(data):
                    self._queue.put(frame)
            except BlockingIOError:
                return
            except (OSError, ProtocolError):
                self._lose_peer()


def _remove_dead_socket(path: str) -> None:
    """A socket file that its process left behind. OSError if there is something else, or somebody listens."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
