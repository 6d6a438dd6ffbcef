"""Instruction formats: where the operands of an instruction lie, and how an assembler writes them.

Immediates are written as the manual draws them: `"12@31 10:5@25 4:1@8 11@7"` says that bit 12 of the immediate is
bit 31 of the instruction, bits 10 to 5 start at bit 25, and so on. (RISC-V Instruction Set Manual, volume I,
chapters "RV32/64G Instruction Set Listings" and "C".)
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Piece:
    """`width` bits of an operand's value, from `value_lsb` on; in the word they are at `word_lsb` on."""

    value_lsb: int
    width: int
    word_lsb: int


@dataclass(frozen=True, slots=True)
class Field:
    """One operand: where its bits are, whether it is sign-extended, what is added (8 for `rd'` of RVC).

    `registers` tells which registers a register's number means: "x" or "f".
    """

    name: str
    pieces: tuple[Piece, ...]
    signed: bool = False
    bias: int = 0
    registers: str = "x"

    @property
    def width(self) -> int:
        """Bits of the value, counted from bit 0 (low bits that are always zero included)."""
        return max(piece.value_lsb + piece.width for piece in self.pieces)

    def extract(self, word: int) -> int:
        value = 0
        for piece in self.pieces:
            value |= (word >> piece.word_lsb & (1 << piece.width) - 1) << piece.value_lsb
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value + self.bias

    def insert(self, value: int) -> int:
        """The instruction bits for `value`. ValueError when the field cannot hold it."""
        word = 0
        for piece in self.pieces:
            word |= (value - self.bias >> piece.value_lsb & (1 << piece.width) - 1) << piece.word_lsb
        if self.extract(word) != value:
            raise ValueError(f"{self.name} cannot hold {value}")
        return word


def _field(name: str, layout: str, signed: bool = False, bias: int = 0, registers: str = "x") -> Field:
    pieces = []
    for part in layout.split():
        bits, word_lsb = part.split("@")
        high, _, low = bits.partition(":")
        pieces.append(Piece(int(low or high), int(high) - int(low or high) + 1, int(word_lsb)))
    return Field(name, tuple(pieces), signed, bias, registers)


RD, RS1, RS2 = (_field(name, f"4:0@{lsb}") for name, lsb in (("rd", 7), ("rs1", 15), ("rs2", 20)))
FD, FS1, FS2, FS3 = (
    _field(name, f"4:0@{lsb}", registers="f") for name, lsb in (("rd", 7), ("rs1", 15), ("rs2", 20), ("rs3", 27))
)
RM = _field("rm", "2:0@12")
IMM_I = _field("imm", "11:0@20", signed=True)
IMM_S = _field("imm", "11:5@25 4:0@7", signed=True)
IMM_B = _field("imm", "12@31 10:5@25 4:1@8 11@7", signed=True)
IMM_U = _field("imm", "31:12@12", signed=True)
IMM_J = _field("imm", "20@31 10:1@21 11@20 19:12@12", signed=True)
SHAMT6, SHAMT5 = _field("imm", "5:0@20"), _field("imm", "4:0@20")
CSR, UIMM = _field("csr", "11:0@20"), _field("imm", "4:0@15")
AQRL = _field("aqrl", "1:0@25")
C_RD_RS1 = _field("rd", "4:0@7")
C_RS1 = _field("rs1", "4:0@7")
C_RS2 = _field("rs2", "4:0@2")
C_RD_LOW, C_RS2_LOW = _field("rd", "2:0@2", bias=8), _field("rs2", "2:0@2", bias=8)
C_RD_HIGH, C_RS1_HIGH = _field("rd", "2:0@7", bias=8), _field("rs1", "2:0@7", bias=8)
C_FD_LOW, C_FS2_LOW = (_field(name, "2:0@2", bias=8, registers="f") for name in ("rd", "rs2"))
C_IMM6 = _field("imm", "5@12 4:0@2", signed=True)
C_SHAMT = _field("imm", "5@12 4:0@2")
C_IMM_LDSP, C_IMM_SDSP = _field("imm", "5@12 4:3@5 8:6@2"), _field("imm", "5:3@10 8:6@7")
C_UIMM_W, C_UIMM_D = _field("imm", "5:3@10 2@6 6@5"), _field("imm", "5:3@10 7:6@5")

