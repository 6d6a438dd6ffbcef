"""Drivers that do anything at all; see `wild.py`."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.virtio.wild import play


@settings(deadline=None, max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(0, 1500))
def test_no_driver_gets_a_device_to_leave_its_bounds_or_to_act_by_chance(chance: random.Random, size: int) -> None:
    """Guards, ROM, the read-only disk and the state's own invariants hold; the same driver does the same twice."""
    data = chance.randbytes(size)
    first, second = play(data), play(data)
    assert (first.board.memory.bytes == second.board.memory.bytes).all()
    assert (first.board.state == second.board.state).all()
    assert first.sent == second.sent
