"""Running one machine, live or following: what an engine's turns consist of. One owner at a time, no threads.

A *live* runner makes the log: it samples the clock at the end of every slice and at every wake from WFI, applies
inputs where the hart happens to stand, and ends each turn with an entry at the tick it reached, so that every
output has an entry that explains it. A *following* runner consumes the log and never looks at the clock.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ftvm.errors import FtvmError, SnapshotError
from ftvm.host.copying import MachineCopy
from ftvm.host.disk_keeping import DiskDuty, OverlayWriter
from ftvm.host.pacing import HeardClock, Pacer
from ftvm.host.reports import (
    CopyFailed,
    Diverged,
    Executed,
    Followed,
    Halted,
    Quiesced,
    Report,
    WentLive,
    in_pieces,
)
from ftvm.host.scrubbing import Scrubber
from ftvm.log.entry import (
    ENTROPY_SIZE_MAX,
    INPUT_SIZE_MAX,
    Action,
    Clock,
    Control,
    Digest,
    Entropy,
    Entry,
    Horizon,
    Input,
    RealTime,
    Resize,
)
from ftvm.machine.machine import Machine, StopReason
from ftvm.machine.output import NET

NS_PER_S = 1_000_000_000
IDLE_WAIT_MAX_S = 3600.0
"""Upper bound of one sleep; a guest with no timer armed simply sleeps again."""

SLICE_TICKS_MIN = 20_000
SLICE_TICKS_FOLLOW_MAX = 50_000_000
LENT_TICKS = 400_000
"""How far a guest may run on a borrowed thread: less than a millisecond, in which its owner hears nothing. Linux takes
some 200,000 from a request to its answer; to hand those over would cost as much again."""

LENT_ENTRIES_MAX = 256
LAG_SLICES = 3
"""So far behind a shadow may well be: it gets a slice when that has ended, and acknowledges it when it begins it."""

LAGS_LOOKED_AT = 6
"""The least of so many counts: how old an acknowledgement is when a slice ends differs by a slice."""

BRAKE_SHARE = 0.2
"""A busy live machine rests after each slice for this share of what a shadow is further behind. The hard bound comes
from the core (`throttled`); this keeps the pair away from it. (Scales et al., VMware FT, section 2.4.)"""

CATCH_UP_SHARE = 2.0
"""While a joiner catches up with the log, a busy live machine rests for so many slices after each: it must come to an
end, soon, and without a pause that a client would notice."""

PENDING_INPUT_MAX = 1 << 20
"""Bytes of input that wait for room in the guest's device. The edge's window is far smaller."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How a live engine cuts its run. None of it is visible to the guest."""

    slice_ns: int = 8_000_000
    digest_interval_ns: int = 500_000_000


