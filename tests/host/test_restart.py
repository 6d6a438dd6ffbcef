"""Both nodes are killed, and started again in any order: the machine goes on from the longest log, or says why not."""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ftvm.demo.load import Loader
from ftvm.demo.resp import open_resp
from ftvm.demo.stage import Stage
from ftvm.errors import ExitCode, NotProtected
from ftvm.log.entry import LOG_VERSION
from ftvm.log.file import LogReader
from tests.host.pair import (
    LOOPBACK,
    WAIT_S,
    core_state,
    ended,
    kill,
    loaded,
    more,
    open_alone,
    open_pair,
    run,
    run_command,
    the_one_line,
)
from tests.host.test_refusals import OTHER_VERSION

LOAD = 100
BOTH = ("alpha", "beta")


async def written(stage: Stage) -> None:
    """`kept` is in the machine, and in both logs, and so is the client's leave: nothing that follows a kill can take it
    away."""
    async with open_resp(LOOPBACK, stage.port) as client:
        assert await client.call("SET", "kept", "yes") == "OK"
    await stage.wait_status("edge", lambda status: status["clients"] == 0, "the end of its client", WAIT_S)
    for name in BOTH:
        await flushed(stage, name)


async def flushed(stage: Stage, name: str) -> None:
    """A status has the journal written up to what is committed, once its file is there."""
    before = (await stage.status("alpha" if name == "beta" else name))["core"]["pos"]

    def reached(status: dict[str, Any]) -> bool:
        return bool(status["core"]["pos"] >= before and status["log"]["has_file"])

    await stage.wait_status(name, reached, f"position {before}, and its log", WAIT_S)
    await stage.status(name)


async def kill_both(stage: Stage) -> None:
    """Not before each has a log: one that is killed while its file is being made has nothing to go on from."""
    for name in BOTH:
        await flushed(stage, name)
    for name in BOTH:
        kill(stage, name)
    for name in BOTH:
        await ended(stage, name)


async def kept(stage: Stage) -> None:
    async with open_resp(LOOPBACK, stage.port) as client:
        with trio.fail_after(WAIT_S):
            assert await client.call("GET", "kept") == b"yes"


async def either_live(stage: Stage, *states: str) -> tuple[str, dict[str, Any]]:
    """Which of the two gets there."""
    with trio.fail_after(WAIT_S):
        while True:
            for name in BOTH:
                if stage.exit_code(name) is None:
                    with suppress(NotProtected):
                        status = await stage.status(name)
                        if status["core"]["state"] in states:
                            return name, status
            await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("first", "roles"),
    [
        ("alpha", ("primary", "shadow")),
        ("beta", ("shadow", "primary")),
        ("", ("primary", "primary")),
        ("", ("shadow", "shadow")),
    ],
)
def test_both_are_killed_and_started_in_any_order_with_any_command(
    tmp_path: Path, first: str, roles: tuple[str, str]
) -> None:
    run(_any_order, tmp_path, first, dict(zip(BOTH, roles, strict=True)))


async def _any_order(folder: Path, first: str, roles: dict[str, str]) -> None:
    async with open_pair(folder) as stage:
        await written(stage)
        await kill_both(stage)
        if first:
            other = "beta" if first == "alpha" else "alpha"
            stage.start_node(first, roles[first])
            # It was not alone: the other's disk may hold more, so it waits, and says for whom.
            await core_state(stage, first, "WAITING")

            def says_so(status: dict[str, Any]) -> bool:
                return f"waits for {other}" in status["core"]["waits_for"]

            await stage.wait_status(first, says_so, f"waiting for {other}", WAIT_S)
            stage.start_node(other, roles[other])
        else:
            for name in BOTH:
                stage.start_node(name, roles[name])
        live, status = await either_live(stage, "PROTECTED")
        assert status["core"]["restart"]["base"] == 1
        assert status["core"]["boot"] == status["core"]["generation"] > 1
        await core_state(stage, "beta" if live == "alpha" else "alpha", "IN_SYNC")
        await kept(stage)
        told = (await stage.status(live))["core"]["restart"]
        assert told["lost_outputs"] == told["lost_inputs"] == 0, "it was idle, and its logs were written"
        async with loaded(stage) as loader:
            await more(loader, LOAD)
            kill(stage, live)
            await more(loader, LOAD)


