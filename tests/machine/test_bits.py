"""Zba, Zbb, Zbs and Zicond: the compiled cores, the reference, and answers from the manual's wording."""

from collections.abc import Callable

import numpy as np
import pytest

from ftvm.machine.board import RAM_BASE
from ftvm.machine.hart.encodings import BY_NAME
from ftvm.machine.hart.reference_alu import MASK64, REGISTER, REGISTER_IMMEDIATE, REGISTER_REGISTER
from ftvm.machine.machine import Machine
from tests.machine.assembler import Assembler
from tests.machine.guest import BOARD
from tests.machine.programs import BITS

VALUES = (
    0, 1, 2, 31, 32, 33, 63, 64, 0x7F, 0x80, 0x8000, 0xFF00FF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32,
    0x0123_4567_89AB_CDEF, 0x8000_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_8000_0000, MASK64 - 1, MASK64,
)  # fmt: skip
PAIRS = [(a, b) for a in VALUES for b in VALUES]
SHIFTS = (0, 1, 31, 63)
TABLE, RESULTS = 0x4000, 0x8000

Compute = Callable[[int, int], int]


def operations() -> list[tuple[str, dict[str, int], Compute]]:
    """Name, operands besides registers, and what the reference says, of each instruction and some immediates."""
    rows: list[tuple[str, dict[str, int], Compute]] = []
    for encoding in BITS:
        name = encoding.name
        if name in REGISTER:
            rows.append((name, {}, lambda a, b, name=name: REGISTER[name](a)))  # type: ignore[misc]
        elif name in REGISTER_REGISTER:
            rows.append((name, {}, REGISTER_REGISTER[name]))
        else:
            for imm in SHIFTS:
                if imm < 1 << encoding.fields["imm"].width:
                    compute = REGISTER_IMMEDIATE[name]
                    rows.append((name, {"imm": imm}, lambda a, b, f=compute, imm=imm: f(a, imm)))  # type: ignore[misc]
    return rows


def image() -> bytes:
    """Every operation on every pair of the table, results one after the other."""
    asm = Assembler(RAM_BASE)
    asm("auipc", rd=10, imm=TABLE)
    asm("auipc", rd=11, imm=RESULTS)
    asm("addi", rd=11, rs1=11, imm=-4)
    asm.li(12, len(PAIRS))
    asm.label("next")
    asm("ld", rd=5, rs1=10, imm=0)
    asm("ld", rd=6, rs1=10, imm=8)
    for index, (name, immediate, _) in enumerate(operations()):
        registers = {"rd": 7, "rs1": 5, "rs2": 6}
        fields = BY_NAME[name].fields
        asm(name, **{key: value for key, value in registers.items() if key in fields}, **immediate)
        asm("sd", rs1=11, rs2=7, imm=8 * index)
    asm("addi", rd=10, rs1=10, imm=16)
    asm("addi", rd=11, rs1=11, imm=8 * len(operations()))
    asm("addi", rd=12, rs1=12, imm=-1)
    asm("bne", rs1=12, rs2=0, imm="next")
    asm.label("end")
    asm("jal", imm="end")
    table = np.array(PAIRS, np.uint64).tobytes()
    return asm.assemble().ljust(TABLE, b"\0") + table


def test_every_instruction_on_every_pair_agrees_with_the_reference() -> None:
    machine = Machine(BOARD, image())
    rows = operations()
    machine.run_until(len(PAIRS) * (2 * len(rows) + 8))
    results = machine._memory.bytes[RESULTS : RESULTS + 8 * len(rows) * len(PAIRS)].view(np.uint64)
    for (a, b), line in zip(PAIRS, results.reshape(len(PAIRS), -1), strict=True):
        for (name, immediate, compute), result in zip(rows, line, strict=True):
            assert int(result) == compute(a, b) & MASK64, (name, immediate, hex(a), hex(b))


def test_the_table_has_all_of_the_extensions() -> None:
    assert {name for name, _, _ in operations()} == {encoding.name for encoding in BITS}
    assert len(BITS) == 8 + 24 + 8 + 2


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("sh3add", 3, 5, 29),
        ("sh1add.uw", 0xFFFF_FFFF_8000_0000, 1, 0x1_0000_0001),
        ("add.uw", MASK64, 1, 0x1_0000_0000),
        ("andn", 0b1100, 0b1010, 0b0100),
        ("orn", 0, 0, MASK64),
        ("xnor", 0b1100, 0b1010, MASK64 ^ 0b0110),
        ("min", MASK64, 1, MASK64),
        ("minu", MASK64, 1, 1),
        ("max", MASK64, 1, 1),
        ("maxu", MASK64, 1, MASK64),
        ("rol", 0x8000_0000_0000_0001, 1, 3),
        ("ror", 1, 1, 1 << 63),
        ("rorw", 1, 1, MASK64 << 31 & MASK64),
        ("rolw", 0x8000_0000, 33, 1),
        ("bset", 0, 65, 2),
        ("bclr", MASK64, 63, MASK64 >> 1),
        ("binv", 1, 0, 0),
        ("bext", 1 << 63, 127, 1),
        ("czero.eqz", 7, 0, 0),
        ("czero.eqz", 7, 8, 7),
        ("czero.nez", 7, 0, 7),
        ("czero.nez", 7, 8, 0),
    ],
)
def test_the_reference_with_two_registers(name: str, a: int, b: int, expected: int) -> None:
    assert REGISTER_REGISTER[name](a, b) & MASK64 == expected


@pytest.mark.parametrize(
    ("name", "a", "expected"),
    [
        ("clz", 0, 64),
        ("clz", 1, 63),
        ("ctz", 0, 64),
        ("ctz", 1 << 40, 40),
        ("clzw", 0x1_0000_0000, 32),
        ("ctzw", 0x1_0000_0000, 32),
        ("cpop", MASK64, 64),
        ("cpopw", MASK64, 32),
        ("sext.b", 0x80, MASK64 ^ 0x7F),
        ("sext.h", 0x17FFF, 0x7FFF),
        ("zext.h", MASK64, 0xFFFF),
        ("rev8", 0x0123_4567_89AB_CDEF, 0xEFCD_AB89_6745_2301),
        ("orc.b", 0x0100_8000_0000_0010, 0xFF00_FF00_0000_00FF),
    ],
)
def test_the_reference_with_one_register(name: str, a: int, expected: int) -> None:
    assert REGISTER[name](a) & MASK64 == expected
