"""What compiled code is written with: the decorator, memory access, and the arithmetic that numba gets wrong.

Compiled functions get C pointers from the kernel and numpy arrays from tests and from the reference
interpreter; indexing is all that they do with them, so one source serves both. Nothing here is cached on its own:
one cached entry point (`kernel.py`) carries all that it calls.

Numba's `//` floors, `INT64_MIN // -1` is 0 and there is no 128-bit product, so MULH, DIV and REM are intrinsics
with RISC-V's results for division by zero and overflow (unprivileged specification, chapter "M").
"""

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.cpython import numbers
from numba.extending import intrinsic


class Words(Protocol):
    """A C pointer to int64 or uint64, or an array of them."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Bytes(Words, Protocol):
    """A C pointer to uint8: memory, which load and store intrinsics take too."""


Load = Callable[[Bytes, int], int]
Store = Callable[[Bytes, int, int], None]
Binary = Callable[[int, int], int]

P = ParamSpec("P")
R = TypeVar("R")

# Numba tells LLVM that sums and products of int64 never overflow ("nsw"), after which LLVM may assume anything of one
# that does: (a * b != 0) becomes (a != 0 and b != 0). The guest's arithmetic wraps.
assert hasattr(numbers, "_int_arith_flags"), "this numba says otherwise that signed overflow is undefined"
numbers._int_arith_flags = lambda result_type: []

# Merging the tails of the handlers turns the interpreter's jumps into jumps to jumps.
llvm.set_option("ftvm", "-enable-tail-merge=false")
# Each handler begins at a multiple of 32 bytes. Else the same loop runs at 740 or at 960 MIPS, for where its handlers
# happen to lie.
llvm.set_option("ftvm", "-align-all-nofallthru-blocks=5")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba when first used: no GIL, C's division, wrapping int64 arithmetic."""
    return cast(Callable[P, R], njit(nogil=True, error_model="numpy")(function))


def _high_product(first_signed: bool, second_signed: bool) -> Binary:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def high_product(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            wide = ir.IntType(128)
            x = (builder.sext if first_signed else builder.zext)(arguments[0], wide)
            y = (builder.sext if second_signed else builder.zext)(arguments[1], wide)
            return builder.trunc(builder.lshr(builder.mul(x, y), ir.Constant(wide, 64)), ir.IntType(64))

        return types.int64(types.int64, types.int64), generate

    return cast(Binary, high_product)


mulh = _high_product(True, True)
mulhu = _high_product(False, False)
mulhsu = _high_product(True, False)


def _divide(signed: bool, remainder: bool, bits: int) -> Binary:
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

    return cast(Binary, divide)


div, divu, rem, remu = (_divide(s, r, 64) for s, r in ((True, False), (False, False), (True, True), (False, True)))
divw, divuw, remw, remuw = (_divide(s, r, 32) for s, r in ((True, False), (False, False), (True, True), (False, True)))


def _load(bits: int, signed: bool) -> Load:
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

    return cast(Load, load)


def _store(bits: int) -> Store:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def store(typing_context: Any, memory: Any, offset: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            address = builder.gep(arguments[0], [arguments[1]])
            value = arguments[2] if bits == 64 else builder.trunc(arguments[2], ir.IntType(bits))
            instruction = builder.store(value, builder.bitcast(address, ir.IntType(bits).as_pointer()))
            instruction.align = 1
            return context.get_dummy_value()

        return types.none(memory, types.uint64, types.int64), generate

    return cast(Store, store)


load8s, load8u = _load(8, True), _load(8, False)
load16s, load16u = _load(16, True), _load(16, False)
load32s, load32u = _load(32, True), _load(32, False)
load64 = _load(64, False)
store8, store16, store32, store64 = _store(8), _store(16), _store(32), _store(64)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _move(typing_context: Any, to: Any, to_at: Any, source: Any, source_at: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source = builder.gep(arguments[0], arguments[1:2]), builder.gep(arguments[2], arguments[3:4])
        cgutils.raw_memmove(builder, to, source, arguments[4], 1)  # type: ignore[no-untyped-call,unused-ignore]
        return context.get_dummy_value()

    return types.none(to, types.int64, source, types.int64, types.int64), generate


move_bytes = cast(Callable[[Bytes, int, Bytes, int, int], None], _move)
"""to, offset, source, offset, size: C's memmove."""


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _clear(typing_context: Any, memory: Any, offset: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory, offset, size = arguments
        cgutils.memset(builder, builder.gep(memory, [offset]), size, 0)  # type: ignore[no-untyped-call,unused-ignore]
        return context.get_dummy_value()

    return types.none(memory, types.int64, types.int64), generate


clear_bytes = cast(Callable[[Bytes, int, int], None], _clear)
"""memory, offset, size: zeros."""


@compiled
def signed(word: int) -> int:
    """The same 64 bits as int64: numba keeps uint64 apart, and `uint64 + literal` is anyone's guess."""
    return int(np.int64(word))


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
def _opaque(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.asm(function, "", "=r,0", arguments, False)

    return types.int64(types.int64), generate


opaque = cast(Callable[[int], int], _opaque)
"""The same number, of which LLVM knows nothing: what is computed from it leaves no trace elsewhere in a loop."""


def _as_pointer(item: Any) -> Callable[[int], Bytes]:
    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def as_pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(item)(types.int64), generate  # type: ignore[no-untyped-call,unused-ignore]

    return cast(Callable[[int], Bytes], as_pointer)


as_words = _as_pointer(types.int64)
as_bytes = _as_pointer(types.uint8)
as_codes = _as_pointer(types.uint64)


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _call(typing_context: Any, address: Any, ctl: Any, state: Any, mem: Any, code: Any, fetch: Any, tlb: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.IntType(64), [argument.type for argument in arguments[1:]])
        return builder.call(builder.inttoptr(arguments[0], function.as_pointer()), arguments[1:])

    return types.int64(types.int64, ctl, state, mem, code, fetch, tlb), generate


@intrinsic  # type: ignore[untyped-decorator,unused-ignore]
def _call_float(typing_context: Any, address: Any, state: Any, word: Any) -> Any:
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


call_float = cast(Callable[[int, Words, int], int], _call_float)
"""Call `fp_execute` by its address: what the core calls is not compiled into it."""

call_core = cast(Callable[[int, Words, Words, Bytes, Words, Words, Words], int], _call)
"""Call a core by its address: compiled on its own, it is not compiled again into its caller."""
