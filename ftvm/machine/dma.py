"""Direct memory access: what devices read and write in guest RAM.

A device may touch RAM only: no ROM, no registers, no memory of other devices. What it writes is a store like the
hart's: it makes pages dirty, ends what was decoded or walked there, and ends a reservation.
"""

from ftvm.machine import board as b
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, compiled, store8, store16, store32, store64
from ftvm.machine.hart.pages import note_store


@compiled
def ram_offset(ctl: Words, address: int, size: int) -> int:
    """Where in memory a range of guest-physical addresses is; -1 unless all of it is RAM."""
    offset = address - b.RAM_BASE
    if size < 0 or offset < 0 or offset > ctl[c.RAM_BYTES] - size:
        return -1
    return offset


@compiled
def dma_wrote(ctl: Words, state: Words, offset: int, size: int) -> None:
    """`size` bytes of RAM from memory offset `offset` on have been written."""
    end = offset + size
    held = state[s.RESERVATION] - b.RAM_BASE
    if offset - 8 < held < end:
        state[s.RESERVATION] = -1
    while offset < end:
        part = min(4096 - (offset & 4095), end - offset)
        note_store(ctl, offset, part)
        offset += part


@compiled
def dma_store(ctl: Words, state: Words, offset: int, size: int, value: int) -> None:
    """Write 1, 2, 4 or 8 bytes, little-endian, at a memory offset that `ram_offset` gave."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    if size == 1:
        store8(mem, offset, value)
    elif size == 2:
        store16(mem, offset, value)
    elif size == 4:
        store32(mem, offset, value)
    else:
        store64(mem, offset, value)
    dma_wrote(ctl, state, offset, size)
