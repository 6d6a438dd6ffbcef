"""What stands in the board's virtio slots, and whether the state array says so: the only part that is not compiled."""

import numpy as np
from numpy.typing import NDArray

from ftvm.errors import SnapshotError
from ftvm.log.entry import TICK_MAX
from ftvm.machine.board import RAM_BASE, SECTOR, BoardConfig
from ftvm.machine.devices import rtc
from ftvm.machine.devices.virtio import block, console, net
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio.entropy import ENTROPY_FEATURES
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s

PAGE = 4096

State = NDArray[np.int64]


def configure(state: State, board: BoardConfig, ram_bytes: int) -> None:
    """Write the words that the board decides, and no others: after each reset of the board."""
    slots: list[tuple[int, int, dict[int, int]]] = []
    place = ram_bytes + c.DISKS_AT
    for disk in board.disks:
        features = block.BLOCK_FEATURES | (block.FEATURE_READ_ONLY if disk.read_only else 0)
        slots.append((d.BLOCK, features, {block.CAPACITY: disk.size // SECTOR, block.DISK_AT: place}))
        place += -(-disk.size // PAGE) * PAGE
    if board.net is not None:
        mac = int.from_bytes(bytes.fromhex(board.net.mac.replace(":", "")), "little")
        slots.append((d.NET, net.NET_FEATURES, {net.MAC: mac, net.MTU: board.net.mtu}))
    if board.console:
        slots.append((d.CONSOLE, console.CONSOLE_FEATURES, {}))
    if board.entropy:
        slots.append((d.ENTROPY, ENTROPY_FEATURES, {}))
    for slot, (kind, features, words) in enumerate(slots):
        at = s.VIRTIO_AT + slot * s.VIRTIO_SLOT_WORDS
        state[at + d.KIND], state[at + d.OFFERED] = kind, features
        for word, value in words.items():
            state[at + word] = value


def _check_queue(state: State, slot: int, queue: int, size_max: int, ram_bytes: int) -> None:
    for word, high in ((d.READY, 1), (d.TAKEN, 0xFFFF), (d.PUT, 0xFFFF), (d.SIGNALLED, 0xFFFF)):
        _check(state, queue + word, 0, high, f"virtio slot {slot} has a queue whose word {word}")
    if not state[queue + d.READY]:
        return
    size = int(state[queue + d.QUEUE_SIZE])
    areas = ((d.DESCRIPTORS, 16 * size), (d.AVAILABLE, 6 + 2 * size), (d.USED, 6 + 8 * size))
    fits = 0 < size <= size_max and size & (size - 1) == 0
    for word, length in areas:
        offset = int(state[queue + word]) - RAM_BASE
        fits = fits and 0 <= offset <= ram_bytes - length
    if not fits:
        raise SnapshotError(f"the snapshot's virtio slot {slot} has a queue that is not in RAM")


def _check(state: State, index: int, low: int, high: int, what: str) -> None:
    value = int(state[index])
    if not low <= value <= high:
        raise SnapshotError(f"the snapshot's {what} is {value}, not from {low} to {high}")


def check_slots(state: State, board: BoardConfig, ram_bytes: int) -> None:
    """SnapshotError unless all that compiled code uses as index, size, offset or count is in its range, and the slots
    hold what this board has."""
    expected = state.copy()
    for slot in range(s.VIRTIO_SLOTS):
        at = s.VIRTIO_AT + slot * s.VIRTIO_SLOT_WORDS
        expected[at + d.KIND] = expected[at + d.OFFERED] = 0
        expected[at + d.DEVICE_WORDS_AT : at + d.DEVICE_STATE_AT] = 0
    configure(expected, board, ram_bytes)
    for slot in range(s.VIRTIO_SLOTS):
        at = s.VIRTIO_AT + slot * s.VIRTIO_SLOT_WORDS
        kind = int(expected[at + d.KIND])
        if kind == d.CONSOLE:
            for word in (console.COLUMNS, console.ROWS):
                _check(state, at + word, 0, 0xFFFF, "terminal's size")
                expected[at + word] = state[at + word]
        if (state[at : at + s.VIRTIO_SLOT_WORDS] != expected[at : at + s.VIRTIO_SLOT_WORDS]).any():
            raise SnapshotError(f"the snapshot's virtio slot {slot} does not hold what its board has there")
        _check(state, at + d.STATUS, 0, 0xFF, f"virtio slot {slot}'s status")
        _check(state, at + d.INTERRUPT, 0, 3, f"virtio slot {slot}'s interrupt status")
        for word in (d.OFFERED_SELECT, d.ACCEPTED_SELECT, d.QUEUE_SELECT, d.GENERATION):
            _check(state, at + word, 0, 0xFFFFFFFF, f"virtio slot {slot}'s word {word}")
        for word in range(d.DEVICE_STATE_AT, s.VIRTIO_SLOT_WORDS):
            _check(state, at + word, 0, TICK_MAX, f"virtio slot {slot}'s word {word}")
        for number in range(d.QUEUES_MAX):
            queue = at + d.QUEUES_AT + number * d.QUEUE_WORDS
            size_max = int(d.QUEUE_SIZES_MAX[kind]) if number < d.QUEUE_COUNT[kind] else 0
            _check_queue(state, slot, queue, size_max, ram_bytes)
    _check(state, s.ENTROPY_WANTED, 0, c.ENTROPY_SIZE if board.entropy else 0, "number of random bytes that are wanted")
    for word in (rtc.ARMED, rtc.FIRED, rtc.ENABLED):
        _check(state, word, 0, 1, "real-time clock's state")
    _check(state, rtc.LATCHED, 0, 0xFFFFFFFF, "real-time clock's latch")
