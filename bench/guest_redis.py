"""What does a Redis in a Linux guest give one client? Protected and not, and in QEMU.

The guest is the same everywhere, with disk, network card and entropy device; `redis-benchmark -c 1` runs outside. The
engines take turns, each started anew for each turn. `alone` is `ftvm run`; `one node` is a node without a shadow and
the edge, the same programs as `protected`, which differs from it by the shadow only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.common import ROOT, find_tool, tell
from bench.figures import Spread
from bench.linux_guest import ON_DISK, LinuxGuest, qemu_network
from bench.processes import GuestFailed
from bench.service import redis_benchmark
from bench.stages import Disturbed, cpu_s, open_lone, open_pair, sample
from ftvm.demo.guests import REDIS_PORT, DebianGuest
from ftvm.demo.resp import RespError, open_resp
from ftvm.demo.stage import NODES, Stage
from ftvm.demo.system import free_ports

ENGINES = ("alone", "one node", "protected", "qemu", "icount", "record")
WARM_UP_REQUESTS = 100
REDIS_TIMEOUT_S = 300.0
ASK_S = 5.0
POLL_S = 0.1
KINDS = ("SET", "GET")


@dataclass(frozen=True, slots=True)
class Running:
    """An engine whose guest boots or runs."""

    port: int
    """Where the guest's redis is reached."""
    pid: int
    """Of the process with the guest; for a pair the primary's."""
    log_bytes: Callable[[], Awaitable[int | None]]
    """How long the engine's log of events is by now; None: it keeps none."""


async def measure_redis(guest: LinuxGuest, *, requests: int, repeats: int, engines: Sequence[str]) -> dict[str, Any]:
    """{engine: {"SET", "GET": {"per_s", "p50_ms", "p99_ms"}, "log_bytes_per_request", "cpu_ms_per_request"} or None,
    "protected_share", "times_record"}: all spreads, but for the last two, which are ratios of the medians of SET/s."""
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for _ in range(repeats):
        for engine in engines:
            opened = _open(engine, guest)
            if opened is not None:
                async with opened as running:
                    runs[engine].append(await _load(running, requests))
                tell(f"redis, {engine}: {runs[engine][-1]['SET']['per_s']:.0f} SET/s")
    figures: dict[str, Any] = {engine: _figures(found) if found else None for engine, found in runs.items()}
    rate = {engine: found["SET"]["per_s"]["median"] for engine, found in figures.items() if found}
    for name, one, other in (("protected_share", "protected", "alone"), ("times_record", "protected", "record")):
        figures[name] = rate[one] / rate[other] if one in rate and other in rate else None
    return figures


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in KINDS:
        figures[kind] = {key: Spread.of(run[kind][key] for run in runs).fields() for key in runs[0][kind]}
    for key in ("log_bytes_per_request", "cpu_ms_per_request"):
        values = [run[key] for run in runs if run[key] is not None]
        figures[key] = Spread.of(values).fields() if values else None
    return figures


async def _load(running: Running, requests: int) -> dict[str, Any]:
    await _answering(running.port)
    await _benchmark(running.port, WARM_UP_REQUESTS)
    logged, used = await running.log_bytes(), cpu_s(running.pid)
    found = await _benchmark(running.port, requests)
    logged_after, used_after = await running.log_bytes(), cpu_s(running.pid)
    done = requests * len(KINDS)
    measured: dict[str, Any] = {
        kind: {"per_s": found[kind]["per_s"], "p50_ms": found[kind]["ms"]["p50"], "p99_ms": found[kind]["ms"]["p99"]}
        for kind in KINDS
    }
    measured["cpu_ms_per_request"] = (used_after - used) * 1000 / done
    measured["log_bytes_per_request"] = None
    if logged is not None and logged_after is not None:
        measured["log_bytes_per_request"] = (logged_after - logged) / done
    return measured


async def _benchmark(port: int, requests: int) -> dict[str, Any]:
    found = await redis_benchmark(port, requests)
    if found is None:
        raise GuestFailed("redis-benchmark is not installed (Debian: apt install redis-tools)")
    return found


async def _answering(port: int) -> None:
    """Until the guest has booted, and its redis answers."""
    with trio.move_on_after(REDIS_TIMEOUT_S):
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError, RespError), trio.fail_after(ASK_S):
                async with open_resp("127.0.0.1", port) as client:
                    if await client.call("PING") == "PONG":
                        return
            await trio.sleep(POLL_S)
    raise GuestFailed(f"the guest's redis did not answer within {REDIS_TIMEOUT_S:g} s")


def _open(engine: str, guest: LinuxGuest) -> AbstractAsyncContextManager[Running] | None:
    match engine:
        case "alone":
            return _alone(guest)
        case "one node":
            return _staged(open_lone, "SOLO", guest)
        case "protected":
            return _staged(open_pair, "PROTECTED", guest)
    qemu = find_tool("qemu-system-riscv64")
    return None if qemu is None else _qemu(qemu, engine, guest)


@asynccontextmanager
async def _alone(guest: LinuxGuest) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "ftvm", "run", *guest.ftvm_flags(ON_DISK)]
    async with _process([*words, "--net", "user", "--publish", f"127.0.0.1:{port}:{REDIS_PORT}"]) as pid:
        yield Running(port, pid, _no_log)


@asynccontextmanager
async def _staged(
    open_one: Callable[[DebianGuest], AbstractAsyncContextManager[Stage]], state: str, guest: LinuxGuest
) -> AsyncIterator[Running]:
    async with open_one(DebianGuest(guest.folder, append=ON_DISK)) as stage:

        async def log_bytes() -> int:
            found = (await stage.status(NODES[0]))["core"]["state"]
            if found != state:
                raise Disturbed(f"the machine is {found}, expected {state}")
            return (await sample(stage, NODES[0])).log_bytes

        yield Running(stage.port, stage.pid(NODES[0]), log_bytes)


@asynccontextmanager
async def _qemu(qemu: str, engine: str, guest: LinuxGuest) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        log = Path(folder, "record") if engine == "record" else None
        command = guest.qemu_command(qemu, ON_DISK, icount=engine == "icount", log=log)
        network = qemu_network(port, REDIS_PORT, recorded=log is not None)
        async with _process([*command, *network]) as pid:
            yield Running(port, pid, _no_log if log is None else partial(_size, log))


async def _no_log() -> int | None:
    return None


async def _size(log: Path) -> int | None:
    return (await trio.Path(log).stat()).st_size


@asynccontextmanager
async def _process(words: list[str]) -> AsyncIterator[int]:
    """A program with an open standard input that stays silent; ended when it is left."""
    pipe, silence = subprocess.PIPE, subprocess.DEVNULL
    process = await trio.to_thread.run_sync(
        partial(subprocess.Popen, words, stdin=pipe, stdout=silence, stderr=pipe, cwd=ROOT)
    )
    try:
        yield process.pid
        if process.poll() is not None:
            assert process.stderr is not None
            raise GuestFailed(f"{words[0]} ended with {process.returncode}: {process.stderr.read()[-300:]!r}")
    finally:
        process.kill()
        await trio.to_thread.run_sync(process.wait)
        for stream in (process.stdin, process.stderr):
            assert stream is not None
            stream.close()
