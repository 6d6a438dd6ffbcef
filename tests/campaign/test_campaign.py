"""A few rounds of the campaign with every run of the tests; and that its verdicts can be bad ones."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from ftvm.cli.progress import prepared_kernel
from tests.campaign import report
from tests.campaign.faults import FAULTS, Fault, plan
from tests.campaign.load import longest_gap_ns
from tests.campaign.run import run
from tests.campaign.scene import Outcome, Scene
from tests.limits import TEST_S
from tests.namespaces import require_namespaces
from tests.namespaces.network import NAMESPACES

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_MS = 1000
"""The detector's: this computer also runs other tests."""


def campaign(rounds: list[Fault], keep: Path) -> list[Outcome]:
    require_namespaces()
    prepared_kernel()
    outcomes: list[Outcome] = []

    async def main() -> None:
        with trio.fail_after(TEST_S):
            await run(rounds, seed=1, timeout_ms=TIMEOUT_MS, tell=outcomes.append, keep=keep)

    trio.run(main)
    return outcomes


def test_a_zombie_a_partition_and_a_kill_violate_nothing(tmp_path: Path) -> None:
    outcomes = campaign(plan("smoke", random.Random(1)), tmp_path)
    assert [violation for outcome in outcomes for violation in outcome.violations] == []
    assert [outcome.generation for outcome in outcomes] == [2, 3, 4]
    zombie, partition, _ = outcomes
    assert zombie.zombie_bytes > 0, "the zombie said nothing that could have been refused"
    assert min(zombie.gap_ms, partition.gap_ms) > TIMEOUT_MS / 2
    assert all(outcome.operations > 50 for outcome in outcomes)


async def _wrong_answer(scene: Scene) -> None:
    """The history of a server that lost an acknowledged operation, and answered another one twice."""
    await scene.strike()
    await scene.served()
    history = scene.history
    victim = next(number for number, one in enumerate(history) if one.key.endswith(":l0") and one.value)
    del history[victim]
    again = next(one for one in history if one.key.endswith(":l1") and one.value)
    history.append(again)


async def _too_early(scene: Scene) -> None:
    """Somebody answers while nobody could be live."""
    await scene.strike()
    await scene.nobody_served(0.2)
    await scene.served()


async def _forgotten_mend(scene: Scene) -> None:
    """Nothing happens where a failover was due."""
    await scene.strike()
    await scene.served()


async def _dead_shadow(scene: Scene) -> None:
    await scene.strike()
    await scene.cluster.kill(scene.shadow)
    await scene.recovered(generations=1)


@pytest.mark.parametrize(
    ("story", "generations", "complaint"),
    [
        (_wrong_answer, (0, 0), "nothing explains more than"),
        (_too_early, (0, 0), "while nobody could be live"),
        (_forgotten_mend, (1, 1), "the generation grew by 0"),
        (_dead_shadow, (1, 1), "ended with code -9"),
    ],
)
def test_a_round_that_goes_wrong_says_so(
    story: Callable[[Scene], Awaitable[None]], generations: tuple[int, int], complaint: str, tmp_path: Path
) -> None:
    (outcome,) = campaign([Fault("kill-primary", story, generations, 0)], tmp_path)
    assert complaint in "\n".join(outcome.violations)
    assert (tmp_path / "round-1" / "alpha.out").exists()


def test_a_campaign_that_is_told_to_stop_leaves_nothing_behind() -> None:
    require_namespaces()
    words = [sys.executable, "-m", "tests.campaign", "--only", "pause-shadow", "--rounds", "1000"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as campaign:
        assert campaign.stdout is not None
        first = campaign.stdout.readline()
        assert f"ftvm-{campaign.pid}-" in "".join(os.listdir(NAMESPACES))
        campaign.send_signal(signal.SIGTERM)
        said = first + campaign.stdout.read()
    assert campaign.returncode == 1
    assert "it was told to stop" in said
    assert "Traceback" not in said
    assert f"ftvm-{campaign.pid}-" not in "".join(os.listdir(NAMESPACES))


def test_a_plan_of_full_size_has_the_kills_stops_and_partitions_that_are_asked_for() -> None:
    rounds = [fault.name for fault in plan("full", random.Random(1))]
    assert sum(name.startswith("kill-") for name in rounds) >= 300
    assert sum(name.startswith("stop-") for name in rounds) >= 100
    assert sum("partition" in name or "deaf" in name or "isolated" in name or "-off-" in name for name in rounds) >= 100
    assert set(rounds) == {fault.name for fault in FAULTS} == {fault.name for fault in plan("small", random.Random(1))}
    assert plan("small", random.Random(7)) == plan("small", random.Random(7))


def test_the_longest_gap_is_that_around_the_fault() -> None:
    answers = [0, 10, 20, 500, 510, 2000]
    assert longest_gap_ns(answers, 25, 505) == 480
    assert longest_gap_ns(answers, 5, 15) == 10
    assert longest_gap_ns([], 5, 15) == 0


def test_a_summary_counts_what_was_lost_and_compares_gaps_with_their_bounds() -> None:
    outcomes = [
        Outcome(1, "kill-primary", operations=10, gap_ms=20.0),
        Outcome(2, "kill-primary", operations=10, gap_ms=120.0, lost=1, violations=["x"]),
        Outcome(3, "stop-primary", operations=5, gap_ms=210.0, surplus=1),
    ]
    summary = report.summarise(outcomes, 200, 12.0)
    assert (summary["rounds"], summary["operations"], summary["lost"], summary["violations"]) == (3, 25, 1, 1)
    assert summary["surplus_generations"] == 1
    assert summary["kinds"] == {"kill-primary": 2, "stop-primary": 1}
    table = report.table(summary)
    assert "OVER the bound of 100 ms" in table
    assert "within the bound of 250 ms" in table
