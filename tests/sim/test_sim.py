"""The simulator itself: a small campaign, and that a seed says everything."""

import os
import subprocess
import sys
from pathlib import Path

from tests.sim.run import run_seed

ROOT = Path(__file__).parents[2]


def test_no_seed_violates_a_promise() -> None:
    results = [run_seed(seed) for seed in range(400)]
    failures = [(result.seed, result.failure) for result in results if result.failure]
    assert not failures, failures
    assert all(result.faults >= 2 for result in results)
    totals: dict[str, int] = {}
    for result in results:
        for name, count in result.counts:
            totals[name] = totals.get(name, 0) + count
    for needed in ("granted promote", "granted solo", "granted reconfigure", "granted void", "granted off", "frozen"):
        assert totals.get(needed), f"the seeds never reached: {needed}"


def test_same_seed_gives_the_same_trace_in_any_process() -> None:
    def trace(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.sim", "--seeds", "4:7", "--trace"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=60)
        return done.stdout[: done.stdout.rindex(b" seeds/s")].rpartition(b"\n")[0]

    first = trace("1")
    assert first.count(b"\n") > 1000
    assert first == trace("2")
