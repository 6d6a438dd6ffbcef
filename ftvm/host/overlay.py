"""Overlays: what a guest wrote to a disk, in a file beside the image that it lies over.

Layout, little-endian, everything at whole pages of 4096 bytes:

    page 0          header, slot 0
    page 1          header, slot 1
    then            two bitmaps, one for each slot: bit n (of byte n // 8, lowest first): block n is in here
    then            the blocks, each at its own place: block n at page n from here on. A sparse file has no others.

Theory of operation. Blocks are written in place, as to a disk. A flush makes them last (fdatasync), then writes the
bitmap and the header to the slot that is *not* the newest, and makes these last: at any moment one of the slots is
whole and tells of blocks that are. What was written since the last flush may be there after a crash, or not, block by
block: that is what a disk with a write cache promises, and file systems are made for it. So equal contents make equal
blocks and bitmaps, whatever the order in which they came.

The header carries a stamp: whose disk this is, and up to which generation and tick it was kept. A machine that arrives
from elsewhere gets a new file, which replaces the old one when all of it is there. So does the first flush of all: what
it replaces is an empty file, which only keeps the place and the lock. A file with something in it has a header.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ftvm.host.disk import DiskError, DiskUnavailable, lock, open_file
from ftvm.machine.board import DiskConfig

BLOCK = 4096
VERSION = 1
MAGIC = b"ftvmover"
SLOTS = 2
NAME_SIZE_MAX = 63
RUN_MAX = 256
"""Blocks that are read or written at once."""

_HEADER = struct.Struct("<8sIIQ16sQQQB64pQ")
"""magic, version, block size, image size, image hash, sequence, generation, tick, is clean, machine, bitmap's hash"""

Write = tuple[int, bytes | None]
"""Byte offset of a block, and what it holds now; None: the image's block again."""


@dataclass(frozen=True, slots=True)
class OverlayStamp:
    """`is_clean`: nothing of this machine came after it, for it was powered off."""

    machine: str
    generation: int = 0
    tick: int = 0
    is_clean: bool = False


