"""Makes the plan of a failing run smaller: faults are left out while it still fails."""

from __future__ import annotations

import dataclasses

from tests.sim.faults import Fault
from tests.sim.plan import Plan
from tests.sim.run import Result, Run

RUNS_MAX = 400
TAIL_LINES = 25


def shrink(failed: Result) -> tuple[Plan, Result, list[str]]:
    """The smallest plan found that still fails, its result, and the last lines of its trace.

    The rounds that a run had added to have seen enough are part of what is made smaller: none are added again, and
    to have seen too little is no failure any more.
    """
    best, kept = failed, list(failed.rounds)
    runs = 0
    smaller = True
    while smaller and runs < RUNS_MAX:
        smaller = False
        for number, faults in enumerate(kept):
            for fault in faults:
                trial = list(kept)
                trial[number] = tuple(other for other in faults if other is not fault)
                result = _run(failed.plan, trial)
                runs += 1
                if result.failure:
                    best, kept, smaller = result, trial, True
                    break
            if smaller:
                break
    while len(kept) > 1 and not kept[-1] and not failed.plan.power_off:
        result = _run(failed.plan, kept[:-1])
        if not result.failure:
            break
        best, kept = result, kept[:-1]
    lines: list[str] = []
    Run(_plan(failed.plan, kept), lines.append, rounds=kept[1:]).execute()
    return _plan(failed.plan, kept), best, lines[-TAIL_LINES:]


def _plan(plan: Plan, rounds: list[tuple[Fault, ...]]) -> Plan:
    return dataclasses.replace(plan, faults=rounds[0])


def _run(plan: Plan, rounds: list[tuple[Fault, ...]]) -> Result:
    return Run(_plan(plan, rounds), rounds=rounds[1:]).execute()
