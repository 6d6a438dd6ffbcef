"""Snapshots: the whole state of a machine in one byte string, and back.

    magic 8 | format version u32 | length of the body u64 | xxh3-64 of the body | body

all little-endian; the body is one msgpack array, see `_FIELDS`. Pages that are all zero, and pages of disks that are
their image's, are left out; the others go in chunks of CHUNK_PAGES, each compressed. The image goes along: a reset
starts from it. The disks' images do not: whoever restores the machine has them.

A snapshot may come from a peer or a damaged disk. It is checked before anything is built from it, sizes before they
are allocated, and every index that compiled code follows; the only error is SnapshotError.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from ftvm.errors import ConfigError, SnapshotError
from ftvm.log.entry import LOG_VERSION, TICK_MAX
from ftvm.machine.board import DISK_SIZE_MAX, DISKS_MAX, RAM_BASE, RAM_MIB_MAX, BoardConfig, DiskConfig, NetConfig
from ftvm.machine.hart import state as s
from ftvm.machine.hart.control import DISKS_AT, RING_SIZES

MAGIC = b"ftvmsnap"
VERSION = 2
"""Goes up when the layout below or that of the state array changes."""
PAGE = 4096
CHUNK_PAGES = 256
COMPRESSION_LEVEL = 1
IMAGE_SIZE_MAX = 1 << 30
_HEADER_SIZE = 28
_FIELDS = ("log_version", "board", "image_size", "image", "state", "page_numbers", "chunks")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Parts of a machine: `page_numbers[i]` is where in memory `pages[i]` goes; the rest is zero, or the disk's."""

    board: BoardConfig
    image: bytes
    state: NDArray[np.int64]
    page_numbers: NDArray[np.uint32]
    pages: NDArray[np.uint8]


def encode_snapshot(
    board: BoardConfig,
    image: bytes,
    state: NDArray[np.int64],
    page_numbers: list[int],
    pages: Callable[[int, int], NDArray[np.uint8]],
    wanted: Callable[[], bool] = lambda: True,
) -> bytes:
    """`page_numbers` are ascending; `pages(first, last)` has the contents of page_numbers[first:last]. Takes some 10 ms
    for each MB of them, mostly without the interpreter's lock; SnapshotError as soon as it is not `wanted` any more."""
    chunks = []
    for at in range(0, len(page_numbers), CHUNK_PAGES):
        if not wanted():
            raise SnapshotError("the snapshot is not wanted any more")
        contents = pages(at, min(at + CHUNK_PAGES, len(page_numbers)))
        chunks.append(zlib.compress(contents.tobytes(), COMPRESSION_LEVEL))
    body = msgpack.packb(
        [
            LOG_VERSION,
            _board_fields(board),
            len(image),
            zlib.compress(image, COMPRESSION_LEVEL),
            zlib.compress(state.tobytes(), COMPRESSION_LEVEL),
            np.array(page_numbers, np.uint32).tobytes(),
            chunks,
        ]
    )
    header = MAGIC + VERSION.to_bytes(4, "little") + len(body).to_bytes(8, "little")
    return b"".join((header, xxhash.xxh3_64_intdigest(body).to_bytes(8, "little"), body))


def _board_fields(board: BoardConfig) -> list[object]:
    """RAM, disks as [size, hash of the image, read-only], network card as [mac, mtu] or nothing, console, entropy."""
    disks = [[disk.size, disk.image_hash, disk.read_only] for disk in board.disks]
    net = [] if board.net is None else [board.net.mac.encode(), board.net.mtu]
    return [board.ram_mib, disks, net, board.console, board.entropy]


def _board_of(fields: object) -> BoardConfig:
    if not isinstance(fields, list) or len(fields) != 5:
        raise SnapshotError("the snapshot's board is not one")
    ram_mib, disks, net, console, entropy = fields
    try:
        board = BoardConfig(
            ram_mib=_integer(ram_mib, 1, RAM_MIB_MAX, "RAM size in MiB"),
            disks=tuple(DiskConfig(size, image_hash, read_only) for size, image_hash, read_only in disks),
            net=NetConfig(net[0].decode("ascii"), net[1]) if net else None,
            console=console,
            entropy=entropy,
        )
    except (TypeError, ValueError, AttributeError, IndexError, ConfigError) as error:
        raise SnapshotError(f"the snapshot's board is not one: {error}") from error
    sane = all(type(d.size) is int and type(d.image_hash) is bytes and type(d.read_only) is bool for d in board.disks)
    if not sane or type(console) is not bool or type(entropy) is not bool or _board_fields(board) != fields:
        raise SnapshotError("the snapshot's board is not one")
    return board


