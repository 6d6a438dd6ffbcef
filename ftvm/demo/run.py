"""The demonstration itself: load, kill, heal, again, and then the audit.

Everything it claims is checked from outside: by the client that has the acknowledgements, and by a replay of every
life's log on a third machine in this process.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import trio

from ftvm.demo.load import Audit, Ledger, Loader
from ftvm.demo.resp import open_resp
from ftvm.demo.stage import NODES, Stage
from ftvm.demo.system import find_tool
from ftvm.demo.verify import logs_of, verify_replays
from ftvm.errors import DivergenceError, FtvmError

NS_PER_MS = 1_000_000
REAL_CLIENT_REQUESTS_MAX = 1000
REAL_CLIENT_TIMEOUT_S = 120.0
SURVIVAL_TIMEOUT_S = 30.0
SERVICE_TIMEOUT_S = 120.0
PING_TIMEOUT_S = 2.0
WATCH_S = 0.1

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL of the live node. Times in ms; the first four make up the gap, but for the answer's own way."""

    victim: str
    gap_ms: float
    """The longest time between two answers around the kill, as the client saw it."""
    noticed_ms: float
    """Part of `detection_ms`: until the survivor saw the connection end."""
    detection_ms: float
    claim_ms: float
    catch_up_ms: float
    generation: int
    reprotection_ms: float
    """From the start of the new shadow's process until the machine was protected again."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration saw. Times in ms, sizes in bytes."""

    kills: tuple[Kill, ...]
    acknowledged: int
    lost: int
    duplicated: int
    gap_ms: float
    """The longest between any two answers, kills and re-protections included."""
    generation: int
    false_failovers: int
    """Generations that no kill explains: the host was starved so long that a living peer was taken for dead."""
    digest_match: bool
    digests_compared: int
    divergence: str
    """What differs, where `digest_match` is false."""
    log_bytes: int
    ticks: int
    rate_per_s: float
    latency_p50_ms: float
    surprises: tuple[str, ...]
    real_client: str

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.surprises) and self.digest_match


@dataclass(frozen=True, slots=True)
class Moment:
    """What the live view shows."""

    acknowledged: int
    rate_per_s: float
    gap_ms: float
    nodes: dict[str, dict[str, Any] | None]


async def run_demo(
    stage: Stage, *, operations: int, kills: int, tell: Tell, show: Callable[[Moment], None]
) -> DemoResult:
    """Load the machine on `stage`, kill whichever node is live, `kills` times, and account for everything."""
    await _wait_service(stage, tell)
    requests = min(operations, REAL_CLIENT_REQUESTS_MAX)
    real = [await _benchmark(stage, requests, tell)]
    done: list[Kill] = []
    async with open_resp("127.0.0.1", stage.port) as client:
        loader = Loader(client, "demo")
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, stage, loader, show)
            async with trio.open_nursery() as loading:
                loading.start_soon(loader.run, stop)
                for _ in range(kills):
                    done.append(await _kill(stage, loader, operations, tell))
                stop.set()
            nursery.cancel_scope.cancel()
        tell("auditing: every token is read back over the same connection")
        audit = await loader.audit()
    await _cross_check(stage, loader.ledger, tell)
    real.append(await _benchmark(stage, requests, tell))
    words = next((line for line in real if line), "")
    return await _account(stage, loader.ledger, audit, done, words, tell)


async def _wait_service(stage: Stage, tell: Tell) -> None:
    """Until the guest has booted and its service answers."""
    started = trio.current_time()
    with trio.move_on_after(SERVICE_TIMEOUT_S):
        while True:
            with trio.move_on_after(PING_TIMEOUT_S), suppress(OSError, trio.BrokenResourceError, FtvmError):
                async with open_resp("127.0.0.1", stage.port) as client:
                    if await client.call("PING") == "PONG":
                        tell(f"the guest's service answers after {trio.current_time() - started:.1f} s")
                        return
            await trio.sleep(WATCH_S)
    raise FtvmError(f"no service answers on port {stage.port} within {SERVICE_TIMEOUT_S:g} s")


async def _kill(stage: Stage, loader: Loader, operations: int, tell: Tell) -> Kill:
    """Half of the operations, SIGKILL, the other half while the killed node comes back as a shadow."""
    ledger = loader.ledger
    await _answers(stage, loader, operations)
    victim, survivor = await _roles(stage)
    tell(f"{ledger.acknowledged} operations acknowledged; SIGKILL to the primary {victim}, pid {stage.pid(victim)}")
    killed_ns = time.monotonic_ns()
    stage.signal(victim, signal.SIGKILL)
    await _answers(stage, loader, 2)  # the first may have been on its way
    gap_ms = _gap_around(ledger, killed_ns)
    tell(f"the next answer came after {gap_ms:.1f} ms, on the same connection")
    status = await stage.wait_live(survivor)
    await stage.wait_exit(victim)
    started_ns = time.monotonic_ns()
    stage.start_node(victim, "shadow")
    await _answers(stage, loader, operations)
    await stage.wait_status(survivor, lambda now: now["core"]["state"] == "PROTECTED", "a new shadow")
    reprotection_ms = (time.monotonic_ns() - started_ns) / NS_PER_MS
    tell(f"protected again: {survivor} is live, {victim} (pid {stage.pid(victim)}) follows in lockstep")
    steps = status["failover_ns"]
    return Kill(
        victim=victim,
        gap_ms=round(gap_ms, 3),
        noticed_ms=round((steps["session_lost_ns"] - killed_ns) / NS_PER_MS, 3),
        detection_ms=round((steps["claimed_ns"] - killed_ns) / NS_PER_MS, 3),
        claim_ms=round((steps["activated_ns"] - steps["claimed_ns"]) / NS_PER_MS, 3),
        catch_up_ms=round((steps["live_ns"] - steps["activated_ns"]) / NS_PER_MS, 3),
        generation=status["core"]["generation"],
        reprotection_ms=round(reprotection_ms, 1),
    )


