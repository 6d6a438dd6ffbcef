"""A campaign: round after round on one machine; where a round broke it, on a new one."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ftvm.errors import FtvmError
from tests.campaign.cluster import open_cluster
from tests.campaign.faults import Fault
from tests.campaign.scene import Captures, Outcome, play

BROKEN_MAX = 5
"""Then what is wrong is wrong every time, and more of it tells nothing new."""


async def run(
    rounds: Sequence[Fault],
    *,
    seed: int,
    timeout_ms: int,
    tell: Callable[[Outcome], None],
    keep: Path | None = None,
) -> list[Outcome]:
    """Play all rounds; `tell` hears of each. Folders of machines that broke are copied into `keep`.

    Cancelled, it leaves nothing behind; what was told stays told. Raises `FtvmError` if no machine comes up.
    """
    outcomes: list[Outcome] = []
    broken = 0
    while len(outcomes) < len(rounds) and broken < BROKEN_MAX:
        with tempfile.TemporaryDirectory(prefix="ftvm-campaign-") as folder:
            before = len(outcomes)
            try:
                await _on_one_machine(Path(folder), rounds, seed, timeout_ms, outcomes, tell)
            except FtvmError:
                _keep(Path(folder), keep, "start")
                raise
            assert len(outcomes) > before
            if outcomes[-1].violations:
                broken += 1
                _keep(Path(folder), keep, f"round-{outcomes[-1].number}")
    return outcomes


async def _on_one_machine(
    folder: Path,
    rounds: Sequence[Fault],
    seed: int,
    timeout_ms: int,
    outcomes: list[Outcome],
    tell: Callable[[Outcome], None],
) -> None:
    async with open_cluster(folder, timeout_ms=timeout_ms) as cluster:
        captures = Captures(cluster)
        try:
            for fault in rounds[len(outcomes) :]:
                number = len(outcomes) + 1
                # A seed for each round: what one round draws must not depend on how the others went.
                outcome = await play(cluster, captures, number, fault, random.Random(f"{seed}/{number}"))
                outcomes.append(outcome)
                tell(outcome)
                if outcome.violations:
                    return
        finally:
            captures.close()


def _keep(folder: Path, keep: Path | None, name: str) -> None:
    if keep is None:
        return
    target = keep / name
    target.mkdir(parents=True, exist_ok=True)
    for path in (*folder.glob("*.out"), folder / "machine.toml"):
        with suppress(OSError):
            shutil.copy(path, target)
