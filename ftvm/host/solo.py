"""One machine alone: no replication, its console on ours, its execution log to a file if one is wanted.

A plain loop on the caller's thread. Each turn: wait if the hart waits, sample the clock, give the guest what was
typed, run a slice, show what the guest said. What the loop decides by host time goes into the log, so a recorded run
replays exactly.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from ftvm.host.pacing import Pacer
from ftvm.log.entry import INPUT_SIZE_MAX, TICK_MAX, Digest, Entry, Input
from ftvm.machine.machine import Halt, Machine, StopReason

UART = "uart0"
SLICE_NS = 5_000_000
"""How long the hart runs before the console and the clock are looked at again."""

DIGEST_INTERVAL_NS = 1_000_000_000
IDLE_WAIT_MAX_S = 3600.0

Append = Callable[[list[Entry]], None]


class Console(Protocol):
    """The world of a machine that runs alone."""

    def read(self, size_max: int, wait_s: float) -> bytes:
        """Up to `size_max` bytes that were typed; waits for the first at most `wait_s`. b"" when there is none."""

    def write(self, data: bytes) -> None:
        """Shows what the guest said."""

    @property
    def at_end(self) -> bool:
        """Nothing will ever be typed again."""

    @property
    def stop_wanted(self) -> bool:
        """The user wants to leave."""


class Ending(Enum):
    HALTED = auto()
    TICKS_MAX = auto()
    STOP_WANTED = auto()
    NOTHING_LEFT = auto()
    """The hart waits, no timer is armed, and the console's input has ended: it would wait for ever."""


@dataclass(frozen=True, slots=True)
class SoloResult:
    ending: Ending
    halt: Halt | None
    tick: int
    ran_ns: int
    """Time spent inside the guest."""


def run_solo(
    machine: Machine, console: Console, *, append: Append | None = None, ticks_max: int | None = None
) -> SoloResult:
    """Runs `machine` until it halts, `ticks_max` is reached, the user leaves, or nothing can happen any more.

    `append` gets the entries of each turn, in order; the last one of a run is a Digest of where it ended.
    Errors of the console and of `append` pass through.
    """
    return _Solo(machine, console, append, TICK_MAX if ticks_max is None else ticks_max).run()


class _Solo:
    def __init__(self, machine: Machine, console: Console, append: Append | None, ticks_max: int) -> None:
        self._machine = machine
        self._console = console
        self._append = append
        self._ticks_max = ticks_max
        self._pacer = Pacer(machine.mtime, time.monotonic_ns())
        self._idle = False
        self._sampled_ns = 0
        self._digest_ns = time.monotonic_ns() + DIGEST_INTERVAL_NS
        self._ran_ns = 0
        self._entries: list[Entry] = []

    def run(self) -> SoloResult:
        ending = None
        while ending is None:
            ending = self._turn()
        if self._append is not None:
            self._entries.append(Digest(self._machine.tick, self._machine.digest()))
        self._flush()
        return SoloResult(ending, self._machine.halt, self._machine.tick, self._ran_ns)

    def _turn(self) -> Ending | None:
        machine, console = self._machine, self._console
        if console.stop_wanted:
            return Ending.STOP_WANTED
        if machine.halt is not None:
            return Ending.HALTED
        if machine.tick >= self._ticks_max:
            return Ending.TICKS_MAX
        typed = b""
        if self._idle:
            deadline = machine.deadline()
            if deadline is None and console.at_end:
                return Ending.NOTHING_LEFT
            wait_ns = None if deadline is None else self._pacer.wake_ns(deadline) - time.monotonic_ns()
            if wait_ns is None or wait_ns > 0:
                wait_s = IDLE_WAIT_MAX_S if wait_ns is None else min(wait_ns / 1e9, IDLE_WAIT_MAX_S)
                typed = self._read(wait_s)
                if not typed and (wait_ns is None or time.monotonic_ns() < self._pacer.wake_ns(deadline or 0)):
                    return None
        self._sample()
        typed = typed or self._read(0.0)
        if typed:
            self._log(Input(machine.tick, UART, machine.input_offset(UART), typed))
        self._run_slice()
        self._flush()
        return None

    def _read(self, wait_s: float) -> bytes:
        room = min(self._machine.input_room(UART), INPUT_SIZE_MAX)
        if room == 0:
            time.sleep(min(wait_s, SLICE_NS / 1e9))
            return b""
        return self._console.read(room, wait_s)

    def _run_slice(self) -> None:
        machine = self._machine
        start_tick, start_ns = machine.tick, time.monotonic_ns()
        stop = machine.run_until(min(start_tick + self._pacer.ticks_in(SLICE_NS), self._ticks_max))
        elapsed_ns = time.monotonic_ns() - start_ns
        self._ran_ns += elapsed_ns
        self._pacer.ran(stop.tick - start_tick, elapsed_ns)
        self._idle = stop.reason is StopReason.IDLE
        for output in machine.take_outputs():
            if not output.is_break:
                self._console.write(output.data)

    def _sample(self) -> None:
        """A Clock entry, unless the last one is so fresh that the guest cannot tell."""
        now_ns = time.monotonic_ns()
        if self._idle or not self._sampled_ns or now_ns - self._sampled_ns >= SLICE_NS // 2:
            self._log(self._pacer.sample(now_ns, self._machine.tick))
            self._sampled_ns = now_ns
        if self._append is not None and now_ns >= self._digest_ns:
            self._entries.append(Digest(self._machine.tick, self._machine.digest()))
            self._digest_ns = now_ns + DIGEST_INTERVAL_NS

    def _log(self, entry: Entry) -> None:
        self._machine.apply(entry)
        self._entries.append(entry)

    def _flush(self) -> None:
        if self._append is not None and self._entries:
            self._append(self._entries)
        self._entries = []
