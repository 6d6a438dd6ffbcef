"""Reads a `machine.toml`: flags, environment, file and defaults, in this order, to the dataclasses of a `Config`."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ftvm.config.cluster import ArbiterConfig, Config, EdgeConfig, NodeConfig, ReplicationConfig, SecurityConfig
from ftvm.config.machine import GuestConfig, MachineConfig
from ftvm.config.readers import Reader
from ftvm.errors import ConfigError

FILE_SIZE_MAX = 1 << 20
UNKNOWN_TOLD_MAX = 5
SOCKET_PATH_SIZE_MAX = 100
"""Linux takes 107 bytes for the path of a Unix socket; a temporary name beside it needs a few."""


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


def guest_of(flags: Mapping[str, object]) -> GuestConfig:
    """What the flags of `ftvm run` say, by key; None for a flag that was not given. Raises `ConfigError`."""
    values: dict[str, object] = {}
    for one in fields(GuestConfig):
        value = flags.get(one.name)
        if value is None:
            continue
        if "array" in one.metadata:
            values[one.name] = value
            continue
        reader = one.metadata["reader"]
        try:
            values[one.name] = reader.read(value, Path.cwd())
        except ValueError:
            name = GuestConfig.spelling(one.name)
            raise ConfigError(f"{name}: expected {reader.expected}, got {value!r:.80}; correct it") from None
    return GuestConfig(**values)  # type: ignore[arg-type]


def _with_socket(table: object, default: str) -> object:
    return {"control": default, **table} if isinstance(table, dict) else table


def _build(tables: "_Tables", document: dict[str, Any]) -> Config:
    nodes_table = document.get("nodes", {})
    if type(nodes_table) is not dict or not all(type(one) is dict for one in nodes_table.values()):
        raise ConfigError(f"{tables.file}: [nodes]: expected one table [nodes.NAME] per host; see `ftvm check --help`")
    nodes: dict[str, NodeConfig] = {}
    for name, table in nodes_table.items():
        defaults = {"control": f"run/{name}.sock", "disks": f"run/{name}-disks"}
        nodes[name] = tables.section(NodeConfig, f"nodes.{name}", {**defaults, **table})
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
            if source is not None and "array" in one.metadata:
                values[one.name] = self._array(one.metadata["array"], f"{name}.{one.name}", source, value)
            elif source is not None:
                values[one.name] = self._read(one.metadata["reader"], source, value)
            elif one.default is MISSING:
                expected = one.metadata["reader"].expected
                raise ConfigError(f"{self.file}: [{name}] {one.name}: missing; expected {expected}; add it")
        return kind(**values)

    def _array(self, kind: type[object], name: str, source: str, value: object) -> tuple[object, ...]:
        """An array of tables `[[name]]`; ready-made ones from the command line."""
        if type(value) is tuple:
            return value
        if type(value) is not list:
            raise ConfigError(f"{source}: expected tables [[{name}]], got {value!r:.80}")
        return tuple(self.section(kind, name, one) for one in value)

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

    def _read(self, reader: Reader, source: str, value: object) -> object:
        # A path on the command line or in the environment is meant relative to where the user stands.
        folder = self.folder if source.startswith(self.file) else Path.cwd()
        try:
            return reader.read(value, folder)
        except ValueError:
            raise ConfigError(f"{source}: expected {reader.expected}, got {value!r:.80}; correct it") from None


def environment_name(section: str, key: str) -> str:
    """The variable that overrides `key` of `section`: `FTVM_REPLICATION_SLICE_MS`."""
    return "_".join(("FTVM", section, key)).upper().replace(".", "_").replace("-", "_")
