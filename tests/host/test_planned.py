"""`ftvm promote` and `ftvm migrate` on real processes under load: nothing lost, nothing doubled, and hardly a gap."""

import json
import sys
from pathlib import Path
from typing import Any

import trio

from ftvm.demo.resp import open_resp
from ftvm.demo.stage import Stage
from ftvm.errors import ExitCode
from ftvm.log.resume import inspect
from tests.host.pair import LOOPBACK, WAIT_S, core_state, ended, kill, loaded, more, open_alone, open_pair, run

LOAD = 150


async def command(stage: Stage, *words: str) -> tuple[int, str, str]:
    done = await trio.run_process(
        [sys.executable, "-m", "ftvm", words[0], str(stage.toml), *words[1:]],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def told(out: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_promote_changes_roles_under_load_and_back(tmp_path: Path) -> None:
    run(_promote, tmp_path)


async def _promote(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, LOAD)
        code, out, said = await command(stage, "promote", "--json")
        assert code == ExitCode.OK, said
        answer = told(out)
        assert (answer["from"], answer["to"], answer["generation"]) == ("alpha", "beta", 2)
        assert answer["gap_ms"] > 0
        assert not answer["gap_is_upper_bound"]
        await more(loader, LOAD)
        await core_state(stage, "beta", "PROTECTED", generation=2)
        await core_state(stage, "alpha", "IN_SYNC", generation=2)

        code, out, said = await command(stage, "promote", "--node", "beta")
        assert (code, out) == (ExitCode.OK, "beta is live already\n"), said
        code, out, said = await command(stage, "promote", "--node", "alpha")
        assert code == ExitCode.OK, said
        assert out.startswith("beta handed over to alpha: generation 2 -> 3, live after ")
        await more(loader, LOAD)

        # Where only the shadow can be asked, it claims at once; its primary is fenced, and joins it.
        await core_state(stage, "beta", "IN_SYNC", generation=3)
        assert (await stage.ask("beta", "promote"))["generation"] == 4
        await more(loader, LOAD)
        await core_state(stage, "beta", "PROTECTED", generation=4)


def test_migrate_moves_the_machine_and_ends_the_old_node(tmp_path: Path) -> None:
    run(_migrate, tmp_path)


async def _migrate(folder: Path) -> None:
    async with open_alone(folder) as stage, loaded(stage) as loader:
        async with trio.open_nursery() as nursery:
            results: list[tuple[int, str, str]] = []

            async def move() -> None:
                results.append(await command(stage, "migrate", "--to", "beta", "--json"))

            nursery.start_soon(move)  # before there is anybody to move to: it waits, and says so
            await more(loader, LOAD)
            stage.start_node("beta", "shadow")
        code, out, said = results[0]
        assert code == ExitCode.OK, said
        answer = told(out)
        assert (answer["from"], answer["to"], answer["left"]) == ("alpha", "beta", True)
        assert answer["gap_ms"] > 0
        assert await ended(stage, "alpha") == 0
        assert f"the machine runs on beta in generation {answer['generation']}" in stage.said("alpha")
        await core_state(stage, "beta", "SOLO", generation=answer["generation"])
        await more(loader, LOAD)
        # Its log says that it has left: nobody will go on from it.
        held = inspect(folder / "alpha.ftlog", "demo", lambda _log: "")
        assert held is not None
        assert held.stamp is not None
        assert (held.stamp.gen, held.stamp.members) == (answer["generation"], ())
        # Serviced, and back.
        stage.start_node("alpha", "primary")
        await core_state(stage, "beta", "PROTECTED")
        await more(loader, LOAD)


def test_what_cannot_be_done_is_one_line_and_exit_4(tmp_path: Path) -> None:
    run(_obstacles, tmp_path)


async def _obstacles(folder: Path) -> None:
    async with open_alone(folder) as stage:
        for words, line in (
            (("promote",), "alpha: no shadow is in sync: start one with `ftvm shadow`"),
            (("promote", "--node", "beta"), "alpha: no shadow is in sync"),
            (("migrate", "--to", "beta", "--timeout", "0.5"), "beta was not in sync within 0.5 s"),
        ):
            code, out, said = await command(stage, *words)
            assert (code, out) == (ExitCode.NOT_PROTECTED, ""), said
            assert line in said.splitlines()[-1]
        code, out, _ = await command(stage, "migrate", "--to", "alpha")
        assert (code, out) == (ExitCode.OK, "alpha is live already\n")
        await stage.ask("alpha", "power-off")
        await ended(stage, "alpha")
        code, out, said = await command(stage, "promote")
        assert (code, out) == (ExitCode.NOT_PROTECTED, "")
        assert "alpha is absent, beta is absent" in said
        code, _, said = await command(stage, "migrate", "--to", "gamma")
        assert code == ExitCode.USAGE
        assert "no node 'gamma'" in said


def test_a_reset_of_the_guest_is_no_failure(tmp_path: Path) -> None:
    run(_reset, tmp_path)


async def _reset(folder: Path) -> None:
    async with open_pair(folder) as stage:
        async with open_resp(LOOPBACK, stage.port) as client:
            assert await client.call("SET", "a", "1") == "OK"
        await stage.ask("alpha", "reset")
        await stage.ask("alpha", "digest")  # what was logged before this is done: the reset, for one
        async with open_resp(LOOPBACK, stage.port) as client:
            with trio.fail_after(WAIT_S):
                assert await client.call("DBSIZE") == 0
        status = await core_state(stage, "alpha", "PROTECTED", generation=1)
        assert status["core"]["generation"] == 1, "nobody took it for a death"
        await core_state(stage, "beta", "IN_SYNC", generation=1)
        async with loaded(stage) as loader:
            await more(loader, LOAD)
            kill(stage, "alpha")
            await more(loader, LOAD)
