"""What does protection cost a guest that computes? A pair beside two unprotected machines that run at the same time.

Primary and shadow stand on one core each, and so do the two unprotected machines, on the same cores. The guests run
for ever, so that nothing but ticks per second is compared. The log is counted over the same time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.common import tell
from bench.figures import Spread, distribution
from bench.processes import cores, pin, run_alone
from bench.stages import open_pair, watch, watch_lag
from ftvm.demo.stage import NODES
from ftvm.guests import path as guest_path
from ftvm.guests import with_rounds

WARM_UP_S = 0.5
LAG_INTERVAL_S = 0.01


def _chosen_cores() -> list[int]:
    found = cores()
    if len(found) < len(NODES):
        tell("one core only: primary and shadow share it, so protection costs half of the speed here")
        return []
    return found[: len(NODES)]


async def measure_protection(folder: Path, kernels: tuple[str, ...], *, seconds: float, repeats: int) -> dict[str, Any]:
    """{kernel: {figure: spread over the repetitions}}.

    unprotected, primary, shadow: Mticks/s. primary_ratio, shadow_ratio: that of a replica to the unprotected machine
    on the same core. primary_cpu_ratio, shadow_cpu_ratio: the same by ticks per CPU second of the whole process, which
    tells our own overhead from that of strangers on the computer. log_bytes_per_1000: per 1,000 ticks.
    """
    chosen = _chosen_cores()
    results: dict[str, Any] = {}
    for kernel in kernels:
        image = with_rounds(guest_path(kernel).read_bytes(), 0)
        path = folder / f"{kernel}-for-ever.elf"
        path.write_bytes(image)
        run_two = partial(run_alone, [path] * len(NODES), seconds=seconds, pinned=chosen)
        runs: dict[str, list[float]] = {}
        for _ in range(repeats):
            alone = await trio.to_thread.run_sync(run_two)
            for key, value in (await _pair(image, chosen, seconds, alone)).items():
                runs.setdefault(key, []).append(value)
        results[kernel] = {key: Spread.of(values).fields() for key, values in runs.items()}
        ratios = [results[kernel][f"{role}_ratio"]["median"] for role in ("primary", "shadow")]
        tell(f"{kernel}: primary {ratios[0]:.3f}, shadow {ratios[1]:.3f} of unprotected")
    return results


async def _pair(image: bytes, chosen: list[int], seconds: float, alone: list[dict[str, Any]]) -> dict[str, float]:
    """`alone`: the figures of the unprotected machine on each replica's core."""
    async with open_pair(image) as stage:
        for name, core in zip(NODES, chosen, strict=False):
            pin(stage.pid(name), core)
        await trio.sleep(WARM_UP_S)
        moments = await watch(stage, seconds)
    rates = [one["ticks"] / one["wall_s"] for one in alone]
    figures = {"unprotected": sum(rates) / len(rates) / 1e6}
    for role, name, one in zip(("primary", "shadow"), NODES, alone, strict=True):
        before, after = moments[name]
        ticks = after.tick - before.tick
        rate = ticks / (after.at_s - before.at_s)
        figures[role] = rate / 1e6
        figures[f"{role}_ratio"] = rate * one["wall_s"] / one["ticks"]
        figures[f"{role}_cpu_ratio"] = ticks / (after.cpu_s - before.cpu_s) * one["cpu_s"] / one["ticks"]
    before, after = moments[NODES[0]]
    figures["log_bytes_per_1000"] = (after.log_bytes - before.log_bytes) * 1000 / (after.tick - before.tick)
    return figures


async def measure_lag(kernel: str, *, seconds: float) -> dict[str, Any]:
    """How far a shadow is behind while the guest computes: {"guest", and distributions in ms and ticks}.

    executed_ms: by what both have executed, at one moment (to about 1 ms, the time of a question). executed_ticks: the
    same in ticks. acknowledged_ticks: by the primary's books, which the shadow brings up to date seldom.
    """
    async with open_pair(with_rounds(guest_path(kernel).read_bytes(), 0)) as stage:
        for name, core in zip(NODES, _chosen_cores(), strict=False):
            pin(stage.pid(name), core)
        await trio.sleep(WARM_UP_S)
        before, after = (await watch(stage, WARM_UP_S))[NODES[0]]
        lags = await watch_lag(stage, seconds, LAG_INTERVAL_S)
    ticks_per_s = (after.tick - before.tick) / (after.at_s - before.at_s)
    executed = [lag.executed_ticks + lag.skew_s * ticks_per_s for lag in lags]
    return {
        "guest": kernel,
        "executed_ms": distribution([ticks * 1000 / ticks_per_s for ticks in executed]),
        "executed_ticks": distribution([round(ticks) for ticks in executed]),
        "acknowledged_ticks": distribution([lag.acknowledged_ticks for lag in lags]),
    }
