"""Runs programs on several interpreters and reports what differs, with the seed and a short program that shows it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tests.differential.minimise import minimise
from tests.machine.assembler import listing
from tests.machine.oracles import Astray, Outcome
from tests.machine.programs import BASE, Program, generate

Engine = Callable[[Program], Outcome]
Oracle = Callable[[Program, int], Outcome]
"""Takes a timeout in microseconds; 0: none is needed, because the program is known to end."""

TIMEOUT_US = 500_000
"""For a program with some instructions blanked, which may not end."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`engine` left something else behind than the oracle did."""

    seed: int
    length: int
    engine: str
    differences: tuple[str, ...]
    program: Program

    def report(self) -> str:
        return "\n".join(
            [
                f"seed {self.seed}: {self.engine} differs (first value: oracle, second: {self.engine})",
                *(f"  {line}" for line in self.differences),
                "smallest program that shows it, after the prologue; no-ops left out:",
                listing(list(self.program.words), BASE, self.program.body),
                f"again: python -m tests.differential --seed {self.seed} --programs 1 --length {self.length}",
            ]
        )


def outcome_or_reason(run: Callable[[], Outcome]) -> Outcome | str:
    try:
        return run()
    except Astray as error:
        return str(error)


def differences(oracle: Oracle, engine: Engine, program: Program, timeout_us: int = 0) -> tuple[str, ...]:
    """Empty when both agree, also when they agree that the program goes astray."""
    theirs = outcome_or_reason(lambda: oracle(program, timeout_us))
    mine = outcome_or_reason(lambda: engine(program))
    if isinstance(theirs, Outcome) and isinstance(mine, Outcome):
        return tuple(theirs.differences(mine))
    if isinstance(theirs, Outcome) or isinstance(mine, Outcome):
        return (f"oracle: {theirs if isinstance(theirs, str) else 'ended'}", f"{mine}"[:200])
    return ()


def _fails_alike(differ: Callable[[Program], tuple[str, ...]], found: tuple[str, ...], candidate: Program) -> bool:
    """Differs in the same way: in the state at the end, or in whether it ends. Blanking can turn one into the other."""
    lines = differ(candidate)
    return bool(lines) and lines[0].startswith("oracle") == found[0].startswith("oracle")


def compare(oracle: Oracle, engines: Mapping[str, Engine], seed: int, length: int) -> Mismatch | None:
    """One program on all; the first engine that differs, with its program made small."""
    program = generate(seed, length)
    for name, engine in engines.items():
        found = differences(oracle, engine, program)
        if found:
            differ = partial(differences, oracle, engine, timeout_us=TIMEOUT_US)
            smallest = minimise(program, partial(_fails_alike, differ, found))
            return Mismatch(seed, length, name, differ(smallest), smallest)
    return None


def campaign(
    oracle: Oracle, engines: Mapping[str, Engine], seeds: range, length: int = 200
) -> Iterator[tuple[int, Mismatch | None]]:
    """(seed, mismatch or None) for each seed in turn."""
    for seed in seeds:
        yield seed, compare(oracle, engines, seed, length)
