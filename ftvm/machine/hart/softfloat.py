"""IEEE 754 arithmetic on int64 bit patterns: add, multiply, fused multiply-add, divide, square root.

Theory of operation. An operand is unpacked to a sign, an exponent and a significand whose leading one is bit 62, so
that its value is significand * 2^(exponent - 62). Every operation computes such a result, with all that it had to cut
off "jammed" into bit 0 (set when any lost bit was), and `finish` rounds it, once, to the precision of the format.
Single and double precision share all of it: they differ in what `unpack` reads and `finish` writes. Nothing depends
on the host's floating point, so the result is the same on every host.

Singles lie NaN-boxed in 64 bits, and one that is not is taken for the canonical NaN. NaN results are canonical,
tininess is detected after rounding. (RISC-V Instruction Set Manual, volume I, chapters "F" and "D"; IEEE 754-2019.)
Functions return (bits, flags); `wide` is 1 for double, 0 for single precision, `rm` is a valid rounding mode.
"""

import numpy as np

from ftvm.machine.hart.bits import clz
from ftvm.machine.hart.jit import compiled, divu, mulhu

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)
ZERO, FINITE, INFINITE, QUIET, SIGNALLING = range(5)
"""What `unpack` finds; from QUIET on it is a NaN."""

BOX = -(1 << 32)
SIGN = -(1 << 63)
CANONICAL_WIDE = 0x7FF8 << 48
CANONICAL_NARROW = BOX | 0x7FC0_0000
QUOTIENT_STEP = 10
"""Quotient bits of one division: a remainder below 2^53 times 2^10 is still positive."""


@compiled
def logical_right(value: int, count: int) -> int:
    """Shift of the unsigned value, by less than 64."""
    return int(np.int64(np.uint64(value) >> np.uint64(count)))


@compiled
def below(a: int, b: int) -> bool:
    """Of unsigned values."""
    return (a ^ SIGN) < (b ^ SIGN)


@compiled
def _jam_right(value: int, count: int) -> int:
    """Shift of a positive value; bit 0 is set if any lost bit was."""
    if count > 62:
        return int(value != 0)
    return (value >> count) | int(value & ((1 << count) - 1) != 0)


@compiled
def canonical(wide: int) -> int:
    return CANONICAL_WIDE if wide else CANONICAL_NARROW


@compiled
def signed_zero(sign: int, wide: int) -> int:
    return sign << 63 if wide else BOX | (sign << 31)


@compiled
def infinity(sign: int, wide: int) -> int:
    return signed_zero(sign, wide) | (0x7FF << 52 if wide else 0xFF << 23)


@compiled
def negated(bits: int, wide: int) -> int:
    return bits ^ (SIGN if wide else 1 << 31)


@compiled
def unpack(bits: int, wide: int) -> tuple[int, int, int, int]:
    """Kind, sign, exponent and significand."""
    if wide:
        width, top, bias = 52, 0x7FF, 1023
        sign = logical_right(bits, 63)
    else:
        if bits >> 32 != -1:
            return QUIET, 0, 0, 0
        width, top, bias = 23, 0xFF, 127
        sign = (bits >> 31) & 1
    exponent = (bits >> width) & top
    fraction = bits & ((1 << width) - 1)
    left = 62 - width
    if exponent == top:
        if fraction == 0:
            return INFINITE, sign, 0, 0
        return QUIET if fraction >> (width - 1) else SIGNALLING, sign, 0, 0
    if exponent == 0:
        if fraction == 0:
            return ZERO, sign, 0, 0
        up = clz(fraction) - 1
        return FINITE, sign, 1 - bias + left - up, fraction << up
    return FINITE, sign, exponent - bias, (fraction | (1 << width)) << left


@compiled
def round_off(rm: int, sign: int, significand: int, count: int) -> tuple[int, int]:
    """Round `count` (1 to 62) low bits away. The rest, and whether they were not zero."""
    low = significand & ((1 << count) - 1)
    rest = significand >> count
    half = 1 << (count - 1)
    if rm == RNE:
        up = low > half or (low == half and rest & 1 != 0)
    elif rm == RDN:
        up = sign != 0 and low != 0
    elif rm == RUP:
        up = sign == 0 and low != 0
    else:
        up = rm == RMM and low >= half
    return rest + int(up), int(low != 0)


@compiled
def finish(sign: int, exponent: int, significand: int, wide: int, rm: int) -> tuple[int, int]:
    """Round and pack a value that is not zero."""
    if wide:
        precision, low_bits, top = 53, 10, 1023
    else:
        precision, low_bits, top = 24, 39, 127
    bottom = 1 - top
    tiny = 0
    if exponent < bottom:
        rest, _ = round_off(rm, sign, significand, low_bits)
        tiny = int(exponent < bottom - 1 or rest >> precision == 0)
        significand = _jam_right(significand, bottom - exponent)
        exponent = bottom
    rest, flags = round_off(rm, sign, significand, low_bits)
    if tiny and flags:
        flags |= UF
    # Adding lets a carry, also one out of a subnormal, go into the exponent.
    if exponent <= top:
        bits = ((exponent + top - 1) << (precision - 1)) + rest
        if bits >> (precision - 1) <= 2 * top:
            return signed_zero(sign, wide) | bits, flags
    if rm == RTZ or (rm == RDN and sign == 0) or (rm == RUP and sign):
        # The greatest finite value is the pattern before infinity's.
        return infinity(sign, wide) - 1, OF | NX
    return infinity(sign, wide), OF | NX


