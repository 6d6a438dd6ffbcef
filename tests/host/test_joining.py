"""What a node has already need not come; what it has and is not what it said is found out, and not believed again."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ftvm.config import GuestConfig
from ftvm.errors import SnapshotError
from ftvm.host.guest import Guest
from ftvm.host.joining import Arrival, Joining
from ftvm.host.journal import Journal
from ftvm.host.welcome import MachineIdentity
from ftvm.machine.machine import Machine
from ftvm.machine.transfer import CopyDiffers, Outgoing
from tests.host.engines import new_machine
from tests.host.test_journal import STAMP


def running(ticks: int = 300_000) -> Machine:
    machine = new_machine("sieve")
    machine.run_until(ticks)
    return machine


def identity(machine: Machine) -> MachineIdentity:
    return MachineIdentity(machine.config_hash, machine.image_hash)


def guest_of(machine: Machine) -> Guest:
    return Guest(GuestConfig(image=Path("sieve")), machine.board, machine.image, ())


def joining(log: Path | None = None) -> Joining:
    machine = new_machine("sieve")
    return Joining(guest_of(machine), identity(machine), log)


async def join(node: Joining, primary: Machine) -> tuple[Arrival, Outgoing]:
    outgoing = Outgoing(primary, await node.inventory())
    while outgoing.left:
        for chunk in outgoing.take(10_000):
            node.collect(chunk)
    return await node.complete(outgoing.end(0), freeze=True), outgoing


def test_a_machine_arrives_and_its_snapshot_may_be_made_later() -> None:
    async def main() -> None:
        primary = running()
        arrival, _ = await join(joining(), primary)
        then = primary.save()
        assert arrival.machine.digest() == primary.digest()
        arrival.machine.run_until(400_000)
        assert arrival.frozen is not None
        assert arrival.frozen(lambda: True) == then
        assert not arrival.reprotection.sent

    trio.run(main)


def test_the_machine_that_ran_here_before_is_not_sent_again() -> None:
    async def main() -> None:
        node, primary = joining(), running()
        node.keep(running(300_000))
        arrival, outgoing = await join(node, primary)
        assert outgoing.statistics(0).pages == 0
        assert arrival.machine.digest() == primary.digest()

    trio.run(main)


def log_of(machine: Machine, path: Path) -> Path:
    journal = Journal(path)
    journal.adopt(journal.begin(5), journal.create(identity(machine), 5, machine.save(), STAMP))
    journal.close()
    return path


def test_a_restarted_process_has_what_its_log_begins_with(tmp_path: Path) -> None:
    async def main() -> None:
        node, primary = joining(log_of(running(), tmp_path / "node.ftlog")), running()
        arrival, outgoing = await join(node, primary)
        assert outgoing.statistics(0).pages == 0
        assert arrival.machine.digest() == primary.digest()

    trio.run(main)


@pytest.mark.parametrize("kind", ["another machine's", "damaged", "none"])
def test_a_log_that_is_of_no_use_is_as_good_as_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "node.ftlog"
    if kind == "another machine's":
        log_of(new_machine("kv"), path)
    elif kind == "damaged":
        path.write_bytes(b"not a log at all")

    async def main() -> None:
        assert await joining(path).inventory() == b""

    trio.run(main)


def test_a_copy_that_differs_is_not_run_and_the_next_join_takes_all() -> None:
    async def main() -> None:
        node, primary, mine = joining(), running(), running()
        node.keep(mine)
        outgoing = Outgoing(primary, await node.inventory())
        mine._memory.write(3000 * 4096, b"a bit that flipped after it was hashed")
        while outgoing.left:
            for chunk in outgoing.take(10_000):
                node.collect(chunk)
        with pytest.raises(CopyDiffers):
            await node.complete(outgoing.end(0), freeze=False)
        assert node.distrusts_itself
        assert await node.inventory() == b""
        arrival, _ = await join(node, primary)
        assert arrival.machine.digest() == primary.digest()
        node.installed()
        assert not node.distrusts_itself

    trio.run(main)


def test_a_copy_that_broke_off_is_gone_on_with() -> None:
    async def main() -> None:
        node, primary = joining(), running()
        primary._memory.write(2000 * 4096, bytes(range(1, 256)) * 4096)
        outgoing = Outgoing(primary, await node.inventory())
        chunks = outgoing.take(10_000)
        for chunk in chunks[:-1]:
            node.collect(chunk)
        _, again = await join(node, primary)
        assert 0 < again.statistics(0).pages < outgoing.statistics(0).pages

    trio.run(main)


def test_nothing_is_taken_that_was_not_asked_for() -> None:
    async def main() -> None:
        node = joining()
        with pytest.raises(SnapshotError, match="asked"):
            node.collect(b"x")
        with pytest.raises(SnapshotError, match="asked"):
            await node.complete(b"x", freeze=False)

    trio.run(main)
