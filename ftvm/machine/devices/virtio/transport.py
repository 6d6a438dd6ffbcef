"""The registers of virtio-mmio, version 2 (virtio 1.2, section 4.2.2): what the driver reads and writes of a slot.

An empty slot answers as a device with ID 0. The configuration space takes accesses of any size. Registers have four
bytes: eight are two of them, and less reads as zero and writes nothing.

Drivers that keep to less than the specification find what they were tested on, QEMU's devices: FEATURES_OK stands
whatever was accepted, and what was not offered does not count. So a driver that knows only the lower 32 feature bits
runs without VERSION_1 (xv6 is one), and one that knows no FEATURES_OK, without any feature.
"""

from ftvm.machine.devices.virtio.block import block_config, block_notify
from ftvm.machine.devices.virtio.console import console_config, console_notify, console_receive, console_resize
from ftvm.machine.devices.virtio.device import (
    ACCEPTED,
    ACCEPTED_SELECT,
    AVAILABLE,
    BLOCK,
    CONSOLE,
    DESCRIPTORS,
    DRIVER_OK,
    DRIVER_STATUS,
    ENTROPY,
    FEATURES_OK,
    GENERATION,
    INTERRUPT,
    KIND,
    NET,
    OFFERED,
    OFFERED_SELECT,
    QUEUE_COUNT,
    QUEUE_SELECT,
    QUEUE_SIZE,
    QUEUE_SIZES_MAX,
    READY,
    STATUS,
    USED,
    device_reset,
    find_device,
    queue_at,
    queue_runs,
    set_interrupt,
    slot_at,
)
from ftvm.machine.devices.virtio.entropy import entropy_notify
from ftvm.machine.devices.virtio.net import net_config, net_notify, net_receive
from ftvm.machine.devices.virtio.queue import make_ready
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

MAGIC = int.from_bytes(b"virt", "little")
VERSION = 2
VENDOR = int.from_bytes(b"QEMU", "little")

MAGIC_AT, VERSION_AT, DEVICE_ID_AT, VENDOR_AT = 0x000, 0x004, 0x008, 0x00C
OFFERED_AT, OFFERED_SELECT_AT = 0x010, 0x014
ACCEPTED_AT, ACCEPTED_SELECT_AT = 0x020, 0x024
QUEUE_SELECT_AT, QUEUE_SIZE_MAX_AT, QUEUE_SIZE_AT, QUEUE_READY_AT, QUEUE_NOTIFY_AT = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS_AT, INTERRUPT_ACKNOWLEDGE_AT, STATUS_AT = 0x060, 0x064, 0x070
DESCRIPTORS_AT, AVAILABLE_AT, USED_AT = 0x080, 0x090, 0x0A0
"""The lower halves of addresses; the upper ones follow."""
SHARED_LENGTH_AT, SHARED_BASE_AT = 0x0B0, 0x0B8
"""There is no shared memory: all ones."""
GENERATION_AT = 0x0FC
CONFIG_AT = 0x100


@compiled
def _config_word(state: Words, at: int, word: int) -> int:
    kind = state[at + KIND]
    value = 0
    if kind == BLOCK:
        value = block_config(state, at, word)
    elif kind == NET:
        value = net_config(state, at, word)
    elif kind == CONSOLE:
        value = console_config(state, at, word)
    return value & 0xFFFFFFFF


@compiled
def _selected(state: Words, at: int) -> int:
    """The queue that QueueSel names; -1 when the device has no such queue."""
    number = state[at + QUEUE_SELECT]
    return queue_at(at, number) if number < QUEUE_COUNT[state[at + KIND]] else -1


@compiled
def _read_register(state: Words, at: int, offset: int) -> int:
    kind, queue = state[at + KIND], _selected(state, at)
    value = 0
    if offset == MAGIC_AT:
        value = MAGIC
    elif offset == VERSION_AT:
        value = VERSION
    elif offset == DEVICE_ID_AT:
        value = kind
    elif offset == VENDOR_AT:
        value = VENDOR
    elif offset == OFFERED_AT:
        select = state[at + OFFERED_SELECT]
        value = state[at + OFFERED] >> (32 * select) if select < 2 else 0
    elif offset == QUEUE_SIZE_MAX_AT:
        value = QUEUE_SIZES_MAX[kind] if queue >= 0 else 0
    elif offset == QUEUE_READY_AT:
        value = state[queue + READY] if queue >= 0 else 0
    elif offset == INTERRUPT_STATUS_AT:
        value = state[at + INTERRUPT]
    elif offset == STATUS_AT:
        value = state[at + STATUS]
    elif offset == GENERATION_AT:
        value = state[at + GENERATION]
    elif kind != 0 and SHARED_LENGTH_AT <= offset < SHARED_BASE_AT + 8:
        value = 0xFFFFFFFF
    return value & 0xFFFFFFFF


