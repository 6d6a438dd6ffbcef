"""Compiled integer arithmetic wraps, which numba on its own leaves undefined."""

from ftvm.machine.hart.jit import compiled


@compiled
def _product_is_not_zero(a: int, b: int) -> bool:
    return a * b != 0


@compiled
def _grows(a: int, b: int) -> bool:
    return a + b > a


@compiled
def _shrinks(a: int, b: int) -> bool:
    return a - b < a


def test_signed_overflow_wraps() -> None:
    """Told that it cannot happen, LLVM answers from the operands' signs and zeros."""
    assert not _product_is_not_zero(1 << 62, 4)
    assert not _grows((1 << 63) - 1, 1)
    assert not _shrinks(-(1 << 63), 1)