class Overlay:
    """One overlay's file, open and locked. Made by `open_overlay`. Any method raises `DiskError` if the disk under it
    fails or is full; the file is then as after its last flush."""

    def __init__(self, path: Path, fd: int, disk: DiskConfig, stamp: OverlayStamp) -> None:
        self.path = path
        self.stamp = stamp
        self._disk = disk
        self._blocks = -(-disk.size // BLOCK)
        self._bitmap = bytearray(-(-self._blocks // 8))
        self._bitmap_pages = -(-len(self._bitmap) // BLOCK)
        self._data_at = (SLOTS + SLOTS * self._bitmap_pages) * BLOCK
        self._sequence = 0
        self._fd = fd
        self._replaced_fd = -1
        self._told = (b"", stamp)
        """What the newest header on disk says."""

    @property
    def is_new(self) -> bool:
        """Nothing was ever flushed to it."""
        return self._sequence == 0

    @property
    def blocks(self) -> int:
        """So many are in it."""
        return int.from_bytes(self._bitmap).bit_count()

    # ---- reading

    def load(self) -> None:
        """Take over what the file says. Raises `DiskError` when it cannot be this disk's."""
        best: tuple[int, bytes, OverlayStamp] | None = None
        for slot in range(SLOTS):
            found = self._read_slot(slot)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            raise DiskError(f"{self.path}: damaged, or no overlay; remove it if what it holds may be lost")
        size = os.fstat(self._fd).st_size
        if size < self._size:
            raise DiskError(
                f"{self.path}: cut off: it has {size} bytes of {self._size}; restore it, or remove it if what the"
                " guest wrote may be lost"
            )
        self._sequence, bitmap, self.stamp = best
        self._bitmap = bytearray(bitmap)
        self._told = (bitmap, self.stamp)

    @property
    def _size(self) -> int:
        return self._data_at + self._blocks * BLOCK

    def _read_slot(self, slot: int) -> tuple[int, bytes, OverlayStamp] | None:
        page = self._read_at(slot * BLOCK, BLOCK)
        body, checksum = page[: _HEADER.size], page[_HEADER.size : _HEADER.size + 8]
        if len(page) < BLOCK or page[:8] != MAGIC or xxhash.xxh3_64_digest(body) != checksum:
            return None
        _, version, block, size, image_hash, sequence, generation, tick, clean, name, bitmap_hash = _HEADER.unpack(body)
        if (version, block) != (VERSION, BLOCK):
            raise DiskError(f"{self.path}: of format {version}, and {VERSION} is read here; use the ftvm that made it")
        if size != self._disk.size:
            word = "shorter" if self._disk.size < size else "longer"
            raise DiskError(
                f"{self.path}: its image had {size} bytes, and is {word} now ({self._disk.size}): put the old image"
                " back, or remove the overlay if what the guest wrote may be lost"
            )
        if image_hash != self._disk.image_hash:
            raise DiskError(
                f"{self.path}: lies over another image, of the same size: put that one back, or remove the overlay if"
                " what the guest wrote may be lost"
            )
        bitmap = self._read_at(self._bitmap_at(slot), len(self._bitmap))
        if xxhash.xxh3_64_intdigest(bitmap) != bitmap_hash:
            return None
        return sequence, bitmap, OverlayStamp(name.decode("ascii", "replace"), generation, tick, bool(clean))

    def _bitmap_at(self, slot: int) -> int:
        return (SLOTS + slot * self._bitmap_pages) * BLOCK

    def read(self) -> Iterator[tuple[int, bytes]]:
        """All blocks, ascending, neighbours together: byte offset on the disk, and contents."""
        for first, last in self._runs(self._numbers()):
            data = self._read_at(self._data_at + first * BLOCK, (last - first) * BLOCK)
            if len(data) != (last - first) * BLOCK:
                raise DiskError(f"{self.path}: cut off within block {first + len(data) // BLOCK}")
            yield first * BLOCK, data

    def _read_at(self, offset: int, size: int) -> bytes:
        """As much of it as there is."""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise DiskUnavailable(f"{self.path}: cannot be read: {error.strerror}; restore it from elsewhere") from None

    def _numbers(self) -> Iterator[int]:
        for index, byte in enumerate(self._bitmap):
            if byte:
                yield from (8 * index + bit for bit in range(8) if byte >> bit & 1)

    @staticmethod
    def _runs(numbers: Iterator[int]) -> Iterator[tuple[int, int]]:
        """Neighbours together: (first, one after the last)."""
        first = last = -1
        for number in numbers:
            if number == last and last - first < RUN_MAX:
                last += 1
                continue
            if first >= 0:
                yield first, last
            first, last = number, number + 1
        if first >= 0:
            yield first, last

    # ---- writing

    def begin(self) -> None:
        """Another machine's disk: what is written from here on goes to a new file, which takes the place of the old one
        at the first flush."""
        if self._replaced_fd < 0:
            fd = open_file(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self._replaced_fd, self._fd = self._fd, fd
            lock(fd, fcntl.LOCK_EX, f"{self._temporary}: is in use by another machine; end that one first")
        else:
            self._cut_off()
        self._bitmap = bytearray(len(self._bitmap))
        self._sequence = 0
        self._told = (b"", self.stamp)

    def _begin_if_new(self) -> None:
        if self.is_new and self._replaced_fd < 0:
            self.begin()

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def write(self, writes: Sequence[Write]) -> None:
        """Ascending. Lasts once `flush` has returned."""
        self._begin_if_new()
        kept: dict[int, bytes] = {}
        for offset, data in writes:
            number = offset // BLOCK
            assert offset % BLOCK == 0, offset
            assert 0 <= number < self._blocks, number
            if data is None:
                self._bitmap[number // 8] &= 0xFF ^ 1 << number % 8
            else:
                self._bitmap[number // 8] |= 1 << number % 8
                kept[number] = data
        for first, last in self._runs(iter(kept)):
            self._write_at(self._data_at + first * BLOCK, b"".join(kept[number] for number in range(first, last)))

    def flush(self, stamp: OverlayStamp | None = None) -> None:
        """Everything written lasts when this returns. `stamp` is what the header says from here on."""
        self._begin_if_new()
        if stamp is not None:
            self.stamp = stamp
        try:
            os.fdatasync(self._fd)
            told = (bytes(self._bitmap), self.stamp)
            if told != self._told or self.is_new:
                self._write_header()
                os.fdatasync(self._fd)
                self._told = told
            if self._replaced_fd >= 0:
                self._temporary.replace(self.path)
                _sync_folder(self.path.parent)
                os.close(self._replaced_fd)
                self._replaced_fd = -1
        except OSError as error:
            raise self._failed(error) from None

    def _cut_off(self) -> None:
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise self._failed(error) from None

    def _write_header(self) -> None:
        sequence = self._sequence + 1
        slot = sequence % SLOTS
        if self.is_new:
            os.ftruncate(self._fd, self._size)
        self._write_at(self._bitmap_at(slot), bytes(self._bitmap))
        stamp = self.stamp
        body = _HEADER.pack(
            MAGIC,
            VERSION,
            BLOCK,
            self._disk.size,
            self._disk.image_hash,
            sequence,
            stamp.generation,
            stamp.tick,
            stamp.is_clean,
            stamp.machine.encode(),
            xxhash.xxh3_64_intdigest(bytes(self._bitmap)),
        )
        os.fdatasync(self._fd)
        self._write_at(slot * BLOCK, (body + xxhash.xxh3_64_digest(body)).ljust(BLOCK, b"\0"))
        self._sequence = sequence

    def _write_at(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> DiskUnavailable:
        return DiskUnavailable(f"{self.path}: cannot be written: {error.strerror}; make room there, and start again")

    def close(self) -> None:
        """What was not flushed may be lost. A file that nothing was flushed to is removed again."""
        if self.is_new:
            old_fd = self._replaced_fd
            if old_fd >= 0:
                self._temporary.unlink(missing_ok=True)
            if old_fd < 0 or os.fstat(old_fd).st_size == 0:
                self.path.unlink(missing_ok=True)
        os.close(self._fd)
        if self._replaced_fd >= 0:
            os.close(self._replaced_fd)
        self._fd = self._replaced_fd = -1


def open_overlay(path: Path, disk: DiskConfig, machine: str) -> Overlay:
    """The overlay at `path` for this disk of `machine`, made if there is none. Raises `DiskError`: it is in use, lies
    over another image, is damaged, or another machine's."""
    stamp = OverlayStamp(machine[:NAME_SIZE_MAX])
    fd = _open_locked(path)
    try:
        overlay = Overlay(path, fd, disk, stamp)
        if os.fstat(fd).st_size:
            overlay.load()
            if overlay.stamp.machine != stamp.machine:
                raise DiskError(
                    f"{path}: is of machine {overlay.stamp.machine!r}, not of {machine!r}; give each its own"
                )
    except BaseException:
        os.close(fd)
        raise
    return overlay


def read_stamp(path: Path, disk: DiskConfig, machine: str) -> OverlayStamp | None:
    """What the overlay at `path` was kept up to; None where there is none. Raises `DiskError` as `open_overlay`."""
    if not path.exists():
        return None
    overlay = open_overlay(path, disk, machine)
    stamp = None if overlay.is_new else overlay.stamp
    overlay.close()
    return stamp


def _open_locked(path: Path) -> int:
    while True:
        fd = open_file(path, os.O_RDWR | os.O_CREAT)
        try:
            lock(fd, fcntl.LOCK_EX, f"{path}: in use by another machine, which writes to this disk; end that one first")
            # Whoever held it may have put another file in its place meanwhile.
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
