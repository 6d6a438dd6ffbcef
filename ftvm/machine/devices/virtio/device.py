"""What all devices share: the words of a slot in the state array, status bits, interrupts (virtio 1.2, section 2).

Functions take `at`, the index of the slot's first word in the state array; a queue is given by that of its own.
"""

import numpy as np

from ftvm.machine import board as b
from ftvm.machine.devices.plic import plic_set_level
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

KIND = 0
"""The device ID; 0 is an empty slot."""
OFFERED = 1
"""Feature bits."""
ACCEPTED = 2
STATUS = 3
OFFERED_SELECT = 4
ACCEPTED_SELECT = 5
QUEUE_SELECT = 6
INTERRUPT = 7
"""InterruptStatus: INTERRUPT_* bits."""
GENERATION = 8
"""Of the configuration space."""

QUEUES_AT = 16
QUEUE_WORDS = 8
QUEUES_MAX = 2
QUEUE_SIZE, READY, DESCRIPTORS, AVAILABLE, USED, TAKEN, PUT, SIGNALLED = range(QUEUE_WORDS)
"""Size, QueueReady, and the addresses of the three areas; then, modulo 2**16: how many chains the device took and
put back, and how many it had put back when it last looked whether to interrupt."""

DEVICE_WORDS_AT = 40
"""Words of the device itself; those before DEVICE_STATE_AT are the board's and stay over a reset."""
DEVICE_STATE_AT = 52

NET, BLOCK, CONSOLE, ENTROPY = 1, 2, 3, 4
"""Device IDs (section 5)."""

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
DRIVER_STATUS = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED
INTERRUPT_USED, INTERRUPT_CONFIG = 1, 2

FEATURE_INDIRECT = 1 << 28
FEATURE_EVENT_INDEX = 1 << 29
FEATURE_VERSION_1 = 1 << 32
FEATURES = FEATURE_INDIRECT | FEATURE_EVENT_INDEX | FEATURE_VERSION_1
"""What every device offers."""

QUEUE_SIZE_MAX = 256
CONSOLE_QUEUE_SIZE_MAX = 32

QUEUE_COUNT = np.array([0, 2, 1, 2, 1], np.int64)
QUEUE_SIZES_MAX = np.array([0, QUEUE_SIZE_MAX, QUEUE_SIZE_MAX, CONSOLE_QUEUE_SIZE_MAX, QUEUE_SIZE_MAX], np.int64)
"""By device ID."""


@compiled
def slot_at(slot: int) -> int:
    return s.VIRTIO_AT + slot * s.VIRTIO_SLOT_WORDS


@compiled
def queue_at(at: int, number: int) -> int:
    return at + QUEUES_AT + number * QUEUE_WORDS


@compiled
def find_device(state: Words, kind: int) -> int:
    """The first slot with such a device, -1 without one."""
    for slot in range(s.VIRTIO_SLOTS):
        if state[slot_at(slot) + KIND] == kind:
            return slot_at(slot)
    return -1


@compiled
def set_interrupt(state: Words, at: int, bits: int) -> None:
    """InterruptStatus becomes `bits`."""
    state[at + INTERRUPT] = bits
    slot = (at - s.VIRTIO_AT) // s.VIRTIO_SLOT_WORDS
    plic_set_level(state, b.VIRTIO_IRQ + slot, bits)


@compiled
def raise_interrupt(state: Words, at: int, bit: int) -> None:
    set_interrupt(state, at, state[at + INTERRUPT] | bit)


@compiled
def device_runs(state: Words, at: int) -> bool:
    """Is the driver ready, and the device not broken?"""
    return state[at + STATUS] & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK


@compiled
def queue_runs(state: Words, at: int, number: int) -> bool:
    return device_runs(state, at) and state[queue_at(at, number) + READY] != 0


@compiled
def break_device(state: Words, at: int) -> None:
    """The driver has broken the rules: nothing goes on before it resets the device (section 2.1.2)."""
    if state[at + STATUS] & NEEDS_RESET == 0:
        state[at + STATUS] |= NEEDS_RESET
        if state[at + STATUS] & DRIVER_OK:
            raise_interrupt(state, at, INTERRUPT_CONFIG)


@compiled
def config_changed(state: Words, at: int) -> None:
    state[at + GENERATION] = (state[at + GENERATION] + 1) & 0xFFFFFFFF
    if device_runs(state, at):
        raise_interrupt(state, at, INTERRUPT_CONFIG)


@compiled
def device_reset(state: Words, at: int) -> None:
    """As after power-on, but for what the board says of the device."""
    for index in range(ACCEPTED, DEVICE_WORDS_AT):
        state[at + index] = 0
    for index in range(DEVICE_STATE_AT, s.VIRTIO_SLOT_WORDS):
        state[at + index] = 0
    if state[at + KIND] == ENTROPY:
        state[s.ENTROPY_WANTED] = 0
    set_interrupt(state, at, 0)
