"""Address translation: Sv39 with hardware A and D bits (RISC-V privileged architecture 1.13, chapter "Supervisor-Level
ISA", section "Sv39"), physical memory protection around it, and what of it the TLBs keep.

A TLB has one context for each way in which an address may be seen, so that neither traps nor mstatus.SUM flush
anything. A load that only MXR permits is never kept.
"""

from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, as_words, compiled, load64, store64
from ftvm.machine.hart.pages import fill_fetch_tlb, mark_walked, memory_offset, note_write
from ftvm.machine.hart.pmp import pmp_allows

FETCH, LOAD, STORE = range(3)
"""What an access is for."""
ALONE = -1
"""`map_code`: the page may be executed, but not all of it."""

_ACCESS_FAULT = (s.CAUSE_FETCH_ACCESS, s.CAUSE_LOAD_ACCESS, s.CAUSE_STORE_ACCESS)
_PAGE_FAULT = (s.CAUSE_FETCH_PAGE, s.CAUSE_LOAD_PAGE, s.CAUSE_STORE_PAGE)
_PMP_PERMISSION = (s.PMP_X, s.PMP_R, s.PMP_W)
_PTE_ALL = s.PTE_R | s.PTE_W | s.PTE_X | s.PTE_U | s.PTE_A | s.PTE_D
_PPN_MASK = s.SATP_PPN
_ADDRESS_END = 1 << 38
"""Sv39 addresses are below this, or their complements are."""


@compiled
def data_privilege(state: Words) -> int:
    """The mode by whose rules loads and stores go."""
    if state[s.PRIV] == s.MACHINE and state[s.MSTATUS] & s.MSTATUS_MPRV:
        return (state[s.MSTATUS] & s.MSTATUS_MPP) >> 11
    return state[s.PRIV]


@compiled
def set_context(ctl: Words, state: Words) -> None:
    """Due whenever the mode or mstatus has changed, before the core runs on."""
    priv = state[s.PRIV]
    context = 0 if priv == s.MACHINE else 1 + priv
    ctl[c.FETCH_TLB_NOW] = ctl[c.FETCH_TLB_POINTER] + 8 * context * c.TLB_WORDS * c.FETCH_TLB_ENTRIES
    priv = data_privilege(state)
    context = 0 if priv == s.MACHINE else 1 + priv
    if priv == s.SUPERVISOR and state[s.MSTATUS] & s.MSTATUS_SUM:
        context = 3
    ctl[c.DATA_TLB_NOW] = ctl[c.DATA_TLB_POINTER] + 8 * context * c.TLB_WORDS * c.DATA_TLB_ENTRIES
    ctl[c.FP_POISON] = 0 if state[s.MSTATUS] & s.MSTATUS_FS == s.MSTATUS_FS else c.FP_SLOW


@compiled
def _permitted(state: Words, pte: int, access: int, priv: int) -> bool:
    """Does this leaf entry let mode `priv` (U or S) do so?"""
    status = state[s.MSTATUS]
    if priv == s.USER:
        if pte & s.PTE_U == 0:
            return False
    elif pte & s.PTE_U and (access == FETCH or status & s.MSTATUS_SUM == 0):
        return False
    if access == FETCH:
        return pte & s.PTE_X != 0
    if access == STORE:
        return pte & s.PTE_W != 0
    return pte & s.PTE_R != 0 or (status & s.MSTATUS_MXR != 0 and pte & s.PTE_X != 0)


