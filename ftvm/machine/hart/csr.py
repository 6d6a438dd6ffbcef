"""Control and status registers (RISC-V privileged architecture 1.13, chapters 2, 3 and 12; Zicntr; Sstc; F)."""

from typing import Any

import numpy as np

from ftvm.machine.bus import interrupt_lines
from ftvm.machine.devices.clint import mtime
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled
from ftvm.machine.hart.pmp import write_pmpaddr, write_pmpcfg

FFLAGS, FRM, FCSR = 0x001, 0x002, 0x003
SSTATUS, SIE, STVEC, SCOUNTEREN, SENVCFG = 0x100, 0x104, 0x105, 0x106, 0x10A
SSCRATCH, SEPC, SCAUSE, STVAL, SIP = 0x140, 0x141, 0x142, 0x143, 0x144
STIMECMP, SATP = 0x14D, 0x180
MSTATUS, MISA, MEDELEG, MIDELEG, MIE, MTVEC = 0x300, 0x301, 0x302, 0x303, 0x304, 0x305
MCOUNTEREN, MENVCFG, MCOUNTINHIBIT = 0x306, 0x30A, 0x320
PMPCFG0, PMPCFG2, PMPADDR0 = 0x3A0, 0x3A2, 0x3B0
MSCRATCH, MEPC, MCAUSE, MTVAL, MIP = 0x340, 0x341, 0x342, 0x343, 0x344
MCYCLE, MINSTRET, CYCLE, TIME, INSTRET = 0xB00, 0xB02, 0xC00, 0xC01, 0xC02
TSELECT, TDATA3 = 0x7A0, 0x7A3
MVENDORID, MCONFIGPTR = 0xF11, 0xF15

# (number, where it is kept, bits that a write changes) of registers that are plain words.
_PLAIN = (
    (STVEC, s.STVEC, s.TVEC_WRITABLE),
    (SCOUNTEREN, s.SCOUNTEREN, s.COUNTEREN_WRITABLE),
    (SENVCFG, s.SENVCFG, s.SENVCFG_WRITABLE),
    (SSCRATCH, s.SSCRATCH, -1),
    (SEPC, s.SEPC, s.EPC_WRITABLE),
    (SCAUSE, s.SCAUSE, -1),
    (STVAL, s.STVAL, -1),
    (MEDELEG, s.MEDELEG, s.MEDELEG_WRITABLE),
    (MIDELEG, s.MIDELEG, s.MIDELEG_WRITABLE),
    (MIE, s.MIE, s.MIE_WRITABLE),
    (MTVEC, s.MTVEC, s.TVEC_WRITABLE),
    (MCOUNTEREN, s.MCOUNTEREN, s.COUNTEREN_WRITABLE),
    (MSCRATCH, s.MSCRATCH, -1),
    (MEPC, s.MEPC, s.EPC_WRITABLE),
    (MCAUSE, s.MCAUSE, -1),
    (MTVAL, s.MTVAL, -1),
)


def _plain_tables() -> tuple[Any, Any]:
    place = np.zeros(4096, np.int64)
    mask = np.zeros(4096, np.int64)
    for number, index, writable in _PLAIN:
        place[number], mask[number] = index, writable
    return place, mask


PLACE, WRITABLE = _plain_tables()


@compiled
def _counter_readable(state: Words, number: int) -> bool:
    """May the present mode read user counter `number` (0 cycle, 1 time, 2 instret, then hpmcounters)?"""
    enabled = -1
    if state[s.PRIV] != s.MACHINE:
        enabled = state[s.MCOUNTEREN]
    if state[s.PRIV] == s.USER:
        enabled &= state[s.SCOUNTEREN]
    return (enabled >> number) & 1 != 0


@compiled
def _status(state: Words) -> int:
    """mstatus as it is read."""
    value = state[s.MSTATUS] | s.MSTATUS_FIXED
    return value | s.MSTATUS_SD if value & s.MSTATUS_FS == s.MSTATUS_FS else value