@compiled
def _invalid(kind_a: int, kind_b: int) -> int:
    return NV if kind_a == SIGNALLING or kind_b == SIGNALLING else 0


@compiled
def add(a: int, b: int, wide: int, rm: int) -> tuple[int, int]:
    kind_a, sign_a, exponent_a, significand_a = unpack(a, wide)
    kind_b, sign_b, exponent_b, significand_b = unpack(b, wide)
    if kind_a >= QUIET or kind_b >= QUIET:
        return canonical(wide), _invalid(kind_a, kind_b)
    if kind_a == INFINITE:
        if kind_b == INFINITE and sign_a != sign_b:
            return canonical(wide), NV
        return a, 0
    if kind_b == INFINITE:
        return b, 0
    if kind_b == ZERO:
        if kind_a == ZERO and sign_a != sign_b:
            return signed_zero(int(rm == RDN), wide), 0
        return a, 0
    if kind_a == ZERO:
        return b, 0
    if exponent_a < exponent_b or (exponent_a == exponent_b and significand_a < significand_b):
        sign_a, exponent_a, significand_a, sign_b, exponent_b, significand_b = (
            sign_b, exponent_b, significand_b, sign_a, exponent_a, significand_a,
        )  # fmt: skip
    # One bit lower leaves room for the carry; at least ten low bits are zero.
    large = significand_a >> 1
    small = _jam_right(significand_b >> 1, exponent_a - exponent_b)
    total = large + small if sign_a == sign_b else large - small
    if total == 0:
        return signed_zero(int(rm == RDN), wide), 0
    up = clz(total) - 1
    return finish(sign_a, exponent_a + 1 - up, total << up, wide, rm)


@compiled
def multiply(a: int, b: int, wide: int, rm: int) -> tuple[int, int]:
    kind_a, sign_a, exponent_a, significand_a = unpack(a, wide)
    kind_b, sign_b, exponent_b, significand_b = unpack(b, wide)
    sign = sign_a ^ sign_b
    if kind_a >= QUIET or kind_b >= QUIET:
        return canonical(wide), _invalid(kind_a, kind_b)
    if kind_a == INFINITE or kind_b == INFINITE:
        if kind_a == ZERO or kind_b == ZERO:
            return canonical(wide), NV
        return infinity(sign, wide), 0
    if kind_a == ZERO or kind_b == ZERO:
        return signed_zero(sign, wide), 0
    # The product's leading one is bit 125 or 126, which is bit 61 or 62 of its high word.
    high = mulhu(significand_a << 1, significand_b) | int((significand_a << 1) * significand_b != 0)
    up = clz(high) - 1
    return finish(sign, exponent_a + exponent_b + 1 - up, high << up, wide, rm)


@compiled
def divide(a: int, b: int, wide: int, rm: int) -> tuple[int, int]:
    kind_a, sign_a, exponent_a, significand_a = unpack(a, wide)
    kind_b, sign_b, exponent_b, significand_b = unpack(b, wide)
    sign = sign_a ^ sign_b
    if kind_a >= QUIET or kind_b >= QUIET:
        return canonical(wide), _invalid(kind_a, kind_b)
    if kind_a == INFINITE:
        if kind_b == INFINITE:
            return canonical(wide), NV
        return infinity(sign, wide), 0
    if kind_b == INFINITE:
        return signed_zero(sign, wide), 0
    if kind_b == ZERO:
        if kind_a == ZERO:
            return canonical(wide), NV
        return infinity(sign, wide), DZ
    if kind_a == ZERO:
        return signed_zero(sign, wide), 0
    # Both as integers of 53 bits: long division, some bits of the quotient at a time.
    divisor = significand_b >> 10
    remainder = significand_a >> 10
    quotient = divu(remainder, divisor)
    remainder -= quotient * divisor
    for _ in range(6):
        remainder <<= QUOTIENT_STEP
        digit = divu(remainder, divisor)
        remainder -= digit * divisor
        quotient = (quotient << QUOTIENT_STEP) | digit
    # The quotient of the significands, in [1/2, 2), times 2^60.
    up = clz(quotient) - 1
    quotient |= int(remainder != 0)
    return finish(sign, exponent_a - exponent_b + 2 - up, quotient << up, wide, rm)


