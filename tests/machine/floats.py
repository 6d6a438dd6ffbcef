"""Single floating-point instructions with chosen operands, and what each of three says that they do.

The three are the compiled `fp_execute`, the reference on fractions, and unicorn. Unicorn's quirks, which
`unicorn_differences` stays clear of: it neither NaN-boxes singles nor looks whether one is, its FMIN and FMAX are those
of an older specification, where signalling NaNs count, and infinity times zero plus a quiet NaN is not invalid to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import unicorn

from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import BY_NAME, encode
from ftvm.machine.hart.formats import ROUNDING_MODES, Encoding
from ftvm.machine.hart.fpu import fp_execute
from ftvm.machine.hart.reference_fpu import NV, fp_operation
from tests.machine.assembler import Assembler
from tests.machine.float_operands import (
    ARITHMETIC,
    BOX,
    MASK64,
    ROUNDING,
    boxed,
    operand_width,
    random_operand,
)

DYNAMIC, ROUND_MAX = 7, 4


@dataclass(frozen=True, slots=True)
class Case:
    """`a`, `b`, `c` are the values of rs1, rs2, rs3, unsigned; `rm` is None where there is no such field."""

    name: str
    rm: int | None
    fcsr: int
    a: int
    b: int = 0
    c: int = 0

    def word(self) -> int:
        """rd is register 3, sources are 4, 5 and 6."""
        encoding = BY_NAME[self.name]
        operands = {"rd": 3, "rs1": 4, "rs2": 5, "rs3": 6, "rm": self.rm or 0}
        return encode(self.name, **{name: operands[name] for name in encoding.fields})

    def __str__(self) -> str:
        mode = "" if self.rm is None else ROUNDING_MODES[self.rm]
        return f"{self.name} {mode} fcsr={self.fcsr:#x} a={self.a:#x} b={self.b:#x} c={self.c:#x}"


Outcome = tuple[int, int] | None
"""The value of rd and fcsr after it; None: illegal."""


def random_case(random: Random, encodings: Sequence[Encoding] = ARITHMETIC) -> Case:
    encoding = random.choice(encodings)
    a, b, c = (random_operand(random, operand_width(encoding, name)) for name in ("rs1", "rs2", "rs3"))
    if random.randrange(6) == 0 and "rs2" in encoding.fields:
        b = a
    if encoding.format == "F.fma" and random.randrange(3) == 0:
        # An addend that cancels the product, or nearly.
        width = operand_width(encoding, "rs3")
        c = fp_operation(f"fmul.{width}", 0, 0, a, b)[0] ^ random.getrandbits(1) << (63 if width == "d" else 31)
        c = boxed(c + random.randrange(-1, 2) & MASK64, width)
    frm = random.randrange(8) if random.randrange(20) == 0 else random.randrange(5)
    rm = random.choice((0, 0, *ROUNDING)) if "rm" in encoding.fields else None
    return Case(encoding.name, rm, frm << 5 | random.choice((0, 1, 31)), a, b, c)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_STATE = np.zeros(s.STATE_SIZE, np.int64)


def on_fpu(case: Case) -> Outcome:
    encoding = BY_NAME[case.name]
    for register, value in ((4, case.a), (5, case.b), (6, case.c)):
        _STATE[s.X + register] = _STATE[s.F + register] = _signed(value)
    _STATE[s.FCSR] = case.fcsr
    if not fp_execute(_STATE, case.word()):
        return None
    file = s.X if encoding.fields["rd"].registers == "x" else s.F
    return int(_STATE[file + 3]) & MASK64, int(_STATE[s.FCSR])


def on_reference(case: Case) -> Outcome:
    fields = BY_NAME[case.name].fields
    b, c = (case.b if "rs2" in fields else 0), (case.c if "rs3" in fields else 0)
    rm, frm = case.rm or 0, case.fcsr >> 5
    if (frm if rm == DYNAMIC else rm) > ROUND_MAX:
        return None
    value, flags = fp_operation(case.name, rm, frm, case.a, b, c)
    return value, flags | case.fcsr


def difference(case: Case) -> str | None:
    """A line that shows where fpu.py and the reference differ."""
    mine, theirs = on_fpu(case), on_reference(case)
    return None if mine == theirs else f"{case}: fpu {_shown(mine)}, reference {_shown(theirs)}"


def _shown(outcome: Outcome) -> str:
    return "illegal" if outcome is None else f"{outcome[0]:#x} fcsr={outcome[1]:#x}"


def for_unicorn(case: Case) -> bool:
    """Legal, and none of unicorn's quirks."""
    encoding = BY_NAME[case.name]
    values = {"rs1": case.a, "rs2": case.b, "rs3": case.c}
    singles = [value for name, value in values.items() if operand_width(encoding, name) == "s"]
    if any(value >> 32 != BOX >> 32 for value in singles):
        return False
    if encoding.format == "F.fma":
        width = operand_width(encoding, "rd")
        product_flags = fp_operation(f"fmul.{width}", 0, 0, case.a, case.b)[1]
        if product_flags & NV and fp_operation(f"fclass.{width}", 0, 0, case.c)[0] & 1 << 9:
            return False
    if case.name.startswith(("fmin", "fmax")):
        width = case.name[-1]
        return not any(fp_operation(f"fclass.{width}", 0, 0, value)[0] & 1 << 8 for value in (case.a, case.b))
    return on_reference(case) is not None


