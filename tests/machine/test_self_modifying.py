"""Code that changes: visible at once, whatever was decoded before."""

import pytest

from ftvm.machine.board import RAM_BASE
from ftvm.machine.hart.encodings import encode
from ftvm.machine.machine import Machine
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, A1, A2, BOARD, T0, T1, T2, load_address, program, register, run

ADD_1 = encode("addi", rd=A0, rs1=A0, imm=1)
ADD_7 = encode("addi", rd=A0, rs1=A0, imm=7)
RETURN = encode("jalr", rs1=1)


def test_the_very_next_instruction_may_change() -> None:
    def code(asm: Assembler) -> None:
        asm("auipc", rd=T0, imm=0)
        asm.li(T1, ADD_7)
        asm("sw", rs1=T0, rs2=T1, imm=16)
        asm.word(ADD_1)

    assert register(run(code), A0) == 7


@pytest.mark.parametrize("width", ["sb", "sh", "sw", "sd"])
@pytest.mark.parametrize("back", [0, 1, 2, 4, 6])
def test_a_store_of_any_width_reaches_all_instructions_that_it_overlaps(width: str, back: int) -> None:
    """A routine runs, is changed from `back` bytes before it on, and runs again: as a machine without caches has it."""

    def code(asm: Assembler) -> None:
        load_address(asm, T0, RAM_BASE + 0x1100)
        for offset, word in ((0, ADD_1), (4, ADD_1), (8, RETURN)):
            asm.li(T1, word)
            asm("sw", rs1=T0, rs2=T1, imm=offset)
        asm("jalr", rd=1, rs1=T0)
        asm("addi", rd=A1, rs1=A0, imm=0)
        asm("addi", rd=A0, rs1=0, imm=0)
        asm("lwu", rd=T1, rs1=T0, imm=0)
        asm("xori", rd=T1, rs1=T1, imm=0)
        load_address(asm, T2, ADD_7 << 0)
        asm("slli", rd=T1, rs1=T2, imm=8 * back if 8 * back < 64 else 0)
        if back == 0:
            asm(width, rs1=T0, rs2=T2, imm=0)
        else:
            asm("sd", rs1=T0, rs2=T1, imm=-back)
        asm.li(T1, RETURN)
        asm("sw", rs1=T0, rs2=T1, imm=8)
        asm("sw", rs1=T0, rs2=T1, imm=4)
        asm("jalr", rd=1, rs1=T0)

    cached = run(code, 300)
    flushed = Machine(BOARD, program(code))
    while flushed.tick < 300:
        flushed.flush_caches()
        flushed.run_until(flushed.tick + 1)
    assert register(cached, A1) == 2
    assert cached.digest() == flushed.digest()
    if back == 0 and width in ("sw", "sd"):
        assert register(cached, A0) == 7


@pytest.mark.parametrize("half", [0, 2])
def test_an_instruction_across_two_pages_may_change_on_either(half: int) -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T0, RAM_BASE + 0x2000 - 2)
        asm.li(T1, ADD_1)
        asm("sw", rs1=T0, rs2=T1, imm=0)
        asm.li(T1, RETURN)
        asm("sw", rs1=T0, rs2=T1, imm=4)
        asm("jalr", rd=1, rs1=T0)
        asm("jalr", rd=1, rs1=T0)
        asm("addi", rd=A1, rs1=A0, imm=0)
        asm("addi", rd=A0, rs1=0, imm=0)
        asm.li(T1, ADD_7 >> 8 * half)
        asm("sh", rs1=T0, rs2=T1, imm=half)
        asm("jalr", rd=1, rs1=T0)

    machine = run(code)
    assert register(machine, A1) == 2
    assert register(machine, A0) == (7 if half else 1), "imm is in the upper half"


def test_a_loop_that_rewrites_itself_often() -> None:
    """More stores to a page of code than it takes to drop what was decoded from it."""

    def code(asm: Assembler) -> None:
        asm.li(A2, 500)
        load_address(asm, T0, RAM_BASE + 0x1000)
        asm.li(T1, ADD_1)
        asm.li(T2, RETURN)
        asm("sw", rs1=T0, rs2=T2, imm=4)
        asm.label("again")
        asm("sw", rs1=T0, rs2=T1, imm=0)
        asm("jalr", rd=1, rs1=T0)
        asm("addi", rd=A2, rs1=A2, imm=-1)
        asm("bne", rs1=A2, rs2=0, imm="again")

    machine = run(code, 10_000)
    assert register(machine, A0) == 500
    assert 0 < machine.statistics().code_stores < 500
