"""The harness that compares interpreters, and that it bites."""

from random import Random

import pytest

from ftvm.machine.hart import reference, reference_alu
from tests.differential.campaign import Engine, campaign, compare
from tests.differential.minimise import minimise
from tests.machine.engines import on_kernel, on_reference
from tests.machine.machine_programs import generate_machine
from tests.machine.oracles import Unicorn
from tests.machine.programs import generate

LENGTH = 60


@pytest.fixture(scope="module")
def oracle() -> Unicorn:
    return Unicorn()


def mismatches(oracle: Unicorn, engine: Engine, seeds: range) -> list[str]:
    found = campaign(oracle.run, {"engine": engine}, seeds, LENGTH)
    return [mismatch.report() for _, mismatch in found if mismatch is not None]


def test_kernel_agrees_with_unicorn(oracle: Unicorn) -> None:
    assert not mismatches(oracle, on_kernel, range(300))


def test_reference_agrees_with_unicorn(oracle: Unicorn) -> None:
    assert not mismatches(oracle, on_reference, range(100))


@pytest.mark.parametrize("name", ["sraw", "mulhsu", "sltu", "remw", "subw"])
def test_a_wrong_instruction_is_found_and_shown(oracle: Unicorn, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A mutant of one operation: some seed differs, and the report's short listing names the instruction."""
    right = reference_alu.REGISTER_REGISTER[name]
    monkeypatch.setitem(reference.REGISTER_REGISTER, name, lambda a, b: right(a, b) ^ 1)
    for seed in range(100):
        mismatch = compare(oracle.run, {"mutant": on_reference}, seed, LENGTH)
        report = mismatch.report() if mismatch is not None else ""
        # A listing does not name an instruction that the program itself wrote over another.
        if name in report:
            break
    assert name in report
    assert f"--seed {seed} " in report
    assert len([line for line in report.splitlines() if line.startswith("0x")]) <= 12


def test_minimise_keeps_exactly_what_makes_a_program_fail() -> None:
    program = generate(1, LENGTH)
    random = Random(1)
    needed = set(random.sample(range(program.body, len(program.words)), 3))
    needed = {index for index in needed if program.without(index, index + 1) != program}
    smallest = minimise(program, lambda candidate: all(candidate.words[i] == program.words[i] for i in needed))
    blank = program.without(program.body, len(program.words))
    assert {i for i, word in enumerate(smallest.words) if word != blank.words[i]} == needed


def test_a_seed_always_gives_the_same_program() -> None:
    assert generate(7, 50).image() == generate(7, 50).image()
    assert generate(7, 50).image() != generate(8, 50).image()
    assert generate_machine(7, 50).image() == generate_machine(7, 50).image()