def test_under_load_what_the_client_was_told_beyond_the_longest_log_is_counted_and_said(tmp_path: Path) -> None:
    run(_under_load, tmp_path)


async def _under_load(folder: Path) -> None:
    async with open_pair(folder) as stage:
        async with open_resp(LOOPBACK, stage.port) as client, trio.open_nursery() as nursery:
            loader = Loader(client, "t")

            async def load() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                    await loader.run(trio.Event())

            nursery.start_soon(load)
            await loader.acknowledged(LOAD)
            await kill_both(stage)
            nursery.cancel_scope.cancel()
        for name in BOTH:
            stage.start_node(name, "primary")
        live, _ = await either_live(stage, "PROTECTED")

        def told(status: dict[str, Any]) -> bool:
            return status["core"]["restart"]["lost_outputs"] is not None

        status = await stage.wait_status(live, told, "hearing from the edge", WAIT_S)
        restart = status["core"]["restart"]
        # The history is a prefix of what the client saw, exactly as much shorter as the node says: each answer to an
        # INCR or APPEND is a number, so what is there now must be one that was acknowledged, or the last that was not.
        async with open_resp(LOOPBACK, stage.port) as client:
            missing = 0
            for name, counted in loader.ledger.counters.items():
                value = int(await client.call("GET", name) or 0)
                assert value <= counted + 1
                missing += max(0, counted - value)
            for name, length in loader.ledger.lengths.items():
                held = await client.call("STRLEN", name)
                assert held <= length + 64
                missing += held < length
        if missing:
            assert restart["lost_inputs"] > 0, "a loss that nobody was told of"
        said = stage.said(live)
        assert ("LOST: the edge had" in said) == bool(restart["lost_outputs"] or restart["lost_inputs"]), said
        shown = await trio.run_process(
            [sys.executable, "-m", "ftvm", "status", str(stage.toml)],
            capture_stdout=True,
            env={**os.environ, "COLUMNS": "300"},
        )
        assert f"restarted from generation 1 at position {restart['pos']}" in shown.stdout.decode()
        # One log from the first start on, which replays through the restart.
        with LogReader(folder / f"{live}.ftlog") as reader:
            assert sum(1 for _ in reader.entries()) > 0
        code, replayed = run_command(folder, "replay", f"{live}.ftlog")
        assert code == ExitCode.OK, replayed


def test_a_node_that_was_alone_goes_on_at_once_and_an_older_log_is_refused_or_forced(tmp_path: Path) -> None:
    run(_older_log, tmp_path)


async def _older_log(folder: Path) -> None:
    async with open_pair(folder) as stage:
        await written(stage)
        kill(stage, "alpha")
        await core_state(stage, "beta", "SOLO", generation=2)
        async with open_resp(LOOPBACK, stage.port) as client:
            assert await client.call("SET", "kept", "newer") == "OK"
        await stage.status("beta")  # has its log written
        kill(stage, "beta")
        await ended(stage, "beta")

        # alpha has generation 1 only.
        code, said = await trio.to_thread.run_sync(
            run_command, folder, "primary", "machine.toml", "--node", "alpha"
        )
        assert code == ExitCode.CLAIM_LOST, said
        line = the_one_line(said)
        assert re.search(r"node alpha has generation 1 up to position \d+, tick \d+, written 20\d\d-", line), line
        assert "generation 2, held by beta" in line
        assert "--force-restart" in line

        # beta was alone: it asks nobody.
        stage.start_node("beta", "shadow")
        status = await core_state(stage, "beta", "SOLO", generation=3)
        assert status["core"]["restart"]["base"] == 2
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("GET", "kept") == b"newer"
        # alpha, started as it always was, finds it live and joins.
        stage.start_node("alpha", "primary")
        await core_state(stage, "alpha", "IN_SYNC", generation=3)
        assert "joins it as a shadow" in stage.said("alpha")
        await flushed(stage, "alpha")

        # With beta lost for good, after alpha left the pair once more: the operator gives its history up.
        kill(stage, "alpha")
        await core_state(stage, "beta", "SOLO", generation=4)
        kill(stage, "beta")
        await ended(stage, "beta")
        os.rename(folder / "beta.ftlog", folder / "beta.lost")
        stage.start("alpha", "primary", str(stage.toml), "--node", "alpha", "--force-restart")
        status = await core_state(stage, "alpha", "SOLO", generation=5)
        assert status["core"]["restart"]["base"] == 3
        assert "what came after this log is given up" in stage.said("alpha")
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("GET", "kept") == b"newer"


