"""Writes the source text of the interpreter cores and of the decoder, from `operations.py` and `encodings.py`.

Theory of operation. A decoded instruction is one uint64 `w`: operation, rd, rs1, rs2 (a byte each) and a 32-bit
immediate. A page of code has one such word per halfword, so the next instruction is `code[idx + length]`, and a jump
inside its page adds its immediate to `idx`: no program counter is kept while code stays in its page. The word after
a page's last is PAGE_END, which is not counted. `page` is the address that `idx << 1` is relative to.

Loads and stores compare one TLB tag with the address, of which the bits below the access's size are kept: a miss, a
misaligned address, a device, a page not yet dirty and a page with decoded code all fail the same comparison; what is
only misaligned, and inside its page, passes a second one. Floating-point accesses compare with FP_POISON or'ed in, so
that they fail while mstatus.FS has to be looked at or set. Whatever fails ends the core with SLOW and the count
restored: the driver does that instruction. Nothing is called from the core but `fp_execute`, out of line.

Two cores come out: the fast one counts every instruction but compares the count at taken jumps only, so it needs
FAST_TICKS_MIN ticks in hand; the exact one compares before every instruction and finishes a run.
"""

from ftvm.machine.board import RAM_BASE
from ftvm.machine.devices import clint
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import BY_NAME, ENCODINGS
from ftvm.machine.hart.formats import FORMATS, RM, ROUNDING_MODES, Encoding, Field
from ftvm.machine.hart.operations import IMM, NUMBER, OPERATIONS, PC, RD, RS1, RS2, Kind, Operation

BUDGET, FETCH, DECODE, SLOW = range(4)
"""Why a core ended: ticks are up, page not in the fetch TLB, instruction not decoded, see the driver."""
_NEXT_PAGE = 4

_PRELUDE = """\
import numpy as np

from ftvm.machine.hart.jit import (
    call_float, div, divu, divuw, divw, load16s, load16u, load32s, load32u, load64, load8s, load8u, mulh, mulhsu, mulhu,
    opaque, rem, remu, remuw, remw, store16, store32, store64, store8, unreachable,
)
from ftvm.machine.hart.bits import clz, clzw, cpop, cpopw, ctz, ctzw, orc_b, rev8, rol, rolw, ror, rorw

U1, U2, U8, U16, U24, U32, U63, UFF, U2048 = (np.uint64(n) for n in (1, 2, 8, 16, 24, 32, 63, 255, 2048))
"""

_LEAVE = "left += 1; reason = {}; break"


