"""Instruction encodings as one table of facts: RV64GC, Zba, Zbb, Zbs, Zicond, Zicsr, Zifencei and the privileged ones.

The decoder, the assembler, the disassembler and the random program generator all read this table, so that an
encoding is written down once; `formats.py` says where operands are. (RISC-V Instruction Set Manual, volume I,
chapters "RV32/64G Instruction Set Listings", "C", "B" and "Zicond"; volume II for the privileged instructions.)
"""

from collections.abc import Iterable

from ftvm.machine.hart.formats import FORMATS, IMM_B, IMM_I, IMM_J, IMM_S, IMM_U, ROUNDING_MODES, SYNTAX, Encoding


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


def _floating_point(width: str, fmt: int) -> list[Encoding]:
    """The rows that F and D have in common: `width` is "s" or "d", `fmt` what says so in the word."""
    extension = {"s": "F", "d": "D"}[width]
    own = fmt << 25
    rows = [
        Encoding(f"{name}.{width}", extension, "F.fma", opcode | own, 0x0600007F)
        for name, opcode in (("fmadd", 0x43), ("fmsub", 0x47), ("fnmsub", 0x4B), ("fnmadd", 0x4F))
    ]
    for name, form, funct5, rs2, rm in (
        ("fadd.{}", "F.arith", 0x00, None, None),
        ("fsub.{}", "F.arith", 0x01, None, None),
        ("fmul.{}", "F.arith", 0x02, None, None),
        ("fdiv.{}", "F.arith", 0x03, None, None),
        ("fsqrt.{}", "F.round", 0x0B, 0, None),
        ("fsgnj.{}", "F.select", 0x04, None, 0),
        ("fsgnjn.{}", "F.select", 0x04, None, 1),
        ("fsgnjx.{}", "F.select", 0x04, None, 2),
        ("fmin.{}", "F.select", 0x05, None, 0),
        ("fmax.{}", "F.select", 0x05, None, 1),
        ("fle.{}", "F.compare", 0x14, None, 0),
        ("flt.{}", "F.compare", 0x14, None, 1),
        ("feq.{}", "F.compare", 0x14, None, 2),
        ("fclass.{}", "F.mv.x", 0x1C, 0, 1),
        ("fcvt.w.{}", "F.to", 0x18, 0, None),
        ("fcvt.wu.{}", "F.to", 0x18, 1, None),
        ("fcvt.l.{}", "F.to", 0x18, 2, None),
        ("fcvt.lu.{}", "F.to", 0x18, 3, None),
        ("fcvt.{}.w", "F.from", 0x1A, 0, None),
        ("fcvt.{}.wu", "F.from", 0x1A, 1, None),
        ("fcvt.{}.l", "F.from", 0x1A, 2, None),
        ("fcvt.{}.lu", "F.from", 0x1A, 3, None),
    ):
        match, mask = 0x53 | own | funct5 << 27, 0xFE00007F
        if rs2 is not None:
            match, mask = match | rs2 << 20, mask | 0x01F00000
        if rm is not None:
            match, mask = match | rm << 12, mask | 0x7000
        rows.append(Encoding(name.format(width), extension, form, match, mask))
    return rows


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
    *_floating_point("s", 0),
    Encoding("flw", "F", "F.load", 0x2007, 0x707F),
    Encoding("fsw", "F", "F.store", 0x2027, 0x707F),
    Encoding("fmv.x.w", "F", "F.mv.x", 0xE0000053, 0xFFF0707F),
    Encoding("fmv.w.x", "F", "F.mv.f", 0xF0000053, 0xFFF0707F),
    *_floating_point("d", 1),
    Encoding("fld", "D", "F.load", 0x3007, 0x707F),
    Encoding("fsd", "D", "F.store", 0x3027, 0x707F),
    Encoding("fcvt.s.d", "D", "F.round", 0x40100053, 0xFFF0007F),
    Encoding("fcvt.d.s", "D", "F.round", 0x42000053, 0xFFF0007F),
    Encoding("fmv.x.d", "D", "F.mv.x", 0xE2000053, 0xFFF0707F),
    Encoding("fmv.d.x", "D", "F.mv.f", 0xF2000053, 0xFFF0707F),
    *_funct3("Zba", "R", 0x20000033, "- - sh1add - sh2add - sh3add -", 0xFE00707F),
    *_funct3("Zba", "R", 0x2000003B, "- - sh1add.uw - sh2add.uw - sh3add.uw -", 0xFE00707F),
    Encoding("add.uw", "Zba", "R", 0x0800003B, 0xFE00707F),
    Encoding("slli.uw", "Zba", "shift6", 0x0800101B, 0xFC00707F),
    *_funct3("Zbb", "R", 0x40000033, "- - - - xnor - orn andn", 0xFE00707F),
    *_funct3("Zbb", "R", 0x0A000033, "- - - - min minu max maxu", 0xFE00707F),
    *_funct3("Zbb", "R", 0x60000033, "- rol - - - ror - -", 0xFE00707F),
    *_funct3("Zbb", "R", 0x6000003B, "- rolw - - - rorw - -", 0xFE00707F),
    Encoding("rori", "Zbb", "shift6", 0x60005013, 0xFC00707F),
    Encoding("roriw", "Zbb", "shift5", 0x6000501B, 0xFE00707F),
    *(
        Encoding(name, "Zbb", "R.unary", match, 0xFFF0707F)
        for name, match in (
            ("clz", 0x60001013),
            ("ctz", 0x60101013),
            ("cpop", 0x60201013),
            ("clzw", 0x6000101B),
            ("ctzw", 0x6010101B),
            ("cpopw", 0x6020101B),
            ("sext.b", 0x60401013),
            ("sext.h", 0x60501013),
            ("zext.h", 0x0800403B),
            ("orc.b", 0x28705013),
            ("rev8", 0x6B805013),
        )
    ),
    *_funct3("Zbs", "R", 0x48000033, "- bclr - - - bext - -", 0xFE00707F),
    *_funct3("Zbs", "shift6", 0x48000013, "- bclri - - - bexti - -", 0xFC00707F),
    *_funct3("Zbs", "R", 0x68000033, "- binv - - - - - -", 0xFE00707F),
    *_funct3("Zbs", "shift6", 0x68000013, "- binvi - - - - - -", 0xFC00707F),
    *_funct3("Zbs", "R", 0x28000033, "- bset - - - - - -", 0xFE00707F),
    *_funct3("Zbs", "shift6", 0x28000013, "- bseti - - - - - -", 0xFC00707F),
    *_funct3("Zicond", "R", 0x0E000033, "- - - - - czero.eqz - czero.nez", 0xFE00707F),
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
    Encoding("c.fld", "C", "CL.f", 0x2000, 0xE003, "fld rd rs1 imm"),
    Encoding("c.lw", "C", "CL.w", 0x4000, 0xE003, "lw rd rs1 imm"),
    Encoding("c.ld", "C", "CL.d", 0x6000, 0xE003, "ld rd rs1 imm"),
    Encoding("c.fsd", "C", "CS.f", 0xA000, 0xE003, "fsd rs1 rs2 imm"),
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
    Encoding("c.fldsp", "C", "CI.fldsp", 0x2002, 0xE003, "fld rd 2 imm"),
    Encoding("c.lwsp", "C", "CI.lwsp", 0x4002, 0xE003, "lw rd 2 imm", nonzero=("rd",)),
    Encoding("c.ldsp", "C", "CI.ldsp", 0x6002, 0xE003, "ld rd 2 imm", nonzero=("rd",)),
    Encoding("c.jr", "C", "CR.jump", 0x8002, 0xF07F, "jalr 0 rs1 0", nonzero=("rs1",)),
    Encoding("c.mv", "C", "CR", 0x8002, 0xF003, "add rd 0 rs2", nonzero=("rs2",), hint=("rd",)),
    Encoding("c.ebreak", "C", "none", 0x9002, 0xFFFF, "ebreak"),
    Encoding("c.jalr", "C", "CR.jump", 0x9002, 0xF07F, "jalr 1 rs1 0", nonzero=("rs1",)),
    Encoding("c.add", "C", "CR", 0x9002, 0xF003, "add rd rd rs2", nonzero=("rs2",), hint=("rd",)),
    Encoding("c.fsdsp", "C", "CSS.fsdsp", 0xA002, 0xE003, "fsd 2 rs2 imm"),
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
    shown = {name: str(value) for name, value in operands.items()}
    for register in operands.keys() & {"rd", "rs1", "rs2", "rs3"}:
        shown[register] = f"{encoding.fields[register].registers}{operands[register]}"
    name, imm = encoding.name, operands.get("imm", 0)
    shown["upper"] = f"{imm >> 12 & 0xFFFFF:#x}"
    shown["target"] = f".{imm:+d}" if pc is None else f"{pc + imm & (1 << 64) - 1:#x}"
    if "csr" in operands:
        shown["csr"] = CSR_NAMES.get(operands["csr"], f"{operands['csr']:#x}")
    if "aqrl" in operands:
        name += ("", ".rl", ".aq", ".aqrl")[operands["aqrl"]]
    if "rm" in operands:
        shown["rm"] = str(ROUNDING_MODES[operands["rm"]])
    for ordering in operands.keys() & {"pred", "succ"}:
        letters = (letter for bit, letter in zip((8, 4, 2, 1), "iorw", strict=True) if operands[ordering] & bit)
        shown[ordering] = "".join(letters) or "0"
    return f"{name} {SYNTAX[encoding.format].format(**shown)}".rstrip()


def _csrs(first: int, names: Iterable[str]) -> dict[str, int]:
    return {name: first + index for index, name in enumerate(names)}


CSRS: dict[str, int] = {
    **_csrs(0x001, ("fflags", "frm", "fcsr")),
    **_csrs(0xC00, ("cycle", "time", "instret", *(f"hpmcounter{n}" for n in range(3, 32)))),
    **_csrs(0x100, ("sstatus",)),
    **_csrs(0x104, ("sie", "stvec", "scounteren")),
    **_csrs(0x10A, ("senvcfg",)),
    **_csrs(0x140, ("sscratch", "sepc", "scause", "stval", "sip")),
    **_csrs(0x14D, ("stimecmp",)),
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