@compiled
def _stimecmp_exists(state: Words) -> bool:
    """For M mode always; for S mode if menvcfg and mcounteren say so (Sstc)."""
    granted = state[s.MENVCFG] & s.MENVCFG_STCE != 0 and state[s.MCOUNTEREN] & 2 != 0
    return state[s.PRIV] == s.MACHINE or granted


@compiled
def _read_supervisor(state: Words, csr: int) -> tuple[int, int]:
    """Those whose numbers begin with 1, but for plain ones."""
    ok, value = 1, 0
    if csr == SSTATUS:
        value = _status(state) & (s.SSTATUS_READABLE | s.MSTATUS_SD)
    elif csr == SIP:
        value = interrupt_lines(state) & state[s.MIDELEG]
    elif csr == SIE:
        value = state[s.MIE] & state[s.MIDELEG]
    elif csr == SATP:
        value = state[s.SATP]
        ok = 0 if state[s.PRIV] == s.SUPERVISOR and state[s.MSTATUS] & s.MSTATUS_TVM else 1
    elif csr == STIMECMP and _stimecmp_exists(state):
        value = state[s.STIMECMP]
    else:
        ok = 0
    return ok, value


@compiled
def _read_float(state: Words, csr: int) -> tuple[int, int]:
    """fflags, frm and fcsr."""
    value = state[s.FCSR]
    if csr == FFLAGS:
        value &= s.FCSR_FLAGS
    elif csr == FRM:
        value >>= 5
    return 1 if state[s.MSTATUS] & s.MSTATUS_FS else 0, value


@compiled
def _retired(state: Words) -> int:
    return state[s.TICK] - state[s.NOT_RETIRED] + state[s.INSTRET_OFFSET]


@compiled
def csr_read(state: Words, csr: int) -> tuple[int, int]:
    """(1, value), or (0, 0) where there is no such register or the present mode may not read it."""
    ok, value = 1, 0
    if PLACE[csr]:
        value = state[PLACE[csr]]
    elif csr == MSTATUS:
        value = _status(state)
    elif csr >> 8 == 1:
        ok, value = _read_supervisor(state, csr)
    elif FFLAGS <= csr <= FCSR:
        ok, value = _read_float(state, csr)
    elif csr == MIP:
        value = interrupt_lines(state)
    elif csr == MENVCFG:
        value = state[s.MENVCFG]
    elif csr in (PMPCFG0, PMPCFG2):
        value = state[s.PMPCFG + (csr >> 1 & 1)]
    elif PMPADDR0 <= csr < PMPADDR0 + s.PMP_ENTRIES:
        value = state[s.PMPADDR + csr - PMPADDR0]
    elif csr == MCYCLE:
        value = state[s.TICK] + state[s.CYCLE_OFFSET]
    elif csr == MINSTRET:
        value = _retired(state)
    elif CYCLE <= csr < CYCLE + 32:
        ok = 1 if _counter_readable(state, csr - CYCLE) else 0
        if ok == 0:
            value = 0
        elif csr == CYCLE:
            value = state[s.TICK] + state[s.CYCLE_OFFSET]
        elif csr == TIME:
            value = mtime(state)
        elif csr == INSTRET:
            value = _retired(state)
    elif csr == MISA:
        value = s.MISA
    else:
        zero = (
            MVENDORID <= csr <= MCONFIGPTR
            or MCYCLE + 3 <= csr < MCYCLE + 32
            or MCOUNTINHIBIT + 3 <= csr < MCOUNTINHIBIT + 32
            or csr == MCOUNTINHIBIT
            # No trigger is there: tselect holds 0 only, and the type in tdata1 is 0 (debug specification, Sdtrig).
            or TSELECT <= csr <= TDATA3
        )
        ok = 1 if zero else 0
    return ok, value


@compiled
def _write_status(state: Words, value: int, writable: int) -> None:
    if (value & s.MSTATUS_MPP) == 2 << 11:
        writable &= ~s.MSTATUS_MPP
    state[s.MSTATUS] = (state[s.MSTATUS] & ~writable) | (value & writable)


