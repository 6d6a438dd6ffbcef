"""The user network: a TCP/IP stack between the guest's frames and this process's own sockets, by libslirp.

Theory of operation. libslirp answers the guest's ARP, DHCP and name lookups, ends its TCP connections here, and carries
their bytes on ordinary sockets; a published port is a listening socket of its own. So a flow lives as long as this
process, whatever becomes of the replicas. libslirp does not wait: `slirp_pollfds_fill` says which sockets it wants to
hear of and for how long it has time, `slirp_pollfds_poll` does what is due. Each fill is answered by exactly one poll,
for a second one aborts the process: `process` polls for the fill before it, and fills anew.

What the guest does here must not hurt this process: libslirp sees only ARP and whole, plain IPv4 packets of three
protocols, and opens no more than `FLOWS_MAX` flows. IP fragments are dropped, for some of them make libslirp 4.7 read
and write where it must not: what the guest sends has to fit into the MTU. While the guest takes no frames the stack
stands still: nothing is read from the sockets, and no timer runs.

Facts of libslirp 4.7: it must not be called from its own callbacks; an exception in one would be swallowed; it listens
with a backlog of one; `slirp_cleanup` closes no sockets; finished flows keep theirs in TIME_WAIT; IPv6 is left off.
"""

import ctypes
import os
import resource
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ftvm.errors import FtvmError
from ftvm.host.network import slirp_library as lib
from ftvm.host.network.frames import ETHERNET_HEADER_SIZE, FRAME_SIZE_MAX, FrameQueue
from ftvm.host.network.interface import NetworkStatistics
from ftvm.host.network.readiness import Readiness
from ftvm.networks import Publish, UserNetwork

NETWORK, NETMASK = "10.0.2.0", "255.255.255.0"
HOST, NAME_SERVER, GUEST = "10.0.2.2", "10.0.2.3", "10.0.2.15"
"""As QEMU has them."""

FLOWS_MAX = 2048
"""Each is a socket, and up to 256 KiB of buffers."""
FLOWS_SHARE = 2
"""Flows may take one in so many of the descriptors that this process may have."""

BACKLOG = 128
"""Clients of a published port that wait for their turn."""

IP_HEADER_SIZE = 20
QUEUE_PAUSE = 256 * 1024
"""So many bytes for the guest wait: then the stack stands still."""
QUEUE_MAX = 4 << 20
"""What the guest sends is answered all the same; beyond this answers are dropped."""

_ARP, _IPV4 = b"\x08\x06", b"\x08\x00"
_ICMP, _TCP, _UDP = 1, 6, 17
_HEADER_SIZES = {_ICMP: 8, _TCP: 20, _UDP: 8}
_SYN, _ACK = 0x02, 0x10
_FROM_EPOLL = tuple(
    (event & select.EPOLLIN and lib.POLL_IN)
    | (event & select.EPOLLPRI and lib.POLL_PRI)
    | (event & select.EPOLLOUT and lib.POLL_OUT)
    | (event & select.EPOLLERR and lib.POLL_ERR)
    | (event & select.EPOLLHUP and lib.POLL_HUP)
    for event in range(32)
)
_TO_EPOLL = tuple(
    (event & lib.POLL_IN and select.EPOLLIN)
    | (event & lib.POLL_PRI and select.EPOLLPRI)
    | (event & lib.POLL_OUT and select.EPOLLOUT)
    for event in range(32)
)