FORMATS: dict[str, tuple[Field, ...]] = {
    "none": (),
    "R": (RD, RS1, RS2),
    "I": (RD, RS1, IMM_I),
    "load": (RD, RS1, IMM_I),
    "store": (RS1, RS2, IMM_S),
    "B": (RS1, RS2, IMM_B),
    "U": (RD, IMM_U),
    "J": (RD, IMM_J),
    "shift6": (RD, RS1, SHAMT6),
    "shift5": (RD, RS1, SHAMT5),
    "csr": (RD, CSR, RS1),
    "csri": (RD, CSR, UIMM),
    "lr": (RD, RS1, AQRL),
    "amo": (RD, RS1, RS2, AQRL),
    "fence": (_field("fm", "3:0@28"), _field("pred", "3:0@24"), _field("succ", "3:0@20")),
    "sfence": (RS1, RS2),
    "R.unary": (RD, RS1),
    "F.load": (FD, RS1, IMM_I),
    "F.store": (RS1, FS2, IMM_S),
    "F.fma": (FD, FS1, FS2, FS3, RM),
    "F.arith": (FD, FS1, FS2, RM),
    "F.round": (FD, FS1, RM),
    "F.select": (FD, FS1, FS2),
    "F.compare": (RD, FS1, FS2),
    "F.to": (RD, FS1, RM),
    "F.from": (FD, RS1, RM),
    "F.mv.x": (RD, FS1),
    "F.mv.f": (FD, RS1),
    "CR": (C_RD_RS1, C_RS2),
    "CR.jump": (C_RS1,),
    "CI": (C_RD_RS1, C_IMM6),
    "CI.lui": (C_RD_RS1, _field("imm", "17@12 16:12@2", signed=True)),
    "CI.addi16sp": (_field("imm", "9@12 4@6 6@5 8:7@3 5@2", signed=True),),
    "CI.shift": (C_RD_RS1, C_SHAMT),
    "CI.lwsp": (C_RD_RS1, _field("imm", "5@12 4:2@4 7:6@2")),
    "CI.ldsp": (C_RD_RS1, C_IMM_LDSP),
    "CSS.swsp": (C_RS2, _field("imm", "5:2@9 7:6@7")),
    "CSS.sdsp": (C_RS2, C_IMM_SDSP),
    "CIW": (C_RD_LOW, _field("imm", "5:4@11 9:6@7 2@6 3@5")),
    "CL.w": (C_RD_LOW, C_RS1_HIGH, C_UIMM_W),
    "CL.d": (C_RD_LOW, C_RS1_HIGH, C_UIMM_D),
    "CS.w": (C_RS1_HIGH, C_RS2_LOW, C_UIMM_W),
    "CS.d": (C_RS1_HIGH, C_RS2_LOW, C_UIMM_D),
    "CL.f": (C_FD_LOW, C_RS1_HIGH, C_UIMM_D),
    "CS.f": (C_RS1_HIGH, C_FS2_LOW, C_UIMM_D),
    "CI.fldsp": (FD, C_IMM_LDSP),
    "CSS.fsdsp": (_field("rs2", "4:0@2", registers="f"), C_IMM_SDSP),
    "CA": (C_RD_HIGH, C_RS2_LOW),
    "CB": (C_RS1_HIGH, _field("imm", "8@12 4:3@10 7:6@5 2:1@3 5@2", signed=True)),
    "CB.shift": (C_RD_HIGH, C_SHAMT),
    "CB.andi": (C_RD_HIGH, C_IMM6),
    "CJ": (_field("imm", "11@12 4@11 9:8@9 10@8 6@7 7@6 3:1@3 5@2", signed=True),),
}
"""Operands of each format, in the order in which `expansion` and the assembler's positions list them."""

ROUNDING_MODES: tuple[str | None, ...] = ("rne", "rtz", "rdn", "rup", "rmm", None, None, "dyn")
"""By the value of `rm`; None is reserved. "dyn" takes the mode from fcsr."""

SYNTAX: dict[str, str] = {
    form: text
    for forms, text in (
        ("none", ""),
        ("R F.select F.compare", "{rd}, {rs1}, {rs2}"),
        ("R.unary F.mv.x F.mv.f", "{rd}, {rs1}"),
        ("F.fma", "{rd}, {rs1}, {rs2}, {rs3}, {rm}"),
        ("F.arith", "{rd}, {rs1}, {rs2}, {rm}"),
        ("F.round F.to F.from", "{rd}, {rs1}, {rm}"),
        ("I shift6 shift5", "{rd}, {rs1}, {imm}"),
        ("load F.load CL.w CL.d CL.f", "{rd}, {imm}({rs1})"),
        ("store F.store CS.w CS.d CS.f", "{rs2}, {imm}({rs1})"),
        ("B", "{rs1}, {rs2}, {target}"),
        ("U CI.lui", "{rd}, {upper}"),
        ("J", "{rd}, {target}"),
        ("csr", "{rd}, {csr}, {rs1}"),
        ("csri", "{rd}, {csr}, {imm}"),
        ("lr", "{rd}, ({rs1})"),
        ("amo", "{rd}, {rs2}, ({rs1})"),
        ("fence", "{pred}, {succ}"),
        ("sfence", "{rs1}, {rs2}"),
        ("CR CA", "{rd}, {rs2}"),
        ("CR.jump", "{rs1}"),
        ("CI CI.shift CB.shift CB.andi", "{rd}, {imm}"),
        ("CI.addi16sp", "x2, {imm}"),
        ("CI.lwsp CI.ldsp CI.fldsp", "{rd}, {imm}(x2)"),
        ("CSS.swsp CSS.sdsp CSS.fsdsp", "{rs2}, {imm}(x2)"),
        ("CIW", "{rd}, x2, {imm}"),
        ("CB", "{rs1}, {target}"),
        ("CJ", "{target}"),
    )
    for form in forms.split()
}
"""How assemblers write the operands of each format."""


@dataclass(frozen=True)
class Encoding:
    """One instruction: `word & mask == match`, unless a field of `nonzero` is 0 (then reserved: illegal),
    or its rounding mode is a reserved one.

    `expansion` of a compressed instruction names its 32-bit equal and that one's operands in its format's
    order, each a field of this instruction or a number. `hint` names the fields whose zero makes it a HINT.
    """

    name: str
    extension: str
    format: str
    match: int
    mask: int
    expansion: str = ""
    nonzero: tuple[str, ...] = ()
    hint: tuple[str, ...] = ()

    @cached_property
    def fields(self) -> dict[str, Field]:
        return {field.name: field for field in FORMATS[self.format]}

    @property
    def size(self) -> int:
        """Bytes: 2 or 4."""
        return 4 if self.match & 3 == 3 else 2

    def operands(self, word: int) -> dict[str, int]:
        return {name: field.extract(word) for name, field in self.fields.items()}

    def matches(self, word: int) -> bool:
        if word & self.mask != self.match:
            return False
        if "rm" in self.fields and ROUNDING_MODES[RM.extract(word)] is None:
            return False
        return all(self.fields[name].extract(word) for name in self.nonzero)
