"""Floating point: compiled, exact, on unicorn and on the host, and what the manual says in so many words."""

import struct
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import BY_NAME, encode
from ftvm.machine.hart.fpu import fp_execute
from tests.machine.float_operands import ARITHMETIC, BOX, INTEGERS, MASK64, ROUNDING, boxed, edges, operand_width
from tests.machine.floats import Case, difference, on_fpu, on_reference, random_case, unicorn_differences

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM, DYN = 0, 1, 2, 3, 4, 7
NAN = {"s": BOX | 0x7FC00000, "d": 0x7FF8 << 48}
INFINITY = {"s": BOX | 0x7F800000, "d": 0x7FF0 << 48}
SIGN = {"s": 1 << 31, "d": 1 << 63}
SIGNALLING = {"s": BOX | 0x7F800001, "d": 0x7FF0 << 48 | 1}
DTYPES = {"s": (np.float32, np.uint32), "d": (np.float64, np.uint64)}


def single(value: float) -> int:
    return BOX | int.from_bytes(struct.pack("<f", value), "little")


def double(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def modes(name: str) -> list[int | None]:
    return [*ROUNDING] if "rm" in BY_NAME[name].fields else [None]


def operands_of(width: str) -> list[int]:
    return INTEGERS if width == "x" else [boxed(pattern, width) for pattern in edges(width)]


@pytest.mark.parametrize("encoding", [e for e in ARITHMETIC if "rs2" not in e.fields], ids=lambda e: e.name)
def test_one_operand_at_every_edge_in_every_rounding_mode(encoding) -> None:  # type: ignore[no-untyped-def]
    for a in operands_of(operand_width(encoding, "rs1")):
        for rm in modes(encoding.name):
            case = Case(encoding.name, rm, RUP << 5, a)
            assert on_fpu(case) == on_reference(case), case


@pytest.mark.parametrize("width", ["s", "d"])
def test_two_operands_at_edges(width: str) -> None:
    """All pairs, each with an operation and a rounding mode drawn for it."""
    random = Random(1)
    encodings = [e for e in ARITHMETIC if "rs2" in e.fields and operand_width(e, "rs1") == width]
    values = operands_of(width)
    for a in values:
        for b in values:
            encoding = random.choice(encodings)
            case = Case(encoding.name, random.choice(modes(encoding.name)), 0, a, b, random.choice(values))
            assert on_fpu(case) == on_reference(case), case


@given(st.integers(0, (1 << 64) - 1))
def test_any_case_agrees_with_the_reference(seed: int) -> None:
    """fp_execute gives the value and the flags of exact arithmetic that is rounded once, whatever the operands."""
    assert difference(random_case(Random(seed))) is None


@given(
    st.sampled_from(ARITHMETIC),
    st.sampled_from(ROUNDING),
    st.integers(0, 255),
    *(st.integers(0, MASK64) for _ in range(3)),
)
def test_any_bits_agree_with_the_reference(encoding, rm: int, fcsr: int, a: int, b: int, c: int) -> None:  # type: ignore[no-untyped-def]
    """The same, for operands that nobody chose: most singles are not NaN-boxed."""
    assert difference(Case(encoding.name, rm if "rm" in encoding.fields else None, fcsr, a, b, c)) is None


def test_random_cases_agree_with_unicorn() -> None:
    random = Random(2)
    assert not unicorn_differences([random_case(random) for _ in range(5000)])


@pytest.mark.parametrize("fflags", [0, NX])
@pytest.mark.parametrize("width", ["s", "d"])
def test_arithmetic_is_the_hosts_in_round_to_nearest(width: str, fflags: int) -> None:
    """With the inexact flag set, most of these are the fast path's."""
    kind, bits = DTYPES[width]
    random = Random(3)
    values = [random.choice(edges(width)) for _ in range(400)]
    values += [random.getrandbits(32 if width == "s" else 64) for _ in range(400)]
    first = np.array(values, bits)
    second = np.random.default_rng(3).permutation(first)
    with np.errstate(all="ignore"):
        x, y = first.view(kind), second.view(kind)
        expected = {"fadd": x + y, "fsub": x - y, "fmul": x * y, "fdiv": x / y, "fsqrt": np.sqrt(x)}
    for name, results in expected.items():
        for a, b, result in zip(first, second, results.view(bits), strict=True):
            wanted = NAN[width] if np.isnan(result.view(kind)) else boxed(int(result), width)
            found = on_fpu(Case(f"{name}.{width}", RNE, fflags, boxed(int(a), width), boxed(int(b), width)))
            assert found is not None
            assert found[0] == wanted, (name, hex(a), hex(b))


@pytest.mark.parametrize(
    ("name", "greatest", "least"),
    [
        ("fcvt.w.d", (1 << 31) - 1, -(1 << 31)),
        ("fcvt.wu.d", -1, 0),
        ("fcvt.l.d", (1 << 63) - 1, -(1 << 63)),
        ("fcvt.lu.d", -1, 0),
    ],
)
def test_integers_out_of_range_saturate_and_signal(name: str, greatest: int, least: int) -> None:
    """The manual's table "Domains of float-to-integer conversions": NaN goes with plus infinity."""
    for operand, expected in (
        (INFINITY["d"], greatest),
        (NAN["d"], greatest),
        (NAN["d"] | SIGN["d"], greatest),
        (double(1e30), greatest),
        (INFINITY["d"] | SIGN["d"], least),
        (double(-1e30), least),
    ):
        assert on_fpu(Case(name, RTZ, 0, operand)) == (expected & MASK64, NV)


@pytest.mark.parametrize(
    ("name", "rm", "value", "expected", "flags"),
    [
        ("fcvt.w.d", RNE, 2.5, 2, NX),
        ("fcvt.w.d", RMM, 2.5, 3, NX),
        ("fcvt.w.d", RDN, -2.5, -3, NX),
        ("fcvt.w.d", RUP, -2.5, -2, NX),
        ("fcvt.wu.d", RTZ, -0.9, 0, NX),
        ("fcvt.wu.d", RDN, -0.9, 0, NV),
        ("fcvt.wu.d", RTZ, 4294967295.0, -1, 0),
        ("fcvt.w.d", RNE, 2147483647.5, (1 << 31) - 1, NV),
        ("fcvt.l.d", RTZ, -9223372036854775808.0, -(1 << 63), 0),
        ("fcvt.lu.d", RTZ, 18446744073709549568.0, -2048, 0),
    ],
)
def test_conversions_to_integers(name: str, rm: int, value: float, expected: int, flags: int) -> None:
    assert on_fpu(Case(name, rm, 0, double(value))) == (expected & MASK64, flags)


@pytest.mark.parametrize("width", ["s", "d"])
def test_flags_and_results_of_exceptional_operations(width: str) -> None:
    one, minus_two = (single(1), single(-2)) if width == "s" else (double(1), double(-2))
    infinity, nan, sign, signalling = INFINITY[width], NAN[width], SIGN[width], SIGNALLING[width]
    zero = BOX if width == "s" else 0
    greatest = infinity - 1
    least = zero | 1
    for name, rm, operands, expected in (
        ("fdiv", RNE, (one, zero), (infinity, DZ)),
        ("fdiv", RNE, (zero, zero), (nan, NV)),
        ("fdiv", RNE, (infinity, infinity), (nan, NV)),
        ("fsqrt", RNE, (one ^ sign,), (nan, NV)),
        ("fsqrt", RNE, (zero ^ sign,), (zero ^ sign, 0)),
        ("fsub", RNE, (infinity, infinity), (nan, NV)),
        ("fmul", RNE, (infinity, zero), (nan, NV)),
        ("fmadd", RNE, (infinity, zero, nan), (nan, NV)),
        ("fadd", RNE, (nan ^ sign | 5, one), (nan, 0)),
        ("fadd", RNE, (signalling, one), (nan, NV)),
        ("fadd", RNE, (greatest, greatest), (infinity, OF | NX)),
        ("fadd", RTZ, (greatest, greatest), (greatest, OF | NX)),
        ("fadd", RDN, (greatest, greatest), (greatest, OF | NX)),
        ("fadd", RUP, (greatest ^ sign, greatest ^ sign), (greatest ^ sign, OF | NX)),
        ("fmul", RNE, (least, least), (zero, UF | NX)),
        ("fmul", RUP, (least, least), (least, UF | NX)),
        ("fsub", RNE, (one, one), (zero, 0)),
        ("fsub", RDN, (one, one), (zero ^ sign, 0)),
        ("fmadd", RDN, (one, one, one ^ sign), (zero ^ sign, 0)),
        ("fnmadd", RNE, (one, one, one), (minus_two, 0)),
        ("fnmsub", RNE, (one, one, one), (zero, 0)),
    ):
        assert on_fpu(Case(f"{name}.{width}", rm, 0, *operands)) == expected, (name, rm)


@pytest.mark.parametrize("width", ["s", "d"])
def test_minimum_and_maximum_prefer_numbers_and_order_zeros(width: str) -> None:
    """IEEE 754-2019 minimumNumber and maximumNumber: a signalling NaN signals, and still gives way to a number."""
    zero = BOX if width == "s" else 0
    minus_zero = zero | SIGN[width]
    nan, signalling, infinity = NAN[width], SIGNALLING[width], INFINITY[width]
    for a, b, least, greatest, flags in (
        (zero, minus_zero, minus_zero, zero, 0),
        (minus_zero, zero, minus_zero, zero, 0),
        (nan | 7, infinity, infinity, infinity, 0),
        (signalling, zero, zero, zero, NV),
        (signalling, nan, nan, nan, NV),
        (nan | 1, nan | 2, nan, nan, 0),
    ):
        assert on_fpu(Case(f"fmin.{width}", None, 0, a, b)) == (least, flags)
        assert on_fpu(Case(f"fmax.{width}", None, 0, a, b)) == (greatest, flags)


def test_only_equality_is_quiet() -> None:
    one, nan = double(1), NAN["d"]
    assert on_fpu(Case("feq.d", None, 0, one, nan)) == (0, 0)
    assert on_fpu(Case("feq.d", None, 0, one, SIGNALLING["d"])) == (0, NV)
    for name in ("flt.d", "fle.d"):
        assert on_fpu(Case(name, None, 0, nan, one)) == (0, NV)
    assert on_fpu(Case("fle.d", None, 0, 0, SIGN["d"])) == (1, 0)
    assert on_fpu(Case("flt.d", None, 0, SIGN["d"], 0)) == (0, 0)


def test_a_single_that_is_not_nan_boxed_is_the_canonical_nan_but_moves_as_it_is() -> None:
    bare = 0x3F800000
    assert on_fpu(Case("fadd.s", RNE, 0, bare, single(1))) == (NAN["s"], 0)
    assert on_fpu(Case("fsgnjn.s", None, 0, bare, bare)) == (NAN["s"] | SIGN["s"], 0)
    assert on_fpu(Case("fclass.s", None, 0, bare)) == (1 << 9, 0)
    assert on_fpu(Case("fmv.x.w", None, 0, bare)) == (bare, 0)
    assert on_fpu(Case("fmv.w.x", None, 0, MASK64 ^ BOX ^ 0xFFFFFFFF | bare)) == (BOX | bare, 0)


def test_underflow_is_told_after_rounding() -> None:
    """A result that would round to the least normal number were there smaller exponents is not tiny."""
    for fcsr in (0, NX):
        assert on_fpu(Case("fmul.s", RNE, fcsr, BOX | 0x00800000, BOX | 0x3F7FFFFF)) == (BOX | 0x00800000, UF | NX)
        assert on_fpu(Case("fmul.s", RNE, fcsr, BOX | 0x00800001, BOX | 0x3F7FFFFE)) == (BOX | 0x00800000, NX)
        assert on_fpu(Case("fmul.d", RNE, fcsr, 1 << 52, double(1) - 1)) == (1 << 52, UF | NX)
        assert on_fpu(Case("fmul.d", RNE, fcsr, 1 << 52 | 1, double(1) - 2)) == (1 << 52, NX)


def test_a_reserved_rounding_mode_is_illegal_and_changes_nothing() -> None:
    words = np.zeros(s.STATE_SIZE, np.int64)
    for frm in (5, 6, 7):
        words[s.FCSR] = frm << 5
        words[s.F + 3] = 7
        before = words.copy()
        assert fp_execute(words, encode("fadd.d", rd=3, rm=DYN)) == 0
        assert fp_execute(words, encode("fmadd.s", rd=3, rm=DYN)) == 0
        assert fp_execute(words, encode("fcvt.d.w", rd=3, rs1=1, rm=DYN)) == 0
        assert np.array_equal(words, before)
        assert fp_execute(words, encode("fadd.d", rd=3, rm=RNE)) == 1
        assert fp_execute(words, encode("fmin.d", rd=3)) == 1


def test_x0_stays_zero_and_flags_stay_set() -> None:
    words = np.zeros(s.STATE_SIZE, np.int64)
    words[s.F + 1] = 0x7FF0 << 48
    words[s.FCSR] = OF
    for name in ("fclass.d", "fcvt.w.d", "feq.d", "fmv.x.d"):
        assert (
            fp_execute(words, encode(name, rd=0, rs1=1, rs2=1) if name == "feq.d" else encode(name, rd=0, rs1=1)) == 1
        )
    assert words[s.X] == 0
    assert words[s.FCSR] == OF | NV
