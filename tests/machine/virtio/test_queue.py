"""The split virtqueue: virtio 1.2, section 2.7. What a driver may do, and what ends in DEVICE_NEEDS_RESET."""

from collections.abc import Callable

import numpy as np
import pytest

from ftvm.machine.board import RAM_BASE, ROM_BASE, UART_BASE
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio.slots import check_slots
from ftvm.machine.hart import control as c
from tests.machine.virtio import driver
from tests.machine.virtio.driver import (
    DISK_SLOT,
    EVENT_INDEX,
    INDIRECT,
    INDIRECT_DESC,
    NEXT,
    RAM_BYTES,
    WRITE,
    Board,
    Device,
    Queue,
    descriptor,
)

READ = bytes(16)
"""A request for the disk's first sectors."""
END = RAM_BASE + RAM_BYTES


@pytest.fixture
def board() -> Board:
    return Board()


def started(board: Board, features: int = 0, size: int = 16) -> tuple[Device, Queue]:
    device = Device(board, DISK_SLOT)
    return device, device.start(features, (size,))[0]


def test_indices_wrap_at_65536(board: Board) -> None:
    _device, disk = started(board, size=256)
    for _ in range(65536 // 256 + 1):
        for _ in range(256):
            disk.offer(0)
        disk.add(READ, 512, 1)
        disk.available -= 1
        board.put(disk.driver_area + 2, 2, disk.available & 0xFFFF)
        disk.notify()
        assert len(disk.done()) == 256


def test_normal_descriptors_may_come_before_an_indirect_one(board: Board) -> None:
    _device, disk = started(board, INDIRECT_DESC)
    table, place = disk.base + 0x3000, disk.base + 0x4000
    disk.descriptor(0, place, 16, NEXT, 5)
    disk.descriptor(5, table, 32, INDIRECT | WRITE)
    board.store(table, descriptor(place + 64, 512, NEXT | WRITE, 1) + descriptor(place + 600, 1, WRITE))
    disk.offer(0)
    disk.notify()
    assert [written for _, written, _ in disk.done()] == [513]


def test_no_interrupt_when_the_driver_does_not_want_one(board: Board) -> None:
    device, disk = started(board)
    board.put(disk.driver_area, 2, 1)
    disk.run(READ, 512, 1)
    assert device.acknowledge() == 0
    board.put(disk.driver_area, 2, 0)
    disk.notify()
    assert device.acknowledge() == 0, "nothing new"
    disk.run(READ, 512, 1)
    assert device.acknowledge() == d.INTERRUPT_USED


@pytest.mark.parametrize("event", [0, 1, 2, 5, 65535])
def test_used_event_says_after_which_chain_to_interrupt(board: Board, event: int) -> None:
    device, disk = started(board, EVENT_INDEX)
    board.put(disk.driver_area + 4 + 2 * disk.size, 2, event)
    board.put(disk.driver_area, 2, 1)
    interrupted = []
    for _ in range(4):
        disk.run(READ, 512, 1)
        interrupted.append(bool(device.acknowledge()))
    assert interrupted == [number == event for number in range(4)]
    assert board.number(disk.device_area + 4 + 8 * disk.size, 2) == 4, "avail_event: notify of the next"


def test_used_event_within_a_batch_interrupts_once(board: Board) -> None:
    device, disk = started(board, EVENT_INDEX)
    board.put(disk.driver_area + 4 + 2 * disk.size, 2, 1)
    for _ in range(3):
        disk.add(READ, 512, 1)
    disk.notify()
    assert device.acknowledge() == d.INTERRUPT_USED


SHIFTS = [(8, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2), (0, 0, 0xFF9), (15, 0xFFD, 0xFFF)]


@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("shifts", SHIFTS)
def test_areas_need_no_alignment(board: Board, shifts: tuple[int, int, int], event_index: bool) -> None:
    """The last two straddle pages, of which each becomes dirty."""
    device = Device(board, DISK_SLOT)
    device.negotiate(driver.VERSION_1 | (EVENT_INDEX if event_index else 0))
    queue = Queue(board, device.at, 0, 16, RAM_BASE + 0x2_0000, shifts=shifts)
    queue.set_up()
    device.write(driver.STATUS, d.DRIVER_OK)
    board.memory.flags[:] = 0
    for _ in range(17):
        assert queue.run(READ, 512, 1) == driver.pattern(0, 512) + b"\0"
        device.acknowledge()
        board.put(queue.driver_area + 4 + 2 * queue.size, 2, queue.used)
    assert board.number(queue.device_area + 4 + 8 * queue.size, 2) == (17 if event_index else 0)
    first, last = ((area - RAM_BASE) >> 12 for area in (queue.device_area + 2, queue.device_area + 4 + 8 * 16 - 1))
    assert board.memory.flags[first : last + 1].all()
    check_slots(board.state, board.config, RAM_BYTES)
    board.check_guards()


Misdeed = Callable[[Board, Queue], None]


def areas(*, size: int = 16, descriptors: int = 0, available: int = 0, used: int = 0) -> Misdeed:
    """Set up the queue again, elsewhere."""

    def misdeed(board: Board, queue: Queue) -> None:
        device = Device(board, DISK_SLOT)
        device.negotiate(driver.VERSION_1)
        board.write(queue.at + driver.QUEUE_SEL, 0)
        board.write(queue.at + driver.QUEUE_NUM, size)
        for register, given, usual in (
            (driver.QUEUE_DESC, descriptors, queue.descriptors),
            (driver.QUEUE_DRIVER, available, queue.driver_area),
            (driver.QUEUE_DEVICE, used, queue.device_area),
        ):
            board.write(queue.at + register, (given or usual) & 0xFFFFFFFF)
            board.write(queue.at + register + 4, (given or usual) >> 32)
        board.write(queue.at + driver.QUEUE_READY, 1)
        assert device.read(driver.QUEUE_READY) == 0

    return misdeed


def chain(*entries: tuple[int, int, int, int], head: int = 0) -> Misdeed:
    """Descriptors from number 0 on: (address, size, flags, next)."""

    def misdeed(board: Board, queue: Queue) -> None:
        for index, entry in enumerate(entries):
            queue.descriptor(index, *entry)
        queue.offer(head)

    return misdeed


def table(*entries: tuple[int, int, int, int], size: int | None = None, flags: int = INDIRECT) -> Misdeed:
    """One indirect descriptor, and the table it points to."""

    def misdeed(board: Board, queue: Queue) -> None:
        data = b"".join(descriptor(*entry) for entry in entries)
        board.store(TABLE, data)
        queue.descriptor(0, TABLE, len(data) if size is None else size, flags, 1)
        queue.descriptor(1, *STATUS_BYTE)
        queue.offer(0)

    return misdeed


def run_ahead(board: Board, queue: Queue) -> None:
    for _ in range(17):
        queue.add(READ, 512, 1)


def nested(board: Board, queue: Queue) -> None:
    """The second table would be right by itself."""
    board.store(TABLE + 0x100, descriptor(*STATUS_BYTE))
    table(HEADER, (TABLE + 0x100, 16, INDIRECT, 0))(board, queue)


BASE = RAM_BASE + 0x2_0000
PLACE, TABLE = BASE + 0x8000, BASE + 0x9000
HEADER = (PLACE, 16, NEXT, 1)
STATUS_BYTE = (PLACE + 100, 1, WRITE, 0)

MISDEEDS: dict[str, Misdeed] = {
    "size zero": areas(size=0),
    "size no power of two": areas(size=24),
    "size above the maximum": areas(size=512),
    "size negative": areas(size=0x80000000),
    "descriptors beyond RAM": areas(descriptors=END - 240),
    "descriptors at the end of addresses": areas(descriptors=(1 << 64) - 16),
    "descriptors below RAM": areas(descriptors=RAM_BASE - 16),
    "available ring beyond RAM": areas(available=END - 36),
    "available ring in a device": areas(available=UART_BASE),
    "used ring beyond RAM": areas(used=END - 132),
    "used ring in ROM": areas(used=ROM_BASE),
    "available index runs away": run_ahead,
    "head beyond the table": chain(HEADER, STATUS_BYTE, head=16),
    "next beyond the table": chain((PLACE, 16, NEXT, 16)),
    "loop of one": chain((PLACE, 16, NEXT, 0)),
    "loop of three": chain(HEADER, (PLACE, 16, NEXT, 2), (PLACE, 16, NEXT, 0)),
    "next in every descriptor": chain(*((PLACE, 16, NEXT, n + 1) for n in range(16))),
    "readable after writable": chain(HEADER, (PLACE, 512, NEXT | WRITE, 2), (PLACE, 16, NEXT, 3), STATUS_BYTE),
    "empty buffer": chain(HEADER, (PLACE, 0, NEXT | WRITE, 2), STATUS_BYTE),
    "buffer beyond RAM": chain(HEADER, (END - 511, 512, NEXT | WRITE, 2), STATUS_BYTE),
    "buffer from before RAM": chain(HEADER, (RAM_BASE - 1, 512, NEXT | WRITE, 2), STATUS_BYTE),
    "buffer in ROM": chain((ROM_BASE, 16, NEXT, 1), STATUS_BYTE),
    "buffer in a device": chain((UART_BASE, 16, NEXT, 1), STATUS_BYTE),
    "buffer in the memory of devices": chain(HEADER, (END + c.DISKS_AT, 512, NEXT | WRITE, 2), STATUS_BYTE),
    "buffer around the end of addresses": chain(HEADER, ((1 << 64) - 256, 512, NEXT | WRITE, 2), STATUS_BYTE),
    "address with the highest bit": chain(HEADER, ((1 << 63) | PLACE, 512, NEXT | WRITE, 2), STATUS_BYTE),
    "longest possible buffer": chain(HEADER, (PLACE, 0xFFFFFFFF, NEXT | WRITE, 2), STATUS_BYTE),
    "indirect inside indirect": nested,
    "indirect with next": table(HEADER, STATUS_BYTE, flags=INDIRECT | NEXT),
    "table of no length": table(HEADER, STATUS_BYTE, size=0),
    "table of half a descriptor": table(HEADER, STATUS_BYTE, size=40),
    "table too long": table(*((PLACE, 1, NEXT, n + 1) for n in range(256)), STATUS_BYTE),
    "table beyond RAM": chain((END - 16, 32, INDIRECT, 0)),
    "loop in a table": table(HEADER, (PLACE, 16, NEXT, 0)),
    "next beyond a table": table(HEADER, (PLACE, 16, NEXT, 2)),
}


@pytest.mark.parametrize("misdeed", MISDEEDS.values(), ids=MISDEEDS)
def test_a_driver_that_breaks_the_rules_must_reset_the_device(board: Board, misdeed: Misdeed) -> None:
    """It touches nothing, says so, does nothing more; and works again after a reset."""
    device, disk = started(board, INDIRECT_DESC)
    misdeed(board, disk)
    before = board.memory.bytes.copy()
    disk.notify()
    assert device.needs_reset
    assert (board.memory.bytes == before).all()
    board.check_guards()
    if device.read(driver.STATUS) & d.DRIVER_OK:
        assert device.acknowledge() == d.INTERRUPT_CONFIG
    state = board.state.copy()
    device.write(driver.STATUS, 0xBF)
    disk.notify()
    assert (board.memory.bytes == before).all()
    assert (board.state[state != board.state] & d.NEEDS_RESET).all()
    device, disk = started(board)
    assert not device.needs_reset
    assert disk.run(READ, 512, 1) == driver.pattern(0, 512) + b"\0"


def test_indirect_descriptors_that_were_not_agreed_on_break_the_device(board: Board) -> None:
    device, disk = started(board)
    disk.add(READ, 512, 1, indirect=True)
    disk.notify()
    assert device.needs_reset


def test_chains_before_the_bad_one_are_done(board: Board) -> None:
    device, disk = started(board)
    disk.add(READ, 512, 1)
    disk.descriptor(5, PLACE, 16, NEXT, 5)
    disk.offer(5)
    disk.notify()
    assert device.needs_reset
    assert [written for _, written, _ in disk.done()] == [513]


def test_a_chain_that_its_own_data_overwrite_is_the_chain_it_was(board: Board) -> None:
    """The sector read lands on the descriptor table and on both rings."""
    _device, disk = started(board)
    disk.add(READ)
    disk.descriptor(0, disk.base + 0x4000, 16, NEXT, 1)
    disk.descriptor(1, disk.descriptors, 512, NEXT | WRITE, 2)
    disk.descriptor(2, disk.driver_area, 512, NEXT | WRITE, 3)
    disk.descriptor(3, disk.device_area, 512, NEXT | WRITE, 4)
    disk.descriptor(4, PLACE, 1, WRITE)
    board.store(PLACE, b"\xff")
    disk.notify()
    assert board.load(disk.descriptors, 512) == driver.pattern(0, 512)
    assert board.load(disk.driver_area, 512) == driver.pattern(512, 512)
    assert board.load(disk.device_area + 12, 500) == driver.pattern(1036, 500)
    assert board.load(disk.device_area + 2, 10) == b"\1\0" + bytes(4) + (1537).to_bytes(4, "little")
    assert board.load(PLACE, 1) == b"\0"
    board.check_guards()


@pytest.mark.parametrize("indirect", [False, True])
def test_the_longest_chain_is_taken_whole(board: Board, indirect: bool) -> None:
    _device, disk = started(board, INDIRECT_DESC, size=256)
    place = disk.base + 0x8000
    entries = [(place + n, 1, NEXT, n + 1) for n in range(16)]
    entries += [(place + 0x100 + 2 * n, 2, NEXT | WRITE, 17 + n) for n in range(239)]
    entries += [(place + 0x1000, 512 - 2 * 239 + 1, WRITE, 0)]
    data = b"".join(descriptor(*entry) for entry in entries)
    assert len(entries) == c.CHAIN_SEGMENTS_MAX
    if indirect:
        board.store(disk.base + 0x6000, data)
        disk.descriptor(0, disk.base + 0x6000, len(data), INDIRECT)
    else:
        board.store(disk.descriptors, data)
    disk.offer(0)
    disk.notify()
    assert [written for _, written, _ in disk.done()] == [513]
    assert board.load(place + 0x100, 478) + board.load(place + 0x1000, 35) == driver.pattern(0, 512) + b"\0"


def test_one_notification_does_at_most_a_queue_of_chains(board: Board) -> None:
    _device, disk = started(board)
    disk.add(READ, 512, 1)
    for _ in range(15):
        disk.offer(0)
    # The sector that is read makes the index run on, chain for chain.
    board.disk()[:2] = np.frombuffer((disk.available + 3).to_bytes(2, "little"), np.uint8)
    disk.descriptor(1, disk.driver_area + 2, 512, NEXT | WRITE, 2)
    disk.notify()
    assert len(disk.done()) <= 16
    board.check_guards()
