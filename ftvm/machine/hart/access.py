"""Loads, stores and atomics that the core could not do: TLB misses, devices, misaligned, dirty tracking, code pages.

Each is done here whole; the TLB is filled on the way, so that the next access to the page is fast if it may be.
"""

from ftvm.machine import board as b
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
from ftvm.machine.hart.mmu import LOAD, STORE, fill_data_tlb, translate_data
from ftvm.machine.hart.operations import AMO, AMOS, SIGNED, SIZE
from ftvm.machine.hart.pages import memory_offset, note_entry, note_store, note_write

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
    """`size` bytes (1 to 8) inside one page of RAM."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])[offset >> 12]
    first, last = offset & -8, (offset + size - 1) & -8
    old_first, old_last = load64(mem, first), load64(mem, last)
    if size & (size - 1):
        for index in range(size):
            store8(mem, offset + index, value >> 8 * index)
    else:
        _store(mem, offset, size, value)
    if flags & c.PAGE_WALKED:
        note_entry(ctl, first, old_first, load64(mem, first))
        if last != first:
            note_entry(ctl, last, old_last, load64(mem, last))
    note_write(ctl, offset, size)
    if flags & c.PAGE_WATCHED:
        return _told_host(ctl, state, offset, size)
    return DONE


@compiled
def _parts(ctl: Words, state: Words, address: int, size: int, access: int) -> tuple[int, int, int]:
    """Memory offsets of the two parts of an access that crosses into another page, and the size of the first. The first
    is negative when the trap is noted: both parts are looked at before either is touched.
    """
    inside = 4096 - (address & 4095)
    second = (address | 4095) + 1
    fault = s.CAUSE_LOAD_ACCESS if access == LOAD else s.CAUSE_STORE_ACCESS
    end = ctl[c.RAM_BYTES] + (b.ROM_SIZE if access == LOAD else 0)
    physical = translate_data(ctl, state, address, inside, access)
    low = memory_offset(ctl, physical) if physical >= 0 else -1
    if not 0 <= low < end:
        _fault(ctl, -physical if physical < 0 else fault, address)
        return -1, 0, 0
    physical = translate_data(ctl, state, second, size - inside, access)
    high = memory_offset(ctl, physical) if physical >= 0 else -1
    if not 0 <= high < end:
        _fault(ctl, -physical if physical < 0 else fault, second)
        return -1, 0, 0
    return low, high, inside


@compiled
def load(ctl: Words, state: Words, address: int, size: int) -> tuple[int, int]:
    """(outcome, the bytes that were read, above which anything may stand)."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    if (address & 4095) + size > 4096:
        low, high, inside = _parts(ctl, state, address, size, LOAD)
        value = 0
        if low < 0:
            return TRAPPED, value
        for index in range(size):
            at = low + index if index < inside else high + index - inside
            value |= load8u(mem, at) << 8 * index
        return DONE, value
    physical = translate_data(ctl, state, address, size, LOAD)
    if physical < 0:
        return _fault(ctl, -physical, address), 0
    offset = memory_offset(ctl, physical)
    if offset >= 0:
        fill_data_tlb(ctl, state, address, physical, offset)
        return DONE, _load(mem, offset, size)
    ok, value = 0, 0
    if physical & (size - 1) == 0:
        ok, value = bus_read(ctl, state, physical, size)
    ctl[c.COUNT_MMIO] += 1
    if ok == 0:
        return _fault(ctl, s.CAUSE_LOAD_ACCESS, address), 0
    return CHANGED, value


@compiled
def load_register(ctl: Words, state: Words, op: int, rd: int, address: int) -> int:
    size = SIZE[op]
    outcome, value = load(ctl, state, address, size)
    if outcome != TRAPPED:
        state[rd] = _extend(value, size, SIGNED[op])
    return outcome


@compiled
def _make_stores_fast(ctl: Words, state: Words, address: int, physical: int, offset: int) -> None:
    """Before the store itself, for it may change the very entry that translated it."""
    if offset < ctl[c.RAM_BYTES]:
        flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
        flags[offset >> 12] |= c.DIRTY_ALL
    fill_data_tlb(ctl, state, address, physical, offset)


@compiled
def store(ctl: Words, state: Words, address: int, size: int, value: int) -> int:
    if (address & 4095) + size > 4096:
        low, high, inside = _parts(ctl, state, address, size, STORE)
        if low < 0:
            return TRAPPED
        first = _write_memory(ctl, state, low, inside, value)
        second = _write_memory(ctl, state, high, size - inside, value >> 8 * inside)
        return CHANGED if first == CHANGED else second
    physical = translate_data(ctl, state, address, size, STORE)
    if physical < 0:
        return _fault(ctl, -physical, address)
    offset = memory_offset(ctl, physical)
    if 0 <= offset < ctl[c.RAM_BYTES]:
        _make_stores_fast(ctl, state, address, physical, offset)
        return _write_memory(ctl, state, offset, size, value)
    ok = 0
    if physical & (size - 1) == 0:
        ok = bus_write(ctl, state, physical, size, value)
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
    """LR, SC and the AMOs: aligned, and in RAM only. An SC that fails is looked at as a store all the same."""
    size, which = SIZE[op], AMO[op]
    if address & (size - 1):
        cause = s.CAUSE_LOAD_MISALIGNED if which == LR else s.CAUSE_STORE_MISALIGNED
        return _fault(ctl, cause, address)
    physical = translate_data(ctl, state, address, size, LOAD if which == LR else STORE)
    if physical < 0:
        return _fault(ctl, -physical, address)
    offset = memory_offset(ctl, physical)
    if offset < 0 or (which != LR and offset >= ctl[c.RAM_BYTES]):
        return _fault(ctl, s.CAUSE_LOAD_ACCESS if which == LR else s.CAUSE_STORE_ACCESS, address)
    _make_stores_fast(ctl, state, address, physical, offset)
    old = _extend(_load(as_bytes(ctl[c.MEMORY_POINTER]), offset, size), size, 1)
    if which == LR:
        state[s.RESERVATION] = physical
        state[rd] = old
        return DONE
    if which == SC:
        holds = state[s.RESERVATION] == physical
        state[s.RESERVATION] = -1
        state[rd] = 0 if holds else 1
        return _write_memory(ctl, state, offset, size, operand) if holds else DONE
    outcome = _write_memory(ctl, state, offset, size, _combine(which, old, _extend(operand, size, 1)))
    state[rd] = old
    return outcome
