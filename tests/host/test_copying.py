"""The engine copies its machine between slices: rounds that end, a guest that outruns them, and what is broken off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from ftvm.errors import SnapshotError
from ftvm.host import copying
from ftvm.host.background import run_in_background
from ftvm.host.copying import MachineCopy, Progress
from ftvm.host.journal import Journal
from ftvm.host.reports import Copied, CopyFailed, CopyFinished, Executed, Followed, Report
from ftvm.log.entry import Horizon
from ftvm.log.file import LogReader
from ftvm.machine.machine import Machine
from ftvm.machine.transfer import Incoming
from tests.host.engines import RAM_MIB, Rig, new_machine
from tests.host.test_journal import ALONE, MACHINE, STAMP, STATE

STEP_TICKS = 40_000


def written(machine: Machine, first: int, count: int) -> None:
    """A guest that wrote into these pages."""
    for page in range(first, first + count):
        machine._memory.write(page * 4096, machine.tick.to_bytes(8, "little"))
    machine.flush_caches()


def assembled(machine: Machine, reports: list[Report]) -> Machine:
    into = Machine(machine.board, machine.image)
    into.wipe()
    incoming = Incoming(into)
    for report in reports:
        if isinstance(report, Copied):
            for chunk in report.chunks:
                incoming.collect(chunk)
        elif isinstance(report, CopyFinished):
            incoming.finish(report.record)
    return into


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_between_slices_of_any_length_is_the_machine(seed: int) -> None:
    chance = random.Random(seed)
    machine, reports = new_machine("sieve"), list[Report]()
    copy = MachineCopy(1, machine, b"", reports.append)
    while not copy.step():
        machine.run_until(machine.tick + chance.randrange(1, STEP_TICKS))
    assert assembled(machine, reports).digest() == machine.digest()
    finished = reports[-1]
    assert isinstance(finished, CopyFinished)
    assert finished.statistics.rounds >= 2


def test_a_guest_that_outruns_the_copy_stands_still_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "LAST_PAGES_MAX", 8)
    monkeypatch.setattr(copying, "STEP_PAGES", 64)
    monkeypatch.setattr(copying, "STEP_NS", 0)
    machine, reports = new_machine("sieve"), list[Report]()
    copy = MachineCopy(1, machine, b"", reports.append)
    steps = 0
    while not copy.step():
        steps += 1
        assert steps < 1000, "the rounds do not end"
        if not copy.stands:
            machine.run_until(machine.tick + 1000)
            written(machine, 1000, 1500)
    assert copy.stands
    stood = [report for report in reports if isinstance(report, Copied) and report.stands]
    assert len(stood) > 1, "the rest goes in steps too, however large"
    assert max(len(report.chunks) for report in stood) <= 2
    assert assembled(machine, reports).digest() == machine.digest()


def test_rounds_end_without_progress_and_go_on_with_it() -> None:
    progress = Progress(10_000)
    assert [progress.judge(pages, rounds) for rounds, pages in enumerate((9000, 5000, 4900, 3000))] == [True] * 4
    assert progress.judge(2900, 5)
    assert not progress.judge(2900, 6)
    assert not Progress(1 << 20).judge(10, copying.ROUNDS_MAX)


def test_no_guest_stands_still_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "LAST_PAGES_MAX", -1)
    monkeypatch.setattr(copying, "STAND_MAX_NS", 20_000_000)
    live = Rig(new_machine("sieve"))
    live.go_live()
    live.engine.copy(1, b"")
    while not any(isinstance(report, Copied) and report.stands for report in live.reports):
        before = len(live.reports)
        live.engine.copy_on(1)
        live.wait(lambda before=before: len(live.reports) > before, "a step")  # type: ignore[misc]
    live.wait_for(CopyFailed)
    tick = live.engine.statistics().tick
    live.wait(lambda: live.engine.statistics().tick > tick, "ticks")
    live.stop()


def test_a_cancelled_copy_is_silent_and_the_next_one_is_whole() -> None:
    live = Rig(new_machine("sieve"))
    live.go_live()
    live.engine.copy(77, b"")
    live.engine.copy_on(77)
    live.wait_for(Copied)
    live.engine.cancel_copy(77)
    live.engine.copy_on(77)
    tick = live.engine.statistics().tick
    live.wait(lambda: live.engine.statistics().tick > tick, "ticks")
    assert sum(isinstance(report, Copied) for report in live.reports) == 1
    pos, copied = live.copied()
    live.wait(lambda: len(live.entries) > pos, "more log")
    live.stop()
    follower = Rig(copied, pos)
    follower.feed(live.entries[pos:])
    follower.wait_followed(len(live.entries))
    follower.stop()
    assert any(isinstance(report, Followed) for report in follower.reports)
    assert follower.machine.digest() == live.machine.digest()


def test_a_node_that_returns_gets_what_changed_only() -> None:
    machine = new_machine("sieve")
    machine.run_until(1000)
    written(machine, 1000, 1000)
    live = Rig(machine)
    live.go_live()
    live.wait_for(Executed, count=20)
    _, older = live.copied()
    assert live.transfer is not None
    assert live.transfer.pages > 1000
    live.wait_for(Executed, count=10)
    live.copied(older)
    assert live.transfer.pages_kept > RAM_MIB * 256 - 1000
    live.stop()


def test_a_frozen_machine_is_the_one_that_ran_then() -> None:
    machine = new_machine("sieve")
    machine.run_until(200_000)
    frozen, then = machine.freeze(), machine.save()
    machine.run_until(400_000)
    assert frozen(lambda: True) == then
    assert machine.save() != then
    with pytest.raises(SnapshotError, match="wanted"):
        frozen(lambda: False)


# ---- the journal whose beginning takes long


def test_what_is_logged_and_stamped_before_the_file_is_there_goes_into_it_in_order(tmp_path: Path) -> None:
    path = tmp_path / "node.ftlog"
    journal = Journal(path)
    number = journal.begin(5)
    journal.append((Horizon(1), Horizon(2)))
    journal.commit(7)
    journal.stamp(ALONE)
    journal.append((Horizon(3),))
    journal.commit(8)
    journal.write()
    assert not path.exists()
    journal.adopt(number, journal.create(MACHINE, 5, STATE, STAMP))
    journal.close()
    with LogReader(path) as reader:
        seen = []
        for batch in reader.batches():
            seen.append((batch.position, len(batch.entries), reader.stamp))
        assert seen == [(5, 2, STAMP), (7, 1, ALONE)]


def test_a_file_that_comes_too_late_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "node.ftlog"
    journal = Journal(path)
    number = journal.begin(5)
    made = journal.create(MACHINE, 5, STATE, STAMP)
    assert journal.is_awaited(number)
    again = journal.begin(9)
    assert not journal.is_awaited(number)
    journal.adopt(number, made)
    assert not path.exists()
    journal.adopt(again, journal.create(MACHINE, 9, STATE, STAMP))
    assert path.exists()
    journal.close()
    assert not journal.is_awaited(again)


def test_an_older_log_is_put_aside_before_the_new_one_is_there(tmp_path: Path) -> None:
    """It says what this node was; should the process die now, nothing may be restarted from that."""
    path = tmp_path / "node.ftlog"
    first = Journal(path)
    first.adopt(first.begin(0), first.create(MACHINE, 0, STATE, STAMP))
    first.close()
    Journal(path).begin(5)
    assert not path.exists()
    assert (tmp_path / "node.ftlog.1").exists()


def test_background_work_returns_or_raises() -> None:
    async def main() -> None:
        assert await run_in_background(lambda: 42) == 42
        with pytest.raises(ZeroDivisionError):
            await run_in_background(lambda: 1 // 0)

    trio.run(main)
