"""The shell of a Linux guest over its console, and the guest's clock in what its kernel says there."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from tests.limits import WAIT_S

_STAMPED = re.compile(r"\[ *(\d+)\.(\d{6})\] (.*)")
"""printk: seconds since boot, by the guest's own counter, and the text."""

NS_PER_US = 1000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """The guest's clock was at `guest_ns` since its boot, at some time from `sent_ns` to `heard_ns` of this host's."""

    guest_ns: int
    sent_ns: int
    heard_ns: int

    @property
    def ahead_least_ns(self) -> int:
        """How far the guest's clock is ahead of ours, up to a constant: not less than this."""
        return self.guest_ns - self.heard_ns

    @property
    def ahead_most_ns(self) -> int:
        return self.guest_ns - self.sent_ns


def drift_ns(readings: Iterable[Reading]) -> int:
    """By how much, at least, the guest's clock and ours came apart, and together again. One reading in twenty does not
    count: where a host is starved, a hart that was not run in the middle of a slice reads what it was before."""
    taken = list(readings)
    few = len(taken) // 20
    least = sorted((one.ahead_least_ns for one in taken), reverse=True)
    most = sorted(one.ahead_most_ns for one in taken)
    return max(0, least[few] - most[few])


def apart_ms(before: Iterable[Reading], after: Iterable[Reading]) -> tuple[float, float]:
    """The least and the most by which the guest's clock may have gained on ours."""
    (first_least, first_most), (last_least, last_most) = (
        (max(one.ahead_least_ns for one in taken), min(one.ahead_most_ns for one in taken))
        for taken in (tuple(before), tuple(after))
    )
    return (last_least - first_most) / NS_PER_MS, (last_most - first_least) / NS_PER_MS


@dataclass(slots=True)
class Shell:
    """`listen` runs beside; everything else may be called meanwhile."""

    stream: trio.SocketStream
    lines: list[tuple[str, int]] = field(default_factory=list)
    """What was said, a line each, and when its end was heard."""
    readings: list[Reading] = field(default_factory=list)
    asked: int = 0
    _partial: str = ""
    _spoke: trio.Event = field(default_factory=trio.Event)
    _ended: bool = False

    async def listen(self) -> None:
        """Until the edge hangs up."""
        while data := await self.stream.receive_some():
            heard_ns = time.monotonic_ns()
            *whole, self._partial = (self._partial + data.decode(errors="replace")).split("\n")
            self.lines += [(line.rstrip("\r"), heard_ns) for line in whole]
            self._wake()
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._spoke.set()
        self._spoke = trio.Event()

    async def type(self, line: str) -> None:
        await self.stream.send_all(line.encode() + b"\n")

    async def until(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """The first line from number `after` on that ends with `pattern`; what has not ended counts, too: a prompt."""
        wanted = re.compile(f"(?:{pattern})$")
        with trio.fail_after(WAIT_S):
            while True:
                for line in [*(text for text, _ in self.lines[after:]), self._partial]:
                    if found := wanted.search(line):
                        return found
                assert not self._ended, f"the console ended before {pattern!r}: {self.tail()}"
                after = len(self.lines)
                await self._spoke.wait()

    def tail(self) -> str:
        return "\n".join([*(text for text, _ in self.lines[-20:]), self._partial])

    async def ask_time(self) -> None:
        """Has the kernel say what time it is since boot: one more of `readings`."""
        mark, after, sent_ns = f"asked-{self.asked + 1}", len(self.lines), time.monotonic_ns()
        await self.type(f"echo {mark} >/dev/kmsg")
        self.asked += 1
        await self.until(rf"\] {mark}", after=after)
        for line, heard_ns in self.lines[after:]:
            found = _STAMPED.search(line)
            if found and found[3] == mark:
                self.readings.append(Reading(_guest_ns(found), sent_ns, heard_ns))

    async def ask_times(self, count: int | None, pause_s: float = 0.0) -> None:
        """So often, or for ever, with pauses."""
        for _ in itertools.count() if count is None else range(count):
            await self.ask_time()
            await trio.sleep(pause_s)

    def kernel_readings(self) -> list[Reading]:
        """Of everything that the kernel said: when that was heard is known, and not what it was said after."""
        stamps = ((_STAMPED.search(line), heard_ns) for line, heard_ns in self.lines)
        return [Reading(_guest_ns(found), 0, heard_ns) for found, heard_ns in stamps if found]

    async def until_booted_for(self, seconds: float) -> None:
        """By the stamps of what the kernel says while it boots."""
        while not any(one.guest_ns >= seconds * NS_PER_S for one in self.kernel_readings()):
            assert not self._ended, f"the console ended during boot: {self.tail()}"
            await self._spoke.wait()

    def numbers(self, pattern: str) -> list[int]:
        """The number in each line that matches, in their order."""
        found = (re.search(pattern, line) for line, _ in self.lines)
        return [int(one[1]) for one in found if one]


def _guest_ns(found: re.Match[str]) -> int:
    return (int(found[1]) * 1_000_000 + int(found[2])) * NS_PER_US
