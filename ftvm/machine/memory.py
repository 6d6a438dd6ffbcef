"""The arrays that a machine is made of, and the digest over what of it the guest can see.

Memory is one array: RAM, the ROM page, pages that belong to devices, and the disks. A disk's pages are those of its
image until the guest writes them (PAGE_WRITTEN); only then do they count as state: an untouched page is neither hashed
nor saved nor sent, for whoever has the image has it too.

The digest hashes every page (xxh3, 128 bits), keeps the hashes, and renews those of pages that the kernel marked
dirty; the machine's digest is the hash over all of them and the state array. A bit that flipped in a page that nobody
writes is found by `scrub`, which renews the others too, round and round.
"""

import mmap
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ftvm.machine.board import DiskConfig
from ftvm.machine.devices.uart import OUT_WORDS
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s

PAGE = 4096
SCRUB_WINDOW = 1 << 16
"""Pages of disks that are looked through at once for those that were written."""

HASH_WORDS = 2
ZERO_HASH: NDArray[np.uint64] = np.frombuffer(xxhash.xxh3_128_digest(bytes(PAGE)), np.uint64)
"""Of a page that is all zero."""

UNTOUCHED: NDArray[np.uint64] = np.zeros(HASH_WORDS, np.uint64)
"""Stands for the hash of a disk's page that is the image's."""

_MAP_NORESERVE = 0x4000
"""Not in Python's mmap module; asm-generic/mman-common.h: the same wherever numba runs."""

KEPT_FLAGS = c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN
"""What page flags say of the contents; the others serve the kernel's caches."""


class DiskBacking(Protocol):
    """The image of a disk, which never changes."""

    @property
    def config(self) -> DiskConfig: ...

    def place(self, memory: NDArray[np.uint8], offset: int) -> None:
        """Make the image's bytes from `offset` on appear in `memory`, whole pages, and zeros after the image's end.

        What is written to `memory` afterwards does not reach the image.
        """


def _zeros(size: int) -> NDArray[np.uint8]:
    """In large pages where the kernel has them: to fill small ones, most of the time goes into their faults, and a
    process that has many of them takes long to die, with its sockets open. Nothing is reserved: a disk may be larger
    than the host's memory, of which it takes what the guest writes."""
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    with suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, np.uint8)