class Runner:
    """`report` gets what happened, in order; `interrupted()` says that somebody waits for the machine."""

    def __init__(
        self,
        machine: Machine,
        pos: int,
        pacer: Pacer,
        config: EngineConfig,
        report: Callable[[Report], None],
        interrupted: Callable[[], bool],
        overlays: OverlayWriter | None = None,
    ) -> None:
        self._machine = machine
        self.disks = DiskDuty(machine, overlays)
        self._scrubber = Scrubber(machine, interrupted)
        self._pacer = pacer
        self._config = config
        self._report = report
        self._interrupted = interrupted
        self._pos = pos
        self.live = False
        self.throttled = True
        self.lag_ticks = 0
        self.is_joined = False
        """Of those who are behind, one is a joiner."""
        self._lags: deque[int] = deque(maxlen=LAGS_LOOKED_AT)
        self._idle = False
        self._sample_due = False
        self._sampled_ns = 0
        self._diverged = False
        self._halt_reported = False
        self._real_time_told = False
        self._pending: dict[str, deque[Input]] = {}
        self._pending_size = 0
        self.backlog: deque[Entry] = deque()
        self.last_entry_tick = machine.tick
        self._heard = HeardClock()
        self._next_digest_ns = 0
        self._digest_tick = machine.tick
        self.digest_due = False
        self._copy: MachineCopy | None = None
        self.busy_ns = 0
        self.slices = 0

    def turn(self, ticks_max: int | None) -> float:
        """Run for a slice, of at most `ticks_max`. Returns how long to sleep before the next turn, in seconds."""
        if self.live:
            return self._turn_live(ticks_max)
        if ticks_max is not None and not self._is_short():
            return 0.0
        return self._turn_follow(lent=ticks_max is not None)

    def feed(self, entries: tuple[Entry, ...], received_ns: int) -> None:
        """Following: more of the log."""
        for entry in entries:
            if isinstance(entry, Clock):
                self._heard.hear(entry.mtime, received_ns)
        self.backlog.extend(entries)

    def _is_short(self) -> bool:
        backlog = self.backlog
        if len(backlog) > LENT_ENTRIES_MAX or any(isinstance(entry, Digest) for entry in backlog):
            return False
        return not backlog or backlog[-1].tick - self._machine.tick <= LENT_TICKS

    def _timed_run(self, until: int) -> StopReason:
        started_ns, tick = time.monotonic_ns(), self._machine.tick
        stop = self._machine.run_until(until)
        elapsed_ns = time.monotonic_ns() - started_ns
        self.busy_ns += elapsed_ns
        self.slices += 1
        self._pacer.ran(stop.tick - tick, elapsed_ns)
        return stop.reason

    def _report_halt(self) -> None:
        halt = self._machine.halt
        if halt is not None and not self._halt_reported:
            self._halt_reported = True
            self.log_digest()
            self._report(Halted(self._machine.tick, halt))

    # Live

    def _turn_live(self, ticks_max: int | None) -> float:
        """One slice. Returns how long the engine may sleep before the next one, in seconds."""
        machine = self._machine
        if machine.halt is not None:
            self._report_halt()
            return IDLE_WAIT_MAX_S
        if self.throttled:
            return IDLE_WAIT_MAX_S
        if self._copy is not None and self._copy.stands:
            return self._stand(self._copy)
        entries: list[Entry] = []
        now_ns = time.monotonic_ns()
        if self._idle:
            wait_s = self._idle_wait_s(now_ns)
            if wait_s > 0:
                return wait_s
            self._idle, self._sample_due = False, True
        if machine.tick == 0 and not self._real_time_told:
            self._log(entries, RealTime(0, time.time_ns()))
            self._real_time_told = True
        if self._sample_due:
            self._sample(entries, now_ns)
            self._sample_due = False
        self._supply_entropy(entries)
        self._deliver_inputs(entries)
        slice_ticks = ticks_max or max(SLICE_TICKS_MIN, self._pacer.ticks_in(self._config.slice_ns))
        reason = self._timed_run(machine.tick + slice_ticks)
        self._idle = reason is StopReason.IDLE
        at_end = reason in (StopReason.LIMIT, StopReason.ATTENTION, StopReason.HALTED)
        self._end_turn(entries, sample=at_end, lent=ticks_max is not None)
        if reason is StopReason.HALTED:
            self._report_halt()
        if self._idle:
            return self._idle_wait_s(time.monotonic_ns())
        return self._brake_s(slice_ticks) if reason is StopReason.LIMIT and ticks_max is None else 0.0

    def _brake_s(self, slice_ticks: int) -> float:
        self._lags.append(self.lag_ticks)
        excess = min(self._lags) - LAG_SLICES * slice_ticks
        if excess <= 0:
            return 0.0
        share = CATCH_UP_SHARE if self.is_joined else BRAKE_SHARE
        return share * min(excess, slice_ticks) / self._pacer.ticks_per_s()

    def _idle_wait_s(self, now_ns: int) -> float:
        """In WFI: how long until there is something to wake the hart for."""
        if self._has_deliverable_input():
            return 0.0
        deadline = self._machine.deadline()
        if deadline is None:
            return IDLE_WAIT_MAX_S
        return min(max(0, self._pacer.wake_ns(deadline) - now_ns) / NS_PER_S, IDLE_WAIT_MAX_S)

    def _end_turn(self, entries: list[Entry], *, sample: bool, lent: bool = False) -> None:
        machine = self._machine
        now_ns = time.monotonic_ns()
        # A guest that speaks all the time never gets to the end of a slice: its clock is due all the same.
        sample = sample or now_ns - self._sampled_ns >= self._config.slice_ns
        if sample and machine.halt is None and machine.tick > self.last_entry_tick:
            self._sample(entries, now_ns)
        self.digest_due = now_ns >= self._next_digest_ns and machine.tick > self._digest_tick
        if self.digest_due and not lent:
            self._log(entries, self._new_digest())
        if machine.tick > self.last_entry_tick:
            self._log(entries, Horizon(machine.tick))
        outputs = in_pieces(machine.take_outputs())
        if entries or outputs:
            self._report(Executed(machine.tick, tuple(entries), outputs))
        self.disks.look(lent=lent)
        self._scrubber.look(lent=lent)

    def _sample(self, entries: list[Entry], now_ns: int) -> None:
        self._log(entries, self._pacer.sample(now_ns, self._machine.tick))
        self._sampled_ns = now_ns

    def log_digest(self) -> None:
        if self.live:
            digest = self._new_digest()
            self.last_entry_tick = digest.tick
            self._report(Executed(digest.tick, (digest,), ()))

    def _new_digest(self) -> Digest:
        self.digest_due = False
        self._digest_tick = self._machine.tick
        self._next_digest_ns = time.monotonic_ns() + self._config.digest_interval_ns
        return Digest(self._machine.tick, self._machine.digest())

    def _log(self, entries: list[Entry], entry: Entry) -> None:
        self._machine.apply(entry)
        entries.append(entry)
        self.last_entry_tick = entry.tick

    def enqueue(self, item: Input) -> None:
        if self._pending_size + len(item.data) > PENDING_INPUT_MAX:
            raise FtvmError(f"{item.device}: over {PENDING_INPUT_MAX} bytes wait: the sender ignores the window")
        self._pending.setdefault(item.device, deque()).append(item)
        self._pending_size += len(item.data)

    def _room_for(self, item: Input) -> int:
        """How much of this input the machine takes now. A frame that fits into an entry is not cut: whoever goes on
        from the log must not begin in the middle of one."""
        room = self._machine.input_room(item.device)
        return room if item.device != NET or room >= min(len(item.data), INPUT_SIZE_MAX) else 0

    def _has_deliverable_input(self) -> bool:
        return any(queue and self._room_for(queue[0]) > 0 for queue in self._pending.values())

    def _deliver_inputs(self, entries: list[Entry]) -> None:
        machine = self._machine
        for device, queue in self._pending.items():
            while queue and (room := self._room_for(queue[0])) > 0:
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

    def _supply_entropy(self, entries: list[Entry]) -> None:
        wanted = self._machine.entropy_wanted()
        if wanted:
            self._log(entries, Entropy(self._machine.tick, os.urandom(min(wanted, ENTROPY_SIZE_MAX))))

    def resize(self, columns: int, rows: int) -> None:
        """Live: the terminal on the guest's console has this size."""
        machine = self._machine
        if self.live and machine.board.console and machine.halt is None:
            entries: list[Entry] = []
            self._log(entries, Resize(machine.tick, columns, rows))
            self._idle = False
            self._end_turn(entries, sample=False)

    def execute_control(self, action: Action) -> None:
        entries: list[Entry] = []
        self._log(entries, Control(self._machine.tick, action))
        self._idle = False
        self._end_turn(entries, sample=False)
        self._report_halt()

    # Being copied, live

    def copy(self, session: int, inventory: bytes) -> None:
        try:
            self._copy = MachineCopy(session, self._machine, inventory, self._report)
        except SnapshotError as error:
            self._report(CopyFailed(session, str(error)))

    def copy_on(self, session: int) -> None:
        if self._copy is not None and self._copy.session == session and self._copy.step():
            self._copy = None

    def cancel_copy(self, session: int) -> None:
        if self._copy is not None and self._copy.session == session:
            self._copy = None

    def _stand(self, copy: MachineCopy) -> float:
        left_s = copy.stand_left_s()
        if left_s == 0:
            self._copy = None
            self._report(CopyFailed(copy.session, "the guest writes faster than it can be copied, even at rest"))
        return left_s

    def quiesce(self) -> None:
        self.throttled = True
        self._report(Quiesced())

    # Following

    def _turn_follow(self, *, lent: bool = False) -> float:
        """Consume what was fed, then report once. Returns how long the engine may sleep."""
        if not self.backlog or self._diverged:
            return IDLE_WAIT_MAX_S
        machine = self._machine
        pos = self._pos
        while self.backlog:
            entry = self.backlog[0]
            if not self._run_to(entry.tick):
                break
            if isinstance(entry, Digest):
                ours = machine.digest()
                if ours != entry.digest:
                    self._diverge(f"digest {ours.hex()} here, {entry.digest.hex()} on the primary")
                    break
            else:
                machine.apply(entry)
            self.backlog.popleft()
            self.last_entry_tick = entry.tick
            self._pos += 1
        outputs = in_pieces(machine.take_outputs())
        if not self._diverged and (self._pos > pos or outputs):
            self._report(Followed(self._pos, machine.tick, outputs))
        self.disks.look(lent=lent)
        self._scrubber.look(lent=lent)
        return 0.0 if self.backlog and not self._diverged else IDLE_WAIT_MAX_S

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
            if reason is StopReason.ATTENTION and self._interrupted():
                return False
            if reason is StopReason.OUTPUT:
                self._report(Followed(self._pos, machine.tick, in_pieces(machine.take_outputs())))
        return True

    def _diverge(self, why: str) -> None:
        self._diverged = True
        self._report(Diverged(self._machine.tick, why))

    def go_live(self) -> None:
        while self.backlog and not self._diverged:
            self._turn_follow()
        if self._diverged:
            return
        if (anchor := self._heard.anchor()) is not None:
            self._pacer.anchor(*anchor)
        self.live = True
        self._sample_due = True
        self._digest_tick = self._machine.tick
        self.last_entry_tick = self._machine.tick
        self._report(WentLive(self._machine.tick))
