"""A pair among strangers, with nasty guests, without its arbiter, and with a replica that differs."""

import os
import socket
import sys
import time
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import ftvm
from ftvm.demo.guests import BareGuest
from ftvm.demo.stage import Stage, open_stage
from ftvm.errors import ExitCode
from ftvm.host import machine_room as room_module
from ftvm.host.engine import Engine
from ftvm.host.guest import open_guest
from ftvm.machine.hart.control import DIRTY_ALL
from ftvm.machine.machine import Machine
from tests.cli.terminals import on_terminal
from tests.host.network.test_slirp import needs_library
from tests.host.pair import (
    LOOPBACK,
    RAM_MIB,
    SETTINGS,
    WAIT_S,
    core_state,
    image,
    kill,
    loaded,
    more,
    open_alone,
    open_pair,
    run,
    stays_responsive,
    the_one_line,
)
from transport.background import open_background
from transport.certificates import client_context, create_authority, issue
from transport.channel import Channel, open_channel
from transport.errors import PeerRefused, TransportError
from transport.identity import Expectation

ROOT = Path(__file__).resolve().parents[2]


# ---- strangers


def test_strangers_on_a_nodes_port_are_turned_away_and_the_pair_goes_on(tmp_path: Path) -> None:
    run(_strangers, tmp_path)


