"""The machine: a board that runs, deterministically, between the entries of an execution log.

State after n ticks is a pure function of the initial state and the entries applied up to n. Nothing here looks at a
clock, a file or a socket. Execution happens in compiled code, in batches (`hart/driver.py`); what is Python here
happens once a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import xxhash

from ftvm.errors import ImageError, LogError, SnapshotError
from ftvm.log.entry import (
    LOG_VERSION,
    TICK_MAX,
    Action,
    Clock,
    Control,
    Digest,
    Entropy,
    Entry,
    Horizon,
    Input,
    RealTime,
    Resize,
)
from ftvm.machine.board import RAM_BASE, BoardConfig, DiskConfig, reset_rom
from ftvm.machine.devices.virtio.slots import configure
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.image import Image, load_image
from ftvm.machine.memory import DiskBacking, Memory
from ftvm.machine.output import Output
from ftvm.machine.snapshot import decode_snapshot, encode_snapshot
from ftvm.machine.streams import Streams

CLOCK_MAX = 1 << 61
CELLS_MAX = 0xFFFF
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
    WANTS = c.STOP_WANTS
    """A device waits for the host: see `entropy_wanted` and `take_flush`. The machine can run on all the same."""


@dataclass(frozen=True, slots=True)
class Stop:
    reason: StopReason
    tick: int


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


def _described(disks: Sequence[DiskConfig]) -> str:
    return ", ".join(f"{disk.size} bytes of image {disk.image_hash.hex()}" for disk in disks) or "none"


class Machine:
    """One board with one hart. Not thread-safe, but for `raise_attention`."""

    def __init__(self, board: BoardConfig, image: bytes, disks: Sequence[DiskBacking] = ()) -> None:
        """Power on with `image`, an ELF64 RISC-V executable or a raw binary; `disks` are those that `board` names.

        ImageError when the image cannot be loaded.
        """
        self._assemble(board, image, disks)
        self._reset_board(clear=False)

    @classmethod
    def restore(cls, snapshot: bytes, disks: Sequence[DiskBacking] = ()) -> "Machine":
        """The machine that `save` was called on. SnapshotError for a snapshot that is damaged or foreign, or of a
        machine with other disks."""
        parts = decode_snapshot(snapshot)
        if tuple(disk.config for disk in disks) != parts.board.disks:
            raise SnapshotError(f"the snapshot is of a machine with other disks: {_described(parts.board.disks)}")
        machine = cls.__new__(cls)
        try:
            machine._assemble(parts.board, parts.image, disks)
        except ImageError as error:
            raise SnapshotError(f"the snapshot's image cannot be used: {error}") from error
        machine._memory.put_pages(parts.page_numbers, parts.pages)
        machine.replace_state(parts.state)
        return machine

    def replace_state(self, state: Any) -> None:
        """This (checked) state array, and the memory as it is: nothing that was known of the old machine is left."""
        memory = self._memory
        memory.state[:] = state
        self._streams.discard_outputs()
        memory.forget_cached()
        self._watch_tohost()

    def wipe(self) -> None:
        """Memory as a receiver's that has nothing yet: zero, and its disks' images."""
        self._memory.wipe()

    def save(self) -> bytes:
        """The whole state; what `take_outputs` has not fetched yet is no part of it."""
        memory = self._memory
        memory.state[s.X_SINK] = 0
        numbers = memory.saved_pages()
        pages = memory.bytes.reshape(-1, 4096)
        return encode_snapshot(
            self.board, self.image, memory.state, numbers, lambda first, last: pages[numbers[first:last]]
        )

    def freeze(self) -> Callable[[Callable[[], bool]], bytes]:
        """What `save` would return, made later, and in another thread if need be, while the machine runs on.

        Takes some 0.3 ms for each MiB in use, and as much memory again until the result is dropped. The result is to be
        called with a function that says whether the snapshot is still wanted; SnapshotError if not.
        """
        memory = self._memory
        memory.state[s.X_SINK] = 0
        numbers, state = memory.saved_pages(), memory.state.copy()
        frozen = memory.copy_pages(numbers)
        return lambda wanted: encode_snapshot(
            self.board, self.image, state, numbers, lambda first, last: frozen[first:last], wanted
        )

    def _assemble(self, board: BoardConfig, image: bytes, disks: Sequence[DiskBacking]) -> None:
        assert tuple(disk.config for disk in disks) == board.disks, "the board has other disks"
        from ftvm.machine.hart.kernel import prepare  # not above: who has no machine needs no LLVM

        self.board = board
        self.image = image
        self._loaded: Image = load_image(image, board)
        self.image_hash = xxhash.xxh3_128_digest(image)
        self.config_hash = xxhash.xxh3_128_digest(f"ftvm {LOG_VERSION} {board}".encode())
        self._memory = Memory(board.ram_mib << 20, disks)
        self._state: Any = self._memory.state
        self._control: Any = self._memory.control
        kernel = prepare()
        self._serve = kernel.serve
        self._control[c.FAST_CORE_POINTER] = kernel.fast_core
        self._control[c.EXACT_CORE_POINTER] = kernel.exact_core
        self._control[c.FLOAT_POINTER] = kernel.float_execute
        self._address = self._control.ctypes.data
        self._streams = Streams(board, self._memory, self._call)

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
        configure(state, self.board, memory.ram_bytes)
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
        if entry.tick != self.tick and not isinstance(entry, Horizon | Digest):
            raise LogError(f"an entry of tick {entry.tick} cannot be applied at tick {self.tick}")
        match entry:
            case Input():
                self._streams.accept(entry)
            case Clock(_, mtime, rate, cap):
                if not (0 <= mtime < CLOCK_MAX and 0 <= rate < RATE_MAX and 0 <= cap < CLOCK_MAX):
                    raise LogError(f"the Clock entry of tick {entry.tick} is out of range: {entry}")
                self._call(c.DO_SET_CLOCK, mtime, rate, cap)
            case Entropy(_, data):
                self._supply_entropy(data)
            case Resize(_, columns, rows):
                if not self.board.console or not (0 <= columns <= CELLS_MAX and 0 <= rows <= CELLS_MAX):
                    raise LogError(f"there is no console that could have {columns} columns and {rows} rows")
                self._call(c.DO_RESIZE, columns, rows)
            case RealTime(_, unix_ns):
                if not 0 <= unix_ns <= TICK_MAX:
                    raise LogError(f"the real time of tick {entry.tick} is out of range: {unix_ns}")
                self._call(c.DO_SET_REAL_TIME, unix_ns)
            case Control(_, Action.RESET):
                self._reset_board()
            case Control(_, Action.POWER_OFF):
                if not self._state[s.HALT_HOW]:
                    self._state[s.HALT_HOW], self._state[s.HALT_CODE] = s.HALT_POWER_OFF, 0

    @property
    def streams(self) -> tuple[str, ...]:
        """The devices that take Input and make Output."""
        return self._streams.devices

    def take_outputs(self) -> list[Output]:
        """What the guest has sent since the last call, each device's in order; contiguous bytes are one Output, a break
        is its own. Those of the network card hold whole frames."""
        return self._streams.take_outputs()

    def input_room(self, device: str) -> int:
        """How many units of Input `device` takes now. LogError if the board has no such device; so below."""
        return self._streams.input_room(device)

    def input_offset(self, device: str) -> int:
        """The stream offset that the next Input must have."""
        return self._streams.input_offset(device)

    def output_offset(self, device: str) -> int:
        """The stream offset of the next unit that the guest sends."""
        return self._streams.output_offset(device)

    def entropy_wanted(self) -> int:
        """How many bytes the guest's entropy device waits for."""
        return int(self._state[s.ENTROPY_WANTED])

    def _supply_entropy(self, data: bytes) -> None:
        if not 0 < len(data) <= self.entropy_wanted():
            raise LogError(f"{len(data)} bytes of entropy, and the guest waits for {self.entropy_wanted()}")
        at = self._memory.ram_bytes + c.ENTROPY_AT
        self._memory.bytes[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._call(c.DO_ENTROPY, len(data))

    def take_flush(self) -> bool:
        """Since the last call the guest asked for a flush: what it wrote to its disks is to last."""
        wanted = bool(self._control[c.FLUSH_WANTED])
        self._control[c.FLUSH_WANTED] = 0
        return wanted

    def take_disk_writes(self, disk: int) -> list[tuple[int, bytes | None]]:
        """Pages of this disk that were written since the last call, by their byte offset; None: the image's again."""
        memory = self._memory
        first = memory.disk_pages[disk]
        writes: list[tuple[int, bytes | None]] = []
        for page in memory.take_disk_writes(disk):
            at = (first + page) * 4096
            written = memory.flags[first + page] & c.PAGE_WRITTEN
            writes.append((page * 4096, memory.bytes[at : at + 4096].tobytes() if written else None))
        return writes

    def preload_disk(self, disk: int, offset: int, data: bytes) -> None:
        """Before the first tick: these pages of the disk, from byte `offset` on, are as an earlier run left them.

        Who hands them over has them: they are not among the next `take_disk_writes`.
        """
        assert self.tick == 0, "a disk changes by its guest only"
        assert offset % 4096 == 0 and len(data) % 4096 == 0, (offset, len(data))  # noqa: PT018
        memory = self._memory
        first = memory.disk_pages[disk] + offset // 4096
        pages = np.arange(first, first + len(data) // 4096)
        assert first + len(pages) <= memory.disk_pages[disk + 1], "beyond the disk's end"
        memory.put_pages(pages, np.frombuffer(data, np.uint8).reshape(-1, 4096))
        memory.flags[pages] &= 0xFF ^ c.DIRTY_FILE

    def deadline(self) -> int | None:
        """In WFI: the mtime (as `mtime` counts) at which the timer wakes the hart; None when only an input can."""
        if not self._state[s.WAITING]:
            return None
        wake = self._call(c.DO_READ_WAKE_TIME)
        return wake if wake < CLOCK_MAX else None

    def digest(self) -> bytes:
        """16 bytes over all that the guest can see; the same for the same state, however it came about."""
        return self._memory.digest(self.config_hash + self.image_hash)

    @property
    def scrub_round(self) -> int:
        """How many pages `scrub` has to look at to have seen each once."""
        return self._memory.round_pages

    def scrub(self, pages: int) -> None:
        """Look at so many more of the pages, written or not, round and round: a bit that flipped in one of them shows
        in the next digest. In that of a healthy machine nothing does."""
        self._memory.scrub(pages)

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
