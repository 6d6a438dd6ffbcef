"""Instruction encodings as one table of facts: RV64IMAC, Zicsr, Zifencei and the privileged instructions.

The decoder, the assembler, the disassembler and the random program generator all read this table, so that an
encoding is written down once. Immediates are written as the manual draws them: `"12@31 10:5@25 4:1@8 11@7"`
says that bit 12 of the immediate is bit 31 of the instruction, bits 10 to 5 start at bit 25, and so on.
(RISC-V Instruction Set Manual, volume I, chapters "RV32/64G Instruction Set Listings" and "C"; volume II for
the privileged instructions.) Floating point has no row: its encodings are illegal instructions.
"""

from collections.abc import Iterable
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
    """One operand: where its bits are, whether it is sign-extended, what is added (8 for `rd'` of RVC)."""

    name: str
    pieces: tuple[Piece, ...]
    signed: bool = False
    bias: int = 0

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


def _field(name: str, layout: str, signed: bool = False, bias: int = 0) -> Field:
    pieces = []
    for part in layout.split():
        bits, word_lsb = part.split("@")
        high, _, low = bits.partition(":")
        pieces.append(Piece(int(low or high), int(high) - int(low or high) + 1, int(word_lsb)))
    return Field(name, tuple(pieces), signed, bias)


RD, RS1, RS2 = (_field(name, f"4:0@{lsb}") for name, lsb in (("rd", 7), ("rs1", 15), ("rs2", 20)))
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
C_IMM6 = _field("imm", "5@12 4:0@2", signed=True)
C_SHAMT = _field("imm", "5@12 4:0@2")
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
    "CR": (C_RD_RS1, C_RS2),
    "CR.jump": (C_RS1,),
    "CI": (C_RD_RS1, C_IMM6),
    "CI.lui": (C_RD_RS1, _field("imm", "17@12 16:12@2", signed=True)),
    "CI.addi16sp": (_field("imm", "9@12 4@6 6@5 8:7@3 5@2", signed=True),),
    "CI.shift": (C_RD_RS1, C_SHAMT),
    "CI.lwsp": (C_RD_RS1, _field("imm", "5@12 4:2@4 7:6@2")),
    "CI.ldsp": (C_RD_RS1, _field("imm", "5@12 4:3@5 8:6@2")),
    "CSS.swsp": (C_RS2, _field("imm", "5:2@9 7:6@7")),
    "CSS.sdsp": (C_RS2, _field("imm", "5:3@10 8:6@7")),
    "CIW": (C_RD_LOW, _field("imm", "5:4@11 9:6@7 2@6 3@5")),
    "CL.w": (C_RD_LOW, C_RS1_HIGH, C_UIMM_W),
    "CL.d": (C_RD_LOW, C_RS1_HIGH, C_UIMM_D),
    "CS.w": (C_RS1_HIGH, C_RS2_LOW, C_UIMM_W),
    "CS.d": (C_RS1_HIGH, C_RS2_LOW, C_UIMM_D),
    "CA": (C_RD_HIGH, C_RS2_LOW),
    "CB": (C_RS1_HIGH, _field("imm", "8@12 4:3@10 7:6@5 2:1@3 5@2", signed=True)),
    "CB.shift": (C_RD_HIGH, C_SHAMT),
    "CB.andi": (C_RD_HIGH, C_IMM6),
    "CJ": (_field("imm", "11@12 4@11 9:8@9 10@8 6@7 7@6 3:1@3 5@2", signed=True),),
}
"""Operands of each format, in the order in which `expansion` and the assembler's positions list them."""


SYNTAX: dict[str, str] = {
    form: text
    for forms, text in (
        ("none", ""),
        ("R", "{rd}, {rs1}, {rs2}"),
        ("I shift6 shift5", "{rd}, {rs1}, {imm}"),
        ("load CL.w CL.d", "{rd}, {imm}({rs1})"),
        ("store CS.w CS.d", "{rs2}, {imm}({rs1})"),
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
        ("CI.lwsp CI.ldsp", "{rd}, {imm}(x2)"),
        ("CSS.swsp CSS.sdsp", "{rs2}, {imm}(x2)"),
        ("CIW", "{rd}, x2, {imm}"),
        ("CB", "{rs1}, {target}"),
        ("CJ", "{target}"),
    )
    for form in forms.split()
}
"""How assemblers write the operands of each format."""


