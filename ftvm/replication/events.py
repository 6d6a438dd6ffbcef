"""What the shell reports to the replication core, where a bare argument does not say enough.

Every event is a method of `Node` that takes `now_ns` last and returns the effects it has.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ftvm.log.stamp import Held
from ftvm.replication.messages import Life


class OutputLike(Protocol):
    """One run of a device's output, as the machine reports it."""

    @property
    def device(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def is_break(self) -> bool: ...


class Absence(Enum):
    """A probe that nobody answered."""

    REFUSED = "refused"
    """On every path: the host is there, the process is not."""
    NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class Presence:
    """Who answered a probe: its `life`, the generation it holds, and whether it takes joiners now.

    `busy`: it has the machine in memory, or is about to, and will go on by itself. `held`: it has none, but waits with
    this log of an earlier life. Neither: it holds nothing.
    """

    life: Life
    gen: int
    live: bool
    busy: bool = False
    held: Held | None = None


ProbeAnswer = Absence | Presence
