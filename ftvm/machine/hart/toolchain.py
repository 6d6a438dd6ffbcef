"""Numba, set up to compile what `jit.py` and `intrinsics.py` define.

A function that Python calls becomes an ordinary numba dispatcher. One that goes into the kernel is only a part of it:
numba would optimise it together with all that it calls, again for each of its callers, and make machine code of it
each time. So parts are linked as they are, and the whole is optimised once, when it is known who calls whom.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import _dynfunc, njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.registry import cpu_target
from numba.core.typed_passes import NativeLowering
from numba.cpython import numbers
from numba.extending import typeof_impl

from ftvm.machine.hart import intrinsics
from ftvm.machine.hart.jit import Deferred

assert intrinsics, "they must be registered with numba before anything is compiled"

# Numba tells LLVM that sums and products of int64 never overflow ("nsw"), after which LLVM may assume anything of one
# that does: (a * b != 0) becomes (a != 0 and b != 0). The guest's arithmetic wraps.
assert hasattr(numbers, "_int_arith_flags"), "this numba says otherwise that signed overflow is undefined"
numbers._int_arith_flags = lambda result_type: []

# Merging the tails of the handlers turns the interpreter's jumps into jumps to jumps.
llvm.set_option("ftvm", "-enable-tail-merge=false")
# Each handler begins at a multiple of 32 bytes. Else the same loop runs at 740 or at 960 MIPS, for where its handlers
# happen to lie.
llvm.set_option("ftvm", "-align-all-nofallthru-blocks=5")

OPTIONS = {"nogil": True, "error_model": "numpy"}
NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_makes_parts = False


@typeof_impl.register(Deferred)  # type: ignore[untyped-decorator,unused-ignore]
def _type_of(deferred: Deferred[..., Any], context: Any) -> Any:
    return cpu_target.typing_context.resolve_value_type(deferred.target)


class _PartLibrary(JITCodeLibrary):  # type: ignore[misc,unused-ignore]
    """What is linked into its callers, and no more."""

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):  # type: ignore[misc,unused-ignore]
    """Into a library of a part. What callers know the function by, numba itself makes of its machine code."""

    _name = "ftvm_part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state.cr
        made = lowered.fndesc
        key = _dynfunc.make_function(made.lookup_module(), made.qualname, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(key, made, [state.library])
        state.cr = lowered._replace(cfunc=key)
        return True


class _PartCompiler(CompilerBase):  # type: ignore[misc,unused-ignore]
    def define_pipelines(self) -> list[Any]:
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (_PartLowering if step is NativeLowering else step, text) for step, text in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


def dispatcher(function: Callable[..., Any]) -> Any:
    if _makes_parts:
        return njit(pipeline_class=_PartCompiler, **OPTIONS, **NO_WRAPPERS)(function)
    return njit(**OPTIONS)(function)


@contextmanager
def _making_parts() -> Iterator[None]:
    """What is compiled in here cannot be called from Python afterwards."""
    global _makes_parts
    _makes_parts = True
    try:
        yield
    finally:
        _makes_parts = False


class _WholeLibrary(JITCodeLibrary):  # type: ignore[misc,unused-ignore]
    """Of which only the entry points can be called from outside."""

    entry_points: frozenset[str] = frozenset()

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.name not in self.entry_points:
                function.linkage = llvm.Linkage.internal
        super()._optimize_final_module()


def object_code(entries: Mapping[str, tuple[Callable[..., Any], Any]]) -> bytes:
    """A relocatable object with a C function for each entry: name, function, and numba's signature of it."""
    typing, target = cpu_target.typing_context, cpu_target.target_context
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, {"nopython": True, **OPTIONS, **NO_WRAPPERS})
    flags.no_compile = True
    library = _WholeLibrary(target.codegen(), "ftvm")
    library.entry_points = frozenset(entries)
    library.enable_object_caching()
    with global_compiler_lock, _making_parts():
        for name, (function, signature) in entries.items():
            made = compile_extra(
                typing, target, function, signature.args, signature.return_type, flags, {}, library=library
            )
            library.add_ir_module(_entry_point(target, name, made.fndesc, signature))
        library.finalize()
    code: bytes = library._get_compiled_object()
    return code


def _entry_point(target: Any, name: str, description: Any, signature: Any) -> Any:
    """`name`, with C's calling convention around numba's. What it calls raises nothing."""
    module = target.create_module(name)
    convention = target.call_conv
    inner_type = convention.get_function_type(description.restype, description.argtypes)
    inner = ir.Function(module, inner_type, description.llvm_func_name)
    types = [target.get_value_type(one) for one in signature.args]
    outer = ir.Function(module, ir.FunctionType(target.get_value_type(signature.return_type), types), name)
    builder = ir.IRBuilder(outer.append_basic_block("entry"))
    _, result = convention.call_function(builder, inner, description.restype, description.argtypes, outer.args)
    builder.ret(result)
    return module
