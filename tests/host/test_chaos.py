"""Kills and stops of either side in random order under one client, whose books must stay clean throughout."""

import random
import signal
from pathlib import Path

import pytest
import trio

from ftvm.demo.stage import NODES, Stage
from ftvm.errors import FtvmError
from tests.host.pair import WAIT_S, loaded, more, open_pair, run

ROUNDS = 5
LOAD = 60


@pytest.mark.parametrize("seed", [1, 2])
def test_no_order_of_failures_loses_or_doubles_anything(tmp_path: Path, seed: int) -> None:
    run(_chaos, tmp_path, seed)


async def _chaos(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with open_pair(folder) as stage, loaded(stage) as loader:
        for _ in range(ROUNDS):
            await more(loader, chance.randrange(1, LOAD))
            victim = chance.choice(NODES)
            if chance.random() < 0.5:
                stage.signal(victim, signal.SIGKILL)
                await more(loader, chance.randrange(1, LOAD))
                stage.start_node(victim, "shadow")
            else:
                stage.signal(victim, signal.SIGSTOP)
                await more(loader, chance.randrange(1, LOAD))
                stage.signal(victim, signal.SIGCONT)
            await _protected_again(stage)
            assert "Traceback" not in stage.said("alpha") + stage.said("beta")
        await more(loader, LOAD)


async def _protected_again(stage: Stage) -> None:
    """One of them is live with the other in sync."""
    states: set[str] = set()
    with trio.move_on_after(WAIT_S):
        while states != {"PROTECTED", "IN_SYNC"}:
            await trio.sleep(0.02)
            states = set()
            for name in NODES:
                assert stage.exit_code(name) is None, stage.said(name)[-500:]
                try:
                    states.add((await stage.status(name))["core"]["state"])
                except FtvmError:
                    states.add("absent")
    assert states == {"PROTECTED", "IN_SYNC"}
