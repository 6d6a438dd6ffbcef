"""Operands for floating-point instructions: which width each has, and values that are likely to matter."""

from random import Random

from ftvm.machine.hart.encodings import ENCODINGS
from ftvm.machine.hart.formats import ROUNDING_MODES, Encoding

MASK64 = (1 << 64) - 1
BOX = 0xFFFF_FFFF << 32
ARITHMETIC = [
    encoding
    for encoding in ENCODINGS
    if encoding.extension in ("F", "D") and encoding.format not in ("F.load", "F.store")
]
ROUNDING = [mode for mode, name in enumerate(ROUNDING_MODES) if name is not None]
WIDTHS = {"s": (8, 23), "d": (11, 52)}
"""Bits of exponent and fraction."""


def operand_width(encoding: Encoding, name: str) -> str:
    """ "s", "d", or "x" for an integer."""
    if name not in encoding.fields or encoding.fields[name].registers == "x":
        return "x"
    operation, *widths = encoding.name.split(".")
    width = widths[-1] if operation in ("fcvt", "fmv") and name != "rd" else widths[0]
    return "s" if width == "w" else width


def boxed(pattern: int, width: str) -> int:
    return pattern | BOX if width == "s" else pattern


def edges(width: str) -> list[int]:
    """Patterns of all classes, and numbers next to where something changes: precision, range, integer types."""
    exponent_bits, fraction_bits = WIDTHS[width]
    bias, top = (1 << exponent_bits - 1) - 1, (1 << exponent_bits) - 1
    ones = (1 << fraction_bits) - 1
    fields = {
        (0, 0), (0, 1), (0, ones), (0, 1 << fraction_bits - 1),
        (1, 0), (1, 1), (1, ones), (2, 0), (top - 1, ones), (top - 1, 0),
        (top, 0), (top, 1), (top, ones >> 1), (top, 1 << fraction_bits - 1), (top, ones),
        (bias - 2, ones), (bias - 1, 0), (bias - 1, 1), (bias - 1, ones), (bias, 0), (bias, 1), (bias, ones),
        (bias, 1 << fraction_bits - 1), (bias + 1, 1 << fraction_bits - 2), (bias - fraction_bits, 0),
        (bias - fraction_bits - 1, 0), (bias - fraction_bits - 1, 1), (bias + fraction_bits, 1),
    }  # fmt: skip
    for integer_bits in (31, 32, 63, 64):
        fields |= {(bias + integer_bits - 1, ones), (bias + integer_bits, 0), (bias + integer_bits, 1)}
    for scale in (-1, 1):
        fields.add((bias + scale * (bias // 2), ones >> 3))
    sign = 1 << exponent_bits + fraction_bits
    return sorted(
        pattern | negative for e, f in fields for pattern in [e << fraction_bits | f] for negative in (0, sign)
    )


INTEGERS = sorted(
    {(value + delta) * sign & MASK64 for value in (0, 1 << 24, 1 << 31, 1 << 32, 1 << 53, 1 << 62, 1 << 63)
     for delta in (-1, 0, 1) for sign in (1, -1)}
)  # fmt: skip


def random_operand(random: Random, width: str) -> int:
    """Any pattern, or one with an exponent and a fraction that are likely to matter."""
    if width == "x":
        value = random.getrandbits(64) >> random.randrange(64)
        return random.choice((value, MASK64 - value, value << random.randrange(64) & MASK64, random.choice(INTEGERS)))
    exponent_bits, fraction_bits = WIDTHS[width]
    if random.randrange(8) == 0:
        pattern = random.choice(edges(width))
    else:
        top = (1 << exponent_bits) - 1
        near = (top >> 1) + random.choice((random.randrange(-3, 4), random.randrange(-70, 70)))
        exponent = random.choice((random.randrange(top), random.randrange(3), top - random.randrange(3), near, near))
        bits, count = random.getrandbits(fraction_bits), random.randrange(fraction_bits)
        fraction = random.choice((bits, bits, bits >> count, bits >> count << count, (1 << count) - 1))
        pattern = random.getrandbits(1) << exponent_bits | exponent & top
        pattern = pattern << fraction_bits | fraction
    if width == "s" and random.randrange(40) == 0:
        return pattern | random.getrandbits(32) << 32
    return boxed(pattern, width)
