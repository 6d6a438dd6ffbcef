"""What the floating-point instructions compute, on Python's integers and fractions: exact, then rounded once.

The oracle for `fpu.py` and `softfloat.py`, with which it shares nothing. Register values are unsigned 64-bit numbers.
(RISC-V Instruction Set Manual, volume I, chapters "F" and "D"; IEEE 754-2019.)

`fp_operation(name, rm, frm, a, b, c)` does any instruction of F and D but loads and stores. `name` is the encoding's
(`encodings.py`), `rm` its rounding mode field (0 for one that has none), `frm` the mode in fcsr, and `a`, `b`, `c` the
values of its registers rs1, rs2 and rs3, of the register file that the encoding's fields say; those that it has not do
not matter. It returns the value for rd, also of the file that the field says, and the flags to set in fcsr. That the
rounding mode is not a reserved one is for the caller to check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

MASK64 = (1 << 64) - 1
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM, DYN = 0, 1, 2, 3, 4, 7

Result = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Format:
    """An interchange format of IEEE 754: bits of all, of the exponent, and of the significand with its hidden one."""

    bits: int
    exponent_bits: int
    precision: int

    @property
    def exponent_max(self) -> int:
        return (1 << self.exponent_bits - 1) - 1

    @property
    def exponent_min(self) -> int:
        return 1 - self.exponent_max

    @property
    def infinity(self) -> int:
        return (1 << self.exponent_bits) - 1 << self.precision - 1

    @property
    def quiet_bit(self) -> int:
        return 1 << self.precision - 2

    def boxed(self, pattern: int) -> int:
        """As a register holds it: NaN-boxed when it is narrower."""
        return MASK64 >> self.bits << self.bits | pattern

    def unboxed(self, register: int) -> int:
        """The pattern in a register; the canonical NaN when it is not NaN-boxed."""
        pattern = register & (1 << self.bits) - 1
        return pattern if self.boxed(pattern) == register else self.infinity | self.quiet_bit

    @property
    def nan(self) -> Result:
        """The canonical NaN, and no flag."""
        return self.boxed(self.infinity | self.quiet_bit), 0

    @property
    def invalid(self) -> Result:
        return self.nan[0], NV


SINGLE, DOUBLE = Format(32, 8, 24), Format(64, 11, 53)
FORMATS = {"s": SINGLE, "d": DOUBLE}


@dataclass(frozen=True, slots=True)
class Number:
    """What a pattern stands for. `magnitude` is None for infinities and NaNs."""

    negative: bool
    magnitude: Fraction | None
    nan: bool = False
    signalling: bool = False

    @property
    def infinite(self) -> bool:
        return self.magnitude is None and not self.nan

    @property
    def value(self) -> Fraction:
        """Of a finite number."""
        assert self.magnitude is not None
        return -self.magnitude if self.negative else self.magnitude


def number(register: int, form: Format) -> Number:
    pattern = form.unboxed(register)
    negative = bool(pattern >> form.bits - 1)
    pattern &= (1 << form.bits - 1) - 1
    if pattern >= form.infinity:
        fraction = pattern - form.infinity
        return Number(negative, None, fraction != 0, fraction != 0 and not fraction & form.quiet_bit)
    exponent, fraction = pattern >> form.precision - 1, pattern & (1 << form.precision - 1) - 1
    if exponent:
        fraction |= 1 << form.precision - 1
    quantum = form.exponent_min + max(exponent, 1) - form.precision
    return Number(negative, fraction * Fraction(2) ** quantum)


def to_integral(magnitude: Fraction, negative: bool, rm: int) -> int:
    """The integer that the rounding mode chooses."""
    down, rest = divmod(magnitude, 1)
    half = Fraction(1, 2)
    if rm == RNE:
        up = rest > half or (rest == half and down % 2 == 1)
    elif rm == RMM:
        up = rest >= half
    else:
        up = rest > 0 and rm == (RDN if negative else RUP)
    return down + up


def floor_log2(magnitude: Fraction) -> int:
    estimate = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return estimate if Fraction(2) ** estimate <= magnitude else estimate - 1


def zero(form: Format, negative: bool) -> int:
    return form.boxed(negative << form.bits - 1)


def infinity(form: Format, negative: bool) -> int:
    return form.boxed(negative << form.bits - 1 | form.infinity)


def rounded(value: Fraction, form: Format, rm: int) -> Result:
    """A value other than zero in a format."""
    negative, magnitude = value < 0, abs(value)
    exponent = floor_log2(magnitude)
    exact_quantum = Fraction(2) ** (exponent - form.precision + 1)
    quantum_exponent = max(exponent, form.exponent_min) - form.precision + 1
    quantum = Fraction(2) ** quantum_exponent
    multiple = to_integral(magnitude / quantum, negative, rm)
    result = multiple * quantum
    if result >= Fraction(2) ** (form.exponent_max + 1):
        away = rm in (RNE, RMM, RDN if negative else RUP)
        pattern = form.infinity if away else form.infinity - 1
        return form.boxed(negative << form.bits - 1 | pattern), OF | NX
    flags = 0
    if result != magnitude:
        # Tiny after rounding: with an exponent range without bounds, the result would be too small.
        unbounded = to_integral(magnitude / exact_quantum, negative, rm) * exact_quantum
        flags = NX | (UF if unbounded < Fraction(2) ** form.exponent_min else 0)
    pattern = multiple
    if multiple >= 1 << form.precision - 1:
        result_exponent = floor_log2(result)
        field = result_exponent + form.exponent_max
        fraction = result / Fraction(2) ** (result_exponent - form.precision + 1) - (1 << form.precision - 1)
        assert fraction.denominator == 1
        pattern = field << form.precision - 1 | int(fraction)
    return form.boxed(negative << form.bits - 1 | pattern), flags


def signals(*numbers: Number) -> bool:
    return any(operand.signalling for operand in numbers)


def add(x: Number, y: Number, form: Format, rm: int) -> Result:
    if x.nan or y.nan:
        return form.invalid if signals(x, y) else form.nan
    if x.infinite or y.infinite:
        if x.infinite and y.infinite and x.negative != y.negative:
            return form.invalid
        return infinity(form, x.negative if x.infinite else y.negative), 0
    total = x.value + y.value
    if total == 0:
        agreed = x.magnitude == 0 and x.negative == y.negative
        return zero(form, x.negative if agreed else rm == RDN), 0
    return rounded(total, form, rm)


def negate(x: Number) -> Number:
    return Number(not x.negative, x.magnitude, x.nan, x.signalling)


def subtract(x: Number, y: Number, form: Format, rm: int) -> Result:
    return add(x, negate(y), form, rm)


def multiply_add(x: Number, y: Number, z: Number, form: Format, rm: int) -> Result:
    """x * y + z. Infinity times zero is invalid even where z is a quiet NaN."""
    if (x.infinite and y.magnitude == 0) or (x.magnitude == 0 and y.infinite):
        return form.invalid
    if x.nan or y.nan or z.nan:
        return form.invalid if signals(x, y, z) else form.nan
    negative = x.negative != y.negative
    magnitude = None if x.infinite or y.infinite else abs(x.value * y.value)
    return add(Number(negative, magnitude), z, form, rm)


def multiply(x: Number, y: Number, form: Format, rm: int) -> Result:
    # A zero of the product's own sign leaves the product as it is.
    return multiply_add(x, y, Number(x.negative != y.negative, Fraction(0)), form, rm)


def divide(x: Number, y: Number, form: Format, rm: int) -> Result:
    if x.nan or y.nan:
        return form.invalid if signals(x, y) else form.nan
    negative = x.negative != y.negative
    if (x.infinite and y.infinite) or (x.magnitude == 0 and y.magnitude == 0):
        return form.invalid
    if x.infinite:
        return infinity(form, negative), 0
    if y.magnitude == 0:
        return infinity(form, negative), DZ
    if y.infinite or x.magnitude == 0:
        return zero(form, negative), 0
    return rounded(x.value / y.value, form, rm)


def square_root(x: Number, form: Format, rm: int) -> Result:
    if x.nan:
        return form.invalid if x.signalling else form.nan
    if x.magnitude == 0:
        return zero(form, x.negative), 0
    if x.negative:
        return form.invalid
    if x.magnitude is None:
        return infinity(form, False), 0
    # Scaled by an even power of two, large enough that one fraction between two integers stands for all of them.
    scale = 2 * form.precision + abs(floor_log2(x.magnitude))
    scaled = x.magnitude * Fraction(4) ** scale
    assert scaled.denominator == 1
    root = Fraction(isqrt(scaled.numerator))
    if root * root != scaled:
        root += Fraction(1, 2)
    return rounded(root / Fraction(2) ** scale, form, rm)


def compare(holds: Callable[[Fraction, Fraction], bool], quiet: bool, x: Number, y: Number) -> Result:
    if x.nan or y.nan:
        return 0, 0 if quiet and not signals(x, y) else NV
    return int(holds(ordinal(x), ordinal(y))), 0


def ordinal(x: Number) -> Fraction:
    """The value, with a number beyond all others for the infinities."""
    if x.infinite:
        return Fraction(-1 if x.negative else 1) * 2**2000
    return x.value


def extremum(greatest: bool, a: int, b: int, form: Format) -> Result:
    x, y = number(a, form), number(b, form)
    flags = NV if signals(x, y) else 0
    if x.nan and y.nan:
        return form.nan[0], flags
    if x.nan or y.nan:
        return b if x.nan else a, flags
    x_is_less = (ordinal(x), not x.negative) < (ordinal(y), not y.negative)
    return b if x_is_less == greatest else a, flags


def inject_sign(how: str, a: int, b: int, form: Format) -> Result:
    top = 1 << form.bits - 1
    first, second = form.unboxed(a), form.unboxed(b)
    sign = {"fsgnj": second, "fsgnjn": ~second, "fsgnjx": first ^ second}[how] & top
    return form.boxed(first & top - 1 | sign), 0


def classify(x: Number, form: Format) -> Result:
    if x.nan:
        return 1 << (8 if x.signalling else 9), 0
    if x.magnitude is None:
        positive = 7
    elif x.magnitude == 0:
        positive = 4
    else:
        positive = 5 if x.magnitude < Fraction(2) ** form.exponent_min else 6
    return 1 << (7 - positive if x.negative else positive), 0


INTEGERS = {
    "w": (-(1 << 31), (1 << 31) - 1),
    "wu": (0, (1 << 32) - 1),
    "l": (-(1 << 63), (1 << 63) - 1),
    "lu": (0, MASK64),
}
"""The least and the greatest value of each type."""


def sign_extended(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return (value ^ 1 << bits - 1) - (1 << bits - 1)


def to_integer(x: Number, kind: str, rm: int) -> Result:
    """Out of range, infinite or NaN: the nearest value of the type, or its greatest for a NaN; words sign-extended."""
    least, greatest = INTEGERS[kind]
    flags = 0
    if x.magnitude is None:
        value, flags = least if x.negative and not x.nan else greatest, NV
    else:
        magnitude = to_integral(x.magnitude, x.negative, rm)
        value = -magnitude if x.negative else magnitude
        if not least <= value <= greatest:
            value, flags = least if x.negative else greatest, NV
        elif magnitude != x.magnitude:
            flags = NX
    bits = 32 if kind in ("w", "wu") else 64
    return sign_extended(value, bits) & MASK64, flags


def from_integer(register: int, kind: str, form: Format, rm: int) -> Result:
    bits = 32 if kind in ("w", "wu") else 64
    value = register & (1 << bits) - 1 if kind.endswith("u") else sign_extended(register, bits)
    return rounded(Fraction(value), form, rm) if value else (zero(form, False), 0)


def convert(target: str, source: str, register: int, rm: int) -> Result:
    if source in INTEGERS:
        return from_integer(register, source, FORMATS[target], rm)
    x = number(register, FORMATS[source])
    if target in INTEGERS:
        return to_integer(x, target, rm)
    form = FORMATS[target]
    if x.nan:
        return form.invalid if x.signalling else form.nan
    if x.magnitude is None:
        return infinity(form, x.negative), 0
    return rounded(x.value, form, rm) if x.magnitude else (zero(form, x.negative), 0)


def move(target: str, source: str, register: int) -> Result:
    """Bits as they are: no check of the boxing."""
    if target == "x":
        return (sign_extended(register, 32) & MASK64 if source == "w" else register), 0
    return (SINGLE.boxed(register & 0xFFFF_FFFF) if target == "w" else register), 0


TWO: dict[str, Callable[[Number, Number, Format, int], Result]] = {
    "fadd": add,
    "fsub": subtract,
    "fmul": multiply,
    "fdiv": divide,
}
COMPARISONS: dict[str, Callable[[Number, Number], Result]] = {
    "feq": lambda x, y: compare(lambda p, q: p == q, True, x, y),
    "flt": lambda x, y: compare(lambda p, q: p < q, False, x, y),
    "fle": lambda x, y: compare(lambda p, q: p <= q, False, x, y),
}


def fp_operation(name: str, rm: int, frm: int, a: int, b: int = 0, c: int = 0) -> Result:
    """(value for rd, flags) of an instruction; see the head of this file."""
    mode = frm if rm == DYN else rm
    operation, width, *source = name.split(".")
    if operation == "fcvt":
        return convert(width, source[0], a, mode)
    if operation == "fmv":
        return move(width, source[0], a)
    form = FORMATS[width]
    if operation.startswith("fsgnj"):
        return inject_sign(operation, a, b, form)
    if operation in ("fmin", "fmax"):
        return extremum(operation == "fmax", a, b, form)
    x, y, z = (number(register, form) for register in (a, b, c))
    if operation in TWO:
        return TWO[operation](x, y, form, mode)
    if operation in COMPARISONS:
        return COMPARISONS[operation](x, y)
    if operation == "fsqrt":
        return square_root(x, form, mode)
    if operation == "fclass":
        return classify(x, form)
    negative_product, subtracts = operation.startswith("fn"), operation in ("fmsub", "fnmadd")
    return multiply_add(negate(x) if negative_product else x, y, negate(z) if subtracts else z, form, mode)
