"""Debian's kernel in lockstep: boot, disk, network, console and clock through kills of whichever node is live."""

from pathlib import Path

from tests.guests.debian import DebianGuest
from tests.host.pair import run
from tests.linux.scene import Findings, play

KILLS = 2
SEED = 4


def test_nothing_of_linux_is_lost_or_doubled_while_its_primaries_are_killed(
    debian_guest: DebianGuest, tmp_path: Path
) -> None:
    """Two clients of redis, a writer of files and the console, from boot, in which the first kill falls, to power-off;
    then both disks are the same and whole, all logs replay, and the guest's clock was never off by 10 ms."""
    seen: list[Findings] = []

    async def main() -> None:
        seen.append(await play(tmp_path, debian_guest.kernel.parent, kills=KILLS, seed=SEED, tell=print))

    run(main, timeout_s=280)
    (found,) = seen
    assert not found.violations, "\n".join(found.violations)
    assert found.kills == KILLS
    assert found.files_kept > 5
    assert found.digests_compared > 10
