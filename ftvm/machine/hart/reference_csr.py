"""Control and status registers of the reference hart, as facts about each: who may write which bits.

(RISC-V Instruction Set Manual, volume II: "Control and Status Registers", "Machine-Level ISA", "Supervisor-Level
ISA".) No paging, no floating point, no PMP: `satp` is hard-wired to Bare, `mstatus.FS` to Off.
"""

from collections.abc import Callable
from typing import Protocol

from ftvm.machine.hart.encodings import CSR_NAMES
from ftvm.machine.hart.reference_alu import MASK64

USER, SUPERVISOR, MACHINE = 0, 1, 3

MISA = 2 << 62 | sum(1 << ord(letter) - ord("A") for letter in "ACIMSU")

MSTATUS_SIE, MSTATUS_MIE = 1 << 1, 1 << 3
MSTATUS_SPIE, MSTATUS_MPIE = 1 << 5, 1 << 7
MSTATUS_SPP, MSTATUS_MPP_SHIFT, MSTATUS_MPP = 1 << 8, 11, 3 << 11
MSTATUS_MPRV, MSTATUS_MXR = 1 << 17, 1 << 19
MSTATUS_TVM, MSTATUS_TW, MSTATUS_TSR = 1 << 20, 1 << 21, 1 << 22
MSTATUS_UXL_SXL = 2 << 32 | 2 << 34

SSTATUS_WRITABLE = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_MXR
SSTATUS_READABLE = SSTATUS_WRITABLE | 3 << 32
"""SUM is wired to zero because `satp.MODE` is."""
MSTATUS_WRITABLE = (
    SSTATUS_WRITABLE
    | (MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP | MSTATUS_MPRV)
    | (MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR)
)

SUPERVISOR_INTERRUPTS = 0x222
ALL_INTERRUPTS = 0xAAA
DELEGABLE_EXCEPTIONS = 0xB3FF
"""All but the environment call from M mode and the two reserved ones."""

COUNTERS = {"cycle": 0, "time": 1, "instret": 2, **{f"hpmcounter{n}": n for n in range(3, 32)}}

WRITABLE: dict[str, int] = {
    "medeleg": DELEGABLE_EXCEPTIONS,
    "mideleg": SUPERVISOR_INTERRUPTS,
    "mie": ALL_INTERRUPTS,
    "mtvec": MASK64 & ~2,
    "mcounteren": 7,
    "mscratch": MASK64,
    "mepc": MASK64 & ~1,
    "mcause": MASK64,
    "mtval": MASK64,
    "stvec": MASK64 & ~2,
    "scounteren": 7,
    "sscratch": MASK64,
    "sepc": MASK64 & ~1,
    "scause": MASK64,
    "stval": MASK64,
}
"""Registers that simply keep what is written into these bits."""

READ_ONLY: dict[str, int] = {
    "misa": MISA,
    "satp": 0,
    "mvendorid": 0,
    "marchid": 0,
    "mimpid": 0,
    "mhartid": 0,
    "mconfigptr": 0,
    "menvcfg": 0,
    "senvcfg": 0,
    "mcountinhibit": 0,
    **{f"mhpmcounter{n}": 0 for n in range(3, 32)},
    **{f"mhpmevent{n}": 0 for n in range(3, 32)},
    **{f"hpmcounter{n}": 0 for n in range(3, 32)},
}
"""Registers that read as a constant; writes to those in a writable range of numbers are ignored."""


class NoSuchCsr(Exception):
    """The access is an illegal instruction: no such register, no privilege, or a write to a read-only one."""


class Clocks(Protocol):
    """What the counters read. `tick` counts instructions, traps and interrupt entries alike."""

    tick: int

    def mtime(self) -> int: ...

    def interrupt_lines(self) -> int:
        """The bits of `mip` that devices drive."""


