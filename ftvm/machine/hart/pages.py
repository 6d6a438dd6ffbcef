"""Pages: physical memory, the two TLBs, and the slots that hold decoded code.

Memory is RAM followed by the ROM page. Nothing in here shows to the guest: whatever is dropped is made again.
The one rule that keeps it so: a store to a page that has decoded code, is not dirty, or is watched is never fast.
"""

from ftvm.machine import board as b
from ftvm.machine.hart import control as c
from ftvm.machine.hart.jit import Words, as_bytes, as_codes, as_words, compiled
from ftvm.machine.hart.operations import PAGE_END, UNDECODED


@compiled
def memory_offset(ctl: Words, address: int) -> int:
    """Where in memory a physical address is; -1 for what is neither RAM nor ROM."""
    offset = address - b.RAM_BASE
    if 0 <= offset < ctl[c.RAM_BYTES]:
        return offset
    offset = address - b.ROM_BASE
    if 0 <= offset < b.ROM_SIZE:
        return ctl[c.RAM_BYTES] + offset
    return -1


@compiled
def fill_data_tlb(ctl: Words, address: int, offset: int) -> None:
    """Make loads from this page fast, and stores if nothing has to notice them."""
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    page = address & -4096
    entry = ((address >> 12) & (c.DATA_TLB_ENTRIES - 1)) * 4
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])[offset >> 12]
    slot = as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12]
    fast = offset < ctl[c.RAM_BYTES] and flags == c.DIRTY_ALL and slot < 0
    tlb[entry] = page
    tlb[entry + 1] = page if fast else -1
    tlb[entry + 2] = (offset & -4096) - page


@compiled
def _revoke_stores(ctl: Words, page: int) -> None:
    """Page number in memory: its stores take the slow path from now on."""
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    for entry in range(0, c.DATA_TLB_ENTRIES * 4, 4):
        tag = tlb[entry + 1]
        if tag != -1 and tag + tlb[entry + 2] == page << 12:
            tlb[entry + 1] = -1


@compiled
def _flush_fetch_tlb(ctl: Words) -> None:
    fetch = as_words(ctl[c.FETCH_TLB_POINTER])
    for entry in range(c.FETCH_TLB_ENTRIES * 2):
        fetch[entry] = -1


@compiled
def drop_code(ctl: Words) -> None:
    """Forget all decoded code."""
    page_slot = as_words(ctl[c.PAGE_SLOT_POINTER])
    slot_page = as_words(ctl[c.SLOT_PAGE_POINTER])
    for slot in range(ctl[c.SLOTS_USED]):
        if slot_page[slot] >= 0:
            page_slot[slot_page[slot]] = -1
            slot_page[slot] = -1
    ctl[c.SLOTS_USED] = 0
    ctl[c.SLOTS_FREE] = 0
    _flush_fetch_tlb(ctl)


@compiled
def flush_data_tlb(ctl: Words) -> None:
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    for entry in range(c.DATA_TLB_ENTRIES * 4):
        tlb[entry] = -1


@compiled
def _new_slot(ctl: Words, page: int) -> int:
    slot_free = as_words(ctl[c.SLOT_FREE_POINTER])
    if ctl[c.SLOTS_FREE] == 0 and ctl[c.SLOTS_USED] == c.SLOTS_MAX:
        drop_code(ctl)
    if ctl[c.SLOTS_FREE] > 0:
        ctl[c.SLOTS_FREE] -= 1
        slot = slot_free[ctl[c.SLOTS_FREE]]
    else:
        slot = ctl[c.SLOTS_USED]
        ctl[c.SLOTS_USED] += 1
    first = c.SCRATCH_WORDS + slot * c.SLOT_WORDS
    code = as_codes(ctl[c.CODE_POINTER])
    for index in range(first, first + 2048):
        code[index] = UNDECODED
    code[first + 2048] = PAGE_END
    as_words(ctl[c.PAGE_SLOT_POINTER])[page] = slot
    as_words(ctl[c.SLOT_PAGE_POINTER])[slot] = page
    as_words(ctl[c.SLOT_HITS_POINTER])[slot] = 0
    _revoke_stores(ctl, page)
    return slot


@compiled
def map_code(ctl: Words, pc: int) -> bool:
    """Enter the page of `pc` into the fetch TLB; False when nothing can be fetched there."""
    offset = memory_offset(ctl, pc)
    if offset < 0:
        return False
    slot = as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12]
    if slot < 0:
        slot = _new_slot(ctl, offset >> 12)
    fetch = as_words(ctl[c.FETCH_TLB_POINTER])
    entry = ((pc >> 12) & (c.FETCH_TLB_ENTRIES - 1)) * 2
    fetch[entry] = pc & -4096
    fetch[entry + 1] = c.SCRATCH_WORDS + slot * c.SLOT_WORDS
    return True


@compiled
def _forget_decoded(ctl: Words, offset: int, size: int) -> None:
    """`size` bytes inside one page with decoded code have changed."""
    slot = as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12]
    hits = as_words(ctl[c.SLOT_HITS_POINTER])
    ctl[c.COUNT_CODE_STORES] += 1
    hits[slot] += 1
    if hits[slot] > c.CODE_STORES_MAX:
        as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12] = -1
        as_words(ctl[c.SLOT_PAGE_POINTER])[slot] = -1
        as_words(ctl[c.SLOT_FREE_POINTER])[ctl[c.SLOTS_FREE]] = slot
        ctl[c.SLOTS_FREE] += 1
        _flush_fetch_tlb(ctl)
        return
    code = as_codes(ctl[c.CODE_POINTER])
    first = c.SCRATCH_WORDS + slot * c.SLOT_WORDS
    # The instruction that starts one halfword before may reach into what was written.
    low = max(((offset & 4095) >> 1) - 1, 0)
    high = ((offset & 4095) + size - 1) >> 1
    for index in range(first + low, first + high + 1):
        code[index] = UNDECODED


@compiled
def note_store(ctl: Words, offset: int, size: int) -> None:
    """Memory has changed: mark its pages dirty and forget what was decoded from them."""
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    page_slot = as_words(ctl[c.PAGE_SLOT_POINTER])
    last = offset + size - 1
    flags[offset >> 12] |= c.DIRTY_ALL
    if page_slot[offset >> 12] >= 0:
        _forget_decoded(ctl, offset, min(size, 4096 - (offset & 4095)))
    if (last ^ offset) >> 12:
        flags[last >> 12] |= c.DIRTY_ALL
        if page_slot[last >> 12] >= 0:
            _forget_decoded(ctl, last & -4096, (last & 4095) + 1)
