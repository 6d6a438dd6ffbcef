"""The registers of virtio-mmio: virtio 1.2, section 4.2.2, and how a driver and a device agree, section 3.1."""

import numpy as np
import pytest

from ftvm.errors import SnapshotError
from ftvm.machine.board import RAM_BASE, VIRTIO_BASE, VIRTIO_STRIDE, BoardConfig, NetConfig
from ftvm.machine.devices import rtc
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio.slots import check_slots, configure
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio import driver
from tests.machine.virtio.driver import (
    ALL,
    CONSOLE_SLOT,
    DISK_SLOT,
    EMPTY_SLOT,
    ENTROPY_SLOT,
    EVENT_INDEX,
    INDIRECT_DESC,
    LOCKED_SLOT,
    NET_SLOT,
    RAM_BYTES,
    VERSION_1,
    Board,
    Device,
)

KINDS = {DISK_SLOT: 2, LOCKED_SLOT: 2, NET_SLOT: 1, CONSOLE_SLOT: 3, ENTROPY_SLOT: 4, EMPTY_SLOT: 0, 7: 0}
COMMON = VERSION_1 | EVENT_INDEX | INDIRECT_DESC


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize("slot", KINDS)
def test_every_slot_says_what_it_is(board: Board, slot: int) -> None:
    device = Device(board, slot)
    assert device.read(driver.MAGIC).to_bytes(4, "little") == b"virt"
    assert (device.read(driver.VERSION), device.read(driver.DEVICE_ID)) == (2, KINDS[slot])
    assert device.offered & COMMON == (COMMON if KINDS[slot] else 0)


def test_an_empty_slot_keeps_nothing(board: Board) -> None:
    before = board.state.copy()
    for offset in range(0, VIRTIO_STRIDE, 4):
        assert board.write(VIRTIO_BASE + EMPTY_SLOT * VIRTIO_STRIDE + offset, 0xFFFFFFFF)
    assert (board.state == before).all()


def test_registers_have_four_bytes_and_the_configuration_space_takes_any(board: Board) -> None:
    at = VIRTIO_BASE + NET_SLOT * VIRTIO_STRIDE
    assert board.write(at + driver.STATUS, d.ACKNOWLEDGE | d.DRIVER)
    for size in (1, 2):
        assert board.read(at + driver.STATUS, size) == 0
        assert board.write(at + driver.STATUS, d.FAILED, size)
    assert board.read(at + driver.STATUS, 8) == d.ACKNOWLEDGE | d.DRIVER
    assert board.read(at + driver.MAGIC, 8) == int.from_bytes(b"virt\2\0\0\0", "little")
    before = board.state.copy()
    for size in (1, 2, 4, 8):
        assert board.read(at + driver.CONFIG, size) is not None
        assert board.write(at + driver.CONFIG, 1, size)
    assert (board.state == before).all()
    assert board.read(at + VIRTIO_STRIDE - 8, 8) == 0
    assert board.read(at + driver.CONFIG) == int.from_bytes(bytes.fromhex("52540012"), "little")


def test_there_is_no_shared_memory_and_no_third_half_of_the_features(board: Board) -> None:
    device = Device(board, NET_SLOT)
    assert [device.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFFFFFF] * 4
    device.write(driver.DEVICE_FEATURES_SEL, 2)
    assert device.read(driver.DEVICE_FEATURES) == 0


