"""The entropy device: virtio 1.2, section 5.4."""

from collections.abc import Callable

import pytest

from ftvm.machine.board import RAM_BASE
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio.driver import ENTROPY_SLOT, QUEUE_READY, QUEUE_SEL, RAM_BYTES, STATUS, Board, Device

PLACE = RAM_BYTES + c.ENTROPY_AT


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def device(board: Board) -> Device:
    return Device(board, ENTROPY_SLOT)


def wanted(board: Board) -> int:
    return int(board.state[s.ENTROPY_WANTED])


def test_it_asks_for_what_the_buffers_hold_and_gives_what_comes(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(3, 4, head=0)
    queue.add(10, head=2)
    queue.notify()
    assert (wanted(board), int(board.control[c.WANTS])) == (17, 1)
    assert queue.done() == []
    board.control[c.WANTS] = 0
    board.supply(bytes(range(1, 18)))
    assert [(head, written, data) for head, written, data in queue.done()] == [
        (0, 7, bytes(range(1, 8))),
        (2, 10, bytes(range(8, 18))),
    ]
    assert (wanted(board), int(board.control[c.WANTS])) == (0, 0)
    assert device.acknowledge() == d.INTERRUPT_USED


def test_what_it_gave_away_is_not_kept(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(8)
    queue.notify()
    board.memory.flags[:] = 0
    board.supply(b"secret!!")
    assert not board.memory.bytes[PLACE : PLACE + c.ENTROPY_SIZE].any()
    assert board.memory.flags[PLACE >> 12] == c.DIRTY_ALL


def test_less_than_it_asked_for_fills_one_buffer_partly_and_it_asks_again(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(8, head=0)
    queue.add(8, head=1)
    queue.notify()
    board.supply(b"abc")
    assert [(written, data[:3]) for _, written, data in queue.done()] == [(3, b"abc")]
    assert (wanted(board), int(board.control[c.WANTS])) == (8, 1)


def test_it_asks_for_a_bounded_number_of_bytes(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(30_000)
    queue.notify()
    assert wanted(board) == c.ENTROPY_SIZE
    board.supply(bytes(c.ENTROPY_SIZE))
    assert [written for _, written, _ in queue.done()] == [c.ENTROPY_SIZE]


def test_a_reset_forgets_the_question(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(8)
    queue.notify()
    device.write(STATUS, 0)
    assert wanted(board) == 0
    board.supply(b"late")
    assert board.load(queue.base + 0x4000, 8) == bytes(8)
    assert not board.memory.bytes[PLACE : PLACE + c.ENTROPY_SIZE].any()


def test_a_buffer_that_cannot_be_written_breaks_the_device(board: Board, device: Device) -> None:
    [queue] = device.start()
    queue.add(8, head=0)
    queue.add(b"not for writing", head=1)
    queue.notify()
    assert device.needs_reset
    assert wanted(board) == 0


def stop(device: Device) -> None:
    device.write(QUEUE_SEL, 0)
    device.write(QUEUE_READY, 0)


def corrupt(device: Device) -> None:
    device.board.store(RAM_BASE + 0x2_0000, bytes(16))


@pytest.mark.parametrize("spoil", [stop, corrupt])
def test_it_asks_no_more_when_there_is_nothing_left_to_fill(
    board: Board, device: Device, spoil: Callable[[Device], None]
) -> None:
    """A host that answers as long as it is asked comes to an end."""
    [queue] = device.start()
    queue.add(8)
    queue.notify()
    spoil(device)
    board.supply(b"12345678")
    assert wanted(board) == 0
    assert queue.done() == []
