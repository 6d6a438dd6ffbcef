"""Copying a live machine to a joiner: what the engine does of it between slices, and when it comes to an end.

Each step takes a bounded number of pages, so that the guest hardly notices; the node asks for the next one when the
session has room. A round ends when all pages that were dirty at its start were looked at. Then, if little was written
meanwhile, that little and the state array are taken at once, with the guest at rest: a pause of some milliseconds. A
guest that writes faster than the session takes it gets no smaller rounds; after some of these it stands still until
the rest is through, and if that takes too long, the copy is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ftvm.host.reports import Copied, CopyFinished, Report
from ftvm.machine.machine import Machine
from ftvm.machine.transfer import Outgoing

NS_PER_US = 1000
NS_PER_S = 1_000_000_000

STEP_PAGES = 256
"""Pages that are looked at in one step: some 0.3 ms."""

STEP_BYTES_MIN = 256 * 1024
STEP_NS = 1_000_000
"""While pages turn out not to differ, a step goes on: for so much in all, or so long."""

LAST_PAGES_MAX = 1024
"""So little is left that it is taken at once: a pause of some 5 ms. It has to fit into the session's queue."""

PROGRESS_SHARE = 0.75
"""A round that has more to do than this part of the one before makes no progress; two of them end the rounds."""

IDLE_ROUNDS_MAX = 2
ROUNDS_MAX = 16

STAND_MAX_NS = 5_000_000_000
"""A guest does not stand still for a joiner any longer than this."""


@dataclass(slots=True)
class Progress:
    """Of the rounds so far: `pages` of the last one that made some."""

    pages: int
    idle_rounds: int = 0

    def judge(self, pages: int, rounds: int) -> bool:
        """Whether another round is worth while, which would begin with so many pages."""
        if pages > PROGRESS_SHARE * self.pages:
            self.idle_rounds += 1
        else:
            self.pages, self.idle_rounds = pages, 0
        return self.idle_rounds < IDLE_ROUNDS_MAX and rounds < ROUNDS_MAX


class MachineCopy:
    """One copy, for session `session`. For the thread that owns the machine, between slices."""

    def __init__(self, session: int, machine: Machine, inventory: bytes, report: Callable[[Report], None]) -> None:
        """Raises SnapshotError for an inventory that is none."""
        self.session = session
        self._machine = machine
        self._report = report
        self._outgoing = Outgoing(machine, inventory)
        self._progress = Progress(self._outgoing.left)
        self._stands_since_ns = 0

    @property
    def stands(self) -> bool:
        """The guest may not run."""
        return self._stands_since_ns > 0

    def stand_left_s(self) -> float:
        """How long the guest may stand still from now on, in seconds."""
        return max(0, self._stands_since_ns + STAND_MAX_NS - time.monotonic_ns()) / NS_PER_S

    def step(self) -> bool:
        """Take and report some pages. True if that was all."""
        outgoing = self._outgoing
        started_ns = time.monotonic_ns()
        chunks: list[bytes] = []
        size = 0
        while outgoing.left:
            taken = outgoing.take(STEP_PAGES)
            chunks += taken
            size += sum(map(len, taken))
            if size >= STEP_BYTES_MIN or time.monotonic_ns() - started_ns >= STEP_NS:
                break
        is_over = False
        if not outgoing.left:
            is_over = self._end_round(chunks, started_ns)
        if not is_over:
            self._report(Copied(self.session, tuple(chunks), self.stands))
        return is_over

    def _end_round(self, chunks: list[bytes], now_ns: int) -> bool:
        outgoing = self._outgoing
        pages = outgoing.next_round()
        if pages > LAST_PAGES_MAX:
            if not self.stands and not self._progress.judge(pages, outgoing.round):
                self._stands_since_ns = now_ns
            return False
        rest_since_ns = self._stands_since_ns or now_ns
        while outgoing.left:
            chunks += outgoing.take(STEP_PAGES)
        self._machine.digest()  # the longer part of making the record: so that the pause it tells is nearly all of it
        record = outgoing.end((time.monotonic_ns() - rest_since_ns) // NS_PER_US)
        pause_us = (time.monotonic_ns() - rest_since_ns) // NS_PER_US
        self._report(Copied(self.session, tuple(chunks), self.stands))
        self._report(CopyFinished(self.session, record, outgoing.statistics(pause_us)))
        return True

