"""What `--net` and `--publish` say, and `[edge] net` and `publish` in `machine.toml`: to which network the guest's card
is plugged.

    user                            a private network behind this process's own sockets (libslirp); needs no root
    tap:NAME[,bridge=BRIDGE]        a TAP interface of the host
    stream:HOST:PORT[,server]       frames on a TCP connection, as QEMU's `-netdev stream` has them
    stream:unix:PATH[,server]       the same on a Unix socket
    none                            no cable

`--publish [HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|/udp]` forwards a port of the host to the guest, on a `user` network.
Unlike docker, a port is published on 127.0.0.1 unless HOST_IP says where: what the guest serves may have no password.
`0.0.0.0` publishes it on all addresses of the host.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ftvm.errors import ConfigError

PUBLISH_HOST = "127.0.0.1"
PUBLISH_MAX = 64
INTERFACE_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""Linux takes 15 bytes, and of these nearly all; nobody misses the rest."""

UNIX_PATH_MAX = 107
"""Bytes that `sun_path` holds on Linux."""

FORMS = "user, tap:NAME[,bridge=BRIDGE], stream:HOST:PORT[,server], stream:unix:PATH[,server] or none"


@dataclass(frozen=True, slots=True)
class Publish:
    """A port of the host that leads to one of the guest."""

    host: str
    host_port: int
    guest_port: int
    protocol: str = "tcp"
    """`tcp` or `udp`."""

    @classmethod
    def parse(cls, text: str) -> "Publish":
        """As `--publish` has it. Raises `ConfigError`."""
        ports, slash, protocol = text.partition("/")
        parts = ports.split(":")
        host = parts.pop(0) if len(parts) == 3 else PUBLISH_HOST
        try:
            if len(parts) != 2 or (slash and protocol not in ("tcp", "udp")):
                raise ValueError
            host_port, guest_port = (_port(part) for part in parts)
            host = str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ConfigError(
                f"--publish {text!r:.60}: expected [HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|/udp] with an IPv4 address and"
                f" ports from 1 to 65535, such as 6379:6379; correct it"
            ) from None
        return cls(host, host_port, guest_port, protocol or "tcp")

    def __str__(self) -> str:
        return f"{self.host}:{self.host_port}:{self.guest_port}/{self.protocol}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 0x10000:
        raise ValueError
    return int(text)


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """QEMU's user network: the guest is 10.0.2.15, the host 10.0.2.2, the name server 10.0.2.3."""

    publish: tuple[Publish, ...] = ()

    def __str__(self) -> str:
        return "user"


@dataclass(frozen=True, slots=True)
class TapNetwork:
    name: str
    bridge: str = ""
    """The bridge that the interface is plugged into; "": it is left where it is."""

    def __str__(self) -> str:
        return f"tap:{self.name}" + (f",bridge={self.bridge}" if self.bridge else "")


@dataclass(frozen=True, slots=True)
class StreamNetwork:
    """Either `path` (a Unix socket) or `host` and `port`."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_server: bool = False

    @property
    def address(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"stream:{self.address}" + (",server" if self.is_server else "")


NetworkSpec = UserNetwork | TapNetwork | StreamNetwork


def parse_network(text: str | None, publish: Sequence[str] = ()) -> NetworkSpec | None:
    """What the two flags say together; None: no network. Ports that are published alone ask for a `user` network.

    Raises `ConfigError`.
    """
    if text is None:
        text = "user" if publish else "none"
    kind, _, rest = text.partition(":")
    if publish and text != "user":
        raise ConfigError(f"--publish: only a user network publishes ports, not --net {text:.80}; drop one of the two")
    if text == "user":
        return UserNetwork(_parse_publish(publish))
    if text == "none":
        return None
    try:
        if kind == "tap":
            return _parse_tap(rest)
        if kind == "stream":
            return _parse_stream(rest)
    except ValueError:
        pass
    raise ConfigError(f"--net {text!r:.120}: expected {FORMS}; correct it")


def _parse_publish(texts: Sequence[str]) -> tuple[Publish, ...]:
    if len(texts) > PUBLISH_MAX:
        raise ConfigError(f"--publish: {len(texts)} ports, at most {PUBLISH_MAX} are possible; leave some out")
    ports: dict[tuple[str, int, str], Publish] = {}
    for text in texts:
        port = Publish.parse(text)
        key = (port.host, port.host_port, port.protocol)
        if key in ports:
            raise ConfigError(f"--publish {text}: port {port.host_port} of {port.host} is published twice; remove one")
        ports[key] = port
    return tuple(ports.values())


def _parse_tap(text: str) -> TapNetwork:
    name, *options = text.split(",")
    bridge = ""
    for option in options:
        key, _, value = option.partition("=")
        if key != "bridge" or bridge:
            raise ValueError
        bridge = _interface(value)
    return TapNetwork(_interface(name), bridge)


def _interface(name: str) -> str:
    if not INTERFACE_PATTERN.fullmatch(name) or name in (".", ".."):
        raise ValueError
    return name


def _parse_stream(text: str) -> StreamNetwork:
    address, comma, option = text.partition(",")
    if comma and option != "server":
        raise ValueError
    host, _, port = address.rpartition(":")
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if not path or "\0" in path or len(path.encode()) > UNIX_PATH_MAX:
            raise ValueError
        return StreamNetwork(path=path, is_server=bool(comma))
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError
    if not host:
        raise ValueError
    return StreamNetwork(host, _port(port), is_server=bool(comma))
