"""Protected and lone machines as real processes, and samples of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ftvm.demo.guests import Guest
from ftvm.demo.stage import EDGE, NODES, Stage, open_stage, prepare
from ftvm.errors import FtvmError

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPU_FIELDS = slice(11, 13)
"""utime and stime in /proc/PID/stat, after the command's closing parenthesis and the state: proc(5)."""


class Disturbed(FtvmError):
    """The machine lost its protection or changed sides while it was measured."""


@asynccontextmanager
async def open_pair(guest: bytes | Guest) -> AsyncIterator[Stage]:
    """Alpha live, beta its shadow, and the edge, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        async with open_stage(Path(folder), guest) as stage:
            yield stage


@asynccontextmanager
async def open_lone(guest: bytes | Guest) -> AsyncIterator[Stage]:
    """Alpha without a shadow, and the edge: the same programs, nothing protected."""
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        stage = Stage(Path(folder), prepare(Path(folder), guest))
        try:
            stage.start_node(NODES[0], "primary")
            stage.start(EDGE, "edge", str(stage.toml))
            await stage.wait_live(NODES[0])
            await stage.wait_status(EDGE, lambda status: status["generation"] > 0, "a live machine")
            yield stage
        finally:
            await trio.to_thread.run_sync(stage.stop)


@dataclass(frozen=True, slots=True)
class Sample:
    """A node at one moment: when (s, monotonic), where its machine stood, what it had written and sent.

    `lag_ticks` is what a primary believes of its slowest shadow.
    """

    at_s: float
    generation: int
    life: str
    tick: int
    lag_ticks: int
    log_bytes: int
    log_entries: int
    wire_bytes: int
    cpu_s: float


async def sample(stage: Stage, name: str) -> Sample:
    """The moment is taken to be the middle of the question. Raises `Disturbed` where there is no machine any more."""
    asked = time.monotonic()
    status = await stage.status(name)
    answered = time.monotonic()
    if status["engine"] is None:
        raise Disturbed(f"{name} has no machine any more: {'; '.join(status['notes'][-4:])}")
    return Sample(
        at_s=(asked + answered) / 2,
        generation=status["core"]["generation"],
        life=status["core"]["life"],
        tick=status["engine"]["tick"],
        lag_ticks=status["core"]["lag_ticks"],
        log_bytes=status["log"]["bytes"],
        log_entries=status["log"]["entries"],
        wire_bytes=status["wire"]["bytes_out"],
        cpu_s=cpu_s(stage.pid(name)),
    )


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, user and system, all threads; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[_CPU_FIELDS]) / CLOCK_TICKS_PER_S


async def watch(stage: Stage, seconds: float) -> dict[str, tuple[Sample, Sample]]:
    """Both nodes at the start and at the end of a time in which nobody asks them anything.

    Raises `Disturbed` when the pair did not stay the same pair: its figures would be those of something else.
    """
    before = {name: await sample(stage, name) for name in NODES}
    await trio.sleep(seconds)
    moments = {name: (before[name], await sample(stage, name)) for name in NODES}
    await check_undisturbed(stage, [pair[0] for pair in moments.values()])
    return moments


async def check_undisturbed(stage: Stage, before: Sequence[Sample]) -> None:
    """Raises `Disturbed` unless the pair is protected in the generation and the lives of the samples."""
    for name, earlier in zip(NODES, before, strict=True):
        status = await stage.status(name)
        core = status["core"]
        protected = core["state"] == ("PROTECTED" if name == NODES[0] else "IN_SYNC")
        if not protected or (core["generation"], core["life"]) != (earlier.generation, earlier.life):
            notes = "; ".join(status["notes"][-4:])
            raise Disturbed(
                f"{name} is {core['state']} in generation {core['generation']}, it was in {earlier.generation}: {notes}"
            )


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the shadow was behind: in ticks that it had not executed, and in those that the primary knew nothing of.

    `skew_s`: how much later the shadow was asked than the primary; in that time it went on.
    """

    executed_ticks: int
    acknowledged_ticks: int
    skew_s: float


async def watch_lag(stage: Stage, seconds: float, interval_s: float) -> list[Lag]:
    """The lag at moments an interval apart. Raises `Disturbed` when the pair did not stay the same pair."""
    before = [await sample(stage, name) for name in NODES]
    lags: list[Lag] = []
    deadline = trio.current_time() + seconds
    while trio.current_time() < deadline:
        moments: dict[str, Sample] = {}

        async def ask(name: str, found: dict[str, Sample] = moments) -> None:
            found[name] = await sample(stage, name)

        async with trio.open_nursery() as nursery:
            for name in NODES:
                nursery.start_soon(ask, name)
        primary, shadow = (moments[name] for name in NODES)
        lags.append(Lag(primary.tick - shadow.tick, primary.lag_ticks, shadow.at_s - primary.at_s))
        await trio.sleep(interval_s)
    await check_undisturbed(stage, before)
    return lags
