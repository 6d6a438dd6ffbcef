"""The arrays that a machine is made of, and the digest over what of it the guest can see.

The digest hashes every page (xxh3, 128 bits), keeps the hashes, and renews those of pages that the kernel marked
dirty; the machine's digest is the hash over all of them and the state array. To find a bit that flipped in a page that
nobody writes, each digest also renews a slice of the others, round and round.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ftvm.machine.board import ROM_SIZE
from ftvm.machine.devices.uart import OUT_WORDS
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s

PAGE = 4096
SCRUB_PAGES = 256
"""Pages that a digest renews beyond the dirty ones: a machine of n pages is seen whole in n / 256 digests."""
HASH_WORDS = 2
ZERO_HASH: NDArray[np.uint64] = np.frombuffer(xxhash.xxh3_128_digest(bytes(PAGE)), np.uint64)
"""Of a page that is all zero."""


def _zeros(size: int) -> NDArray[np.uint8]:
    """In large pages where the kernel has them: to fill small ones, most of the time goes into their faults, and a
    process that has many of them takes long to die, with its sockets open."""
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):
        area.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(area, np.uint8)


class Memory:
    """RAM and ROM, machine state, and the kernel's own arrays, tied together by the control array."""

    def __init__(self, ram_bytes: int) -> None:
        self.ram_bytes = ram_bytes
        self.pages = (ram_bytes + ROM_SIZE) // PAGE
        self.bytes = _zeros(ram_bytes + ROM_SIZE)
        self.state = np.zeros(s.STATE_SIZE, np.int64)
        self.outputs = np.zeros(OUT_WORDS, np.int64)
        self.control = np.zeros(c.CONTROL_SIZE, np.int64)
        self.flags = np.zeros(self.pages, np.uint8)
        self._code = np.zeros(c.SCRATCH_WORDS + c.SLOTS_MAX * c.SLOT_WORDS, np.uint64)
        self._fetch = np.full(c.FETCH_CONTEXTS * c.TLB_WORDS * c.FETCH_TLB_ENTRIES, -1, np.int64)
        self._tlb = np.full(c.DATA_CONTEXTS * c.TLB_WORDS * c.DATA_TLB_ENTRIES, -1, np.int64)
        self._page_walk = np.zeros(self.pages, np.int64)
        self._page_slot = np.full(self.pages, -1, np.int64)
        self._slots = np.full((3, c.SLOTS_MAX), -1, np.int64)
        self._hashes = np.empty((self.pages, HASH_WORDS), np.uint64)
        self._hashes[:] = ZERO_HASH
        self._scrubbed = 0
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
        }
        for index, array in pointers.items():
            self.control[index] = array.ctypes.data
        self.control[c.RAM_BYTES] = ram_bytes

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
        """All zero, as at power-on."""
        for page in self.nonzero_pages():
            self.bytes[page * PAGE : (page + 1) * PAGE] = 0
            self.flags[page] |= c.DIRTY_ALL
        self.flags &= c.DIRTY_ALL
        self.flush_caches()

    def nonzero_pages(self) -> list[int]:
        words = self.bytes.view(np.uint64)
        nonzero: list[int] = []
        chunk = 4096
        for first in range(0, self.pages, chunk):
            last = min(first + chunk, self.pages)
            block = words[first * PAGE // 8 : last * PAGE // 8].reshape(last - first, PAGE // 8)
            nonzero += (np.flatnonzero(block.any(axis=1)) + first).tolist()
        return nonzero

    def copy_bytes(self) -> NDArray[np.uint8]:
        """Of RAM and ROM."""
        copy = _zeros(self.bytes.nbytes)
        copy[:] = self.bytes
        return copy

    def take_dirty(self, consumer: int) -> list[int]:
        """Pages written since this consumer (a DIRTY_* bit) last asked."""
        dirty: list[int] = np.flatnonzero(self.flags & consumer).tolist()
        if dirty:
            self.flags &= 0xFF ^ consumer
            self.flush_data_tlb()
        return dirty

    def hash_pages(self, pages: Sequence[int]) -> NDArray[np.uint64]:
        """Of these pages, as they are now: HASH_WORDS words each."""
        view = memoryview(self.bytes.data)
        digest = xxhash.xxh3_128_digest
        found = b"".join([digest(view[page * PAGE : (page + 1) * PAGE]) for page in pages])
        return np.frombuffer(found, np.uint64).reshape(-1, HASH_WORDS)

    def rehash(self) -> bytes:
        """Renews the hashes of all pages, and returns them; nothing if every page is zero."""
        self.take_dirty(c.DIRTY_DIGEST)
        self._hashes[:] = self.hash_pages(range(self.pages))
        return self._hashes.tobytes() if (self._hashes != ZERO_HASH).any() else b""

    def digest(self, configuration: bytes) -> bytes:
        """16 bytes over pages, state and `configuration`."""
        first = self._scrubbed
        scrub = range(first, min(first + SCRUB_PAGES, self.pages))
        self._scrubbed = scrub.stop % self.pages
        hashes = self._hashes
        renewed = [*self.take_dirty(c.DIRTY_DIGEST), *scrub]
        hashes[renewed] = self.hash_pages(renewed)
        self.state[s.X_SINK] = 0
        whole = xxhash.xxh3_128(configuration)
        whole.update(hashes.data)
        whole.update(self.state.data)
        return whole.digest()
