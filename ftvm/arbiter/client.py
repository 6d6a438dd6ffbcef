"""Asking an arbiter, whatever keeps its steps: the loop of deciding and creating, and what a client remembers.

A `Store` keeps steps (see `steps`) and knows nothing of their meaning. All that is asked of one is that `create`
is a compare-and-create which is durable when it returns, and that `read` shows every step whose `create` returned
before it was called.

A change is first decided on what this client knows already, so that in a failover it costs one round trip: the
store takes it only if that *was* all. An answer that changes nothing (a refusal, or the same grant again) rests
on a read that was made for it. Whose answer was lost asks again: its own step is then among those that it
reads, and the rule gives the same life the same answer.

What a client remembers: the newest step it has seen. A store that lacks it has old data (a backup, a disk that
lied about a sync), and is an ArbiterError, never an answer. *Not promised*: that old data are noticed by a client
that has just been started, for it has nothing to compare them with. If an arbiter's store goes back in time
while no node that knows better is up, a generation can be granted twice.
"""

import math
from collections.abc import Sequence
from typing import Protocol, overload

import trio

from ftvm.arbiter.steps import STEPS_MAX, Steps
from ftvm.errors import ArbiterError
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    ArbiterRequest,
    Claim,
    Granted,
    Ledger,
    Read,
    Refused,
)

ATTEMPTS_MAX = 1_000
"""Each lost race is another's progress: so many in a row mean that the store does not behave."""

Batch = tuple[Sequence[bytes], bool]
"""Steps in their order, and whether there are more."""


class Store(Protocol):
    """Keeps steps. Every method raises ArbiterError when it cannot say for sure, and nothing else of the world."""

    name: str
    """For people: what and where it is."""

    def where(self, number: int) -> str:
        """For people: where step `number` is."""

    async def read(self, first: int) -> Batch:
        """The contents of the steps from number `first` on, without a gap; at most BATCH_MAX."""

    async def create(self, number: int, content: bytes, previous: bytes) -> bool:
        """Makes `content` step `number`, durably, if the one before is `previous` (b"": none) and this one is new.

        False if that is not so, also if it is because this very step has been created before.
        """

    async def check(self) -> None:
        """ArbiterError if nothing could be created now, as far as that can be told without trying."""


class History:
    """The steps of a store, read as far as they were needed. One task at a time."""

    def __init__(self, store: Store, machine: str) -> None:
        self.store = store
        self.steps = Steps(machine)

    async def catch_up(self) -> None:
        """Read the steps that are new, and the newest known one with them."""
        steps, more = self.steps, True
        while more:
            contents, more = await self.store.read(max(1, steps.count))
            new = steps.confirm(contents, self.store.name)
            for content in new:
                steps.learn(content, self.store.where(steps.count + 1))
            if more and not new:
                raise ArbiterError(f"{self.store.name}: says that there is more, and gives nothing")

    async def create(self, content: bytes) -> bool:
        """Make `content` the next step. False if there is one already that is not known here."""
        steps, number = self.steps, self.steps.count + 1
        if number > STEPS_MAX:
            raise ArbiterError(f"{self.store.name}: {STEPS_MAX} steps are all that it can keep; begin a new one")
        steps.check(content, f"{self.store.name}: the new step {number}")
        if not await self.store.create(number, content, steps.last):
            return False
        steps.learn(content, self.store.where(number))
        return True


class Arbiter:
    """Who grants the generations of `machine`. Any number of tasks may ask; they take turns.

    Cancelled or failed, a question may have been decided or not: asked again, it gets the same answer.
    """

    def __init__(self, store: Store, machine: str, ask_timeout_s: float = math.inf) -> None:
        self._history = History(store, machine)
        self._timeout_s = ask_timeout_s
        self._turn = trio.Lock()

    @property
    def name(self) -> str:
        """For people: what and where it is."""
        return self._history.store.name

    @overload
    async def ask(self, request: Claim) -> Granted | Refused: ...
    @overload
    async def ask(self, request: Activate) -> Activated | Refused: ...
    @overload
    async def ask(self, request: Read) -> Ledger: ...

    async def ask(self, request: ArbiterRequest) -> ArbiterAnswer:
        """The answer, durable. Raises ArbiterError when there is none, in bounded time if the store is a server.

        A generation is granted to one life at most, and the same life gets the same answer again.
        """
        try:
            with trio.fail_after(self._timeout_s):
                async with self._turn:
                    return await self._ask(request)
        except trio.TooSlowError:
            raise ArbiterError(f"{self.name}: no answer within {self._timeout_s:g} s") from None

    async def read(self) -> Ledger:
        """All generations granted so far, and the newest activated one."""
        return await self.ask(Read())

    async def check(self) -> Ledger:
        """Like `read`; raises ArbiterError also if a claim would find no room."""
        ledger = await self.read()
        await self._history.store.check()
        return ledger

    async def _ask(self, request: ArbiterRequest) -> ArbiterAnswer:
        steps, is_fresh = self._history.steps, False
        for _ in range(ATTEMPTS_MAX):
            answer, change = steps.decide(request)
            if change is None and is_fresh:
                return answer
            if change is not None and await self._history.create(steps.encode_next(change)):
                return answer
            await self._history.catch_up()
            is_fresh = True
        raise ArbiterError(f"{self.name}: another always writes first, {ATTEMPTS_MAX} times; look at what keeps it")
