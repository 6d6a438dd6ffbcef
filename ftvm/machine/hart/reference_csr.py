"""Control and status registers of the reference hart, as facts about each: who may write which bits.

(RISC-V Instruction Set Manual, volume II: "Control and Status Registers", "Machine-Level ISA", "Supervisor-Level
ISA", "Sstc"; volume I, "F", for fcsr.)
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ftvm.machine.hart.encodings import CSR_NAMES
from ftvm.machine.hart.reference_alu import MASK64

USER, SUPERVISOR, MACHINE = 0, 1, 3

MISA = 2 << 62 | sum(1 << ord(letter) - ord("A") for letter in "ACDFIMSU")

MSTATUS_SIE, MSTATUS_MIE = 1 << 1, 1 << 3
MSTATUS_SPIE, MSTATUS_MPIE = 1 << 5, 1 << 7
MSTATUS_SPP, MSTATUS_MPP_SHIFT, MSTATUS_MPP = 1 << 8, 11, 3 << 11
MSTATUS_FS = 3 << 13
MSTATUS_MPRV, MSTATUS_SUM, MSTATUS_MXR = 1 << 17, 1 << 18, 1 << 19
MSTATUS_TVM, MSTATUS_TW, MSTATUS_TSR = 1 << 20, 1 << 21, 1 << 22
MSTATUS_UXL_SXL = 2 << 32 | 2 << 34
MSTATUS_SD = 1 << 63
"""Not kept: it follows from FS."""

SSTATUS_WRITABLE = MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR
SSTATUS_READABLE = SSTATUS_WRITABLE | 3 << 32 | MSTATUS_SD
MSTATUS_WRITABLE = (
    SSTATUS_WRITABLE
    | (MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP | MSTATUS_MPRV)
    | (MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR)
)

SATP_MODE_SHIFT, SATP_PPN = 60, (1 << 44) - 1
BARE, SV39 = 0, 8

STCE, FIOM = 1 << 63, 1 << 0
PMP_ENTRIES = 16
PMP_LOCKED, PMP_MODE, PMP_TOR = 1 << 7, 3 << 3, 1 << 3

STIP = 1 << 5
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
    "stimecmp": MASK64,
    "menvcfg": STCE | FIOM,
    "senvcfg": FIOM,
}
"""Registers that simply keep what is written into these bits."""

READ_ONLY: dict[str, int] = {
    "misa": MISA,
    "mvendorid": 0,
    "marchid": 0,
    "mimpid": 0,
    "mhartid": 0,
    "mconfigptr": 0,
    "mcountinhibit": 0,
    "tselect": 0,
    "tdata1": 0,
    "tdata2": 0,
    "tdata3": 0,
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
        self.values |= {"mstatus": MSTATUS_UXL_SXL, "mip": 0, "mcounteren": 7, "scounteren": 7, "satp": 0, "fcsr": 0}
        self.values |= {"pmpcfg0": 0, "pmpcfg2": 0, **{f"pmpaddr{n}": 0 for n in range(PMP_ENTRIES)}}
        self.cycle_offset = 0
        """`mcycle - tick`, modulo 2**64."""
        self.instret_offset = 0
        """`minstret - (tick - not_retired)`, modulo 2**64."""
        self.not_retired = 0
        """Ticks that retired no instruction: exceptions and interrupt entries."""
        self._readers: dict[str, Callable[[], int]] = {
            "mstatus": self._status,
            "sstatus": lambda: self._status() & SSTATUS_READABLE,
            "fflags": lambda: self.values["fcsr"] & 31,
            "frm": lambda: self.values["fcsr"] >> 5,
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
            "satp": self._write_satp,
            "fcsr": lambda value: self.write_float(0xFF, value),
            "fflags": lambda value: self.write_float(0x1F, value),
            "frm": lambda value: self.write_float(0xE0, value << 5),
            "pmpcfg0": lambda value: self._write_pmpcfg("pmpcfg0", value),
            "pmpcfg2": lambda value: self._write_pmpcfg("pmpcfg2", value),
            **{f"pmpaddr{n}": partial(self._write_pmpaddr, n) for n in range(PMP_ENTRIES)},
            "mip": self._write_mip,
            "sip": lambda value: self._write_bits("mip", self.values["mideleg"] & 1 << 1, value),
            "sie": lambda value: self._write_bits("mie", self.values["mideleg"], value),
            "menvcfg": self._write_menvcfg,
            "mcycle": self._write_cycle,
            "minstret": self._write_instret,
        }

    def pending(self) -> int:
        """`mip`: what software set, or a device drives. STIP is the comparison with stimecmp while that is enabled."""
        pending = self.values["mip"] | self.clocks.interrupt_lines()
        if self.values["menvcfg"] & STCE:
            pending &= ~STIP
            if self.clocks.mtime() >= self.values["stimecmp"]:
                pending |= STIP
        return pending

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
        if name in ("fcsr", "fflags", "frm") and not self.values["mstatus"] & MSTATUS_FS:
            raise NoSuchCsr
        timer = self.values["menvcfg"] & STCE and self._counter_enabled(COUNTERS["time"])
        if name == "stimecmp" and self.privilege < MACHINE and not timer:
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

    def _status(self) -> int:
        mstatus = self.values["mstatus"]
        return mstatus | MSTATUS_SD if mstatus & MSTATUS_FS == MSTATUS_FS else mstatus

    def write_float(self, mask: int, value: int) -> None:
        """Into these bits of fcsr. It makes the floating-point state dirty."""
        self._write_bits("fcsr", mask, value)
        self.values["mstatus"] |= MSTATUS_FS

    def _write_satp(self, value: int) -> None:
        """A MODE that does not exist: the write has no effect at all. ASID has 16 bits."""
        if value >> SATP_MODE_SHIFT in (BARE, SV39):
            self.values["satp"] = value

    def _write_mip(self, value: int) -> None:
        """With Sstc on, STIP is read-only."""
        timer = STIP if self.values["menvcfg"] & STCE else 0
        self._write_bits("mip", SUPERVISOR_INTERRUPTS & ~timer, value)

    def _write_menvcfg(self, value: int) -> None:
        """Turning Sstc on makes an end of the STIP that software wrote."""
        self._write_bits("menvcfg", WRITABLE["menvcfg"], value)
        if value & STCE:
            self.values["mip"] &= ~STIP

    def _write_pmpcfg(self, name: str, value: int) -> None:
        """Eight entries; a locked one keeps its byte. Bits 5 and 6 are always zero, and W is without R."""
        old = self.values[name]
        for shift in range(0, 64, 8):
            if not old >> shift & PMP_LOCKED:
                allowed = 0x9F if value >> shift & 1 else 0x9D
                self._write_bits(name, 0xFF << shift, value & allowed << shift)

    def _write_pmpaddr(self, entry: int, value: int) -> None:
        """No effect when the entry is locked, or when it is the lower bound of one that is."""
        configuration = (self.values["pmpcfg0"] | self.values["pmpcfg2"] << 64) >> 8 * entry
        following = configuration >> 8
        bounds_locked = following & PMP_LOCKED and following & PMP_MODE == PMP_TOR
        if not configuration & PMP_LOCKED and not bounds_locked:
            self.values[f"pmpaddr{entry}"] = value & (1 << 54) - 1

    def _cycle(self) -> int:
        return self.clocks.tick + self.cycle_offset

    def _instret(self) -> int:
        return self.clocks.tick - self.not_retired + self.instret_offset

    def _write_cycle(self, value: int) -> None:
        """The next instruction reads `value`: the write takes the place of this one's increment."""
        self.cycle_offset = value - (self.clocks.tick + 1) & MASK64

    def _write_instret(self, value: int) -> None:
        self.instret_offset = value - (self.clocks.tick + 1 - self.not_retired) & MASK64
