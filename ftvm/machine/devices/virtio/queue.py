"""The split virtqueue (virtio 1.2, section 2.7), read as something that an enemy wrote.

A chain is read whole into an array of the kernel's own (`control.CHAIN_POINTER`), as ranges of memory in RAM, the
readable ones first; only what stands there is used afterwards. `fetch_chain` takes nothing: `put_used` notes what was
written to a chain, `take_chains` lets the driver see it, and `finish` interrupts and asks for notifications.
"""

from ftvm.machine import board as b
from ftvm.machine.devices.virtio.device import (
    ACCEPTED,
    AVAILABLE,
    DESCRIPTORS,
    FEATURE_EVENT_INDEX,
    FEATURE_INDIRECT,
    INTERRUPT_USED,
    PUT,
    QUEUE_SIZE,
    READY,
    SIGNALLED,
    TAKEN,
    USED,
    break_device,
    raise_interrupt,
)
from ftvm.machine.dma import dma_store, dma_wrote, ram_offset
from ftvm.machine.hart import control as c
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
    move_bytes,
)

SEGMENTS, READABLE_SEGMENTS, READABLE, WRITABLE = range(4)
"""Words of the chain: how many ranges it has, how many of them the device may read, bytes of these and of the rest."""
SEGMENTS_AT = 4
"""From here on memory offset and size of each range."""
CHAIN_SIZE_MAX = (1 << 32) - 1

DESCRIPTOR_SIZE = 16
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1
"""In the flags of the available ring."""
NO_NOTIFY = 1
"""In the flags of the used ring."""

NONE, BROKEN = -1, -2


@compiled
def areas_fit(ctl: Words, size: int, size_max: int, descriptors: int, available: int, used: int) -> bool:
    """Is this a queue? Sections 2.7 and 2.7.10: its size a power of two, its areas in RAM. How they are aligned nobody
    asks: QEMU's devices do not, so there are drivers whose table lies wherever the linker has put it."""
    if not 0 < size <= size_max or size & (size - 1):
        return False
    return (
        ram_offset(ctl, descriptors, DESCRIPTOR_SIZE * size) >= 0
        and ram_offset(ctl, available, 6 + 2 * size) >= 0
        and ram_offset(ctl, used, 6 + 8 * size) >= 0
    )


@compiled
def make_ready(ctl: Words, state: Words, at: int, queue: int, size_max: int) -> None:
    """QueueReady: from here on the queue's words do not change before it is stopped."""
    descriptors, available, used = state[queue + DESCRIPTORS], state[queue + AVAILABLE], state[queue + USED]
    if areas_fit(ctl, state[queue + QUEUE_SIZE], size_max, descriptors, available, used):
        state[queue + READY] = 1
        state[queue + TAKEN] = 0
        state[queue + PUT] = 0
        state[queue + SIGNALLED] = 0
    else:
        break_device(state, at)


@compiled
def _add_segment(ctl: Words, address: int, size: int, writable: int) -> bool:
    chain = as_words(ctl[c.CHAIN_POINTER])
    offset = ram_offset(ctl, address, size)
    count = chain[SEGMENTS]
    if offset < 0 or size == 0 or count == c.CHAIN_SEGMENTS_MAX:
        return False
    if chain[READABLE] + chain[WRITABLE] + size > CHAIN_SIZE_MAX:
        return False
    if writable:
        chain[WRITABLE] += size
    elif count > chain[READABLE_SEGMENTS]:
        return False
    else:
        chain[READABLE_SEGMENTS] += 1
        chain[READABLE] += size
    chain[SEGMENTS_AT + 2 * count] = offset
    chain[SEGMENTS_AT + 2 * count + 1] = size
    chain[SEGMENTS] = count + 1
    return True


@compiled
def _read_chain(ctl: Words, table: int, entries: int, head: int, indirect: int) -> bool:
    """Follow the chain that starts at `head` of the table at a memory offset; False if it is not one."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    chain = as_words(ctl[c.CHAIN_POINTER])
    for word in range(SEGMENTS_AT):
        chain[word] = 0
    index = head
    # It ends: each turn but one adds a segment, and there is room for so many only.
    while index < entries:
        entry = table + DESCRIPTOR_SIZE * index
        address, size = load64(mem, entry), load32u(mem, entry + 8)
        flags, index = load16u(mem, entry + 12), load16u(mem, entry + 14)
        if flags & INDIRECT:
            table, entries = ram_offset(ctl, address, size), size // DESCRIPTOR_SIZE
            if not indirect or flags & NEXT or table < 0 or size % DESCRIPTOR_SIZE or entries > c.CHAIN_SEGMENTS_MAX:
                return False
            # In the table it points to there is no further one, and the walk starts anew; an empty one ends it.
            indirect, index = 0, 0
            continue
        if not _add_segment(ctl, address, size, flags & WRITE):
            return False
        if flags & NEXT == 0:
            return True
    return False


@compiled
def waiting_chains(ctl: Words, state: Words, queue: int) -> int:
    """How many chains the driver says are available and not taken; more than the queue's size is a lie."""
    available = load16u(as_bytes(ctl[c.MEMORY_POINTER]), state[queue + AVAILABLE] - b.RAM_BASE + 2)
    return (available - state[queue + TAKEN]) & 0xFFFF


