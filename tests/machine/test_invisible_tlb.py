"""What the TLBs hold, and for how long, never shows: no state differs for it."""

from collections.abc import Callable
from random import Random

import pytest

from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine, StopReason
from tests.machine.window_programs import BOARD, WindowProgram

END = 60_000
SEEDS = range(12)


def run(program: WindowProgram, seed: int, before: Callable[[Machine, Random], None], step_max: int) -> list[bytes]:
    """Digests at ten ticks of a run in slices of random length, before each of which something is done."""
    machine, random, digests = Machine(BOARD, program.image), Random(seed), []
    for end in range(END // 10, END + 1, END // 10):
        while machine.tick < end:
            before(machine, random)
            stop = machine.run_until(min(end, machine.tick + random.randrange(1, step_max)))
            assert stop.reason is StopReason.LIMIT
        digests.append(machine.digest())
    return digests


def nothing(machine: Machine, random: Random) -> None:
    pass


def flush(machine: Machine, random: Random) -> None:
    machine.flush_caches()


def flush_now_and_then(machine: Machine, random: Random) -> None:
    if random.randrange(20) == 0:
        machine.flush_caches()
    if random.randrange(20) == 0:
        machine.digest()


@pytest.mark.parametrize("seed", SEEDS)
def test_flushing_at_any_tick_changes_nothing(seed: int) -> None:
    """One program behind page tables that change: whole, cut into slices, and with caches flushed, the same digests."""
    program = WindowProgram(seed)
    whole = run(program, seed, nothing, END)
    assert len(set(whole)) == len(whole)
    assert run(program, seed, flush, 600) == whole
    assert run(program, seed, flush_now_and_then, 100) == whole


def test_the_programs_meet_what_they_are_for() -> None:
    """Faults of every kind, and both modes, are in them."""
    causes, modes = set(), set()
    for seed in SEEDS:
        machine = Machine(BOARD, WindowProgram(seed).image)
        for tick in range(500, 20_000, 7):
            machine.run_until(tick)
            causes.add(int(machine._state[s.SCAUSE]))
            modes.add(int(machine._state[s.PRIV]))
    assert causes >= {s.CAUSE_FETCH_PAGE, s.CAUSE_LOAD_PAGE, s.CAUSE_STORE_PAGE, s.CAUSE_ECALL_U}
    assert modes == {s.USER, s.SUPERVISOR}
