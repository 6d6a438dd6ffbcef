"""The sequence of steps by itself, and the client's loop over a store that misbehaves."""

import json
from collections.abc import Sequence

import pytest
import trio

from ftvm.arbiter.client import ATTEMPTS_MAX, Arbiter
from ftvm.arbiter.steps import STEPS_MAX, Change, Steps, link_of
from ftvm.errors import ArbiterError
from ftvm.replication.messages import Activate, Claim, Granted, Kind, Read, Record
from tests.arbiter.test_conformance import A, B, boot, promote, run


def history(*requests: Claim | Activate) -> list[bytes]:
    """The steps that these requests make."""
    steps, contents = Steps("bank"), []
    for request in requests:
        _, change = steps.decide(request)
        assert change is not None
        contents.append(steps.encode_next(change))
        steps.learn(contents[-1], "here")
    return contents


def learned(contents: Sequence[bytes]) -> Steps:
    steps = Steps("bank")
    for content in contents:
        steps.learn(content, "here")
    return steps


def test_who_reads_the_steps_knows_what_who_made_them_knew() -> None:
    steps = learned(history(boot(A), Activate(1, A), promote(2, A, B)))
    assert steps.ledger().last_activated == 1
    assert steps.ledger().records[1] == Record(2, B, 1, Kind.PROMOTE, promote(2, A, B).keep, "beta")


def altered(content: bytes, **head: object) -> bytes:
    first, _, rest = content.partition(b"\n")
    return json.dumps({**json.loads(first), **head}).encode() + b"\n" + rest


@pytest.mark.parametrize(
    "head",
    [{"step": 2}, {"step": "3"}, {"activated": 1}, {"activated": -1}, {"activated": True}, {"after": ""}, {"after": 3}],
)
def test_a_step_that_contradicts_itself_or_its_place_is_none(head: dict[str, object]) -> None:
    first, second, third = history(boot(A), Activate(1, A), promote(2, A, B))
    with pytest.raises(ArbiterError, match=r"^there: "):
        learned([first, second]).learn(altered(third, **head), "there")


def test_a_step_that_does_not_fit_the_ones_before_is_none() -> None:
    steps = learned(history(boot(A)))
    again, too_new = Record(1, B, 0, Kind.BOOT), Record(3, B, 2, Kind.SOLO)
    for change in (Change(activated=2), Change(record=again), Change(record=too_new)):
        with pytest.raises(ArbiterError, match="not a record"):
            steps.learn(steps.encode_next(change), "there")
    assert steps.count == 1
    steps.learn(steps.encode_next(Change(activated=1)), "there")
    assert steps.ledger().last_activated == 1


def test_the_newest_step_stands_for_all_of_them() -> None:
    """Two histories that say the same in their last step, word for word, still differ there."""
    one = history(boot(A), promote(2, A, B), Activate(2, B))
    other = history(boot(A), promote(2, A, B, Kind.SOLO), Activate(2, B))
    assert one[2].replace(link_of(one[1]).encode(), b"") == other[2].replace(link_of(other[1]).encode(), b"")
    with pytest.raises(ArbiterError, match="went back in time"):
        learned(one).confirm([other[2]], "there")


class Memory:
    """A store in memory, with faults to order."""

    name = "memory"

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.refuses = False
        self.says_more = False
        self.reads = self.creates = 0

    def where(self, number: int) -> str:
        return f"step {number}"

    async def read(self, first: int) -> tuple[list[bytes], bool]:
        self.reads += 1
        await trio.lowlevel.checkpoint()
        return self.contents[first - 1 :], self.says_more

    async def create(self, number: int, content: bytes, previous: bytes) -> bool:
        self.creates += 1
        await trio.lowlevel.checkpoint()
        if self.refuses or number != len(self.contents) + 1 or previous != (self.contents or [b""])[-1]:
            return False
        self.contents.append(content)
        return True

    async def check(self) -> None:
        if self.refuses:
            raise ArbiterError("full")


def test_in_a_failover_a_claim_costs_one_round_trip() -> None:
    async def main() -> None:
        store = Memory()
        await Arbiter(store, "bank").ask(boot(A))
        shadow = Arbiter(store, "bank")
        await shadow.read()
        store.reads = store.creates = 0
        assert await shadow.ask(promote(2, A, B)) == Granted(2, B)
        await shadow.ask(Activate(2, B))
        assert (store.creates, store.reads) == (2, 0)

    run(main)


def test_an_answer_that_changes_nothing_is_read_for() -> None:
    async def main() -> None:
        store = Memory()
        arbiter = Arbiter(store, "bank")
        await arbiter.ask(boot(A))
        for request in (boot(A), boot(B), Activate(1, B), Read()):
            reads = store.reads
            await arbiter.ask(request)
            assert store.reads == reads + 1
        assert store.creates == 1

    run(main)


def test_a_store_that_never_creates_is_given_up() -> None:
    async def main() -> None:
        store = Memory()
        store.refuses = True
        with pytest.raises(ArbiterError, match="always writes first"):
            await Arbiter(store, "bank").ask(boot(A))
        assert store.creates == ATTEMPTS_MAX
        with pytest.raises(ArbiterError, match="full"):
            await Arbiter(store, "bank").check()

    run(main)


def test_a_store_that_says_more_and_gives_nothing_is_given_up() -> None:
    async def main() -> None:
        store = Memory()
        store.says_more = True
        with pytest.raises(ArbiterError, match="gives nothing"):
            await Arbiter(store, "bank").read()

    run(main)


def test_a_sequence_has_an_end() -> None:
    async def main() -> None:
        store = Memory()
        arbiter = Arbiter(store, "bank")
        await arbiter.ask(boot(A))
        arbiter._history.steps.count = STEPS_MAX
        with pytest.raises(ArbiterError, match="all that it can keep"):
            await arbiter.ask(Activate(1, A))

    run(main)


def test_tasks_take_turns_and_a_cancelled_question_can_be_repeated() -> None:
    async def main() -> None:
        store = Memory()
        arbiter = Arbiter(store, "bank")
        with trio.CancelScope() as scope:
            scope.cancel()
            await arbiter.ask(boot(A))
        granted: list[object] = []

        async def ask(life: bytes) -> None:
            granted.append(isinstance(await arbiter.ask(boot(life)), Granted))

        async with trio.open_nursery() as nursery:
            for life in (A, B, A, B):
                nursery.start_soon(ask, life)
        assert sorted(map(bool, granted)) == [False, False, True, True]

    run(main)