def test_a_node_without_a_log_cannot_go_on_and_says_so(tmp_path: Path) -> None:
    run(_no_log, tmp_path)


async def _no_log(folder: Path) -> None:
    async with open_alone(folder) as stage:
        kill(stage, "alpha")
        await ended(stage, "alpha")
        os.rename(folder / "alpha.ftlog", folder / "elsewhere")
        for flags in ((), ("--force-restart",)):
            words = ("primary", "machine.toml", "--node", "alpha", *flags)
            code, said = await trio.to_thread.run_sync(run_command, folder, *words)
            assert code == (ExitCode.USAGE if flags else ExitCode.CLAIM_LOST), said
            assert "has no log" in the_one_line(said)
        os.rename(folder / "elsewhere", folder / "alpha.ftlog")
        size = (folder / "alpha.ftlog").stat().st_size
        with (folder / "alpha.ftlog").open("ab") as file:
            file.write(b"torn")
        stage.start_node("alpha", "primary")
        await core_state(stage, "alpha", "SOLO", generation=2)
        assert (folder / "alpha.ftlog").stat().st_size > size


def test_after_a_clean_power_off_the_machine_starts_cold(tmp_path: Path) -> None:
    run(_power_off, tmp_path)


async def _power_off(folder: Path) -> None:
    async with open_pair(folder) as stage:
        await written(stage)
        await stage.ask("alpha", "power-off")
        for name in (*BOTH, "edge"):
            assert await ended(stage, name) == 0
        stage.start("edge", "edge", str(stage.toml))
        stage.start_node("beta", "shadow")
        await core_state(stage, "beta", "WAITING")
        stage.start_node("alpha", "primary")
        await core_state(stage, "alpha", "PROTECTED")
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("DBSIZE") == 0


def test_nodes_of_different_versions_do_not_go_on_beside_each_other_and_both_name_both(tmp_path: Path) -> None:
    run(_versions, tmp_path)


async def _versions(folder: Path) -> None:
    async with open_pair(folder) as stage:
        await kill_both(stage)
        stage.start_node("alpha", "shadow")
        newer = [sys.executable, "-c", OTHER_VERSION, "shadow", str(stage.toml), "--node", "beta"]
        stage.run("beta", newer)
        await core_state(stage, "beta", "WAITING")
        with trio.fail_after(WAIT_S):
            for name, here, there in (("alpha", LOG_VERSION + 1, LOG_VERSION), ("beta", LOG_VERSION, LOG_VERSION + 1)):
                await noted(stage, name, f"refuses us: log version {here} is spoken here and {there} there")
        log = f"a log of version {LOG_VERSION}, and this ftvm reads version {LOG_VERSION + 1}"
        await stage.wait_status("beta", lambda one: log in one["core"]["waits_for"], "its log's trouble", WAIT_S)
        assert (await stage.status("alpha"))["core"]["state"] == "WAITING"


async def noted(stage: Stage, name: str, words: str) -> None:
    def accept(status: dict[str, Any]) -> bool:
        return any(words in note for note in status["notes"])

    await stage.wait_status(name, accept, words, WAIT_S)
