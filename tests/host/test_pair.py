"""Real processes that are killed, stopped and resumed under load. The client keeps one connection and its books."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from ftvm.demo.resp import open_resp
from ftvm.demo.stage import Stage
from ftvm.errors import ExitCode
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
)

LOAD = 150
"""Operations acknowledged before and after each event."""


def test_either_side_may_be_killed_under_load_and_a_new_shadow_is_admitted(tmp_path: Path) -> None:
    run(_kill_either_side, tmp_path)


async def _kill_either_side(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, LOAD)
        kill(stage, "beta")
        await more(loader, LOAD)
        alone = await core_state(stage, "alpha", "SOLO", generation=2)
        assert alone["core"]["members"] == []

        stage.start_node("beta", "shadow")
        await core_state(stage, "alpha", "PROTECTED")
        assert (await stage.status("alpha"))["core"]["generation"] == 2
        await more(loader, LOAD)

        kill(stage, "alpha")
        await more(loader, LOAD)
        await core_state(stage, "beta", "SOLO", generation=3)

        stage.start_node("alpha", "shadow")
        await core_state(stage, "beta", "PROTECTED")
        kill(stage, "beta")
        await more(loader, LOAD)
        await core_state(stage, "alpha", "SOLO", generation=4)


def test_a_primary_that_is_stopped_and_resumed_is_fenced_and_joins_as_a_shadow(tmp_path: Path) -> None:
    run(_stop_and_resume, tmp_path)


async def _stop_and_resume(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, LOAD)
        stage.signal("alpha", signal.SIGSTOP)
        await more(loader, LOAD)
        zombie = (await stage.status("beta"))["core"]
        assert (zombie["state"], zombie["generation"]) == ("SOLO", 2)

        stage.signal("alpha", signal.SIGCONT)
        await core_state(stage, "beta", "PROTECTED")
        followed = await core_state(stage, "alpha", "IN_SYNC", generation=2)
        assert any("starts over" in note for note in followed["notes"])
        await more(loader, LOAD)

        # It serves again: what it became is a replica like any other.
        kill(stage, "beta")
        await more(loader, LOAD)
        await core_state(stage, "alpha", "SOLO", generation=3)


def test_a_stopped_shadow_is_dropped_and_comes_back(tmp_path: Path) -> None:
    run(_stop_shadow, tmp_path)


async def _stop_shadow(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, LOAD)
        stage.signal("beta", signal.SIGSTOP)
        await more(loader, LOAD)
        await core_state(stage, "alpha", "SOLO", generation=2)
        stage.signal("beta", signal.SIGCONT)
        await core_state(stage, "alpha", "PROTECTED", generation=2)
        await core_state(stage, "beta", "IN_SYNC", generation=2)
        await more(loader, LOAD)


def test_the_edge_may_be_restarted_and_clients_reconnect(tmp_path: Path) -> None:
    run(_restart_edge, tmp_path)


async def _restart_edge(folder: Path) -> None:
    async with open_pair(folder) as stage:
        async with open_resp(LOOPBACK, stage.port) as client:
            assert await client.call("SET", "kept", "yes") == "OK"
            await client.call("APPEND", "half", "x" * 10_000)
            kill(stage, "edge")
            await ended(stage, "edge")
        stage.start("edge", "edge", str(stage.toml))
        await stage.wait_status("edge", lambda status: status["generation"] > 0, "a live machine")
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("GET", "kept") == b"yes"
                assert await client.call("STRLEN", "half") == 10_000
        async with loaded(stage) as loader:
            await more(loader, LOAD)
            kill(stage, "alpha")
            await more(loader, LOAD)


def test_a_power_off_by_the_operator_ends_all_three_and_the_machine_may_be_started_again(tmp_path: Path) -> None:
    run(_power_off, tmp_path)


async def _power_off(folder: Path) -> None:
    async with open_pair(folder) as stage:
        async with loaded(stage) as loader:
            await more(loader, LOAD)
        await stage.ask("alpha", "power-off")
        await _all_end_well(stage)

        stage.start("edge", "edge", str(stage.toml))
        stage.start_node("alpha", "primary")
        assert (await stage.wait_live("alpha"))["core"]["generation"] > 1
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("DBSIZE") == 0


async def _all_end_well(stage: Stage) -> None:
    for name in ("alpha", "beta", "edge"):
        assert await ended(stage, name) == 0, f"{name}: {stage.said(name)}"


def test_a_guest_that_powers_itself_off_ends_all_three(tmp_path: Path) -> None:
    run(_guest_ends, tmp_path)


async def _guest_ends(folder: Path) -> None:
    async with open_pair(folder) as stage:
        stream = await trio.open_tcp_stream(LOOPBACK, stage.port)
        async with stream:
            await stream.send_all(b"SET a 1\r\nSHUTDOWN\r\n")
            assert [data async for data in stream] == [b"+OK\r\n"]
        await _all_end_well(stage)


def test_a_hand_over_changes_roles_and_status_tells_who_protects_whom(tmp_path: Path) -> None:
    run(_hand_over, tmp_path)


async def _hand_over(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, LOAD)
        code, told = await _status(stage)
        assert (code, told["protected"]) == (ExitCode.OK, True)
        assert told["processes"]["edge"]["generation"] == 1
        assert told["processes"]["beta"]["core"]["primary"] == "alpha"

        await stage.ask("alpha", "hand-over")
        await core_state(stage, "beta", "PROTECTED", generation=2)
        await core_state(stage, "alpha", "IN_SYNC", generation=2)
        await more(loader, LOAD)
        kill(stage, "alpha")
        await core_state(stage, "beta", "SOLO", generation=3)
        code, told = await _status(stage)
        assert (code, told["protected"]) == (ExitCode.NOT_PROTECTED, False)
        assert "no running process" in told["processes"]["alpha"]["error"]


async def _status(stage: Stage) -> tuple[int, dict[str, Any]]:
    words = [sys.executable, "-m", "ftvm", "status", str(stage.toml), "--json"]
    done = await trio.run_process(words, capture_stdout=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_forced_cold_start_disconnects_the_client_of_the_machine_that_is_lost(tmp_path: Path) -> None:
    run(_cold_start, tmp_path)


async def _cold_start(folder: Path) -> None:
    async with open_alone(folder) as stage:
        async with open_resp(LOOPBACK, stage.port) as client:
            assert await client.call("SET", "a", "1") == "OK"
            kill(stage, "alpha")
            await ended(stage, "alpha")
            stage.start("beta", "primary", str(stage.toml), "--node", "beta", "--force")
            await core_state(stage, "beta", "SOLO", generation=2)
            with trio.fail_after(WAIT_S), pytest.raises(trio.BrokenResourceError):
                await client.call("GET", "a")
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("GET", "a") is None
        # Who comes back from the lost machine finds another one, and follows that.
        stage.start_node("alpha", "shadow")
        await core_state(stage, "beta", "PROTECTED")
        async with loaded(stage) as loader:
            await more(loader, LOAD)
            kill(stage, "beta")
            await more(loader, LOAD)
