"""The machine: a board that runs, deterministically, between the entries of an execution log.

State after n ticks is a pure function of the initial state and the entries applied up to n. Nothing here looks at a
clock, a file or a socket. Execution happens in compiled code, in batches (`hart/driver.py`); what is Python here
happens once a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from ftvm.errors import ImageError, LogError, SnapshotError
from ftvm.log.entry import LOG_VERSION, TICK_MAX, Action, Clock, Control, Entry, Input
from ftvm.machine.board import RAM_BASE, BoardConfig, reset_rom
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.image import Image, load_image

UART = "uart0"
CLOCK_MAX = 1 << 61
RATE_MAX = 1 << 48
"""Bounds of what a Clock entry may hold, so that its arithmetic cannot overflow."""


class StopReason(Enum):
    """Why `run_until` came back."""

    LIMIT = c.STOP_LIMIT
    """The tick that was asked for."""
    IDLE = c.STOP_IDLE
    """The hart waits in WFI and no interrupt that mie enables is pending; only `apply` can change that."""
    OUTPUT = c.STOP_OUTPUT
    """Outputs wait to be taken."""
    HALTED = c.STOP_HALTED
    ATTENTION = c.STOP_ATTENTION


@dataclass(frozen=True, slots=True)
class Stop:
    reason: StopReason
    tick: int


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that the guest sent; `offset` is where in the device's stream they start, `tick` that of the last one.

    A break condition is one unit of the stream: `data == b"\\0"` with `is_break`.
    """

    tick: int
    device: str
    offset: int
    data: bytes
    is_break: bool = False


@dataclass(frozen=True, slots=True)
class Halt:
    """The machine is off: `how` is "finisher", "htif", "power-off" or "sbi"; `code` is 0 where `ok`."""

    ok: bool
    code: int
    how: str


@dataclass(frozen=True, slots=True)
class MachineStatistics:
    """Counted since this object was made, but for `tick` and `instructions`, which are the machine's."""

    tick: int
    instructions: int
    traps: int
    interrupts: int
    core_exits: int
    mmio: int
    decoded: int
    code_stores: int


_HOW = {s.HALT_FINISHER: "finisher", s.HALT_HTIF: "htif", s.HALT_POWER_OFF: "power-off", s.HALT_SBI: "sbi"}


