"""The engine: one long-lived thread that owns the `Machine` and runs it.

Theory of operation. Only this thread touches the machine, so the machine needs no locks. The trio side hands
over commands (`inject`, `feed`, `go_live`, ...) through one deque and rings a bell; the engine hands back
reports, in the order in which things happened, through another deque and one wake-up of the trio loop. The bell
also raises the machine's attention flag, so a slice that is running ends within some ten microseconds instead of
milliseconds: latency for a guest that talks, batches for a guest that computes.

A *live* engine makes the log: it samples the clock at the end of every slice and at every wake from WFI, applies
inputs where the hart happens to stand, and ends each turn with an entry at the tick it reached, so that every
output has an entry that explains it. A *following* engine consumes the log and never looks at the clock.

Short work is done on the caller's thread (`kick`): to hand a request over and its answer back costs more than the
request itself. Whoever holds `_owner` owns the machine; the caller takes it only when the engine's thread is at rest.

Where a slice ends depends on timing, and may: it is logged. Nothing else that depends on timing reaches the guest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftvm.host.disk_keeping import OverlayWriter
from ftvm.host.pacing import Pacer
from ftvm.host.reports import Failed, Followed, Report
from ftvm.host.runner import LENT_TICKS, NS_PER_S, EngineConfig, Runner
from ftvm.log.entry import Action, Entry, Input
from ftvm.machine.machine import Machine

QUIET_TICKS_MAX = 20_000_000
"""Progress of this much is told all the same: a primary may be waiting for it."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """A frozen look at the engine. `busy_ns` is time spent inside the guest; `tick` is where the machine stood at
    the last entry."""

    tick: int
    live: bool
    throttled: bool
    busy_ns: int
    slices: int
    backlog_entries: int


class Engine:
    """Owns one machine and its thread. All public methods may be called from any thread and never block.

    A new engine follows: it executes what `feed` gives it, from log position `pos` on, and nothing else. After
    `go_live` and `throttle(False)` it runs freely and makes the log.

    `notify` is called from the engine's thread whenever `take_reports` has something new.
    """

    def __init__(
        self,
        machine: Machine,
        pos: int,
        pacer: Pacer,
        config: EngineConfig,
        notify: Callable[[], None],
        overlays: OverlayWriter | None = None,
    ) -> None:
        self._machine = machine
        self._notify = notify
        self._commands: deque[Callable[[], None]] = deque()
        self._reports: deque[Report] = deque()
        self._bell = threading.Event()
        self._owner = threading.Lock()
        self._rests_until_ns = 0
        """When the engine's thread looks by itself what there is to do, at the latest; 0: it does not rest."""
        self._lent = False
        self._noticed_tick = 0
        self.quiet = False
        """Mere progress of a follower waits until somebody looks, instead of waking him for every slice."""
        self._stopping = False
        self._runner = Runner(
            machine, pos, pacer, config, self._report, lambda: bool(self._commands), overlays=overlays
        )
        self._thread = threading.Thread(target=self._run, name="ftvm-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end at the next slice boundary."""

        def command() -> None:
            self._stopping = True

        self._command(command)

    @property
    def machine(self) -> Machine:
        """For who has seen the thread end."""
        assert not self._thread.is_alive()
        return self._machine

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; True if it ended. Blocking: call from a worker thread or after `stop`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def inject(self, device: str, offset: int, data: bytes, is_break: bool) -> None:
        """Offer input at stream `offset`. What the device has already taken is dropped here. `kick` afterwards."""
        self._commands.append(lambda: self._runner.enqueue(Input(0, device, offset, data, is_break)))

    def control(self, action: Action) -> None:
        self._command(lambda: self._runner.execute_control(action))

    def feed(self, entries: tuple[Entry, ...], received_ns: int) -> None:
        """Following: more of the log. `received_ns` anchors the guest's clock should we go live. `kick` afterwards."""

        self._commands.append(lambda: self._runner.feed(entries, received_ns))

    def kick(self) -> None:
        """Have what was injected or fed seen to.

        If the engine's thread is at rest and the work is short, it is done, and reported, before this returns.
        """
        if self._commands and self._bell.is_set():
            self._machine.raise_attention()  # the bell may have been rung before the slice that runs now
        elif self._commands:
            if self._owner.acquire(blocking=False):
                try:
                    self._lend()
                finally:
                    self._owner.release()
            elif self._runner.live:
                self._ring()
            else:
                self._bell.set()  # a follower comes to it by itself: no need to cut its slice short

    def go_live(self) -> None:
        """After all that was fed before this call: stop following and start to make the log."""
        self._command(self._runner.go_live)

    def throttle(self, on: bool) -> None:
        """While on, ticks stand still: a full gate stops execution, never correctness."""

        def command() -> None:
            self._runner.throttled = on

        self._command(command)

    def hold_back(self, lag_ticks: int, *, joins: bool) -> None:
        """Live: a shadow was so far behind when it last said so. A busy machine goes more slowly for it, and much more
        slowly for one that `joins`."""
        self._runner.lag_ticks = lag_ticks
        self._runner.is_joined = joins

    def copy(self, session: int, inventory: bytes) -> None:
        """Live: begin to copy the machine for the joiner of `session`, one step for each `copy_on`. One at a time."""
        self._command(lambda: self._runner.copy(session, inventory))

    def copy_on(self, session: int) -> None:
        """The next step: `Copied`, after the last one `CopyFinished`, or `CopyFailed`. Nothing if it was cancelled."""
        self._command(lambda: self._runner.copy_on(session))

    def cancel_copy(self, session: int) -> None:
        self._command(lambda: self._runner.cancel_copy(session))

    def quiesce(self) -> None:
        """Live: come to rest at a slice end, and say so."""
        self._command(self._runner.quiesce)

    def resize(self, columns: int, rows: int) -> None:
        """Live: the terminal on the guest's console has this size. Nothing where the guest's console has none."""
        self._command(lambda: self._runner.resize(columns, rows))

    def overlays_written(self) -> None:
        """What was taken of the guest's disks is written: the next may be taken."""
        self._command(self._runner.disks.keep)

    def digest_now(self) -> None:
        """Live: log a `Digest` at once, whatever the interval says."""
        self._command(self._runner.log_digest)

    def take_reports(self) -> Iterator[Report]:
        """Everything that happened, in order, each once: also if taking one makes the caller take more."""
        while self._reports:
            yield self._reports.popleft()

    def statistics(self) -> EngineStatistics:
        runner = self._runner
        return EngineStatistics(
            tick=runner.last_entry_tick,
            live=runner.live,
            throttled=runner.throttled,
            busy_ns=runner.busy_ns,
            slices=runner.slices,
            backlog_entries=len(runner.backlog),
        )

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._ring()

    def _ring(self) -> None:
        self._machine.raise_attention()
        self._bell.set()

    # Everything below is for who holds `_owner`: the engine's thread, or a caller that lends its own.

    def _run(self) -> None:
        while not self._stopping:
            with self._owner:
                self._bell.clear()
                wait_s = self._go(None)
                self._rests_until_ns = time.monotonic_ns() + int(wait_s * NS_PER_S) if wait_s > 0 else 0
            if wait_s > 0:
                self._bell.wait(wait_s)

    def _lend(self) -> None:
        self._lent = True
        wait_s = self._go(LENT_TICKS)
        self._lent = False
        if self._runner.digest_due:
            self._command(self._runner.log_digest)  # takes too long for a borrowed thread
        elif self._runner.disks.is_due:
            self._command(self._runner.disks.keep)
        elif time.monotonic_ns() + int(wait_s * NS_PER_S) < self._rests_until_ns:
            self._bell.set()  # there is more to do, or a timer to wait for that is due before the thread looks again

    def _go(self, ticks_max: int | None) -> float:
        """See to the commands, then run for a slice, of at most `ticks_max`. Returns how long to sleep, in seconds."""
        try:
            self._machine.clear_attention()
            while self._commands:
                self._commands.popleft()()
            return 0.0 if self._stopping else self._runner.turn(ticks_max)
        except BaseException as error:  # whatever it is, the node must hear of it: a dead thread says nothing
            self._stopping = True
            self._report(Failed(error))
            return 0.0

    def _report(self, report: Report) -> None:
        # In this order: whoever clears `quiet` looks for reports afterwards.
        self._reports.append(report)
        if not self._lent and not (self.quiet and self._is_mere_progress(report)):
            self._notify()

    def _is_mere_progress(self, report: Report) -> bool:
        if not isinstance(report, Followed) or report.outputs:
            return False
        if report.tick - self._noticed_tick < QUIET_TICKS_MAX:
            return True
        self._noticed_tick = report.tick
        return False
