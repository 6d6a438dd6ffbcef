"""A network of several hosts on this computer, made of network namespaces, and every way to cut it.

Theory of operation. Each host is a namespace with one `eth0`; the other ends of these wires sit on a bridge in a
namespace of its own, the switch. So nothing at all is made, renamed or routed in the namespace that the tests run in:
whatever goes wrong here, the computer's own network stands. A cut is an iptables rule in the namespace of the host
that no longer hears, which is how a broken wire looks from the inside: the sender notices nothing. `reject` instead
answers like a firewall or like a host whose process is gone: a reset for TCP, an ICMP error for the rest.

The names hold the process that made them and when that process started, so that the leftovers of a run that was
killed can be told from another run's network, and are removed by the next one. All commands are short and
synchronous (some ms each). Root is needed.
"""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.needs import lack

TOOLS = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux"}
NAMESPACES = Path("/run/netns")
COMMAND_TIMEOUT_S = 90.0
END_TIMEOUT_S = 30.0
POLL_S = 0.01
PREFIX_LENGTH = 24
CLONE_NEWNET = 0x40000000
"""linux/sched.h; os.setns comes with Python 3.12 only."""

_NAME = re.compile(r"ftvm-(\d+)-(\d+)-[a-z0-9-]+")
_SWITCH = "switch"
_BRIDGE = "bridge0"
_REFUSALS = (("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"), ("-j", "REJECT"))
_networks = itertools.count(1)


T = TypeVar("T")


class NetworkError(Exception):
    """A command that makes or cuts the network failed; its own words."""


