"""Debian's kernel in lockstep: boot, disk, network, console and clock through kills of whichever node is live."""

from pathlib import Path

from tests.guests.debian import DebianGuest
from tests.host.pair import run
from tests.linux.console import Reading, drift_ns
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

    run(main)
    (found,) = seen
    assert not found.violations, "\n".join(found.violations)
    assert found.kills == KILLS
    assert found.files_kept > 5
    assert found.digests_compared > 10


def test_a_clock_that_stood_still_at_a_failover_is_seen() -> None:
    """Whatever the round trips; and one that did not is not, though single readings were late."""
    ms = 1_000_000

    def readings(lost_ns: int) -> list[Reading]:
        made = []
        for number in range(100):
            sent_ns = number * 100 * ms
            guest_ns = sent_ns + ms - (lost_ns if number > 30 else 0) - (40 * ms if number % 30 == 7 else 0)
            made.append(Reading(guest_ns, sent_ns, sent_ns + 3 * ms))
        return made

    assert drift_ns(readings(0)) == 0
    assert drift_ns(readings(14 * ms)) == 11 * ms