@dataclass(frozen=True)
class Encoding:
    """One instruction: `word & mask == match`, unless a field of `nonzero` is 0 (then reserved: illegal).

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
        return all(self.fields[name].extract(word) for name in self.nonzero)


def _funct3(extension: str, form: str, opcode: int, names: str, mask: int = 0x707F) -> list[Encoding]:
    """Rows that differ in funct3 only; a `-` in `names` is a value that is not used."""
    return [
        Encoding(name, extension, form, opcode | funct3 << 12, mask)
        for funct3, name in enumerate(names.split())
        if name != "-"
    ]


def _amo(name: str, funct5: int) -> list[Encoding]:
    form, mask = ("lr", 0xF9F0707F) if name == "lr" else ("amo", 0xF800707F)
    return [
        Encoding(f"{name}.{width}", "A", form, 0x2F | funct3 << 12 | funct5 << 27, mask)
        for width, funct3 in (("w", 2), ("d", 3))
    ]


ENCODINGS: tuple[Encoding, ...] = (
    Encoding("lui", "I", "U", 0x37, 0x7F),
    Encoding("auipc", "I", "U", 0x17, 0x7F),
    Encoding("jal", "I", "J", 0x6F, 0x7F),
    Encoding("jalr", "I", "I", 0x67, 0x707F),
    *_funct3("I", "B", 0x63, "beq bne - - blt bge bltu bgeu"),
    *_funct3("I", "load", 0x03, "lb lh lw ld lbu lhu lwu"),
    *_funct3("I", "store", 0x23, "sb sh sw sd"),
    *_funct3("I", "I", 0x13, "addi - slti sltiu xori - ori andi"),
    *_funct3("I", "shift6", 0x13, "- slli - - - srli - -", 0xFC00707F),
    Encoding("srai", "I", "shift6", 0x40005013, 0xFC00707F),
    *_funct3("I", "R", 0x33, "add sll slt sltu xor srl or and", 0xFE00707F),
    *_funct3("I", "R", 0x40000033, "sub - - - - sra - -", 0xFE00707F),
    Encoding("addiw", "I", "I", 0x1B, 0x707F),
    *_funct3("I", "shift5", 0x1B, "- slliw - - - srliw - -", 0xFE00707F),
    Encoding("sraiw", "I", "shift5", 0x4000501B, 0xFE00707F),
    *_funct3("I", "R", 0x3B, "addw sllw - - - srlw - -", 0xFE00707F),
    *_funct3("I", "R", 0x4000003B, "subw - - - - sraw - -", 0xFE00707F),
    *_funct3("M", "R", 0x02000033, "mul mulh mulhsu mulhu div divu rem remu", 0xFE00707F),
    *_funct3("M", "R", 0x0200003B, "mulw - - - divw divuw remw remuw", 0xFE00707F),
    *_amo("amoadd", 0x00),
    *_amo("amoswap", 0x01),
    *_amo("lr", 0x02),
    *_amo("sc", 0x03),
    *_amo("amoxor", 0x04),
    *_amo("amoor", 0x08),
    *_amo("amoand", 0x0C),
    *_amo("amomin", 0x10),
    *_amo("amomax", 0x14),
    *_amo("amominu", 0x18),
    *_amo("amomaxu", 0x1C),
    Encoding("fence", "I", "fence", 0x0F, 0x707F),
    Encoding("fence.i", "Zifencei", "none", 0x100F, 0x707F),
    Encoding("ecall", "I", "none", 0x00000073, 0xFFFFFFFF),
    Encoding("ebreak", "I", "none", 0x00100073, 0xFFFFFFFF),
    *_funct3("Zicsr", "csr", 0x73, "- csrrw csrrs csrrc"),
    *_funct3("Zicsr", "csri", 0x73, "- - - - - csrrwi csrrsi csrrci"),
    Encoding("mret", "M-mode", "none", 0x30200073, 0xFFFFFFFF),
    Encoding("sret", "S-mode", "none", 0x10200073, 0xFFFFFFFF),
    Encoding("wfi", "M-mode", "none", 0x10500073, 0xFFFFFFFF),
    Encoding("sfence.vma", "S-mode", "sfence", 0x12000073, 0xFE007FFF),
    Encoding("c.addi4spn", "C", "CIW", 0x0000, 0xE003, "addi rd 2 imm", nonzero=("imm",)),
    Encoding("c.lw", "C", "CL.w", 0x4000, 0xE003, "lw rd rs1 imm"),
    Encoding("c.ld", "C", "CL.d", 0x6000, 0xE003, "ld rd rs1 imm"),
    Encoding("c.sw", "C", "CS.w", 0xC000, 0xE003, "sw rs1 rs2 imm"),
    Encoding("c.sd", "C", "CS.d", 0xE000, 0xE003, "sd rs1 rs2 imm"),
    Encoding("c.nop", "C", "none", 0x0001, 0xFFFF, "addi 0 0 0"),
    Encoding("c.addi", "C", "CI", 0x0001, 0xE003, "addi rd rd imm", hint=("rd", "imm")),
    Encoding("c.addiw", "C", "CI", 0x2001, 0xE003, "addiw rd rd imm", nonzero=("rd",)),
    Encoding("c.li", "C", "CI", 0x4001, 0xE003, "addi rd 0 imm", hint=("rd",)),
    Encoding("c.addi16sp", "C", "CI.addi16sp", 0x6101, 0xEF83, "addi 2 2 imm", nonzero=("imm",)),
    Encoding("c.lui", "C", "CI.lui", 0x6001, 0xE003, "lui rd imm", nonzero=("imm",), hint=("rd",)),
    Encoding("c.srli", "C", "CB.shift", 0x8001, 0xEC03, "srli rd rd imm", hint=("imm",)),
    Encoding("c.srai", "C", "CB.shift", 0x8401, 0xEC03, "srai rd rd imm", hint=("imm",)),
    Encoding("c.andi", "C", "CB.andi", 0x8801, 0xEC03, "andi rd rd imm"),
    Encoding("c.sub", "C", "CA", 0x8C01, 0xFC63, "sub rd rd rs2"),
    Encoding("c.xor", "C", "CA", 0x8C21, 0xFC63, "xor rd rd rs2"),
    Encoding("c.or", "C", "CA", 0x8C41, 0xFC63, "or rd rd rs2"),
    Encoding("c.and", "C", "CA", 0x8C61, 0xFC63, "and rd rd rs2"),
    Encoding("c.subw", "C", "CA", 0x9C01, 0xFC63, "subw rd rd rs2"),
    Encoding("c.addw", "C", "CA", 0x9C21, 0xFC63, "addw rd rd rs2"),
    Encoding("c.j", "C", "CJ", 0xA001, 0xE003, "jal 0 imm"),
    Encoding("c.beqz", "C", "CB", 0xC001, 0xE003, "beq rs1 0 imm"),
    Encoding("c.bnez", "C", "CB", 0xE001, 0xE003, "bne rs1 0 imm"),
    Encoding("c.slli", "C", "CI.shift", 0x0002, 0xE003, "slli rd rd imm", hint=("rd", "imm")),
    Encoding("c.lwsp", "C", "CI.lwsp", 0x4002, 0xE003, "lw rd 2 imm", nonzero=("rd",)),
    Encoding("c.ldsp", "C", "CI.ldsp", 0x6002, 0xE003, "ld rd 2 imm", nonzero=("rd",)),
    Encoding("c.jr", "C", "CR.jump", 0x8002, 0xF07F, "jalr 0 rs1 0", nonzero=("rs1",)),
    Encoding("c.mv", "C", "CR", 0x8002, 0xF003, "add rd 0 rs2", nonzero=("rs2",), hint=("rd",)),
    Encoding("c.ebreak", "C", "none", 0x9002, 0xFFFF, "ebreak"),
    Encoding("c.jalr", "C", "CR.jump", 0x9002, 0xF07F, "jalr 1 rs1 0", nonzero=("rs1",)),
    Encoding("c.add", "C", "CR", 0x9002, 0xF003, "add rd rd rs2", nonzero=("rs2",), hint=("rd",)),
    Encoding("c.swsp", "C", "CSS.swsp", 0xC002, 0xE003, "sw 2 rs2 imm"),
    Encoding("c.sdsp", "C", "CSS.sdsp", 0xE002, 0xE003, "sd 2 rs2 imm"),
)

BY_NAME: dict[str, Encoding] = {encoding.name: encoding for encoding in ENCODINGS}


def _bucket(word: int) -> int:
    """Opcode and funct3, which every mask covers: of a 32-bit instruction only the opcode, of RVC both."""
    return word & 0x7F if word & 3 == 3 else 0x80 | word & 3 | (word >> 13 & 7) << 2


_BUCKETS: dict[int, list[Encoding]] = {}
for _encoding in sorted(ENCODINGS, key=lambda encoding: -encoding.mask.bit_count()):
    _BUCKETS.setdefault(_bucket(_encoding.match), []).append(_encoding)


def decode(word: int) -> Encoding | None:
    """The encoding of a 32-bit word, or of a halfword whose low two bits are not 3. None: illegal.

    Of encodings that overlap (`c.jr` and `c.mv`), the one that fixes more bits holds.
    """
    for encoding in _BUCKETS.get(_bucket(word), ()):
        if encoding.matches(word):
            return encoding
    return None


def encode(name: str, **operands: int) -> int:
    """The instruction word; operands left out are 0. ValueError when one does not fit or is reserved."""
    encoding = BY_NAME[name]
    unknown = operands.keys() - encoding.fields.keys()
    if unknown:
        raise ValueError(f"{name} has no operand {', '.join(sorted(unknown))}")
    word = encoding.match
    for field_name, field in encoding.fields.items():
        word |= field.insert(operands.get(field_name, field.bias))
    if decode(word) is not encoding:
        raise ValueError(f"{name} {operands} is reserved, or the encoding of another instruction")
    return word


def expand(halfword: int) -> int | None:
    """The 32-bit instruction that a compressed one stands for. None: illegal instruction."""
    encoding = decode(halfword)
    if encoding is None:
        return None
    assert encoding.size == 2
    name, *arguments = encoding.expansion.split()
    own = encoding.operands(halfword)
    fields = FORMATS[BY_NAME[name].format]
    values = (own[argument] if argument in own else int(argument) for argument in arguments)
    return encode(name, **{field.name: value for field, value in zip(fields, values, strict=True)})


def disassemble(word: int, pc: int | None = None) -> str:
    """One instruction as an assembler takes it; branch targets are absolute when `pc` is given."""
    encoding = decode(word)
    if encoding is None:
        return f".insn {word:#x}"
    operands = encoding.operands(word)
    shown = {name: f"x{value}" if name in ("rd", "rs1", "rs2") else str(value) for name, value in operands.items()}
    name, imm = encoding.name, operands.get("imm", 0)
    shown["upper"] = f"{imm >> 12 & 0xFFFFF:#x}"
    shown["target"] = f".{imm:+d}" if pc is None else f"{pc + imm & (1 << 64) - 1:#x}"
    if "csr" in operands:
        shown["csr"] = CSR_NAMES.get(operands["csr"], f"{operands['csr']:#x}")
    if "aqrl" in operands:
        name += ("", ".rl", ".aq", ".aqrl")[operands["aqrl"]]
    for ordering in operands.keys() & {"pred", "succ"}:
        letters = (letter for bit, letter in zip((8, 4, 2, 1), "iorw", strict=True) if operands[ordering] & bit)
        shown[ordering] = "".join(letters) or "0"
    return f"{name} {SYNTAX[encoding.format].format(**shown)}".rstrip()


def _csrs(first: int, names: Iterable[str]) -> dict[str, int]:
    return {name: first + index for index, name in enumerate(names)}


CSRS: dict[str, int] = {
    **_csrs(0xC00, ("cycle", "time", "instret", *(f"hpmcounter{n}" for n in range(3, 32)))),
    **_csrs(0x100, ("sstatus",)),
    **_csrs(0x104, ("sie", "stvec", "scounteren")),
    **_csrs(0x10A, ("senvcfg",)),
    **_csrs(0x140, ("sscratch", "sepc", "scause", "stval", "sip")),
    **_csrs(0x180, ("satp",)),
    **_csrs(0xF11, ("mvendorid", "marchid", "mimpid", "mhartid", "mconfigptr")),
    **_csrs(0x300, ("mstatus", "misa", "medeleg", "mideleg", "mie", "mtvec", "mcounteren")),
    **_csrs(0x30A, ("menvcfg",)),
    **_csrs(0x320, ("mcountinhibit",)),
    **_csrs(0x323, (f"mhpmevent{n}" for n in range(3, 32))),
    **_csrs(0x340, ("mscratch", "mepc", "mcause", "mtval", "mip")),
    **{f"pmpcfg{n}": 0x3A0 + n for n in range(0, 16, 2)},
    **_csrs(0x3B0, (f"pmpaddr{n}" for n in range(64))),
    **_csrs(0xB00, ("mcycle",)),
    **_csrs(0xB02, ("minstret", *(f"mhpmcounter{n}" for n in range(3, 32)))),
    **_csrs(0x7A0, ("tselect", "tdata1", "tdata2", "tdata3")),
}
"""Numbers of the CSRs that have a name (volume II, "CSR Listing"); which of them exist, the hart says."""

CSR_NAMES: dict[int, str] = {number: name for name, number in CSRS.items()}

immediate_i = IMM_I.extract
immediate_s = IMM_S.extract
immediate_b = IMM_B.extract
immediate_u = IMM_U.extract
immediate_j = IMM_J.extract
