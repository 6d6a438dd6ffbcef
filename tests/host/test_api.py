"""The library: a whole protected machine in one program, and what its names promise."""

import ast
import os
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import trio

import ftvm
from ftvm.demo.stage import prepare
from tests.host.pair import RAM_MIB, SETTINGS, image, run
from tests.limits import WAIT_S
from transport.background import open_background


def configure(folder: Path, guest: str = "kv", **options: object) -> ftvm.Config:
    return prepare(folder, image(guest), ram_mib=RAM_MIB, **{"replication": SETTINGS, **options})  # type: ignore[arg-type]


def test_the_machine_survives_a_primary_that_is_left_and_one_that_hands_over(tmp_path: Path) -> None:
    run(_survives, tmp_path)


async def _survives(folder: Path) -> None:
    config = configure(folder)
    async with ftvm.open_edge(config) as edge, open_background() as nursery:
        await edge.send(b"INCR n\r\n")  # before there is a machine
        async with ftvm.open_primary(config, node="alpha") as vm:
            beta: ftvm.Node = await nursery.start(ftvm.serve_shadow, config, "beta")
            await vm.wait_protected()
            assert await edge.receive() == b":1\r\n"
            statistics = vm.statistics()
            assert (statistics.node, statistics.state, statistics.generation) == ("alpha", "PROTECTED", 1)
            assert statistics.members == ("beta",)
            assert beta.statistics().live is False
            with pytest.raises(FrozenInstanceError):
                statistics.tick = 0  # type: ignore[misc]
        await edge.send(b"INCR n\r\n")
        assert await edge.receive() == b":2\r\n"
        await beta.wait_live()
        assert beta.statistics().generation == 2

        alpha: ftvm.Node = await nursery.start(ftvm.serve_shadow, config, "alpha")
        await beta.wait_protected()
        beta.hand_over()
        await alpha.wait_live()
        await edge.send(b"INCR n\r\n")
        assert await edge.receive() == b":3\r\n"
        assert alpha.statistics().generation == 3


def test_a_power_off_lets_the_block_go_on_and_ends_shadow_and_edge(tmp_path: Path) -> None:
    run(_power_off, tmp_path)


async def _power_off(folder: Path) -> None:
    config = configure(folder)
    ended: list[str] = []

    async def serve(name: str, task_status: trio.TaskStatus[ftvm.Node]) -> None:
        await ftvm.serve_shadow(config, name, task_status=task_status)
        ended.append(name)

    async with trio.open_nursery() as nursery, ftvm.open_edge(config) as edge, ftvm.open_primary(config, "alpha") as vm:
        await nursery.start(serve, "beta")
        await vm.wait_protected()
        vm.power_off()
        outcome = await vm.wait_ended()
        assert outcome.code is ftvm.ExitCode.OK
        assert await edge.receive() == b""
        with pytest.raises(ftvm.NotProtected):
            await vm.wait_protected()
    assert ended == ["beta"]

    async with ftvm.open_primary(config, "beta") as again:  # a machine that is off may be started anew
        assert again.statistics().generation > 1


def test_what_was_recorded_replays_to_every_digest(tmp_path: Path) -> None:
    run(_record, tmp_path)
    for name in ("alpha", "beta"):
        result = ftvm.replay_log(tmp_path / f"{name}.ftlog")
        assert result.digests_compared >= 1
        assert has_digest(tmp_path / f"{name}.ftlog")


async def _record(folder: Path) -> None:
    config = configure(folder)
    async with ftvm.open_edge(config) as edge, open_background() as nursery:
        async with ftvm.open_primary(config, "alpha") as vm:
            beta: ftvm.Node = await nursery.start(ftvm.serve_shadow, config, "beta")
            await vm.wait_protected()
            for number in range(1, 50):
                await edge.send(b"INCR n\r\n")
                assert await edge.receive() == b":%d\r\n" % number
            position = vm.statistics().log_position
        await beta.wait_live()
        await edge.send(b"INCR n\r\n")
        assert await edge.receive() == b":50\r\n"
        assert beta.statistics().log_position > position
        with trio.fail_after(WAIT_S):
            while True:
                if has_digest(folder / "beta.ftlog"):
                    break
                await trio.sleep(0.02)


def has_digest(path: Path) -> bool:
    with ftvm.LogReader(path) as log:
        return any(isinstance(entry, ftvm.Digest) for entry in log.entries())


def test_a_second_machine_is_refused_before_the_block(tmp_path: Path) -> None:
    async def main() -> None:
        config = configure(tmp_path)
        async with ftvm.open_primary(config, "alpha"):
            with pytest.raises(ftvm.ClaimLost, match="generation 1"):
                async with ftvm.open_primary(config, "beta"):
                    pytest.fail("two machines")
        async with ftvm.open_primary(config, "beta", force=True) as vm:
            assert vm.statistics().generation == 2

    run(main)


def test_an_error_of_the_block_comes_out_as_it_is_and_nothing_stays_behind(tmp_path: Path) -> None:
    async def main() -> None:
        config = configure(tmp_path)
        async with ftvm.open_edge(config), ftvm.open_primary(config, "alpha"):
            raise LookupError("of the block")

    run(_warm_up, tmp_path / "warm")
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(LookupError, match="of the block"):
        run(main)
    assert not [thread for thread in threading.enumerate() if thread.name == "ftvm-engine"]
    assert threading.active_count() <= threads + 1
    assert len(os.listdir("/proc/self/fd")) <= files


async def _warm_up(folder: Path) -> None:
    """What is opened once in a process, and stays open."""
    await trio.to_thread.run_sync(folder.mkdir)
    async with ftvm.open_primary(configure(folder), "alpha"):
        pass


def test_the_cancelled_block_ends_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        config = configure(tmp_path, "sieve")
        with trio.move_on_after(0.2) as scope:
            async with ftvm.open_edge(config), ftvm.open_primary(config, "alpha"):
                await trio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


# Names


def test_every_exported_name_is_there_and_type_checkers_see_the_same_ones() -> None:
    tree = ast.parse(Path(ftvm.__file__).read_text())
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen - {"Any", "TYPE_CHECKING"} == set(ftvm.__all__) == set(ftvm._WHERE)
    for name in ftvm.__all__:
        assert getattr(ftvm, name) is not None
    assert set(ftvm.__all__) <= set(dir(ftvm))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ftvm.nonsense  # noqa: B018


def test_importing_ftvm_imports_nothing_that_takes_long() -> None:
    script = (
        "import sys, ftvm; print(*sorted({'numba', 'numpy', 'trio', 'llvmlite', 'cryptography'} & set(sys.modules)))"
    )
    assert output_of(script) == ""
    script = "import sys, ftvm; [getattr(ftvm, name) for name in ftvm.__all__]; print('numba' in sys.modules)"
    assert output_of(script) == "False"


def output_of(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=True)
    return done.stdout.strip()
