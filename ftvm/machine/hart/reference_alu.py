"""What the integer instructions compute, one line each, on Python's unbounded integers.

Registers are unsigned 64-bit values; every function takes them and returns any integer whose low 64 bits are the
result. (RISC-V Instruction Set Manual, volume I: RV32I, RV64I, "M", "A", "B", "Zicond".)
"""

from collections.abc import Callable

MASK64 = (1 << 64) - 1


def signed(value: int, bits: int = 64) -> int:
    """The low `bits` of `value` as a two's complement number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def unsigned32(value: int) -> int:
    return value & 0xFFFF_FFFF


def divide(dividend: int, divisor: int) -> int:
    """Rounds towards zero; all ones when the divisor is zero. The overflow case wraps to the dividend."""
    if divisor == 0:
        return -1
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def remainder(dividend: int, divisor: int) -> int:
    """Takes the sign of the dividend; the dividend itself when the divisor is zero."""
    if divisor == 0:
        return dividend
    magnitude = abs(dividend) % abs(divisor)
    return -magnitude if dividend < 0 else magnitude


def rotated(value: int, count: int, bits: int) -> int:
    """The low `bits` rotated to the right."""
    value &= (1 << bits) - 1
    count %= bits
    return value >> count | value << (bits - count)


def trailing_zeros(value: int, bits: int) -> int:
    value |= 1 << bits
    return (value & -value).bit_length() - 1


REGISTER_REGISTER: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "sll": lambda a, b: a << (b & 63),
    "slt": lambda a, b: int(signed(a) < signed(b)),
    "sltu": lambda a, b: int(a < b),
    "xor": lambda a, b: a ^ b,
    "srl": lambda a, b: a >> (b & 63),
    "sra": lambda a, b: signed(a) >> (b & 63),
    "or": lambda a, b: a | b,
    "and": lambda a, b: a & b,
    "addw": lambda a, b: signed(a + b, 32),
    "subw": lambda a, b: signed(a - b, 32),
    "sllw": lambda a, b: signed(a << (b & 31), 32),
    "srlw": lambda a, b: signed(unsigned32(a) >> (b & 31), 32),
    "sraw": lambda a, b: signed(a, 32) >> (b & 31),
    "mul": lambda a, b: a * b,
    "mulh": lambda a, b: signed(a) * signed(b) >> 64,
    "mulhsu": lambda a, b: signed(a) * b >> 64,
    "mulhu": lambda a, b: a * b >> 64,
    "div": lambda a, b: divide(signed(a), signed(b)),
    "divu": lambda a, b: divide(a, b),
    "rem": lambda a, b: remainder(signed(a), signed(b)),
    "remu": lambda a, b: remainder(a, b),
    "mulw": lambda a, b: signed(a * b, 32),
    "divw": lambda a, b: signed(divide(signed(a, 32), signed(b, 32)), 32),
    "divuw": lambda a, b: signed(divide(unsigned32(a), unsigned32(b)), 32),
    "remw": lambda a, b: signed(remainder(signed(a, 32), signed(b, 32)), 32),
    "remuw": lambda a, b: signed(remainder(unsigned32(a), unsigned32(b)), 32),
    "add.uw": lambda a, b: unsigned32(a) + b,
    "sh1add": lambda a, b: 2 * a + b,
    "sh2add": lambda a, b: 4 * a + b,
    "sh3add": lambda a, b: 8 * a + b,
    "sh1add.uw": lambda a, b: 2 * unsigned32(a) + b,
    "sh2add.uw": lambda a, b: 4 * unsigned32(a) + b,
    "sh3add.uw": lambda a, b: 8 * unsigned32(a) + b,
    "andn": lambda a, b: a & ~b,
    "orn": lambda a, b: a | ~b,
    "xnor": lambda a, b: ~(a ^ b),
    "min": lambda a, b: min(signed(a), signed(b)),
    "max": lambda a, b: max(signed(a), signed(b)),
    "minu": min,
    "maxu": max,
    "rol": lambda a, b: rotated(a, -b, 64),
    "ror": lambda a, b: rotated(a, b, 64),
    "rolw": lambda a, b: signed(rotated(a, -b, 32), 32),
    "rorw": lambda a, b: signed(rotated(a, b, 32), 32),
    "bclr": lambda a, b: a & ~(1 << b % 64),
    "bset": lambda a, b: a | 1 << b % 64,
    "binv": lambda a, b: a ^ 1 << b % 64,
    "bext": lambda a, b: a >> b % 64 & 1,
    "czero.eqz": lambda a, b: a if b else 0,
    "czero.nez": lambda a, b: 0 if b else a,
}

REGISTER_IMMEDIATE: dict[str, Callable[[int, int], int]] = {
    "addi": REGISTER_REGISTER["add"],
    "slti": REGISTER_REGISTER["slt"],
    "sltiu": REGISTER_REGISTER["sltu"],
    "xori": REGISTER_REGISTER["xor"],
    "ori": REGISTER_REGISTER["or"],
    "andi": REGISTER_REGISTER["and"],
    "slli": REGISTER_REGISTER["sll"],
    "srli": REGISTER_REGISTER["srl"],
    "srai": REGISTER_REGISTER["sra"],
    "addiw": REGISTER_REGISTER["addw"],
    "slliw": REGISTER_REGISTER["sllw"],
    "srliw": REGISTER_REGISTER["srlw"],
    "sraiw": REGISTER_REGISTER["sraw"],
    "slli.uw": lambda a, b: unsigned32(a) << b,
    "rori": REGISTER_REGISTER["ror"],
    "roriw": REGISTER_REGISTER["rorw"],
    "bclri": REGISTER_REGISTER["bclr"],
    "bseti": REGISTER_REGISTER["bset"],
    "binvi": REGISTER_REGISTER["binv"],
    "bexti": REGISTER_REGISTER["bext"],
}
"""The second argument is the immediate, sign-extended to 64 bits and taken as unsigned."""

REGISTER: dict[str, Callable[[int], int]] = {
    "clz": lambda a: 64 - a.bit_length(),
    "clzw": lambda a: 32 - unsigned32(a).bit_length(),
    "ctz": lambda a: trailing_zeros(a, 64),
    "ctzw": lambda a: trailing_zeros(a, 32),
    "cpop": lambda a: a.bit_count(),
    "cpopw": lambda a: unsigned32(a).bit_count(),
    "sext.b": lambda a: signed(a, 8),
    "sext.h": lambda a: signed(a, 16),
    "zext.h": lambda a: a & 0xFFFF,
    "rev8": lambda a: int.from_bytes(a.to_bytes(8, "little"), "big"),
    "orc.b": lambda a: int.from_bytes(bytes(0xFF if byte else 0 for byte in a.to_bytes(8, "little")), "little"),
}

BRANCHES: dict[str, Callable[[int, int], bool]] = {
    "beq": lambda a, b: a == b,
    "bne": lambda a, b: a != b,
    "blt": lambda a, b: signed(a) < signed(b),
    "bge": lambda a, b: signed(a) >= signed(b),
    "bltu": lambda a, b: a < b,
    "bgeu": lambda a, b: a >= b,
}

LOADS: dict[str, tuple[int, bool]] = {
    "lb": (1, True),
    "lh": (2, True),
    "lw": (4, True),
    "ld": (8, True),
    "lbu": (1, False),
    "lhu": (2, False),
    "lwu": (4, False),
}
"""Bytes, and whether the value is sign-extended."""

STORES: dict[str, int] = {"sb": 1, "sh": 2, "sw": 4, "sd": 8}

ATOMICS: dict[str, Callable[[int, int, int], int]] = {
    "amoswap": lambda memory, register, bits: register,
    "amoadd": lambda memory, register, bits: memory + register,
    "amoxor": lambda memory, register, bits: memory ^ register,
    "amoand": lambda memory, register, bits: memory & register,
    "amoor": lambda memory, register, bits: memory | register,
    "amomin": lambda memory, register, bits: min(signed(memory, bits), signed(register, bits)),
    "amomax": lambda memory, register, bits: max(signed(memory, bits), signed(register, bits)),
    "amominu": lambda memory, register, bits: min(memory, register & ((1 << bits) - 1)),
    "amomaxu": lambda memory, register, bits: max(memory, register & ((1 << bits) - 1)),
}
"""What an AMO of `bits` writes back: `memory` is the old value, unsigned; only the low `bits` are stored."""
