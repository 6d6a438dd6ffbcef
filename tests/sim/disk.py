"""One host's disk: the log that a node leaves behind, and what becomes of it in a crash, a power cut, or when full.

It stands in for `ftvm.host.journal` and `ftvm.log`: entries wait in the process until they are committed, and then for
at most `WRITE_NS` more; what is written outlives the process, what is synced outlives the host. A log that cannot be
written any more is put aside, so that nobody takes its beginning for all of it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ftvm.log.entry import Entry
from ftvm.log.stamp import Held, Stamp
from tests.sim.clock import MS
from tests.sim.guest import Guest

if TYPE_CHECKING:
    from random import Random

    from tests.sim.faults import Strike

WRITE_NS = 50 * MS


class Disk:
    def __init__(self, random: Random, *, present: bool) -> None:
        self._random = random
        self.present = present
        self.full: Strike | None = None
        self.harmed = not present
        """More than the newest entries is missing: a whole log."""
        self.torn = False
        """Some of the newest entries are missing that were written."""
        self._state: bytes | None = None
        self._start = 0
        self._end = 0
        self._records: list[Stamp | tuple[Entry, ...]] = []
        self._synced = 0
        self._damaged = False
        self.waiting: deque[tuple[Entry, ...]] = deque()
        self.due_ns = 0
        """What waits is written by then, if anything happens at all."""

    # ---- written by a process

    def begin(self, pos: int, state: bytes) -> None:
        """A new log; an older one is put aside."""
        self._put_aside()
        if self._writable():
            self._state = state
            self._start = self._end = pos

    def append(self, entries: tuple[Entry, ...]) -> None:
        if self._state is not None:
            self.waiting.append(entries)

    def write(self, committed: int, now_ns: int) -> None:
        """What is committed."""
        self.due_ns = now_ns + WRITE_NS
        self._write(committed)

    def _write(self, committed: int) -> None:
        while self.waiting and self._end + len(self.waiting[0]) <= committed:
            if not self._writable():
                self._put_aside()
                return
            entries = self.waiting.popleft()
            self._records.append(entries)
            self._end += len(entries)

    def stamp(self, stamp: Stamp, committed: int, *, sync: bool) -> None:
        """After all that is committed."""
        self._write(committed)
        if self._state is None:
            return
        if not self._writable():
            self._put_aside()
            return
        self._records.append(stamp)
        if sync:
            self._synced = len(self._records)

    def _writable(self) -> bool:
        if self.full is not None:
            self.full.felt()
            self.harmed = True
        return self.present and self.full is None

    def _put_aside(self) -> None:
        self._state = None
        self._records, self._synced, self._damaged = [], 0, False
        self.waiting.clear()

    # ---- misfortunes

    def process_died(self) -> None:
        self.waiting.clear()

    def power_lost(self) -> None:
        """What was not synced is there in part. A torn batch is cut off when the log is opened again."""
        self.waiting.clear()
        if self._state is None:
            return
        kept = self._synced + int(self._random.random() * (len(self._records) - self._synced + 1))
        if kept < len(self._records):
            self.torn = True
            for record in self._records[kept:]:
                self._end -= len(record) if isinstance(record, tuple) else 0
            del self._records[kept:]
        if not any(isinstance(record, Stamp) for record in self._records):
            # Nothing of this log was ever synced, perhaps not even the state that it begins with.
            self.harmed = True
            self._damaged = self._random.random() < 0.5

    def lose(self) -> None:
        """The disk is gone; the host gets an empty one."""
        self.harmed = True
        self._put_aside()

    # ---- read by the next process

    def inspect(self) -> Held | None:
        if self._state is None:
            return None
        if self._damaged:
            return Held(None, trouble="the log is damaged")
        stamps = [record for record in self._records if isinstance(record, Stamp)]
        entries = [record for record in self._records if isinstance(record, tuple)]
        if not stamps:
            return None
        return Held(stamps[-1], self._end, entries[-1][-1].tick if entries else 0)

    def replay(self, stamp: Stamp) -> tuple[Guest, int, bool]:
        """The guest at the end of the log, how many entries that is, and whether `stamp` could be added to it."""
        assert self._state is not None
        guest = Guest.restore(self._state)
        for record in self._records:
            if isinstance(record, tuple):
                for entry in record:
                    guest.run_until(entry.tick)
                    guest.apply(entry)
        if self.full is not None:
            self.full.felt()
            return guest, self._end, False
        self._records.append(stamp)
        self._synced = len(self._records)
        return guest, self._end, True