@compiled
def virtio_read(state: Words, slot: int, offset: int, size: int) -> tuple[int, int]:
    """(1, value), the value's bits above `size` unspecified."""
    at = slot_at(slot)
    if offset < CONFIG_AT:
        value = _read_register(state, at, offset) if size >= 4 else 0
        if size == 8:
            value |= _read_register(state, at, offset + 4) << 32
        return 1, value
    word = (offset - CONFIG_AT) >> 2
    value = _config_word(state, at, word)
    if size == 8:
        value |= _config_word(state, at, word + 1) << 32
    return 1, value >> (8 * (offset & 3))


@compiled
def _notify(ctl: Words, state: Words, at: int, number: int) -> None:
    kind = state[at + KIND]
    if number >= QUEUE_COUNT[kind] or not queue_runs(state, at, number):
        return
    if kind == BLOCK:
        block_notify(ctl, state, at)
    elif kind == NET:
        net_notify(ctl, state, at, number)
    elif kind == CONSOLE:
        console_notify(ctl, state, at, number)
    elif kind == ENTROPY:
        entropy_notify(ctl, state, at)


@compiled
def _set_status(state: Words, at: int, value: int) -> None:
    """Section 3.1.1. A bit that is set stays so until a reset, so what was agreed on cannot change afterwards."""
    if value == 0:
        device_reset(state, at)
        return
    if not state[at + STATUS] & (FEATURES_OK | DRIVER_OK):
        if value & FEATURES_OK:
            state[at + ACCEPTED] &= state[at + OFFERED]
        elif value & DRIVER_OK:
            # What it has written to the register, if anything, was never agreed on.
            state[at + ACCEPTED] = 0
    state[at + STATUS] |= value & DRIVER_STATUS


@compiled
def _set_half(state: Words, word: int, upper: int, value: int) -> None:
    shift = 32 if upper else 0
    state[word] = (state[word] & ~(0xFFFFFFFF << shift)) | value << shift


@compiled
def _write_queue(ctl: Words, state: Words, at: int, queue: int, offset: int, value: int) -> None:
    """A register of the queue that is selected. While it is ready, all that can be done to it is to stop it."""
    if state[queue + READY]:
        if offset == QUEUE_READY_AT:
            state[queue + READY] = value & 1
        return
    area, upper = offset & ~4, offset & 4
    if offset == QUEUE_SIZE_AT:
        state[queue + QUEUE_SIZE] = value
    elif offset == QUEUE_READY_AT:
        if value & 1:
            make_ready(ctl, state, at, queue, QUEUE_SIZES_MAX[state[at + KIND]])
    elif area == DESCRIPTORS_AT:
        _set_half(state, queue + DESCRIPTORS, upper, value)
    elif area == AVAILABLE_AT:
        _set_half(state, queue + AVAILABLE, upper, value)
    elif area == USED_AT:
        _set_half(state, queue + USED, upper, value)


@compiled
def _write_register(ctl: Words, state: Words, at: int, offset: int, value: int) -> None:
    queue = _selected(state, at)
    if offset == OFFERED_SELECT_AT:
        state[at + OFFERED_SELECT] = value
    elif offset == ACCEPTED_SELECT_AT:
        state[at + ACCEPTED_SELECT] = value
    elif offset == ACCEPTED_AT:
        if state[at + ACCEPTED_SELECT] < 2 and not state[at + STATUS] & (FEATURES_OK | DRIVER_OK):
            _set_half(state, at + ACCEPTED, state[at + ACCEPTED_SELECT], value)
    elif offset == QUEUE_SELECT_AT:
        state[at + QUEUE_SELECT] = value
    elif offset == QUEUE_NOTIFY_AT:
        _notify(ctl, state, at, value)
    elif offset == INTERRUPT_ACKNOWLEDGE_AT:
        set_interrupt(state, at, state[at + INTERRUPT] & ~value)
    elif offset == STATUS_AT:
        _set_status(state, at, value)
    elif queue >= 0:
        _write_queue(ctl, state, at, queue, offset, value)


@compiled
def virtio_write(ctl: Words, state: Words, slot: int, offset: int, size: int, value: int) -> int:
    """1: nothing faults. Nothing in the configuration spaces can be written."""
    at = slot_at(slot)
    if offset < CONFIG_AT and size >= 4 and state[at + KIND]:
        _write_register(ctl, state, at, offset, value & 0xFFFFFFFF)
        if size == 8:
            _write_register(ctl, state, at, offset + 4, value >> 32 & 0xFFFFFFFF)
    return 1


@compiled
def virtio_receive(ctl: Words, state: Words, stream: int) -> None:
    """Bytes were put into a stream's ring."""
    at = find_device(state, NET if stream == s.STREAM_NET else CONSOLE)
    if at < 0:
        return
    if stream == s.STREAM_NET:
        net_receive(ctl, state, at)
    else:
        console_receive(ctl, state, at)


@compiled
def virtio_resize(state: Words, columns: int, rows: int) -> None:
    at = find_device(state, CONSOLE)
    if at >= 0:
        console_resize(state, at, columns, rows)


@compiled
def virtio_reset(ctl: Words, state: Words) -> None:
    """All devices as after power-on."""
    for slot in range(s.VIRTIO_SLOTS):
        device_reset(state, slot_at(slot))
