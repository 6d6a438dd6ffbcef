"""Real processes: a machine whose guest writes all the time gets a shadow, and what dies while it does."""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ftvm.demo.stage import Stage
from ftvm.host.replay import replay_log
from tests.host.pair import LOOPBACK, RAM_MIB, WAIT_S, closing, core_state, ended, kill, make, run

FILL_MIB = RAM_MIB - 4
RATE_MB_S = 20
PAGES = RAM_MIB * 256


class Scribbler:
    """The guest's console: it fills memory, writes at a steady rate, and tells how long it could not."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._said = b""

    async def ask(self, command: str) -> list[str]:
        await self._stream.send_all(command.encode() + b"\n")
        with trio.fail_after(WAIT_S):
            while b"\n" not in self._said:
                part = await self._stream.receive_some()
                assert part, "the console ended"
                self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode().split()

    async def wrote(self) -> int:
        return int((await self.ask("?"))[1])

    async def goes_on(self) -> None:
        """Until it has written more."""
        with trio.fail_after(WAIT_S):
            await self.wrote()
            while not await self.wrote():
                pass


@asynccontextmanager
async def scribbling(folder: Path) -> AsyncIterator[tuple[Stage, Scribbler]]:
    """alpha alone, with an edge: most of its memory is noise, and more is written all the time."""
    async with closing(make(folder, "scribble", sessions="plain")) as stage:
        stage.start_node("alpha", "primary")
        stage.start("edge", "edge", str(stage.toml))
        await stage.wait_live("alpha")
        await stage.wait_status("edge", lambda status: status["generation"] > 0, "a live machine")
        async with await trio.open_tcp_stream(LOOPBACK, stage.port) as stream:
            guest = Scribbler(stream)
            assert await guest.ask(f"f {FILL_MIB}") == ["filled"]
            await guest.ask(f"w {RATE_MB_S}\n?")
            await guest.goes_on()
            yield stage, guest


async def protected(stage: Stage) -> dict[str, Any]:
    """What the primary tells of the join, once there is a shadow."""
    await core_state(stage, "beta", "IN_SYNC")
    status = await core_state(stage, "alpha", "PROTECTED")
    told: dict[str, Any] = status["reprotection"]
    assert told["sent"]
    return told


async def same_digest(stage: Stage) -> None:
    """Both stand at the same digest: the primary's is made now, the shadow compares it with its own."""
    before = (await stage.status("beta"))["log"]["digests"]
    digest = await stage.ask("alpha", "digest")
    seen = await stage.wait_status(
        "beta", lambda status: status["log"]["last_digest_tick"] >= digest["tick"], "the digest", WAIT_S
    )
    assert seen["log"]["digests"] > before
    assert seen["core"]["state"] == "IN_SYNC"


def test_a_guest_that_writes_all_the_time_gets_a_shadow_and_one_that_returns_costs_less(tmp_path: Path) -> None:
    run(_fresh_and_returning, tmp_path)


async def _fresh_and_returning(folder: Path) -> None:
    async with scribbling(folder) as (stage, guest):
        stage.start_node("beta", "shadow")
        fresh = await protected(stage)
        assert fresh["pages"] >= FILL_MIB * 256
        received = (await stage.status("beta"))["reprotection"]
        assert not received["sent"]
        assert (received["bytes"], received["rounds"]) == (fresh["bytes"], fresh["rounds"])
        await guest.goes_on()
        await same_digest(stage)

        stage.signal("beta", signal.SIGSTOP)
        await core_state(stage, "alpha", "SOLO", generation=2)
        await guest.ask("w 0\n?")
        stage.signal("beta", signal.SIGCONT)
        await stage.wait_status("alpha", lambda status: status["reprotection"] != fresh, "another join", WAIT_S)
        returning = await protected(stage)
        assert returning["bytes"] < fresh["bytes"]
        assert returning["pages_kept"] > fresh["pages_kept"]
        assert returning["pages_kept"] + returning["pages"] >= PAGES
        await same_digest(stage)


def test_a_joiner_killed_in_mid_copy_costs_nothing_and_the_next_one_is_admitted(tmp_path: Path) -> None:
    run(_joiner_killed, tmp_path)


async def _joining(stage: Stage) -> None:
    """beta has joined and is stopped before it can be in sync: whatever is sent to it, it takes none of it."""
    stage.start_node("beta", "shadow")
    with trio.fail_after(WAIT_S):
        while not (await stage.status("alpha"))["core"]["joiners"]:
            pass
    stage.signal("beta", signal.SIGSTOP)
    assert (await stage.status("alpha"))["core"]["state"] == "SOLO"


async def _joiner_killed(folder: Path) -> None:
    async with scribbling(folder) as (stage, guest):
        await _joining(stage)
        await guest.goes_on()
        kill(stage, "beta")
        alone = await stage.wait_status("alpha", lambda status: not status["core"]["joiners"], "no joiner", WAIT_S)
        assert (alone["core"]["state"], alone["core"]["generation"]) == ("SOLO", 1), "its loss needs no claim"
        await guest.goes_on()
        stage.start_node("beta", "shadow")
        await protected(stage)
        await stage.wait_status("beta", lambda status: status["log"]["bytes"] > 0, "a log of its own", WAIT_S)
        await same_digest(stage)
        await stage.status("beta")  # what is logged is written when somebody looks
        shutil.copy(folder / "beta.ftlog", folder / "copy.ftlog")
    replayed = replay_log(folder / "copy.ftlog")
    assert replayed.digests_compared > 0, "the new shadow's log needs nothing but itself"


def test_a_primary_killed_in_mid_copy_is_not_succeeded_by_the_joiner(tmp_path: Path) -> None:
    run(_primary_killed, tmp_path)


async def _primary_killed(folder: Path) -> None:
    async with scribbling(folder) as (stage, _):
        await _joining(stage)
        kill(stage, "alpha")
        await ended(stage, "alpha")
        stage.signal("beta", signal.SIGCONT)
        # Only the edge's is left. It may have been stopped before it knew that it had been taken: then it lost none.
        lost = await stage.wait_status("beta", lambda status: status["wire"]["sessions"] <= 1, "the loss", WAIT_S)
        assert lost["core"]["state"] in ("JOINING", "OVER")

        # What the joiner had was no machine: it comes back from where it was, and the joiner begins anew.
        stage.start_node("alpha", "primary")
        await core_state(stage, "alpha", "SOLO", "PROTECTED", generation=2)
        await protected(stage)
        await same_digest(stage)
