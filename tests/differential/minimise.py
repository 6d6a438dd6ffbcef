"""Makes a failing program small enough to read, by putting no-ops where instructions do not matter."""

from collections.abc import Callable

from tests.machine.programs import Program


def minimise(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A program that still fails, from which no single instruction can be blanked any more.

    Sizes stay as they are, so that every jump still goes where it went.
    """
    assert fails(program)
    size = max(1, (len(program.words) - program.body) // 2)
    while True:
        changed = False
        for first in range(program.body, len(program.words), size):
            candidate = program.without(first, first + size)
            if candidate != program and fails(candidate):
                program, changed = candidate, True
        if size > 1:
            size //= 2
        elif not changed:
            return program
