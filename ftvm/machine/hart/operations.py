"""What the interpreter core can do: one row an operation, with the expression that does it.

Names are those of `encodings.py`; rows that it does not know are forms that decode makes of them: `li` and `mv`,
jumps that leave their page (`jalx`, `beqx`, ...), `j` and `jr`, and the marks `undecoded`, `page_end`, `straddle` and
`illegal`.
Floating-point registers are numbers from `state.F` on in `rd` and `rs2`; all floating-point arithmetic is one
operation, `fp`, with the instruction as its immediate. CSR instructions have it too; those that kernels live by
have forms of their own, whose operand is `rs1`, or'ed with the number `rs2`.
An operation that compressed instructions also need has a twin `name_c`, which is 2 bytes long.
"""

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

RD, RS1, RS2 = "x[(w >> U8) & UFF]", "x[(w >> U16) & UFF]", "x[(w >> U24) & UFF]"
IMM = "(np.int64(w) >> 32)"
PC = "(page + np.int64(idx << U1))"


class Kind(IntEnum):
    """How the core handles an operation. What it has no handler for leaves it, and the driver looks at the kind."""

    ALU = auto()
    LOAD = auto()
    STORE = auto()
    FLOAD = auto()
    FSTORE = auto()
    BRANCH = auto()
    BRANCH_FAR = auto()
    JUMP = auto()
    LINK = auto()
    LINK_FAR = auto()
    INDIRECT = auto()
    INDIRECT_LINK = auto()
    AMO = auto()
    CSR = auto()
    CSR_FAST = auto()
    FP = auto()
    SYSTEM = auto()
    MARK = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """`length` in halfwords; `size` in bytes, of a memory access."""

    name: str
    kind: Kind
    expression: str = ""
    length: int = 2
    size: int = 0
    signed: bool = False


_I64, _U64, _I32, _U32 = "np.int64({})", "np.uint64({})", "np.int64(np.int32({}))", "np.uint32({})"

