"""The small part of `python -m tests.model`, and that model and code speak of the same things."""

import re

import pytest

from ftvm.replication import messages
from ftvm.replication.arbitration import TRANSITIONS, State
from tests.model.cases import CASES, MUTANTS, Case, ModelMutant
from tests.model.run import MODEL, check, missing_tools, mutated, run_case, run_mutant
from tests.needs import lack

NOT_MODELLED: dict[State, str] = {}
"""States that the model leaves out, each with the reason."""


@pytest.fixture
def checker() -> None:
    missing = missing_tools()
    if missing:
        lack(missing)


def names_of(kind: str) -> set[str]:
    found = re.search(rf"^mtype:{kind} = \{{(.*?)\}};", MODEL.read_text(), re.M | re.S)
    assert found is not None
    return set(re.findall(r"\w+", found.group(1)))


def test_the_model_has_the_states_of_the_code() -> None:
    assert names_of("state") | {state.name for state in NOT_MODELLED} == {state.name for state in TRANSITIONS}
    used = re.findall(r"\b[A-Z][A-Z_]+\b", MODEL.read_text().partition("mtype:kind")[2])
    assert names_of("state") <= set(used), "a state that is only declared is not modelled"


def test_the_model_has_the_messages_and_kinds_of_the_code() -> None:
    assert {name for name in names_of("message") if not hasattr(messages, name)} == set()
    assert names_of("kind") == {f"KIND_{kind.name}" for kind in messages.Kind}


def test_every_mutant_of_the_model_can_be_planted() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutated(mutant) != MODEL.read_text(), mutant.name


@pytest.mark.usefixtures("checker")
@pytest.mark.parametrize("case", [case for case in CASES if case.small], ids=lambda case: case.name)
def test_the_model_keeps_its_promises(case: Case) -> None:
    result = run_case(case, quick=True)
    assert result.holds, f"{result.line}\n{result.trail}"
    assert result.states > 100, "a model that does nothing keeps every promise"


@pytest.mark.usefixtures("checker")
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.small], ids=lambda mutant: mutant.name)
def test_the_checker_finds_a_fault_in_the_model(mutant: ModelMutant) -> None:
    result = run_mutant(mutant)
    assert result.holds is False, result.line
    assert result.trail, "the steps that lead there"


@pytest.mark.usefixtures("checker")
def test_a_run_without_an_end_is_found() -> None:
    """The search of the `endless` cases itself: a retry that asks again for ever must be found."""
    once = "OPEN_REQUEST(i) && empty(ask[i]) && empty(answer[i]) -> send_request(i)"
    text = MODEL.read_text()
    assert text.count(once) == 1
    for_ever = text.replace(once, once.replace("send_request(i)", "skip"))
    assert check(for_ever, {"PROTECTED_START": 1, "CUTS": 1, "LOSSES": 1}, endless=True, quick=True).holds is False
