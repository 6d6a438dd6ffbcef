"""The block device: virtio 1.2, section 5.2."""

import pytest

from ftvm.machine.board import BoardConfig, DiskConfig
from ftvm.machine.devices.virtio import block
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio.driver import (
    CONFIG,
    DISK_BYTES,
    DISK_SLOT,
    INDIRECT_DESC,
    LOCKED_SLOT,
    Board,
    Device,
    Queue,
    pattern,
)

OK, IO_ERROR, UNSUPPORTED = b"\0", b"\1", b"\2"


def header(kind: int, sector: int = 0) -> bytes:
    return kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def disk(board: Board) -> Queue:
    return Device(board, DISK_SLOT).start()[0]


def test_its_configuration_says_how_large_it_and_its_requests_are(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    assert device.read(CONFIG, 8) == DISK_BYTES // 512
    assert device.read(CONFIG + 8) * device.read(CONFIG + 12) == block.REQUEST_SIZE_MAX
    assert device.read(CONFIG + 20) == 512
    assert Device(board, LOCKED_SLOT).offered & ~device.offered == block.FEATURE_READ_ONLY


@pytest.mark.parametrize("indirect", [False, True])
def test_reads_sectors_into_buffers_however_they_are_cut(board: Board, indirect: bool) -> None:
    disk = Device(board, DISK_SLOT).start(INDIRECT_DESC)[0]
    data = disk.run(header(block.IN, 3)[:5], header(block.IN, 3)[5:], 1, 700, 323, 1, indirect=indirect)
    assert data == pattern(3 * 512, 1024) + OK


def test_writes_sectors_and_marks_their_pages(board: Board, disk: Queue) -> None:
    board.memory.flags[:] = 0
    first = board.memory.disk_pages[0]
    payload = bytes(range(256)) * 4
    assert disk.run(header(block.OUT, 7), payload[:100], payload[100:], 1) == OK
    assert board.disk().tobytes() == pattern(0, 7 * 512) + payload
    marked = c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN
    assert board.memory.flags[first : first + 3].tolist() == [marked, marked, 0], "it straddles two pages"
    assert disk.run(header(block.IN, 8), 512, 1) == payload[512:] + OK


def test_what_is_read_makes_ram_dirty_and_ends_a_reservation(board: Board, disk: Queue) -> None:
    disk.add(header(block.IN), 512, 1)
    place = disk.places[0][0][0]
    board.memory.flags[:] = 0
    board.state[s.RESERVATION] = place & ~7
    disk.notify()
    assert board.memory.flags[(place - 0x8000_0000) >> 12] == c.DIRTY_ALL
    assert board.state[s.RESERVATION] == -1


@pytest.mark.parametrize(
    ("kind", "sector", "size"),
    [
        (block.IN, 9, 512),
        (block.IN, 8, 1024),
        (block.IN, (1 << 64) - 1, 512),
        (block.IN, 1 << 55, 512),
        (block.IN, 0, 511),
        (block.OUT, 9, 512),
        (block.OUT, (1 << 63) + 1, 512),
        (block.OUT, 0, 513),
    ],
)
def test_requests_that_are_not_on_the_disk_are_errors(
    board: Board, disk: Queue, kind: int, sector: int, size: int
) -> None:
    before = board.memory.bytes[board.memory.ram_bytes :].copy()
    if kind == block.IN:
        assert disk.run(header(kind, sector), size, 1) == bytes(size) + IO_ERROR
    else:
        assert disk.run(header(kind, sector), bytes(size), 1) == IO_ERROR
    assert (board.memory.bytes[board.memory.ram_bytes :] == before).all()
    board.check_guards()


def test_a_request_has_at_most_as_many_bytes_as_was_announced() -> None:
    board = Board(BoardConfig(ram_mib=4, disks=(DiskConfig(4 << 20, bytes(16)),)))
    disk = Device(board, 0).start()[0]
    for size, status in ((block.REQUEST_SIZE_MAX, 0), (block.REQUEST_SIZE_MAX + 512, 1)):
        disk.board.store(disk.base + 0x4000, header(block.IN))
        disk.descriptor(0, disk.base + 0x4000, 16, 1, 1)
        disk.descriptor(1, disk.base + 0x8_0000, size, 3, 2)
        disk.descriptor(2, disk.base + 0x5000, 1, 2)
        disk.offer(0)
        disk.notify()
        assert board.load(disk.base + 0x5000, 1)[0] == status


def test_a_read_only_disk_is_read_and_not_written(board: Board) -> None:
    disk = Device(board, LOCKED_SLOT).start()[0]
    assert disk.run(header(block.IN, 1), 512, 1) == pattern(512, 512) + OK
    assert disk.run(header(block.OUT, 1), bytes(512), 1) == IO_ERROR
    zeroes = (0).to_bytes(8, "little") + (1).to_bytes(4, "little") + bytes(4)
    assert disk.run(header(block.WRITE_ZEROES), zeroes, 1) == IO_ERROR
    assert board.disk(1).tobytes() == pattern(0, DISK_BYTES)


def test_a_flush_asks_the_host(board: Board) -> None:
    disk = Device(board, DISK_SLOT).start(block.FEATURE_FLUSH)[0]
    assert disk.run(header(block.OUT), bytes(512), 1) == OK
    assert disk.run(header(block.WRITE_ZEROES), zero_range(0, 1), 1) == OK
    assert (board.control[c.FLUSH_WANTED], board.control[c.WANTS]) == (0, 0)
    assert disk.run(header(block.FLUSH), 1) == OK
    assert (board.control[c.FLUSH_WANTED], board.control[c.WANTS]) == (1, 1)


@pytest.mark.parametrize("kind", [block.OUT, block.WRITE_ZEROES])
@pytest.mark.parametrize("features_ok", [False, True])
def test_a_write_of_a_driver_that_does_not_flush_is_a_flush(board: Board, kind: int, features_ok: bool) -> None:
    features = 0 if features_ok else block.FEATURE_FLUSH
    disk = Device(board, DISK_SLOT).start(features, version_1=False, features_ok=features_ok)[0]
    assert len(disk.run(header(block.IN), 512, 1)) == 513
    data, bad = (bytes(512), bytes(511)) if kind == block.OUT else (zero_range(0, 1), zero_range(9, 1))
    assert disk.run(header(kind), bad, 1) == IO_ERROR
    assert (board.control[c.FLUSH_WANTED], board.control[c.WANTS]) == (0, 0)
    assert disk.run(header(kind), data, 1) == OK
    assert (board.control[c.FLUSH_WANTED], board.control[c.WANTS]) == (1, 1)


@pytest.mark.parametrize("slot", [DISK_SLOT, LOCKED_SLOT])
def test_it_says_its_name(board: Board, slot: int) -> None:
    disk = Device(board, slot).start()[0]
    name = f"ftvm-disk{slot}".encode()
    assert disk.run(header(block.GET_ID), 20, 1) == name.ljust(20, b"\0") + OK
    assert disk.run(header(block.GET_ID), 25, 1) == name.ljust(20, b"\0") + bytes(5) + OK
    assert disk.run(header(block.GET_ID), 4, 1) == name[:4] + OK


def zero_range(sector: int, sectors: int, flags: int = 0) -> bytes:
    return b"".join(n.to_bytes(size, "little") for n, size in ((sector, 8), (sectors, 4), (flags, 4)))


def test_write_zeroes(board: Board, disk: Queue) -> None:
    assert disk.run(header(block.WRITE_ZEROES), zero_range(2, 3, 1), 1) == OK
    assert board.disk().tobytes() == pattern(0, 1024) + bytes(1536) + pattern(2560, DISK_BYTES - 2560)
    assert disk.run(header(block.WRITE_ZEROES), zero_range(7, 3), 1) == IO_ERROR
    assert disk.run(header(block.WRITE_ZEROES), zero_range(0, 0xFFFFFFFF), 1) == IO_ERROR
    assert disk.run(header(block.WRITE_ZEROES), zero_range(0, 1, 2), 1) == UNSUPPORTED
    assert disk.run(header(block.WRITE_ZEROES), zero_range(0, 1) * 2, 1) == UNSUPPORTED
    board.check_guards()


@pytest.mark.parametrize("kind", [2, 5, 7, 11, 0xFFFFFFFF])
def test_other_requests_are_not_supported(disk: Queue, kind: int) -> None:
    assert disk.run(header(kind), 1) == UNSUPPORTED


@pytest.mark.parametrize("buffers", [(bytes(15), 1), (header(block.FLUSH),), (16, 1)])
def test_a_request_without_header_or_status_breaks_the_device(board: Board, buffers: tuple[bytes | int, ...]) -> None:
    device = Device(board, DISK_SLOT)
    disk = device.start()[0]
    disk.add(*buffers)
    disk.notify()
    assert device.needs_reset
    assert disk.done() == []
    assert device.acknowledge() == d.INTERRUPT_CONFIG


def test_several_requests_are_done_in_order_with_one_interrupt(board: Board) -> None:
    device = Device(board, DISK_SLOT)
    disk = device.start()[0]
    disk.add(header(block.OUT), b"a" * 512, 1, head=0)
    disk.add(header(block.IN), 512, 1, head=4)
    disk.add(header(block.OUT), b"b" * 512, 1, head=8)
    disk.notify()
    assert [(head, written, data[:1]) for head, written, data in disk.done()] == [
        (0, 1, OK),
        (4, 513, b"a"),
        (8, 1, OK),
    ]
    assert board.disk()[:512].tobytes() == b"b" * 512
    assert board.interrupts() == 1 << 1
    assert device.acknowledge() == d.INTERRUPT_USED
    assert device.read(0x60) == 0
