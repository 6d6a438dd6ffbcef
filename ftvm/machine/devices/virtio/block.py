"""Virtio block device (virtio 1.2, section 5.2). The disk is memory that the guest cannot address.

A request is done when the driver notifies, all of it. Pages that are written are marked for the host, which keeps
them in the overlay's file; a flush asks it to do so now. For a driver that has not accepted FLUSH, and so cannot ask, a
write is one: there is no cache between it and the disk.
"""

from ftvm.machine.board import SECTOR
from ftvm.machine.devices.virtio.device import (
    ACCEPTED,
    DEVICE_WORDS_AT,
    FEATURES,
    OFFERED,
    QUEUE_SIZE,
    break_device,
    device_runs,
    queue_at,
)
from ftvm.machine.devices.virtio.queue import (
    READABLE,
    WRITABLE,
    chain_word,
    fetch_chain,
    finish,
    gather,
    put_used,
    read_value,
    scatter,
    take_chains,
    write_value,
)
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, clear_bytes, compiled

CAPACITY = DEVICE_WORDS_AT
"""In sectors."""
DISK_AT = DEVICE_WORDS_AT + 1
"""Memory offset of the first byte."""

FEATURE_SIZE_MAX = 1 << 1
FEATURE_SEG_MAX = 1 << 2
FEATURE_READ_ONLY = 1 << 5
FEATURE_BLOCK_SIZE = 1 << 6
FEATURE_FLUSH = 1 << 9
FEATURE_WRITE_ZEROES = 1 << 14
BLOCK_FEATURES = (
    FEATURES | FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_BLOCK_SIZE | FEATURE_FLUSH | FEATURE_WRITE_ZEROES
)

SEGMENT_SIZE_MAX = 8192
SEGMENTS_MAX = 126
REQUEST_SIZE_MAX = SEGMENTS_MAX * SEGMENT_SIZE_MAX
"""Bytes of data in a request: what a driver that keeps to both can ask for."""
ZERO_SECTORS_MAX = REQUEST_SIZE_MAX // SECTOR

IN, OUT, FLUSH, GET_ID, WRITE_ZEROES = 0, 1, 4, 8, 13
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2
HEADER_SIZE = 16
ID_SIZE = 20
ID_LOW, ID_HIGH = int.from_bytes(b"ftvm-dis", "little"), int.from_bytes(b"k", "little")
"""With the slot's number after it."""
ZERO_SEGMENT_SIZE = 16
UNMAP = 1


@compiled
def block_config(state: Words, at: int, word: int) -> int:
    """A 32-bit word of the configuration space (section 5.2.4)."""
    value = 0
    if word == 0:
        value = state[at + CAPACITY] & 0xFFFFFFFF
    elif word == 1:
        value = state[at + CAPACITY] >> 32
    elif word == 2:
        value = SEGMENT_SIZE_MAX
    elif word == 3:
        value = SEGMENTS_MAX
    elif word == 5:
        value = SECTOR
    elif word == 12:
        value = ZERO_SECTORS_MAX
    elif word == 13:
        value = 1
    elif word == 14:
        value = UNMAP
    return value


@compiled
def _disk_range(state: Words, at: int, sector: int, size: int) -> int:
    """Memory offset of whole sectors; -1 where they are none, too many, or not all on the disk."""
    sectors = size // SECTOR
    if size % SECTOR or not 0 < size <= REQUEST_SIZE_MAX:
        return -1
    if sector < 0 or sector > state[at + CAPACITY] - sectors:
        return -1
    return state[at + DISK_AT] + sector * SECTOR


@compiled
def _flush(ctl: Words) -> None:
    ctl[c.FLUSH_WANTED] = 1
    ctl[c.WANTS] = 1


@compiled
def _disk_wrote(ctl: Words, state: Words, at: int, offset: int, size: int) -> None:
    flags = as_bytes(ctl[c.PAGE_FLAGS_POINTER])
    for page in range(offset >> 12, ((offset + size - 1) >> 12) + 1):
        flags[page] |= c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN
    if not state[at + ACCEPTED] & FEATURE_FLUSH:
        _flush(ctl)


@compiled
def _write_zeroes(ctl: Words, state: Words, at: int) -> int:
    if chain_word(ctl, READABLE) != HEADER_SIZE + ZERO_SEGMENT_SIZE:
        return UNSUPPORTED
    sector, sectors = read_value(ctl, HEADER_SIZE, 8), read_value(ctl, HEADER_SIZE + 8, 4)
    if read_value(ctl, HEADER_SIZE + 12, 4) & ~UNMAP:
        return UNSUPPORTED
    offset = _disk_range(state, at, sector, sectors * SECTOR)
    if offset < 0:
        return IO_ERROR
    clear_bytes(as_bytes(ctl[c.MEMORY_POINTER]), offset, sectors * SECTOR)
    _disk_wrote(ctl, state, at, offset, sectors * SECTOR)
    return OK


@compiled
def _request(ctl: Words, state: Words, at: int) -> tuple[int, int]:
    """Do what the chain asks for: (status, bytes of data given)."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    kind, sector = read_value(ctl, 0, 4), read_value(ctl, 8, 8)
    to_disk, from_disk = chain_word(ctl, READABLE) - HEADER_SIZE, chain_word(ctl, WRITABLE) - 1
    if kind == IN:
        offset = _disk_range(state, at, sector, from_disk)
        if offset < 0:
            return IO_ERROR, 0
        scatter(ctl, state, 0, from_disk, mem, offset)
        return OK, from_disk
    if kind == GET_ID:
        given = min(from_disk, ID_SIZE)
        slot = (at - s.VIRTIO_AT) // s.VIRTIO_SLOT_WORDS
        low, high = ID_LOW, ID_HIGH | (ord("0") + slot) << 8
        for index in range(given):
            write_value(ctl, state, index, 1, low)
            low, high = (low >> 8) | (high & 0xFF) << 56, high >> 8
        return OK, given
    if kind == FLUSH:
        _flush(ctl)
        return OK, 0
    if kind != OUT and kind != WRITE_ZEROES:
        return UNSUPPORTED, 0
    if state[at + OFFERED] & FEATURE_READ_ONLY:
        return IO_ERROR, 0
    if kind == WRITE_ZEROES:
        return _write_zeroes(ctl, state, at), 0
    offset = _disk_range(state, at, sector, to_disk)
    if offset < 0:
        return IO_ERROR, 0
    gather(ctl, HEADER_SIZE, to_disk, mem, offset)
    _disk_wrote(ctl, state, at, offset, to_disk)
    return OK, 0


@compiled
def block_notify(ctl: Words, state: Words, at: int) -> None:
    queue = queue_at(at, 0)
    for _ in range(state[queue + QUEUE_SIZE]):
        head = fetch_chain(ctl, state, at, queue, 0)
        if head < 0:
            break
        writable = chain_word(ctl, WRITABLE)
        if chain_word(ctl, READABLE) < HEADER_SIZE or writable < 1:
            break_device(state, at)
            break
        status, given = _request(ctl, state, at)
        write_value(ctl, state, writable - 1, 1, status)
        put_used(ctl, state, queue, 0, head, given + 1)
        take_chains(ctl, state, queue, 1)
    if device_runs(state, at):
        finish(ctl, state, at, queue, True)