@compiled
def _walk(ctl: Words, state: Words, address: int, access: int, priv: int) -> int:
    """The physical address that an Sv39 address stands for, or the negative cause of the trap. Notes the leaf entry."""
    page_fault, access_fault = -_PAGE_FAULT[access], -_ACCESS_FAULT[access]
    if not -_ADDRESS_END <= address < _ADDRESS_END:
        return page_fault
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    table = (state[s.SATP] & s.SATP_PPN) << 12
    shift = 30
    ctl[c.COUNT_WALKS] += 1
    while True:
        at = table + ((address >> shift) & 511) * 8
        offset = memory_offset(ctl, at)
        if offset < 0 or not pmp_allows(state, at, 8, s.PMP_R, s.SUPERVISOR):
            return access_fault
        mark_walked(ctl, offset >> 12)
        pte = load64(mem, offset)
        if pte & s.PTE_V == 0 or pte & (s.PTE_R | s.PTE_W) == s.PTE_W or pte >> s.PTE_RESERVED_LSB != 0:
            return page_fault
        if pte & (s.PTE_R | s.PTE_X):
            break
        if pte & (s.PTE_U | s.PTE_A | s.PTE_D) or shift == 12:
            return page_fault
        table = ((pte >> s.PTE_PPN_LSB) & _PPN_MASK) << 12
        shift -= 9
    inside = (1 << shift) - 1
    base = ((pte >> s.PTE_PPN_LSB) & _PPN_MASK) << 12
    if not _permitted(state, pte, access, priv) or base & inside:
        return page_fault
    updated = pte | s.PTE_A
    if access == STORE:
        updated |= s.PTE_D
    if updated != pte:
        if offset >= ctl[c.RAM_BYTES] or not pmp_allows(state, at, 8, s.PMP_W, s.SUPERVISOR):
            return access_fault
        store64(mem, offset, updated)
        note_write(ctl, offset, 8)
    ctl[c.WALK_ENTRY] = offset
    ctl[c.WALK_PTE] = updated
    return base | (address & inside)


@compiled
def translate(ctl: Words, state: Words, address: int, size: int, access: int, priv: int) -> int:
    """The physical address of an access inside one page, or the negative cause of the trap that it ends in."""
    if priv == s.MACHINE or state[s.SATP] & s.SATP_MODE == 0:
        ctl[c.WALK_ENTRY] = -1
        ctl[c.WALK_PTE] = _PTE_ALL
        physical = address if address >= 0 else -_ACCESS_FAULT[access]
    else:
        physical = _walk(ctl, state, address, access, priv)
    if physical >= 0 and not pmp_allows(state, physical, size, _PMP_PERMISSION[access], priv):
        return -_ACCESS_FAULT[access]
    return physical


@compiled
def translate_data(ctl: Words, state: Words, address: int, size: int, access: int) -> int:
    return translate(ctl, state, address, size, access, data_privilege(state))


@compiled
def translate_fetch(ctl: Words, state: Words, address: int) -> int:
    """Memory offset of a halfword to execute, or the negative cause of the trap."""
    physical = translate(ctl, state, address, 2, FETCH, state[s.PRIV])
    if physical < 0:
        return physical
    offset = memory_offset(ctl, physical)
    return offset if offset >= 0 else -s.CAUSE_FETCH_ACCESS


@compiled
def fill_data_tlb(ctl: Words, state: Words, address: int, physical: int, offset: int) -> None:
    """After `translate_data`: make loads from this page fast if they may be, and stores if nothing has to notice."""
    tlb = as_words(ctl[c.DATA_TLB_NOW])
    page = address & -4096
    entry = ((address >> 12) & (c.DATA_TLB_ENTRIES - 1)) * c.TLB_WORDS
    pte, priv = ctl[c.WALK_PTE], data_privilege(state)
    tlb[entry] = -1
    tlb[entry + 1] = -1
    tlb[entry + 2] = (offset & -4096) - page
    tlb[entry + 3] = ctl[c.WALK_ENTRY]
    if pte & s.PTE_R and pmp_allows(state, physical & -4096, 4096, s.PMP_R, priv):
        tlb[entry] = page
    if pte & (s.PTE_W | s.PTE_D) != s.PTE_W | s.PTE_D or offset >= ctl[c.RAM_BYTES]:
        return
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])[offset >> 12]
    slot = as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12]
    if flags == c.DIRTY_ALL and slot < 0 and pmp_allows(state, physical & -4096, 4096, s.PMP_W, priv):
        tlb[entry + 1] = page


@compiled
def map_code(ctl: Words, state: Words) -> int:
    """Enter the page of pc into the fetch TLB: 0. ALONE when each of its instructions must be looked at, else the cause
    of the trap that fetching ends in.
    """
    pc, priv = state[s.PC], state[s.PRIV]
    physical = translate(ctl, state, pc, 2, FETCH, priv)
    if physical < 0:
        return -physical
    offset = memory_offset(ctl, physical)
    if offset < 0:
        return s.CAUSE_FETCH_ACCESS
    if not pmp_allows(state, physical & -4096, 4096, s.PMP_X, priv):
        return ALONE
    fill_fetch_tlb(ctl, pc, offset)
    return 0
