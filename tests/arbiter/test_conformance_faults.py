"""What every kind of arbiter promises while it is killed, slow, paused, cut off, full, damaged or restored."""

import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from ftvm.arbiter.client import Arbiter
from ftvm.errors import ArbiterError
from ftvm.replication.messages import Activate, Activated, ArbiterRequest, Granted, Life, Refused
from tests.arbiter.services import LOOPBACK, Etcd, Service, Witness, encoded
from tests.arbiter.test_conformance import LIVES, A, B, C, boot, check_books, promote, race, run
from tests.needs import fill, small_file_system
from transport.testing import open_chaos_proxy

ENOUGH = 1 << 20
ERROR_WITHIN_S = 30.0
"""What one question may take without an answer, several times over: 5 s are the witness's bound, 2 s that of one member
of etcd."""


async def no_answer(arbiter: Arbiter, request: ArbiterRequest, told: str | None = None) -> None:
    """An ArbiterError, in bounded time, on one line."""
    started_s = trio.current_time()
    with pytest.raises(ArbiterError, match=told) as caught:
        await arbiter.ask(request)
    assert "\n" not in str(caught.value)
    assert trio.current_time() - started_s < ERROR_WITHIN_S


async def until_more_than(count: int, won: dict[int, Life]) -> None:
    while len(won) <= count:  # noqa: ASYNC110 - who fills it tells nobody
        await trio.sleep(0.001)


# ---- killed


def test_what_was_answered_outlives_a_kill(server: Service) -> None:
    async def main() -> None:
        async with server.clients(2) as (first, second):
            assert await first.ask(boot(A)) == Granted(1, A)
            server.kill()
            await no_answer(first, Activate(1, A))
            server.start()
            assert isinstance(await second.ask(boot(B)), Refused)
            assert await first.ask(Activate(1, A)) == Activated(1, A)
            server.kill()
            server.start()
            async with server.client() as third:
                ledger = await third.read()
            assert [record.life for record in ledger.records] == [A]
            assert ledger.last_activated == 1
            assert await first.ask(promote(2, A, A)) == Granted(2, A)

    run(main)


def test_killed_in_the_midst_of_claims_it_never_grants_twice(server: Service) -> None:
    """Three racers, who ask again when they get no answer; the server is killed at random moments, and started."""
    chance, kills, generations = random.Random(7), 2, 1000

    async def main() -> None:
        won: dict[int, Life] = {}
        async with server.clients(4) as (judge, *arbiters):
            with trio.CancelScope() as races:
                async with trio.open_nursery() as nursery:

                    async def racers() -> None:
                        async with trio.open_nursery() as inner:
                            for arbiter, life in zip(arbiters, LIVES, strict=False):
                                inner.start_soon(lambda *a: race(*a, patient=True), arbiter, life, generations, won)

                    nursery.start_soon(racers)
                    for _ in range(kills):
                        await until_more_than(len(won) + 2, won)
                        await trio.sleep(chance.random() * 0.01)
                        server.kill()
                        await trio.to_thread.run_sync(server.start)
                    races.cancel()
            ledger = await judge.read()
            told = {record.gen: record.life for record in ledger.records}
            # A grant whose answer was lost may be in the books of the arbiter alone; but none of a racer's is missing.
            assert {gen: told.get(gen) for gen in won} == won
            check_books(ledger, told)
            assert len(won) >= 3 * kills

    run(main)


# ---- slow, paused, cut off


def test_slow_answers_are_right_and_those_that_are_too_slow_are_none(server: Service) -> None:
    async def main() -> None:
        async with open_chaos_proxy(LOOPBACK, server.port) as proxy, server.client(port=proxy.port) as slow:
            proxy.to_client.delay_s = proxy.to_server.delay_s = 0.05
            assert await slow.ask(boot(A)) == Granted(1, A)
            proxy.to_client.delay_s = 30.0
            await no_answer(slow, Activate(1, A))
            proxy.to_client.delay_s = 0.0
            assert await slow.ask(Activate(1, A)) == Activated(1, A)

    run(main)


def test_a_paused_arbiter_is_no_answer_and_then_says_the_same_as_before(server: Service) -> None:
    async def main() -> None:
        async with server.clients(2) as (first, second):
            assert await first.ask(boot(A)) == Granted(1, A)
            await second.read()
            server.signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(no_answer, first, promote(2, A, A))
                nursery.start_soon(no_answer, second, promote(2, A, B))
            server.signal(signal.SIGCONT)
            # Either of them may have been granted meanwhile, and only one.
            answers = [await first.ask(promote(2, A, A)), await second.ask(promote(2, A, B))]
            assert sum(isinstance(answer, Granted) for answer in answers) == 1
            assert [await first.ask(promote(2, A, A)), await second.ask(promote(2, A, B))] == answers

    run(main)


def test_a_claim_whose_answer_was_lost_gets_it_when_it_is_repeated(server: Service) -> None:
    async def main() -> None:
        async with (
            open_chaos_proxy(LOOPBACK, server.port) as proxy,
            server.client(port=proxy.port) as cut,
            server.client() as near,
        ):
            assert await cut.ask(boot(A)) == Granted(1, A)
            proxy.to_client.is_blackhole = True
            await no_answer(cut, promote(2, A, A))
            assert (await near.read()).current == 2
            assert isinstance(await near.ask(promote(2, A, B)), Refused)
            proxy.to_client.is_blackhole = False
            proxy.cut()
            assert await cut.ask(promote(2, A, A)) == Granted(2, A)

    run(main)


