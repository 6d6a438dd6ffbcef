"""Where a node's machine stands: the engine that runs it and the journal of what it did.

Theory of operation. The core's effects on the machine are carried out here, and what the engine reports goes to the
core as events, in the order in which it happened: first into the journal, then to the core. Nothing is decided here,
and nothing is known of links, peers or the arbiter. A node has one room for all its lives, and at most one machine in
it; what was fed to a machine that is still being restored waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from ftvm.config import Config
from ftvm.errors import FtvmError, NotProtected, SnapshotError
from ftvm.host import node_statistics, reports, settings
from ftvm.host.background import run_in_background
from ftvm.host.disk import DiskError
from ftvm.host.engine import Engine, EngineStatistics
from ftvm.host.guest import Guest
from ftvm.host.joining import Frozen, Joining
from ftvm.host.journal import Journal
from ftvm.host.node_disks import NodeDisks
from ftvm.host.node_statistics import Counters
from ftvm.host.pacing import Pacer
from ftvm.host.replay import compare, run_to
from ftvm.host.room_owner import MachineEffect, RoomOwner
from ftvm.host.sending import Sending
from ftvm.host.welcome import MachineIdentity
from ftvm.log.entry import Digest, Entry
from ftvm.log.file import LogReader, LogWriter
from ftvm.log.stamp import Held, Stamp
from ftvm.machine.machine import Machine
from ftvm.replication import effects
from ftvm.replication.arbitration import State
from ftvm.replication.messages import Ledger
from ftvm.replication.node import Node

ENGINE_STOP_S = 2.0
DIGEST_WAIT_S = 3.0
LOG_WAIT_S = 5.0
REPLAY_NOTE_S = 2.0

class MachineRoom:
    """Not thread-safe: for the trio thread only. Closed by `aclose`."""

    def __init__(
        self, config: Config, name: str, guest: Guest, disks: NodeDisks, owner: RoomOwner, counters: Counters
    ) -> None:
        self._config = config
        self._name = name
        self._owner = owner
        self._counters = counters
        self._journal = Journal(config.node(name).log)
        self._guest = guest
        self._disks = disks
        self._first = guest.power_on()
        self.identity = MachineIdentity(self._first.config_hash, self._first.image_hash)
        self._engine: Engine | None = None
        self._fed_early: list[effects.Apply] | None = None
        self._sending = Sending(owner.wait_queue, owner.note)
        self._joining = Joining(guest, self.identity, config.node(name).log)
        self._making_log = trio.Lock()
        self._log_made = trio.Event()
        self._log_made.set()
        self._digest_logged = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery
        self._wake: Callable[[], None]

    def open(self, nursery: trio.Nursery, wake: Callable[[], None]) -> None:
        """`wake` is called from the engine's thread when `take_reports` has something to do."""
        self._nursery, self._wake = nursery, wake

    async def inspect_log(self) -> Held | None:
        """What an earlier process left in this node's log of this machine."""
        self._journal.close()
        return await trio.to_thread.run_sync(self._journal.inspect, self._config.machine.name, self._fits)

    def _fits(self, log: LogReader) -> str:
        if log.header.image_hash != self.identity.image_hash:
            return f"is of a guest image that differs: {log.header.image_hash.hex()[:12]} there"
        if log.header.config_hash != self.identity.config_hash:
            return "is of a machine whose configuration differs"
        return ""

    async def aclose(self) -> None:
        """A log whose beginning is still being written is waited for, for `LOG_WAIT_S` at most; and overlays, until
        they are all written."""
        machine = await self.stop_engine()
        await self._disks.aclose(machine)
        with trio.move_on_after(LOG_WAIT_S, shield=True):
            await self._log_made.wait()
        self._journal.close()

    async def stop_engine(self) -> Machine | None:
        """Returns the machine that nobody runs any more, if there was one."""
        engine, self._engine = self._engine, None
        if engine is None:
            return None
        engine.stop()
        self._sending.cancel()
        with trio.CancelScope(shield=True):
            ended = await trio.to_thread.run_sync(engine.join, ENGINE_STOP_S)
        if not ended:
            return None
        self._joining.keep(engine.machine)
        return engine.machine

    async def load_disks(self, ledger: Ledger, *, force: bool) -> None:
        """For a machine that may be started cold. Raises `DiskError`."""
        await self._disks.load(self._first, ledger, force=force)

    # ---- effects

    def carry_out(self, effect: MachineEffect) -> None:
        engine = self._engine
        match effect:
            case effects.TakeInventory(session):
                self._nursery.start_soon(self._take_inventory, self._owner.core, session)
            case effects.CollectSnapshot(data):
                self._collect(self._owner.core, data)
            case effects.RestoreSnapshot(state, pos, tick):
                self._fed_early = []
                self._nursery.start_soon(self._restore, self._owner.core, state, pos, tick)
            case effects.CopyMachine(session, inventory):
                assert engine is not None
                self._sending.begin(engine, session, inventory)
                self._nursery.start_soon(self._sending.run, engine, session)
            case effects.CancelCopy(session):
                self._sending.cancel()
                if engine is not None:
                    engine.cancel_copy(session)
            case effects.BootMachine():
                self._boot()
            case effects.ReplayLog(stamp):
                self._nursery.start_soon(self._replay, self._owner.core, stamp)
            case effects.WriteStamp(number, stamp, wait):
                self._journal.commit(self._owner.core.committed)
                self._journal.stamp(stamp)
                self._nursery.start_soon(self._sync, self._owner.core, number, wait)
            case effects.Apply():
                self._apply(effect)
            case effects.GoLive(_):
                assert engine is not None
                engine.go_live()
            case effects.Throttle(on, _):
                if engine is not None:
                    engine.throttle(on)
            case effects.Quiesce():
                assert engine is not None
                engine.quiesce()
            case effects.InjectInput(device, offset, data, is_break):
                assert engine is not None
                engine.inject(device, offset, data, is_break)
            case effects.InjectResize(columns, rows):
                assert engine is not None
                engine.resize(columns, rows)
            case effects.InjectControl(action):
                assert engine is not None
                engine.control(action)

    async def _take_inventory(self, core: Node, session: int) -> None:
        hashes = await self._joining.inventory()
        self._owner.tell(core, lambda now: core.inventory_taken(session, hashes, now))

    def _collect(self, core: Node, data: bytes) -> None:
        try:
            self._joining.collect(data)
        except SnapshotError as error:
            why = str(error)
            self._owner.tell(core, lambda now: core.restore_failed(why, now))

    async def _restore(self, core: Node, record: bytes, pos: int, tick: int) -> None:
        try:
            arrival = await self._joining.complete(record, freeze=self._journal.is_kept)
            if arrival.machine.tick < tick:
                raise SnapshotError(f"the machine stands at tick {arrival.machine.tick}, and tick {tick} was told")
        except SnapshotError as error:
            why = str(error)
            if self._joining.distrusts_itself:
                self._owner.note(f"{why}: this node joins again, and takes all of the machine")
            self._owner.tell(core, lambda now: core.restore_failed(why, now))
            return
        if core is not self._owner.core:
            return
        self._joining.installed()
        self._counters.reprotection = arrival.reprotection
        self._begin_log(pos, arrival.frozen)
        self._start_engine(arrival.machine, pos)
        early, self._fed_early = self._fed_early or [], None
        for effect in early:
            self._apply(effect)
        self._owner.tell(core, core.restored)

    async def _make_log(self, number: int, pos: int, frozen: Frozen, made: trio.Event) -> None:
        """Beside the machine that runs already: to write a large one's state takes seconds."""
        journal, stamp = self._journal, self._first_stamp()

        def make() -> LogWriter | Exception:
            try:
                state = frozen(lambda: journal.is_awaited(number))
            except SnapshotError as error:
                return error
            return journal.create(self.identity, pos, state, stamp)

        try:
            async with self._making_log:
                journal.adopt(number, await run_in_background(make))
        finally:
            made.set()

    def _report_copy(self, core: Node, report: reports.Copied | reports.CopyFinished | reports.CopyFailed) -> None:
        session = report.session
        match report:
            case reports.Copied(_, chunks, _):
                for chunk in chunks:
                    self._owner.tell(core, partial(core.copied, session, chunk))
            case reports.CopyFinished(_, record, _):
                self._owner.tell(core, lambda now: core.copy_finished(session, record, now))
            case reports.CopyFailed(_, why):
                self._owner.tell(core, lambda now: core.copy_failed(session, why, now))
        self._counters.reprotection = self._sending.took(report) or self._counters.reprotection

    async def _sync(self, core: Node, number: int, wait: bool) -> None:
        # A log whose file is still being made has the stamp only when that is there, and must not appear without it
        # once somebody counts on it.
        while True:
            async with self._making_log:
                pass
            if not self._journal.awaits_file:
                break
        fd = self._journal.duplicate_fd()
        if fd is not None:
            try:
                await trio.to_thread.run_sync(os.fsync, fd)
            except OSError as error:
                self._journal.sync_failed(error)
            finally:
                os.close(fd)
        if wait:
            ok = not self._journal.stuck
            self._owner.tell(core, lambda now: core.stamped(number, ok, now))

    async def _replay(self, core: Node, stamp: Stamp) -> None:
        await self.stop_engine()
        told_s = trio.current_time()

        def progress(tick: int) -> None:
            nonlocal told_s
            now_s = trio.from_thread.run_sync(trio.current_time)
            if now_s - told_s >= REPLAY_NOTE_S:
                told_s = now_s
                trio.from_thread.run_sync(self._owner.note, f"replays its log: tick {tick} so far")

        try:
            machine, writer, start_size = await trio.to_thread.run_sync(self._reread, stamp, progress)
        except FtvmError as error:
            why, code = str(error), error.exit_code
            self._owner.tell(core, lambda now: core.replay_failed(why, code, now))
            return
        self._journal.go_on(writer, start_size)
        pos, tick = writer.position, machine.tick
        outputs = {device: machine.output_offset(device) for device in machine.streams}
        inputs = {device: machine.input_offset(device) for device in machine.streams}
        self._start_engine(machine, pos)
        self._owner.tell(core, lambda now: core.replayed(pos, tick, outputs, inputs, now))

    def _reread(self, stamp: Stamp, progress: Callable[[int], None]) -> tuple[Machine, LogWriter, int]:
        machines: list[Machine] = []

        def begin(snapshot: bytes, _pos: int) -> None:
            machines.append(Machine.restore(snapshot, self._guest.disks))

        def each(entry: Entry) -> None:
            run_to(machines[0], entry.tick, progress)
            if isinstance(entry, Digest):
                compare(machines[0], entry.digest)
            else:
                machines[0].apply(entry)

        writer, start_size = self._journal.reread(stamp, begin, each)
        return machines[0], writer, start_size

    def _apply(self, effect: effects.Apply) -> None:
        if self._fed_early is not None:
            self._fed_early.append(effect)  # the snapshot is still being restored
            return
        assert self._engine is not None
        self._count(effect.entries)
        self._journal.append(effect.entries)
        self._journal.commit(effect.pos + len(effect.entries))
        self._engine.feed(effect.entries, time.monotonic_ns())

    def _boot(self) -> None:
        """The engine gets the machine that was just switched on; the journal starts anew with its state."""
        machine = self._first
        try:
            self._disks.booted(machine)
        except DiskError as error:
            self._owner.stop(str(error), error.exit_code)
        if machine.board.disks:
            self._begin_log(0, machine.freeze() if self._journal.is_kept else None)
        else:
            self._journal.start(self.identity, 0, machine.save(), self._first_stamp())
        self._start_engine(machine, 0)

    def _begin_log(self, pos: int, frozen: Frozen | None) -> None:
        """A new log, whose file with the machine's state is made in the background."""
        number = self._journal.begin(pos)
        if frozen is not None:
            self._log_made = trio.Event()
            self._nursery.start_soon(self._make_log, number, pos, frozen, self._log_made)

    def _first_stamp(self) -> Stamp:
        """Of a log that does not count yet."""
        return Stamp(self._config.machine.name, self._name, self._owner.core.life, 0, b"", 0, ())

    def _start_engine(self, machine: Machine, pos: int) -> None:
        pacer = Pacer(machine.mtime, time.monotonic_ns())
        engine = Engine(machine, pos, pacer, settings.of_engine(self._config), self._wake, self._disks.writer)
        self._disks.on_written(engine.overlays_written)
        self._engine = engine
        engine.start()

    def proceed(self, core: Node) -> None:
        """After every round of events: write what is committed, and have what was fed or injected seen to."""
        self._journal.commit(core.committed)
        self._journal.write(time.monotonic_ns())
        self._disks.tend(core.generation)
        if self._engine is not None:
            self._engine.quiet = core.state is State.IN_SYNC
            self._engine.kick()
            self.take_reports()

    # ---- the engine's reports

    def take_reports(self) -> None:
        """Pass on to the core what the engine did since the last call."""
        if self._engine is not None:
            for report in self._engine.take_reports():
                self._report(self._owner.core, report)

    def _report(self, core: Node, report: reports.Report) -> None:
        tell = partial(self._owner.tell, core)
        match report:
            case reports.Executed(tick, entries, outputs):
                self._count(entries)
                self._journal.append(entries)
                tell(lambda now: core.executed(tick, entries, outputs, now))
                if self._engine is not None:
                    behind = core.behind_ticks
                    self._engine.hold_back(behind, joins=behind > core.lag_ticks)
            case reports.Followed(pos, tick, outputs):
                tell(lambda now: core.applied(pos, tick, outputs, now))
            case reports.Copied() | reports.CopyFinished() | reports.CopyFailed():
                self._report_copy(core, report)
            case reports.Quiesced():
                tell(core.quiesced)
            case reports.WentLive(_):
                self._owner.went_live()
            case reports.Halted(tick, halt):
                tell(lambda now: core.halted(tick, halt.ok, halt.code, halt.how, now))
            case reports.Diverged(tick, why):
                self._owner.note(f"DIVERGENCE at tick {tick}: {why}")
                tell(lambda now: core.diverged(tick, now))
            case reports.Failed(error):
                if not isinstance(error, FtvmError):
                    raise error
                self._owner.stop(str(error), error.exit_code)

    def _count(self, entries: tuple[Entry, ...]) -> None:
        self._counters.log_entries += len(entries)
        for entry in entries:
            if isinstance(entry, Digest):
                self._counters.digests += 1
                self._counters.last_digest = entry
                self._digest_logged.unpark_all()

    # ---- what the operator asks

    def statistics(self) -> EngineStatistics | None:
        return None if self._engine is None else self._engine.statistics()

    @property
    def log_bytes(self) -> int:
        return self._journal.encoded_bytes

    def describe_log(self) -> dict[str, Any]:
        """For `ftvm status`: the log, as made or executed here and as it stands on disk."""
        self._journal.write()
        return {**node_statistics.describe_log(self._counters), **self._journal.describe()}

    def describe_machine(self) -> dict[str, Any]:
        """For `ftvm status`: what the guest has beside its CPU and its memory."""
        board = self._first.board
        net = None if board.net is None else {"mac": board.net.mac, "mtu": board.net.mtu}
        return {"ram_mib": board.ram_mib, "disks": self._disks.describe(), "net": net}

    async def log_digest(self) -> Digest:
        """Logs a `Digest` of the live machine now, and waits until it is in the log. Raises `NotProtected`."""
        if self._engine is None or not self._engine.statistics().live:
            raise NotProtected(f"node {self._name} does not run the machine live; ask the other one")
        self._engine.digest_now()
        with trio.move_on_after(DIGEST_WAIT_S):
            await self._digest_logged.park()
            digest = self._counters.last_digest
            assert digest is not None
            self._journal.write()
            return digest
        raise NotProtected(f"node {self._name} logged no digest within {DIGEST_WAIT_S:g} s: it is throttled or halted")