class Memory:
    """RAM and ROM, machine state, and the kernel's own arrays, tied together by the control array."""

    def __init__(self, ram_bytes: int, disks: Sequence[DiskBacking] = ()) -> None:
        self.ram_bytes = ram_bytes
        self.disks = tuple(disks)
        sizes = [-(-disk.config.size // PAGE) for disk in disks]
        self.device_page = (ram_bytes + c.DEVICE_AT) // PAGE
        self.disk_pages: tuple[int, ...] = tuple(accumulate(sizes, initial=(ram_bytes + c.DISKS_AT) // PAGE))
        """The first page of each disk, and one after the last."""
        self.pages = self.disk_pages[-1]
        self.bytes = _zeros(self.pages * PAGE)
        self.state = np.zeros(s.STATE_SIZE, np.int64)
        self.outputs = np.zeros(OUT_WORDS, np.int64)
        self.control = np.zeros(c.CONTROL_SIZE, np.int64)
        self.flags: NDArray[np.uint8] = np.zeros(self.pages, np.uint8)
        self._code = np.zeros(c.SCRATCH_WORDS + c.SLOTS_MAX * c.SLOT_WORDS, np.uint64)
        self._fetch = np.full(c.FETCH_CONTEXTS * c.TLB_WORDS * c.FETCH_TLB_ENTRIES, -1, np.int64)
        self._tlb = np.full(c.DATA_CONTEXTS * c.TLB_WORDS * c.DATA_TLB_ENTRIES, -1, np.int64)
        self._page_walk = np.zeros(self.pages, np.int64)
        self._page_slot = np.full(self.pages, -1, np.int64)
        self._chain = np.zeros(c.CHAIN_WORDS, np.int64)
        self._slots = np.full((3, c.SLOTS_MAX), -1, np.int64)
        self._hashes = self.initial_hashes()
        self._scrubbed = 0
        self.round_pages = self.disk_pages[0]
        """How many pages `scrub` has to renew to have seen each once: those of disks as counted in its last round."""
        self._round_seen = 0
        self.stream_outputs = [_zeros(size) for size in c.STREAM_OUT_SIZES]
        pointers: dict[int, Any] = {
            c.STATE_POINTER: self.state,
            c.MEMORY_POINTER: self.bytes,
            c.CODE_POINTER: self._code,
            c.FETCH_TLB_POINTER: self._fetch,
            c.DATA_TLB_POINTER: self._tlb,
            c.PAGE_SLOT_POINTER: self._page_slot,
            c.PAGE_WALK_POINTER: self._page_walk,
            c.PAGE_FLAGS_POINTER: self.flags,
            c.SLOT_PAGE_POINTER: self._slots[0],
            c.SLOT_HITS_POINTER: self._slots[1],
            c.SLOT_FREE_POINTER: self._slots[2],
            c.OUTPUTS_POINTER: self.outputs,
            c.CHAIN_POINTER: self._chain,
        }
        for index, array in pointers.items():
            self.control[index] = array.ctypes.data
        for stream, buffer in enumerate(self.stream_outputs):
            self.control[c.STREAM_OUT_POINTER + stream] = buffer.ctypes.data
        self.control[c.RAM_BYTES] = ram_bytes
        for number, disk in enumerate(self.disks):
            disk.place(self.bytes[self.disk_offset(number) : self.disk_pages[number + 1] * PAGE], 0)

    def disk_offset(self, number: int) -> int:
        """Where in memory the disk's first byte is."""
        return self.disk_pages[number] * PAGE

    def ring(self, stream: int) -> NDArray[np.uint8]:
        """Input that waits for the guest; whoever writes to it calls the kernel afterwards."""
        begin = self.ram_bytes + c.DEVICE_AT + sum(c.RING_SIZES[:stream])
        end = begin + c.RING_SIZES[stream]
        self.flags[begin // PAGE : end // PAGE] |= c.DIRTY_ALL
        return self.bytes[begin:end]

    def flush_data_tlb(self) -> None:
        """Due whenever a page flag is cleared from outside: fast stores rely on the flags that were set."""
        self._tlb[:] = -1

    def flush_caches(self) -> None:
        """Forget TLBs and decoded code. Never shows in the machine's state; costs time."""
        self.flush_data_tlb()
        self._fetch[:] = -1
        self._page_slot[:] = -1
        self._slots[:] = -1
        self.control[c.SLOTS_USED] = 0
        self.control[c.SLOTS_FREE] = 0

    def write(self, offset: int, data: bytes) -> None:
        """From outside the guest: at load and reset. Caches must be flushed afterwards."""
        if data:
            self.bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            self.flags[offset // PAGE : (offset + len(data) - 1) // PAGE + 1] |= c.DIRTY_ALL

    def clear(self) -> None:
        """RAM and ROM all zero, as at power-on."""
        self._zero(self._nonzero(0, self.device_page))

    def wipe(self) -> None:
        """Everything as in a machine that nothing has happened to: disks are their images again."""
        self._zero(self._nonzero(0, self.disk_pages[0]))
        self.revert(self.written_pages())

    def _zero(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.bytes[page * PAGE : (page + 1) * PAGE] = 0
            self.flags[page] |= c.DIRTY_ALL
        self.forget_cached()

    def forget_cached(self) -> None:
        """Keep of the page flags only what tells of contents."""
        self.flags &= KEPT_FLAGS
        self.flush_caches()

    def revert(self, pages: Sequence[int]) -> None:
        """These pages of disks are the image's again."""
        for page in pages:
            number = bisect_right(self.disk_pages, page) - 1
            at = page * PAGE
            self.disks[number].place(self.bytes[at : at + PAGE], at - self.disk_offset(number))
        self.flags[np.array(pages, np.int64)] = c.DIRTY_ALL | c.DIRTY_FILE

    def put_pages(self, pages: NDArray[np.integer[Any]], contents: NDArray[np.uint8] | int) -> None:
        """From outside: these pages have `contents` now (one row each, or a byte that fills them all)."""
        self.bytes.reshape(-1, PAGE)[pages] = contents
        self.flags[pages] |= c.DIRTY_ALL
        self.flags[pages[pages >= self.disk_pages[0]]] |= c.DIRTY_FILE | c.PAGE_WRITTEN

    def written_pages(self) -> list[int]:
        """Of all disks: those that are not the image's any more."""
        first = self.disk_pages[0]
        written: list[int] = (np.flatnonzero(self.flags[first:] & c.PAGE_WRITTEN) + first).tolist()
        return written

    def saved_pages(self) -> list[int]:
        """Ascending: all that make up the machine's contents, beside zeros and the images of its disks."""
        return self._nonzero(0, self.disk_pages[0]) + self.written_pages()

    def _nonzero(self, begin: int, end: int) -> list[int]:
        words = self.bytes.view(np.uint64)
        nonzero: list[int] = []
        chunk = 4096
        for first in range(begin, end, chunk):
            last = min(first + chunk, end)
            block = words[first * PAGE // 8 : last * PAGE // 8].reshape(last - first, PAGE // 8)
            nonzero += (np.flatnonzero(block.any(axis=1)) + first).tolist()
        return nonzero

    def copy_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        """One row for each."""
        copy = _zeros(len(pages) * PAGE).reshape(-1, PAGE)
        np.take(self.bytes.reshape(-1, PAGE), pages, axis=0, out=copy)
        return copy

    def take_dirty(self, consumer: int) -> list[int]:
        """Pages written since this consumer (a DIRTY_* bit) last asked."""
        dirty: list[int] = np.flatnonzero(self.flags & consumer).tolist()
        if dirty:
            self.flags &= 0xFF ^ consumer
            self.flush_data_tlb()
        return dirty

    def take_disk_writes(self, number: int) -> list[int]:
        """Pages of this disk, counted from its first, that were written since the last call."""
        flags = self.flags[self.disk_pages[number] : self.disk_pages[number + 1]]
        written: list[int] = np.flatnonzero(flags & c.DIRTY_FILE).tolist()
        flags &= 0xFF ^ c.DIRTY_FILE
        return written

    def hash_pages(self, pages: Sequence[int]) -> NDArray[np.uint64]:
        """Of these pages, as they are now: HASH_WORDS words each."""
        view = memoryview(self.bytes.data)
        digest = xxhash.xxh3_128_digest
        first_disk = self.disk_pages[0]
        untouched = UNTOUCHED.tobytes()
        found = b"".join(
            [
                digest(view[page * PAGE : (page + 1) * PAGE])
                if page < first_disk or self.flags[page] & c.PAGE_WRITTEN
                else untouched
                for page in pages
            ]
        )
        return np.frombuffer(found, np.uint64).reshape(-1, HASH_WORDS)

    def initial_hashes(self) -> NDArray[np.uint64]:
        """What `rehash` tells of a machine that nothing has happened to."""
        hashes = np.empty((self.pages, HASH_WORDS), np.uint64)
        hashes[: self.disk_pages[0]] = ZERO_HASH
        hashes[self.disk_pages[0] :] = UNTOUCHED
        return hashes

    def rehash(self) -> bytes:
        """Renews the hashes of all pages, and returns them; nothing if they are all as at the beginning."""
        self.take_dirty(c.DIRTY_DIGEST)
        self._hashes = self.initial_hashes()
        renewed = [*range(self.disk_pages[0]), *self.written_pages()]
        self._hashes[renewed] = self.hash_pages(renewed)
        return self._hashes.tobytes() if (self._hashes != self.initial_hashes()).any() else b""

    def digest(self, configuration: bytes) -> bytes:
        """16 bytes over pages, state and `configuration`."""
        hashes = self._hashes
        renewed = self.take_dirty(c.DIRTY_DIGEST)
        hashes[renewed] = self.hash_pages(renewed)
        self.state[s.X_SINK] = 0
        whole = xxhash.xxh3_128(configuration)
        whole.update(hashes.data)
        whole.update(self.state.data)
        return whole.digest()

    def scrub(self, count: int) -> None:
        """Renew the hashes of the next `count` pages, whether anybody wrote them or not, and then those of the first
        again. A disk's untouched pages have none."""
        while count > 0:
            first = self._scrubbed
            if first < self.disk_pages[0]:
                pages: Sequence[int] = range(first, min(first + count, self.disk_pages[0]))
            else:
                flags = self.flags[first : first + SCRUB_WINDOW]
                pages = (np.flatnonzero(flags & c.PAGE_WRITTEN)[:count] + first).tolist()
            count -= len(pages)
            self._scrubbed = pages[-1] + 1 if count == 0 or first < self.disk_pages[0] else first + SCRUB_WINDOW
            self._hashes[pages] = self.hash_pages(pages)
            self._round_seen += len(pages)
            if self._scrubbed >= self.pages:
                self.round_pages, self._round_seen, self._scrubbed = self._round_seen, 0, 0
