"""What a node counts and times, and what it ends with."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ftvm.errors import ExitCode
from ftvm.host.engine import EngineStatistics
from ftvm.log.entry import Digest
from ftvm.replication.succession import NodeStatus

if TYPE_CHECKING:
    from ftvm.machine.transfer import TransferStatistics

NOTES_KEPT_MAX = 200


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a node's run ended: the exit code and the one line that says why."""

    code: ExitCode
    line: str


@dataclass(slots=True)
class FailoverTimes:
    """Monotonic ns of the steps of this node's last promotion; 0: not reached. For the failover benchmark."""

    session_lost_ns: int = 0
    claimed_ns: int = 0
    granted_ns: int = 0
    activated_ns: int = 0
    live_ns: int = 0
    first_output_ns: int = 0


@dataclass(frozen=True, slots=True)
class Reprotection:
    """The last time that this node gave its machine to a joiner (`sent`), or joined. `pages` went with their contents,
    `pages_zero` without, `pages_kept` not at all. `pause_ms`: the primary's guest was at rest for the end of it."""

    sent: bool
    seconds: float
    bytes: int
    pages: int
    pages_zero: int
    pages_kept: int
    rounds: int
    pause_ms: float

    @classmethod
    def of(cls, one: TransferStatistics, *, sent: bool, seconds: float) -> Reprotection:
        pause_ms = one.pause_us / 1000
        return cls(sent, seconds, one.bytes, one.pages, one.pages_zero, one.pages_kept, one.rounds, pause_ms)


@dataclass(slots=True)
class Counters:
    log_entries: int = 0
    digests: int = 0
    last_digest: Digest | None = None
    reprotection: Reprotection | None = None
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES_KEPT_MAX))


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """A look at one node. `tick` is where its machine stands, `lag_ticks` how far the slowest member is behind it.

    `state` is a name of `ftvm.replication.arbitration.State`; `log_bytes` is 0 where no log is kept.
    """

    node: str
    state: str
    generation: int
    tick: int
    live: bool
    members: tuple[str, ...]
    lag_ticks: int
    edge_attached: bool
    log_position: int
    committed: int
    log_bytes: int
    busy_ns: int

    @classmethod
    def of(cls, node: str, core: NodeStatus, engine: EngineStatistics | None, log_bytes: int) -> NodeStatistics:
        return cls(
            node=node,
            state=core.state.name,
            generation=core.generation,
            tick=engine.tick if engine else core.tick,
            live=engine is not None and engine.live,
            members=core.members,
            lag_ticks=core.lag_ticks,
            edge_attached=core.edge_attached,
            log_position=core.pos,
            committed=core.committed,
            log_bytes=log_bytes,
            busy_ns=engine.busy_ns if engine else 0,
        )


def describe(
    core: NodeStatus, engine: EngineStatistics | None, counters: Counters, times: FailoverTimes
) -> dict[str, Any]:
    """For `ftvm status`, as JSON-ready values."""
    return {
        "core": {**asdict(core), "state": core.state.name, "life": core.life.hex()},
        "engine": None if engine is None else asdict(engine),
        "failover_ns": asdict(times),
        "reprotection": None if counters.reprotection is None else asdict(counters.reprotection),
        "notes": list(counters.notes),
    }


def describe_log(counters: Counters) -> dict[str, Any]:
    """For `ftvm status`: the log as this node's engine made or executed it."""
    digest = counters.last_digest
    return {
        "entries": counters.log_entries,
        "digests": counters.digests,
        "last_digest": digest.digest.hex() if digest else "",
        "last_digest_tick": digest.tick if digest else 0,
    }
