"""The fast path on the host's arithmetic gives exactly the softfloat's results, wherever it says that it holds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ftvm.machine.hart.hostfloat import host_arithmetic, host_multiply_add, host_square_root
from ftvm.machine.hart.jit import compiled
from ftvm.machine.hart.softfloat import NX, RNE, add, divide, multiply, multiply_add, negated, square_root

CASES = 200_000


@compiled
def mismatches(a: NDArray[np.int64], b: NDArray[np.int64], c: NDArray[np.int64], wide: int) -> tuple[int, int]:
    """How many results the fast path gave, and how many of them differ from the softfloat in bits or by a flag."""
    done, wrong = 0, 0
    for index in range(len(a)):
        x, y, z = a[index], b[index], c[index]
        for which in range(6):
            if which < 4:
                held, result = host_arithmetic(which, x, y, wide)
            elif which == 4:
                held, result = host_square_root(x, wide)
            else:
                held, result = host_multiply_add(x, y, z, wide)
            if not held:
                continue
            if which == 0:
                exact, flags = add(x, y, wide, RNE)
            elif which == 1:
                exact, flags = add(x, negated(y, wide), wide, RNE)
            elif which == 2:
                exact, flags = multiply(x, y, wide, RNE)
            elif which == 3:
                exact, flags = divide(x, y, wide, RNE)
            elif which == 4:
                exact, flags = square_root(x, wide, RNE)
            else:
                exact, flags = multiply_add(x, y, z, wide, RNE)
            done += 1
            if exact != result or flags & ~NX:
                wrong += 1
    return done, wrong


def operands(wide: int, spread: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Exponents at most `spread` of their range away from quarters of it; some fractions with few ones."""
    bits, fraction_bits, top = (64, 52, 0x7FF) if wide else (32, 23, 0xFF)
    middle = generator.choice([0, top // 4, top // 2, 3 * top // 4, top], CASES)
    away = 1 + int(spread * top)
    exponents = np.clip(middle + generator.integers(-away, away + 1, CASES), 0, top)
    fractions = generator.integers(0, 1 << fraction_bits, CASES)
    fractions >>= np.where(generator.random(CASES) < 0.5, generator.integers(0, fraction_bits, CASES), 0)
    fractions ^= np.where(generator.random(CASES) < 0.3, (1 << fraction_bits) - 1, 0)
    signs = generator.integers(0, 2, CASES)
    patterns = signs << bits - 1 | exponents << fraction_bits | fractions
    boxes = np.where(generator.random(CASES) < 0.99, -(1 << 32), 0)
    return patterns if wide else patterns | boxes


@pytest.mark.parametrize("spread", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("wide", [0, 1])
def test_the_fast_path_never_differs_from_the_softfloat(wide: int, spread: float) -> None:
    generator = np.random.default_rng(int(100 * spread))
    a, b, c = (operands(wide, spread, generator) for _ in range(3))
    done, wrong = mismatches(a, b, c, wide)
    assert wrong == 0
    assert done > CASES


def test_a_result_that_may_have_been_tiny_is_not_taken() -> None:
    least_normal, below_one = 1 << 52, (0x3FF << 52) - 1
    assert host_arithmetic(2, least_normal, below_one, 1)[0] is False
    assert host_arithmetic(2, 3 << 52, below_one, 1)[0] is True
    greatest = (0x7FF << 52) - 1
    assert host_arithmetic(0, greatest, greatest, 1)[0] is False
    assert host_arithmetic(1, least_normal, least_normal, 1)[0] is False
    assert host_square_root(-(1 << 52), 1)[0] is False