CODE, DATA, UNICORN_BATCH = 0x10000, 0x40000, 256
_SLOT = 64
"""Bytes of data of a case: three operands, fcsr, the results x, f and fcsr."""


@cache
def _uc() -> unicorn.Uc:
    uc = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
    uc.mem_map(CODE, 0x40000)
    return uc


def on_unicorn(cases: Sequence[Case]) -> list[tuple[int, int]]:
    """At most UNICORN_BATCH cases, each `for_unicorn`, in one program."""
    assert len(cases) <= UNICORN_BATCH
    asm = Assembler(CODE)
    asm.li(1, 3 << 13)
    asm("csrrs", csr="mstatus", rs1=1)
    asm.li(2, DATA)
    data = bytearray()
    for case in cases:
        fields = BY_NAME[case.name].fields
        for offset, (name, value) in zip((0, 8, 16), (("rs1", case.a), ("rs2", case.b), ("rs3", case.c)), strict=True):
            data += value.to_bytes(8, "little")
            if name in fields:
                load = "ld" if fields[name].registers == "x" else "fld"
                asm(load, rd=4 + offset // 8, rs1=2, imm=offset)
        data += case.fcsr.to_bytes(8, "little") + bytes(_SLOT - 32)
        asm("ld", rd=7, rs1=2, imm=24)
        asm("csrrw", csr="fcsr", rs1=7)
        asm.word(case.word())
        asm("csrrs", rd=7, csr="fcsr")
        asm("sd" if fields["rd"].registers == "x" else "fsd", rs1=2, rs2=3, imm=32)
        asm("sd", rs1=2, rs2=7, imm=40)
        asm("addi", rd=2, rs1=2, imm=_SLOT)
    code = asm.assemble()
    assert len(code) < DATA - CODE
    uc = _uc()
    uc.ctl_flush_tb()
    uc.mem_write(CODE, code)
    uc.mem_write(DATA, bytes(data))
    uc.emu_start(CODE, CODE + len(code))
    words = np.frombuffer(bytes(uc.mem_read(DATA, len(data))), np.uint64).reshape(len(cases), -1)
    return [(int(row[4]), int(row[5])) for row in words]


def unicorn_differences(cases: Sequence[Case]) -> list[str]:
    """Where fpu.py and unicorn differ."""
    found = []
    cases = [case for case in cases if for_unicorn(case)]
    for start in range(0, len(cases), UNICORN_BATCH):
        batch = cases[start : start + UNICORN_BATCH]
        for case, (value, fcsr) in zip(batch, on_unicorn(batch), strict=True):
            mine = on_fpu(case)
            theirs = (boxed(value, operand_width(BY_NAME[case.name], "rd")), fcsr)
            if mine != theirs:
                found.append(f"{case}: fpu {_shown(mine)}, unicorn {_shown(theirs)}")
    return found
