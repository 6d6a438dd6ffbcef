"""A machine on its way to another host while its guest runs.

Theory of operation. The memory goes first, page by page, between slices of the guest; a page that the guest writes
after it was taken is found by its dirty bit and taken again, in rounds, each of which has less to do than the one
before. At the end, with the guest at rest, what is still dirty goes, and the state array. Both sides keep a hash for
each page of what the *receiver* has, beginning with what it had of an older life: a page whose hash is the same
is not sent, so a node that returns gets only what changed, and a copy that broke off goes on where it was.

The last record carries the sender's digest of the whole machine. The receiver hashes all of its own memory anew and
compares: nothing that was assembled wrong, by whatever fault, is ever run.

A chunk and the last record, little-endian, each begin

    magic 4 | format version u8 | round u8 | zero pages u16 | pages u16 | reverted pages u16 | xxh3-64 of what follows

and go on, a chunk with the numbers (u32) of pages that became zero, those of disks' pages that are their image's, those
of the others, each ascending, and the contents of these; the last record with `_END`, and the state array. Pages are
not compressed: zlib's fastest level takes 10 ms for each MB, several times what the network takes, and zero pages cost
four bytes as it is.

What comes from a peer is not believed: the only error is SnapshotError.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from ftvm.errors import SnapshotError
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine
from ftvm.machine.memory import HASH_WORDS, PAGE, UNTOUCHED, ZERO_HASH
from ftvm.machine.snapshot import check_state

VERSION = 2
"""Goes up when the layout above or that of the state array changes."""
HASH_SIZE = 8 * HASH_WORDS
CHUNK_PAGES_MAX = 64
CHUNK_ZEROS_MAX = 4096
ROUND_MAX = 255

_CHUNK, _LAST = b"ftvc", b"ftve"
_HEAD = struct.Struct("<4sBBHHHQ")
_END = struct.Struct("<16sII")


@dataclass(frozen=True, slots=True)
class TransferStatistics:
    """Of one copy, on either side. `pages` were sent with their contents, `pages_zero` without; `pages_kept` the
    receiver had already."""

    rounds: int
    bytes: int
    pages: int
    pages_zero: int
    pages_kept: int
    pause_us: int


def page_hashes(machine: Machine) -> bytes:
    """HASH_SIZE bytes for each page, from its contents as they are now; nothing if all of them are zero."""
    return machine._memory.rehash()


class Outgoing:
    """The sender's side of one copy. The guest must be at rest during each call, and may run between them."""

    def __init__(self, machine: Machine, inventory: bytes) -> None:
        """`inventory` is the receiver's `page_hashes`. SnapshotError if it cannot be one."""
        memory = machine._memory
        if inventory and len(inventory) != memory.pages * HASH_SIZE:
            raise SnapshotError(f"an inventory of {len(inventory)} bytes is not one of {memory.pages} pages")
        self._machine = machine
        self._memory = memory
        self._theirs = memory.initial_hashes()
        if inventory:
            self._theirs = np.frombuffer(inventory, np.uint64).reshape(memory.pages, HASH_WORDS).copy()
        self._sent = np.zeros(memory.pages, np.bool_)
        memory.take_dirty(c.DIRTY_SNAPSHOT)
        first = memory.disk_pages[0]
        theirs = np.flatnonzero((self._theirs[first:] != UNTOUCHED).any(axis=1)) + first
        disks = np.union1d(theirs, np.array(memory.written_pages(), np.int64))
        self._pending: Sequence[int] = [*range(first), *disks.tolist()]
        self._at = 0
        self.round = 1
        self._bytes = self._pages = self._zeros = 0

    @property
    def left(self) -> int:
        """Pages that this round has still to look at."""
        return len(self._pending) - self._at

    def take(self, pages_max: int) -> list[bytes]:
        """Look at the next so many pages of this round; returns chunks with those that the receiver has not."""
        numbers = np.array(self._pending[self._at : self._at + pages_max], np.int64)
        self._at += len(numbers)
        hashes = self._memory.hash_pages(numbers.tolist())
        differs = (hashes != self._theirs[numbers]).any(axis=1)
        numbers, hashes = numbers[differs], hashes[differs]
        self._theirs[numbers] = hashes
        self._sent[numbers] = True
        is_zero, is_image = ((hashes == mark).all(axis=1) for mark in (ZERO_HASH, UNTOUCHED))
        zeros, images, full = numbers[is_zero], numbers[is_image], numbers[~(is_zero | is_image)]
        none = full[:0]
        chunks = [self._chunk(part, none, none) for part in _parts(zeros, CHUNK_ZEROS_MAX)]
        chunks += [self._chunk(none, part, none) for part in _parts(images, CHUNK_ZEROS_MAX)]
        chunks += [self._chunk(none, none, part) for part in _parts(full, CHUNK_PAGES_MAX)]
        return chunks

    def next_round(self) -> int:
        """Begin the next round; returns how many pages the guest has written since the last one began."""
        assert not self.left, "this round is not over"
        self._pending, self._at = self._memory.take_dirty(c.DIRTY_SNAPSHOT), 0
        self.round = min(self.round + 1, ROUND_MAX)
        return self.left

    def end(self, pause_us: int) -> bytes:
        """The last record, once `next_round` found nothing left; `pause_us` is how long the guest has been at rest."""
        assert not self.left, "not all was taken"
        state = self._memory.state
        digest = self._machine.digest()
        return _record(_LAST, self.round, (0, 0, 0), _END.pack(digest, pause_us, self.kept) + state.tobytes())

    @property
    def kept(self) -> int:
        """Pages that were never sent."""
        return self._memory.pages - int(self._sent.sum())

    def statistics(self, pause_us: int) -> TransferStatistics:
        return TransferStatistics(self.round, self._bytes, self._pages, self._zeros, self.kept, pause_us)

    def _chunk(self, zeros: NDArray[np.int64], images: NDArray[np.int64], full: NDArray[np.int64]) -> bytes:
        numbers = np.concatenate((zeros, images, full)).astype("<u4").tobytes()
        contents = self._memory.bytes.reshape(-1, PAGE)[full].tobytes()
        chunk = _record(_CHUNK, self.round, (len(zeros), len(full), len(images)), numbers + contents)
        self._bytes += len(chunk)
        self._pages += len(full)
        self._zeros += len(zeros) + len(images)
        return chunk


