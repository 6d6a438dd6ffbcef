"""A TAP interface of the host. (linux/Documentation/networking/tuntap.rst, netdevice(7).)

The interface belongs to whoever made it: it is left as it was found, but for being up, in the bridge and of an MTU that
the guest's card can use. Only with a bridge to put it into it is made here, if it does not exist, and then it ends
with this process.
"""

import errno
import fcntl
import os
import select
import socket
import struct

from ftvm.errors import FtvmError
from ftvm.host.network.frames import ETHERNET_HEADER_SIZE, FRAME_SIZE_MAX, FrameQueue
from ftvm.host.network.interface import NetworkStatistics
from ftvm.host.network.readiness import Readiness
from ftvm.networks import TapNetwork

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFMTU, SIOCSIFMTU, SIOCBRADDIF = 0x8913, 0x8914, 0x8921, 0x8922, 0x89A2
IFF_UP = 1
RTM_GETLINK, NLM_F_REQUEST, IFLA_MASTER = 18, 1, 10

QUEUE_MAX = 512 * 1024
QUEUE_PAUSE = QUEUE_MAX - FRAME_SIZE_MAX - 4
"""Beyond this nothing is read: the interface has a queue of its own, and drops what it cannot hold."""


class Tap:
    """A `Network`."""

    def __init__(self, spec: TapNetwork, mtu: int) -> None:
        self._name = spec.name
        self._queue = FrameQueue(QUEUE_MAX)
        self._from_guest = self._dropped = 0
        if _index(spec.name) is None and not spec.bridge:
            raise FtvmError(
                f"--net {spec}: there is no interface {spec.name}; make it:"
                f" ip tuntap add dev {spec.name} mode tap user $USER"
            )
        self._file = _open(spec)
        self._readiness = Readiness()
        try:
            _set_up(spec, mtu)
            self._readiness.watched.register(self._file, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._readiness.fileno()

    def timeout_s(self) -> float | None:
        return None

    def process(self) -> None:
        """Raises `FtvmError` when the interface was removed."""
        while self._queue.size < QUEUE_PAUSE:
            try:
                frame = os.read(self._file, FRAME_SIZE_MAX + 1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EIO:  # it is down; it may come up again
                    return
                raise FtvmError(
                    f"--net tap:{self._name}: {error.strerror}; was the interface removed? Start again with it"
                ) from None
            if 0 < len(frame) <= FRAME_SIZE_MAX:
                self._queue.put(frame)
        self._readiness.pause(True)

    def send(self, frame: bytes) -> None:
        self._from_guest += 1
        try:
            if len(frame) < ETHERNET_HEADER_SIZE:
                raise OSError(errno.EINVAL, "shorter than an Ethernet header")
            os.write(self._file, frame)
        except OSError:
            self._dropped += 1

    def receive(self) -> bytes | None:
        frame = self._queue.get()
        if self._queue.size < QUEUE_PAUSE // 2:
            self._readiness.pause(False)
        return frame

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics(self._from_guest, self._queue.count, self._dropped, self._queue.dropped)

    def close(self) -> None:
        self._readiness.close()
        os.close(self._file)


def _open(spec: TapNetwork) -> int:
    try:
        file = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FtvmError(f"--net {spec}: {TUN}: {error.strerror}; modprobe tun, or run as root") from None
    try:
        fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", spec.name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError as error:
        os.close(file)
        advice = {
            errno.EPERM: f"run as root, or give it to yourself: ip tuntap add dev {spec.name} mode tap user $USER",
            errno.EBUSY: "another process has it; stop that one or use another interface",
            errno.EINVAL: "it is no TAP interface; use one that `ip tuntap` made",
        }.get(error.errno or 0, "use another interface")
        raise FtvmError(f"--net {spec}: {error.strerror}; {advice}") from None
    return file


def _set_up(spec: TapNetwork, mtu: int) -> None:
    """In the bridge, large enough and up, as far as it is not already: for what is so no right is needed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:

        def ask(request: int, form: str, value: int = 0, of: str = spec.name) -> int:
            packed = struct.pack("16s" + form, of.encode(), value).ljust(40, b"\0")
            return int(struct.unpack_from("16s" + form, fcntl.ioctl(any_socket, request, packed))[1])

        def change(what: str, command: str, request: int, form: str, value: int, of: str = spec.name) -> None:
            try:
                ask(request, form, value, of=of)
            except OSError as error:
                raise FtvmError(
                    f"--net {spec}: cannot {what}: {error.strerror}; do it as root: ip link set {spec.name} {command}"
                ) from None

        if ask(SIOCGIFMTU, "i") < mtu:
            change(f"set its MTU to the card's {mtu}", f"mtu {mtu}", SIOCSIFMTU, "i", mtu)
        if spec.bridge:
            index, bridge = socket.if_nametoindex(spec.name), _index(spec.bridge)
            if bridge is None:
                raise FtvmError(
                    f"--net {spec}: there is no bridge {spec.bridge}; make it: ip link add {spec.bridge} type bridge"
                )
            if _master(index) != bridge:
                change(f"put it into {spec.bridge}", f"master {spec.bridge}", SIOCBRADDIF, "i", index, of=spec.bridge)
        flags = ask(SIOCGIFFLAGS, "H")
        if not flags & IFF_UP:
            change("set it up", "up", SIOCSIFFLAGS, "H", flags | IFF_UP)


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _master(index: int) -> int | None:
    """The index of the bridge that an interface is in. (rtnetlink(7): RTM_GETLINK, IFLA_MASTER.)"""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
        netlink.send(struct.pack("=IHHII", 16 + len(request), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + request)
        answer = netlink.recv(65536)
    at = 16 + 16
    while at + 4 <= len(answer):
        size, kind = struct.unpack_from("=HH", answer, at)
        if kind == IFLA_MASTER:
            return int(struct.unpack_from("=I", answer, at + 4)[0])
        at += max(size, 4) + 3 & ~3
    return None
