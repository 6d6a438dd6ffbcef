"""Where the processes of a cluster live: all on loopback, or each on a host of its own that can be cut off.

Hosts are network namespaces with a bridge between them; the bench itself, with its clients, stands on the bridge in
the namespace that it was started in. A cut is silent in both directions, as a broken switch is: a host is taken off
the bridge, or two hosts drop what comes from each other. Needs root, iproute2 and iptables.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftvm.errors import FtvmError

TOOLS = {"ip": "iproute2", "iptables": "iptables"}
SUBNET = "10.213.77"
COMMAND_TIMEOUT_S = 10.0
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
"""linux/sched.h; os.setns comes with Python 3.12 only."""

BRIDGE = "br0"
_LEFTOVER = re.compile(r"fb(\d+)-\w+")


class HostsError(FtvmError):
    """A command that makes or cuts the hosts' network failed."""


@dataclass(frozen=True, slots=True)
class Host:
    """An address, and what has to stand before a command that is to run there."""

    name: str
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    namespace: str = ""

    def socket(self, family: int, kind: int) -> socket.socket:
        """One of this process that lives in the host's network, wherever it is used from."""
        made: list[socket.socket] = []

        def inside() -> None:  # which network a thread is in stays with the thread
            with (NAMESPACES / self.namespace).open("rb") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) == 0:
                    made.append(socket.socket(family, kind))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if not made:
            raise HostsError(f"{self.namespace}: cannot be entered; run as root")
        return made[0]

    def bridge(self) -> None:
        """Its address moves to a bridge, `BRIDGE`, which other interfaces can be put into."""
        own = f"02:00:00:00:00:{int(self.address.rpartition('.')[2]):02x}"
        for words in (
            ("link", "add", BRIDGE, "address", own, "type", "bridge"),
            ("link", "set", "eth0", "master", BRIDGE),
            ("address", "flush", "dev", "eth0"),
            ("address", "add", f"{self.address}/24", "dev", BRIDGE),
            ("link", "set", BRIDGE, "up"),
        ):
            _run("ip", "-n", self.namespace, *words)


class Loopback:
    """Every host is this computer; nothing can be cut."""

    def host(self, name: str) -> Host:
        return Host(name)


class Network:
    """Hosts by name, on one bridge. Made by `open_network`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._tag = f"fb{os.getpid()}"
        self._bridge = f"{self._tag}-br"
        self._hosts = {
            name: Host(
                name, f"{SUBNET}.{number}", ("ip", "netns", "exec", self._namespace(name)), self._namespace(name)
            )
            for number, name in enumerate(names, start=1)
        }

    def host(self, name: str) -> Host:
        return self._hosts[name]

    def cut_off(self, name: str) -> None:
        """From everybody, clients too."""
        _run("ip", "link", "set", self._wire(name), "nomaster")

    def isolate(self, name: str) -> None:
        """From the other hosts; the clients reach it."""
        for other in self._hosts.values():
            if other.name != name:
                self._drop(other, self._hosts[name])
                self._drop(self._hosts[name], other)

    def mend(self) -> None:
        for host in self._hosts.values():
            _run("ip", "link", "set", self._wire(host.name), "master", self._bridge)
            _run(*host.prefix, "iptables", "-F", "INPUT")

    def _drop(self, at: Host, source: Host) -> None:
        _run(*at.prefix, "iptables", "-A", "INPUT", "-s", source.address, "-j", "DROP")

    def _namespace(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _wire(self, name: str) -> str:
        return f"{self._tag}-{list(self._hosts).index(name)}"

    def make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{SUBNET}.254/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for host in self._hosts.values():
            namespace, wire = self._namespace(host.name), self._wire(host.name)
            _run("ip", "netns", "add", namespace)
            _run("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _run("ip", "link", "set", wire, "master", self._bridge, "up")
            for words in (("address", "add", f"{host.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                _run("ip", "-n", namespace, *words)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")


@contextmanager
def open_network(names: Sequence[str]) -> Iterator[Network]:
    """Makes the hosts, and removes them on leaving. Raises `HostsError`."""
    _remove_leftovers()
    network = Network(names)
    try:
        network.make()
        yield network
    finally:
        _remove(network._tag)


def obstacle() -> str:
    """Why hosts cannot be made here; "" if they can."""
    if os.geteuid() != 0:
        return "hosts that can be cut off need root"
    absent = [f"{tool} (Debian: apt install {name})" for tool, name in TOOLS.items() if shutil.which(tool) is None]
    return f"hosts that can be cut off need {', '.join(absent)}" if absent else ""


def _remove_leftovers() -> None:
    """Of runs that were killed."""
    names = [path.name for folder in ("/run/netns", "/sys/class/net") for path in Path(folder).glob("fb*-*")]
    for match in filter(None, map(_LEFTOVER.fullmatch, names)):
        if not Path(f"/proc/{match[1]}").exists():
            _remove(f"fb{match[1]}")


def _remove(tag: str) -> None:
    for namespace in NAMESPACES.glob(f"{tag}-*"):
        _run("ip", "netns", "delete", namespace.name)  # its end of the wire goes, and so the other
    for wire in Path("/sys/class/net").glob(f"{tag}-*"):
        subprocess.run(["ip", "link", "delete", wire.name], capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostsError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
