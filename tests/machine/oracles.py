"""Unicorn as the oracle of user-level programs, and what a program leaves behind.

Unicorn's quirks, which the program generator stays clear of (everything else must agree):

* Traps go to its interrupt hook, never to `mtvec`: programs for it contain nothing that traps.
* SC compares the *value* in memory with what LR read, besides the address: so nothing stores between LR and SC.
* A misaligned SC whose reservation does not match fails without a trap; LR, SC and AMO are always aligned here.
* The reservation outlives a program, because the `Uc` object is used again: each program begins by using it up.
* Translated code outlives a program as well: it is flushed before each.
* Cycle, time and instruction counters are its own; nothing reads them.
"""

from dataclasses import dataclass

import unicorn
from unicorn.riscv_const import UC_RISCV_REG_PC, UC_RISCV_REG_X0

from ftvm.machine.hart.reference_mmu import BusError
from tests.machine.programs import BASE, IMAGE_SIZE, Program

MEMORY_SIZE = 0x8000
STEPS_MAX = 20_000
"""More than any program of the sizes used here takes; one that takes more has gone astray."""


class Astray(Exception):
    """The program trapped, or did not end: it tells nothing, unless only one of two says so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the guest can see at the end of a user-level program."""

    registers: tuple[int, ...]
    pc: int
    memory: bytes

    def differences(self, other: "Outcome") -> list[str]:
        lines = [
            f"x{index}: {mine:#x} != {theirs:#x}"
            for index, (mine, theirs) in enumerate(zip(self.registers, other.registers, strict=True))
            if mine != theirs
        ]
        if self.pc != other.pc:
            lines.append(f"pc: {self.pc:#x} != {other.pc:#x}")
        lines += [
            f"memory at {BASE + index:#x}: {mine:#04x} != {theirs:#04x}"
            for index, (mine, theirs) in enumerate(zip(self.memory, other.memory, strict=True))
            if mine != theirs
        ][:8]
        return lines


class Unicorn:
    """One `Uc` for all programs: making one costs far more than a program does."""

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        self._uc.mem_map(BASE, MEMORY_SIZE)
        self._trap: int | None = None
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_trap)

    def _on_trap(self, uc: unicorn.Uc, cause: int, _data: object) -> None:
        self._trap = cause
        uc.emu_stop()

    def run(self, program: Program, timeout_us: int = 0) -> Outcome:
        """Astray when it traps. A timeout bounds programs that may not end; it costs a thread each."""
        uc = self._uc
        uc.ctl_flush_tb()
        uc.mem_write(BASE, program.image())
        for index in range(1, 32):
            uc.reg_write(UC_RISCV_REG_X0 + index, 0)
        self._trap = None
        try:
            uc.emu_start(BASE, program.end, timeout=timeout_us)
        except unicorn.UcError as error:
            raise Astray(str(error)) from None
        if self._trap is not None:
            raise Astray(f"trap {self._trap} at {uc.reg_read(UC_RISCV_REG_PC):#x}")
        if uc.reg_read(UC_RISCV_REG_PC) != program.end:
            raise Astray("does not end")
        registers = tuple(uc.reg_read_batch([UC_RISCV_REG_X0 + index for index in range(32)]))
        return Outcome(registers, uc.reg_read(UC_RISCV_REG_PC), bytes(uc.mem_read(BASE, IMAGE_SIZE)))


class FlatMemory:
    """A board with memory and nothing else, for a reference hart that runs without a machine."""

    def __init__(self, image: bytes, size: int = MEMORY_SIZE) -> None:
        self.memory = bytearray(image.ljust(size, b"\0"))
        self.tick = 0
        self.now = 0
        self.lines = 0

    def mtime(self) -> int:
        return self.now

    def interrupt_lines(self) -> int:
        return self.lines

    def _offset(self, address: int, size: int) -> int:
        offset = address - BASE
        if not 0 <= offset <= len(self.memory) - size:
            raise BusError(address if offset < 0 else max(address, BASE + len(self.memory)))
        return offset

    def is_memory(self, address: int, writable: bool) -> bool:
        return 0 <= address - BASE < len(self.memory)

    def fetch(self, address: int) -> int:
        return self.load(address, 2)

    def load(self, address: int, size: int) -> int:
        offset = self._offset(address, size)
        return int.from_bytes(self.memory[offset : offset + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        offset = self._offset(address, size)
        self.memory[offset : offset + size] = value.to_bytes(size, "little")

    def update_entry(self, address: int, entry: int) -> None:
        self.store(address, 8, entry)
