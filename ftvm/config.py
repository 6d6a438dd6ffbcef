"""`machine.toml`: what one protected machine is made of, as frozen dataclasses.

Every key has a reader that knows its type and range; a key that nobody reads is an error, because a misspelt
one would otherwise be a default in silence. Values come from the command line, then from `FTVM_SECTION_KEY` in
the environment, then from the file, then from the defaults below. Relative paths are relative to the file.
The same classes can be built in Python, where a wrong combination raises the same `ConfigError`.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ftvm.errors import ConfigError

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Machine and node names: they become parts of certificates' URIs and of paths."""

RESERVED_NODE_NAMES = frozenset({"edge", "authority", "client", "witness"})
ENDPOINTS_MAX = 16
ENDPOINT_PATTERN = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
NODES_MIN, NODES_MAX = 2, 8
FILE_SIZE_MAX = 1 << 20
UNKNOWN_TOLD_MAX = 5
RAM_MIB_MAX = 2048
SOCKET_PATH_SIZE_MAX = 100
"""Linux takes 107 bytes for the path of a Unix socket; a temporary name beside it needs a few."""

HEARTBEATS_PER_TIMEOUT_MIN = 3
"""So many heartbeats must fit into the detector's timeout, or a single lost one looks like a death."""


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
class _Reader:
    """How one key is read: `read(value, folder of the file)` raises ValueError on what is not `expected`."""

    expected: str
    read: Callable[[object, Path], object]


def _integer(low: int, high: int, unit: str) -> dict[str, _Reader]:
    def read(value: object, _folder: Path) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return {"reader": _Reader(f"an integer from {low} to {high} ({unit})", read)}


def _text(expected: str, accept: Callable[[str], object]) -> dict[str, _Reader]:
    """A string as `accept` turns it into a value (ValueError when it does not fit)."""

    def read(value: object, _folder: Path) -> object:
        if type(value) is not str:
            raise ValueError
        return accept(value)

    return {"reader": _Reader(expected, read)}


