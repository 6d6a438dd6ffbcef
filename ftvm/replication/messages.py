"""The messages of the replication protocol, by the names its description uses.

`gen` is a generation, `pos` a log position (how many entries come before), `life` the random id of one process
start or of one state. Whoever receives a message of another generation than its own ignores it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ftvm.log.entry import Entry

Life = bytes
LIFE_SIZE = 16

Offsets = Mapping[str, int]
"""Device name -> offset in its stream, in units: a byte or a break is one."""


class Kind(IntEnum):
    """Why a generation is claimed. Only ever appended to."""

    BOOT = 1
    SOLO = 2
    PROMOTE = 3
    RECONFIGURE = 4
    OFF = 5
    VOID = 6
    RESTART = 7
    """By a node whose log on disk ends in the last activated generation, when nobody may hold more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Contiguous output of one device: `data[0]` stands at `offset`. A break is one unit, `data == b"\\0"`."""

    device: str
    offset: int
    data: bytes
    is_break: bool = False


# ---- any -> arbiter


@dataclass(frozen=True, slots=True)
class Claim:
    """Asks for generation `want`, on the strength of holding generation `base` of `base_holder_life` in sync."""

    want: int
    base: int
    base_holder_life: Life
    life: Life
    kind: Kind
    keep: tuple[Life, ...] = ()
    holder: str = ""
    """The claimant's name, for people to read; nothing is decided by it."""
    force: bool = False
    """Only by the operator's word: a `BOOT` gives up whatever the newest record stands for, a `RESTART` what came
    after generation `base`."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Makes a granted generation count. Nothing is released in it, and no input taken, before that."""

    gen: int
    life: Life


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for the records. The answer is a `Ledger`."""


# ---- arbiter -> any


@dataclass(frozen=True, slots=True)
class Record:
    """What the arbiter keeps of one granted generation, for ever."""

    gen: int
    life: Life
    base: int
    kind: Kind
    keep: tuple[Life, ...] = ()
    holder: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    gen: int
    life: Life


@dataclass(frozen=True, slots=True)
class Refused:
    """To a `Claim` (`want`) or an `Activate` (`want` is its gen). `records` are the newest, oldest first."""

    want: int
    life: Life
    records: tuple[Record, ...]
    last_activated: int
    off: bool


@dataclass(frozen=True, slots=True)
class Activated:
    gen: int
    life: Life


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that an arbiter knows: its records, oldest first, and the newest activated generation."""

    records: tuple[Record, ...] = ()
    last_activated: int = 0

    @property
    def current(self) -> int:
        return self.records[-1].gen if self.records else 0

    @property
    def off(self) -> bool:
        return bool(self.records) and self.records[-1].kind is Kind.OFF

    def record(self, gen: int) -> Record | None:
        for record in reversed(self.records):
            if record.gen == gen:
                return record
        return None


ArbiterRequest = Claim | Activate | Read
ArbiterAnswer = Granted | Refused | Activated | Ledger


# ---- primary -> shadow


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A part of a machine's memory, taken while the guest ran. A later chunk may hold the same pages again; what is
    left to send comes, in order, in further chunks and in `Snapshot`."""

    gen: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine after the first `pos` entries, and what of its output the edge has not confirmed.

    `state` is all of it that the `SnapshotChunk`s before it did not hold: they are the memory at `pos`. `boot` names
    the cold boot that the machine goes back to; `inputs` are the offsets that the next input of each device has.
    """

    gen: int
    pos: int
    tick: int
    boot: int
    state: bytes
    outputs: tuple[Piece, ...]
    confirmed: Offsets
    inputs: Offsets


@dataclass(frozen=True, slots=True)
class Log:
    """Entries `pos`, `pos + 1`, ... and what the edge has confirmed by now. `token`: see `Ack`."""

    gen: int
    pos: int
    entries: tuple[Entry, ...]
    confirmed: Offsets = field(default_factory=dict)
    token: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """From here on `members` count: who receives it with exactly `pos` entries held is in sync. `names` are theirs, in
    the same order: they go into the stamp of the log."""

    gen: int
    pos: int
    members: tuple[Life, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """The primary goes on under `gen` with these members, at the position where the stream stands."""

    gen: int
    pos: int
    members: tuple[Life, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HandOver:
    """The log ends at `pos`: the shadow is asked to claim the next generation."""

    gen: int
    pos: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Either way, when nothing else was sent. `tick` tells whether the guest moves."""

    gen: int
    life: Life
    pos: int
    tick: int


# ---- shadow -> primary


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a joiner has of an older memory, so that only what differs is sent: a hash for each page, in parts. No
    hash at all: all pages are zero. It has no generation, for the joiner does not know one yet."""

    life: Life
    hashes: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """The Snapshot is restored; the joiner follows the log, and has executed it as far as `tick`."""

    gen: int
    life: Life
    tick: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """`pos` entries are held (not: executed). `config` is the position of the newest `Mark` received in this
    generation. `tick` is how far the shadow has executed, for the bound on its lag. `token` is the newest of a `Log`
    received: whoever repeats it was still a member when that one had been sent."""

    gen: int
    life: Life
    pos: int
    config: int
    tick: int
    token: int = 0


PeerMessage = SnapshotChunk | Snapshot | Log | Mark | NewGeneration | HandOver | Heartbeat | Inventory | Ready | Ack


# ---- node -> edge. A stream id is `device@boot`: after a cold boot offsets start at 0 again.


@dataclass(frozen=True, slots=True)
class Live:
    """The sender holds generation `gen`, activated, and these are its machine's streams."""

    gen: int
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    gen: int
    stream: str
    offset: int
    data: bytes
    is_break: bool = False


@dataclass(frozen=True, slots=True)
class InputAck:
    """Every unit of the input stream below `offset` is in the log of every member."""

    gen: int
    stream: str
    offset: int


@dataclass(frozen=True, slots=True)
class Halted:
    """The guest has halted and says no more: `outputs` and `inputs` are where its streams end, by stream id."""

    gen: int
    outputs: Offsets
    inputs: Offsets


# ---- edge -> node


@dataclass(frozen=True, slots=True)
class Attach:
    """By stream id: what the edge has of the outputs, and what of its inputs was acknowledged to it.

    A stream that is not named is new to the edge (one of the two was restarted): it takes up where the node says. The
    stream that a named device had before a restart of the machine is named too: it tells what was lost by that.
    """

    gen: int
    outputs_have: Offsets
    inputs_acked: Offsets


@dataclass(frozen=True, slots=True)
class Input:
    """Input units from `offset` on; no data at all: only the confirmation `outputs_have` (of the same stream)."""

    gen: int
    stream: str
    offset: int
    data: bytes
    outputs_have: int
    is_break: bool = False


@dataclass(frozen=True, slots=True)
class Resize:
    """The terminal on the guest's console has this size, in characters. Said again to each node that goes live."""

    gen: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Final:
    """The edge has every output and every input acknowledgement up to where `Halted` said the streams end."""

    gen: int


EdgeMessage = Live | Output | InputAck | Halted | Attach | Input | Resize | Final
Message = PeerMessage | EdgeMessage


def stream_id(device: str, boot: int) -> str:
    return f"{device}@{boot}"


def stream_device(stream: str) -> str:
    return stream.rpartition("@")[0]