class UserStack:
    """A `Network`. One or several in a process, each on one thread."""

    def __init__(self, spec: UserNetwork, mtu: int) -> None:
        self._library = lib.load()
        self._frame_size_max = min(mtu + ETHERNET_HEADER_SIZE, FRAME_SIZE_MAX)
        self._flows_max = min(FLOWS_MAX, _raise_descriptor_limit() // FLOWS_SHARE)
        self._readiness = Readiness()
        self._queue = FrameQueue(QUEUE_MAX)
        self._from_guest = self._dropped = 0
        self._watched: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._revents: dict[int, int] = {}
        self._sockets: set[int] = set()
        self._listening: frozenset[int] = frozenset()
        self._opening = 0
        self._due: float | None = None
        self._failure: BaseException | None = None
        self._callbacks = self._make_callbacks()
        self._add_poll = lib.AddPoll(self._guard(self._on_add_poll, -1))
        self._get_revents = lib.GetRevents(self._guard(self._on_get_revents, 0))
        self._forwarded: list[Publish] = []
        self._slirp = self._library.slirp_new(ctypes.byref(_config(mtu)), ctypes.byref(self._callbacks), None)
        if not self._slirp:
            self._readiness.close()
            raise FtvmError(f"{lib.NAME} makes no stack with an MTU of {mtu}; give the card a smaller one")
        try:
            for port in spec.publish:
                self._publish(port)
        except FtvmError:
            self.close()
            raise
        self._fill()
        self._listening = frozenset(self._wanted)  # nothing else can have been opened yet
        for fd in self._listening:
            _lengthen_backlog(fd)

    def _publish(self, port: Publish) -> None:
        arguments = (port.protocol == "udp", lib.InAddr.of(port.host), port.host_port)
        ctypes.set_errno(0)
        if self._library.slirp_add_hostfwd(self._slirp, *arguments, lib.InAddr.of(GUEST), port.guest_port) < 0:
            why = lib.error_of_last_call()
            raise FtvmError(f"--publish {port}: {port.host}:{port.host_port}: {why}; choose another port of the host")
        self._forwarded.append(port)

    # ---- a network

    def fileno(self) -> int:
        return self._readiness.fileno()

    def timeout_s(self) -> float | None:
        if self._readiness.is_paused or self._due is None:
            return None
        return max(0.0, self._due - time.monotonic())

    def process(self) -> None:
        if self._queue.size >= QUEUE_PAUSE:
            self._readiness.pause(True)
            return
        self._readiness.pause(False)
        self._revents = {fd: _FROM_EPOLL[event & 31] for fd, event in self._readiness.watched.poll(0)}
        self._library.slirp_pollfds_poll(self._slirp, 0, self._get_revents, None)
        self._check()
        self._fill()

    def send(self, frame: bytes) -> None:
        self._from_guest += 1
        if not self._may_enter(frame):
            self._dropped += 1
            return
        self._library.slirp_input(self._slirp, frame, len(frame))
        self._check()
        self._due = 0.0  # it may have opened sockets that nobody watches yet

    def receive(self) -> bytes | None:
        frame = self._queue.get()
        if self._readiness.is_paused and self._queue.size < QUEUE_PAUSE // 2:
            self._readiness.pause(False)
            self._due = 0.0
        return frame

    def statistics(self) -> NetworkStatistics:
        flows = len(self._sockets - self._listening)
        return NetworkStatistics(self._from_guest, self._queue.count, self._dropped, self._queue.dropped, flows)

    def close(self) -> None:
        for port in self._forwarded:
            host = lib.InAddr.of(port.host)
            self._library.slirp_remove_hostfwd(self._slirp, port.protocol == "udp", host, port.host_port)
        self._library.slirp_cleanup(self._slirp)
        for fd in self._sockets:
            with suppress(OSError):
                os.close(fd)
        self._sockets.clear()
        self._readiness.close()

    # ---- what the guest may do

    def _may_enter(self, frame: bytes) -> bool:
        if not ETHERNET_HEADER_SIZE < len(frame) <= self._frame_size_max:
            return False
        kind = frame[12:14]
        return kind == _ARP or (kind == _IPV4 and self._may_enter_ip(frame[ETHERNET_HEADER_SIZE:]))

    def _may_enter_ip(self, packet: bytes) -> bool:
        """Without options, not a fragment, of the length that it says; and if it opens a flow, with room for that."""
        if len(packet) < IP_HEADER_SIZE or packet[0] != 0x45 or packet[6] & 0x3F or packet[7]:
            return False
        size, protocol = int.from_bytes(packet[2:4], "big"), packet[9]
        if size > len(packet) or protocol not in _HEADER_SIZES or size < IP_HEADER_SIZE + _HEADER_SIZES[protocol]:
            return False
        if protocol == _TCP and packet[IP_HEADER_SIZE + 13] & (_SYN | _ACK) != _SYN:
            return True
        if len(self._sockets) + self._opening >= self._flows_max:
            return False
        self._opening += 1
        return True

    # ---- libslirp's sockets

    def _fill(self) -> None:
        self._wanted = {}
        self._opening = 0
        timeout_ms = ctypes.c_uint32(lib.TIMEOUT_NONE)
        self._library.slirp_pollfds_fill(self._slirp, ctypes.byref(timeout_ms), self._add_poll, None)
        self._check()
        for fd in self._watched.keys() - self._wanted.keys():
            self._unwatch(fd)
        for fd, events in self._wanted.items():
            if self._watched.get(fd) != events:
                self._watch(fd, events)
        has_time = timeout_ms.value == lib.TIMEOUT_NONE
        self._due = None if has_time else time.monotonic() + timeout_ms.value / 1000

    def _watch(self, fd: int, events: int) -> None:
        epoll = self._readiness.watched
        try:
            epoll.modify(fd, events)
        except FileNotFoundError:
            epoll.register(fd, events)
        self._watched[fd] = events

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            with suppress(OSError):  # libslirp has closed it
                self._readiness.watched.unregister(fd)

    # ---- callbacks

    def _make_callbacks(self) -> lib.SlirpCb:
        """Timers are made for IPv6 only."""
        guard = self._guard
        return lib.SlirpCb(
            send_packet=lib.SendPacket(guard(self._on_send_packet, -1)),
            guest_error=lib.GuestError(lambda _text, _opaque: None),
            clock_get_ns=lib.ClockGetNs(lambda _opaque: time.monotonic_ns()),
            timer_new=lib.TimerNew(lambda _callback, _argument, _opaque: None),
            timer_free=lib.TimerFree(lambda _timer, _opaque: None),
            timer_mod=lib.TimerMod(lambda _timer, _expires, _opaque: None),
            register_poll_fd=lib.PollFd(guard(self._on_socket, None)),
            unregister_poll_fd=lib.PollFd(guard(self._on_socket_closed, None)),
            notify=lib.Notify(lambda _opaque: None),
        )

    def _guard(self, callback: Callable[..., Any], failed: int | None) -> Callable[..., Any]:
        """What is raised in a callback is kept until libslirp has returned."""

        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except BaseException as error:
                self._failure = self._failure or error
                return failed

        return guarded

    def _check(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_send_packet(self, data: int, size: int, _opaque: object) -> int:
        if size <= FRAME_SIZE_MAX:
            self._queue.put(ctypes.string_at(data, size))
        return size

    def _on_socket(self, fd: int, _opaque: object) -> None:
        self._sockets.add(fd)
        self._watched.pop(fd, None)  # its number may have been another's, which the kernel has forgotten

    def _on_socket_closed(self, fd: int, _opaque: object) -> None:
        self._sockets.discard(fd)
        self._unwatch(fd)

    def _on_add_poll(self, fd: int, events: int, _opaque: object) -> int:
        if fd in self._listening and len(self._sockets) >= self._flows_max:
            return -1  # clients wait in the kernel's queue
        self._wanted[fd] = _TO_EPOLL[events & 31]
        return fd

    def _on_get_revents(self, index: int, _opaque: object) -> int:
        return self._revents.get(index, 0)


def _config(mtu: int) -> lib.SlirpConfig:
    return lib.SlirpConfig(
        version=lib.CONFIG_VERSION,
        in_enabled=True,
        vnetwork=lib.InAddr.of(NETWORK),
        vnetmask=lib.InAddr.of(NETMASK),
        vhost=lib.InAddr.of(HOST),
        vdhcp_start=lib.InAddr.of(GUEST),
        vnameserver=lib.InAddr.of(NAME_SERVER),
        if_mtu=mtu,
        if_mru=mtu,
    )


def _lengthen_backlog(fd: int) -> None:
    """libslirp lets one connection wait to be accepted: of several clients at once the others would try again after
    seconds."""
    with socket.socket(fileno=os.dup(fd)) as published:
        if published.type == socket.SOCK_STREAM:
            published.listen(BACKLOG)


def _raise_descriptor_limit() -> int:
    """As many descriptors as the system lets this process have, for finished flows keep theirs for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return FLOWS_MAX * FLOWS_SHARE if soft == resource.RLIM_INFINITY else soft
