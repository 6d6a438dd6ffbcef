"""The network device: virtio 1.2, section 5.1; frames over the stream "net0"."""

import pytest

from ftvm.machine.board import BoardConfig, NetConfig
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio import net
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio.driver import CONFIG, EVENT_INDEX, NET_SLOT, Board, Device, Queue

NET = s.STREAM_NET
HEADER = bytes(12)


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def frame(size: int, first: int = 1) -> bytes:
    return bytes((first + n) % 256 for n in range(size))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def card(board: Board) -> Device:
    return Device(board, NET_SLOT)


def test_its_configuration_holds_address_link_and_mtu(card: Device) -> None:
    assert bytes(card.read(CONFIG + n, 1) for n in range(6)) == bytes.fromhex("525400123456")
    assert card.read(CONFIG + 6, 2) == 1
    assert card.read(CONFIG + 10, 2) == 1500
    assert card.read(CONFIG, 8) == 0x0001_5634_1200_5452


def test_a_frame_goes_out_with_its_length_however_the_buffers_are_cut(board: Board, card: Device) -> None:
    _receive, send = card.start()
    send.run(HEADER[:7], HEADER[7:] + b"abc", frame(60))
    send.run(HEADER + frame(14))
    assert board.take_sent(NET) == framed(b"abc" + frame(60)) + framed(frame(14))
    assert board.state[s.STREAM_AT + s.STREAM_OUTPUT] == 4 + 63 + 4 + 14
    assert board.control[c.STREAM_OUT_TICK] == board.state[s.TICK] + 1


@pytest.mark.parametrize(("size", "sent"), [(0, False), (13, False), (14, True), (1518, True), (1519, False)])
def test_frames_that_have_no_length_of_frames_are_dropped_and_counted(
    board: Board, card: Device, size: int, sent: bool
) -> None:
    _receive, send = card.start()
    send.run(HEADER + frame(size))
    assert board.take_sent(NET) == (framed(frame(size)) if sent else b"")
    assert card.word(net.SEND_DROPPED) == (0 if sent else 1)


HEADERS = [
    (0, True, 12),
    (net.FEATURE_MERGEABLE, True, 12),
    (net.FEATURE_MERGEABLE, False, 12),
    (net.FEATURE_MAC, False, 10),
]


@pytest.mark.parametrize(("features", "version_1", "size"), HEADERS)
def test_a_frame_without_its_header_breaks_the_device(card: Device, features: int, version_1: bool, size: int) -> None:
    _receive, send = card.start(features, version_1=version_1)
    send.run(bytes(size))
    assert not card.needs_reset
    send.add(bytes(size - 1))
    send.notify()
    assert card.needs_reset


@pytest.mark.parametrize(("features", "version_1", "size"), HEADERS)
def test_a_header_counts_the_buffers_if_the_driver_has_accepted_as_much(
    board: Board, card: Device, features: int, version_1: bool, size: int
) -> None:
    receive, send = card.start(features, version_1=version_1)
    receive.add(2000)
    receive.notify()
    board.receive(NET, framed(frame(60)))
    [(_head, written, came)] = receive.done()
    assert came[:written] == (bytes(10) + b"\1\0")[:size] + frame(60)
    send.run(bytes(size) + frame(60))
    assert board.take_sent(NET) == framed(frame(60))


def test_a_buffer_that_is_smaller_than_the_short_header_breaks_the_device(board: Board, card: Device) -> None:
    receive, _send = card.start(version_1=False)
    receive.add(9)
    receive.notify()
    board.receive(NET, framed(frame(60)))
    assert card.needs_reset
    board.check_guards()


def test_a_whole_queue_of_the_largest_frames_fits_into_what_the_kernel_keeps() -> None:
    mtu = 65521
    board = Board(BoardConfig(ram_mib=1, net=NetConfig(mtu=mtu)))
    _receive, send = Device(board, 0).start(sizes=(256, 256))
    board.control[c.STREAM_OUT_COUNT] = c.STREAM_OUT_STOP - 1
    board.store(send.base + 0x4000, HEADER + frame(mtu + 18))
    send.descriptor(0, send.base + 0x4000, 12 + mtu + 18, 0)
    for _ in range(256):
        send.offer(0)
    send.notify()
    assert board.take_sent(NET)[c.STREAM_OUT_STOP - 1 :] == framed(frame(mtu + 18)) * 256
    board.check_guards()


