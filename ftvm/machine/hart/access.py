"""Loads, stores and atomics that the core could not do: TLB misses, devices, misaligned, dirty tracking, code pages.

Each is done here whole; the TLB is filled on the way, so that the next access to the page is fast if it may be.
"""

from ftvm.machine.bus import RESET_ASKED, bus_read, bus_write
from ftvm.machine.devices.htif import ANSWERED, htif_answer, htif_command
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import (
    Bytes,
    Words,
    as_bytes,
    as_words,
    compiled,
    load8u,
    load16u,
    load32u,
    load64,
    store8,
    store16,
    store32,
    store64,
)
from ftvm.machine.hart.operations import AMO, AMOS, SIGNED, SIZE
from ftvm.machine.hart.pages import fill_data_tlb, memory_offset, note_store

DONE, TRAPPED, CHANGED, RESET = range(4)
"""Outcome of an instruction: over; over by a trap whose cause and value are noted; over, and interrupts, time or the
machine's halt may have changed; over, and the board is to be reset."""

SWAP, ADD, XOR, AND, OR, MIN, MAX, MINU, MAXU, LR, SC = range(len(AMOS))


@compiled
def _load(mem: Bytes, offset: int, size: int) -> int:
    if size == 1:
        return load8u(mem, offset)
    if size == 2:
        return load16u(mem, offset)
    if size == 4:
        return load32u(mem, offset)
    return load64(mem, offset)


@compiled
def _store(mem: Bytes, offset: int, size: int, value: int) -> None:
    if size == 1:
        store8(mem, offset, value)
    elif size == 2:
        store16(mem, offset, value)
    elif size == 4:
        store32(mem, offset, value)
    else:
        store64(mem, offset, value)


@compiled
def _extend(value: int, size: int, signed: int) -> int:
    if size == 8:
        return value
    bits = 8 * size
    value &= (1 << bits) - 1
    sign = 1 << (bits - 1)
    return (value ^ sign) - sign if signed else value


@compiled
def _fault(ctl: Words, cause: int, address: int) -> int:
    ctl[c.FAULT_CAUSE] = cause
    ctl[c.FAULT_VALUE] = address
    return TRAPPED


@compiled
def _span(ctl: Words, address: int, size: int) -> int:
    """Memory offset of an access that may cross pages; -1 - k when its k-th byte is the first outside memory."""
    offset = memory_offset(ctl, address)
    if offset < 0:
        return -1
    last = address + size - 1
    if (last ^ address) >> 12 and memory_offset(ctl, last) != offset + size - 1:
        return -1 - (4096 - (address & 4095))
    return offset


@compiled
def _told_host(ctl: Words, state: Words, offset: int, size: int) -> int:
    """After a store to a watched page: was it to tohost, and a command?"""
    at = memory_offset(ctl, state[s.TOHOST])
    if offset >= at + 8 or offset + size <= at:
        return DONE
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    command = load64(mem, at)
    if command == 0:
        return DONE
    if htif_command(state, as_words(ctl[c.OUTPUTS_POINTER]), command) == ANSWERED:
        store64(mem, at, 0)
        note_store(ctl, at, 8)
        answer = memory_offset(ctl, state[s.FROMHOST]) if state[s.FROMHOST] else -1
        if answer >= 0:
            store64(mem, answer, htif_answer(command))
            note_store(ctl, answer, 8)
    return CHANGED


@compiled
def _write_memory(ctl: Words, state: Words, offset: int, size: int, value: int) -> int:
    _store(as_bytes(ctl[c.MEMORY_POINTER]), offset, size, value)
    note_store(ctl, offset, size)
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    if (flags[offset >> 12] | flags[(offset + size - 1) >> 12]) & c.PAGE_WATCHED:
        return _told_host(ctl, state, offset, size)
    return DONE


@compiled
def load(ctl: Words, state: Words, op: int, rd: int, address: int) -> int:
    size = SIZE[op]
    offset = _span(ctl, address, size)
    outcome = DONE
    if offset >= 0:
        value = _load(as_bytes(ctl[c.MEMORY_POINTER]), offset, size)
        fill_data_tlb(ctl, address, offset)
    elif offset < -1:
        return _fault(ctl, s.CAUSE_LOAD_ACCESS, address - 1 - offset)
    else:
        ok, value = 0, 0
        if address & (size - 1) == 0:
            ok, value = bus_read(ctl, state, address, size)
        ctl[c.COUNT_MMIO] += 1
        if ok == 0:
            return _fault(ctl, s.CAUSE_LOAD_ACCESS, address)
        outcome = CHANGED
    state[rd] = _extend(value, size, SIGNED[op])
    return outcome


@compiled
def store(ctl: Words, state: Words, op: int, address: int, value: int) -> int:
    size = SIZE[op]
    offset = _span(ctl, address, size)
    if offset >= 0 and offset + size <= ctl[c.RAM_BYTES]:
        outcome = _write_memory(ctl, state, offset, size, value)
        fill_data_tlb(ctl, address, offset)
        return outcome
    if offset < -1 and memory_offset(ctl, address) < ctl[c.RAM_BYTES]:
        return _fault(ctl, s.CAUSE_STORE_ACCESS, address - 1 - offset)
    ok = 0
    if offset == -1 and address & (size - 1) == 0:
        ok = bus_write(ctl, state, address, size, value)
    ctl[c.COUNT_MMIO] += 1
    if ok == 0:
        return _fault(ctl, s.CAUSE_STORE_ACCESS, address)
    return RESET if ok == RESET_ASKED else CHANGED


@compiled
def _combine(which: int, a: int, b: int) -> int:
    if which == SWAP:
        return b
    if which == ADD:
        return a + b
    if which == XOR:
        return a ^ b
    if which == AND:
        return a & b
    if which == OR:
        return a | b
    if which == MIN:
        return min(a, b)
    if which == MAX:
        return max(a, b)
    below = (a ^ s.INTERRUPT_BIT) < (b ^ s.INTERRUPT_BIT)
    if which == MINU:
        return a if below else b
    return b if below else a


@compiled
def atomic(ctl: Words, state: Words, op: int, rd: int, address: int, operand: int) -> int:
    """LR, SC and the AMOs: aligned, and in RAM only."""
    size, which = SIZE[op], AMO[op]
    if address & (size - 1):
        cause = s.CAUSE_LOAD_MISALIGNED if which == LR else s.CAUSE_STORE_MISALIGNED
        return _fault(ctl, cause, address)
    offset = memory_offset(ctl, address)
    if offset < 0 or (which != LR and offset >= ctl[c.RAM_BYTES]):
        return _fault(ctl, s.CAUSE_LOAD_ACCESS if which == LR else s.CAUSE_STORE_ACCESS, address)
    old = _extend(_load(as_bytes(ctl[c.MEMORY_POINTER]), offset, size), size, 1)
    if which == LR:
        state[s.RESERVATION] = address
        state[rd] = old
        return DONE
    if which == SC:
        holds = state[s.RESERVATION] == address
        state[s.RESERVATION] = -1
        state[rd] = 0 if holds else 1
        return _write_memory(ctl, state, offset, size, operand) if holds else DONE
    outcome = _write_memory(ctl, state, offset, size, _combine(which, old, _extend(operand, size, 1)))
    state[rd] = old
    return outcome