class _Text:
    """Lines of source with an indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, indent: int, *lines: str) -> None:
        self.lines += ["    " * indent + line for line in lines]


_TLB_ENTRY = f"e = np.uint64((va >> 10) & {(c.DATA_TLB_ENTRIES - 1) * c.TLB_WORDS})"


def _access(operation: Operation, advance: str, exact: bool) -> list[str]:
    """A load or a store of one page; by the fast core also one that is not aligned."""
    loads = operation.kind in (Kind.LOAD, Kind.FLOAD)
    tag, result = ("tlb[e]", f"{RD} = ") if loads else ("tlb[e + U1]", "")
    poison = " | poison" if operation.kind in (Kind.FLOAD, Kind.FSTORE) else ""
    body = ["    p = np.uint64(va + tlb[e + U2])", f"    {result}{operation.expression}", f"    {advance}"]
    lines = [f"va = {RS1} + {IMM}", _TLB_ENTRY, f"if {tag} == (va & {-4096 | operation.size - 1}{poison}):", *body]
    if operation.size > 1 and not exact:
        lines += [f"elif {tag} == (va & -4096{poison}) and (va & 4095) <= {4096 - operation.size}:", *body]
    return [*lines, "else:", "    " + _LEAVE.format(SLOW)]


_COMBINE = {
    "amoswap": "b",
    "amoadd": "a + b",
    "amoxor": "a ^ b",
    "amoand": "a & b",
    "amoor": "a | b",
    "amomin": "min(a, b)",
    "amomax": "max(a, b)",
    "amominu": "a if np.uint64(a) < np.uint64(b) else b",
    "amomaxu": "a if np.uint64(a) > np.uint64(b) else b",
}


def _atomic(operation: Operation, advance: str) -> list[str]:
    """LR goes by the tag of stores too: then it is RAM, whose addresses follow from where it is in memory."""
    name = operation.name.split(".")[0]
    word = operation.size == 4
    load = "load32s(mem, p)" if word else "load64(mem, p)"
    store = "store32(mem, p, {})" if word else "store64(mem, p, {})"
    address = f"np.int64(p) + {RAM_BASE}"
    if name == "lr":
        body = [f"{RD} = {load}", f"x[{s.RESERVATION}] = {address}"]
    elif name == "sc":
        body = [
            f"if x[{s.RESERVATION}] == {address}:",
            "    " + store.format(RS2),
            f"    {RD} = 0",
            "else:",
            f"    {RD} = 1",
            f"x[{s.RESERVATION}] = -1",
        ]
    else:
        operand = f"np.int64(np.int32({RS2}))" if word else RS2
        body = [f"a = {load}", f"b = {operand}", store.format(_COMBINE[name]), f"{RD} = a"]
    return [
        f"va = {RS1}",
        _TLB_ENTRY,
        f"if tlb[e + U1] == (va & {-4096 | operation.size - 1}):",
        "    p = np.uint64(va + tlb[e + U2])",
        *("    " + line for line in [*body, advance]),
        "else:",
        "    " + _LEAVE.format(SLOW),
    ]


_OPERAND = f"b = {RS1} | np.int64((w >> U24) & UFF)"
_STATUS_FAST = s.MSTATUS_SIE | s.MSTATUS_SPIE | s.MSTATUS_SPP
"""Bits of sstatus that are no part of what a TLB context stands for."""


def _fast_csr(condition: str, body: list[str], advance: str) -> list[str]:
    lines = ["    " + line for line in [*body, advance]]
    return [f"if {condition}:", *lines, "else:", "    " + _LEAVE.format(SLOW)]


def _change_status(condition: str, result: str, advance: str) -> list[str]:
    body = [
        f"a = x[{s.MSTATUS}]",
        f"x[{s.MSTATUS}] = {result}",
        f"{RD} = ((a | {s.MSTATUS_FIXED}) & {s.SSTATUS_READABLE})"
        f" | ({s.MSTATUS_SD} if a & {s.MSTATUS_FS} == {s.MSTATUS_FS} else 0)",
    ]
    return [_OPERAND, *_fast_csr(f"x[{s.PRIV}] != 0 and b & {~_STATUS_FAST} == 0{condition}", body, advance)]


def _set_status(advance: str) -> list[str]:
    """What is pending may then have to be taken: that is the driver's."""
    return _change_status(f" and ctl[{c.PENDING}] == 0", "a | b", advance)


def _clear_status(advance: str) -> list[str]:
    return _change_status("", "a & ~b", advance)


def _swap_scratch(advance: str) -> list[str]:
    body = [f"a = x[{s.SSCRATCH}]", f"x[{s.SSCRATCH}] = {RS1}", f"{RD} = a"]
    return _fast_csr(f"x[{s.PRIV}] != 0", body, advance)


def _read_time(advance: str) -> list[str]:
    """As `clint.mtime` at the tick of this instruction, unless the clock has met its ceiling by far."""
    supervisor = f"x[{s.PRIV}] == {s.SUPERVISOR} or x[{s.SCOUNTEREN}] & 2 != 0"
    allowed = f"(x[{s.PRIV}] == {s.MACHINE} or (x[{s.MCOUNTEREN}] & 2 != 0 and ({supervisor})))"
    passed = f"(b << 32) | (((a * x[{clint.CLOCK_RATE}]) >> 32) & 0xFFFFFFFF)"
    body = [
        f"b = min({passed}, x[{clint.CLOCK_ROOM}])",
        f"{RD} = x[{clint.CLOCK_BASE}] + b + x[{clint.MTIME_OFFSET}]",
    ]
    return [
        # Else LLVM counts -left beside left, in every instruction.
        f"a = ctl[{c.END}] - opaque(left) - 1 - x[{clint.CLOCK_TICK}]",
        f"b = mulhu(a, x[{clint.CLOCK_RATE}])",
        *_fast_csr(f"{allowed} and b < {1 << 30}", body, advance),
    ]


_CSR_HANDLERS = {
    "sstatus_set": _set_status,
    "sstatus_clear": _clear_status,
    "sscratch_swap": _swap_scratch,
    "time_read": _read_time,
}