def test_a_frame_comes_in_whole_with_an_empty_header(board: Board, card: Device) -> None:
    receive, _send = card.start()
    receive.add(5, 7, 1000, 600)
    receive.notify()
    assert receive.done() == []
    data = framed(frame(1200))
    board.receive(NET, data[:2])
    board.receive(NET, data[2:700])
    assert receive.done() == []
    board.receive(NET, data[700:])
    [(head, written, came)] = receive.done()
    assert (head, written) == (0, 12 + 1200)
    assert came[:1212] == bytes(10) + b"\1\0" + frame(1200)
    assert card.acknowledge() == d.INTERRUPT_USED
    assert board.waiting(NET) == 0


def test_frames_wait_for_buffers_and_the_driver_is_asked_to_notify(board: Board, card: Device) -> None:
    receive, _send = card.start()
    board.receive(NET, framed(frame(60)) + framed(frame(61)))
    assert board.number(receive.device_area, 2) == 0, "NO_NOTIFY is not set"
    receive.add(2000)
    receive.notify()
    assert [came[12:72] for _, _, came in receive.done()] == [frame(60)]
    assert board.number(receive.device_area, 2) == 0
    receive.add(2000)
    receive.notify()
    assert [came[12:73] for _, _, came in receive.done()] == [frame(61)]
    assert board.number(receive.device_area, 2) == 1, "nothing waits, so notifications are useless"


def test_a_frame_takes_as_many_buffers_as_it_needs_when_they_may_be_merged(board: Board, card: Device) -> None:
    receive, _send = card.start(net.FEATURE_MERGEABLE)
    receive.add(500, head=0)
    receive.add(20, 80, head=1)
    board.receive(NET, framed(frame(1000)))
    assert receive.done() == [], "they are too few"
    receive.add(600, head=3)
    receive.add(600, head=4)
    receive.notify()
    came = receive.done()
    assert [(head, written) for head, written, _ in came] == [(0, 500), (1, 100), (3, 412)]
    data = b"".join(part[:written] for _, written, part in came)
    assert data == bytes(10) + b"\3\0" + frame(1000)
    board.receive(NET, framed(frame(60)))
    assert [(head, part[10:72]) for head, _, part in receive.done()] == [(4, b"\1\0" + frame(60))]


@pytest.mark.parametrize("features", [0, net.FEATURE_MERGEABLE])
def test_a_frame_for_which_the_whole_queue_is_too_small_is_dropped(board: Board, card: Device, features: int) -> None:
    receive, _send = card.start(features, sizes=(2, 2))
    receive.add(100, head=0)
    receive.add(100, head=1)
    board.receive(NET, framed(frame(300)) + framed(frame(60)))
    assert [(head, part[12:72]) for head, _, part in receive.done()] == [(0, frame(60))]
    assert card.word(net.RECEIVE_DROPPED) == 1


@pytest.mark.parametrize("size", [0, net.FRAME_SIZE_MAX + 1, 0xFFFFFFFF])
def test_what_is_no_frame_is_thrown_away_with_all_that_is_there(board: Board, card: Device, size: int) -> None:
    receive, _send = card.start()
    receive.add(2000)
    board.receive(NET, size.to_bytes(4, "big") + bytes(100))
    assert (board.waiting(NET), card.word(net.RECEIVE_BAD)) == (0, 1)
    board.receive(NET, framed(frame(60)))
    assert len(receive.done()) == 1


def test_the_ring_goes_round(board: Board, card: Device) -> None:
    receive, _send = card.start()
    size = 1500
    for number in range(2 * c.RING_SIZES[NET] // size):
        receive.add(2000)
        board.receive(NET, framed(frame(size, number)))
        [(_, _, came)] = receive.done()
        assert came[12:1512] == frame(size, number)
    board.check_guards()


@pytest.mark.parametrize(("features", "buffers"), [(0, (HEADER,)), (net.FEATURE_MERGEABLE, (11,))])
def test_buffers_into_which_nothing_can_be_written_break_the_device(
    board: Board, card: Device, features: int, buffers: tuple[bytes | int, ...]
) -> None:
    receive, _send = card.start(features)
    receive.add(*buffers)
    board.receive(NET, framed(frame(60)))
    assert card.needs_reset
    assert board.waiting(NET) == 64


def test_with_event_indices_the_driver_hears_when_it_asked_to(board: Board, card: Device) -> None:
    queues: list[Queue] = card.start(EVENT_INDEX)
    receive, _send = queues
    board.put(receive.driver_area + 4 + 2 * receive.size, 2, 1)
    receive.add(2000)
    receive.add(2000)
    board.receive(NET, framed(frame(60)))
    assert card.acknowledge() == 0
    board.receive(NET, framed(frame(60)))
    assert card.acknowledge() == d.INTERRUPT_USED
    board.receive(NET, framed(frame(60)))
    assert board.number(receive.device_area + 4 + 8 * receive.size, 2) == 2, "a frame waits for the third buffer"
