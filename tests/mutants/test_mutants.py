"""Every planted fault can still be planted, and a few really are: `python -m tests.mutants` runs them all."""

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant
from tests.mutants.run import problem_of, run_mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted_and_its_tests_exist(mutant: Mutant) -> None:
    assert problem_of(mutant) == ""


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert sum(mutant.sample for mutant in MUTANTS) == 3


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.sample], ids=lambda mutant: mutant.name)
def test_its_tests_notice(mutant: Mutant) -> None:
    outcome = run_mutant(mutant)
    assert outcome.killed, outcome.line