def test_a_connection_cut_at_any_byte_is_no_wrong_answer(server: Service) -> None:
    """The answers' bytes are cut off after N of them, for growing N: an error, or the right answer."""

    async def main() -> None:
        async with open_chaos_proxy(LOOPBACK, server.port) as proxy, server.client() as near:
            held: Life = b""
            for cut_after in (0, 1, 50, 150, 250, 400, 800, 1500, 2500, ENOUGH):
                proxy.to_client.passed, proxy.to_client.cut_after = 0, cut_after
                ledger = await near.read()
                request = promote(ledger.current + 1, held, A) if held else boot(A)
                async with server.client(port=proxy.port) as cut:
                    try:
                        assert await cut.ask(request) == Granted(ledger.current + 1, A)
                    except ArbiterError:
                        assert cut_after < ENOUGH
                assert await near.ask(request) == Granted(ledger.current + 1, A)
                held = A

    run(main)


# ---- out of space


@pytest.mark.parametrize("kind", [Service, Witness])
def test_a_full_disk_is_no_answer_and_with_room_all_goes_on(tmp_path: Path, kind: type[Service]) -> None:
    service = kind(tmp_path)
    filler = service.store / "filler"

    async def main() -> None:
        async with service.client() as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            fill(filler)
            await no_answer(arbiter, Activate(1, A), "No space left on device; make room there")
            assert (await arbiter.read()).last_activated == 0
            filler.unlink()
            assert await arbiter.ask(Activate(1, A)) == Activated(1, A)
        assert not [path for path in service.store.iterdir() if path.name.startswith("new-")]

    with small_file_system(service.store, "64k"):
        try:
            service.start()
            run(main)
        finally:
            service.kill()


def test_an_etcd_beyond_its_quota_is_no_answer_and_with_room_all_goes_on(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path, "--quota-backend-bytes", str(1 << 20))

    async def main() -> None:
        async with etcd.client() as arbiter:
            assert await arbiter.ask(boot(A)) == Granted(1, A)
            await arbiter.check()
            size = 0
            while "error" not in etcd.call("kv/put", key=encoded(b"filler"), value=encoded(bytes(100_000))):
                size += 100_000
                assert size < 10 << 20
            await no_answer(arbiter, Activate(1, A), "database space exceeded")
            with pytest.raises(ArbiterError, match="quota is used up"):
                await arbiter.check()
            assert (await arbiter.read()).last_activated == 0
            revision = etcd.call("kv/deleterange", key=encoded(b"filler"))["header"]["revision"]
            etcd.call("kv/compaction", revision=revision, physical=True)
            etcd.call("maintenance/defragment")
            for alarm in etcd.call("maintenance/alarm", action="GET")["alarms"]:
                etcd.call("maintenance/alarm", action="DEACTIVATE", **alarm)
            assert await arbiter.ask(Activate(1, A)) == Activated(1, A)

    try:
        etcd.start()
        run(main)
    finally:
        etcd.kill()


# ---- back from the past, and damaged


def test_old_data_are_no_answer_to_who_knows_more(service: Service) -> None:
    async def main() -> None:
        async with service.client() as knows:
            assert await knows.ask(boot(A)) == Granted(1, A)
            assert await knows.ask(Activate(1, A)) == Activated(1, A)
            copy = service.save()
            assert await knows.ask(promote(2, A, B)) == Granted(2, B)
            assert await knows.ask(Activate(2, B)) == Activated(2, B)
            service.put_back(copy)
            for request in (promote(2, A, C), promote(3, B, C), promote(2, A, B), Activate(2, B)):
                await no_answer(knows, request, "gone|old data")

    run(main)


def test_old_data_that_grew_on_are_no_answer_even_if_they_look_alike(service: Service) -> None:
    """Somebody who could not know better got another generation 2 from them, and as many steps as there had been."""

    async def main() -> None:
        async with service.client() as knows:
            assert await knows.ask(boot(A)) == Granted(1, A)
            copy = service.save()
            for request in (promote(2, A, B), Activate(2, B)):
                await knows.ask(request)
            service.put_back(copy)
            async with service.client() as misled:
                assert await misled.ask(promote(2, A, C)) == Granted(2, C)
                assert await misled.ask(Activate(2, C)) == Activated(2, C)
                for request in (promote(3, B, B), promote(2, A, B), Activate(2, B)):
                    await no_answer(knows, request)
                await misled.ask(promote(3, C, C))
                await misled.ask(promote(4, C, C))
                await no_answer(knows, promote(3, B, B), "went back in time|another cluster")

    run(main)


GARBAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda _: b"",
    "cut": lambda step: step[:-5],
    "no text": lambda _: b"\xff\xfe\x00",
    "nested": lambda _: b"[" * 5000,
    "huge": lambda _: b"x" * 100_000,
    "another step": lambda step: step.replace(b'"step": 2', b'"step": 3'),
    "another machine": lambda step: step.replace(b"bank", b"shop"),
    "another past": lambda step: step.replace(b'"after": "', b'"after": "00'),
    "more": lambda step: step + b"{}\n",
    "missing": lambda _: None,
}


def test_every_kind_of_garbage_in_the_store_is_no_answer(service: Service) -> None:
    async def main() -> None:
        async with service.client() as arbiter:
            for request in (boot(A), Activate(1, A), promote(2, A, B)):
                await arbiter.ask(request)
        good = service.step(2)
        for name, garbage in GARBAGE.items():
            service.spoil(2, garbage(good))
            async with service.client() as arbiter:
                with pytest.raises(ArbiterError) as caught:
                    await arbiter.ask(Activate(2, B))
            assert re.search("step(-0+| )2", str(caught.value)), name
            assert "\n" not in str(caught.value)
            service.spoil(2, good)
        async with service.client() as arbiter:
            assert await arbiter.ask(Activate(2, B)) == Activated(2, B)

    run(main)
