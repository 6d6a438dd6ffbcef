"""What an engine tells its node, in the order in which it happened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftvm.log.entry import Entry
from ftvm.machine.machine import Halt
from ftvm.machine.output import Output

if TYPE_CHECKING:
    from ftvm.machine.transfer import TransferStatistics

OUTPUT_SIZE_MAX = 1 << 18
"""Bytes of one output that is reported: what a guest sends to its network card at once may be far more than fits into
one message to the edge."""


@dataclass(frozen=True, slots=True)
class Executed:
    """Live: these entries were applied, and these outputs made, up to `tick`. In log order."""

    tick: int
    entries: tuple[Entry, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Followed:
    """Following: entries below `pos` are applied, the machine stands at `tick`, and said this since the last report."""

    pos: int
    tick: int
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Copied:
    """Parts of the machine's memory for the joiner of `session`. `stands`: the guest is at rest until the copy ends."""

    session: int
    chunks: tuple[bytes, ...]
    stands: bool


@dataclass(frozen=True, slots=True)
class CopyFinished:
    """All that was copied, and `record`, are the machine after exactly what was reported before."""

    session: int
    record: bytes
    statistics: TransferStatistics


@dataclass(frozen=True, slots=True)
class CopyFailed:
    session: int
    why: str


@dataclass(frozen=True, slots=True)
class Quiesced:
    """Everything executed was reported, and no slice starts until `throttle(False)`."""


@dataclass(frozen=True, slots=True)
class WentLive:
    tick: int


@dataclass(frozen=True, slots=True)
class Halted:
    tick: int
    halt: Halt


@dataclass(frozen=True, slots=True)
class Diverged:
    """Replicas differ at `tick`. `why` says what was seen."""

    tick: int
    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot go on (disk full, broken log, our own bug): the node must leave."""

    error: BaseException


Report = Executed | Followed | Copied | CopyFinished | CopyFailed | Quiesced | WentLive | Halted | Diverged | Failed


def in_pieces(outputs: Iterable[Output]) -> tuple[Output, ...]:
    """The same outputs, none larger than `OUTPUT_SIZE_MAX`."""
    pieces: list[Output] = []
    for output in outputs:
        if len(output.data) <= OUTPUT_SIZE_MAX:
            pieces.append(output)
            continue
        for at in range(0, len(output.data), OUTPUT_SIZE_MAX):
            data = output.data[at : at + OUTPUT_SIZE_MAX]
            pieces.append(replace(output, offset=output.offset + at, data=data))
    return tuple(pieces)