def _parts(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


class Incoming:
    """The receiver's side: puts chunks into the memory of a machine that nobody runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._memory = machine._memory
        self._round = 0
        self._bytes = self._pages = self._zeros = 0

    def collect(self, chunk: bytes) -> None:
        """Raises SnapshotError for what is not a chunk for this machine."""
        number, (zeros, full, images), body = _open(chunk, _CHUNK)
        whole = zeros + images + full
        if zeros + images > CHUNK_ZEROS_MAX or full > CHUNK_PAGES_MAX or len(body) != 4 * whole + PAGE * full:
            raise SnapshotError("a part of the copy has not the size that it says")
        self._round = number
        memory = self._memory
        numbers = np.frombuffer(body, "<u4", whole).astype(np.int64)
        became_zero, became_image, others = np.split(numbers, (zeros, zeros + images))
        for some in (became_zero, became_image, others):
            if len(some) and (some[-1] >= memory.pages or not (np.diff(some) > 0).all()):
                raise SnapshotError("the pages of a part of the copy are not ascending, or go beyond memory")
        if images and became_image[0] < memory.disk_pages[0]:
            raise SnapshotError("a part of the copy takes memory for a disk's image")
        memory.put_pages(became_zero, 0)
        memory.revert(became_image.tolist())
        memory.put_pages(others, np.frombuffer(body, np.uint8, PAGE * full, 4 * whole).reshape(full, PAGE))
        self._bytes += len(chunk)
        self._pages += full
        self._zeros += zeros + images

    def finish(self, record: bytes) -> TransferStatistics:
        """The machine is whole, and the one that was sent. SnapshotError if it is not."""
        number, _, body = _open(record, _LAST)
        if len(body) != _END.size + s.STATE_SIZE * 8:
            raise SnapshotError("the end of the copy has not the size that it should have")
        digest, pause_us, kept = _END.unpack_from(body)
        state = np.frombuffer(body, np.int64, s.STATE_SIZE, _END.size)
        check_state(state, self.machine.board)
        self.machine.replace_state(state)
        page_hashes(self.machine)
        if self.machine.digest() != digest:
            raise CopyDiffers(f"what was copied has the digest {self.machine.digest().hex()}, not {digest.hex()}")
        return TransferStatistics(number, self._bytes, self._pages, self._zeros, kept, pause_us)


class CopyDiffers(SnapshotError):
    """The parts were whole, and yet the machine is another: what the receiver had was not what it said."""


def _record(magic: bytes, number: int, counts: tuple[int, int, int], body: bytes) -> bytes:
    return _HEAD.pack(magic, VERSION, number, *counts, xxhash.xxh3_64_intdigest(body)) + body


def _open(record: bytes, magic: bytes) -> tuple[int, tuple[int, int, int], memoryview]:
    """(round, (zero pages, other pages, reverted pages), body)."""
    if len(record) < _HEAD.size:
        raise SnapshotError("a part of the copy is cut off")
    found, version, number, zeros, full, images, checksum = _HEAD.unpack_from(record)
    if found != magic or version != VERSION:
        raise SnapshotError(f"a part of the copy is {found!r} of format {version}, not {magic!r} of {VERSION}")
    body = memoryview(record)[_HEAD.size :]
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise SnapshotError("a part of the copy is damaged: its checksum is wrong")
    return number, (zeros, full, images), body
