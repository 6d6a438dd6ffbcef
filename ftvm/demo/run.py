"""The demonstration itself: load, kill, go on, audit, replay.

Everything it claims is checked from outside: by the client that has the acknowledgements, and by a replay of the
survivor's log from its beginning on a third machine in this process.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from ftvm.demo.load import Audit, Ledger, Loader
from ftvm.demo.resp import open_resp
from ftvm.demo.stage import Stage, find_tool
from ftvm.errors import DivergenceError, FtvmError
from ftvm.host.replay import replay_log
from ftvm.log.entry import Digest
from ftvm.log.file import LogReader

NS_PER_MS = 1_000_000
REAL_CLIENT_REQUESTS = 1000
REAL_CLIENT_TIMEOUT_S = 120.0
SURVIVAL_TIMEOUT_S = 30.0
WATCH_S = 0.1

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration saw. Times in ms, sizes in bytes."""

    acknowledged: int
    lost: int
    duplicated: int
    gap_ms: float
    generation: int
    digest_match: bool
    digests_compared: int
    log_bytes: int
    ticks: int
    rate_per_s: float
    latency_p50_ms: float
    detection_ms: float
    noticed_ms: float
    """Part of `detection_ms`: until the survivor saw the connection end."""
    claim_ms: float
    catch_up_ms: float
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


async def run_demo(stage: Stage, *, operations: int, tell: Tell, show: Callable[[Moment], None]) -> DemoResult:
    """Load the machine on `stage`, kill its primary by SIGKILL in mid-load, and account for everything."""
    real = [await _benchmark(stage, tell)]
    async with open_resp("127.0.0.1", stage.port) as client:
        loader = Loader(client, "demo")
        killed_ns = await _load_and_kill(stage, loader, operations, tell, show)
        tell("auditing: every token is read back over the same connection")
        audit = await loader.audit()
    real.append(await _cross_check(stage, loader.ledger, tell))
    real.append(await _benchmark(stage, tell))
    return await _account(stage, loader.ledger, audit, killed_ns, next((line for line in real if line), ""), tell)


async def _load_and_kill(
    stage: Stage, loader: Loader, operations: int, tell: Tell, show: Callable[[Moment], None]
) -> int:
    """Returns when the primary was killed (monotonic ns)."""
    stop = trio.Event()
    killed_ns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loader.run, stop)
        nursery.start_soon(_watch, stage, loader, show)
        await loader.acknowledged(operations)
        tell(f"{loader.ledger.acknowledged} operations acknowledged; SIGKILL to the primary, pid {stage.pid('alpha')}")
        killed_ns = time.monotonic_ns()
        stage.signal("alpha", signal.SIGKILL)
        with trio.move_on_after(SURVIVAL_TIMEOUT_S) as scope:
            await loader.acknowledged(loader.ledger.acknowledged + 1)
            gap_ms = loader.ledger.longest_gap()[0] / NS_PER_MS
            tell(f"the next answer came after {gap_ms:.1f} ms, on the same connection")
            await loader.acknowledged(loader.ledger.acknowledged + operations)
        if scope.cancelled_caught:
            raise FtvmError(f"no answers within {SURVIVAL_TIMEOUT_S:g} s of the kill: {stage.said('beta')[-400:]}")
        stop.set()
        await trio.sleep(WATCH_S)
        nursery.cancel_scope.cancel()
    return killed_ns


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


async def _benchmark(stage: Stage, tell: Tell) -> str:
    """Unmodified `redis-benchmark` on the machine as it stands; its words, or "" where it is not installed."""
    tool = find_tool("redis-benchmark")
    if tool is None:
        tell("redis-benchmark is not installed (Debian: redis-tools): only our own client loads the machine")
        return ""
    words = [tool, "-p", str(stage.port), "-c", "1", "-n", str(REAL_CLIENT_REQUESTS), "-t", "set,get,incr", "-q"]
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


async def _account(stage: Stage, ledger: Ledger, audit: Audit, killed_ns: int, real: str, tell: Tell) -> DemoResult:
    status = await stage.status("beta")
    final = await stage.ask("beta", "digest")
    tell(f"replaying the survivor's log from the start to tick {final['tick']}")
    own, dead = stage.folder / "beta.ftlog", stage.folder / "alpha.ftlog"
    matches, compared = await trio.to_thread.run_sync(verify_replay, own, dead, final["tick"], final["digest"])
    steps = status["failover_ns"]
    times = ledger.answered_ns
    return DemoResult(
        acknowledged=audit.acknowledged,
        lost=audit.lost,
        duplicated=audit.duplicated,
        gap_ms=round(ledger.longest_gap()[0] / NS_PER_MS, 3),
        generation=status["core"]["generation"],
        digest_match=matches,
        digests_compared=compared,
        log_bytes=status["log"]["bytes"],
        ticks=final["tick"],
        rate_per_s=round((len(times) - 1) * 1e9 / (times[-1] - times[0]), 1),
        latency_p50_ms=round(statistics.median(ledger.latencies_ns) / NS_PER_MS, 3),
        noticed_ms=round((steps["session_lost_ns"] - killed_ns) / NS_PER_MS, 3),
        detection_ms=round((steps["claimed_ns"] - killed_ns) / NS_PER_MS, 3),
        claim_ms=round((steps["activated_ns"] - steps["claimed_ns"]) / NS_PER_MS, 3),
        catch_up_ms=round((steps["live_ns"] - steps["activated_ns"]) / NS_PER_MS, 3),
        surprises=audit.surprises,
        real_client=real,
    )


def verify_replay(own: Path, dead: Path, tick: int, digest: str) -> tuple[bool, int]:
    """Replay the survivor's log to `tick`: (all digests match, how many were compared).

    Compared are every Digest in the log itself, every Digest that the dead primary had on its disk, and `digest`, the
    live machine's. What the dead primary logged before the survivor joined it is compared by a replay of its own log.
    """
    try:
        before = replay_log(dead)
        with LogReader(dead) as reader:
            theirs = {entry.tick: entry.digest for entry in reader.entries() if isinstance(entry, Digest)}
        result = replay_log(own, until=tick, expect={**theirs, tick: bytes.fromhex(digest)})
    except DivergenceError:
        return False, 0
    return result.tick == tick, before.digests_compared + result.digests_compared
