"""The checker accepts what one server could have answered, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.campaign.history import Answer, Op, Operation, apply
from tests.campaign.linearizability import (
    Losses,
    Undecided,
    check,
    check_key,
    count_increments,
    count_tokens,
    lost_suffix,
)

KEY = "k"


def did(op: Op, value: bytes, begin: int, end: int | None, answer: Answer = None, client: int = 0) -> Operation:
    return Operation(client, op, KEY, value, begin, end, answer)


def explained(*operations: Operation, initial: bytes | None = None) -> bool:
    return check_key(KEY, operations, initial).explained


# ---- histories whose verdict is known


def test_a_sequence_with_right_answers_is_accepted_and_a_wrong_answer_is_not() -> None:
    right = [
        did(Op.GET, b"", 0, 1, None),
        did(Op.SET, b"1", 2, 3, "OK"),
        did(Op.INCR, b"", 4, 5, 2),
        did(Op.APPEND, b"0", 6, 7, 2),
        did(Op.GET, b"", 8, 9, b"20"),
        did(Op.DEL, b"", 10, 11, 1),
        did(Op.DEL, b"", 12, 13, 0),
    ]
    assert explained(*right)
    answers: list[Answer] = [b"x", "no", 3, 3, b"2", 0, 1]
    for number, wrong in enumerate(answers):
        broken = list(right)
        broken[number] = broken[number].answered(wrong, right[number].returned_ns or 0)
        assert not explained(*broken)


def test_a_read_that_overlaps_a_write_may_see_either_value_and_a_later_one_only_the_new() -> None:
    write = did(Op.SET, b"new", 10, 20, "OK")
    for seen in (b"old", b"new"):
        assert explained(write, did(Op.GET, b"", 15, 30, seen, 1), initial=b"old")
    assert not explained(write, did(Op.GET, b"", 21, 30, b"old", 1), initial=b"old")


def test_two_reads_one_after_the_other_never_go_back_in_time() -> None:
    write = did(Op.SET, b"new", 0, 100, "OK")
    reads = [did(Op.GET, b"", 10, 20, b"new", 1), did(Op.GET, b"", 30, 40, b"old", 2)]
    assert not explained(write, *reads, initial=b"old")
    assert explained(write, did(Op.GET, b"", 10, 20, b"old", 1), did(Op.GET, b"", 30, 40, b"new", 2), initial=b"old")


def test_operations_of_several_clients_have_one_order_for_all() -> None:
    """The example of two writes seen in two orders."""
    writes = [did(Op.SET, b"a", 0, 100, "OK", 0), did(Op.SET, b"b", 0, 100, "OK", 1)]
    one = [did(Op.GET, b"", 10, 20, b"a", 2), did(Op.GET, b"", 30, 40, b"b", 2)]
    other = [did(Op.GET, b"", 10, 20, b"b", 3), did(Op.GET, b"", 30, 40, b"a", 3)]
    assert explained(*writes, *one)
    assert explained(*writes, *other)
    assert not explained(*writes, *one, *other)


def test_an_operation_without_an_answer_may_take_effect_late_or_never_but_not_early_or_twice() -> None:
    cut = did(Op.APPEND, b"x", 10, None)
    assert explained(cut, did(Op.GET, b"", 1000, 1001, None, 1))
    assert explained(cut, did(Op.GET, b"", 1000, 1001, None, 1), did(Op.GET, b"", 2000, 2001, b"x", 1))
    assert not explained(cut, did(Op.GET, b"", 1000, 1001, b"xx", 1))
    assert not explained(cut, did(Op.GET, b"", 1, 2, b"x", 1))
    assert not explained(
        cut, did(Op.GET, b"", 1000, 1001, b"x", 1), did(Op.GET, b"", 2000, 2001, None, 1)
    ), "what took effect is not taken back"


def test_a_lost_and_a_doubled_acknowledged_write_are_found() -> None:
    appended = [did(Op.APPEND, b"a;", 0, 1, 2), did(Op.APPEND, b"b;", 2, 3, 4)]
    assert explained(*appended, did(Op.GET, b"", 4, 5, b"a;b;"))
    assert not explained(*appended, did(Op.GET, b"", 4, 5, b"a;"))
    assert not explained(*appended, did(Op.GET, b"", 4, 5, b"a;b;b;"))


def test_keys_are_judged_apart() -> None:
    verdicts = check([did(Op.SET, b"1", 0, 1, "OK"), Operation(0, Op.GET, "other", b"", 2, 3, b"1")])
    assert {verdict.key: verdict.explained for verdict in verdicts} == {"k": True, "other": False}
    assert "other: nothing explains" in str(verdicts[1])
    assert check([Operation(0, Op.GET, "other", b"", 2, 3, b"1")], {"other": b"1"})[0].explained


def test_an_endless_search_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.campaign.linearizability.STATES_MAX", 100)
    cut = [did(Op.APPEND, bytes([65 + number]), 0, None, client=number) for number in range(12)]
    with pytest.raises(Undecided):
        explained(*cut, did(Op.GET, b"", 10, 20, b"?"))


def test_an_answer_before_its_question_is_no_history() -> None:
    with pytest.raises(ValueError, match="before its question"):
        explained(did(Op.GET, b"", 5, 4))


# ---- histories made from a real order


@st.composite
def linearizable(draw: st.DrawFn) -> list[Operation]:
    """Each operation takes effect at its own moment; it was invoked some time before, and answered after."""
    operations: list[Operation] = []
    value: bytes | None = None
    free_at: dict[int, int] = {}
    moment = 0
    for number in range(draw(st.integers(1, 24))):
        moment += draw(st.integers(1, 4))
        client = draw(st.integers(0, 4))
        begin = max(free_at.get(client, 0), moment - draw(st.integers(0, 12)))
        if begin > moment:
            continue  # this client is still waiting for its answer
        end = moment + draw(st.integers(0, 12))
        op = draw(st.sampled_from([Op.SET, Op.GET, Op.DEL, Op.APPEND]))
        argument = b"%d;" % number if op in (Op.SET, Op.APPEND) else b""
        operation = Operation(client, op, KEY, argument, begin)
        fate = draw(st.sampled_from(["answered"] * 8 + ["cut", "never"]))
        if fate != "never":
            value, answer = apply(value, operation)
        if fate == "answered":
            operation = operation.answered(answer, end)
        free_at[client] = end + 1
        operations.append(operation)
    return draw(st.permutations(operations))


@given(linearizable())
def test_every_history_that_has_an_order_is_accepted(history: list[Operation]) -> None:
    """Whatever overlaps, and however it was written down."""
    assert explained(*history)


def brute_force(history: Sequence[Operation]) -> bool:
    """By trying every order of every choice of the operations that may have happened: the definition itself."""
    answered = [one for one in history if not one.is_maybe]
    maybes = [one for one in history if one.is_maybe]
    for count in range(len(maybes) + 1):
        for chosen in itertools.combinations(maybes, count):
            if any(_fits(order) for order in itertools.permutations([*answered, *chosen])):
                return True
    return False


def _fits(order: Sequence[Operation]) -> bool:
    value: bytes | None = None
    for number, operation in enumerate(order):
        if any(later.returned_ns is not None and later.returned_ns < operation.invoked_ns for later in order[number:]):
            return False
        value, answer = apply(value, operation)
        if not operation.is_maybe and answer != operation.answer:
            return False
    return True


@st.composite
def small(draw: st.DrawFn) -> list[Operation]:
    """Anything that could be recorded, with answers that have no reason to be right."""
    history = []
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, 8))
        op = draw(st.sampled_from([Op.SET, Op.GET, Op.APPEND, Op.DEL]))
        value = draw(st.sampled_from([b"a", b"b"])) if op in (Op.SET, Op.APPEND) else b""
        answers: dict[Op, list[Answer]] = {
            Op.SET: ["OK"],
            Op.GET: [None, b"a", b"b", b"ab"],
            Op.APPEND: [1, 2],
            Op.DEL: [0, 1],
        }
        end = draw(st.none() | st.integers(begin, 10))
        answer = draw(st.sampled_from(answers[op])) if end is not None else None
        history.append(did(op, value, begin, end, answer))
    return history


@given(small())
def test_the_search_agrees_with_the_definition(history: list[Operation]) -> None:
    """On histories that are small enough to try every order."""
    assert explained(*history) == brute_force(history)


@given(linearizable(), st.data())
def test_a_history_in_which_one_answer_is_corrupted_is_rejected(history: list[Operation], data: st.DataObject) -> None:
    """A token that nobody wrote, or a length that no order gives, in any of its answers."""
    answered = [number for number, one in enumerate(history) if not one.is_maybe]
    assume(answered)
    number = data.draw(st.sampled_from(answered))
    one = history[number]
    wrong: dict[Op, Answer] = {Op.GET: b"nobody;", Op.SET: "ERR", Op.DEL: 2, Op.APPEND: 10_000}
    history[number] = one.answered(wrong[one.op], one.returned_ns or 0)
    assert not explained(*history)


@given(st.integers(2, 12), st.data())
def test_an_acknowledged_append_that_vanishes_or_repeats_is_rejected(count: int, data: st.DataObject) -> None:
    """And the count of losses names it."""
    tokens = [b"%d;" % number for number in range(count)]
    lengths = list(itertools.accumulate(len(token) for token in tokens))
    history = [
        did(Op.APPEND, token, 10 * number, 10 * number + 5, lengths[number]) for number, token in enumerate(tokens)
    ]
    victim = data.draw(st.integers(0, count - 1))
    lost = b"".join(token for number, token in enumerate(tokens) if number != victim)
    doubled = b"".join(tokens) + tokens[victim]
    for value, losses in ((b"".join(tokens), Losses()), (lost, Losses(1, 0)), (doubled, Losses(0, 1))):
        read = did(Op.GET, b"", 1000, 1001, value)
        assert explained(*history, read) == (losses == Losses())
        assert count_tokens(history, value) == losses


def test_of_a_machine_that_lost_its_end_only_the_end_is_missing() -> None:
    """The last of the late answers, whatever their keys, and none before."""
    counts = [did(Op.INCR, b"", 10 * number, 10 * number + 5, number + 1) for number in range(6)]
    other = Operation(1, Op.SET, "other", b"x", 52, 56, "OK")
    for kept in range(3, 7):
        reads = [did(Op.GET, b"", 1000, 1001, b"%d" % kept), Operation(2, Op.GET, "other", b"", 1000, 1001, None)]
        count, left, verdicts = lost_suffix([*counts, other, *reads], 30, 100)
        assert all(verdict.explained for verdict in verdicts)
        assert (count, len(left)) == (7 - kept, 2 + kept)
    too_much = did(Op.GET, b"", 1000, 1001, b"2")
    assert not all(verdict.explained for verdict in lost_suffix([*counts, too_much], 30, 100)[2])
    hole = [did(Op.GET, b"", 1000, 1001, b"5"), Operation(2, Op.GET, "other", b"", 1000, 1001, b"x")]
    assert not all(verdict.explained for verdict in lost_suffix([*counts, other, *hole], 30, 100)[2])


def test_increments_are_counted_with_those_that_may_have_happened() -> None:
    history = [did(Op.INCR, b"", 0, 1, 1), did(Op.INCR, b"", 2, 3, 2), did(Op.INCR, b"", 4, None)]
    expected = {1: Losses(1, 0), 2: Losses(), 3: Losses(), 4: Losses(0, 1)}
    for value, losses in expected.items():
        assert count_increments(history, b"%d" % value) == losses
    assert count_tokens([did(Op.APPEND, b"x;", 0, None)], b"") == Losses()
    assert count_tokens([did(Op.APPEND, b"x;", 0, None)], b"x;") == Losses()
    assert count_tokens([], b"strange;") == Losses(0, 1)
