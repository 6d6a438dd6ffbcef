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

HEARD_WINDOW_NS = 4_000_000_000
"""A shadow takes its primary's clock from what it heard within twice this: in so long two hosts' clocks part by less
than a millisecond."""

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


class HeardClock:
    """What a shadow knows of the guest's clock, for when it has to go on with it.

    A sample is heard some time after it was taken: the rest of a slice later, or when a busy host gets to it. Who goes
    on from the last one as if it had come at once stops the guest's clock for that long, at each failover anew. So the
    sample counts that was heard soonest after it was taken: the one that makes the guest's clock furthest ahead.
    """

    def __init__(self) -> None:
        self._mtime = 0
        self._behind_ns: int | None = None
        """Ours less the guest's, by the quickest sample of this window; and of the window before."""
        self._behind_before_ns: int | None = None
        self._window_ns = 0

    def hear(self, mtime: int, now_ns: int) -> None:
        """A sample of the primary's, which arrived at `now_ns`."""
        self._mtime = mtime
        behind_ns = now_ns - mtime * MTIME_NS
        if self._behind_ns is None or now_ns - self._window_ns >= HEARD_WINDOW_NS:
            is_next = now_ns - self._window_ns < 2 * HEARD_WINDOW_NS
            self._behind_before_ns = self._behind_ns if is_next else None
            self._behind_ns, self._window_ns = behind_ns, now_ns
        self._behind_ns = min(self._behind_ns, behind_ns)

    def anchor(self) -> tuple[int, int] | None:
        """For `Pacer.anchor`; None when nothing was heard."""
        if self._behind_ns is None:
            return None
        behind_ns = min(self._behind_ns, self._behind_ns if self._behind_before_ns is None else self._behind_before_ns)
        return self._mtime, self._mtime * MTIME_NS + behind_ns