class Machine:
    """One board with one hart. Not thread-safe, but for `raise_attention`."""

    def __init__(self, board: BoardConfig, image: bytes) -> None:
        """Power on with `image`, an ELF64 RISC-V executable or a raw binary. ImageError when it cannot be loaded."""
        self._assemble(board, image)
        self._reset_board(clear=False)

    @classmethod
    def restore(cls, snapshot: bytes) -> "Machine":
        """The machine that `save` was called on. SnapshotError for a snapshot that is damaged or foreign."""
        from ftvm.machine.snapshot import decode_snapshot

        parts = decode_snapshot(snapshot)
        machine = cls.__new__(cls)
        try:
            machine._assemble(parts.board, parts.image)
        except ImageError as error:
            raise SnapshotError(f"the snapshot's image cannot be used: {error}") from error
        memory = machine._memory
        memory.bytes.reshape(-1, 4096)[parts.page_numbers] = parts.pages
        memory.flags[parts.page_numbers] |= c.DIRTY_ALL
        machine.replace_state(parts.state)
        return machine

    def replace_state(self, state: Any) -> None:
        """This (checked) state array, and the memory as it is: nothing that was known of the old machine is left."""
        memory = self._memory
        memory.state[:] = state
        memory.outputs[self._uart.OUT_COUNT] = 0
        memory.flags &= c.DIRTY_ALL
        memory.flush_caches()
        self._watch_tohost()

    def wipe(self) -> None:
        """All memory zero, as a receiver's that has nothing yet."""
        self._memory.clear()

    def save(self) -> bytes:
        """The whole state; what `take_outputs` has not fetched yet is no part of it."""
        from ftvm.machine.snapshot import encode_snapshot

        memory = self._memory
        memory.state[s.X_SINK] = 0
        return encode_snapshot(self.board, self.image, memory.state, memory.bytes, memory.nonzero_pages())

    def freeze(self) -> Callable[[Callable[[], bool]], bytes]:
        """What `save` would return, made later, and in another thread if need be, while the machine runs on.

        Takes some 0.3 ms for each MiB of RAM, and as much memory again until the result is dropped. The result is to be
        called with a function that says whether the snapshot is still wanted; SnapshotError if not.
        """
        from ftvm.machine.snapshot import encode_snapshot

        memory = self._memory
        memory.state[s.X_SINK] = 0
        numbers, frozen, state = memory.nonzero_pages(), memory.copy_bytes(), memory.state.copy()
        return lambda wanted: encode_snapshot(self.board, self.image, state, frozen, numbers, wanted)

    def _assemble(self, board: BoardConfig, image: bytes) -> None:
        # Here and not above: what imports this module need not wait half a second for numba.
        from ftvm.machine.devices import uart
        from ftvm.machine.hart.kernel import prepare
        from ftvm.machine.memory import Memory

        self._uart = uart
        self.board = board
        self.image = image
        self._loaded: Image = load_image(image, board)
        self.image_hash = xxhash.xxh3_128_digest(image)
        self.config_hash = xxhash.xxh3_128_digest(f"ftvm {LOG_VERSION} {board}".encode())
        self._memory = Memory(board.ram_mib << 20)
        self._state: Any = self._memory.state
        self._control: Any = self._memory.control
        kernel = prepare()
        self._serve = kernel.serve
        self._control[c.FAST_CORE_POINTER] = kernel.fast_core
        self._control[c.EXACT_CORE_POINTER] = kernel.exact_core
        self._address = self._control.ctypes.data

    def _watch_tohost(self) -> None:
        if self._state[s.TOHOST]:
            self._memory.flags[(int(self._state[s.TOHOST]) - RAM_BASE) >> 12] |= c.PAGE_WATCHED

    def _reset_board(self, clear: bool = True) -> None:
        """The reset button: RAM from the image, hart and devices anew. Ticks, the clock and stream offsets go on."""
        memory, state, image = self._memory, self._state, self._loaded
        if clear:
            memory.clear()
        for segment in image.segments:
            memory.write(segment.offset, segment.data)
        memory.write(memory.ram_bytes, reset_rom(image.entry, image.device_tree, image.next_entry))
        tick, not_retired = int(state[s.TICK]), int(state[s.NOT_RETIRED])
        state[: s.CLOCK_AT] = 0
        state[s.TICK], state[s.NOT_RETIRED] = tick, not_retired
        state[s.CYCLE_OFFSET], state[s.INSTRET_OFFSET] = -tick, not_retired - tick
        state[s.PC], state[s.PRIV], state[s.RESERVATION] = 0x1000, s.MACHINE, -1
        state[s.MCOUNTEREN] = state[s.SCOUNTEREN] = s.COUNTEREN_WRITABLE
        state[s.TOHOST], state[s.FROMHOST] = image.tohost, image.fromhost
        for index, value in image.words:
            state[index] = value
        self._call(c.DO_RESET_DEVICES)
        self._watch_tohost()

    def _call(self, command: int, *arguments: int) -> int:
        self._control[c.COMMAND] = command
        self._control[c.ARGUMENTS : c.ARGUMENTS + len(arguments)] = arguments
        return self._serve(self._address)

    @property
    def tick(self) -> int:
        return int(self._state[s.TICK])

    @property
    def mtime(self) -> int:
        """The clock that Clock entries set, at this tick; what the guest added by writing mtime does not count."""
        return self._call(c.DO_READ_CLOCK)

    @property
    def halt(self) -> Halt | None:
        how, code = int(self._state[s.HALT_HOW]), int(self._state[s.HALT_CODE])
        return Halt(code == 0, code, _HOW[how]) if how else None

    def run_until(self, tick: int) -> Stop:
        """Run to exactly `tick`, or stop earlier with a reason. Releases the GIL."""
        assert tick <= TICK_MAX
        self._control[c.STOP] = tick
        self._control[c.OUT_DEADLINE] = 0
        while True:
            reason = self._call(c.DO_RUN)
            if reason != c.STOP_RESET:
                break
            self._reset_board()
        if reason == c.STOP_ATTENTION:
            self._control[c.ATTENTION] = 0
        return Stop(StopReason(reason), self.tick)

    def raise_attention(self) -> None:
        """From any thread: a running `run_until` stops soon, or the next one at once, with ATTENTION."""
        self._control[c.ATTENTION] = 1

    def clear_attention(self) -> None:
        """Whatever attention was raised for has been seen to."""
        self._control[c.ATTENTION] = 0

    def apply(self, entry: Entry) -> None:
        """Let an entry of the log happen at this tick. LogError when it cannot be one of this machine's log here."""
        if entry.tick != self.tick and isinstance(entry, Input | Clock | Control):
            raise LogError(f"an entry of tick {entry.tick} cannot be applied at tick {self.tick}")
        match entry:
            case Input():
                self._input(entry)
            case Clock(_, mtime, rate, cap):
                if not (0 <= mtime < CLOCK_MAX and 0 <= rate < RATE_MAX and 0 <= cap < CLOCK_MAX):
                    raise LogError(f"the Clock entry of tick {entry.tick} is out of range: {entry}")
                self._call(c.DO_SET_CLOCK, mtime, rate, cap)
            case Control(_, Action.RESET):
                self._reset_board()
            case Control(_, Action.POWER_OFF):
                if not self._state[s.HALT_HOW]:
                    self._state[s.HALT_HOW], self._state[s.HALT_CODE] = s.HALT_POWER_OFF, 0

    def _input(self, entry: Input) -> None:
        uart = self._uart
        self._check_device(entry.device)
        offset = self.input_offset(entry.device)
        if entry.offset != offset:
            raise LogError(f"input at tick {entry.tick} has offset {entry.offset}, {entry.device} is at {offset}")
        if not entry.data or len(entry.data) > self.input_room(entry.device):
            raise LogError(f"input at tick {entry.tick} has {len(entry.data)} bytes, which {entry.device} cannot take")
        if entry.is_break and entry.data != b"\0":
            raise LogError(f"the break at tick {entry.tick} is not one zero byte")
        units = np.frombuffer(entry.data, np.uint8)
        start = offset % uart.BACKLOG_SIZE
        size = min(len(units), uart.BACKLOG_SIZE - start)
        self._state[uart.BACKLOG + start : uart.BACKLOG + start + size] = units[:size]
        self._state[uart.BACKLOG : uart.BACKLOG + len(units) - size] = units[size:]
        if entry.is_break:
            self._state[uart.BACKLOG + start] |= uart.BREAK_UNIT
        self._state[uart.INPUT_OFFSET] += len(units)
        self._call(c.DO_RECEIVE)

    def take_outputs(self) -> list[Output]:
        """What the guest has sent since the last call; contiguous bytes are one Output, a break is its own."""
        uart = self._uart
        count = int(self._memory.outputs[uart.OUT_COUNT])
        if not count:
            return []
        pairs = self._memory.outputs[uart.OUT_UNITS : uart.OUT_UNITS + 2 * count].reshape(count, 2)
        ticks, units = pairs[:, 0], pairs[:, 1]
        offset = int(self._state[uart.OUTPUT_OFFSET]) - count
        self._memory.outputs[uart.OUT_COUNT] = 0
        if units.max() < uart.BREAK_UNIT:
            return [Output(int(ticks[-1]), UART, offset, units.astype(np.uint8).tobytes(), False)]
        breaks = np.flatnonzero(units & uart.BREAK_UNIT).tolist()
        cuts = sorted({0, count, *breaks, *(at + 1 for at in breaks)})
        return [
            Output(
                tick=int(ticks[last - 1]),
                device=UART,
                offset=offset + first,
                data=units[first:last].astype(np.uint8).tobytes(),
                is_break=bool(units[first] & uart.BREAK_UNIT),
            )
            for first, last in pairwise(cuts)
        ]

    def _check_device(self, device: str) -> None:
        if device != UART:
            raise LogError(f"there is no device {device!r}: this board has {UART}")

    def input_room(self, device: str) -> int:
        """How many units of Input `device` takes now."""
        self._check_device(device)
        uart = self._uart
        waiting = int(self._state[uart.INPUT_OFFSET] - self._state[uart.BACKLOG_TAKEN])
        return int(uart.BACKLOG_SIZE) - waiting

    def input_offset(self, device: str) -> int:
        """The stream offset that the next Input must have."""
        self._check_device(device)
        uart = self._uart
        return int(self._state[uart.INPUT_OFFSET])

    def output_offset(self, device: str) -> int:
        """The stream offset of the next unit that the guest sends."""
        self._check_device(device)
        uart = self._uart
        return int(self._state[uart.OUTPUT_OFFSET])

    def deadline(self) -> int | None:
        """In WFI: the mtime (as `mtime` counts) at which the timer wakes the hart; None when only an input can."""
        from ftvm.machine.devices import clint

        state = self._state
        if not state[s.WAITING] or not state[s.MIE] & s.MTIP:
            return None
        compare = int(state[clint.MTIMECMP]) & (1 << 64) - 1
        wake = compare - int(state[clint.MTIME_OFFSET])
        return wake if wake < CLOCK_MAX else None

    def digest(self) -> bytes:
        """16 bytes over all that the guest can see; the same for the same state, however it came about."""
        return self._memory.digest(self.config_hash + self.image_hash)

    def flush_caches(self) -> None:
        """Forget TLBs and decoded code: never shows but in speed."""
        self._memory.flush_caches()

    def statistics(self) -> MachineStatistics:
        control, state = self._control, self._state
        return MachineStatistics(
            tick=self.tick,
            instructions=int(state[s.TICK] - state[s.NOT_RETIRED]),
            traps=int(control[c.COUNT_TRAPS]),
            interrupts=int(control[c.COUNT_INTERRUPTS]),
            core_exits=int(control[c.COUNT_EXITS]),
            mmio=int(control[c.COUNT_MMIO]),
            decoded=int(control[c.COUNT_DECODED]),
            code_stores=int(control[c.COUNT_CODE_STORES]),
        )
