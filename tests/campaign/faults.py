"""Which faults a campaign has, how often, and what each may and must do."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.campaign import stories

if TYPE_CHECKING:
    from tests.campaign.scene import Scene


@dataclass(frozen=True, slots=True)
class Fault:
    """`generations`: by how much the generation may grow, least and most: a story that ends without its failover, or
    with one that nobody asked for, is told from one that went as it should. `gap`: with what bound its longest gap is
    compared: none, a kill's, a silence's or a hand-over's."""

    name: str
    story: Callable[[Scene], Awaitable[None]]
    generations: tuple[int, int]
    full: int
    """How often in a campaign of full size."""
    gap: str = ""


FAULTS = (
    Fault("kill-primary", partial(stories.kill, role="primary"), (1, 1), 240, "kill"),
    Fault("kill-shadow", partial(stories.kill, role="shadow"), (1, 1), 40),
    Fault("kill-primary-then-primary", partial(stories.kill_in_turn, first="primary"), (2, 2), 10, "kill"),
    Fault("kill-shadow-then-primary", partial(stories.kill_in_turn, first="shadow"), (2, 2), 5),
    Fault("kill-joiner", stories.kill_joiner, (1, 2), 5),
    Fault("kill-both-primary-back", partial(stories.kill_both, first="primary"), (1, 1), 5),
    Fault("kill-both-shadow-back", partial(stories.kill_both, first="shadow"), (1, 1), 5),
    Fault("kill-both-busy", stories.kill_both_busy, (1, 1), 10),
    Fault("stop-primary", partial(stories.stop, role="primary"), (1, 1), 80, "silence"),
    Fault("stop-shadow", partial(stories.stop, role="shadow"), (1, 1), 20, "silence"),
    Fault("pause-primary", partial(stories.pause, role="primary"), (0, 0), 5),
    Fault("pause-shadow", partial(stories.pause, role="shadow"), (0, 0), 5),
    Fault("partition", partial(stories.partition, speaker="primary"), (1, 1), 25, "silence"),
    Fault("partition-refused", partial(stories.partition, speaker="primary", reject=True), (1, 1), 10, "silence"),
    Fault("deaf-shadow", partial(stories.partition, speaker="primary", one_way=True), (1, 1), 10, "silence"),
    Fault("deaf-primary", partial(stories.partition, speaker="shadow", one_way=True), (1, 1), 10, "silence"),
    Fault("primary-off-edge", partial(stories.cut_from_edge, role="primary"), (0, 0), 5),
    Fault("primary-off-edge-refused", partial(stories.cut_from_edge, role="primary", reject=True), (0, 0), 5),
    Fault("shadow-off-edge", partial(stories.cut_from_edge, role="shadow"), (0, 0), 5),
    Fault("short-cut", stories.short_cut, (0, 0), 10),
    Fault("blip", stories.blip, (0, 1), 10),
    Fault("primary-isolated", partial(stories.isolate, role="primary"), (1, 1), 15, "silence"),
    Fault("shadow-isolated", partial(stories.isolate, role="shadow"), (1, 1), 10, "silence"),
    Fault("primary-isolated-refused", partial(stories.isolate, role="primary", reject=True), (1, 1), 5, "silence"),
    Fault("shadow-off-arbiter-kill-primary", partial(stories.cut_from_arbiter, role="shadow"), (1, 1), 5),
    Fault("primary-off-arbiter-kill-shadow", partial(stories.cut_from_arbiter, role="primary"), (1, 1), 5),
    Fault("arbiter-killed", partial(stories.lose_arbiter, how="killed"), (0, 0), 5),
    Fault("arbiter-stopped", partial(stories.lose_arbiter, how="stopped"), (0, 0), 5),
    Fault("arbiter-killed-kill-primary", partial(stories.lose_arbiter_and, how="killed", role="primary"), (1, 1), 5),
    Fault("arbiter-stopped-kill-primary", partial(stories.lose_arbiter_and, how="stopped", role="primary"), (1, 1), 5),
    Fault("arbiter-cut-off-kill-shadow", partial(stories.lose_arbiter_and, how="cut off", role="shadow"), (1, 1), 5),
    Fault("arbiter-full-kill-primary", partial(stories.lose_arbiter_and, how="full", role="primary"), (1, 1), 5),
    Fault("disk-full-primary", partial(stories.fill_disk, role="primary"), (1, 1), 5),
    Fault("disk-full-shadow", partial(stories.fill_disk, role="shadow"), (1, 1), 5),
    Fault("memory-pressure", partial(stories.press, words=stories.MEMORY_PRESSURE), (0, 0), 5),
    Fault("cpu-pressure", partial(stories.press, words=stories.CPU_PRESSURE), (0, 0), 5),
    Fault("clock-jumps", stories.jump, (3, 3), 5),
    Fault("hand-over", stories.hand_over, (1, 1), 20, "hand-over"),
    Fault("promote-stopped", stories.promote_stopped, (1, 1), 10, "kill"),
    Fault("promote-living", stories.promote_living, (1, 1), 10),
    Fault("migrate", stories.migrate, (1, 1), 10),
)
"""A campaign of full size has 300 kills, 100 stops and 100 partitions."""

SMOKE = ("stop-primary", "deaf-shadow", "kill-primary")
"""What every run of the tests goes through."""


def by_name(name: str) -> Fault:
    """Raises KeyError."""
    return {fault.name: fault for fault in FAULTS}[name]


def plan(size: str, chance: random.Random) -> list[Fault]:
    """The rounds of a campaign, in an order that the seed decides."""
    if size == "smoke":
        return [by_name(name) for name in SMOKE]
    rounds = [fault for fault in FAULTS for _ in range(fault.full if size == "full" else 2)]
    chance.shuffle(rounds)
    return rounds


def missing_tools() -> list[str]:
    """Debian packages that the faults need and that are not there."""
    lacking = [] if shutil.which("stress-ng") else ["stress-ng"]
    return lacking if os.path.exists(stories.FAKETIME_LIBRARY) else [*lacking, "faketime"]
