"""The floating-point instructions of F and D: `fp_execute` does one, loads and stores apart.

Arithmetic is `softfloat.py`'s, or the host's where `hostfloat.py` says that it cannot differ; comparisons,
conversions, sign injection, minimum and maximum, classification and moves are here. (RISC-V Instruction Set Manual,
volume I, chapters "F" and "D".)
"""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.bits import clz
from ftvm.machine.hart.hostfloat import host_arithmetic, host_multiply_add, host_square_root
from ftvm.machine.hart.jit import Words, compiled
from ftvm.machine.hart.softfloat import (
    BOX,
    CANONICAL_NARROW,
    INFINITE,
    NV,
    NX,
    QUIET,
    RNE,
    SIGN,
    SIGNALLING,
    ZERO,
    add,
    below,
    canonical,
    divide,
    finish,
    infinity,
    logical_right,
    multiply,
    multiply_add,
    negated,
    round_off,
    signed_zero,
    square_root,
    unpack,
)

_OP_FP = 0x53
_ADD, _SUB, _MUL, _DIV, _SGNJ, _MIN_MAX, _WIDTH, _SQRT = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x0B
_COMPARE, _TO_INTEGER, _FROM_INTEGER, _MV_X_CLASS, _MV_F = 0x14, 0x18, 0x1A, 0x1C, 0x1E
"""funct5, bits 31 to 27 of the instructions with opcode OP-FP."""
_DYNAMIC = 7


