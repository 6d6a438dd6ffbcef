"""From instructions to decoded words, a run of them at a time, into the slot of their page."""

from ftvm.machine.hart import control as c
from ftvm.machine.hart import operations as o
from ftvm.machine.hart import state as s
from ftvm.machine.hart.csr import SSCRATCH, SSTATUS, TIME
from ftvm.machine.hart.generated import fields
from ftvm.machine.hart.jit import Words, as_bytes, as_codes, as_words, compiled, load16u

_KIND_CSR = int(o.Kind.CSR)
DECODE_AHEAD_MAX = 64
NO_PAGE = 1 << 40
"""Offset in its page of an instruction all of whose jumps leave the page."""


@compiled
def _encode(op: int, rd: int, rs1: int, rs2: int, imm: int) -> int:
    low = op | (rd << 8) | (rs1 << 16) | (rs2 << 24)
    return low | (imm << 32)


@compiled
def _fast_csr(word: int) -> tuple[int, int, int]:
    """(operation, rs1, rs2) of a CSR instruction that the core can do; operation 0 for others."""
    csr, function, rs1 = (word >> 20) & 0xFFF, (word >> 12) & 7, (word >> 15) & 31
    if csr == SSTATUS and function & 2 and rs1 != 0:
        op = o.SSTATUS_CLEAR if function & 1 else o.SSTATUS_SET
        return (op, 0, rs1) if function & 4 else (op, rs1, 0)
    if csr == SSCRATCH and function == 1:
        return o.SSCRATCH_SWAP, rs1, 0
    if csr == TIME and function == 2 and rs1 == 0:
        return o.TIME_READ, 0, 0
    return 0, 0, 0


@compiled
def decode(word: int, offset: int) -> int:
    """The decoded form of an instruction, `offset` halfwords into its page."""
    op, rd, rs1, rs2, imm = fields(word)
    if o.KIND[op] == _KIND_CSR:
        fast, operand, number = _fast_csr(word)
        if fast:
            op, rd, rs1, rs2 = fast, (word >> 7) & 31, operand, number
    elif op == o.ADDI and rs1 == 0:
        op = o.LI
    elif op == o.ADD and rs1 == 0:
        op = o.MV
    elif o.FAR[op]:
        imm >>= 1
        if not 0 <= offset + imm < 2048:
            op = o.FAR[op]
    elif op == o.JAL:
        imm >>= 1
        if not 0 <= offset + imm < 2048:
            op = o.JALX
        elif rd == 0:
            op = o.J
    elif op == o.JALR and rd == 0:
        op = o.JR
    if rd == 0:
        rd = s.X_SINK
    if word & 3 != 3:
        op = o.TWIN[op]
    return _encode(op, rd, rs1, rs2, imm)


@compiled
def decode_at(ctl: Words) -> None:
    """Decode from where the core stopped, ahead to the next jump or to what is decoded already."""
    index = ctl[c.INDEX]
    slot = (index - c.SCRATCH_WORDS) // c.SLOT_WORDS
    offset = (index - c.SCRATCH_WORDS) % c.SLOT_WORDS
    at = as_words(ctl[c.SLOT_PAGE_POINTER])[slot] << 12
    mem = as_bytes(ctl[c.MEMORY_POINTER])
    code = as_codes(ctl[c.CODE_POINTER])
    for _ in range(DECODE_AHEAD_MAX):
        word = load16u(mem, at + 2 * offset)
        length = 1
        if word & 3 == 3:
            if offset == 2047:
                code[index] = o.STRADDLE
                return
            word |= load16u(mem, at + 2 * offset + 2) << 16
            length = 2
        decoded = decode(word, offset)
        code[index] = decoded
        ctl[c.COUNT_DECODED] += 1
        op = decoded & 255
        offset += length
        index += length
        jumps = op in (o.J, o.J_C, o.JR, o.JR_C, o.ILLEGAL)
        if jumps or offset > 2047 or code[index] != o.UNDECODED:
            return
