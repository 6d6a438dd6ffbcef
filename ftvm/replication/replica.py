"""What both roles of a node share: who it is, what it holds of the machine, and the effects of the current event."""

from dataclasses import dataclass, field

from ftvm.replication.effects import Effect
from ftvm.replication.messages import Heartbeat, Life
from ftvm.replication.output_gate import OutputGate

MILLISECOND_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """One node's view of the cluster, and the bounds. Times decide how fast it heals, never what is true."""

    name: str
    peers: tuple[str, ...]
    devices: tuple[str, ...] = ("uart0",)
    local_devices: tuple[str, ...] = ()
    """Those of `devices` that no edge serves: each node reaches their world by itself. The same on all nodes."""
    machine: str = "machine"
    timeout_ns: int = 200 * MILLISECOND_NS
    """T: so long a silent peer is waited for."""
    heartbeat_ns: int = 50 * MILLISECOND_NS
    claim_retry_ns: int = 500 * MILLISECOND_NS
    probe_retry_ns: int = 100 * MILLISECOND_NS
    suspect_max_ns: int = 1000 * MILLISECOND_NS
    """A primary that answers probes but took no session back is waited for so long, then a claim decides."""
    void_delay_ns: int = 2000 * MILLISECOND_NS
    """The winner of a generation that was not activated may be silent so long before its grant is voided."""
    off_wait_ns: int = 2000 * MILLISECOND_NS
    """A halted machine waits so long for an edge to attach and take the last outputs."""
    hand_over_wait_ns: int = 2000 * MILLISECOND_NS
    refuse_after_ns: int = 2000 * MILLISECOND_NS
    """A primary with an outdated log looks so long for a node that is live or has more, before it gives up."""
    wait_note_ns: int = 5000 * MILLISECOND_NS
    """Whoever waits for others before it goes on from its log says so this often."""
    join_wait_ns: int = 30_000 * MILLISECOND_NS
    """For a joiner's inventory, and then from the start of its copy to its `Ready`."""
    catch_up_wait_ns: int = 15_000 * MILLISECOND_NS
    """A joiner that is still far behind the log so long after it was restored asks for the Mark all the same: the
    bound on a member's lag then makes the primary wait for it."""
    joiner_silence_ns: int = 2000 * MILLISECOND_NS
    """Between a primary and a joiner, both of which may be busy with a snapshot: nothing hangs on noticing soon."""
    lag_ticks_max: int = 8_000_000
    unacked_bytes_max: int = 4 * 1024 * 1024
    joiner_backlog_bytes_max: int = 64 * 1024 * 1024
    inventory_bytes_max: int = 16 * 1024 * 1024
    """Hashes that a joiner may send: 16 bytes for each page of the machine."""
    copy_bytes_max: int = 1024 * 1024 * 1024
    """Bytes of memory that a joiner takes in one join: a machine whose guest writes all the time is sent some pages
    several times, but a primary that never comes to an end is none."""
    retained_bytes_max: int = 1024 * 1024
    """Outputs that the edge has not confirmed. At the bound the guest's execution waits."""

    def __post_init__(self) -> None:
        assert 0 < self.heartbeat_ns * 2 < self.timeout_ns, "a single late heartbeat must not look like a death"


@dataclass(slots=True)
class Replica:
    config: ReplicationConfig
    life: Life
    gate: OutputGate
    generation: int = 0
    """Whose stream this node holds, or which it holds itself. Follows from what it received, never from what the
    arbiter says is current; the one exception is a record of its own primary that names it."""
    boot: int = 0
    """The generation in which the machine was started cold: part of every stream id."""
    now_ns: int = 0
    """When the current event happened."""
    tick: int = 0
    """Of the newest entry, for who executes; how far it has executed, for a shadow."""
    effects: list[Effect] = field(default_factory=list)

    def emit(self, *effects: Effect) -> None:
        self.effects.extend(effects)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.generation, self.life, self.gate.end, self.tick)
