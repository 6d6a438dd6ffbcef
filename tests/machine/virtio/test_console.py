"""The console: virtio 1.2, section 5.3; bytes of the stream "console0"."""

import pytest

from ftvm.machine.devices.virtio import console
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio.driver import CONFIG, CONFIG_GENERATION, CONSOLE_SLOT, QUEUE_NUM_MAX, STATUS, Board, Device

CONSOLE = s.STREAM_CONSOLE


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def device(board: Board) -> Device:
    return Device(board, CONSOLE_SLOT)


def test_what_the_driver_sends_goes_out(board: Board, device: Device) -> None:
    _receive, send = device.start()
    send.run(b"hel", b"lo")
    send.run(b"!")
    assert board.take_sent(CONSOLE) == b"hello!"
    assert board.state[s.STREAM_AT + s.STREAM_WORDS + s.STREAM_OUTPUT] == 6
    assert board.control[c.STREAM_OUT_TICK + CONSOLE] == board.state[s.TICK] + 1
    assert board.take_sent(s.STREAM_NET) == b""


def test_what_comes_fills_the_drivers_buffers_and_then_waits(board: Board, device: Device) -> None:
    receive, _send = device.start()
    receive.add(2, 2, head=0)
    receive.add(3, head=2)
    board.receive(CONSOLE, b"abcdefghi")
    assert [(head, written, data) for head, written, data in receive.done()] == [(0, 4, b"abcd"), (2, 3, b"efg")]
    assert board.waiting(CONSOLE) == 2
    receive.add(100)
    receive.notify()
    assert [(written, data[:2]) for _, written, data in receive.done()] == [(2, b"hi")]
    assert device.acknowledge() == d.INTERRUPT_USED


def test_input_that_came_before_the_driver_waits_for_it(board: Board, device: Device) -> None:
    board.receive(CONSOLE, b"early")
    receive, _send = device.start()
    receive.add(10)
    receive.notify()
    assert [data[:written] for _, written, data in receive.done()] == [b"early"]


def test_the_ring_goes_round(board: Board, device: Device) -> None:
    receive, _send = device.start()
    for number in range(3 * c.RING_SIZES[CONSOLE] // 1000):
        receive.add(1000)
        text = bytes((number + n) % 256 for n in range(1000))
        board.receive(CONSOLE, text)
        assert [data for _, _, data in receive.done()] == [text]


@pytest.mark.parametrize("before_end", range(11))
def test_the_ring_goes_round_at_every_byte(board: Board, device: Device, before_end: int) -> None:
    for word in (s.STREAM_INPUT, s.STREAM_TAKEN):
        board.state[s.STREAM_AT + s.STREAM_WORDS + word] = c.RING_SIZES[CONSOLE] - before_end
    receive, _send = device.start()
    receive.add(3, 8)
    board.receive(CONSOLE, b"0123456789")
    assert [data[:written] for _, written, data in receive.done()] == [b"0123456789"]


def test_a_new_size_of_the_terminal_is_told(board: Board, device: Device) -> None:
    assert device.offered & console.FEATURE_SIZE
    device.start(console.FEATURE_SIZE)
    board.resize(132, 43)
    assert (device.read(CONFIG, 2), device.read(CONFIG + 2, 2)) == (132, 43)
    assert device.read(CONFIG_GENERATION) == 1
    assert board.interrupts() == 1 << (1 + CONSOLE_SLOT)
    assert device.acknowledge() == d.INTERRUPT_CONFIG
    device.write(STATUS, 0)
    assert device.read(CONFIG, 4) == 132 | 43 << 16, "the terminal is the same after a reset"
    board.resize(80, 24)
    assert device.acknowledge() == 0, "no driver, no interrupt"


def test_a_whole_queue_of_the_largest_buffers_fits_into_what_the_kernel_keeps(board: Board, device: Device) -> None:
    size = device.read(QUEUE_NUM_MAX)
    _receive, send = device.start(sizes=(size, size))
    board.control[c.STREAM_OUT_COUNT + CONSOLE] = c.STREAM_OUT_STOP - 1
    send.descriptor(0, send.base, console.SEND_SIZE_MAX, 0)
    for _ in range(size):
        send.offer(0)
    send.notify()
    assert len(board.take_sent(CONSOLE)) == c.STREAM_OUT_STOP - 1 + size * console.SEND_SIZE_MAX
    board.check_guards()


def test_a_buffer_larger_than_that_breaks_the_device(board: Board, device: Device) -> None:
    _receive, send = device.start()
    send.descriptor(0, send.base, console.SEND_SIZE_MAX, 1, 1)
    send.descriptor(1, send.base, 1, 0)
    send.offer(0)
    send.notify()
    assert device.needs_reset
    assert board.take_sent(CONSOLE) == b""


def test_a_receive_buffer_that_cannot_be_written_breaks_the_device(board: Board, device: Device) -> None:
    receive, _send = device.start()
    receive.add(b"not for writing")
    board.receive(CONSOLE, b"x")
    assert device.needs_reset
    assert board.waiting(CONSOLE) == 1
