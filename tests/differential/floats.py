"""Floating-point instructions one by one: fpu.py against exact arithmetic and against unicorn."""

from collections.abc import Iterator, Sequence
from random import Random

from tests.machine.floats import difference, random_case, unicorn_differences


def float_campaign(seeds: Sequence[int], length: int) -> Iterator[str | None]:
    """For each seed a report on its `length` cases, or None when all three agree on each."""
    for seed in seeds:
        random = Random(f"float:{seed}")
        cases = [random_case(random) for _ in range(length)]
        lines = [line for case in cases if (line := difference(case)) is not None]
        lines += unicorn_differences(cases)
        again = f"again: python -m tests.differential --level float --seed {seed} --programs 1 --length {length}"
        yield "\n".join([f"seed {seed}:", *lines[:10], again]) if lines else None
