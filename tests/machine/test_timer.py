"""Time: computed from Clock entries, exact to the tick."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import LogError
from ftvm.log.entry import Clock
from ftvm.machine.board import CLINT_BASE
from ftvm.machine.devices.clint import TIMER_LATENCY
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine, StopReason
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, A1, HANDLER, T0, T1, boot, load_address, register, run, set_handler, store, word

MTIMECMP = CLINT_BASE + 0x4000
MTIME = CLINT_BASE + 0xBFF8
SPINNING = 100
"""A tick at which the guest below has set up all it needs."""


def set_timer(asm: Assembler, compare: int) -> None:
    """And let it interrupt."""
    set_handler(asm)
    store(asm, MTIMECMP, compare, "d")
    asm.li(T0, s.MTIP)
    asm("csrrw", csr="mie", rs1=T0)
    asm("csrrsi", rd=0, csr="mstatus", imm=8)


def spin(compare: int) -> Machine:
    """A guest that waits for the timer in a loop, having run for SPINNING ticks without a clock."""
    machine = boot(lambda asm: set_timer(asm, compare))
    machine.run_until(SPINNING)
    assert word(machine, s.NOT_RETIRED) == 0
    return machine


def clock_at(tick: int, sample: Clock, base: int) -> int:
    """The formula of `ftvm.log.entry.Clock`, in Python's integers."""
    return min(base + ((tick - sample.tick) * sample.rate >> 32), sample.mtime + sample.cap)


@settings(deadline=None, max_examples=60)
@given(
    mtime=st.integers(0, 5000),
    rate=st.one_of(st.integers(0, 1 << 34), st.sampled_from([0, 1, 1 << 32, (1 << 32) - 1, 142_949_672])),
    cap=st.integers(0, 20_000),
    compare=st.integers(1, 20_000),
    slices=st.integers(1, 3000),
)
def test_the_timer_fires_its_latency_after_the_first_tick_whose_mtime_reaches_mtimecmp(
    mtime: int, rate: int, cap: int, compare: int, slices: int
) -> None:
    """Whatever the slices: the interrupt is entered at exactly the tick that the formula gives, or not at all."""
    machine = spin(compare)
    sample = Clock(SPINNING, mtime, rate, cap)
    machine.apply(sample)
    end = SPINNING + 5000
    reached = range(SPINNING, end - TIMER_LATENCY)
    expected = next((t + TIMER_LATENCY for t in reached if clock_at(t, sample, mtime) >= compare), None)
    while machine.tick < end and word(machine, s.PC) != HANDLER:
        before = machine.tick
        machine.run_until(min(before + slices, end if expected is None else max(expected, before + 1)))
    if expected is None:
        assert word(machine, s.NOT_RETIRED) == 0
        return
    if machine.tick == expected:
        assert word(machine, s.NOT_RETIRED) == 0
        machine.run_until(expected + 1)
    assert machine.tick == expected + 1
    assert (word(machine, s.PC), word(machine, s.NOT_RETIRED)) == (HANDLER, 1)


@pytest.mark.parametrize("phase", range(12))
@pytest.mark.parametrize("jumps", [False, True], ids=["by ticks", "by a Clock entry"])
def test_a_loop_that_reads_the_time_sees_it_reach_the_deadline_before_the_interrupt_comes(
    phase: int, jumps: bool
) -> None:
    """Wherever in the loop that happens: A0 is the last time that was read, A1 what the handler found."""
    compare = 1000

    def code(asm: Assembler) -> None:
        set_timer(asm, compare)
        asm.label("loop")
        asm("csrrs", rd=A0, csr="time", rs1=0)
        for _ in range(4):
            asm("addi", rd=T1, rs1=T1, imm=1)
        asm("jal", rd=0, imm="loop")

    machine = boot(code, lambda asm: asm("addi", rd=A1, rs1=A0, imm=0))
    machine.run_until(SPINNING)
    machine.apply(Clock(SPINNING, compare - 1, 0 if jumps else (1 << 32) // (50 + phase), 1000))
    machine.run_until(SPINNING + phase)
    if jumps:
        machine.apply(Clock(machine.tick, compare, 0, 1000))
    machine.run_until(SPINNING + 200)
    assert register(machine, A1) >= compare


@settings(deadline=None, max_examples=60)
@given(
    samples=st.lists(
        st.tuples(st.integers(0, 1 << 60), st.integers(0, (1 << 48) - 1), st.integers(0, 1 << 60), st.integers(1, 500)),
        min_size=1,
        max_size=6,
    )
)
def test_mtime_follows_the_formula_and_never_goes_back(samples: list[tuple[int, int, int, int]]) -> None:
    machine = run(lambda asm: None, 10)
    shown = 0
    for mtime, rate, cap, ticks in samples:
        base = max(machine.mtime, mtime)
        sample = Clock(machine.tick, mtime, rate, cap)
        machine.apply(sample)
        assert machine.mtime == base
        machine.run_until(machine.tick + ticks)
        assert machine.mtime == max(base, clock_at(machine.tick, sample, base))
        assert machine.mtime >= shown
        shown = machine.mtime


def test_time_stands_at_zero_before_the_first_sample() -> None:
    machine = run(lambda asm: asm("csrrs", rd=A0, csr="time", rs1=0))
    assert (machine.mtime, register(machine, A0)) == (0, 0)


def test_the_guest_reads_the_same_time_from_the_csr_and_from_clint() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T1, MTIME)
        asm.label("wait")
        asm("csrrs", rd=A0, csr="time", rs1=0)
        asm("ld", rd=A1, rs1=T1)
        asm("beq", rs1=A0, rs2=0, imm="wait")

    machine = boot(code)
    machine.run_until(50)
    machine.apply(Clock(50, 1 << 40, 3 << 32, 1000))
    machine.run_until(60)
    assert register(machine, A1) == register(machine, A0) + 3
    assert register(machine, A0) > 1 << 40


def test_a_guest_may_set_mtime() -> None:
    def code(asm: Assembler) -> None:
        store(asm, MTIME, 123456, "d")
        asm("csrrs", rd=A0, csr="time", rs1=0)

    machine = run(code)
    assert register(machine, A0) == 123456
    assert machine.mtime == 0, "the log's clock is not the guest's to set"


def sleep(asm: Assembler) -> None:
    store(asm, MTIMECMP, 1000, "d")
    asm.li(T0, s.MTIP)
    asm("csrrw", csr="mie", rs1=T0)
    asm("wfi")
    asm("addi", rd=A0, rs1=0, imm=1)


def test_a_waiting_hart_tells_its_deadline_and_wakes_at_it() -> None:
    machine = boot(sleep)
    assert machine.deadline() is None, "not in WFI"
    stop = machine.run_until(200)
    assert (stop.reason, machine.deadline()) == (StopReason.IDLE, 1000)
    machine.apply(Clock(stop.tick, 999, 1 << 40, 5000))
    assert machine.run_until(200).reason is StopReason.IDLE, "ticks stand still, and so does computed time"
    machine.apply(Clock(stop.tick, 1000, 0, 0))
    assert machine.run_until(200).reason is StopReason.LIMIT
    assert register(machine, A0) == 1


@pytest.mark.parametrize("field", ["mtime", "rate", "cap"])
def test_a_clock_entry_out_of_range_is_refused(field: str) -> None:
    machine = run(lambda asm: None, 10)
    for value in (-1, 1 << 62, 1 << 80):
        fields = {"mtime": 1, "rate": 1, "cap": 1, field: value}
        with pytest.raises(LogError):
            machine.apply(Clock(10, **fields))
