"""What every kind of arbiter promises, asked of each of them really, and while harm is done to it."""

import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.steps import BATCH_MAX
from ftvm.errors import ArbiterError
from ftvm.replication.arbitration import decide, decide_activation
from ftvm.replication.codec import MEMBERS_MAX
from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    Claim,
    Granted,
    Kind,
    Ledger,
    Life,
    Read,
    Refused,
)
from tests.arbiter.services import Service, encoded
from tests.limits import TEST_S

LIVES = [bytes([number]) * 16 for number in range(1, 10)]
A, B, C = LIVES[:3]


def boot(life: Life = A, **more: Any) -> Claim:
    return Claim(1, 0, b"", life, Kind.BOOT, **more)


def promote(want: int, holder: Life, life: Life, kind: Kind = Kind.PROMOTE) -> Claim:
    return Claim(want, want - 1, holder, life, kind, (C,), "beta")


def run(main: Callable[..., Any], *arguments: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(TEST_S):
            await main(*arguments)

    trio.run(bounded)


# ---- the rule


def test_a_generation_is_granted_once_and_the_same_life_gets_the_same_answer(service: Service) -> None:
    async def main() -> None:
        async with service.clients(2) as (first, second):
            assert await first.ask(boot(A)) == Granted(1, A)
            refused = await second.ask(boot(B))
            assert isinstance(refused, Refused)
            assert [record.life for record in refused.records] == [A]
            assert await second.ask(boot(A)) == Granted(1, A)
            assert await second.ask(promote(2, A, B)) == Granted(2, B)
            assert isinstance(await first.ask(Activate(1, A)), Refused)
            assert await second.ask(Activate(2, B)) == Activated(2, B)
            assert await second.ask(Activate(2, B)) == Activated(2, B)
            assert await first.read() == await second.read()

    run(main)


RULES: list[tuple[Claim | Activate, bool]] = [
    (promote(1, A, B), False),  # nothing to promote from
    (boot(A), True),
    (boot(B), False),
    (Claim(2, 0, b"", B, Kind.PROMOTE), False),  # base mismatch
    (promote(2, C, B), False),  # holder mismatch
    (Claim(3, 1, A, C, Kind.VOID), False),  # a generation is left out
    (Claim(2, 1, A, B, Kind.VOID), False),  # void: base 1 was never activated
    (Activate(1, B), False),
    (Activate(1, A), True),
    (promote(2, A, B), True),
    (promote(2, A, C), False),
    (Claim(3, 1, A, C, Kind.VOID), True),  # 2 is not activated: whoever held 1 may void it
    (Activate(2, B), False),
    (Activate(3, C), True),
    (Claim(4, 1, A, A, Kind.VOID), False),  # 3 counts
    (promote(4, C, A, Kind.SOLO), True),
    (Activate(4, A), True),
    (promote(5, A, A, Kind.RECONFIGURE), True),
    (Claim(6, 3, C, C, Kind.RESTART), False),  # 4 counted after 3
    (Claim(6, 4, B, C, Kind.RESTART), False),  # holder mismatch
    (Claim(6, 4, A, C, Kind.RESTART), True),  # 5 never counted
    (Claim(7, 3, C, B, Kind.RESTART), False),
    (Claim(7, 3, C, B, Kind.RESTART, force=True), True),
    (promote(8, B, A, Kind.OFF), True),
    (promote(9, A, B), False),  # off
    (Claim(9, 4, A, B, Kind.RESTART), False),  # off
    (Activate(8, A), False),
    (Claim(9, 0, b"", B, Kind.BOOT), True),  # off: a cold boot is welcome
    (Claim(10, 0, b"", C, Kind.BOOT), False),
    (Claim(10, 0, b"", C, Kind.BOOT, force=True), True),
]


def test_the_rules(service: Service) -> None:
    async def main() -> None:
        async with service.client() as arbiter:
            for request, is_granted in RULES:
                answer = await arbiter.ask(request)
                assert isinstance(answer, Granted | Activated) == is_granted, request

    run(main)


def test_a_long_history_is_read_whole(service: Service) -> None:
    """More steps than are read at once; some of them as large as they get."""
    generations = BATCH_MAX + 12
    keep = tuple(LIVES[number % 9] for number in range(MEMBERS_MAX))

    async def main() -> None:
        async with service.clients(2) as (first, second):
            await first.ask(boot(A))
            for want in range(2, generations + 1):
                assert await first.ask(Claim(want, want - 1, A, A, Kind.SOLO, keep, "x" * 64)) == Granted(want, A)
            ledger = await second.read()
            assert [record.gen for record in ledger.records] == list(range(1, generations + 1))
            assert ledger.records[-1].keep == keep
            assert await second.ask(Activate(generations, A)) == Activated(generations, A)

    run(main)


class Oracle:
    """One ledger in memory, and the pure rule."""

    def __init__(self) -> None:
        self.ledger = Ledger()

    def ask(self, request: Claim | Activate) -> ArbiterAnswer:
        if isinstance(request, Claim):
            answer, record = decide(self.ledger, request)
            if record is not None:
                self.ledger = Ledger((*self.ledger.records, record), self.ledger.last_activated)
            return answer
        activated, is_new = decide_activation(self.ledger, request)
        if is_new:
            self.ledger = Ledger(self.ledger.records, request.gen)
        return activated


def likely_request(chance: random.Random, ledger: Ledger) -> Claim | Activate:
    """Often one that can be granted, sometimes one that is slightly off."""
    current, life = ledger.current, chance.choice(LIVES[:4])
    if chance.random() < 0.35:
        holder = ledger.records[-1].life if ledger.records and chance.random() < 0.8 else life
        return Activate(max(1, current - (chance.random() < 0.2)), holder)
    kind = chance.choice([*Kind, *[Kind.PROMOTE] * 3])
    base = ledger.last_activated if kind in (Kind.VOID, Kind.RESTART) else current - (chance.random() < 0.1)
    held = ledger.record(base)
    holder = held.life if held and chance.random() < 0.9 else life
    want = current + 1 if chance.random() < 0.9 else current
    keep = tuple(chance.sample(LIVES, chance.randrange(3)))
    return Claim(want, max(0, base), holder, life, kind, keep, "beta", force=chance.random() < 0.05)


@pytest.mark.parametrize("seed", [1])
def test_answers_are_those_of_the_pure_rule(service: Service, seed: int) -> None:
    """Three clients that ask in turn, and start anew at any time, get what one ledger in memory would answer."""
    chance, oracle, granted = random.Random(seed), Oracle(), 0

    async def main() -> None:
        nonlocal granted
        for _ in range(12):
            async with service.clients(3) as arbiters:
                for _ in range(10):
                    request = likely_request(chance, oracle.ledger)
                    arbiter = chance.choice(arbiters)
                    expected = oracle.ask(request)
                    assert await arbiter.ask(request) == expected
                    granted += isinstance(expected, Granted | Activated)
                for arbiter in arbiters:
                    assert await arbiter.read() == oracle.ledger

    run(main)
    assert 30 <= granted <= 110


# ---- many at once


async def race(arbiter: Arbiter, life: Life, last: int, won: dict[int, Life], *, patient: bool = False) -> None:
    """Claims and activates one generation after the other, until `last` is granted to anybody.

    `won` gets what was granted to `life`. A patient racer asks again when the arbiter cannot be asked.
    """

    async def ask(request: Any) -> Any:
        while True:
            try:
                return await arbiter.ask(request)
            except ArbiterError:
                if not patient:
                    raise
                await trio.sleep(0.01)

    while True:
        ledger = await ask(Read())
        if ledger.current >= last:
            return
        want = ledger.current + 1
        claim = promote(want, ledger.records[-1].life, life) if ledger.records else boot(life)
        if isinstance(await ask(claim), Granted):
            assert want not in won, f"generation {want} was granted twice"
            won[want] = life
            await ask(Activate(want, life))


def check_books(ledger: Ledger, won: dict[int, Life]) -> None:
    """Every generation has one holder, and it is who was told so."""
    assert [record.gen for record in ledger.records] == list(range(1, ledger.current + 1))
    assert {record.gen: record.life for record in ledger.records} == won


def test_of_racing_tasks_exactly_one_wins_each_generation(service: Service) -> None:
    async def main() -> None:
        won: dict[int, Life] = {}
        async with service.clients(8) as arbiters:
            async with trio.open_nursery() as nursery:
                for arbiter, life in zip(arbiters, LIVES, strict=False):
                    nursery.start_soon(race, arbiter, life, 20, won)
            check_books(await arbiters[0].read(), won)

    run(main)


_RACER = """
import base64, pickle, sys, trio
from ftvm.arbiter import open_arbiter
from tests.arbiter.test_conformance import race
config, life = pickle.loads(base64.b64decode(sys.argv[1])), bytes.fromhex(sys.argv[2])
async def main():
    won = {}
    async with open_arbiter(config, "alpha") as arbiter:
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        sys.stdin.readline()
        await race(arbiter, life, 20, won)
    print(*won)
trio.run(main)
"""


def test_of_racing_processes_exactly_one_wins_each_generation(service: Service) -> None:
    config = encoded(pickle.dumps(service.config()))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, config, life.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for life in LIVES[:3]
    ]
    won: dict[int, Life] = {}
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for life, racer in zip(LIVES, racers, strict=False):
            output, _ = racer.communicate(timeout=TEST_S)
            assert racer.returncode == 0
            for gen in map(int, output.split()):
                assert gen not in won
                won[gen] = life
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()

    async def main() -> None:
        async with service.client() as arbiter:
            check_books(await arbiter.read(), won)

    run(main)
