"""One machine alone: no replication, its console on ours, its execution log to a file if one is wanted.

A plain loop on the caller's thread. Each turn: wait if the hart waits, sample the clock, give the guest what was
typed and what came from the network, run a slice, show what the guest said and send its frames. What the loop decides
by host time or gets from the world goes into the log, so a recorded run replays exactly.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from ftvm.host.disk_keeping import Overlays
from ftvm.host.network import DEVICE as NET
from ftvm.host.network import GuestPort, Network
from ftvm.host.pacing import Pacer
from ftvm.log.entry import ENTROPY_SIZE_MAX, INPUT_SIZE_MAX, TICK_MAX, Digest, Entropy, Entry, Input, RealTime, Resize
from ftvm.machine.machine import Halt, Machine, StopReason

UART = "uart0"
SLICE_NS = 5_000_000
"""How long the hart runs before the console and the clock are looked at again."""

DIGEST_INTERVAL_NS = 1_000_000_000
IDLE_WAIT_MAX_S = 3600.0

Append = Callable[[list[Entry]], None]


class Console(Protocol):
    """The world of a machine that runs alone."""

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        """Up to `size_max` bytes that were typed; waits for the first at most `wait_s`, or until `wake_fd` can be read.
        b"" when there is none."""

    def write(self, data: bytes) -> None:
        """Shows what the guest said."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows, where it has any."""

    @property
    def at_end(self) -> bool:
        """Nothing will ever be typed again."""

    @property
    def stop_wanted(self) -> bool:
        """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class World:
    """What a machine that runs alone has around it, beside its console."""

    console_device: str = UART
    """Which of its streams is typed to. What others say is shown all the same, but for the network card's."""
    network: Network | None = None
    overlays: Overlays | None = None


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
    machine: Machine,
    console: Console,
    world: World | None = None,
    *,
    append: Append | None = None,
    ticks_max: int | None = None,
) -> SoloResult:
    """Runs `machine` until it halts, `ticks_max` is reached, the user leaves, or nothing can happen any more.

    `append` gets the entries of each turn, in order; the last one of a run is a Digest of where it ended.
    Errors of the console, the network, the disks and of `append` pass through.
    """
    return _Solo(machine, console, world or World(), append, TICK_MAX if ticks_max is None else ticks_max).run()


class _Solo:
    def __init__(
        self, machine: Machine, console: Console, world: World, append: Append | None, ticks_max: int
    ) -> None:
        self._machine = machine
        self._world = world
        self._console = console
        self._device = world.console_device
        self._port = None if world.network is None else GuestPort(world.network)
        self._size: tuple[int, int] | None = None
        self._append = append
        self._ticks_max = ticks_max
        self._pacer = Pacer(machine.mtime, time.monotonic_ns())
        self._idle = False
        self._sampled_ns = 0
        self._digest_ns = time.monotonic_ns() + DIGEST_INTERVAL_NS
        self._ran_ns = 0
        self._entries: list[Entry] = []

    def run(self) -> SoloResult:
        if self._machine.tick == 0:
            self._log(RealTime(0, time.time_ns()))
        ending = None
        while ending is None:
            ending = self._turn()
        if self._world.overlays is not None:
            self._world.overlays.keep(self._machine)
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
        typed, frames = b"", self._receive()
        if self._idle and not frames:
            deadline = machine.deadline()
            if deadline is None and console.at_end and self._port is None:
                return Ending.NOTHING_LEFT
            wait_ns = None if deadline is None else self._pacer.wake_ns(deadline) - time.monotonic_ns()
            if wait_ns is None or wait_ns > 0:
                typed = self._read(IDLE_WAIT_MAX_S if wait_ns is None else min(wait_ns / 1e9, IDLE_WAIT_MAX_S))
                frames = self._receive()
                is_due = deadline is not None and time.monotonic_ns() >= self._pacer.wake_ns(deadline)
                if not (typed or frames or is_due or console.size != self._size):
                    return None
        self._sample()
        self._resize()
        typed = typed or self._read(0.0)
        if typed:
            self._log(Input(machine.tick, self._device, machine.input_offset(self._device), typed))
        while frames:
            self._log(Input(machine.tick, NET, machine.input_offset(NET), frames))
            frames = self._receive()
        self._run_slice()
        self._flush()
        return None

    def _read(self, wait_s: float) -> bytes:
        """What was typed; waits for it, or for the network, or until that has something to do."""
        wake_fd = -1
        network = self._world.network
        if network is not None and wait_s > 0:
            wake_fd, timeout_s = network.fileno(), network.timeout_s()
            wait_s = wait_s if timeout_s is None else min(wait_s, timeout_s)
        room = min(self._machine.input_room(self._device), INPUT_SIZE_MAX)
        if room == 0:
            time.sleep(min(wait_s, SLICE_NS / 1e9))
            return b""
        return self._console.read(room, wait_s, wake_fd)

    def _receive(self) -> bytes:
        """The next piece of what came from the network, as much as one entry and the guest's card take."""
        if self._port is None or self._world.network is None:
            return b""
        # A network that is never asked stays readable, and would let nobody wait: its own queue is what fills up.
        self._world.network.process()
        room = min(self._machine.input_room(NET), INPUT_SIZE_MAX)
        return self._port.for_guest(room) if room else b""

    def _resize(self) -> None:
        size = self._console.size
        if size is not None and size != self._size and self._machine.board.console:
            self._log(Resize(self._machine.tick, *size))
        self._size = size

    def _run_slice(self) -> None:
        machine = self._machine
        start_tick, start_ns = machine.tick, time.monotonic_ns()
        stop = machine.run_until(min(start_tick + self._pacer.ticks_in(SLICE_NS), self._ticks_max))
        elapsed_ns = time.monotonic_ns() - start_ns
        self._ran_ns += elapsed_ns
        self._pacer.ran(stop.tick - start_tick, elapsed_ns)
        self._idle = stop.reason is StopReason.IDLE
        for output in machine.take_outputs():
            if output.device == NET:
                if self._port is not None:
                    self._port.from_guest(output.data)
            elif not output.is_break:
                self._console.write(output.data)
        self._serve_devices()

    def _serve_devices(self) -> None:
        """What the guest's devices want of the host."""
        wanted = self._machine.entropy_wanted()
        if wanted:
            self._log(Entropy(self._machine.tick, os.urandom(min(wanted, ENTROPY_SIZE_MAX))))
            self._idle = False
        if self._machine.take_flush() and self._world.overlays is not None:
            self._world.overlays.keep(self._machine)

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
