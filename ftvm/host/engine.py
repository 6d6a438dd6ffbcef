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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftvm.errors import FtvmError
from ftvm.host.reports import (
    Diverged,
    Executed,
    Failed,
    Followed,
    Halted,
    Quiesced,
    Report,
    SnapshotTaken,
    WentLive,
)
from ftvm.log.entry import INPUT_SIZE_MAX, Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.machine.machine import Machine, StopReason

if TYPE_CHECKING:
    from ftvm.host.pacing import Pacer

NS_PER_S = 1_000_000_000
IDLE_WAIT_MAX_S = 3600.0
"""Upper bound of one sleep; a guest with no timer armed simply sleeps again."""

SLICE_TICKS_MIN = 20_000
SLICE_TICKS_FOLLOW_MAX = 50_000_000
LENT_TICKS = 30_000
"""How far a guest may run on the caller's thread: some 50 us, in which the node hears nothing."""

LENT_ENTRIES_MAX = 256
PENDING_INPUT_MAX = 1 << 20
"""Bytes of input that wait for room in the guest's device. The edge's window is far smaller."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a live engine cuts its run. None of it is visible to the guest."""

    slice_ns: int = 8_000_000
    digest_interval_ns: int = 500_000_000


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
        self, machine: Machine, pos: int, pacer: Pacer, config: EngineConfig, notify: Callable[[], None]
    ) -> None:
        self._machine = machine
        self._pacer = pacer
        self._config = config
        self._notify = notify
        self._pos = pos
        self._live = False
        self._commands: deque[Callable[[], None]] = deque()
        self._reports: deque[Report] = deque()
        self._bell = threading.Event()
        self._owner = threading.Lock()
        self._lent = False
        self._stopping = False
        self._throttled = True
        self._idle = False
        self._sample_due = False
        self._sampled_ns = 0
        self._diverged = False
        self._halt_reported = False
        self._pending: dict[str, deque[Input]] = {}
        self._pending_size = 0
        self._backlog: deque[Entry] = deque()
        self._last_entry_tick = machine.tick
        self._last_sample: tuple[int, int] | None = None
        self._next_digest_ns = 0
        self._digest_tick = machine.tick
        self._busy_ns = 0
        self._slices = 0
        self._thread = threading.Thread(target=self._run, name="ftvm-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end at the next slice boundary."""

        def command() -> None:
            self._stopping = True

        self._command(command)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; True if it ended. Blocking: call from a worker thread or after `stop`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def inject(self, device: str, offset: int, data: bytes, is_break: bool) -> None:
        """Offer input at stream `offset`. What the device has already taken is dropped here. `kick` afterwards."""
        self._commands.append(lambda: self._enqueue(Input(0, device, offset, data, is_break)))

    def control(self, action: Action) -> None:
        self._command(lambda: self._execute_control(action))

    def feed(self, entries: tuple[Entry, ...], received_ns: int) -> None:
        """Following: more of the log. `received_ns` anchors the guest's clock should we go live. `kick` afterwards."""

        def command() -> None:
            for entry in entries:
                if isinstance(entry, Clock):
                    self._last_sample = (entry.mtime, received_ns)
            self._backlog.extend(entries)

        self._commands.append(command)

    def kick(self) -> bool:
        """Have what was injected or fed seen to; True if there are reports to take.

        If the engine's thread is at rest and the work is short, it is done before this returns.
        """
        if self._commands and not self._bell.is_set():
            if self._owner.acquire(blocking=False):
                try:
                    self._lend()
                finally:
                    self._owner.release()
            else:
                self._ring()
        return bool(self._reports)

    def go_live(self) -> None:
        """After all that was fed before this call: stop following and start to make the log."""
        self._command(self._go_live)

    def throttle(self, on: bool) -> None:
        """While on, ticks stand still: a full gate stops execution, never correctness."""

        def command() -> None:
            self._throttled = on

        self._command(command)

    def snapshot(self) -> None:
        self._command(self._take_snapshot)

    def quiesce(self) -> None:
        """Live: come to rest at a slice end, and say so."""
        self._command(self._quiesce)

    def digest_now(self) -> None:
        """Live: log a `Digest` at once, whatever the interval says."""
        self._command(self._digest_now)

    def take_reports(self) -> list[Report]:
        """Everything that happened since the last call, in order."""
        reports = []
        while self._reports:
            reports.append(self._reports.popleft())
        return reports

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            tick=self._last_entry_tick,
            live=self._live,
            throttled=self._throttled,
            busy_ns=self._busy_ns,
            slices=self._slices,
            backlog_entries=len(self._backlog),
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
            if wait_s > 0:
                self._bell.wait(wait_s)

    def _lend(self) -> None:
        self._lent = True
        wait_s = self._go(LENT_TICKS)
        self._lent = False
        if wait_s < IDLE_WAIT_MAX_S:
            self._bell.set()  # there is more to do, or a timer to wait for

    def _go(self, ticks_max: int | None) -> float:
        """See to the commands, then run for a slice, of at most `ticks_max`. Returns how long to sleep, in seconds."""
        try:
            self._machine.clear_attention()
            while self._commands:
                self._commands.popleft()()
            if self._stopping:
                return 0.0
            if self._live:
                return self._turn_live(ticks_max)
            if ticks_max is not None and not self._is_short():
                return 0.0
            return self._turn_follow()
        except BaseException as error:  # whatever it is, the node must hear of it: a dead thread says nothing
            self._stopping = True
            self._report(Failed(error))
            return 0.0

    def _is_short(self) -> bool:
        backlog = self._backlog
        return len(backlog) <= LENT_ENTRIES_MAX and (
            not backlog or backlog[-1].tick - self._machine.tick <= LENT_TICKS
        )

    def _report(self, report: Report) -> None:
        self._reports.append(report)
        if not self._lent:
            self._notify()

    def _timed_run(self, until: int) -> StopReason:
        started_ns, tick = time.monotonic_ns(), self._machine.tick
        stop = self._machine.run_until(until)
        elapsed_ns = time.monotonic_ns() - started_ns
        self._busy_ns += elapsed_ns
        self._slices += 1
        self._pacer.ran(stop.tick - tick, elapsed_ns)
        return stop.reason

    def _report_halt(self) -> None:
        halt = self._machine.halt
        if halt is not None and not self._halt_reported:
            self._halt_reported = True
            self._digest_now()
            self._report(Halted(self._machine.tick, halt))

    # Live

    def _turn_live(self, ticks_max: int | None) -> float:
        """One slice. Returns how long the engine may sleep before the next one, in seconds."""
        machine = self._machine
        if machine.halt is not None:
            self._report_halt()
            return IDLE_WAIT_MAX_S
        if self._throttled:
            return IDLE_WAIT_MAX_S
        entries: list[Entry] = []
        now_ns = time.monotonic_ns()
        if self._idle:
            wait_s = self._idle_wait_s(now_ns)
            if wait_s > 0:
                return wait_s
            self._idle, self._sample_due = False, True
        if self._sample_due:
            self._sample(entries, now_ns)
            self._sample_due = False
        self._deliver_inputs(entries)
        slice_ticks = ticks_max or max(SLICE_TICKS_MIN, self._pacer.ticks_in(self._config.slice_ns))
        reason = self._timed_run(machine.tick + slice_ticks)
        self._idle = reason is StopReason.IDLE
        self._end_turn(entries, sample=reason in (StopReason.LIMIT, StopReason.ATTENTION, StopReason.HALTED))
        if reason is StopReason.HALTED:
            self._report_halt()
        return self._idle_wait_s(time.monotonic_ns()) if self._idle else 0.0

    def _idle_wait_s(self, now_ns: int) -> float:
        """In WFI: how long until there is something to wake the hart for."""
        if self._has_deliverable_input():
            return 0.0
        deadline = self._machine.deadline()
        if deadline is None:
            return IDLE_WAIT_MAX_S
        return min(max(0, self._pacer.wake_ns(deadline) - now_ns) / NS_PER_S, IDLE_WAIT_MAX_S)

    def _end_turn(self, entries: list[Entry], *, sample: bool) -> None:
        machine = self._machine
        now_ns = time.monotonic_ns()
        # A guest that speaks all the time never gets to the end of a slice: its clock is due all the same.
        sample = sample or now_ns - self._sampled_ns >= self._config.slice_ns
        if sample and machine.halt is None and machine.tick > self._last_entry_tick:
            self._sample(entries, now_ns)
        if now_ns >= self._next_digest_ns and machine.tick > self._digest_tick:
            self._log(entries, Digest(machine.tick, machine.digest()))
            self._next_digest_ns = now_ns + self._config.digest_interval_ns
            self._digest_tick = machine.tick
        if machine.tick > self._last_entry_tick:
            self._log(entries, Horizon(machine.tick))
        outputs = tuple(machine.take_outputs())
        if entries or outputs:
            self._report(Executed(machine.tick, tuple(entries), outputs))

    def _sample(self, entries: list[Entry], now_ns: int) -> None:
        self._log(entries, self._pacer.sample(now_ns, self._machine.tick))
        self._sampled_ns = now_ns

    def _digest_now(self) -> None:
        if self._live:
            digest = Digest(self._machine.tick, self._machine.digest())
            self._last_entry_tick = digest.tick
            self._report(Executed(digest.tick, (digest,), ()))

    def _log(self, entries: list[Entry], entry: Entry) -> None:
        self._machine.apply(entry)
        entries.append(entry)
        self._last_entry_tick = entry.tick

    def _enqueue(self, item: Input) -> None:
        if self._pending_size + len(item.data) > PENDING_INPUT_MAX:
            raise FtvmError(f"{item.device}: over {PENDING_INPUT_MAX} bytes wait: the sender ignores the window")
        self._pending.setdefault(item.device, deque()).append(item)
        self._pending_size += len(item.data)

    def _has_deliverable_input(self) -> bool:
        return any(queue and self._machine.input_room(device) > 0 for device, queue in self._pending.items())

    def _deliver_inputs(self, entries: list[Entry]) -> None:
        machine = self._machine
        for device, queue in self._pending.items():
            while queue and (room := machine.input_room(device)) > 0:
                item = queue.popleft()
                self._pending_size -= len(item.data)
                expected = machine.input_offset(device)
                data = item.data[max(0, expected - item.offset) :]
                if not data:
                    continue
                assert item.offset <= expected, f"gap in the input of {device}: {item.offset} after {expected}"
                taken = data[: min(room, INPUT_SIZE_MAX)]
                self._log(entries, Input(machine.tick, device, expected, taken, item.is_break))
                if len(taken) < len(data):
                    rest = Input(0, device, expected + len(taken), data[len(taken) :], item.is_break)
                    queue.appendleft(rest)
                    self._pending_size += len(rest.data)

    def _execute_control(self, action: Action) -> None:
        entries: list[Entry] = []
        self._log(entries, Control(self._machine.tick, action))
        self._idle = False
        self._end_turn(entries, sample=False)
        self._report_halt()

    def _take_snapshot(self) -> None:
        self._report(SnapshotTaken(self._machine.save()))

    def _quiesce(self) -> None:
        self._throttled = True
        self._report(Quiesced())

    # Following

    def _turn_follow(self) -> float:
        """Consume what was fed, then report once. Returns how long the engine may sleep."""
        if not self._backlog or self._diverged:
            return IDLE_WAIT_MAX_S
        machine = self._machine
        pos = self._pos
        while self._backlog:
            entry = self._backlog[0]
            if not self._run_to(entry.tick):
                break
            if isinstance(entry, Digest):
                ours = machine.digest()
                if ours != entry.digest:
                    self._diverge(f"digest {ours.hex()} here, {entry.digest.hex()} on the primary")
                    break
            else:
                machine.apply(entry)
            self._backlog.popleft()
            self._last_entry_tick = entry.tick
            self._pos += 1
        outputs = tuple(machine.take_outputs())
        if not self._diverged and (self._pos > pos or outputs):
            self._report(Followed(self._pos, machine.tick, outputs))
        return 0.0 if self._backlog and not self._diverged else IDLE_WAIT_MAX_S

    def _run_to(self, tick: int) -> bool:
        """Run to `tick`. False if a command waits (or the replicas differ): come back later."""
        machine = self._machine
        while machine.tick < tick:
            reason = self._timed_run(min(tick, machine.tick + SLICE_TICKS_FOLLOW_MAX))
            if machine.tick >= tick:
                break
            if reason in (StopReason.IDLE, StopReason.HALTED):
                self._diverge(f"the machine here is {reason.name.lower()} before tick {tick} of the log")
                return False
            if reason is StopReason.ATTENTION and self._stopping_or_commanded():
                return False
            if reason is StopReason.OUTPUT:
                self._report(Followed(self._pos, machine.tick, tuple(machine.take_outputs())))
        return True

    def _stopping_or_commanded(self) -> bool:
        return self._stopping or bool(self._commands)

    def _diverge(self, why: str) -> None:
        self._diverged = True
        self._report(Diverged(self._machine.tick, why))

    def _go_live(self) -> None:
        while self._backlog and not self._stopping and not self._diverged:
            self._turn_follow()
        if self._stopping or self._diverged:
            return
        if self._last_sample is not None:
            mtime, received_ns = self._last_sample
            self._pacer.anchor(mtime, received_ns)
        self._live = True
        self._sample_due = True
        self._digest_tick = self._machine.tick
        self._last_entry_tick = self._machine.tick
        self._report(WentLive(self._machine.tick))
