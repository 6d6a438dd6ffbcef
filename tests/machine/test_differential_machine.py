"""Kernel against reference on whole machines: traps, CSRs, interrupts, devices, slices, the edges of memory."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.machine.board import CLINT_BASE, ROM_BASE, UART_BASE
from ftvm.machine.hart import state as s
from ftvm.machine.hart.reference import ReferenceHart
from ftvm.machine.hart.reference_csr import MSTATUS_MIE, ControlStatus
from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine, StopReason
from tests.differential.machines import compare, differences, machine_campaign, plan_of
from tests.machine.assembler import Assembler
from tests.machine.engines import SMALL_BOARD
from tests.machine.machine_programs import generate_machine
from tests.machine.programs import BASE

RAM_END = BASE + (SMALL_BOARD.ram_mib << 20)
LENGTH = 150


def first_report(seeds: range) -> str | None:
    return next((report for report in machine_campaign(seeds, LENGTH) if report is not None), None)


def test_kernel_and_reference_agree_on_the_first_programs() -> None:
    assert first_report(range(20)) is None


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_kernel_and_reference_agree_after_every_slice(seed: int, plan_seed: int) -> None:
    """Same image and same entries: equal digests at each stop, wherever the stops are and whenever caches are lost.

    The same examples each time: new ones are what `python -m tests.differential --level machine` is for.
    """
    assert not compare(generate_machine(seed, LENGTH), plan_of(plan_seed))


def keep_mie(hart: ReferenceHart, cause: int, tval: int) -> None:
    ENTER_TRAP(hart, cause, tval)
    hart.csr.values["mstatus"] |= MSTATUS_MIE


ENTER_TRAP = ReferenceHart._enter_trap


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (ReferenceHart, "_enter_trap", keep_mie),
        (ReferenceHart, "_sret", ReferenceHart._mret),
        (ReferenceHart, "_interrupt_to_take", lambda hart: None),
        (ControlStatus, "_write_sstatus", lambda csr, value: None),
    ],
)
def test_a_wrong_reference_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: Callable[..., object]
) -> None:
    """Mutants of what only machine-level programs reach: the comparison must see each."""
    monkeypatch.setattr(owner, name, mutant)
    assert any(compare(generate_machine(seed, LENGTH), plan_of(seed)) for seed in range(100, 160))


def assert_agree(build: Callable[[Assembler], None], ticks: int = 40, **registers: int) -> Machine:
    """Runs code at BASE on both, stop by stop and at once; traps end in a loop of one illegal instruction."""
    asm = Assembler(BASE)
    for name, value in registers.items():
        asm.li(int(name[1:]), value)
    asm("csrrwi", csr="mtvec", imm=0)
    asm("auipc", rd=31, imm=0)
    asm("addi", rd=31, rs1=31, imm="vector")
    asm("addi", rd=31, rs1=31, imm=4)
    asm("csrrw", csr="mtvec", rs1=31)
    build(asm)
    while asm.size() % 4:
        asm("c.nop")
    asm.label("vector")
    asm("addi", rd=30, rs1=30, imm=1)
    asm("jal", imm=-4)
    image = asm.assemble()
    whole, sliced, reference = (make(SMALL_BOARD, image) for make in (Machine, Machine, ReferenceMachine))
    whole.run_until(ticks)
    for tick in range(1, ticks + 1):
        sliced.run_until(tick)
        reference.run_until(tick)
        assert not differences(sliced, reference), f"tick {tick}"
        sliced.take_outputs()
        reference.take_outputs()
    assert whole.digest() == sliced.digest() == reference.digest()
    return whole


def assert_access_agrees(name: str, at: int, back: int) -> None:
    def build(asm: Assembler) -> None:
        asm.li(1, -1 << 31 if at >= BASE else at)
        if at >= BASE:
            asm("slli", rd=1, rs1=1, imm=32)
            asm("srli", rd=1, rs1=1, imm=32)
            asm.li(2, at - BASE)
            asm("add", rd=1, rs1=1, rs2=2)
        asm(name, rs1=1, imm=-back)

    assert_agree(build, ticks=28)


@pytest.mark.parametrize("name", ["lh", "lw", "ld", "sh", "sw", "sd"])
@pytest.mark.parametrize("at", [RAM_END, ROM_BASE, UART_BASE, CLINT_BASE + 0x1_0000])
@pytest.mark.parametrize("back", range(9))
def test_accesses_across_the_ends_of_memory_and_devices(at: int, name: str, back: int) -> None:
    assert_access_agrees(name, at, back)


@pytest.mark.parametrize("name", ["lh", "lw", "ld"])
@pytest.mark.parametrize("back", range(9))
def test_loads_across_the_end_of_rom(name: str, back: int) -> None:
    assert_access_agrees(name, ROM_BASE + 0x1000, back)


@pytest.mark.parametrize(("name", "size"), [("sh", 2), ("sw", 4), ("sd", 8)])
def test_stores_across_the_end_of_rom_fault_at_their_first_byte(name: str, size: int) -> None:
    assert_access_agrees(name, ROM_BASE + 0x1000, size - 1)


@pytest.mark.parametrize("target", [-2, -534, -4096, -4098, 0, 0x0FFE, 0x1FFE, 0x2000, 1 << 20])
def test_jumps_to_where_nothing_can_be_fetched(target: int) -> None:
    """The topmost page too: its number is all ones."""
    machine = assert_agree(lambda asm: asm("jalr", rs1=1), x1=target)
    assert machine._state[s.NOT_RETIRED] >= 1


def test_jump_to_the_end_of_memory_and_over_it() -> None:
    def build(asm: Assembler) -> None:
        asm("auipc", rd=1, imm=RAM_END - BASE - 0x1000)
        asm.li(2, 0x13)
        asm.li(4, 0xFFF)
        asm("or", rd=1, rs1=1, rs2=4)
        asm("addi", rd=1, rs1=1, imm=-1)
        asm("sh", rs1=1, rs2=2)
        asm("jalr", rs1=1)

    machine = assert_agree(build)
    assert (machine._state[s.MEPC], machine._state[s.MTVAL]) == (RAM_END - 2, RAM_END)


def test_wfi_stops_both_at_the_same_tick() -> None:
    asm = Assembler(BASE)
    asm("wfi")
    machines = [make(SMALL_BOARD, asm.assemble()) for make in (Machine, ReferenceMachine)]
    stops = [machine.run_until(1000) for machine in machines]
    assert stops[0] == stops[1]
    assert stops[0].reason is StopReason.IDLE
    assert machines[0].digest() == machines[1].digest()


def test_htif_commands_end_in_the_same_state() -> None:
    """A console byte, an answer in fromhost, a misaligned store that makes a command, and the end with a code."""
    asm = Assembler(BASE)
    asm("auipc", rd=1, imm=0x2000)
    asm.li(2, 0x0101)
    asm("slli", rd=2, rs1=2, imm=48)
    asm("addi", rd=2, rs1=2, imm=0x41)
    asm("sd", rs1=1, rs2=2)
    asm("ld", rd=3, rs1=1, imm=8)
    asm("sb", rs1=1, rs2=2, imm=9)
    asm("addi", rd=4, rs1=0, imm=5 << 1 | 1)
    asm("slli", rd=4, rs1=4, imm=8)
    asm("sw", rs1=1, rs2=4, imm=-1)
    machines = [make(SMALL_BOARD, asm.assemble()) for make in (Machine, ReferenceMachine)]
    for machine in machines:
        machine._state[s.TOHOST], machine._state[s.FROMHOST] = BASE + 0x2000, BASE + 0x2008
        machine._watch_tohost()
        assert machine.run_until(100).reason is StopReason.HALTED
    outputs = [machine.take_outputs() for machine in machines]
    assert outputs[0] == outputs[1]
    assert [output.data for output in outputs[0]] == [b"A"]
    assert not differences(*machines)
    assert machines[0].halt == machines[1].halt
    assert machines[0].halt is not None
    assert machines[0].halt.code == 5