def test_addresses_may_be_written_whole(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    device.negotiate(VERSION_1)
    queue = driver.Queue(board, device.at, 0, 8, RAM_BASE + 0x1_0000)
    device.write(driver.QUEUE_NUM, queue.size)
    areas = (queue.descriptors, queue.driver_area, queue.device_area)
    for register, area in zip((driver.QUEUE_DESC, driver.QUEUE_DRIVER, driver.QUEUE_DEVICE), areas, strict=True):
        assert board.write(device.at + register, 0x5A5A_5A5A << 32 | area, 8)
        assert board.write(device.at + register, area, 8)
    device.write(driver.QUEUE_READY, 1)
    device.write(driver.STATUS, d.DRIVER_OK)
    assert queue.run(bytes(16), 512, 1) == driver.pattern(0, 512) + b"\0"


@pytest.mark.parametrize("slot", [slot for slot, kind in KINDS.items() if kind])
def test_any_features_are_agreed_on_and_those_that_were_not_offered_do_not_count(board: Board, slot: int) -> None:
    device = Device(board, slot)
    offered = device.offered
    for features in (0, VERSION_1, offered, offered & ~VERSION_1, (1 << 64) - 1, *(1 << bit for bit in range(64))):
        assert device.negotiate(features)
        assert device.word(d.ACCEPTED) == features & offered


def test_a_driver_that_knows_the_lower_features_only_runs(board: Board) -> None:
    """What teaching kernels do: nothing is selected, QueueReady is read before, and all is looked at again."""
    device = Device(board, DISK_SLOT)
    status = 0
    for bit in (d.ACKNOWLEDGE, d.DRIVER):
        status |= bit
        device.write(driver.STATUS, status)
    device.write(driver.DRIVER_FEATURES, device.read(driver.DEVICE_FEATURES) & ~(EVENT_INDEX | INDIRECT_DESC))
    device.write(driver.STATUS, status | d.FEATURES_OK)
    status = device.read(driver.STATUS)
    assert status == d.ACKNOWLEDGE | d.DRIVER | d.FEATURES_OK
    assert not device.read(driver.QUEUE_READY)
    queue = driver.Queue(board, device.at, 0, 8, RAM_BASE + 0x1_0000)
    queue.set_up()
    assert device.read(driver.QUEUE_READY) == 1
    device.write(driver.STATUS, status | d.DRIVER_OK)
    assert queue.run(bytes(16), 512, 1) == driver.pattern(0, 512) + b"\0"
    assert device.acknowledge() == d.INTERRUPT_USED


def test_a_driver_that_knows_no_features_ok_has_no_features(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start(COMMON, features_ok=False)[0]
    assert device.read(driver.STATUS) == d.ACKNOWLEDGE | d.DRIVER | d.DRIVER_OK
    for _ in range(2):
        assert queue.run(bytes(16), 512, 1) == driver.pattern(0, 512) + b"\0"
        assert device.acknowledge() == d.INTERRUPT_USED, "there is no event index that holds it back"
    device.write(driver.DRIVER_FEATURES, EVENT_INDEX)
    device.write(driver.STATUS, d.FEATURES_OK)
    assert device.word(d.ACCEPTED) == 0
    queue.add(bytes(16), 512, 1, indirect=True)
    queue.notify()
    assert device.needs_reset


def test_status_bits_may_come_one_by_one_or_all_at_once(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    for writes in ((1, 2, d.FEATURES_OK, d.DRIVER_OK), (15,)):
        device.write(driver.STATUS, 0)
        device.write(driver.DRIVER_FEATURES_SEL, 0)
        device.write(driver.DRIVER_FEATURES, INDIRECT_DESC)
        for status in writes:
            device.write(driver.STATUS, status)
        assert device.word(d.ACCEPTED) == INDIRECT_DESC
        queue = driver.Queue(board, device.at, 0, 8, RAM_BASE + 0x1_0000)
        board.memory.bytes[0x1_0000:0x2_0000] = 0
        queue.set_up()
        assert queue.run(bytes(16), 512, 1, indirect=True) == driver.pattern(0, 512) + b"\0"


def test_a_queue_may_be_set_up_before_the_features_are_agreed_on(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = driver.Queue(board, device.at, 0, 8, RAM_BASE + 0x1_0000)
    queue.set_up()
    assert device.read(driver.QUEUE_READY) == 1
    for half, bits in ((0, EVENT_INDEX), (1, VERSION_1 >> 32)):
        device.write(driver.DRIVER_FEATURES_SEL, half)
        device.write(driver.DRIVER_FEATURES, bits)
    device.write(driver.STATUS, d.ACKNOWLEDGE | d.DRIVER | d.FEATURES_OK)
    device.write(driver.STATUS, d.DRIVER_OK)
    assert queue.run(bytes(16), 512, 1) == driver.pattern(0, 512) + b"\0"
    assert board.number(queue.device_area + 4 + 8 * queue.size, 2) == 1, "the event index"


def test_what_was_agreed_on_cannot_be_changed(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    assert device.negotiate(VERSION_1)
    device.write(driver.DRIVER_FEATURES_SEL, 0)
    device.write(driver.DRIVER_FEATURES, 0xFFFFFFFF)
    device.write(driver.STATUS, d.ACKNOWLEDGE)
    assert device.read(driver.STATUS) == d.ACKNOWLEDGE | d.DRIVER | d.FEATURES_OK
    assert device.word(d.ACCEPTED) == VERSION_1


def test_a_queue_that_is_ready_cannot_be_moved(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    before = board.state.copy()
    device.write(driver.QUEUE_SEL, 0)
    for offset in (0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        device.write(offset, 0)
    assert (board.state == before).all()
    assert device.read(driver.QUEUE_READY) == 1
    assert len(queue.run(bytes(16), 512, 1)) == 513


def test_a_queue_that_was_stopped_does_nothing_and_can_be_set_up_elsewhere(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    queue.run(bytes(16), 512, 1)
    device.write(driver.QUEUE_SEL, 0)
    device.write(driver.QUEUE_READY, 0)
    assert device.read(driver.QUEUE_READY) == 0
    queue.add(bytes(16), 512, 1)
    queue.notify()
    assert queue.done() == []
    other = driver.Queue(board, device.at, 0, 4, queue.base + 0x4_0000)
    other.set_up()
    assert len(other.run(bytes(16), 512, 1)) == 513


@pytest.mark.parametrize(
    ("slot", "sizes"), [(DISK_SLOT, [256, 0, 0]), (NET_SLOT, [256, 256, 0]), (CONSOLE_SLOT, [32, 32, 0])]
)
def test_queues_that_a_device_has_not_have_size_zero(board: Board, slot: int, sizes: list[int]) -> None:
    device = Device(board, slot)
    found = []
    for number in (0, 1, 0xFFFFFFFF):
        device.write(driver.QUEUE_SEL, number)
        found.append(device.read(driver.QUEUE_NUM_MAX))
    assert found == sizes


@pytest.mark.parametrize("number", [1, 2, 255, 0xFFFFFFFF])
def test_a_notification_of_a_queue_that_is_not_there_does_nothing(board: Board, number: int) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    queue.add(bytes(16), 512, 1)
    before = board.state.copy()
    device.write(driver.QUEUE_NOTIFY, number)
    assert (board.state == before).all()
    assert queue.done() == []


def test_nothing_happens_before_driver_ok(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    device.negotiate(VERSION_1)
    queue.set_up()
    queue.add(bytes(16), 512, 1)
    queue.notify()
    assert queue.done() == []
    device.write(driver.STATUS, d.DRIVER_OK)
    queue.notify()
    assert len(queue.done()) == 1


def test_a_reset_stops_everything_and_lowers_the_interrupt(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    queue.run(bytes(16), 512, 1)
    assert board.interrupts() == 1 << 1
    device.write(driver.STATUS, 0)
    for register in (driver.STATUS, driver.INTERRUPT_STATUS, driver.QUEUE_READY):
        assert device.read(register) == 0
    queue.add(bytes(16), 512, 1)
    queue.notify()
    assert queue.done() == []
    fresh = Board()
    assert (device.read(driver.CONFIG, 8), device.offered) == (9, Device(fresh, DISK_SLOT).offered)


def test_a_reset_of_the_board_leaves_what_the_board_has(board: Board) -> None:
    Device(board, NET_SLOT).start()
    board.devices.call(c.DO_RESET_DEVICES)
    fresh = Board()
    assert (board.state == fresh.state).all()
    configure(board.state, ALL, RAM_BYTES)
    assert (board.state == fresh.state).all()


def test_the_interrupt_follows_interrupt_status(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    queue = device.start()[0]
    queue.run(bytes(16), 512, 1)
    assert device.read(driver.INTERRUPT_STATUS) == d.INTERRUPT_USED
    device.write(driver.INTERRUPT_ACK, d.INTERRUPT_CONFIG)
    assert board.interrupts() == 1 << 1
    device.write(driver.INTERRUPT_ACK, d.INTERRUPT_USED)
    assert device.read(driver.INTERRUPT_STATUS) == 0


def test_a_state_that_a_board_was_in_is_taken_by_that_board_only(board: Board) -> None:
    for slot in (DISK_SLOT, NET_SLOT, CONSOLE_SLOT, ENTROPY_SLOT):
        Device(board, slot).start()
    check_slots(board.state, ALL, RAM_BYTES)
    for other in (
        BoardConfig(ram_mib=1),
        BoardConfig(ram_mib=1, disks=ALL.disks[:1], net=ALL.net, console=True, entropy=True),
        BoardConfig(ram_mib=1, disks=ALL.disks, net=NetConfig(mtu=1501), console=True, entropy=True),
        BoardConfig(ram_mib=1, disks=ALL.disks, net=ALL.net, console=False, entropy=True),
    ):
        with pytest.raises(SnapshotError):
            check_slots(board.state, other, RAM_BYTES)


_AT = s.VIRTIO_AT
_QUEUE = _AT + d.QUEUES_AT


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (_AT + d.KIND, 5),
        (_AT + d.OFFERED, -1),
        (_AT + d.STATUS, 256),
        (_AT + d.INTERRUPT, 4),
        (_AT + d.QUEUE_SELECT, -1),
        (_AT + d.OFFERED_SELECT, -1),
        (_AT + d.ACCEPTED_SELECT, -1),
        (_AT + d.DEVICE_WORDS_AT, 10),
        (_AT + d.DEVICE_WORDS_AT + 1, 0),
        (_AT + d.DEVICE_STATE_AT, -1),
        (_QUEUE + d.READY, 2),
        (_QUEUE + d.QUEUE_SIZE, 0),
        (_QUEUE + d.QUEUE_SIZE, 3),
        (_QUEUE + d.QUEUE_SIZE, 512),
        (_QUEUE + d.DESCRIPTORS, 0x7FFF_FFF8),
        (_QUEUE + d.DESCRIPTORS, 0x8000_0000 + RAM_BYTES - 16),
        (_QUEUE + d.AVAILABLE, 0x8000_0000 + RAM_BYTES - 16),
        (_QUEUE + d.USED, 0x7FFF_FFFC),
        (_QUEUE + d.USED, -4),
        (_QUEUE + d.TAKEN, 0x10000),
        (_QUEUE + d.PUT, -1),
        (_QUEUE + d.SIGNALLED, 0x10000),
        (_QUEUE + d.QUEUE_WORDS + d.READY, 1),
        (_AT + CONSOLE_SLOT * s.VIRTIO_SLOT_WORDS + d.DEVICE_STATE_AT - 1, 0x10000),
        (_AT + EMPTY_SLOT * s.VIRTIO_SLOT_WORDS + d.KIND, 2),
        (s.ENTROPY_WANTED, 4097),
        (s.ENTROPY_WANTED, -1),
        (rtc.ARMED, 2),
    ],
)
def test_a_state_in_which_compiled_code_would_go_astray_is_refused(board: Board, word: int, value: int) -> None:
    Device(board, DISK_SLOT).start()
    state = board.state.copy()
    check_slots(state, ALL, RAM_BYTES)
    state[word] = np.int64(value)
    with pytest.raises(SnapshotError):
        check_slots(state, ALL, RAM_BYTES)
