"""The simulator itself: a small campaign, and that a seed says everything."""

import os
import subprocess
import sys
from pathlib import Path

from ftvm.errors import ExitCode
from ftvm.replication.arbitration import State
from tests.sim.cluster import Cluster
from tests.sim.network import MS
from tests.sim.run import Run, run_seed

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


def test_a_replica_with_a_flipped_bit_is_found_and_never_goes_live() -> None:
    found = 0
    for seed in range(60):

        def script(cluster: Cluster) -> None:
            primary, shadow = cluster.hosts[:2]
            primary.engine.digests = True

            def kill_if_unnoticed() -> None:
                if shadow.alive:
                    primary.doom(1)

            def flip() -> None:
                if shadow.node.state is State.IN_SYNC:
                    shadow.engine.guest.state ^= 1
                    cluster.clock.after(400 * MS, kill_if_unnoticed)

            cluster.clock.at(300 * MS, flip)

        run = Run(seed, script=script)
        run.power_off = False
        result = run.execute()
        assert not result.failure, result.failure
        shadow = run.cluster.hosts[1]
        if shadow.exit is not None:
            assert shadow.exit.code is ExitCode.DIVERGENCE
            assert shadow.seen_live == 0
            found += 1
    assert found >= 30
