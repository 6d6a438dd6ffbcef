"""Crash at every boundary of a recorded session.

A session is a run without misfortunes: nodes join, a client writes, the operator hands over or promotes, the machine
is powered off. Each effect that a node or the edge carries out, and each step of the arbiter, is a boundary; the run
is repeated from its seed with a crash of that side right there. Nothing may be violated, and all must heal.

`python -m tests.sim.boundaries [--stride N]` tries every N-th.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ftvm.replication.arbitration import State
from tests.sim.clock import MS
from tests.sim.cluster import Cluster
from tests.sim.faults import Fault
from tests.sim.plan import Plan, Round
from tests.sim.run import Result, Run

SAFETY_NS = 700 * MS


@dataclass(frozen=True, slots=True)
class Session:
    name: str
    nodes: int
    plan: Plan

    @property
    def rounds(self) -> tuple[Round, ...]:
        first = Round(self.plan.faults, SAFETY_NS)
        return (first, Round((), 0)) if self.plan.power_off else (first,)


def _operator(kind: str, at_ms: int, state: State) -> Fault:
    return Fault(kind, at_ms * MS, state, 0, 0.0, 0.0)


def _sessions() -> Iterator[Session]:
    """The worlds are those of the first seeds with as many nodes as is wanted, and an arbiter that hears everything."""
    hand_over = _operator("hand over", 250, State.PROTECTED)
    promote = _operator("promote", 300, State.IN_SYNC)
    pair, trio = _seeds(2), _seeds(3)
    yield Session("load and power off, a pair", 2, Plan(next(pair), (), True))
    yield Session("hand-over, a pair", 2, Plan(next(pair), (hand_over,)))
    yield Session("hand-over and power off, a pair", 2, Plan(next(pair), (hand_over,), True))
    yield Session("promote, a pair", 2, Plan(next(pair), (promote,)))
    yield Session("load, three nodes", 3, Plan(next(trio), ()))
    yield Session("hand-over and power off, three nodes", 3, Plan(next(trio), (hand_over,), True))


def _seeds(nodes: int) -> Iterator[int]:
    seed = 0
    while True:
        cluster = Cluster(seed, None)
        if len(cluster.hosts) == nodes and cluster.disks and not cluster.arbiter.loss:
            yield seed
        seed += 1


SESSIONS = tuple(_sessions())


def record(session: Session) -> dict[str, int]:
    """How many boundaries each side has in this session."""
    run = Run(session.plan, rounds=session.rounds)
    result = run.execute()
    assert not result.failure, f"{session.name}: {result.failure}"
    cluster = run.cluster
    sides = {host.name: host.carried_out for host in cluster.hosts}
    return sides | {"arbiter": cluster.arbiter.steps, "edge": cluster.edge.carried_out}


def crash(session: Session, side: str, boundary: int) -> Result:
    """The session, with a crash of `side` after so many effects (before that step, for the arbiter). Every third
    node takes its host with it."""

    def script(cluster: Cluster) -> None:
        if side == "arbiter":
            cluster.arbiter.doomed_at = boundary
        elif side == "edge":
            cluster.edge.crash_at(boundary, None)
        else:
            host = next(host for host in cluster.hosts if host.name == side)
            host.doom(boundary, lambda: cluster.crash(host, silently=boundary % 3 == 0, back_ns=150 * MS))

    return Run(session.plan, script=script, rounds=session.rounds).execute()


def points(stride: int = 1) -> Iterator[tuple[Session, str, int]]:
    for session in SESSIONS:
        for side, count in record(session).items():
            for boundary in range(1, count + 1, stride):
                yield session, side, boundary


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.boundaries", description=__doc__)
    parser.add_argument("--stride", type=int, default=1)
    stride = parser.parse_args().stride
    began = time.perf_counter()
    tried: dict[tuple[str, str], int] = {}
    failures = 0
    for session, side, boundary in points(stride):
        tried[session.name, side] = tried.get((session.name, side), 0) + 1
        failure = crash(session, side, boundary).failure
        if failure:
            failures += 1
            print(f"{session.name}: {side} at boundary {boundary}: {failure}", flush=True)
    for (name, side), count in tried.items():
        print(f"{name:40}{side:10}{count:6}")
    print(f"{sum(tried.values())} crashes, {failures} failures, {time.perf_counter() - began:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