_INTRINSICS = ("mulh", "mulhu", "mulhsu", "div", "divu", "rem", "remu", "divw", "divuw", "remw", "remuw")
_COUNTS = ("clz", "ctz", "cpop", "clzw", "ctzw", "cpopw", "orc.b", "rev8")
_ALU = {
    "li": IMM,
    "mv": RS2,
    "addi": f"{RS1} + {IMM}",
    "add": f"{RS1} + {RS2}",
    "sub": f"{RS1} - {RS2}",
    "auipc": f"{PC} + {IMM}",
    "slti": _I64.format(f"{RS1} < {IMM}"),
    "sltiu": _I64.format(f"np.uint64({RS1}) < np.uint64({IMM})"),
    "xori": f"{RS1} ^ {IMM}",
    "ori": f"{RS1} | {IMM}",
    "andi": f"{RS1} & {IMM}",
    "slli": f"{RS1} << {IMM}",
    "srli": f"np.int64(np.uint64({RS1}) >> (w >> U32))",
    "srai": f"{RS1} >> {IMM}",
    "addiw": _I32.format(f"{RS1} + {IMM}"),
    "slliw": _I32.format(f"{RS1} << {IMM}"),
    "srliw": _I32.format(f"np.uint32({RS1}) >> np.uint32(w >> U32)"),
    "sraiw": f"np.int64(np.int32({RS1}) >> np.int32({IMM}))",
    "sll": f"{RS1} << ({RS2} & 63)",
    "srl": f"np.int64(np.uint64({RS1}) >> (np.uint64({RS2}) & U63))",
    "sra": f"{RS1} >> ({RS2} & 63)",
    "slt": _I64.format(f"{RS1} < {RS2}"),
    "sltu": _I64.format(f"np.uint64({RS1}) < np.uint64({RS2})"),
    "xor": f"{RS1} ^ {RS2}",
    "or": f"{RS1} | {RS2}",
    "and": f"{RS1} & {RS2}",
    "addw": _I32.format(f"{RS1} + {RS2}"),
    "subw": _I32.format(f"{RS1} - {RS2}"),
    "sllw": _I32.format(f"{RS1} << ({RS2} & 31)"),
    "srlw": _I32.format(f"np.uint32({RS1}) >> np.uint32({RS2} & 31)"),
    "sraw": f"np.int64(np.int32({RS1}) >> np.int32({RS2} & 31))",
    "mul": f"{RS1} * {RS2}",
    "mulw": _I32.format(f"{RS1} * {RS2}"),
    **{name: f"{name}({RS1}, {RS2})" for name in _INTRINSICS},
    "add.uw": f"({RS1} & 0xFFFFFFFF) + {RS2}",
    "slli.uw": f"({RS1} & 0xFFFFFFFF) << {IMM}",
    **{f"sh{n}add": f"({RS1} << {n}) + {RS2}" for n in (1, 2, 3)},
    **{f"sh{n}add.uw": f"(({RS1} & 0xFFFFFFFF) << {n}) + {RS2}" for n in (1, 2, 3)},
    "andn": f"{RS1} & ~{RS2}",
    "orn": f"{RS1} | ~{RS2}",
    "xnor": f"~({RS1} ^ {RS2})",
    "min": f"min({RS1}, {RS2})",
    "max": f"max({RS1}, {RS2})",
    "minu": _I64.format(f"min(np.uint64({RS1}), np.uint64({RS2}))"),
    "maxu": _I64.format(f"max(np.uint64({RS1}), np.uint64({RS2}))"),
    "sext.b": f"np.int64(np.int8({RS1}))",
    "sext.h": f"np.int64(np.int16({RS1}))",
    "zext.h": f"{RS1} & 0xFFFF",
    **{name: f"{name.replace('.', '_')}({RS1})" for name in _COUNTS},
    **{name: f"{name}({RS1}, {RS2})" for name in ("rol", "ror", "rolw", "rorw")},
    "rori": f"ror({RS1}, {IMM})",
    "roriw": f"rorw({RS1}, {IMM})",
    "bclr": f"{RS1} & ~(1 << ({RS2} & 63))",
    "bclri": f"{RS1} & ~(1 << {IMM})",
    "bset": f"{RS1} | (1 << ({RS2} & 63))",
    "bseti": f"{RS1} | (1 << {IMM})",
    "binv": f"{RS1} ^ (1 << ({RS2} & 63))",
    "binvi": f"{RS1} ^ (1 << {IMM})",
    "bext": f"({RS1} >> ({RS2} & 63)) & 1",
    "bexti": f"({RS1} >> {IMM}) & 1",
    "czero.eqz": f"{RS1} if {RS2} != 0 else 0",
    "czero.nez": f"{RS1} if {RS2} == 0 else 0",
}
_LOADS = {"lb": "8s", "lbu": "8u", "lh": "16s", "lhu": "16u", "lw": "32s", "lwu": "32u", "ld": "64"}
_FLOADS = {"flw": ("load32s(mem, p) | -4294967296", 4), "fld": ("load64(mem, p)", 8)}
"""A single is NaN-boxed: the upper half of the register is all ones."""
_FSTORES = {"fsw": ("store32", 4), "fsd": ("store64", 8)}
_STORES = {"sb": "8", "sh": "16", "sw": "32", "sd": "64"}
BRANCHES = {
    "beq": f"{RS1} == {RS2}",
    "bne": f"{RS1} != {RS2}",
    "blt": f"{RS1} < {RS2}",
    "bge": f"{RS1} >= {RS2}",
    "bltu": f"np.uint64({RS1}) < np.uint64({RS2})",
    "bgeu": f"np.uint64({RS1}) >= np.uint64({RS2})",
}
_JUMPS = {
    "j": Kind.JUMP,
    "jal": Kind.LINK,
    "jalx": Kind.LINK_FAR,
    "jalr": Kind.INDIRECT_LINK,
    "jr": Kind.INDIRECT,
}
AMOS = ("amoswap", "amoadd", "amoxor", "amoand", "amoor", "amomin", "amomax", "amominu", "amomaxu", "lr", "sc")
_CSRS = ("csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci")
CSRS_FAST = ("sstatus_set", "sstatus_clear", "sscratch_swap", "time_read")
_SYSTEM = ("ecall", "ebreak", "mret", "sret", "wfi", "sfence.vma")
_TWINS = (
    "li mv addi add sub slli srli srai andi addiw addw subw xor or and lw ld sw sd beq bne beqx bnex j jalx jalr jr "
    "fld fsd"
)
# The dispatch compares in this order before LLVM makes jump tables of it, one of the first 42, one of the next 64, and
# so on, each costing a comparison more: what programs do most comes first, what they hardly do last.
_HOT = (
    "addi_c addi ld ld_c lw lw_c sd sd_c sw sw_c lbu sb bne bne_c beq beq_c blt bge bltu bgeu j_c j add_c add "
    "mv_c li_c li slli_c slli srli srli_c andi andi_c xor xor_c or_c or and addw addw_c addiw addiw_c"
)
_WARM = (
    "jr_c jr jalr jalr_c jal jalx jalx_c beqx bnex bltx bgex bltux bgeux beqx_c bnex_c mv sub sub_c auipc and_c "
    "xori ori lb lh lhu lwu sh slti sltiu slt sltu srai srai_c sll srl sra slliw srliw sraiw sllw srlw sraw subw "
    "subw_c mul mulw mulhu fld fld_c fsd fsd_c flw fsw div divu divw divuw rem remu remw remuw"
)