def _inflate(data: object, size: int, what: str) -> bytes:
    if not isinstance(data, bytes):
        raise SnapshotError(f"the snapshot's {what} is not bytes")
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise SnapshotError(f"the snapshot's {what} cannot be decompressed: {error}") from error
    if len(plain) != size or not inflater.eof:
        raise SnapshotError(f"the snapshot's {what} has not the {size} bytes that it should have")
    return plain


def _body(data: bytes) -> list[object]:
    if data[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is not a snapshot: it does not start as one")
    version = int.from_bytes(data[8:12], "little")
    if version != VERSION:
        raise SnapshotError(f"the snapshot has format {version}, this program reads {VERSION}")
    body = memoryview(data)[_HEADER_SIZE:]
    if len(data) < _HEADER_SIZE or len(body) != int.from_bytes(data[12:20], "little"):
        raise SnapshotError("the snapshot is cut off or has something after its end")
    if xxhash.xxh3_64_intdigest(body) != int.from_bytes(data[20:28], "little"):
        raise SnapshotError("the snapshot is damaged: its checksum is wrong")
    chunks_max = ((RAM_MIB_MAX << 20) + DISKS_AT + DISKS_MAX * DISK_SIZE_MAX) // PAGE // CHUNK_PAGES + 1
    try:
        fields = msgpack.unpackb(
            body,
            max_array_len=chunks_max,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=0,
            max_bin_len=len(body),
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise SnapshotError(f"the snapshot's body is not what it should be: {error}") from error
    if not isinstance(fields, list) or len(fields) != len(_FIELDS):
        raise SnapshotError(f"the snapshot's body is not an array of {len(_FIELDS)}")
    return fields


def _integer(value: object, low: int, high: int, what: str) -> int:
    if type(value) is not int or not low <= value <= high:
        raise SnapshotError(f"the snapshot's {what} is {value!r:.40}, not from {low} to {high}")
    return value


def decode_snapshot(data: bytes) -> Snapshot:
    """SnapshotError for anything that `encode_snapshot` could not have made of a machine's state."""
    log_version, fields, image_size, image, state, numbers, chunks = _body(data)
    if log_version != LOG_VERSION:
        raise SnapshotError(f"the snapshot is of log version {log_version!r:.40}, this program is of {LOG_VERSION}")
    board = _board_of(fields)
    size = _integer(image_size, 1, IMAGE_SIZE_MAX, "image size")
    image = _inflate(image, size, "image")
    words = np.frombuffer(_inflate(state, s.STATE_SIZE * 8, "machine state"), np.int64)
    check_state(words, board)
    if not isinstance(numbers, bytes) or len(numbers) % 4:
        raise SnapshotError("the snapshot's list of pages is not one")
    page_numbers = np.frombuffer(numbers, np.uint32)
    pages = memory_pages(board)
    if len(page_numbers) and (page_numbers[-1] >= pages or not (np.diff(page_numbers.astype(np.int64)) > 0).all()):
        raise SnapshotError("the snapshot's list of pages is not ascending, or goes beyond memory")
    if not isinstance(chunks, list) or len(chunks) != -(-len(page_numbers) // CHUNK_PAGES):
        raise SnapshotError("the snapshot has not as many chunks as its list of pages asks for")
    parts = [
        _inflate(chunk, min(CHUNK_PAGES, len(page_numbers) - index * CHUNK_PAGES) * PAGE, f"chunk {index}")
        for index, chunk in enumerate(chunks)
    ]
    contents = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, PAGE)
    return Snapshot(board, image, words, page_numbers, contents)


def memory_pages(board: BoardConfig) -> int:
    """How many pages the memory of such a board has, disks included."""
    return ((board.ram_mib << 20) + DISKS_AT) // PAGE + sum(-(-disk.size // PAGE) for disk in board.disks)


def check_state(state: NDArray[np.int64], board: BoardConfig) -> None:
    """Every word that compiled code uses as an index, a count, or a divisor must be in its range."""
    from ftvm.machine.devices import clint, plic, uart
    from ftvm.machine.devices.virtio.slots import check_slots

    ram_bytes = board.ram_mib << 20
    ram_last = RAM_BASE + ram_bytes - 8
    ranges = [
        ("x0", s.X, 0, 0),
        ("tick", s.TICK, 0, TICK_MAX),
        ("number of traps", s.NOT_RETIRED, 0, TICK_MAX),
        ("WFI flag", s.WAITING, 0, 1),
        ("halt", s.HALT_HOW, 0, s.HALT_SBI),
        ("clock tick", clint.CLOCK_TICK, 0, int(state[s.TICK])),
        ("clock base", clint.CLOCK_BASE, 0, 1 << 62),
        ("clock rate", clint.CLOCK_RATE, 0, 1 << 48),
        ("clock ceiling", clint.CLOCK_ROOM, 0, 1 << 62),
        ("time that the timer sees", clint.CLOCK_SEEN, 0, 1 << 62),
        ("UART FIFO count", uart.FIFO_COUNT, 0, uart.FIFO_SIZE),
        ("UART input offset", uart.INPUT_OFFSET, 0, TICK_MAX),
        ("UART output offset", uart.OUTPUT_OFFSET, 0, TICK_MAX),
        ("fcsr", s.FCSR, 0, 0xFF),
        ("firmware flag", s.FIRMWARE, 0, 1),
    ]
    ranges += [("PLIC's sources", word, 0, 0xFFFF_FFFF) for word in range(plic.PENDING, plic.THRESHOLD)]
    ranges += [
        ("PLIC's priorities", word, 0, plic.PRIORITY_MASK)
        for word in range(plic.THRESHOLD, plic.PRIORITY + plic.SOURCES)
    ]
    for stream in range(s.STREAMS):
        at = s.STREAM_AT + stream * s.STREAM_WORDS
        ranges += [
            ("stream's input offset", at + s.STREAM_INPUT, 0, TICK_MAX),
            ("stream's output offset", at + s.STREAM_OUTPUT, 0, TICK_MAX),
        ]
        held = int(state[at + s.STREAM_INPUT]) - int(state[at + s.STREAM_TAKEN])
        if int(state[at + s.STREAM_TAKEN]) < 0 or not 0 <= held <= RING_SIZES[stream]:
            raise SnapshotError("the snapshot has more input for a stream than there can be")
    for what, index, low, high in ranges:
        if not low <= int(state[index]) <= high:
            raise SnapshotError(f"the snapshot's {what} is {int(state[index])}, not from {low} to {high}")
    waiting = int(state[uart.INPUT_OFFSET]) - int(state[uart.BACKLOG_TAKEN])
    if int(state[uart.BACKLOG_TAKEN]) < 0 or not 0 <= waiting <= uart.BACKLOG_SIZE:
        raise SnapshotError("the snapshot's UART backlog is not one")
    if int(state[s.PRIV]) not in (s.USER, s.SUPERVISOR, s.MACHINE):
        raise SnapshotError(f"the snapshot's privilege mode is {int(state[s.PRIV])}")
    mstatus = int(state[s.MSTATUS])
    if mstatus & ~s.MSTATUS_WRITABLE or mstatus & s.MSTATUS_MPP == 2 << 11:
        # An MRET to the mode that does not exist would use a TLB that does not exist.
        raise SnapshotError(f"the snapshot's mstatus is {mstatus:#x}, which no write leaves there")
    check_slots(state, board, ram_bytes)
    for index in (s.TOHOST, s.FROMHOST):
        address = int(state[index])
        if address and not (RAM_BASE <= address <= ram_last and address % 8 == 0):
            raise SnapshotError(f"the snapshot has HTIF at {address:#x}, which is not in RAM")