def _handler(operation: Operation, exact: bool) -> list[str]:
    """The body of one operation. The exact core, which takes as long to compile as the fast one and runs far less,
    leaves to the driver what it can.
    """
    # What a jump inside the page does about the budget.
    check = [] if exact else ["if left < floor: break"]
    advance = f"idx += U{operation.length}"
    link = f"{RD} = {PC} + {2 * operation.length}"
    jump = [f"idx += np.uint64({IMM})", *check]
    match operation.kind:
        case Kind.ALU:
            return [f"{RD} = {operation.expression}", advance]
        case Kind.LOAD | Kind.STORE:
            return _access(operation, advance, exact)
        case Kind.FLOAD | Kind.FSTORE if not exact:
            return _access(operation, advance, exact)
        case Kind.AMO if not exact:
            return _atomic(operation, advance)
        case Kind.FP if not exact:
            # FS must be Dirty already; an illegal instruction has changed nothing and is the driver's.
            call = f"call_float(ctl[{c.FLOAT_POINTER}], x, np.int64(w >> U32))"
            return [f"if poison == 0 and {call} != 0:", "    " + advance, "else:", "    " + _LEAVE.format(SLOW)]
        case Kind.CSR_FAST if not exact:
            return _CSR_HANDLERS[operation.name](advance)
        case Kind.BRANCH:
            return [f"if {operation.expression}:", *("    " + line for line in jump), "else:", "    " + advance]
        case Kind.BRANCH_FAR:
            target = f"npc = {PC} + ({IMM} << 1); reason = {_NEXT_PAGE}; break"
            return [f"if {operation.expression}:", "    " + target, "else:", "    " + advance]
        case Kind.JUMP:
            return jump
        case Kind.LINK:
            return [link, *jump]
        case Kind.LINK_FAR:
            return [
                f"npc = {PC}",
                f"{RD} = npc + {2 * operation.length}",
                f"npc += {IMM} << 1; reason = {_NEXT_PAGE}; break",
            ]
        case Kind.INDIRECT | Kind.INDIRECT_LINK:
            return [
                f"va = ({RS1} + {IMM}) & -2",
                *([link] if operation.kind == Kind.INDIRECT_LINK else []),
                "p = np.uint64(va - page) >> U1",
                "if p - np.uint64(first) < U2048:",
                "    idx = p",
                *("    " + line for line in check),
                "else:",
                f"    npc = va; reason = {_NEXT_PAGE}; break",
            ]
    return [_LEAVE.format(SLOW)]


def core_source(name: str, exact: bool) -> str:
    """A C function `name(ctl, x, mem, code, fetch, tlb) -> reason`; x is the state array: registers first."""
    text = _Text()
    text.add(0, f"def {name}(ctl, x, mem, code, fetch, tlb):")
    text.add(
        1,
        f"npc = x[{s.PC}]; left = ctl[{c.LEFT}]; floor = ctl[{c.FLOOR}]; resume = ctl[{c.RESUME}]",
        f"poison = ctl[{c.FP_POISON}]; ctl[{c.RESUME}] = 0",
        "reason = 0; idx = np.uint64(0); page = 0; first = 0",
        "while True:",
    )
    if not exact:
        # What is resumed has been fetched, which shows in its page-table entry: it must run.
        text.add(2, "if left < floor and not resume:", f"    reason = {BUDGET}; break")
    text.add(
        2,
        "if resume:",
        # The scratch slot: no jump from it stays in its page, for `p` below is less than 1 << 63.
        f"    resume = 0; first = {-(1 << 63)}; idx = np.uint64(2047); page = npc - 4094",
        "else:",
        f"    e = np.uint64((npc >> 10) & {(c.FETCH_TLB_ENTRIES - 1) * c.TLB_WORDS})",
        "    if fetch[e] != npc & -4096:",
        f"        reason = {FETCH}; break",
        "    first = fetch[e + U1]",
        "    page = (npc & -4096) - 2 * first",
        "    idx = np.uint64(first + ((npc & 4095) >> 1))",
        f"reason = {BUDGET}",
        "while left > 0:" if exact else "while True:",
        "    w = code[idx]",
        "    op = np.int64(w & UFF)",
        "    left -= 1",
    )
    word = "if"
    for number, operation in enumerate(OPERATIONS):
        if number < 2:
            continue
        text.add(3, f"{word} op == {number}:  # {operation.name}")
        text.add(4, *_handler(operation, exact))
        word = "elif"
    text.add(3, f"elif op == {NUMBER['page_end']}:")
    text.add(4, f"left += 1; npc = {PC}; reason = {_NEXT_PAGE}; break")
    text.add(3, f"elif op == {NUMBER['undecoded']}:")
    text.add(4, _LEAVE.format(DECODE))
    text.add(3, "else:", "    unreachable()")
    text.add(2, f"if reason != {_NEXT_PAGE}:", f"    npc = {PC}; break")
    text.add(1, f"x[{s.PC}] = npc; ctl[{c.LEFT}] = left; ctl[{c.INDEX}] = np.int64(idx)", "return reason")
    return "\n".join(text.lines) + "\n"


