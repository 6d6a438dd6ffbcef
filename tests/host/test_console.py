"""`ftvm console` on a terminal: keys, size, failover, a new edge, and a terminal that is as it was in the end."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import trio

from ftvm.demo.stage import Stage
from tests.cli.terminals import OnTerminal, on_terminal
from tests.host.disks import device_stage
from tests.host.pair import WAIT_S, closing, core_state, ended, kill, run

DEVICES = 'console = "virtio"\nentropy = true\n'


async def protected(stage: Stage) -> None:
    stage.start_node("alpha", "primary")
    stage.start_node("beta", "shadow")
    stage.start("edge", "edge", str(stage.toml))
    await stage.wait_protected()


def asks_until(terminal: OnTerminal, question: str, answer: bytes) -> None:
    """What is told over another way may come after the question."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        terminal.type(question)
        if terminal.until(b"\n").strip() == answer:
            return
    raise AssertionError((question, answer))


def converse(stage: Stage, terminal: OnTerminal) -> None:
    terminal.until(b"Ctrl-] leaves\r\r\n")
    assert not terminal.is_as_before()
    asks_until(terminal, "z\r", b"132 43")
    terminal.resize(100, 30)
    asks_until(terminal, "z\r", b"100 30")
    kill(stage, "alpha")
    terminal.type("z\r")
    assert terminal.until(b"\n").strip() == b"100 30"


def test_a_terminal_goes_on_through_a_failover_and_a_new_edge_and_is_restored(tmp_path: Path) -> None:
    async def main() -> None:
        async with closing(device_stage(tmp_path, DEVICES)) as stage:
            await protected(stage)
            with on_terminal("console", str(stage.toml), columns=132, rows=43) as terminal:
                await trio.to_thread.run_sync(converse, stage, terminal)
                await core_state(stage, "beta", "SOLO")
                kill(stage, "edge")
                await ended(stage, "edge")
                await trio.to_thread.run_sync(terminal.until, b"connecting again")
                stage.start("edge", "edge", str(stage.toml))
                await trio.to_thread.run_sync(terminal.until, b"connected again\r\r\n")
                terminal.resize(90, 20)
                await trio.to_thread.run_sync(asks_until, terminal, "z\r", b"90 20")
                terminal.type("\x1d")
                assert await trio.to_thread.run_sync(terminal.process.wait, WAIT_S) == 0
                assert terminal.is_as_before()

    run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_and_restores_the_terminal(tmp_path: Path, number: signal.Signals) -> None:
    async def main() -> None:
        async with closing(device_stage(tmp_path, DEVICES)) as stage:
            await protected(stage)
            with on_terminal("console", str(stage.toml), "--escape", "^A") as terminal:
                await trio.to_thread.run_sync(terminal.until, b"Ctrl-A leaves\r\r\n")
                terminal.process.send_signal(number)
                await trio.to_thread.run_sync(terminal.process.wait, WAIT_S)
                assert terminal.is_as_before()

    run(main)


def test_a_console_leaves_when_the_machine_is_powered_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with closing(device_stage(tmp_path, DEVICES)) as stage:
            await protected(stage)
            with on_terminal("console", str(stage.toml)) as terminal:
                await trio.to_thread.run_sync(terminal.until, b"Ctrl-] leaves\r\r\n")
                terminal.type("x\r")
                drawn = await trio.to_thread.run_sync(terminal.until, b"\n")
                assert len(drawn.strip()) == 16
                terminal.type("o\r")
                await trio.to_thread.run_sync(terminal.until, b"the machine was powered off")
                assert await trio.to_thread.run_sync(terminal.process.wait, WAIT_S) == 0
                assert terminal.is_as_before()

    run(main)


def test_without_an_edge_it_says_so(tmp_path: Path) -> None:
    stage = device_stage(tmp_path, DEVICES)
    with on_terminal("console", str(stage.toml)) as terminal:
        assert b"start it with `ftvm edge`" in terminal.until(b"`ftvm edge`")
        assert terminal.process.wait(WAIT_S) == 4
        assert terminal.is_as_before()