class Host:
    """One namespace. `run` and `start` put programs into it, `socket` opens one there for this process."""

    def __init__(self, name: str, address: str, namespace: str, number: int) -> None:
        self.name = name
        self.address = address
        self.namespace = namespace
        self.port = f"port{number}"
        """The other end of its wire, on the switch."""
        self.link_address = f"02:00:00:00:00:{number:02x}"

    def command(self, *words: str) -> list[str]:
        """`words` as a command line that runs them in here, as the same process that is started."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", *words]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process in here; `options` are those of `Popen`. Its pid is that of the program itself."""
        return subprocess.Popen(self.command(*words), **options)

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end; `options` are those of `subprocess.run`."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": COMMAND_TIMEOUT_S, "check": False}
        return subprocess.run(self.command(*words), **(settings | options))

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, called with this host's network around it. What it opens there stays
        there, wherever it is used from."""
        returned: list[T] = []
        raised: list[Exception] = []

        def inside() -> None:
            # A thread of its own: which network a thread is in stays with the thread.
            try:
                with (NAMESPACES / self.namespace).open("rb") as namespace:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(namespace.fileno(), CLONE_NEWNET):
                        raise NetworkError(f"setns {self.namespace}: {os.strerror(ctypes.get_errno())}")
                returned.append(function())
            except Exception as error:
                raised.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]
        return returned[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this process that lives in this host's network."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def deaf_to(self, other: Host, *, reject: bool = False) -> None:
        """From here on nothing that `other` sends arrives in here."""
        for rule in _REFUSALS if reject else (("-j", "DROP"),):
            self._iptables("-A", "INPUT", "-s", other.address, *rule)

    def hear_all(self) -> None:
        self._iptables("-F", "INPUT")

    def _iptables(self, *words: str) -> None:
        _do(*self.command("iptables", "-w", *words))


class Network:
    """The hosts by name, and the cuts between them. Made by `open_network`."""

    def __init__(self, hosts: Mapping[str, Host], switch: str) -> None:
        self.hosts = hosts
        self._switch = switch
        self._cut: set[str] = set()
        self._unplugged: set[str] = set()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def partition(self, one: str, other: str, *, one_way: bool = False, reject: bool = False) -> None:
        """Cut the wire between two hosts. One way: what `one` sends no longer arrives at `other`, the rest does."""
        self._deafen(other, one, reject)
        if not one_way:
            self._deafen(one, other, reject)

    def isolate(self, name: str, *, reject: bool = False) -> None:
        """Cut one host off from all others: silently at one blow, as if its wire were pulled out of the switch; or with
        refusals, one host after the other, the last one first."""
        if not reject:
            self._unplugged.add(name)
            _do("ip", "-n", self._switch, "link", "set", "dev", self.hosts[name].port, "nomaster")
            return
        for other in reversed(list(self.hosts)):
            if other != name:
                self.partition(name, other, reject=True)

    def heal(self) -> None:
        """Undo every cut."""
        while self._unplugged:
            port = self.hosts[self._unplugged.pop()].port
            _do("ip", "-n", self._switch, "link", "set", "dev", port, "master", _BRIDGE)
        while self._cut:
            self.hosts[self._cut.pop()].hear_all()

    def _deafen(self, listener: str, speaker: str, reject: bool) -> None:
        self._cut.add(listener)
        self.hosts[listener].deaf_to(self.hosts[speaker], reject=reject)


@contextmanager
def open_network(addresses: Mapping[str, str]) -> Iterator[Network]:
    """Hosts of these names and IPv4 addresses, all in one subnet of 256; removed on leaving, whatever happens.

    Processes that are still in them are ended. Raises `NetworkError`.
    """
    subnets = {ipaddress.ip_interface(f"{address}/{PREFIX_LENGTH}").network for address in addresses.values()}
    assert len(subnets) == 1, f"hosts of one network need one subnet: {subnets}"
    remove_leftovers()
    prefix = own_name(str(next(_networks)))
    switch = f"{prefix}-{_SWITCH}"
    hosts = {
        name: Host(name, address, f"{prefix}-{name}", number)
        for number, (name, address) in enumerate(addresses.items())
    }
    namespaces = [switch, *(host.namespace for host in hosts.values())]
    assert all(_NAME.fullmatch(namespace) for namespace in namespaces), namespaces
    try:
        for namespace in namespaces:
            _do("ip", "netns", "add", namespace)
        _do("ip", "-n", switch, "link", "add", "name", _BRIDGE, "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "dev", _BRIDGE, "up")
        for host in hosts.values():
            _plug_in(switch, host)
            _set_up(host, [other for other in hosts.values() if other is not host])
        yield Network(hosts, switch)
    finally:
        _remove(namespaces)


def _plug_in(switch: str, host: Host) -> None:
    own_end = ("peer", "name", "eth0", "netns", host.namespace, "address", host.link_address)
    _do("ip", "-n", switch, "link", "add", "name", host.port, "type", "veth", *own_end)
    _do("ip", "-n", switch, "link", "set", "dev", host.port, "master", _BRIDGE, "up")


def _set_up(host: Host, others: Sequence[Host]) -> None:
    """Neighbours are known from the start: while one is cut off, nobody finds out by asking for its link address, and
    no wait between two such questions outlasts the cut."""
    steps = ["link set dev lo up", f"addr add {host.address}/{PREFIX_LENGTH} dev eth0", "link set dev eth0 up"]
    steps += [f"neigh add {other.address} lladdr {other.link_address} dev eth0" for other in others]
    _do("ip", "-n", host.namespace, "-batch", "-", said="\n".join(steps))


def own_name(what: str) -> str:
    """A name for something of this process that outlives it if it is killed, and that can be told to have outlived."""
    return f"ftvm-{os.getpid()}-{_started(os.getpid())}-{what}"


def is_leftover(name: str) -> bool:
    """Whether this is an `own_name` of a process that is no more."""
    match = _NAME.fullmatch(name)
    return match is not None and _started(int(match[1])) != int(match[2])


def remove_leftovers() -> None:
    """The networks of processes that are no more, by their names."""
    if not NAMESPACES.is_dir():
        return
    _remove([path.name for path in NAMESPACES.iterdir() if is_leftover(path.name)])


def _remove(namespaces: Sequence[str]) -> None:
    inside = [pid for name in namespaces for pid in _inside(name)]
    for pid in inside:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait_gone(inside)
    for namespace in namespaces:
        if (NAMESPACES / namespace).exists():
            with suppress(NetworkError):  # another run may remove the same leftovers
                _do("ip", "netns", "del", namespace)


def _inside(namespace: str) -> list[int]:
    try:
        return [int(pid) for pid in _do("ip", "netns", "pids", namespace).split()]
    except NetworkError:
        return []


def _wait_gone(pids: Sequence[int]) -> None:
    """Until they have ended; one that its parent has not waited for yet has ended."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while any(_state(pid) not in ("", "Z") for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's closing parenthesis, proc(5); [] if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _started(pid: int) -> int:
    """When the process started, in clock ticks since boot; -1 if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else -1


def _do(*words: str, said: str = "") -> str:
    options: dict[str, Any] = {"input": said, "capture_output": True, "text": True, "timeout": COMMAND_TIMEOUT_S}
    try:
        done = subprocess.run(words, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        raise NetworkError(f"{' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return str(done.stdout)


def missing() -> str:
    """What has to be installed or changed for namespaces to work here; "" if nothing."""
    packages = sorted({package for name, package in TOOLS.items() if shutil.which(name) is None})
    if packages:
        return f"network namespaces: apt-get install {' '.join(packages)}"
    if os.geteuid():
        return "network namespaces need root: run the tests as root"
    probe = own_name("probe")
    try:
        _do("ip", "netns", "add", probe)
        _do("ip", "netns", "del", probe)
    except NetworkError as error:
        return f"network namespaces cannot be made here ({error}): allow CAP_SYS_ADMIN, or use a virtual machine"
    return ""


def require_namespaces() -> None:
    """Skips the test where namespaces cannot be made, or fails it where everything must run (CI)."""
    lacking = missing()
    if lacking:
        lack(lacking)
