"""Every page of a machine is hashed anew once a period, in small pieces between its slices.

A digest renews the hashes of the pages that the guest wrote. A bit that flips in any other shows only when that page
is read again: this sees to it that each is, however much RAM there is, and that no slice waits long for it. When a page
is read shows in no digest of a healthy machine, so each replica may go by its own clock.
"""

import time
from collections.abc import Callable

from ftvm.machine.machine import Machine

NS_PER_S = 1_000_000_000
PERIOD_NS = 10 * NS_PER_S
PIECE_PAGES = 256
"""1 MiB: about 0.15 ms."""


class Scrubber:
    """`interrupted()` says that somebody waits for the machine."""

    def __init__(self, machine: Machine, interrupted: Callable[[], bool]) -> None:
        self._machine = machine
        self._interrupted = interrupted
        self._scrubbed_ns = time.monotonic_ns()

    def look(self, *, lent: bool) -> None:
        """Do what is due by now, until somebody waits; on a borrowed thread a piece of it at the most."""
        pages, now_ns = self._machine.scrub_round, time.monotonic_ns()
        self._scrubbed_ns = max(self._scrubbed_ns, now_ns - PERIOD_NS)
        due = pages * (now_ns - self._scrubbed_ns) // PERIOD_NS
        for _ in range(due // PIECE_PAGES):
            self._machine.scrub(PIECE_PAGES)
            self._scrubbed_ns += PIECE_PAGES * PERIOD_NS // pages
            if lent or self._interrupted():
                break
