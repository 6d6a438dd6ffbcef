"""The host's floating-point arithmetic on bit patterns, as a fast path where it cannot differ from `softfloat.py`.

IEEE 754 determines the result of add, subtract, multiply, divide, square root and fused multiply-add. What hosts may
do differently is left out: rounding modes other than to nearest, subnormal numbers (which may be flushed to zero),
which NaN results, when underflow is detected, and reading the flags. So an operation is done here only in
round-to-nearest, when the inexact flag is set already (it is sticky, so whether the result is exact does not matter),
with operands that are normal and a result that is normal and not the least such number (to which a tiny result may
have been rounded up). Such an operation raises no flag but inexact. LLVM neither contracts nor re-associates these.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ftvm.machine.hart.jit import Binary, Unary, compiled

Ternary = Callable[[int, int, int], int]

_BOX = -(1 << 32)
_INSTRUCTIONS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def _build(name: str, bits: int, builder: Any, arguments: Any) -> Any:
    """The operation on the low `bits` of int64s, as int64; a single comes out NaN-boxed."""
    pattern = ir.IntType(bits)
    kind = ir.DoubleType() if bits == 64 else ir.FloatType()
    if bits == 32:
        arguments = [builder.trunc(argument, pattern) for argument in arguments]
    operands = [builder.bitcast(argument, kind) for argument in arguments]
    if name in _INSTRUCTIONS:
        result = getattr(builder, _INSTRUCTIONS[name])(*operands)
    else:
        function = ir.FunctionType(kind, [kind] * len(operands))
        result = builder.call(builder.module.declare_intrinsic(f"llvm.{name}", (kind,), function), operands)
    result = builder.bitcast(result, pattern)
    word = ir.IntType(64)
    return result if bits == 64 else builder.or_(builder.zext(result, word), ir.Constant(word, _BOX))


def _binary(name: str, bits: int) -> Binary:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def binary(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _build(name, bits, builder, arguments)

        return types.int64(types.int64, types.int64), generate

    return cast(Binary, binary)


def _sqrt(bits: int) -> Unary:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def sqrt(typing_context: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _build("sqrt", bits, builder, arguments)

        return types.int64(types.int64), generate

    return cast(Unary, sqrt)


def _fma(bits: int) -> Ternary:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _build("fma", bits, builder, arguments)

        return types.int64(types.int64, types.int64, types.int64), generate

    return cast(Ternary, fma)


_add64, _add32 = _binary("add", 64), _binary("add", 32)
_sub64, _sub32 = _binary("sub", 64), _binary("sub", 32)
_mul64, _mul32 = _binary("mul", 64), _binary("mul", 32)
_div64, _div32 = _binary("div", 64), _binary("div", 32)
_sqrt64, _sqrt32 = _sqrt(64), _sqrt(32)
_fma64, _fma32 = _fma(64), _fma(32)


@compiled
def _normal(bits: int, wide: int, least: int) -> bool:
    """A number whose exponent field is from `least` to the greatest; NaN-boxed, if a single."""
    if wide:
        return least <= (bits >> 52) & 0x7FF < 0x7FF
    return bits >> 32 == -1 and least <= (bits >> 23) & 0xFF < 0xFF


@compiled
def host_arithmetic(which: int, a: int, b: int, wide: int) -> tuple[bool, int]:
    """Add, subtract, multiply or divide (`which` from 0 on), and whether that is the result."""
    if not (_normal(a, wide, 1) and _normal(b, wide, 1)):
        return False, 0
    if which == 0:
        result = _add64(a, b) if wide else _add32(a, b)
    elif which == 1:
        result = _sub64(a, b) if wide else _sub32(a, b)
    elif which == 2:
        result = _mul64(a, b) if wide else _mul32(a, b)
    else:
        result = _div64(a, b) if wide else _div32(a, b)
    return _normal(result, wide, 2), result


@compiled
def host_square_root(a: int, wide: int) -> tuple[bool, int]:
    sign = a < 0 if wide else (a >> 31) & 1 != 0
    if sign or not _normal(a, wide, 1):
        return False, 0
    return True, _sqrt64(a) if wide else _sqrt32(a)


@compiled
def host_multiply_add(a: int, b: int, c: int, wide: int) -> tuple[bool, int]:
    if not (_normal(a, wide, 1) and _normal(b, wide, 1) and _normal(c, wide, 1)):
        return False, 0
    result = _fma64(a, b, c) if wide else _fma32(a, b, c)
    return _normal(result, wide, 2), result