@compiled
def _low_word(value: int) -> int:
    """The low 32 bits, sign-extended."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


@compiled
def _unboxed(bits: int, wide: int) -> int:
    """An operand that need not be a NaN-boxed single."""
    return bits if wide or bits >> 32 == -1 else CANONICAL_NARROW


@compiled
def _arithmetic(which: int, a: int, b: int, wide: int, rm: int) -> tuple[int, int]:
    if which == _ADD:
        return add(a, b, wide, rm)
    if which == _SUB:
        return add(a, negated(b, wide), wide, rm)
    if which == _MUL:
        return multiply(a, b, wide, rm)
    return divide(a, b, wide, rm)


@compiled
def _order(bits: int, wide: int) -> int:
    """Grows with the value of a number; the same for both zeros."""
    if not wide:
        bits <<= 32
    return SIGN - bits if bits < 0 else bits


@compiled
def _compare(how: int, a: int, b: int, wide: int) -> tuple[int, int]:
    """FLE, FLT, FEQ (`how` 0 to 2): the first two signal on any NaN."""
    kind_a, kind_b = unpack(a, wide)[0], unpack(b, wide)[0]
    if kind_a >= QUIET or kind_b >= QUIET:
        return 0, NV if how != 2 or kind_a == SIGNALLING or kind_b == SIGNALLING else 0
    first, second = _order(a, wide), _order(b, wide)
    if how == 0:
        return int(first <= second), 0
    return int(first < second if how == 1 else first == second), 0


@compiled
def _min_max(greatest: int, a: int, b: int, wide: int) -> tuple[int, int]:
    """IEEE 754-2019 minimumNumber and maximumNumber: of a number and a NaN the number; -0 is less than +0."""
    kind_a, kind_b = unpack(a, wide)[0], unpack(b, wide)[0]
    flags = NV if kind_a == SIGNALLING or kind_b == SIGNALLING else 0
    if kind_a >= QUIET:
        return canonical(wide) if kind_b >= QUIET else b, flags
    if kind_b >= QUIET:
        return a, flags
    first, second = _order(a, wide), _order(b, wide)
    if first == second:
        # Equal values have equal bits, but for zeros: the greater one has no sign.
        return a & b if greatest else a | b, flags
    return a if (first > second) == (greatest != 0) else b, flags


@compiled
def _inject_sign(how: int, a: int, b: int, wide: int) -> int:
    """FSGNJ, FSGNJN, FSGNJX."""
    a, b = _unboxed(a, wide), _unboxed(b, wide)
    mask = SIGN if wide else 1 << 31
    sign = b & mask
    if how == 1:
        sign ^= mask
    elif how == 2:
        sign ^= a & mask
    return a & ~mask | sign


@compiled
def _classify(bits: int, wide: int) -> int:
    kind, sign, exponent, _ = unpack(bits, wide)
    if kind >= QUIET:
        return 1 << 8 if kind == SIGNALLING else 1 << 9
    if kind == ZERO:
        rank = 0
    elif kind == INFINITE:
        rank = 3
    else:
        rank = 2 if exponent >= (-1022 if wide else -126) else 1
    return 1 << (3 - rank if sign else 4 + rank)


@compiled
def _saturated(sign: int, kind: int) -> int:
    """The greatest or least integer of a kind: W, WU, L, LU as in the rs2 field."""
    if kind == 0:
        return -(1 << 31) if sign else (1 << 31) - 1
    if kind == 2:
        return SIGN if sign else -1 - SIGN
    return 0 if sign else -1


@compiled
def _to_integer(bits: int, kind: int, wide: int, rm: int) -> tuple[int, int]:
    found, sign, exponent, significand = unpack(bits, wide)
    if found >= QUIET:
        return _saturated(0, kind), NV
    if found == INFINITE or exponent > 63:
        return _saturated(sign, kind), NV
    if found == ZERO:
        return 0, 0
    flags = 0
    if exponent == 63:
        magnitude = significand << 1
    elif exponent == 62:
        magnitude = significand
    elif exponent >= 0:
        magnitude, flags = round_off(rm, sign, significand, 62 - exponent)
    else:
        # Two bits of fraction tell a half, and what is less or more.
        fraction = 1 if exponent < -1 else 2 | int(significand != 1 << 62)
        magnitude, flags = round_off(rm, sign, fraction, 2)
    limit = 0 if sign else -1
    if kind == 0:
        limit = (1 << 31) - 1 + sign
    elif kind == 1:
        limit = 0 if sign else (1 << 32) - 1
    elif kind == 2:
        limit = -1 - SIGN + sign
    if below(limit, magnitude):
        return _saturated(sign, kind), NV
    value = -magnitude if sign else magnitude
    return _low_word(value) if kind < 2 else value, flags


@compiled
def _from_integer(value: int, kind: int, wide: int, rm: int) -> tuple[int, int]:
    if kind == 0:
        value = _low_word(value)
    elif kind == 1:
        value &= 0xFFFFFFFF
    sign = 0
    if kind & 1 == 0 and value < 0:
        sign, value = 1, -value
    if value == 0:
        return signed_zero(0, wide), 0
    if value < 0:
        return finish(sign, 63, logical_right(value, 1) | (value & 1), wide, rm)
    up = clz(value) - 1
    return finish(sign, 62 - up, value << up, wide, rm)


@compiled
def _change_width(bits: int, wide: int, rm: int) -> tuple[int, int]:
    """FCVT.D.S when `wide`, else FCVT.S.D."""
    found, sign, exponent, significand = unpack(bits, 1 - wide)
    if found >= QUIET:
        return canonical(wide), NV if found == SIGNALLING else 0
    if found == INFINITE:
        return infinity(sign, wide), 0
    if found == ZERO:
        return signed_zero(sign, wide), 0
    return finish(sign, exponent, significand, wide, rm)


@compiled
def _to_x(state: Words, rd: int, value: int) -> None:
    if rd:
        state[s.X + rd] = value


@compiled
def _execute_exact(state: Words, word: int) -> int:
    """The instructions that round nothing, which have no rounding mode. 0: it is none of them."""
    which, wide, how = (word >> 27) & 31, (word >> 25) & 1, (word >> 12) & 7
    rd, rs1 = (word >> 7) & 31, (word >> 15) & 31
    a, b = state[s.F + rs1], state[s.F + ((word >> 20) & 31)]
    if which == _SGNJ:
        state[s.F + rd] = _inject_sign(how, a, b, wide)
    elif which == _MIN_MAX:
        state[s.F + rd], flags = _min_max(how, a, b, wide)
        state[s.FCSR] |= flags
    elif which == _COMPARE:
        result, flags = _compare(how, a, b, wide)
        state[s.FCSR] |= flags
        _to_x(state, rd, result)
    elif which == _MV_X_CLASS:
        if how == 1:
            _to_x(state, rd, _classify(a, wide))
        else:
            _to_x(state, rd, a if wide else _low_word(a))
    elif which == _MV_F:
        value = state[s.X + rs1]
        state[s.F + rd] = value if wide else BOX | value
    else:
        return 0
    return 1


@compiled
def _execute_rounding(state: Words, word: int, rm: int) -> None:
    """The instructions that round, except fused ones."""
    which, wide = (word >> 27) & 31, (word >> 25) & 1
    rd, rs1, rs2 = (word >> 7) & 31, (word >> 15) & 31, (word >> 20) & 31
    a = state[s.F + rs1]
    fast = rm == RNE and state[s.FCSR] & NX != 0
    done, result, flags = False, 0, 0
    if which <= _DIV:
        b = state[s.F + rs2]
        if fast:
            done, result = host_arithmetic(which, a, b, wide)
        if not done:
            result, flags = _arithmetic(which, a, b, wide, rm)
    elif which == _SQRT:
        if fast:
            done, result = host_square_root(a, wide)
        if not done:
            result, flags = square_root(a, wide, rm)
    elif which == _WIDTH:
        result, flags = _change_width(a, wide, rm)
    elif which == _FROM_INTEGER:
        result, flags = _from_integer(state[s.X + rs1], rs2, wide, rm)
    else:
        result, flags = _to_integer(a, rs2, wide, rm)
        state[s.FCSR] |= flags
        _to_x(state, rd, result)
        return
    state[s.FCSR] |= flags
    state[s.F + rd] = result


@compiled
def _execute_fused(state: Words, word: int, rm: int) -> None:
    """FMADD, FMSUB, FNMSUB, FNMADD."""
    wide = (word >> 25) & 1
    a, b = state[s.F + ((word >> 15) & 31)], state[s.F + ((word >> 20) & 31)]
    c = state[s.F + ((word >> 27) & 31)]
    how = (word >> 2) & 3
    if how >= 2:
        a = negated(a, wide)
    if how == 1 or how == 3:
        c = negated(c, wide)
    done, result, flags = False, 0, 0
    if rm == RNE and state[s.FCSR] & NX:
        done, result = host_multiply_add(a, b, c, wide)
    if not done:
        result, flags = multiply_add(a, b, c, wide, rm)
    state[s.FCSR] |= flags
    state[s.F + ((word >> 7) & 31)] = result


@compiled
def fp_execute(state: Words, word: int) -> int:
    """Do one instruction that decodes to the operation `fp`: registers and fflags, nothing else. 0: it is illegal.

    That mstatus.FS is not off is for the caller to check, and to make it dirty when the outcome is 1.
    """
    fused = word & 0x7F != _OP_FP
    if not fused and _execute_exact(state, word):
        return 1
    rm = (word >> 12) & 7
    if rm == _DYNAMIC:
        rm = state[s.FCSR] >> 5
    if rm > 4:
        return 0
    if fused:
        _execute_fused(state, word, rm)
    else:
        _execute_rounding(state, word, rm)
    return 1
