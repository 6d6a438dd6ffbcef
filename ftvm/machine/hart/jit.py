"""The words that compiled code is written in: the decorator, and what numba itself has no word for.

Compiled functions get C pointers from the kernel and numpy arrays from tests and from the reference
interpreter; indexing is all that they do with them, so one source serves both.

Nothing here imports numba: that waits until something is compiled, in a process of its own (`build.py`) or by a test
that calls a function from Python. A process that finds machine code in the cache never does.
"""

from collections.abc import Callable
from functools import cached_property, update_wrapper
from importlib import import_module
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


class Words(Protocol):
    """A C pointer to int64 or uint64, or an array of them."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class Bytes(Words, Protocol):
    """A C pointer to uint8: memory, which load and store intrinsics take too."""


Load = Callable[[Bytes, int], int]
Store = Callable[[Bytes, int, int], None]
Unary = Callable[[int], int]
Binary = Callable[[int, int], int]


class Deferred(Generic[P, R]):
    """What numba makes when it is first called, or met in a function that is being compiled."""

    def __init__(self, make: Callable[[], Callable[P, R]]) -> None:
        self._make = make

    @cached_property
    def target(self) -> Callable[P, R]:
        return self._make()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.target(*args, **kwargs)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba when first used: no GIL, C's division, wrapping int64 arithmetic."""
    make = Deferred(lambda: import_module("ftvm.machine.hart.toolchain").dispatcher(function))
    return update_wrapper(make, function)


def _intrinsic(name: str) -> Any:
    """Of this name in `intrinsics.py`."""
    return Deferred(lambda: getattr(import_module("ftvm.machine.hart.intrinsics"), name))


mulh: Binary = _intrinsic("mulh")
mulhu: Binary = _intrinsic("mulhu")
mulhsu: Binary = _intrinsic("mulhsu")

div: Binary = _intrinsic("div")
divu: Binary = _intrinsic("divu")
rem: Binary = _intrinsic("rem")
remu: Binary = _intrinsic("remu")
divw: Binary = _intrinsic("divw")
divuw: Binary = _intrinsic("divuw")
remw: Binary = _intrinsic("remw")
remuw: Binary = _intrinsic("remuw")

load8s: Load = _intrinsic("load8s")
load8u: Load = _intrinsic("load8u")
load16s: Load = _intrinsic("load16s")
load16u: Load = _intrinsic("load16u")
load32s: Load = _intrinsic("load32s")
load32u: Load = _intrinsic("load32u")
load64: Load = _intrinsic("load64")
store8: Store = _intrinsic("store8")
store16: Store = _intrinsic("store16")
store32: Store = _intrinsic("store32")
store64: Store = _intrinsic("store64")

move_bytes: Callable[[Bytes, int, Bytes, int, int], None] = _intrinsic("move_bytes")
"""to, offset, source, offset, size: C's memmove."""

clear_bytes: Callable[[Bytes, int, int], None] = _intrinsic("clear_bytes")
"""memory, offset, size: zeros."""

as_words: Callable[[int], Words] = _intrinsic("as_words")
as_bytes: Callable[[int], Bytes] = _intrinsic("as_bytes")
as_codes: Callable[[int], Words] = _intrinsic("as_codes")

unreachable: Callable[[], None] = _intrinsic("unreachable")
"""Tells LLVM that control does not come here, so that the dispatch needs no range check."""

opaque: Unary = _intrinsic("opaque")
"""The same number, of which LLVM knows nothing: what is computed from it leaves no trace elsewhere in a loop."""

call_float: Callable[[int, Words, int], int] = _intrinsic("call_float")
"""Call `fp_execute` by its address: what the core calls is not compiled into it."""

call_core: Callable[[int, Words, Words, Bytes, Words, Words, Words], int] = _intrinsic("call_core")
"""Call a core by its address: compiled on its own, it is not compiled again into its caller."""


@compiled
def signed(word: int) -> int:
    """The same 64 bits as int64: numba keeps uint64 apart, and `uint64 + literal` is anyone's guess."""
    return int(np.int64(word))