def _extract(field: Field) -> str:
    pieces = [f"((word >> {piece.word_lsb} & {(1 << piece.width) - 1}) << {piece.value_lsb})" for piece in field.pieces]
    value = "(" + " | ".join(pieces) + ")"
    if field.signed:
        sign = 1 << field.width - 1
        value = f"(({value} ^ {sign}) - {sign})"
    bias = field.bias + (s.F if field.registers == "f" else s.X)
    return f"({value} + {bias})" if bias else value


def _operands(encoding: Encoding) -> tuple[str, dict[str, str]]:
    """The operation that an encoding decodes to, and the sources of its operands by name."""
    own = {field.name: _extract(field) for field in FORMATS[encoding.format]}
    if not encoding.expansion:
        return encoding.name, own
    name, *arguments = encoding.expansion.split()
    fields = FORMATS[BY_NAME[name].format]
    return name, {f.name: own.get(a, a) for f, a in zip(fields, arguments, strict=True)}


def _decode_row(encoding: Encoding) -> list[str]:
    name, operands = _operands(encoding)
    kind = OPERATIONS[NUMBER[name]].kind if name in NUMBER else None
    if name in ("fence", "fence.i"):
        # One hart, and decoded code is coherent with RAM: nothing to order.
        return [f"op = {NUMBER['li']}"]
    if name == "lui":
        name = "li"
    if kind is None and encoding.extension in ("F", "D"):
        name, kind = "fp", Kind.FP
    lines = [f"op = {NUMBER[name]}"]
    if kind in (Kind.CSR, Kind.SYSTEM, Kind.FP):
        return [*lines, "imm = word"]
    lines += [f"{key} = {operands[key]}" for key in ("rd", "rs1", "rs2", "imm") if key in operands]
    return lines


def decoder_source() -> str:
    """A module with `fields(word) -> (operation, rd, rs1, rs2, imm)` of an instruction of either length.

    What decodes to nothing, and CSR, system and floating-point instructions have the word itself as immediate. The
    registers f0 to f31 of floating-point loads and stores are numbered from `state.F` on.
    """
    text = _Text()
    text.add(0, "from ftvm.machine.hart.jit import compiled", "", "", "@compiled", "def fields(word):")
    text.add(1, f"op = {NUMBER['illegal']}; rd = 0; rs1 = 0; rs2 = 0; imm = word")
    buckets: dict[tuple[int, int], list[Encoding]] = {}
    for encoding in sorted(ENCODINGS, key=lambda encoding: -encoding.mask.bit_count()):
        mask = 0x7F if encoding.size == 4 else 0xE003
        buckets.setdefault((mask, encoding.match & mask), []).append(encoding)
    for (mask, match), encodings in sorted(buckets.items()):
        text.add(1, f"if word & {mask:#x} == {match:#x}{' and word >> 16 == 0' if mask != 0x7F else ''}:")
        word = "if"
        for encoding in encodings:
            conditions = [f"word & {encoding.mask:#x} == {encoding.match:#x}"]
            conditions += [f"{_extract(encoding.fields[name])} != 0" for name in encoding.nonzero]
            if "rm" in encoding.fields:
                conditions += [f"{_extract(RM)} != {rm}" for rm, mode in enumerate(ROUNDING_MODES) if mode is None]
            text.add(2, f"{word} {' and '.join(conditions)}:")
            text.add(3, *_decode_row(encoding))
            word = "elif"
    text.add(1, "return op, rd, rs1, rs2, imm")
    return "\n".join(text.lines) + "\n"


def cores_source() -> str:
    """A module with both cores."""
    return "\n\n".join([_PRELUDE, core_source("core", False), core_source("core_exact", True)])
