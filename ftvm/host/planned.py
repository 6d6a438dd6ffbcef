"""A planned change of who is live: a hand-over by the live node, or a promotion by a shadow whose primary is gone."""

from __future__ import annotations

import time

from ftvm.errors import NotProtected
from ftvm.host.control import Answer
from ftvm.host.node import NodeShell
from ftvm.replication.arbitration import ACCEPTING, State

NS_PER_MS = 1e6


async def hand_over(shell: NodeShell, to: str, *, leave: bool) -> Answer:
    """Have the live node give the machine to its shadow (`to`; "": whichever takes it), and wait for the outcome.

    Raises `NotProtected` where it cannot be done now, or was not: then this node goes on. With `leave` the node ends.
    """
    core = shell.core
    obstacle = core.hand_over_obstacle(to)
    if obstacle:
        raise NotProtected(obstacle)
    before, asked_ns = core.generation, time.monotonic_ns()
    shell.ask_hand_over(to=to, leave=leave)
    await shell.wait_until(lambda: not core.hands_over)
    if core.state is not State.OVER:
        goes_on = f"this node goes on with it in generation {core.generation}"
        raise NotProtected(f"the shadow did not take the machine over: {goes_on}")
    newest = core.newest_record
    if newest is None or newest.life == core.life:
        raise NotProtected("the machine ended while it was handed over")
    return {
        "from": shell.name,
        "to": newest.holder,
        "generation_before": before,
        "generation": newest.gen,
        "asked_ns": asked_ns,
        "gap_max_ms": (time.monotonic_ns() - asked_ns) / NS_PER_MS,
    }


async def promote(shell: NodeShell) -> Answer:
    """Have a shadow in sync claim the machine, as if its primary were dead, and wait for the outcome.

    Raises `NotProtected` where this node is no shadow in sync, or did not get the machine.
    """
    core = shell.core
    if core.state not in (State.IN_SYNC, State.SUSPECT):
        raise NotProtected(f"node {shell.name} is no shadow in sync ({core.state.name}): it cannot be promoted")
    before, asked_ns = core.generation, time.monotonic_ns()
    shell.ask_promote()
    await shell.wait_until(lambda: core.state in ACCEPTING | {State.FROZEN, State.OVER})
    if core.state not in ACCEPTING:
        raise NotProtected(f"node {shell.name} did not get the machine: another one has it")
    return {
        "from": "",
        "to": shell.name,
        "generation_before": before,
        "generation": core.generation,
        "asked_ns": asked_ns,
        "gap_max_ms": (time.monotonic_ns() - asked_ns) / NS_PER_MS,
    }