@compiled
def square_root(a: int, wide: int, rm: int) -> tuple[int, int]:
    kind, sign, exponent, significand = unpack(a, wide)
    if kind >= QUIET:
        return canonical(wide), _invalid(kind, kind)
    if kind == ZERO:
        return a, 0
    if sign:
        return canonical(wide), NV
    if kind == INFINITE:
        return a, 0
    # The radicand in [1, 4), as digits of base 4 from the top: bit 62 and 63 are its integer part.
    radicand = significand << 1 if exponent & 1 else significand
    root, remainder = 0, 0
    for _ in range(58):
        remainder = (remainder << 2) | logical_right(radicand, 62)
        radicand <<= 2
        trial = (root << 2) | 1
        root <<= 1
        if remainder >= trial:
            remainder -= trial
            root |= 1
    # The root in [1, 2), times 2^57.
    return finish(0, exponent >> 1, (root << 5) | int(remainder != 0), wide, rm)


@compiled
def _jam_right_long(high: int, low: int, count: int) -> tuple[int, int]:
    """Shift of a positive value of 128 bits."""
    if count == 0:
        return high, low
    if count >= 128:
        return 0, int((high | low) != 0)
    if count >= 64:
        count -= 64
        lost = int(low != 0)
        if count:
            lost |= int(high << (64 - count) != 0)
        return 0, logical_right(high, count) | lost
    lost = int(low << (64 - count) != 0)
    return logical_right(high, count), logical_right(low, count) | (high << (64 - count)) | lost


@compiled
def _add_long(high_a: int, low_a: int, high_b: int, low_b: int) -> tuple[int, int]:
    low = low_a + low_b
    return high_a + high_b + int(below(low, low_a)), low


@compiled
def _subtract_long(high_a: int, low_a: int, high_b: int, low_b: int) -> tuple[int, int]:
    return high_a - high_b - int(below(low_a, low_b)), low_a - low_b


@compiled
def _sum_of_product(
    sign_p: int, exponent_p: int, high_p: int, low_p: int, sign_c: int, exponent_c: int, high_c: int, wide: int, rm: int
) -> tuple[int, int]:
    """Values of 128 bits, leading one at bit 125, each times 2^(exponent - 125); the second's low word is zero."""
    swap = exponent_p < exponent_c or (
        exponent_p == exponent_c and (high_p < high_c or (high_p == high_c and low_p == 0))
    )
    if swap:
        sign, exponent, high, low = sign_c, exponent_c, high_c, 0
        small_high, small_low = _jam_right_long(high_p, low_p, exponent_c - exponent_p)
    else:
        sign, exponent, high, low = sign_p, exponent_p, high_p, low_p
        small_high, small_low = _jam_right_long(high_c, 0, exponent_p - exponent_c)
    if sign_p == sign_c:
        high, low = _add_long(high, low, small_high, small_low)
    else:
        high, low = _subtract_long(high, low, small_high, small_low)
    # Back to one word with its leading one at bit 62; the exponent of bit 62 of the high word is one more.
    exponent += 1
    if high == 0:
        if low == 0:
            return signed_zero(int(rm == RDN), wide), 0
        exponent -= 63
        high, low = logical_right(low, 1), low << 63
    up = clz(high) - 1
    if up:
        high, low = (high << up) | logical_right(low, 64 - up), low << up
    return finish(sign, exponent - up, high | int(low != 0), wide, rm)


@compiled
def multiply_add(a: int, b: int, c: int, wide: int, rm: int) -> tuple[int, int]:
    """a * b + c, rounded once."""
    kind_a, sign_a, exponent_a, significand_a = unpack(a, wide)
    kind_b, sign_b, exponent_b, significand_b = unpack(b, wide)
    kind_c, sign_c, exponent_c, significand_c = unpack(c, wide)
    sign = sign_a ^ sign_b
    if kind_a >= QUIET or kind_b >= QUIET or kind_c >= QUIET:
        no_product = (kind_a == INFINITE and kind_b == ZERO) or (kind_a == ZERO and kind_b == INFINITE)
        return canonical(wide), NV if no_product else _invalid(kind_a, kind_b) | _invalid(kind_c, kind_c)
    if kind_a == INFINITE or kind_b == INFINITE:
        if kind_a == ZERO or kind_b == ZERO or (kind_c == INFINITE and sign_c != sign):
            return canonical(wide), NV
        return infinity(sign, wide), 0
    if kind_c == INFINITE:
        return c, 0
    if kind_a == ZERO or kind_b == ZERO:
        if kind_c == ZERO and sign_c != sign:
            return signed_zero(int(rm == RDN), wide), 0
        return c, 0
    high, low = mulhu(significand_a, significand_b), significand_a * significand_b
    exponent = exponent_a + exponent_b + 1
    if high >> 61 == 0:
        high, low = (high << 1) | logical_right(low, 63), low << 1
        exponent -= 1
    if kind_c == ZERO:
        return finish(sign, exponent, (high << 1) | int(low != 0), wide, rm)
    return _sum_of_product(sign, exponent, high, low, sign_c, exponent_c, significand_c >> 1, wide, rm)