class ControlStatus:
    """The register file. `values` holds exactly the state: everything that is kept between instructions."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.privilege = MACHINE
        self.values: dict[str, int] = dict.fromkeys(WRITABLE, 0)
        self.values |= {"mstatus": MSTATUS_UXL_SXL, "mip": 0, "mcounteren": 7, "scounteren": 7}
        self.cycle_offset = 0
        """`mcycle - tick`, modulo 2**64."""
        self.instret_offset = 0
        """`minstret - (tick - not_retired)`, modulo 2**64."""
        self.not_retired = 0
        """Ticks that retired no instruction: exceptions and interrupt entries."""
        self._readers: dict[str, Callable[[], int]] = {
            "mstatus": lambda: self.values["mstatus"],
            "sstatus": lambda: self.values["mstatus"] & SSTATUS_READABLE,
            "mip": self.pending,
            "sip": lambda: self.pending() & self.values["mideleg"],
            "sie": lambda: self.values["mie"] & self.values["mideleg"],
            "cycle": self._cycle,
            "mcycle": self._cycle,
            "instret": self._instret,
            "minstret": self._instret,
            "time": self.clocks.mtime,
        }
        self._writers: dict[str, Callable[[int], None]] = {
            "mstatus": self._write_mstatus,
            "sstatus": self._write_sstatus,
            "mip": lambda value: self._write_bits("mip", SUPERVISOR_INTERRUPTS, value),
            "sip": lambda value: self._write_bits("mip", self.values["mideleg"] & 1 << 1, value),
            "sie": lambda value: self._write_bits("mie", self.values["mideleg"], value),
            "mcycle": self._write_cycle,
            "minstret": self._write_instret,
        }

    def pending(self) -> int:
        """`mip`: what software set, or a device drives."""
        return self.values["mip"] | self.clocks.interrupt_lines()

    def name(self, number: int, writes: bool) -> str:
        """The register's name, after the checks that every access makes. NoSuchCsr: illegal instruction."""
        name = CSR_NAMES.get(number)
        if name not in self.values and name not in self._readers and name not in READ_ONLY:
            raise NoSuchCsr
        assert name is not None
        if self.privilege < number >> 8 & 3 or (writes and number >> 10 == 3):
            raise NoSuchCsr
        if name in COUNTERS and not self._counter_enabled(COUNTERS[name]):
            raise NoSuchCsr
        if name == "satp" and self.privilege == SUPERVISOR and self.values["mstatus"] & MSTATUS_TVM:
            raise NoSuchCsr
        return name

    def _counter_enabled(self, bit: int) -> bool:
        enabled = -1
        if self.privilege < MACHINE:
            enabled &= self.values["mcounteren"]
        if self.privilege < SUPERVISOR:
            enabled &= self.values["scounteren"]
        return bool(enabled >> bit & 1)

    def read(self, name: str) -> int:
        if name in self._readers:
            return self._readers[name]() & MASK64
        return READ_ONLY[name] if name in READ_ONLY else self.values[name]

    def read_for_update(self, name: str) -> int:
        """What CSRRS and CSRRC compute with: of `mip.SEIP` only software's bit, not the device's line."""
        external = 1 << 9
        if name in ("mip", "sip"):
            return self.read(name) & ~external | self.values["mip"] & external
        return self.read(name)

    def write(self, name: str, value: int) -> None:
        value &= MASK64
        if name in self._writers:
            self._writers[name](value)
        elif name in WRITABLE:
            self._write_bits(name, WRITABLE[name], value)

    def _write_bits(self, name: str, mask: int, value: int) -> None:
        self.values[name] = self.values[name] & ~mask | value & mask

    def _write_mstatus(self, value: int) -> None:
        """MPP is WARL: a mode that does not exist leaves it as it was."""
        mask = MSTATUS_WRITABLE
        if value >> MSTATUS_MPP_SHIFT & 3 == 2:
            mask &= ~MSTATUS_MPP
        self._write_bits("mstatus", mask, value)

    def _write_sstatus(self, value: int) -> None:
        self._write_bits("mstatus", SSTATUS_WRITABLE, value)

    def _cycle(self) -> int:
        return self.clocks.tick + self.cycle_offset

    def _instret(self) -> int:
        return self.clocks.tick - self.not_retired + self.instret_offset

    def _write_cycle(self, value: int) -> None:
        """The next instruction reads `value`: the write takes the place of this one's increment."""
        self.cycle_offset = value - (self.clocks.tick + 1) & MASK64

    def _write_instret(self, value: int) -> None:
        self.instret_offset = value - (self.clocks.tick + 1 - self.not_retired) & MASK64
