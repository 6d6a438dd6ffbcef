"""Byte streams to and from the world: rings of input in device memory, buffers of output in the kernel's own.

Offsets of the streams are machine state (`state.STREAM_*`), so a host can tell what was taken and what was sent
before; input bytes are put into the ring by `Machine.apply`.
"""

from ftvm.machine.devices.virtio.queue import gather, scatter
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, as_bytes, compiled, load8u, store8


@compiled
def _stream_at(stream: int) -> int:
    return s.STREAM_AT + stream * s.STREAM_WORDS


@compiled
def _ring_at(ctl: Words, stream: int) -> int:
    ring = ctl[c.RAM_BYTES] + c.DEVICE_AT
    for before in range(stream):
        ring += c.RING_SIZES[before]
    return ring


@compiled
def stream_waiting(state: Words, stream: int) -> int:
    """Bytes of input that the device has not taken."""
    return state[_stream_at(stream) + s.STREAM_INPUT] - state[_stream_at(stream) + s.STREAM_TAKEN]


@compiled
def stream_byte(ctl: Words, state: Words, stream: int, ahead: int) -> int:
    place = (state[_stream_at(stream) + s.STREAM_TAKEN] + ahead) & (c.RING_SIZES[stream] - 1)
    return load8u(as_bytes(ctl[c.MEMORY_POINTER]), _ring_at(ctl, stream) + place)


@compiled
def stream_take(state: Words, stream: int, size: int) -> None:
    state[_stream_at(stream) + s.STREAM_TAKEN] += size


@compiled
def stream_scatter(ctl: Words, state: Words, stream: int, ahead: int, position: int, size: int) -> None:
    """Bytes of input, `ahead` bytes after the next on, into the chain from its writable byte `position` on."""
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    ring, ring_size = _ring_at(ctl, stream), c.RING_SIZES[stream]
    place = (state[_stream_at(stream) + s.STREAM_TAKEN] + ahead) & (ring_size - 1)
    first = min(size, ring_size - place)
    scatter(ctl, state, position, first, mem, ring + place)
    if first < size:
        scatter(ctl, state, position + first, size - first, mem, ring)


@compiled
def _sent(ctl: Words, state: Words, stream: int, size: int) -> None:
    """They belong to the instruction that is being executed: its tick is the one after it."""
    ctl[c.STREAM_OUT_COUNT + stream] += size
    ctl[c.STREAM_OUT_TICK + stream] = state[s.TICK] + 1
    state[_stream_at(stream) + s.STREAM_OUTPUT] += size


@compiled
def stream_send(ctl: Words, state: Words, stream: int, position: int, size: int) -> None:
    """Send readable bytes of the chain."""
    out, count = as_bytes(ctl[c.STREAM_OUT_POINTER + stream]), ctl[c.STREAM_OUT_COUNT + stream]
    gather(ctl, position, size, out, count)
    _sent(ctl, state, stream, size)


@compiled
def stream_send_number(ctl: Words, state: Words, stream: int, value: int) -> None:
    """Four bytes, big-endian."""
    out, count = as_bytes(ctl[c.STREAM_OUT_POINTER + stream]), ctl[c.STREAM_OUT_COUNT + stream]
    for index in range(4):
        store8(out, count + index, value >> (24 - 8 * index))
    _sent(ctl, state, stream, 4)