@compiled
def fetch_chain(ctl: Words, state: Words, at: int, queue: int, ahead: int) -> int:
    """Read the chain `ahead` places after the next one: its head; NONE; BROKEN, and then the device is."""
    size = state[queue + QUEUE_SIZE]
    waiting = waiting_chains(ctl, state, queue)
    if ahead >= waiting:
        return NONE
    if waiting <= size:
        ring = state[queue + AVAILABLE] - b.RAM_BASE + 4
        place = (state[queue + TAKEN] + ahead) & (size - 1)
        head = load16u(as_bytes(ctl[c.MEMORY_POINTER]), ring + 2 * place)
        indirect = state[at + ACCEPTED] & FEATURE_INDIRECT
        if _read_chain(ctl, state[queue + DESCRIPTORS] - b.RAM_BASE, size, head, indirect):
            return head
    break_device(state, at)
    return BROKEN


@compiled
def put_used(ctl: Words, state: Words, queue: int, ahead: int, head: int, written: int) -> None:
    """The chain `ahead` places after the next one is done with, `written` bytes of it have been written."""
    place = (state[queue + PUT] + ahead) & (state[queue + QUEUE_SIZE] - 1)
    element = state[queue + USED] - b.RAM_BASE + 4 + 8 * place
    dma_store(ctl, state, element, 8, head | written << 32)


@compiled
def take_chains(ctl: Words, state: Words, queue: int, count: int) -> None:
    """The next `count` chains are the driver's again."""
    state[queue + TAKEN] = (state[queue + TAKEN] + count) & 0xFFFF
    state[queue + PUT] = (state[queue + PUT] + count) & 0xFFFF
    dma_store(ctl, state, state[queue + USED] - b.RAM_BASE + 2, 2, state[queue + PUT])


@compiled
def finish(ctl: Words, state: Words, at: int, queue: int, wants_notify: bool) -> None:
    """After chains were taken, or none: interrupt if the driver asked to be, and say whether to be notified."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    size = state[queue + QUEUE_SIZE]
    available, used = state[queue + AVAILABLE] - b.RAM_BASE, state[queue + USED] - b.RAM_BASE
    new = (state[queue + PUT] - state[queue + SIGNALLED]) & 0xFFFF
    if state[at + ACCEPTED] & FEATURE_EVENT_INDEX:
        if wants_notify:
            dma_store(ctl, state, used + 4 + 8 * size, 2, state[queue + TAKEN])
        event = load16u(mem, available + 4 + 2 * size)
        interrupts = (state[queue + PUT] - event - 1) & 0xFFFF < new
    else:
        flags = 0 if wants_notify else NO_NOTIFY
        if load16u(mem, used) != flags:
            dma_store(ctl, state, used, 2, flags)
        interrupts = new > 0 and load16u(mem, available) & NO_INTERRUPT == 0
    state[queue + SIGNALLED] = state[queue + PUT]
    if interrupts:
        raise_interrupt(state, at, INTERRUPT_USED)


@compiled
def chain_word(ctl: Words, word: int) -> int:
    return as_words(ctl[c.CHAIN_POINTER])[word]


@compiled
def gather(ctl: Words, position: int, size: int, to: Bytes, to_at: int) -> None:
    """Copy from the chain's readable bytes, `position` bytes after the first on."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    chain = as_words(ctl[c.CHAIN_POINTER])
    for index in range(chain[READABLE_SEGMENTS]):
        offset, length = chain[SEGMENTS_AT + 2 * index], chain[SEGMENTS_AT + 2 * index + 1]
        part = min(length - position, size)
        if part > 0:
            move_bytes(to, to_at, mem, offset + position, part)
            to_at += part
            size -= part
        position = max(position - length, 0)


@compiled
def scatter(ctl: Words, state: Words, position: int, size: int, source: Bytes, source_at: int) -> None:
    """Copy to the chain's writable bytes, `position` bytes after the first on."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    chain = as_words(ctl[c.CHAIN_POINTER])
    for index in range(chain[READABLE_SEGMENTS], chain[SEGMENTS]):
        offset, length = chain[SEGMENTS_AT + 2 * index], chain[SEGMENTS_AT + 2 * index + 1]
        part = min(length - position, size)
        if part > 0:
            move_bytes(mem, offset + position, source, source_at, part)
            dma_wrote(ctl, state, offset + position, part)
            source_at += part
            size -= part
        position = max(position - length, 0)


@compiled
def read_value(ctl: Words, position: int, size: int) -> int:
    """A little-endian number among the chain's readable bytes, however they are cut."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    chain = as_words(ctl[c.CHAIN_POINTER])
    value, shift = 0, 0
    for index in range(chain[READABLE_SEGMENTS]):
        offset, length = chain[SEGMENTS_AT + 2 * index], chain[SEGMENTS_AT + 2 * index + 1]
        while position < length and shift < 8 * size:
            value |= load8u(mem, offset + position) << shift
            shift += 8
            position += 1
        if shift == 8 * size:
            break
        position -= length
    return value


@compiled
def write_value(ctl: Words, state: Words, position: int, size: int, value: int) -> None:
    """A little-endian number into the chain's writable bytes, however they are cut."""
    chain = as_words(ctl[c.CHAIN_POINTER])
    left = size
    for index in range(chain[READABLE_SEGMENTS], chain[SEGMENTS]):
        offset, length = chain[SEGMENTS_AT + 2 * index], chain[SEGMENTS_AT + 2 * index + 1]
        while position < length and left > 0:
            dma_store(ctl, state, offset + position, 1, value)
            value >>= 8
            left -= 1
            position += 1
        if left == 0:
            break
        position -= length