async def _strangers(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        machine = stage.config.machine.name
        create_authority(folder / "foreign", machine)
        issue(folder / "foreign", folder / "x" / "foreign", "node", "beta")
        create_authority(folder / "other", "other")
        issue(folder / "other", folder / "x" / "other", "node", "beta")
        for name in ("alpha", "beta"):
            port = stage.config.node(name).listen.port
            await _junk(port)
            for who in ("foreign", "other"):
                with pytest.raises(TransportError):
                    await _greet(folder / "x" / who, port, {"purpose": b"peer"}, machine)
            certificates = folder / "certs"
            for who, hello in (
                ("edge", {"purpose": b"peer"}),
                ("edge", {"purpose": b"probe"}),
                ("beta", {"purpose": b"edge"}),
                ("beta", {"purpose": b"dance"}),
                ("beta", {}),
                ("beta", {"purpose": b"peer", "name": b"beta"}),
                ("beta", {"purpose": b"peer", "name": b"x" * 9999, "life": bytes(16)}),
            ):
                with pytest.raises(PeerRefused):
                    await _greet(certificates / who, port, hello, machine)
            await more(loader, 50)
        status = (await stage.status("alpha"))["core"]
        assert (status["state"], status["generation"]) == ("PROTECTED", 1)
        assert "refused" in stage.said("alpha")
        assert "Traceback" not in stage.said("alpha") + stage.said("beta")


async def _junk(port: int) -> None:
    """Bytes that are no TLS, without end; and connections that say nothing."""
    silent = [await trio.open_tcp_stream(LOOPBACK, port) for _ in range(100)]
    for _ in range(3):
        stream = await trio.open_tcp_stream(LOOPBACK, port)
        async with stream:
            with pytest.raises(trio.BrokenResourceError):
                await _send_endlessly(stream)
    for stream in silent:
        await trio.aclose_forcefully(stream)


async def _send_endlessly(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(os.urandom(65536))


async def _greet(folder: Path, port: int, hello: dict[str, bytes], machine: str) -> None:
    expect = Expectation(machine, frozenset({"node"}))
    async with open_channel(LOOPBACK, port, client_context(folder), expect, hello):
        pass


def test_a_proven_peer_that_talks_junk_loses_its_session_and_nothing_else(tmp_path: Path) -> None:
    run(_proven_junk, tmp_path)


async def _proven_junk(folder: Path) -> None:
    async with open_alone(folder) as stage:
        machine = open_guest(stage.config.machine).power_on()
        hello = {
            "purpose": b"peer",
            "version": b"1",
            "config": machine.config_hash,
            "image": machine.image_hash,
            "name": b"beta",
            "life": os.urandom(16),
        }
        port = stage.config.node("alpha").listen.port
        for junk in (b"", b"\xc1", b"\x93\x01\x02\x03", os.urandom(5000), b"\xdd\xff\xff\xff\xff"):
            for purpose in ("beta", "edge"):
                parameters = hello if purpose == "beta" else {"purpose": b"edge"}
                context = client_context(folder / "certs" / purpose)
                expect = Expectation(stage.config.machine.name, frozenset({"node"}))
                with pytest.raises(TransportError):
                    await _say(open_channel(LOOPBACK, port, context, expect, parameters), junk)
        async with loaded(stage) as loader:
            await more(loader, 20)
            stage.start_node("beta", "shadow")
            await core_state(stage, "alpha", "PROTECTED")
            await more(loader, 20)
        assert "Traceback" not in stage.said("alpha")


async def _say(opening: AbstractAsyncContextManager[Channel], data: bytes) -> None:
    async with opening as channel:
        await channel.send(data)
        while True:
            await channel.receive()


# ---- guests


@pytest.mark.parametrize(
    ("guest", "keys"),
    [
        ("trapstorm", ""),
        ("wfi-off", ""),
        ("flood", ""),
        ("storm", ""),
        ("storm", "net = true\n"),
        ("storm", 'console = "virtio"\n'),
        ("storm", "entropy = true\n"),
        ("storm", '[[machine.disks]]\nimage = "disk.img"\n'),
    ],
    ids=["trapstorm", "wfi-off", "flood", "interrupts", "net0", "console0", "entropy", "disk"],
)
def test_a_nasty_guest_is_protected_like_any_other(
    tmp_path: Path, guest: str, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "net" in keys:
        needs_library()
        monkeypatch.setenv("FTVM_EDGE_NET", "user")
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    run(_nasty, tmp_path, BareGuest(image(guest), RAM_MIB, "plain", keys))


async def _nasty(folder: Path, guest: BareGuest) -> None:
    async with open_stage(folder, guest, replication=SETTINGS) as stage:
        await stays_responsive(stage, "alpha")
        await trio.to_thread.run_sync(_can_be_left, stage)
        deaf = socket.socket()
        with deaf:
            deaf.connect((LOOPBACK, stage.port))  # has the console, and never reads
            await stays_responsive(stage, "alpha")
            kill(stage, "alpha")
            await core_state(stage, "beta", "SOLO", generation=2)
            await stays_responsive(stage, "beta")


def _can_be_left(stage: Stage) -> None:
    """The user looks at the console, and gets away from it."""
    with on_terminal("console", str(stage.toml)) as terminal:
        terminal.until(b"Ctrl-] leaves")
        terminal.type("\x1d")
        deadline = time.monotonic() + WAIT_S
        while terminal.process.poll() is None and time.monotonic() < deadline:
            terminal.skim()
        assert terminal.process.returncode == 0


# ---- the arbiter


def test_without_the_arbiter_nothing_is_guessed_and_with_it_all_goes_on(tmp_path: Path) -> None:
    run(_arbiter_away, tmp_path)


async def _arbiter_away(folder: Path) -> None:
    async with open_pair(folder) as stage, loaded(stage) as loader:
        await more(loader, 50)
        (folder / "arbiter").rename(folder / "away")
        kill(stage, "beta")
        waiting = await core_state(stage, "alpha", "RECLAIMING")
        await stage.wait_status(
            "alpha", lambda status: any("arbiter cannot be asked" in note for note in status["notes"]), "the note"
        )
        before = loader.ledger.acknowledged
        for _ in range(20):
            waiting = await stage.status("alpha")
        assert loader.ledger.acknowledged <= before + 1
        assert waiting["core"]["state"] == "RECLAIMING"

        (folder / "away").rename(folder / "arbiter")
        await more(loader, 50)
        await core_state(stage, "alpha", "SOLO", generation=2)
        assert len([note for note in waiting["notes"] if "cannot be asked" in note]) == 1


# ---- divergence


class Different(Engine):
    """Of a replica with one flipped bit of RAM: what bad memory does after the copy was compared."""

    def __init__(self, machine: Machine, *arguments: Any) -> None:
        machine._memory.bytes[-100_000] ^= 1
        machine._memory.flags[:] |= DIRTY_ALL
        super().__init__(machine, *arguments)


def test_a_shadow_that_differs_says_so_and_never_goes_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "Engine", Different)
    run(_divergence, tmp_path)


async def _divergence(folder: Path) -> None:
    async with open_alone(folder) as stage, loaded(stage) as loader:
        with pytest.raises(ftvm.DivergenceError, match="tick"):
            await ftvm.serve_shadow(stage.config, "beta")
        await more(loader, 50)
        alone = await core_state(stage, "alpha", "SOLO")
        assert alone["core"]["members"] == []


def test_the_shadow_command_exits_with_3_when_it_differs(tmp_path: Path) -> None:
    run(_divergence_exit, tmp_path)


async def _divergence_exit(folder: Path) -> None:
    script = (
        "import sys, ftvm.host.machine_room as room\n"
        "from tests.host.test_adversity import Different\n"
        "room.Engine = Different\n"
        "sys.argv = ['ftvm', *sys.argv[1:]]\n"
        "from ftvm.cli.main import main; main()\n"
    )
    async with open_alone(folder) as stage, loaded(stage) as loader, open_background() as nursery:
        words = [sys.executable, "-c", script, "shadow", str(stage.toml), "--node", "beta"]
        ask = partial(trio.run_process, words, cwd=ROOT, capture_stderr=True, check=False)
        nursery.start_soon(more, loader, 10)
        with trio.fail_after(WAIT_S):
            done = await ask()
        assert done.returncode == ExitCode.DIVERGENCE, done.stderr.decode()
        assert "differ" in the_one_line(done.stderr.decode())
        await more(loader, 20)