@compiled
def _write_float(state: Words, csr: int, value: int) -> None:
    old = state[s.FCSR]
    if csr == FFLAGS:
        value = (old & ~s.FCSR_FLAGS) | (value & s.FCSR_FLAGS)
    elif csr == FRM:
        value = (old & s.FCSR_FLAGS) | (value << 5)
    state[s.FCSR] = value & s.FCSR_WRITABLE
    state[s.MSTATUS] |= s.MSTATUS_FS


@compiled
def _write_menvcfg(state: Words, value: int) -> None:
    state[s.MENVCFG] = value & s.MENVCFG_WRITABLE
    if value & s.MENVCFG_STCE:
        # From now on mip.STIP is what stimecmp says, and nothing is left of what software wrote there.
        state[s.MIP] &= ~s.STIP


@compiled
def _mip_writable(state: Words) -> int:
    return s.MIP_WRITABLE & ~s.STIP if state[s.MENVCFG] & s.MENVCFG_STCE else s.MIP_WRITABLE


@compiled
def csr_write(state: Words, csr: int, value: int) -> None:
    """To a register that `csr_read` has found. What is not writable ignores it (WARL)."""
    if PLACE[csr]:
        mask = WRITABLE[csr]
        state[PLACE[csr]] = (state[PLACE[csr]] & ~mask) | (value & mask)
    elif csr == MSTATUS:
        _write_status(state, value, s.MSTATUS_WRITABLE)
    elif csr == SSTATUS:
        _write_status(state, value, s.SSTATUS_WRITABLE)
    elif csr == MIP:
        state[s.MIP] = value & _mip_writable(state)
    elif csr == SIP:
        mask = s.SSIP & state[s.MIDELEG]
        state[s.MIP] = (state[s.MIP] & ~mask) | (value & mask)
    elif csr == SIE:
        mask = state[s.MIDELEG]
        state[s.MIE] = (state[s.MIE] & ~mask) | (value & mask)
    elif csr == SATP:
        if (value >> 60) & 15 in (0, s.SATP_SV39):
            state[s.SATP] = value
    elif csr == STIMECMP:
        state[s.STIMECMP] = value
    elif csr == MENVCFG:
        _write_menvcfg(state, value)
    elif FFLAGS <= csr <= FCSR:
        _write_float(state, csr, value)
    elif csr in (PMPCFG0, PMPCFG2):
        write_pmpcfg(state, csr >> 1 & 1, value)
    elif PMPADDR0 <= csr < PMPADDR0 + s.PMP_ENTRIES:
        write_pmpaddr(state, csr - PMPADDR0, value)
    elif csr == MCYCLE:
        # The write itself counts no cycle: the next instruction reads `value`.
        state[s.CYCLE_OFFSET] = value - (state[s.TICK] + 1)
    elif csr == MINSTRET:
        state[s.INSTRET_OFFSET] = value - (state[s.TICK] + 1 - state[s.NOT_RETIRED])


@compiled
def csr_execute(state: Words, word: int) -> int:
    """One of the six CSR instructions, but for pc. 1, or 0 for an illegal instruction."""
    csr = (word >> 20) & 0xFFF
    rs1 = (word >> 15) & 31
    function = (word >> 12) & 3
    writes = function == 1 or rs1 != 0
    if (csr >> 8) & 3 > state[s.PRIV] or (writes and csr >> 10 == 3):
        return 0
    ok, old = csr_read(state, csr)
    if ok == 0:
        return 0
    if writes:
        operand = rs1 if word & 0x4000 else state[s.X + rs1]
        # Set and clear work on what software wrote: a line that is up must not stick in mip (section 3.1.9).
        base = state[s.MIP] if csr in (MIP, SIP) else old
        if function == 2:
            operand |= base
        elif function == 3:
            operand = base & ~operand
        csr_write(state, csr, operand)
    rd = (word >> 7) & 31
    if rd:
        state[s.X + rd] = old
    return 1
