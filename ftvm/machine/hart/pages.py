"""Pages: physical memory, the TLBs, and the slots that hold decoded code.

Memory is RAM followed by the ROM page. Nothing in here shows to the guest: whatever is dropped is made again.
Two rules keep it so:

* A store to a page that has decoded code, is not dirty, is watched, or was read by a page-table walk is never fast.
* A store to a page that a walk read forgets what was translated by the entry that it changed. So no translation
  outlives the entries it was made from, whether the guest fences or not, and SFENCE.VMA has nothing to do: what a TLB
  holds, how large it is, and when it was flushed, all make no difference.
"""

from ftvm.machine import board as b
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, as_codes, as_words, compiled
from ftvm.machine.hart.operations import PAGE_END, UNDECODED

_DATA_WORDS = c.DATA_TLB_ENTRIES * c.TLB_WORDS
_FETCH_WORDS = c.FETCH_TLB_ENTRIES * c.TLB_WORDS
_LEAF = s.PTE_R | s.PTE_W | s.PTE_X
_UNCACHED_BITS = s.PTE_A | s.PTE_D | s.PTE_RSW
"""Bits of an entry whose setting changes nothing that a TLB holds: A is set there, and without D stores are slow."""


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
def _revoke_stores(ctl: Words, page: int) -> None:
    """Page number in memory: its stores take the slow path from now on."""
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    for entry in range(0, c.DATA_CONTEXTS * _DATA_WORDS, c.TLB_WORDS):
        tag = tlb[entry + 1]
        if tag != -1 and tag + tlb[entry + 2] == page << 12:
            tlb[entry + 1] = -1


@compiled
def _flush_fetch_tlb(ctl: Words, first: int) -> None:
    """Of the contexts from `first` on."""
    fetch = as_words(ctl[c.FETCH_TLB_POINTER])
    for word in range(first * _FETCH_WORDS, c.FETCH_CONTEXTS * _FETCH_WORDS):
        fetch[word] = -1


@compiled
def _flush_data_tlb(ctl: Words, first: int) -> None:
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    for word in range(first * _DATA_WORDS, c.DATA_CONTEXTS * _DATA_WORDS):
        tlb[word] = -1


@compiled
def flush_translations(ctl: Words) -> None:
    """Forget what page tables said: all but M mode's own context."""
    _flush_fetch_tlb(ctl, 1)
    _flush_data_tlb(ctl, 1)
    ctl[c.WALK_EPOCH] += 1
    ctl[c.COUNT_FLUSHES] += 1


@compiled
def flush_tlbs(ctl: Words) -> None:
    flush_translations(ctl)
    _flush_fetch_tlb(ctl, 0)
    _flush_data_tlb(ctl, 0)


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
    _flush_fetch_tlb(ctl, 0)


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
def fill_fetch_tlb(ctl: Words, address: int, offset: int) -> None:
    """The page of `address`, last translated, has its code at this memory offset."""
    slot = as_words(ctl[c.PAGE_SLOT_POINTER])[offset >> 12]
    if slot < 0:
        slot = _new_slot(ctl, offset >> 12)
    fetch = as_words(ctl[c.FETCH_TLB_NOW])
    entry = ((address >> 12) & (c.FETCH_TLB_ENTRIES - 1)) * c.TLB_WORDS
    fetch[entry] = address & -4096
    fetch[entry + 1] = c.SCRATCH_WORDS + slot * c.SLOT_WORDS
    fetch[entry + 2] = ctl[c.WALK_ENTRY]


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
        _flush_fetch_tlb(ctl, 0)
        return
    code = as_codes(ctl[c.CODE_POINTER])
    first = c.SCRATCH_WORDS + slot * c.SLOT_WORDS
    # The instruction that starts one halfword before may reach into what was written.
    low = max(((offset & 4095) >> 1) - 1, 0)
    high = ((offset & 4095) + size - 1) >> 1
    for index in range(first + low, first + high + 1):
        code[index] = UNDECODED


@compiled
def mark_walked(ctl: Words, page: int) -> None:
    """A walk reads an entry in this page of memory: stores to it are noticed from now on."""
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    walks = as_words(ctl[c.PAGE_WALK_POINTER])
    if walks[page] >> 8 != ctl[c.WALK_EPOCH]:
        walks[page] = ctl[c.WALK_EPOCH] << 8
    if flags[page] & c.PAGE_WALKED == 0:
        flags[page] |= c.PAGE_WALKED
        _revoke_stores(ctl, page)


@compiled
def _unwatch(ctl: Words, page: int) -> None:
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    flags[page] &= 255 - c.PAGE_WALKED


@compiled
def _drop_translations(ctl: Words, entry_offset: int) -> None:
    """Those that were made from the leaf entry at this memory offset."""
    tlb = as_words(ctl[c.DATA_TLB_POINTER])
    for entry in range(_DATA_WORDS, c.DATA_CONTEXTS * _DATA_WORDS, c.TLB_WORDS):
        if tlb[entry + 3] == entry_offset:
            tlb[entry] = -1
            tlb[entry + 1] = -1
    fetch = as_words(ctl[c.FETCH_TLB_POINTER])
    for entry in range(_FETCH_WORDS, c.FETCH_CONTEXTS * _FETCH_WORDS, c.TLB_WORDS):
        if fetch[entry + 2] == entry_offset:
            fetch[entry] = -1


@compiled
def note_entry(ctl: Words, offset: int, old: int, new: int) -> None:
    """A page-table entry (or what lies where one might be) in a page that is PAGE_WALKED was overwritten."""
    page = offset >> 12
    walks = as_words(ctl[c.PAGE_WALK_POINTER])
    if walks[page] >> 8 != ctl[c.WALK_EPOCH]:
        _unwatch(ctl, page)
        return
    if old & s.PTE_V == 0 or (old & ~new) | ((old ^ new) & ~_UNCACHED_BITS) == 0:
        return
    walks[page] += 1
    if old & _LEAF and walks[page] & 255 <= c.WALK_STORES_MAX:
        _drop_translations(ctl, offset)
    else:
        flush_translations(ctl)
        _unwatch(ctl, page)


@compiled
def note_write(ctl: Words, offset: int, size: int) -> None:
    """Bytes inside one page of memory have changed: mark it dirty and forget what was decoded from them."""
    page = offset >> 12
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    flags[page] |= c.DIRTY_ALL
    if as_words(ctl[c.PAGE_SLOT_POINTER])[page] >= 0:
        _forget_decoded(ctl, offset, size)


@compiled
def note_store(ctl: Words, offset: int, size: int) -> None:
    """Memory has changed, at any length, and what it was is not known: a device's stores."""
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    end = offset + size
    while offset < end:
        part = min(end - offset, 4096 - (offset & 4095))
        if flags[offset >> 12] & c.PAGE_WALKED:
            flush_translations(ctl)
            _unwatch(ctl, offset >> 12)
        note_write(ctl, offset, part)
        offset += part
