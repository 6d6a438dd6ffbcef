"""The guest's clock: host nanoseconds and measured speed to `Clock` entries. Pure: time is an argument.

A guest that reads its clock between two samples gets a value computed from ticks (see `ftvm.log.entry.Clock`).
`rate` is what makes that value good, so it is calibrated from what the hart really did; `cap` is what keeps it
honest when the hart suddenly runs faster than it was measured. Neither affects determinism: both are logged.
"""

from ftvm.log.entry import Clock

MTIME_NS = 100
"""One unit of mtime: 10 MHz, the timebase of QEMU's `virt` board."""

CLOCK_CAP = 10_000_000 // MTIME_NS
"""How far the guest's clock may run ahead of the host's last sample: 10 ms."""

RATE_MAX = 1 << 32
"""One unit of mtime a tick. A hart slower than 10 million ticks a second gets the rest at the next sample."""

TICKS_PER_S_INITIAL = 100_000_000
"""Taken until something was measured; low, so that the first slice is short."""

WINDOW_NS = 32_000_000
"""The measured speed is that of about this much run time; a slice that took longer counts alone."""

_NS_PER_S = 1_000_000_000


class Pacer:
    """Calibrates the guest's clock, and converts between its time and the host's.

    `anchor_ns` (host, monotonic) is the moment at which the guest's clock stands at `mtime`.
    """

    def __init__(self, mtime: int, anchor_ns: int) -> None:
        self._mtime = mtime
        self._anchor_ns = anchor_ns
        self._ticks = TICKS_PER_S_INITIAL // 1000
        self._ran_ns = _NS_PER_S // 1000

    def anchor(self, mtime: int, now_ns: int) -> None:
        """From here on the guest's clock is `mtime` plus the host's time since `now_ns`."""
        self._mtime = mtime
        self._anchor_ns = now_ns

    def ran(self, ticks: int, elapsed_ns: int) -> None:
        """The hart was inside the guest for `elapsed_ns` (not: asleep) and moved by `ticks`."""
        assert ticks >= 0, ticks
        if elapsed_ns >= WINDOW_NS:
            self._ticks, self._ran_ns = max(1, ticks), elapsed_ns
            return
        self._ticks += ticks
        self._ran_ns += max(0, elapsed_ns)
        if self._ran_ns > WINDOW_NS:
            # What is older counts half, and half again: the estimate follows the guest within some slices.
            self._ticks = max(1, self._ticks // 2)
            self._ran_ns //= 2

    def ticks_per_s(self) -> int:
        return max(1, self._ticks * _NS_PER_S // self._ran_ns)

    def ticks_in(self, duration_ns: int) -> int:
        """How far the hart gets in `duration_ns`, at least 1."""
        return max(1, self._ticks * duration_ns // self._ran_ns)

    def sample(self, now_ns: int, tick: int) -> Clock:
        """The entry that tells the guest, at `tick`, what time it is."""
        elapsed = max(0, now_ns - self._anchor_ns) // MTIME_NS
        rate = (self._ran_ns << 32) // (self._ticks * MTIME_NS)
        return Clock(tick, self._mtime + elapsed, min(rate, RATE_MAX), CLOCK_CAP)

    def wake_ns(self, deadline: int) -> int:
        """The host time from which on a sample is at or past `deadline` (mtime units)."""
        return self._anchor_ns + (deadline - self._mtime) * MTIME_NS
