"""A machine that is sent: asks the engine for the next part when the joiner's session has taken most of the last ones.

So no more of a machine is ever queued than `QUEUED_MAX` and one step, however slow the joiner; and the log of members,
which goes over sessions of their own, waits for none of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio

from ftvm.host.engine import Engine
from ftvm.host.node_statistics import Reprotection
from ftvm.host.reports import Copied, CopyFailed, CopyFinished

NS_PER_S = 1_000_000_000
QUEUED_MAX = 1 << 20
"""Bytes of a machine that wait in a session when the next step is asked for."""


class Sending:
    """`wait_queue(session, bytes)` returns once no more than that waits in the session, or it is over."""

    def __init__(self, wait_queue: Callable[[int, int], Awaitable[None]], note: Callable[[str], None]) -> None:
        self._wait_queue = wait_queue
        self._note = note
        self._session: int | None = None
        self._stepped = trio.Event()
        self._began_ns = 0
        self._stands = False

    def begin(self, engine: Engine, session: int, inventory: bytes) -> None:
        """Copy the engine's machine for the joiner of this session. `run` does it."""
        self._session = session
        self._began_ns = time.monotonic_ns()
        self._stands = False
        engine.copy(session, inventory)

    async def run(self, engine: Engine, session: int) -> None:
        """Returns when the copy has ended or is cancelled."""
        while True:
            await self._wait_queue(session, QUEUED_MAX)
            if self._session != session:
                return
            self._stepped = trio.Event()
            engine.copy_on(session)
            await self._stepped.wait()

    def cancel(self) -> None:
        """The copy is over, if one was going on."""
        self._session = None
        self._stepped.set()

    def took(self, report: Copied | CopyFinished | CopyFailed) -> Reprotection | None:
        """What the engine reported was passed on. Returns what it came to, at the end."""
        if report.session != self._session:
            return None
        if isinstance(report, Copied):
            if report.stands and not self._stands:
                self._stands = True
                self._note("the guest writes faster than the joiner takes it: it stands still for the rest of the copy")
            self._stepped.set()
            return None
        self.cancel()
        if isinstance(report, CopyFailed):
            return None
        seconds = (time.monotonic_ns() - self._began_ns) / NS_PER_S
        return Reprotection.of(report.statistics, sent=True, seconds=seconds)