async def _roles(stage: Stage) -> tuple[str, str]:
    """Who is live, and who follows it. A host that is starved may have changed that without us."""
    with trio.fail_after(SURVIVAL_TIMEOUT_S):
        while True:
            for live, other in (NODES, NODES[::-1]):
                if (await stage.status(live))["core"]["state"] == "PROTECTED":
                    return live, other
            await trio.sleep(WATCH_S)


async def _answers(stage: Stage, loader: Loader, count: int) -> None:
    with trio.move_on_after(SURVIVAL_TIMEOUT_S + count / 10) as scope:
        await loader.acknowledged(loader.ledger.acknowledged + count)
    if scope.cancelled_caught:
        raise FtvmError(f"no answers for {SURVIVAL_TIMEOUT_S:g} s: {stage.said(NODES[1])[-400:]}")


def _gap_around(ledger: Ledger, killed_ns: int) -> float:
    """In ms: the longest time between two answers of which the second came after the kill."""
    return max((later - earlier) / NS_PER_MS for earlier, later in pairwise(ledger.answered_ns) if later > killed_ns)


async def _watch(stage: Stage, loader: Loader, show: Callable[[Moment], None]) -> None:
    before, before_ns = 0, time.monotonic_ns()
    while True:
        nodes: dict[str, dict[str, Any] | None] = {}
        for name in ("alpha", "beta"):
            try:
                nodes[name] = await stage.status(name)
            except FtvmError:
                nodes[name] = None
        count, now_ns = loader.ledger.acknowledged, time.monotonic_ns()
        rate = (count - before) * 1e9 / max(1, now_ns - before_ns)
        show(Moment(count, rate, loader.ledger.longest_gap()[0] / NS_PER_MS, nodes))
        before, before_ns = count, now_ns
        await trio.sleep(WATCH_S)


async def _benchmark(stage: Stage, requests: int, tell: Tell) -> str:
    """Unmodified `redis-benchmark` on the machine as it stands; its words, or "" where it is not installed."""
    tool = find_tool("redis-benchmark")
    if tool is None:
        tell("redis-benchmark is not installed (Debian: redis-tools): only our own client loads the machine")
        return ""
    words = [tool, "-p", str(stage.port), "-c", "1", "-n", str(requests), "-t", "set,get,incr", "-q"]
    said = await _run_tool(words)
    rates = [line.split("\r")[-1].strip() for line in said.splitlines() if "requests per second" in line]
    if not rates:
        raise FtvmError(f"redis-benchmark measured nothing: {said[-200:]!r}")
    for line in rates:
        tell(f"redis-benchmark {line}")
    return "; ".join(rates)


async def _cross_check(stage: Stage, ledger: Ledger, tell: Tell) -> str:
    """Unmodified `redis-cli` reads one counter back."""
    tool = find_tool("redis-cli")
    if tool is None:
        return ""
    key, expected = next(iter(ledger.counters.items()))
    said = (await _run_tool([tool, "-p", str(stage.port), "GET", key])).strip().strip('"')
    tell(f"redis-cli GET {key} says {said}, acknowledged were {expected}")
    if said != str(expected):
        ledger.surprises.append(f"redis-cli read {said!r} from {key}, expected {expected}")
    return ""


async def _run_tool(words: list[str]) -> str:
    with trio.move_on_after(REAL_CLIENT_TIMEOUT_S):
        done = await trio.run_process(words, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
        return done.stdout.decode(errors="replace")
    raise FtvmError(f"{words[0]} did not end within {REAL_CLIENT_TIMEOUT_S:g} s")


async def _account(
    stage: Stage, ledger: Ledger, audit: Audit, kills: list[Kill], real: str, tell: Tell
) -> DemoResult:
    live, shadow = await _roles(stage)
    final = await stage.ask(live, "digest")
    await stage.wait_status(shadow, lambda now: now["log"]["last_digest_tick"] >= final["tick"], "the newest digest")
    for node in (live, shadow):
        await stage.wait_status(node, lambda now: bool(now["log"]["has_file"]), "its log's file")
    status = await stage.status(live)
    logs = [log for name in NODES for log in logs_of(stage.folder / f"{name}.ftlog")]
    tell(f"replaying the logs of all {len(logs)} lives, those of the living to tick {final['tick']}")
    matches, compared, divergence = True, 0, ""
    try:
        disks = stage.config.machine.disks
        compared = await trio.to_thread.run_sync(verify_replays, logs, final["tick"], final["digest"], disks)
    except DivergenceError as error:
        matches, divergence = False, str(error)
    times = ledger.answered_ns
    return DemoResult(
        kills=tuple(kills),
        acknowledged=audit.acknowledged,
        lost=audit.lost,
        duplicated=audit.duplicated,
        gap_ms=round(ledger.longest_gap()[0] / NS_PER_MS, 3),
        generation=status["core"]["generation"],
        false_failovers=status["core"]["generation"] - 1 - len(kills),
        digest_match=matches,
        digests_compared=compared,
        divergence=divergence,
        log_bytes=status["log"]["bytes"],
        ticks=final["tick"],
        rate_per_s=round((len(times) - 1) * 1e9 / (times[-1] - times[0]), 1),
        latency_p50_ms=round(statistics.median(ledger.latencies_ns) / NS_PER_MS, 3),
        surprises=audit.surprises,
        real_client=real,
    )