def _rows() -> list[Operation]:
    rows = [Operation(name, Kind.ALU, expression) for name, expression in _ALU.items()]
    for name, access in _LOADS.items():
        size = int(access.rstrip("su")) // 8
        rows.append(Operation(name, Kind.LOAD, f"load{access}(mem, p)", size=size, signed=not access.endswith("u")))
    rows += [
        Operation(name, Kind.STORE, f"store{bits}(mem, p, {RS2})", size=int(bits) // 8)
        for name, bits in _STORES.items()
    ]
    rows += [Operation(name, Kind.FLOAD, load, size=size) for name, (load, size) in _FLOADS.items()]
    rows += [
        Operation(name, Kind.FSTORE, f"{store}(mem, p, {RS2})", size=size) for name, (store, size) in _FSTORES.items()
    ]
    for name, condition in BRANCHES.items():
        rows += [
            Operation(name, Kind.BRANCH, condition),
            Operation(name + "x", Kind.BRANCH_FAR, condition),
        ]
    rows += [Operation(name, kind) for name, kind in _JUMPS.items()]
    for row in list(rows):
        if row.name in _TWINS.split():
            rows.append(Operation(row.name + "_c", row.kind, row.expression, 1, row.size, row.signed))
    return rows


def _ordered() -> tuple[Operation, ...]:
    by_name = {row.name: row for row in _rows()}
    fast = [by_name.pop(name) for name in (_HOT + " " + _WARM).split()] + list(by_name.values())
    marks = [Operation("undecoded", Kind.MARK), Operation("page_end", Kind.MARK)]
    slow = [
        Operation(f"{name}.{width}", Kind.AMO, size=size, signed=True)
        for name in AMOS
        for width, size in (("w", 4), ("d", 8))
    ]
    slow += [Operation(name, Kind.CSR_FAST) for name in CSRS_FAST]
    slow += [Operation(name, Kind.CSR) for name in _CSRS]
    slow += [Operation("fp", Kind.FP)]
    slow += [Operation(name, Kind.SYSTEM) for name in _SYSTEM]
    slow += [Operation("illegal", Kind.MARK), Operation("straddle", Kind.MARK)]
    return tuple(marks + fast + slow)


OPERATIONS = _ordered()
NUMBER = {operation.name: number for number, operation in enumerate(OPERATIONS)}
assert len(OPERATIONS) < 256, "an operation's number is one byte of a decoded word"

UNDECODED, PAGE_END = NUMBER["undecoded"], NUMBER["page_end"]
ILLEGAL, STRADDLE = NUMBER["illegal"], NUMBER["straddle"]
LI, MV, ADDI, ADD = NUMBER["li"], NUMBER["mv"], NUMBER["addi"], NUMBER["add"]
J, JAL, JALX, JALR, JR = (NUMBER[name] for name in ("j", "jal", "jalx", "jalr", "jr"))
J_C, JR_C = NUMBER["j_c"], NUMBER["jr_c"]
SSTATUS_SET, SSTATUS_CLEAR, SSCRATCH_SWAP, TIME_READ = (NUMBER[name] for name in CSRS_FAST)
ECALL, EBREAK, MRET, SRET, WFI, SFENCE_VMA = (NUMBER[name] for name in _SYSTEM)

# The same facts by number, as compiled code wants them.
KIND = np.array([operation.kind for operation in OPERATIONS], np.int64)
LENGTH = np.array([operation.length for operation in OPERATIONS], np.int64)
SIZE = np.array([operation.size for operation in OPERATIONS], np.int64)
SIGNED = np.array([operation.signed for operation in OPERATIONS], np.int64)
TWIN = np.array([NUMBER.get(operation.name + "_c", n) for n, operation in enumerate(OPERATIONS)], np.int64)
FAR = np.array(
    [NUMBER[operation.name + "x"] if operation.name in BRANCHES else 0 for operation in OPERATIONS], np.int64
)
"""The form of a branch whose target is in another page; 0 for what is no branch."""
AMO = np.array([AMOS.index(op.name.split(".")[0]) if op.kind == Kind.AMO else -1 for op in OPERATIONS], np.int64)
"""Index into AMOS, -1 for what is no AMO."""
