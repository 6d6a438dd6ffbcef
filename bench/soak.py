"""Does a pair on a starved computer take slowness for death? `python -m bench.soak --minutes 10 --stress 4`

A protected `kv` under a client's load, beside `stress-ng --cpu N`. Every change of generation is a false failover,
for nobody is killed. results: minutes, operations, false_failovers, latency_p50_ms, latency_p99_ms,
longest_gap_ms, lost, duplicated. Exits with 1 if there was a false failover, or an operation lost or doubled.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from bench.common import Report, find_tool, parser, print_table, tell
from bench.stages import open_pair
from ftvm.demo.load import Loader
from ftvm.demo.resp import open_resp
from ftvm.demo.stage import NODES, Stage
from ftvm.guests import path as guest_path

LOOK_S = 1.0
NS_PER_MS = 1_000_000


@asynccontextmanager
async def stressed(cores: int) -> AsyncIterator[None]:
    """`cores` processes that want all of a core each; none for 0, or where stress-ng is not installed."""
    tool = find_tool("stress-ng") if cores else None
    if tool is None:
        yield
        return
    words = [tool, "--cpu", str(cores), "--quiet"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, words, stdin=subprocess.DEVNULL, check=False))
        yield
        nursery.cancel_scope.cancel()


async def soak(minutes: float, cores: int) -> dict[str, Any]:
    """See the module."""
    async with (
        open_pair(guest_path("kv").read_bytes()) as stage,
        stressed(cores),
        open_resp("127.0.0.1", stage.port) as client,
    ):
        loader = Loader(client, "soak")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loader.run, stop)
            false_failovers = await _watch(stage, minutes * 60)
            stop.set()
        audit = await loader.audit()
    latencies = sorted(loader.ledger.latencies_ns)
    return {
        "minutes": minutes,
        "operations": audit.acknowledged,
        "false_failovers": false_failovers,
        "latency_p50_ms": statistics.median(latencies) / NS_PER_MS,
        "latency_p99_ms": latencies[len(latencies) * 99 // 100] / NS_PER_MS,
        "longest_gap_ms": loader.ledger.longest_gap()[0] / NS_PER_MS,
        "lost": audit.lost,
        "duplicated": audit.duplicated,
    }


async def _watch(stage: Stage, seconds: float) -> int:
    """How many generations began."""
    newest = 1
    with trio.move_on_after(seconds):
        while True:
            for name in NODES:
                if stage.exit_code(name) is None:
                    status = await stage.status(name)
                    if status["core"]["generation"] > newest:
                        newest = status["core"]["generation"]
                        tell(f"{name} is in generation {newest}: {'; '.join(status['notes'][-3:])}")
            await trio.sleep(LOOK_S)
    return newest - 1


def main(words: list[str] | None = None) -> int:
    made: argparse.ArgumentParser = parser("soak", __doc__)
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--stress", type=int, default=4, metavar="N", help="processes of stress-ng --cpu (default: 4)")
    options = made.parse_args(words)
    report = Report("soak", options)
    figures = trio.run(soak, options.minutes, options.stress)
    for key, value in figures.items():
        report.add(key, value)
    print_table("a pair beside stress-ng", ["", "figure"], list(figures.items()))
    return 1 if figures["false_failovers"] or figures["lost"] or figures["duplicated"] else 0


if __name__ == "__main__":
    sys.exit(main())
