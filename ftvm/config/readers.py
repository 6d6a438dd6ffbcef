"""How keys of `machine.toml` are read: each reader knows its key's type and range, and says what it expected."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftvm.errors import ConfigError
from ftvm.networks import FORMS, parse_network

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Machine and node names: they become parts of certificates' URIs and of paths."""

ENDPOINTS_MAX = 16
ENDPOINT_PATTERN = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
MAC_PATTERN = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
SIZE_PATTERN = re.compile(r"([0-9]{1,9})([MmGg](?:i?B)?)?")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP and UDP address. Port 0 asks the system for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`HOST:PORT` or `[IPV6]:PORT`; ValueError on anything else."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address needs brackets")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
            raise ValueError("not an address")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Reader:
    """How one key is read: `read(value, folder of the file)` raises ValueError on what is not `expected`."""

    expected: str
    read: Callable[[object, Path], object]


def integer(low: int, high: int, unit: str) -> dict[str, Reader]:
    def read(value: object, _folder: Path) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return {"reader": Reader(f"an integer from {low} to {high} ({unit})", read)}


def text(expected: str, accept: Callable[[str], object]) -> dict[str, Reader]:
    """A string as `accept` turns it into a value (ValueError when it does not fit)."""

    def read(value: object, _folder: Path) -> object:
        if type(value) is not str:
            raise ValueError
        return accept(value)

    return {"reader": Reader(expected, read)}


def choice(*allowed: str) -> dict[str, Reader]:
    def accept(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    return text(" or ".join(f'"{one}"' for one in allowed), accept)


def path() -> dict[str, Reader]:
    def read(value: object, folder: Path) -> Path:
        if isinstance(value, Path):
            return folder / value
        if type(value) is not str or not value or "\0" in value:
            raise ValueError
        try:
            return folder / Path(value).expanduser()
        except RuntimeError:
            raise ValueError("~ of nobody") from None

    return {"reader": Reader("a path", read)}


def name() -> dict[str, Reader]:
    return text("lower-case letters, digits and inner hyphens, at most 63", checked_name)


def address() -> dict[str, Reader]:
    return text('an address as "host:port"', Address.parse)


def endpoints() -> dict[str, Reader]:
    """An array of URLs; in the environment, where there are no arrays, separated by commas."""

    def read(value: object, _folder: Path) -> tuple[str, ...]:
        urls = value.split(",") if isinstance(value, str) else value
        if type(urls) is not list or not 0 < len(urls) <= ENDPOINTS_MAX:
            raise ValueError
        return tuple(_checked_endpoint(url) for url in urls)

    return {"reader": Reader('an array of "http://host:port" or "https://host:port"', read)}


def _checked_endpoint(url: object) -> str:
    if type(url) is not str:
        raise ValueError
    scheme, _, address = url.strip().rstrip("/").partition("://")
    if scheme not in ("http", "https") or not ENDPOINT_PATTERN.fullmatch(address):
        raise ValueError
    return f"{scheme}://{Address.parse(address)}"


def network() -> dict[str, Reader]:
    """What `--net` says, checked and left as it is."""

    def accept(text: str) -> str:
        try:
            parse_network(text)
        except ConfigError:
            raise ValueError from None
        return text

    return text(FORMS, accept)


def tap() -> dict[str, Reader]:
    """A TAP interface as `--net tap:` has it, checked and left as it is."""

    def accept(text: str) -> str:
        try:
            parse_network(f"tap:{text}")
        except ConfigError:
            raise ValueError from None
        return text

    return text('a TAP interface as "NAME[,bridge=BRIDGE]"', accept)


def publish() -> dict[str, Reader]:
    """An array of published ports, checked and left as they are; in the environment separated by commas."""

    def read(value: object, _folder: Path) -> tuple[str, ...]:
        ports = value.split(",") if isinstance(value, str) else value
        if not isinstance(ports, list | tuple) or not all(type(port) is str for port in ports):
            raise ValueError
        try:
            parse_network("user", ports)
        except ConfigError:
            raise ValueError from None
        return tuple(ports)

    return {"reader": Reader('an array of "[HOST_IP:]HOST_PORT:GUEST_PORT[/tcp|/udp]"', read)}


def checked_name(text: str) -> str:
    if not NAME_PATTERN.fullmatch(text):
        raise ValueError
    return text


def flag() -> dict[str, Reader]:
    """true or false; in the environment in words."""

    def read(value: object, _folder: Path) -> bool:
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        if type(value) is not bool:
            raise ValueError
        return value

    return {"reader": Reader("true or false", read)}


def line(size_max: int) -> dict[str, Reader]:
    def accept(text: str) -> str:
        if len(text.encode()) > size_max or not text.isprintable():
            raise ValueError
        return text

    return text(f"one line of at most {size_max} bytes", accept)


def mac_address() -> dict[str, Reader]:
    def accept(text: str) -> str:
        if not MAC_PATTERN.fullmatch(text.lower()):
            raise ValueError
        return text.lower()

    return text('the address of a single network card, as "52:54:00:12:34:56"', accept)


def mebibytes(low: int, high: int) -> dict[str, Reader]:
    """A number of MiB, or a size as `512M` or `2G`."""

    def read(value: object, _folder: Path) -> int:
        size = parse_mebibytes(value) if isinstance(value, str) else value
        if type(size) is not int or not low <= size <= high:
            raise ValueError
        return size

    return {"reader": Reader(f'an integer from {low} to {high} (MiB), or a size as "512M" or "2G"', read)}


def parse_mebibytes(text: str) -> int:
    """`64`, `512M`, `512MiB`, `2G`: the number of MiB. ValueError on anything else."""
    found = SIZE_PATTERN.fullmatch(text)
    if found is None:
        raise ValueError("not a size")
    return int(found[1]) * (1024 if (found[2] or "").upper().startswith("G") else 1)
