"""Is there an order in which one server, one command at a time, would have given every client its answers?

Theory of operation. Linearizability is local: a history is linearizable iff the part about each key is (Herlihy and
Wing, 1990), so each key is checked alone. The search is that of Wing and Gong (1993) with Lowe's memory of where it
has been (2017): take any operation that was invoked before the first answer among those left, apply it to the
model, compare its answer, go on; come back when nothing fits. Two ways to the same (set of operations taken, value)
have the same future, so the second one is not walked.

An operation without an answer fits with whatever the model says, at any time after it was invoked. Nothing waits for
it: a history is explained when all *answered* operations are, so "never" is the order in which it comes last.

A value is part of the state that is remembered, and APPEND makes every value different; histories here have some
hundred operations for each key, of which a handful overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.campaign.history import Operation, apply

STATES_MAX = 200_000
"""Then a key counts as undecided, which is a failure of the check: a verdict that was not reached is none."""


class Undecided(Exception):
    """The search grew beyond `STATES_MAX` states."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one key. If nothing explains the history: how many of the answers the best attempt explained, and the
    operations among which it got stuck."""

    key: str
    explained: bool
    answered: int = 0
    stuck: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        if self.explained:
            return f"{self.key}: linearizable"
        among = "; ".join(str(operation) for operation in self.stuck[:6])
        return f"{self.key}: nothing explains more than {self.answered} answers; stuck among: {among}"


def check(history: Iterable[Operation], initial: dict[str, bytes] | None = None) -> list[Verdict]:
    """A verdict for each key. `initial`: values before the first operation; None or absent: no such key.

    Raises `Undecided`.
    """
    keys: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    return [check_key(key, keys[key], (initial or {}).get(key)) for key in sorted(keys)]


def check_key(key: str, operations: Sequence[Operation], initial: bytes | None = None) -> Verdict:
    """Whether there is an order for the operations on one key. Raises `Undecided`."""
    ordered = sorted(operations, key=lambda operation: operation.invoked_ns)
    if any(one.returned_ns is not None and one.returned_ns < one.invoked_ns for one in ordered):
        raise ValueError(f"{key}: an answer before its question")
    everything = sum(1 << number for number, one in enumerate(ordered) if not one.is_maybe)
    seen: set[tuple[int, bytes | None]] = {(0, initial)}
    best = (-1, 0)
    # Each level: what was taken so far, the value then, and the candidates that were not tried yet.
    stack = [(0, initial, _candidates(ordered, 0))]
    while stack:
        taken, value, candidates = stack[-1]
        if taken & everything == everything:
            return Verdict(key, True)
        best = max(best, ((taken & everything).bit_count(), taken))
        if not candidates:
            stack.pop()
            continue
        number = candidates.pop()
        operation = ordered[number]
        after, answer = apply(value, operation)
        if not operation.is_maybe and answer != operation.answer:
            continue
        state = (taken | 1 << number, after)
        if state in seen:
            continue
        seen.add(state)
        if len(seen) > STATES_MAX:
            raise Undecided(f"{key}: more than {STATES_MAX} states for {len(ordered)} operations")
        stack.append((*state, _candidates(ordered, state[0])))
    count, taken = best
    stuck = tuple(ordered[number] for number in _candidates(ordered, taken))
    return Verdict(key, False, count, stuck)


def _candidates(ordered: Sequence[Operation], taken: int) -> list[int]:
    """What could come next: invoked before the first answer among those that are left. The likeliest last."""
    first_answer: int | None = None
    found: list[int] = []
    number = (~taken & (taken + 1)).bit_length() - 1  # all before this one are taken
    while number < len(ordered):
        operation = ordered[number]
        if first_answer is not None and operation.invoked_ns > first_answer:
            break
        if not taken >> number & 1:
            found.append(number)
            if operation.returned_ns is not None and (first_answer is None or operation.returned_ns < first_answer):
                first_answer = operation.returned_ns
        number += 1
    eligible = [
        number for number in found if first_answer is None or ordered[number].invoked_ns <= first_answer
    ]
    # An answered operation before one that may never have happened, the earlier answer first.
    eligible.sort(key=lambda number: -(ordered[number].returned_ns or 1 << 62))
    return eligible


def lost_suffix(history: Sequence[Operation], begin_ns: int, end_ns: int) -> tuple[int, list[Operation], list[Verdict]]:
    """A machine that went on from its disk after it was killed has lost the end of its history, and nothing before.

    Of the operations answered from `begin_ns` to `end_ns` the last n never happened, n as small as can be: answers come
    over one console, so in the order in which the machine did what they answer. Returns n, the history without
    these, and its verdicts; those of the whole history if no n explains it. Raises `Undecided`.
    """
    late = sorted(
        (one for one in history if one.returned_ns is not None and begin_ns <= one.returned_ns <= end_ns),
        key=lambda one: one.returned_ns or 0,
    )
    first: tuple[int, list[Operation], list[Verdict]] | None = None
    for count in range(len(late) + 1):
        gone = {id(one) for one in late[len(late) - count :]}
        left = [one for one in history if id(one) not in gone]
        verdicts = check(left)
        if all(verdict.explained for verdict in verdicts):
            return count, left, verdicts
        first = first or (0, left, verdicts)
    assert first is not None
    return first


@dataclass(frozen=True, slots=True)
class Losses:
    """Acknowledged operations that a final reading does not show, or shows more than once."""

    lost: int = 0
    doubled: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.lost + other.lost, self.doubled + other.doubled)


def count_tokens(operations: Iterable[Operation], value: bytes | None, separator: bytes = b";") -> Losses:
    """For a key to which only unique tokens, each with `separator` at its end, were appended."""
    found: dict[bytes, int] = defaultdict(int)
    for token in (value or b"").split(separator)[:-1]:
        found[token + separator] += 1
    known: dict[bytes, bool] = {one.value: one.is_maybe for one in operations if one.value}
    lost = sum(1 for token, is_maybe in known.items() if not is_maybe and not found[token])
    doubled = sum(count - 1 if token in known else count for token, count in found.items() if count)
    return Losses(lost, doubled)


def count_increments(operations: Sequence[Operation], value: bytes | None) -> Losses:
    """For a key that was incremented only."""
    acknowledged = sum(not one.is_maybe for one in operations)
    number = int(value or b"0")
    return Losses(max(0, acknowledged - number), max(0, number - len(operations)))
