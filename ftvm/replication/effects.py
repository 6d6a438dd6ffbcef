"""What the replication core asks of the shell around it. Effects are carried out in the order of the list.

`session` and `edge` are numbers that the shell gave when it reported the connection; they are never reused.
"""

from dataclasses import dataclass

from ftvm.errors import ExitCode
from ftvm.log.entry import Action, Entry
from ftvm.log.stamp import Stamp
from ftvm.replication.messages import ArbiterRequest, EdgeMessage, PeerMessage


@dataclass(frozen=True, slots=True)
class Send:
    """To a peer. Queued, never waited for. A `Heartbeat` may take another way than the rest."""

    session: int
    message: PeerMessage


@dataclass(frozen=True, slots=True)
class CloseSession:
    """The session is over for the core: it takes no more events of it, and no `session_lost` is needed."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class AskArbiter:
    """The answer comes as `arbiter_answered`, a failure as `arbiter_failed`. A repeated request may overtake."""

    request: ArbiterRequest


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask `peer` who it is, on a connection of its own. The answer comes as `probed`."""

    peer: str


@dataclass(frozen=True, slots=True)
class Join:
    """Open a session to `peer` as one who wants to be its shadow; on success `session_opened`."""

    peer: str


@dataclass(frozen=True, slots=True)
class TakeInventory:
    """A joiner: hash the pages of whatever older memory there is; `inventory_taken`."""

    session: int


@dataclass(frozen=True, slots=True)
class CopyMachine:
    """Copy the live machine for this joiner while the guest runs, leaving out pages that `inventory` shows it has.

    Any number of `copied`, no faster than the session takes them; then `copy_finished`, after exactly what was reported
    executed. Or `copy_failed`. One at a time.
    """

    session: int
    inventory: bytes


@dataclass(frozen=True, slots=True)
class CancelCopy:
    """The joiner is gone: what is still reported of its copy is ignored."""

    session: int


@dataclass(frozen=True, slots=True)
class CollectSnapshot:
    """A joiner: the next part of the machine's memory. If it cannot be one: `restore_failed`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RestoreSnapshot:
    """What was collected, with this state, becomes the engine's machine; then `restored` (or `restore_failed`)."""

    state: bytes
    pos: int
    tick: int


@dataclass(frozen=True, slots=True)
class BootMachine:
    """The engine gets the machine as it is at power-on, and a new log begins."""


@dataclass(frozen=True, slots=True)
class ReplayLog:
    """The engine's machine becomes what this node's log comes to at its end, every digest in it compared. The log goes
    on from there, after `stamp`, which is on the disk before `replayed` is said (or `replay_failed`)."""

    stamp: Stamp


@dataclass(frozen=True, slots=True)
class WriteStamp:
    """Into the log, after all that is committed. With `wait`, `stamped` is said once it is on the disk, synced, or once
    there is no log any more that could say otherwise. Where no log is kept, at once."""

    number: int
    stamp: Stamp
    wait: bool


@dataclass(frozen=True, slots=True)
class Apply:
    """Entries `pos`, `pos + 1`, ... for a shadow's engine: run to each one's tick, apply it, report `applied`."""

    pos: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class GoLive:
    """The engine has applied all it was given: from here it runs freely and makes the entries itself."""

    gen: int


@dataclass(frozen=True, slots=True)
class InjectInput:
    """For the live engine: to be applied and logged once the device has room, in this order."""

    device: str
    offset: int
    data: bytes
    is_break: bool


@dataclass(frozen=True, slots=True)
class InjectResize:
    """Have the guest's console told this size, and log it."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class EmitLocal:
    """To a device whose world this node reaches by itself, as long as `Node.lease_until_ns` is not over. It counts as
    had: what cannot be emitted is lost."""

    device: str
    data: bytes


@dataclass(frozen=True, slots=True)
class LocalLive:
    """From here on this node is where the device's world finds it: to be announced there."""

    device: str


@dataclass(frozen=True, slots=True)
class InjectControl:
    """For the live engine: to be applied and logged at the next slice end."""

    action: Action


@dataclass(frozen=True, slots=True)
class Throttle:
    """On: the live engine starts no further slice (the machine is copied all the same). Off: it runs."""

    on: bool
    why: str


@dataclass(frozen=True, slots=True)
class Quiesce:
    """The live engine reports what it has executed, starts no slice until the next `Throttle(False)`, keeps its
    queued inputs, and says `quiesced`."""


@dataclass(frozen=True, slots=True)
class SendEdge:
    edge: int
    message: EdgeMessage


@dataclass(frozen=True, slots=True)
class CloseEdge:
    """The edge session is over for the core."""

    edge: int
    reason: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """The claim was lost: this node is silent and keeps its state until it may join, or void the winner's claim."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartOver:
    """This node's state is worth nothing any more: the last effect. Discard it and start a shadow anew, under a
    fresh life."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The last effect: the process ends with this code and line."""

    code: ExitCode
    line: str


@dataclass(frozen=True, slots=True)
class Note:
    """For the log and for `status`."""

    text: str


Effect = (
    Send
    | CloseSession
    | AskArbiter
    | Probe
    | Join
    | TakeInventory
    | CopyMachine
    | CancelCopy
    | CollectSnapshot
    | RestoreSnapshot
    | BootMachine
    | ReplayLog
    | WriteStamp
    | Apply
    | GoLive
    | InjectInput
    | InjectControl
    | EmitLocal
    | LocalLive
    | InjectResize
    | Throttle
    | Quiesce
    | SendEdge
    | CloseEdge
    | Frozen
    | StartOver
    | Exit
    | Note
)
