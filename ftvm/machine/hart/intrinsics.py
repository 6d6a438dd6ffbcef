"""What numba has no words for, as LLVM: memory access, and the arithmetic that numba gets wrong.

Numba's `//` floors, `INT64_MIN // -1` is 0 and there is no 128-bit product, so MULH, DIV and REM are intrinsics
with RISC-V's results for division by zero and overflow (unprivileged specification, chapter "M").

What the rest of the machine takes from `jit.py` under the same names comes from here once it is compiled.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _high_product(first_signed: bool, second_signed: bool) -> Any:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def high_product(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            wide = ir.IntType(128)
            x = (builder.sext if first_signed else builder.zext)(arguments[0], wide)
            y = (builder.sext if second_signed else builder.zext)(arguments[1], wide)
            return builder.trunc(builder.lshr(builder.mul(x, y), ir.Constant(wide, 64)), ir.IntType(64))

        return types.int64(types.int64, types.int64), generate

    return high_product


mulh = _high_product(True, True)
mulhu = _high_product(False, False)
mulhsu = _high_product(True, False)


def _divide(signed: bool, remainder: bool, bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def divide(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            width = ir.IntType(bits)
            a, b = arguments
            if bits == 32:
                a, b = builder.trunc(a, width), builder.trunc(b, width)
            zero, one, ones = ir.Constant(width, 0), ir.Constant(width, 1), ir.Constant(width, -1)
            by_zero = builder.icmp_unsigned("==", b, zero)
            divisor = builder.select(by_zero, one, b)
            if signed:
                # Division by -1 is negation, which wraps where sdiv would trap.
                negates = builder.icmp_unsigned("==", b, ones)
                divisor = builder.select(negates, one, divisor)
                if remainder:
                    result = builder.select(negates, zero, builder.srem(a, divisor))
                else:
                    result = builder.select(negates, builder.neg(a), builder.sdiv(a, divisor))
            else:
                result = (builder.urem if remainder else builder.udiv)(a, divisor)
            result = builder.select(by_zero, a if remainder else ones, result)
            return builder.sext(result, ir.IntType(64)) if bits == 32 else result

        return types.int64(types.int64, types.int64), generate

    return divide


div, divu, rem, remu = (_divide(s, r, 64) for s, r in ((True, False), (False, False), (True, True), (False, True)))
divw, divuw, remw, remuw = (_divide(s, r, 32) for s, r in ((True, False), (False, False), (True, True), (False, True)))


def _load(bits: int, signed: bool) -> Any:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def load(typing_context: Any, memory: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = builder.gep(arguments[0], [arguments[1]])
            value = builder.load(builder.bitcast(address, ir.IntType(bits).as_pointer()))
            value.align = 1
            if bits == 64:
                return value
            return (builder.sext if signed else builder.zext)(value, ir.IntType(64))

        return types.int64(memory, types.uint64), generate

    return load


def _store(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def store(typing_context: Any, memory: Any, offset: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = builder.gep(arguments[0], [arguments[1]])
            value = arguments[2] if bits == 64 else builder.trunc(arguments[2], ir.IntType(bits))
            instruction = builder.store(value, builder.bitcast(address, ir.IntType(bits).as_pointer()))
            instruction.align = 1
            return context.get_dummy_value()

        return types.none(memory, types.uint64, types.int64), generate

    return store


load8s, load8u = _load(8, True), _load(8, False)
load16s, load16u = _load(16, True), _load(16, False)
load32s, load32u = _load(32, True), _load(32, False)
load64 = _load(64, False)
store8, store16, store32, store64 = _store(8), _store(16), _store(32), _store(64)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def move_bytes(typing_context: Any, to: Any, to_at: Any, source: Any, source_at: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source = builder.gep(arguments[0], arguments[1:2]), builder.gep(arguments[2], arguments[3:4])
        cgutils.raw_memmove(builder, to, source, arguments[4], 1)  # type: ignore[no-untyped-call,unused-ignore]
        return context.get_dummy_value()

    return types.none(to, types.int64, source, types.int64, types.int64), generate



@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def clear_bytes(typing_context: Any, memory: Any, offset: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory, offset, size = arguments
        cgutils.memset(builder, builder.gep(memory, [offset]), size, 0)  # type: ignore[no-untyped-call,unused-ignore]
        return context.get_dummy_value()

    return types.none(memory, types.int64, types.int64), generate



@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def unreachable(typing_context: Any) -> Any:
    """Tells LLVM that control does not come here, so that the dispatch needs no range check."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bit = ir.IntType(1)
        assume = builder.module.declare_intrinsic("llvm.assume", (), ir.FunctionType(ir.VoidType(), [bit]))
        builder.call(assume, [ir.Constant(bit, 0)])
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def opaque(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.asm(function, "", "=r,0", arguments, False)

    return types.int64(types.int64), generate



def _as_pointer(item: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def as_pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(item)(types.int64), generate  # type: ignore[no-untyped-call,unused-ignore]

    return as_pointer


as_words = _as_pointer(types.int64)
as_bytes = _as_pointer(types.uint8)
as_codes = _as_pointer(types.uint64)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def call_core(
    typing_context: Any, address: Any, ctl: Any, state: Any, mem: Any, code: Any, fetch: Any, tlb: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), [argument.type for argument in arguments[1:]])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])

    return types.int64(types.int64, ctl, state, mem, code, fetch, tlb), generate


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def call_float(typing_context: Any, address: Any, state: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        pointee = ir.FunctionType(word, [argument.type for argument in arguments[1:]])
        outer = ir.FunctionType(word, [argument.type for argument in arguments])
        # A cold function around it makes LLVM save registers here, and not spare them all over the core.
        name = "ftvm.call_float"
        if name not in builder.module.globals:
            made = ir.Function(builder.module, outer, name)
            made.linkage = "internal"
            made.attributes.add("cold")
            made.attributes.add("noinline")
            inner = ir.IRBuilder(made.append_basic_block())
            inner.ret(inner.call(inner.inttoptr(made.args[0], pointee.as_pointer()), made.args[1:]))
        return builder.call(builder.module.globals[name], arguments)

    return types.int64(types.int64, state, types.int64), generate
