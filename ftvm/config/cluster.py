"""The sections of `machine.toml` beside `[machine]`: where its nodes, its arbiter and its edge are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from ftvm.config import readers
from ftvm.config.machine import MachineConfig
from ftvm.config.readers import NAME_PATTERN, Address
from ftvm.errors import ConfigError
from ftvm.networks import NetworkSpec, parse_network

RESERVED_NODE_NAMES = frozenset({"edge", "authority", "client", "witness"})
NODES_MIN, NODES_MAX = 2, 8

TAP_MTU_MAX = 4096 - 4 - 18
"""An entry's largest input, less a frame's length, its Ethernet header and a VLAN tag."""

HEARTBEATS_PER_TIMEOUT_MIN = 3
"""So many heartbeats must fit into the detector's timeout, or a single lost one looks like a death."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationConfig:
    """`[replication]`: how the machine is protected."""

    policy: str = field(default="all", metadata=readers.choice("all"))
    detector_timeout_ms: int = field(default=200, metadata=readers.integer(20, 60_000, "milliseconds"))
    heartbeat_interval_ms: int = field(default=50, metadata=readers.integer(1, 10_000, "milliseconds"))
    digest_interval_ms: int = field(default=1_000, metadata=readers.integer(10, 60_000, "milliseconds"))
    lag_max_ms: int = field(default=50, metadata=readers.integer(5, 60_000, "milliseconds"))
    slice_ms: int = field(default=12, metadata=readers.integer(1, 100, "milliseconds"))

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

    kind: str = field(default="directory", metadata=readers.choice(*_ARBITER_KEYS))
    path: Path | None = field(default=None, metadata=readers.path())
    """`directory`: a folder that every node sees (NFS will do). `witness`: where the witness, and only it, keeps its
    records, on its own host; nodes do not look at it."""
    address: Address | None = field(default=None, metadata=readers.address())
    """`witness`: where the nodes reach it."""
    endpoints: tuple[str, ...] = field(default=(), metadata=readers.endpoints())
    """`etcd`: the members' client URLs, tried in this order."""
    ca: Path | None = field(default=None, metadata=readers.path())
    """`etcd`: who signs the members' certificates; None: whom the system trusts."""
    certificate: Path | None = field(default=None, metadata=readers.path())
    """`etcd`: our own certificate, with `key`, where the members ask for one."""
    key: Path | None = field(default=None, metadata=readers.path())

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

    listen: Address = field(metadata=readers.address())
    log: Path | None = field(default=None, metadata=readers.path())
    """Where this node keeps the execution log; None: it keeps none."""
    disks: Path | None = field(default=None, metadata=readers.path())
    """The folder with the overlays of the guest's disks. From a file without this key: `run/NAME-disks` beside it."""
    control: Path | None = field(default=None, metadata=readers.path())
    """The Unix socket for `ftvm status` and its like. From a file without this key: `run/NAME.sock` beside it."""
    tap: str | None = field(default=None, metadata=readers.tap())
    """This host's TAP interface, `NAME[,bridge=BRIDGE]`: the guest's network card is plugged to that of the live node,
    and not to the edge. All nodes have one, in the same network; or none has."""

    def tap_network(self) -> NetworkSpec | None:
        """`tap`, read."""
        return None if self.tap is None else parse_network(f"tap:{self.tap}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """`[edge]`: where clients of the guest's console connect."""

    listen: Address = field(metadata=readers.address())
    sessions: str | None = field(default=None, metadata=readers.choice("break", "plain"))
    """`break`: a client that leaves is a break condition, which the guest answers with one. `plain`: none is sent.
    None: `break` for a bare image, and `plain` for a kernel or a firmware, which know nothing of it."""
    control: Path | None = field(default=None, metadata=readers.path())
    """The Unix socket for `ftvm status`. From a file without this key: `run/edge.sock` beside it."""
    net: str | None = field(default=None, metadata=readers.network())
    """What the guest's network card is plugged to, as `--net` has it; None: to nothing, unless ports are published."""
    publish: tuple[str, ...] = field(default=(), metadata=readers.publish())
    """Ports of the edge's host that lead to the guest, as `--publish` has them."""

    def __post_init__(self) -> None:
        try:
            self.network()
        except ConfigError as error:
            raise ConfigError(f"[edge] {error}") from None

    def network(self) -> NetworkSpec | None:
        """`net` and `publish` together."""
        return parse_network(self.net, self.publish)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """`[security]`: `certificates` holds one folder per node and one for the edge, as `ftvm certs init` makes."""

    certificates: Path = field(metadata=readers.path())

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
        for key in ("listen", "log", "disks", "control"):
            taken: dict[object, str] = {}
            for name, node in self.nodes.items():
                one = getattr(node, key)
                if one in taken and getattr(one, "port", None) != 0:
                    raise ConfigError(
                        f"[nodes]: {taken[one]} and {name} both have {key} = {str(one)!r}; give each its own"
                    )
                if one is not None:
                    taken[one] = name

        self._check_taps()
        if self.edge.network() is not None and not self.machine.net:
            raise ConfigError("[edge] net: the machine has no network card; set [machine] net = true, or remove it")
        if self.edge.sessions == "break" and self.machine.console == "virtio":
            raise ConfigError('[edge] sessions = "break": a virtio console knows no breaks; set it to "plain"')

    def _check_taps(self) -> None:
        without = [name for name, node in self.nodes.items() if node.tap is None]
        if len(without) == len(self.nodes):
            return
        if without:
            raise ConfigError(f"[nodes.{without[0]}] tap: missing, and another node has one; each needs its own")
        if self.edge.network() is not None:
            raise ConfigError("[edge] net: the nodes have tap interfaces, and a network card has one plug; remove one")
        if not self.machine.net:
            raise ConfigError("[nodes] tap: the machine has no network card; set [machine] net = true, or remove it")
        if (self.machine.mtu or 0) > TAP_MTU_MAX:
            raise ConfigError(
                f"[machine] mtu = {self.machine.mtu}: expected at most {TAP_MTU_MAX} with tap interfaces of the nodes,"
                " for a frame has to fit into one entry of the log; lower it"
            )

    @property
    def breaks(self) -> bool:
        """Whether clients of the console are told apart by breaks."""
        if self.edge.sessions is None:
            return self.machine.is_bare and self.machine.console == "uart"
        return self.edge.sessions == "break"

    def node(self, name: str) -> NodeConfig:
        """The node called `name`; ConfigError names those that exist."""
        if name not in self.nodes:
            raise ConfigError(f"no node {name!r} in this machine; it has {' and '.join(self.nodes)}")
        return self.nodes[name]

    def peers_of(self, name: str) -> tuple[str, ...]:
        """The names of the other nodes."""
        self.node(name)
        return tuple(other for other in self.nodes if other != name)