def _choice(*allowed: str) -> dict[str, _Reader]:
    def accept(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    return _text(" or ".join(f'"{one}"' for one in allowed), accept)


def _path() -> dict[str, _Reader]:
    def read(value: object, folder: Path) -> Path:
        if isinstance(value, Path):
            return folder / value
        if type(value) is not str or not value or "\0" in value:
            raise ValueError
        try:
            return folder / Path(value).expanduser()
        except RuntimeError:
            raise ValueError("~ of nobody") from None

    return {"reader": _Reader("a path", read)}


def _name() -> dict[str, _Reader]:
    return _text("lower-case letters, digits and inner hyphens, at most 63", _checked_name)


def _address() -> dict[str, _Reader]:
    return _text('an address as "host:port"', Address.parse)


def _endpoints() -> dict[str, _Reader]:
    """An array of URLs; in the environment, where there are no arrays, separated by commas."""

    def read(value: object, _folder: Path) -> tuple[str, ...]:
        urls = value.split(",") if isinstance(value, str) else value
        if type(urls) is not list or not 0 < len(urls) <= ENDPOINTS_MAX:
            raise ValueError
        return tuple(_checked_endpoint(url) for url in urls)

    return {"reader": _Reader('an array of "http://host:port" or "https://host:port"', read)}


def _checked_endpoint(url: object) -> str:
    if type(url) is not str:
        raise ValueError
    scheme, _, address = url.strip().rstrip("/").partition("://")
    if scheme not in ("http", "https") or not ENDPOINT_PATTERN.fullmatch(address):
        raise ValueError
    return f"{scheme}://{Address.parse(address)}"


def _checked_name(text: str) -> str:
    if not NAME_PATTERN.fullmatch(text):
        raise ValueError
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """`[machine]`: the guest and what it can see."""

    name: str = field(metadata=_name())
    image: Path = field(metadata=_path())
    ram_mib: int = field(default=64, metadata=_integer(1, RAM_MIB_MAX, "MiB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationConfig:
    """`[replication]`: how the machine is protected."""

    policy: str = field(default="all", metadata=_choice("all"))
    detector_timeout_ms: int = field(default=200, metadata=_integer(20, 60_000, "milliseconds"))
    heartbeat_interval_ms: int = field(default=50, metadata=_integer(1, 10_000, "milliseconds"))
    digest_interval_ms: int = field(default=1_000, metadata=_integer(10, 60_000, "milliseconds"))
    lag_max_ms: int = field(default=50, metadata=_integer(5, 60_000, "milliseconds"))
    slice_ms: int = field(default=12, metadata=_integer(1, 100, "milliseconds"))

    def __post_init__(self) -> None:
        if self.heartbeat_interval_ms * HEARTBEATS_PER_TIMEOUT_MIN > self.detector_timeout_ms:
            raise ConfigError(
                f"[replication] heartbeat_interval_ms = {self.heartbeat_interval_ms}: expected at most a third"
                f" of detector_timeout_ms = {self.detector_timeout_ms}; lower it or raise the timeout"
            )


_ARBITER_KEYS = {
    "directory": (("path",), ()),
    "witness": (("address",), ("path",)),
    "etcd": (("endpoints",), ("ca", "certificate", "key")),
}
"""Kind: the keys that it needs, and those that it may have beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArbiterConfig:
    """`[arbiter]`: who grants generations. Each kind has keys of its own, and another kind's are errors."""

    kind: str = field(default="directory", metadata=_choice(*_ARBITER_KEYS))
    path: Path | None = field(default=None, metadata=_path())
    """`directory`: a folder that every node sees (NFS will do). `witness`: where the witness, and only it, keeps its
    records, on its own host; nodes do not look at it."""
    address: Address | None = field(default=None, metadata=_address())
    """`witness`: where the nodes reach it."""
    endpoints: tuple[str, ...] = field(default=(), metadata=_endpoints())
    """`etcd`: the members' client URLs, tried in this order."""
    ca: Path | None = field(default=None, metadata=_path())
    """`etcd`: who signs the members' certificates; None: whom the system trusts."""
    certificate: Path | None = field(default=None, metadata=_path())
    """`etcd`: our own certificate, with `key`, where the members ask for one."""
    key: Path | None = field(default=None, metadata=_path())

    def __post_init__(self) -> None:
        needed, optional = _ARBITER_KEYS[self.kind]
        given = [one.name for one in fields(self) if one.name != "kind" and getattr(self, one.name)]
        for name in needed:
            if name not in given:
                raise ConfigError(f'[arbiter] {name}: missing; kind = "{self.kind}" needs it; add it')
        for name in given:
            if name not in needed + optional:
                raise ConfigError(f'[arbiter] {name}: kind = "{self.kind}" does not use it; remove it')
        if self.address is not None and self.address.port == 0:
            raise ConfigError("[arbiter] address: nodes cannot ask at port 0; give the witness's port")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("[arbiter] certificate and key: one is useless without the other; give both or none")
        if "ca" in given or "key" in given:
            plain = [url for url in self.endpoints if not url.startswith("https://")]
            if plain:
                raise ConfigError(f"[arbiter] endpoints: {plain[0]} uses no certificates; write https or remove them")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[nodes.NAME]`: one host's part. `listen` is where its peer, the edge and probes reach it."""

    listen: Address = field(metadata=_address())
    log: Path | None = field(default=None, metadata=_path())
    """Where this node keeps the execution log; None: it keeps none."""
    control: Path | None = field(default=None, metadata=_path())
    """The Unix socket for `ftvm status` and its like. From a file without this key: `run/NAME.sock` beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """`[edge]`: where clients of the guest's console connect."""

    listen: Address = field(metadata=_address())
    sessions: str = field(default="break", metadata=_choice("break", "plain"))
    """`break`: a client that leaves is a break condition, which the guest answers with one. `plain`: none is sent."""
    control: Path | None = field(default=None, metadata=_path())
    """The Unix socket for `ftvm status`. From a file without this key: `run/edge.sock` beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """`[security]`: `certificates` holds one folder per node and one for the edge, as `ftvm certs init` makes."""

    certificates: Path = field(metadata=_path())

    def folder(self, name: str) -> Path:
        """The credentials of node `name`, or of `"edge"`."""
        return self.certificates / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of `machine.toml`. `load` reads one; a program may as well build it from its parts."""

    machine: MachineConfig
    replication: ReplicationConfig = field(default_factory=ReplicationConfig)
    arbiter: ArbiterConfig
    nodes: Mapping[str, NodeConfig]
    edge: EdgeConfig
    security: SecurityConfig

    def __post_init__(self) -> None:
        if not NODES_MIN <= len(self.nodes) <= NODES_MAX:
            raise ConfigError(
                f"[nodes]: expected {NODES_MIN} to {NODES_MAX} tables, [nodes.NAME] for each host, got"
                f" {len(self.nodes)}; a machine that needs no protection runs with `ftvm run`"
            )
        for name in self.nodes:
            if not NAME_PATTERN.fullmatch(name) or name in RESERVED_NODE_NAMES:
                raise ConfigError(
                    f"[nodes.{name}]: expected lower-case letters, digits and inner hyphens, and not one of"
                    f" {', '.join(sorted(RESERVED_NODE_NAMES))}; rename the node"
                )
        for key in ("listen", "log", "control"):
            taken: dict[object, str] = {}
            for name, node in self.nodes.items():
                one = getattr(node, key)
                if one in taken and getattr(one, "port", None) != 0:
                    raise ConfigError(
                        f"[nodes]: {taken[one]} and {name} both have {key} = {str(one)!r}; give each its own"
                    )
                if one is not None:
                    taken[one] = name

    def node(self, name: str) -> NodeConfig:
        """The node called `name`; ConfigError names those that exist."""
        if name not in self.nodes:
            raise ConfigError(f"no node {name!r} in this machine; it has {' and '.join(self.nodes)}")
        return self.nodes[name]

    def peers_of(self, name: str) -> tuple[str, ...]:
        """The names of the other nodes."""
        self.node(name)
        return tuple(other for other in self.nodes if other != name)


def load(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """Reads `machine.toml`.

    Args:
        path: the file.
        environment: where `FTVM_SECTION_KEY` is looked up (`FTVM_NODES_ALPHA_LISTEN` for a node's key); usually
            `os.environ`. None: not looked at.
        flags: what the command line says, by `"section.key"`. A value of None stands for a flag not given.

    Raises:
        ConfigError: the file is absent, no TOML, has an unknown key or a value that does not fit.
    """
    path = Path(path)
    tables = _Tables(path.absolute().parent, str(path), environment or {}, dict(flags or {}))
    document = _read_toml(path)
    unknown = set(document) - {one.name for one in fields(Config)}
    if unknown:
        raise _unknown_key(str(path), "", unknown, [one.name for one in fields(Config)])
    config = _build(tables, document)
    leftover = [key for key, value in tables.flags.items() if value is not None]
    assert not leftover, f"flags for keys that do not exist: {leftover}"
    return config


def _with_socket(table: object, default: str) -> object:
    return {"control": default, **table} if isinstance(table, dict) else table


def _build(tables: "_Tables", document: dict[str, Any]) -> Config:
    nodes_table = document.get("nodes", {})
    if type(nodes_table) is not dict or not all(type(one) is dict for one in nodes_table.values()):
        raise ConfigError(f"{tables.file}: [nodes]: expected one table [nodes.NAME] per host; see `ftvm check --help`")
    nodes: dict[str, NodeConfig] = {}
    for name, table in nodes_table.items():
        default_socket = f"run/{name}.sock"
        nodes[name] = tables.section(NodeConfig, f"nodes.{name}", {"control": default_socket, **table})
        socket = nodes[name].control
        assert socket is not None
        if len(bytes(socket)) > SOCKET_PATH_SIZE_MAX:
            raise ConfigError(
                f"{tables.file}: [nodes.{name}] control: expected a path of at most {SOCKET_PATH_SIZE_MAX} bytes"
                f" (the system's limit for sockets), got {str(socket)!r}; set control to a shorter one"
            )
    try:
        return Config(
            machine=tables.section(MachineConfig, "machine", document.get("machine")),
            replication=tables.section(ReplicationConfig, "replication", document.get("replication", {})),
            arbiter=tables.section(ArbiterConfig, "arbiter", document.get("arbiter")),
            nodes=nodes,
            edge=tables.section(EdgeConfig, "edge", _with_socket(document.get("edge"), "run/edge.sock")),
            security=tables.section(SecurityConfig, "security", document.get("security")),
        )
    except ConfigError as error:
        if str(error).startswith("["):
            raise ConfigError(f"{tables.file}: {error}") from None
        raise


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_SIZE_MAX + 1)
        if len(text) > FILE_SIZE_MAX:
            raise ConfigError(f"{path}: larger than {FILE_SIZE_MAX} bytes, so not a machine.toml")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give the path of a machine.toml") from None
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, a number with thousands of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _unknown_key(file: str, section: str, unknown: set[str], known: list[str]) -> ConfigError:
    where = f"[{section}] " if section else ""
    what = "key" if section else "section"
    told = ", ".join(f"{one!r:.40}" for one in sorted(unknown)[:UNKNOWN_TOLD_MAX])
    return ConfigError(
        f"{file}: {where}unknown {what} {told};"
        f" expected {', '.join(known)}; correct or remove it"
    )


_Section = TypeVar("_Section")


@dataclass(frozen=True, slots=True)
class _Tables:
    """The layers a value can come from. Flags are taken out as they are used, so that none is lost silently."""

    folder: Path
    file: str
    environment: Mapping[str, str]
    flags: dict[str, object]

    def section(self, kind: type[_Section], name: str, table: object) -> _Section:
        """A `kind` from the table `name`, each key from the highest layer that has it."""
        if table is None:
            table = {}
        if type(table) is not dict:
            raise ConfigError(f"{self.file}: {name}: expected a table [{name}], got {table!r:.80}")
        known = fields(kind)  # type: ignore[arg-type]
        unknown = set(table) - {one.name for one in known}
        if unknown:
            raise _unknown_key(self.file, name, unknown, [one.name for one in known])
        values: dict[str, object] = {}
        for one in known:
            source, value = self._find(name, one.name, table)
            if source is not None:
                values[one.name] = self._read(one.metadata["reader"], source, value)
            elif one.default is MISSING:
                expected = one.metadata["reader"].expected
                raise ConfigError(f"{self.file}: [{name}] {one.name}: missing; expected {expected}; add it")
        return kind(**values)

    def _find(self, section: str, key: str, table: dict[str, object]) -> tuple[str | None, object]:
        flag = self.flags.pop(f"{section}.{key}", None)
        if flag is not None:
            return f"--{key.replace('_', '-')}", flag
        variable = environment_name(section, key)
        if variable in self.environment:
            return variable, self.environment[variable]
        if key in table:
            return f"{self.file}: [{section}] {key}", table[key]
        return None, None

    def _read(self, reader: _Reader, source: str, value: object) -> object:
        # A path on the command line or in the environment is meant relative to where the user stands.
        folder = self.folder if source.startswith(self.file) else Path.cwd()
        try:
            return reader.read(value, folder)
        except ValueError:
            raise ConfigError(f"{source}: expected {reader.expected}, got {value!r:.80}; correct it") from None


def environment_name(section: str, key: str) -> str:
    """The variable that overrides `key` of `section`: `FTVM_REPLICATION_SLICE_MS`."""
    return "_".join(("FTVM", section, key)).upper().replace(".", "_").replace("-", "_")
