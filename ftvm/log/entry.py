"""Execution log entries: every nondeterministic event of a machine, at its exact tick.

State after n ticks is a pure function of the initial state and the entries with tick <= n. An entry of
tick t is applied when the machine stands at exactly t, before the next instruction, and entries of the same
tick apply in log order. (DESIGN sections 4 and 5; Dunlap et al., ReVirt, OSDI 2002.)
"""

from dataclasses import dataclass
from enum import IntEnum

LOG_VERSION = 4
"""Goes up when the meaning of an entry, the guest-visible board, the instruction semantics, the layout of a log file or
what the nodes say to each other changes.

Two sides of different versions refuse each other at the handshake and name both.
"""

INPUT_SIZE_MAX = 4096
"""Bytes of one `Input`: bounded so that a hostile log or peer cannot ask for more."""

ENTROPY_SIZE_MAX = 4096
"""Bytes of one `Entropy`."""

DIGEST_SIZE = 16
TICK_MAX = (1 << 62) - 1


class Tag(IntEnum):
    """Wire numbers. Only ever appended to, never reused."""

    INPUT = 1
    CLOCK = 2
    HORIZON = 3
    DIGEST = 4
    CONTROL = 5
    ENTROPY = 6
    RESIZE = 7
    REAL_TIME = 8


class Action(IntEnum):
    """What a `Control` entry asks for. Only ever appended to."""

    RESET = 1
    """The board's reset button: RAM is reloaded from the image, devices and hart start anew; ticks go on."""
    POWER_OFF = 2
    """The board's power is cut at this tick: the machine halts as if the guest had asked for it."""


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes that reach `device`'s input stream at `tick`.

    `offset` is the position in that stream of `data[0]`: an input whose offset is not exactly what the device
    expects is a duplicate or a gap, and a fault of the one who logged it. A break condition (RS-232's, as a
    terminal server sends it) is one unit of the stream: `data == b"\\0"` with `is_break`.
    """

    tick: int
    device: str
    offset: int
    data: bytes
    is_break: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """A sample of host time. Between samples the guest's clock is computed, not logged:

    `mtime(t) = min(base + ((t - tick) * rate >> 32), sample + cap)`, where `base = max(mtime just before, sample)`
    and `sample` is this entry's `mtime`. `mtime` counts 10 MHz (QEMU virt's timebase), `rate` is mtime units per
    tick as a 32.32 fixed-point number, `cap` is in mtime units: how far the guest's clock may run ahead.
    """

    tick: int
    mtime: int
    rate: int
    cap: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """No entry will come before `tick`: a shadow may run up to it."""

    tick: int


@dataclass(frozen=True, slots=True)
class Digest:
    """`Machine.digest()` as the primary had it at `tick` (`DIGEST_SIZE` bytes). Changes nothing."""

    tick: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Control:
    """Something an operator or a policy does to the whole board."""

    tick: int
    action: Action


@dataclass(frozen=True, slots=True)
class Entropy:
    """Random bytes that the guest's entropy device asked for."""

    tick: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resize:
    """The terminal on the virtio console has this size, in characters."""

    tick: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class RealTime:
    """The real-time clock is set: it is `unix_ns` nanoseconds after 1970. From there it goes with mtime."""

    tick: int
    unix_ns: int


Entry = Input | Clock | Horizon | Digest | Control | Entropy | Resize | RealTime
