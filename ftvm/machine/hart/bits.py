"""Counting, rotating and reordering bits of an int64: what Zbb has an instruction for (manual, chapter "B").

LLVM's intrinsics, which become one machine instruction where the host has it.
"""

from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ftvm.machine.hart.jit import Binary, Unary


def _unary(name: str, bits: int) -> Unary:
    """`llvm.NAME.iBITS` of the low bits, zero-extended. Counts of zeros are `bits` for zero."""

    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def unary(typing_context: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            width = ir.IntType(bits)
            value = arguments[0] if bits == 64 else builder.trunc(arguments[0], width)
            operands = [value, ir.Constant(ir.IntType(1), 0)] if name in ("ctlz", "cttz") else [value]
            function = ir.FunctionType(width, [operand.type for operand in operands])
            result = builder.call(builder.module.declare_intrinsic(f"llvm.{name}", (width,), function), operands)
            return result if bits == 64 else builder.zext(result, ir.IntType(64))

        return types.int64(types.int64), generate

    return cast(Unary, unary)


clz, ctz, cpop = _unary("ctlz", 64), _unary("cttz", 64), _unary("ctpop", 64)
clzw, ctzw, cpopw = _unary("ctlz", 32), _unary("cttz", 32), _unary("ctpop", 32)
rev8 = _unary("bswap", 64)


def _rotate(name: str, bits: int) -> Binary:
    """A funnel shift of a value and itself; the result is sign-extended."""

    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def rotate(typing_context: Any, a: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            width = ir.IntType(bits)
            if bits == 32:
                arguments = [builder.trunc(argument, width) for argument in arguments]
            function = ir.FunctionType(width, [width] * 3)
            shift = builder.module.declare_intrinsic(f"llvm.{name}", (width,), function)
            result = builder.call(shift, [arguments[0], arguments[0], arguments[1]])
            return result if bits == 64 else builder.sext(result, ir.IntType(64))

        return types.int64(types.int64, types.int64), generate

    return cast(Binary, rotate)


rol, ror = _rotate("fshl", 64), _rotate("fshr", 64)
rolw, rorw = _rotate("fshl", 32), _rotate("fshr", 32)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _orc_b(typing_context: Any, a: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 8)
        octets = builder.bitcast(arguments[0], vector)
        some = builder.icmp_unsigned("!=", octets, ir.Constant(vector, [0] * 8))
        return builder.bitcast(builder.sext(some, vector), ir.IntType(64))

    return types.int64(types.int64), generate


orc_b = cast(Unary, _orc_b)
"""Each byte all ones if any of its bits is set, else zero."""
