"""Traps, interrupts and returns from them (RISC-V privileged architecture 1.13, sections 3.1.6-3.1.9, 3.3.2)."""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled


@compiled
def trap(state: Words, cause: int, value: int, interrupt: bool) -> None:
    """Enter the handler: `cause` without the interrupt bit, `value` for mtval. The pc is the instruction's."""
    delegated = state[s.MIDELEG] if interrupt else state[s.MEDELEG]
    status = state[s.MSTATUS]
    priv = state[s.PRIV]
    flagged = cause | s.INTERRUPT_BIT if interrupt else cause
    if priv <= s.SUPERVISOR and (delegated >> cause) & 1:
        state[s.SEPC], state[s.SCAUSE], state[s.STVAL] = state[s.PC], flagged, value
        enabled = status & s.MSTATUS_SIE
        status &= ~(s.MSTATUS_SIE | s.MSTATUS_SPIE | s.MSTATUS_SPP)
        state[s.MSTATUS] = status | (enabled << 4) | (priv << 8)
        state[s.PRIV] = s.SUPERVISOR
        vector = state[s.STVEC]
    else:
        state[s.MEPC], state[s.MCAUSE], state[s.MTVAL] = state[s.PC], flagged, value
        enabled = status & s.MSTATUS_MIE
        status &= ~(s.MSTATUS_MIE | s.MSTATUS_MPIE | s.MSTATUS_MPP)
        state[s.MSTATUS] = status | (enabled << 4) | (priv << 11)
        state[s.PRIV] = s.MACHINE
        vector = state[s.MTVEC]
    state[s.PC] = (vector & ~3) + (4 * cause if interrupt and vector & 1 else 0)
    state[s.NOT_RETIRED] += 1


@compiled
def interrupt_cause(state: Words, pending: int) -> int:
    """The interrupt that is taken now, of those in `pending` (mip & mie); -1 for none."""
    priv, status = state[s.PRIV], state[s.MSTATUS]
    machine = pending & ~state[s.MIDELEG]
    supervisor = pending & state[s.MIDELEG]
    chosen = 0
    if machine and (priv < s.MACHINE or status & s.MSTATUS_MIE):
        chosen = machine
    elif supervisor and (priv < s.SUPERVISOR or (priv == s.SUPERVISOR and status & s.MSTATUS_SIE)):
        chosen = supervisor
    if chosen == 0:
        return -1
    for cause in s.INTERRUPT_ORDER:
        if (chosen >> cause) & 1:
            return cause
    return -1


@compiled
def mret(state: Words) -> int:
    """1, or 0 for an illegal instruction."""
    if state[s.PRIV] != s.MACHINE:
        return 0
    status = state[s.MSTATUS]
    priv = (status & s.MSTATUS_MPP) >> 11
    enabled = (status & s.MSTATUS_MPIE) >> 4
    status &= ~(s.MSTATUS_MPP | s.MSTATUS_MIE)
    if priv != s.MACHINE:
        status &= ~s.MSTATUS_MPRV
    state[s.MSTATUS] = status | enabled | s.MSTATUS_MPIE
    state[s.PRIV] = priv
    state[s.PC] = state[s.MEPC]
    return 1


@compiled
def sret(state: Words) -> int:
    """1, or 0 for an illegal instruction."""
    status = state[s.MSTATUS]
    if state[s.PRIV] == s.USER or (state[s.PRIV] == s.SUPERVISOR and status & s.MSTATUS_TSR):
        return 0
    priv = (status & s.MSTATUS_SPP) >> 8
    enabled = (status & s.MSTATUS_SPIE) >> 4
    status &= ~(s.MSTATUS_SPP | s.MSTATUS_SIE | s.MSTATUS_MPRV)
    state[s.MSTATUS] = status | enabled | s.MSTATUS_SPIE
    state[s.PRIV] = priv
    state[s.PC] = state[s.SEPC]
    return 1


@compiled
def wfi(state: Words) -> int:
    """1, or 0 for an illegal instruction: in U mode, and in S mode with mstatus.TW."""
    priv = state[s.PRIV]
    if priv == s.USER or (priv == s.SUPERVISOR and state[s.MSTATUS] & s.MSTATUS_TW):
        return 0
    state[s.WAITING] = 1
    return 1


@compiled
def sfence_vma(state: Words) -> int:
    """1, or 0 for an illegal instruction. No translation outlives the entries it was made from (`pages.py`)."""
    priv = state[s.PRIV]
    if priv == s.USER or (priv == s.SUPERVISOR and state[s.MSTATUS] & s.MSTATUS_TVM):
        return 0
    return 1
