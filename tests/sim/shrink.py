"""Makes the plan of a failing run smaller: faults are left out while it still fails."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.plan import Round
from tests.sim.run import Result, Run

RUNS_MAX = 400
TAIL_LINES = 25


def shrink(failed: Result) -> tuple[Result, list[str]]:
    """The result of the smallest plan found that still fails (its `rounds` are that plan), and how its trace ends.

    The rounds that a run had added until it had seen enough are part of what is made smaller; none are added again.
    """
    best = Run(failed.plan, rounds=failed.rounds).execute()
    if not best.failure:
        # It failed for having seen too little: nothing that could be left out.
        return failed, []
    runs = 0
    smaller = True
    while smaller and runs < RUNS_MAX:
        smaller = False
        for rounds in _smaller(list(best.rounds), keep_last=failed.plan.power_off):
            result = Run(failed.plan, rounds=rounds).execute()
            runs += 1
            if result.failure:
                best, smaller = result, True
                break
    lines: list[str] = []
    Run(failed.plan, lines.append, rounds=best.rounds).execute()
    return best, lines[-TAIL_LINES:]


def _smaller(rounds: list[Round], *, keep_last: bool) -> Iterator[list[Round]]:
    """Without the last round, or with one fault less. A round that the failure cut short is left as it was."""
    if len(rounds) > 1 and not keep_last:
        yield rounds[:-1]
    for number, one in enumerate(rounds):
        for fault in one.faults:
            less = Round(tuple(other for other in one.faults if other is not fault), one.time_ns)
            yield [*rounds[:number], less, *rounds[number + 1 :]]
