"""A protected machine under load loses one side at any boundary of what it does: nothing that was released is lost.

An effect is everything a node does: a batch of log, an acknowledgement, an output, a claim. So the boundaries are all
the places before and after each of them, in hand-over and power-off as well, and between the steps of the arbiter and
the effects of the edge. The simulator's observer checks the promises at each step and that all heals.
"""

import pytest

from tests.sim.boundaries import SESSIONS, Session, crash, record

BOUNDARIES_MIN = 2000
"""Of all sessions. `python -m tests.sim.boundaries` tries each of them."""
STRIDE = 9
CLAIMS = {"granted promote", "granted solo", "granted reconfigure", "granted restart"}


def test_there_is_enough_to_crash() -> None:
    recorded = [record(session) for session in SESSIONS]
    assert sum(sum(sides.values()) for sides in recorded) >= BOUNDARIES_MIN
    for sides in recorded:
        assert sides["edge"] > 20
        assert sides["arbiter"] >= 6
        assert min(count for side, count in sides.items() if side not in ("edge", "arbiter")) > 30


@pytest.mark.parametrize("number", range(len(SESSIONS)), ids=[session.name for session in SESSIONS])
def test_every_side_may_crash_at_any_boundary(number: int) -> None:
    session: Session = SESSIONS[number]
    claimed = nodes = 0
    for side, count in record(session).items():
        for boundary in range(1 + number % STRIDE, count + 1, STRIDE):
            result = crash(session, side, boundary)
            assert not result.failure, f"{side} at boundary {boundary}: {result.failure}"
            nodes += side in "abc"
            claimed += side in "abc" and bool(CLAIMS & dict(result.counts).keys())
    assert claimed > nodes // 3
