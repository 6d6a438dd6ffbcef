"""A pair of real processes for tests: quick settings, and every wait with a deadline."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ftvm.demo.load import Loader
from ftvm.demo.resp import RespClient, open_resp
from ftvm.demo.stage import EDGE, Stage, open_stage, prepare
from ftvm.guests import path as guest_path
from tests.limits import TEST_S, TIMEOUT_MS, WAIT_S

SETTINGS = {"detector_timeout_ms": TIMEOUT_MS, "heartbeat_interval_ms": 25, "digest_interval_ms": 100}
RAM_MIB = 16
LOOPBACK = "127.0.0.1"
MEMORY_MAX_MIB = 300
"""Resident, of one node with a machine of 16 MiB, with queues that are full; 130 when nothing goes on."""
EDGE_MEMORY_MAX_MIB = 150
RETAINED_MAX = 8 << 20


def run(main: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(TEST_S):
            await main(*arguments)

    trio.run(bounded)


def image(name: str = "kv") -> bytes:
    return guest_path(name).read_bytes()


def make(folder: Path, guest: str = "kv", **options: Any) -> Stage:
    """A stage with nothing started yet."""
    settings = {"ram_mib": RAM_MIB, "replication": SETTINGS, **options}
    return Stage(folder, prepare(folder, image(guest), **settings))


@asynccontextmanager
async def open_pair(folder: Path, guest: str = "kv", **options: Any) -> AsyncIterator[Stage]:
    async with open_stage(folder, image(guest), **{"ram_mib": RAM_MIB, "replication": SETTINGS, **options}) as stage:
        yield stage


@asynccontextmanager
async def closing(stage: Stage) -> AsyncIterator[Stage]:
    """Ends its processes on leaving."""
    try:
        yield stage
    finally:
        await trio.to_thread.run_sync(stage.stop)


@asynccontextmanager
async def open_alone(folder: Path, guest: str = "kv", **options: Any) -> AsyncIterator[Stage]:
    """Only alpha and the edge: a live machine without a shadow."""
    async with closing(make(folder, guest, **options)) as stage:
        stage.start_node("alpha", "primary")
        stage.start("edge", "edge", str(stage.toml))
        await stage.wait_live("alpha")
        await stage.wait_status("edge", lambda status: status["generation"] > 0, "a live machine")
        yield stage


@asynccontextmanager
async def loaded(stage: Stage) -> AsyncIterator[Loader]:
    """A client under load for as long as the block lasts; afterwards its books are compared."""
    async with open_resp(LOOPBACK, stage.port) as client:
        loader, stop = Loader(client, "t"), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loader.run, stop)
            yield loader
            stop.set()
        audit = await loader.audit()
        assert audit.clean, audit


async def more(loader: Loader, count: int) -> None:
    """Until so many more operations are acknowledged."""
    with trio.fail_after(WAIT_S):
        await loader.acknowledged(loader.ledger.acknowledged + count)


async def core_state(stage: Stage, name: str, *states: str, generation: int = 0) -> dict[str, Any]:
    def accept(status: dict[str, Any]) -> bool:
        return status["core"]["state"] in states and status["core"]["generation"] >= generation

    return await stage.wait_status(name, accept, f"{' or '.join(states)} in generation {generation}", WAIT_S)


async def ended(stage: Stage, name: str) -> int:
    with trio.fail_after(WAIT_S):
        return await stage.wait_exit(name)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def stays_responsive(stage: Stage, name: str) -> None:
    """Ten looks at the live node and at the edge, each of them answered."""
    for _ in range(10):
        for who, memory_max_mib in ((name, MEMORY_MAX_MIB), (EDGE, EDGE_MEMORY_MAX_MIB)):
            await stage.status(who)
            assert resident_mib(stage.pid(who)) < memory_max_mib
    assert (await stage.status(name))["core"]["retained_bytes"] <= RETAINED_MAX


def kill(stage: Stage, name: str) -> None:
    stage.signal(name, signal.SIGKILL)


async def call_until(client: RespClient, *words: str) -> object:
    with trio.fail_after(WAIT_S):
        return await client.call(*words)


def run_command(folder: Path, *words: str) -> tuple[int, str]:
    """`ftvm WORDS...`: (exit code, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "ftvm", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    return done.returncode, done.stderr


def the_one_line(said: str) -> str:
    """What a command that failed tells its user: its last line, and never a traceback."""
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("ftvm: ")]
    assert len(lines) == 1, said
    assert lines[0] == said.splitlines()[-1], said
    return lines[0]
