"""How long is the service away when its host dies? `python -m bench.failover --kills 50 --json out.json`

One client keeps a connection to `kv` through the edge and appends unique tokens. The primary is killed in mid-load,
the survivor takes over, and a new shadow joins it: so each kill hits a pair that has been through all those before.
After each kill every token is read back. With sigstop the primary is only stopped: silent, not dead. After the
takeover it is woken (SIGCONT) and given time to leave its old life, under load: a byte of it that reached the client
would be an answer that the client does not expect. Then it is killed.

    results.kills        one object a kill: kind, and in ms (null: that step did not happen)
        gap_ms           from the kill to the client's first answer from the survivor
        detection_ms     from the kill to the survivor's claim
        claim_ms         from there until the arbiter has granted and activated the generation
        catch_up_ms      from there until the log is executed and the machine is live
        first_output_ms  from there to the client's answer
        pause_ms         from the client's last answer before to its first answer after
        lost_session_ms  from the kill to the end of the session, which is a hint, not a proof
        acknowledged, lost, duplicated, surprises: the audit of the client's tokens
        generation, survivor
    results.summary      by kind: the distribution of each of these times
    results.detector_timeout_ms
    results.lost, results.duplicated, results.surprises: sums

The exit code is 1 unless all kills were survived and nothing was lost or doubled.
All at the defaults of machine.toml.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from typing import Any

import trio

from bench.common import Report, parser, print_table, tell
from bench.figures import distribution
from bench.stages import open_pair
from ftvm.cli.progress import prepared_kernel
from ftvm.demo.load import Loader
from ftvm.demo.resp import RespClient, open_resp
from ftvm.demo.stage import NODES, Stage
from ftvm.errors import FtvmError, NotProtected
from ftvm.guests import path as guest_path

KINDS = {"sigkill": signal.SIGKILL, "sigstop": signal.SIGSTOP}
NS_PER_MS = 1_000_000
SURVIVAL_TIMEOUT_S = 30.0
ZOMBIE_TIMEOUT_S = 20.0
POLL_S = 0.01
STEPS = ("gap_ms", "detection_ms", "claim_ms", "catch_up_ms", "first_output_ms", "pause_ms", "lost_session_ms")


@dataclass(frozen=True, slots=True)
class Kill:
    """What one kill did; see the module's docstring."""

    kind: str
    survivor: str
    generation: int
    gap_ms: float
    pause_ms: float
    detection_ms: float | None
    claim_ms: float | None
    catch_up_ms: float | None
    first_output_ms: float
    lost_session_ms: float | None
    acknowledged: int
    lost: int
    duplicated: int
    surprises: tuple[str, ...]


async def measure(stage: Stage, kinds: Sequence[str], operations: int) -> AsyncGenerator[Kill, None]:
    """One kill for each of `kinds`, on the pair of the stage; which node is live alternates."""
    victim, survivor = NODES
    async with open_resp("127.0.0.1", stage.port) as client:
        for number, kind in enumerate(kinds):
            if number:
                await _join_anew(stage, survivor, victim)
            yield await _kill(stage, client, number, kind, (victim, survivor), operations)
            victim, survivor = survivor, victim


async def _join_anew(stage: Stage, name: str, live: str) -> None:
    """Start the killed node as a new shadow, and wait until both sides say that it counts."""
    stage.start_node(name, "shadow")
    await stage.wait_status(name, lambda status: status["core"]["state"] == "IN_SYNC", "following in lockstep")
    await stage.wait_status(live, lambda status: status["core"]["state"] == "PROTECTED", "a new shadow")


async def _kill(
    stage: Stage, client: RespClient, number: int, kind: str, roles: tuple[str, str], operations: int
) -> Kill:
    """Load, kill, load on, audit."""
    victim, survivor = roles
    await client.call("FLUSHALL")
    old_life = (await stage.status(victim))["core"]["life"]
    loader = Loader(client, f"kill{number}")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loader.run, stop)
        await loader.acknowledged(operations)
        killed_ns = time.monotonic_ns()
        stage.signal(victim, KINDS[kind])
        with trio.move_on_after(SURVIVAL_TIMEOUT_S) as scope:
            await loader.acknowledged(loader.ledger.acknowledged + operations)
        if scope.cancelled_caught:
            raise FtvmError(f"no answers within {SURVIVAL_TIMEOUT_S:g} s of the kill: {stage.said(survivor)[-400:]}")
        status = await stage.status(survivor)
        if kind == "sigstop":
            await _wake(stage, victim, old_life)
            await loader.acknowledged(loader.ledger.acknowledged + operations)
            stage.signal(victim, signal.SIGKILL)
        await stage.wait_exit(victim)
        stop.set()
    audit = await loader.audit()
    times = times_of(status["failover_ns"], loader.ledger.answered_ns, killed_ns)
    return Kill(
        kind=kind,
        survivor=survivor,
        generation=status["core"]["generation"],
        acknowledged=audit.acknowledged,
        lost=audit.lost,
        duplicated=audit.duplicated,
        surprises=audit.surprises,
        **times,
    )


async def _wake(stage: Stage, zombie: str, old_life: str) -> None:
    """Let the stopped primary go on in its old life, until it has given that up: it ended, or has a new one."""
    stage.signal(zombie, signal.SIGCONT)
    with trio.move_on_after(ZOMBIE_TIMEOUT_S):
        while stage.exit_code(zombie) is None:
            with suppress(NotProtected):
                if (await stage.status(zombie))["core"]["life"] != old_life:
                    return
            await trio.sleep(POLL_S)
        return
    raise FtvmError(f"{zombie} keeps its old life after SIGCONT: {stage.said(zombie)[-400:]}")


def times_of(steps: dict[str, int], answered_ns: list[int], killed_ns: int) -> dict[str, Any]:
    """The steps of one failover in ms, from the survivor's own times and the client's."""
    live_ns = steps["live_ns"]
    if live_ns <= killed_ns:
        raise FtvmError(f"the survivor does not say when it went live: {steps}")
    after = next(number for number, answer_ns in enumerate(answered_ns) if answer_ns >= live_ns)
    answer_ns = answered_ns[after]

    def between(start_ns: int, end_ns: int) -> float | None:
        return round((end_ns - start_ns) / NS_PER_MS, 3) if start_ns and end_ns else None

    return {
        "gap_ms": between(killed_ns, answer_ns),
        "pause_ms": between(answered_ns[after - 1], answer_ns),
        "detection_ms": between(killed_ns, steps["claimed_ns"]),
        "claim_ms": between(steps["claimed_ns"], steps["activated_ns"]),
        "catch_up_ms": between(steps["activated_ns"], live_ns),
        "first_output_ms": between(live_ns, answer_ns),
        "lost_session_ms": between(killed_ns, steps["session_lost_ns"]),
    }


def summarise(kills: Sequence[Kill]) -> dict[str, dict[str, Any]]:
    """{kind: {step: distribution}}; a step that never happened is None."""
    summary: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(kill.kind for kill in kills):
        steps = summary[kind] = {}
        for step in STEPS:
            values = [value for kill in kills if kill.kind == kind and (value := getattr(kill, step)) is not None]
            steps[step] = distribution(values) if values else None
    return summary


def _options(words: list[str] | None) -> argparse.Namespace:
    made = parser("failover", __doc__)
    made.add_argument("--kills", type=int, default=50, help="of each kind (default: 50)")
    made.add_argument("--kind", choices=(*KINDS, "both"), default="both", help="how the primary is lost")
    made.add_argument("--operations", type=int, default=300, help="acknowledged on each side of a kill (default: 300)")
    return made.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    kinds = tuple(KINDS) if options.kind == "both" else (options.kind,)
    report = Report("failover", options)
    prepared_kernel()
    kills: list[Kill] = []
    failure = ""
    try:
        trio.run(_run, [kind for kind in kinds for _ in range(options.kills)], options.operations, report, kills)
    except FtvmError as error:
        failure = f"after {len(kills)} kills: {error}"
    if kills:
        report.add("summary", summarise(kills))
        report.add("lost", sum(kill.lost for kill in kills))
        report.add("duplicated", sum(kill.duplicated for kill in kills))
        report.add("surprises", sum(len(kill.surprises) for kill in kills))
        _show(report.results)
        report.finish(_draw)
    if failure:
        print(f"bench.failover: {failure}", file=sys.stderr)
    return int(bool(failure) or any(report.results[key] for key in ("lost", "duplicated", "surprises")))


async def _run(kinds: list[str], operations: int, report: Report, kills: list[Kill]) -> None:
    """Fills `kills`, so that those before a failure are not lost."""
    async with open_pair(guest_path("kv").read_bytes()) as stage:
        report.add("detector_timeout_ms", stage.config.replication.detector_timeout_ms)
        async with aclosing(measure(stage, kinds, operations)) as measured:
            async for kill in measured:
                kills.append(kill)
                report.add("kills", [asdict(one) for one in kills])
                tell(f"{len(kills):3}: {kill.kind}, gap {kill.gap_ms:.1f} ms, generation {kill.generation}")


def _show(results: dict[str, Any]) -> None:
    keys = ("p50", "p90", "p99", "max")
    for kind, steps in results["summary"].items():
        rows = [
            [step.removesuffix("_ms").replace("_", " "), *(figures and figures[key] for key in keys)]
            for step, figures in steps.items()
        ]
        count = steps["gap_ms"]["count"]
        print_table(f"{count} x {kind}, ms (detector timeout {results['detector_timeout_ms']} ms)", ("", *keys), rows)
    acknowledged = sum(kill["acknowledged"] for kill in results["kills"])
    tell(f"acknowledged {acknowledged}, lost {results['lost']}, doubled {results['duplicated']}")
    for kill in results["kills"]:
        for surprise in kill["surprises"]:
            print(f"surprise after {kill['kind']} (generation {kill['generation']}): {surprise}", file=sys.stderr)


def _draw(figure: Any, results: dict[str, Any]) -> None:
    """Left: share of the kills with a gap up to so long. Right: what the median gap is made of."""
    share, parts = figure.subplots(1, 2)
    for kind, steps in results["summary"].items():
        gaps = sorted(kill["gap_ms"] for kill in results["kills"] if kill["kind"] == kind)
        share.step(gaps, [(number + 1) / len(gaps) for number in range(len(gaps))], where="post", label=kind)
        left = 0.0
        for step, colour in zip(STEPS[1:5], ("C0", "C1", "C2", "C3"), strict=True):
            width = steps[step]["p50"] if steps[step] else 0.0
            parts.barh(kind, width, left=left, color=colour, label=step.removesuffix("_ms").replace("_", " "))
            left += width
    share.set(title="client-visible gap", xlabel="ms", ylabel="share of the kills", ylim=(0, 1.02))
    share.legend()
    parts.set(title="medians of its parts", xlabel="ms")
    handles, labels = parts.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    parts.legend(unique.values(), unique.keys())


if __name__ == "__main__":
    sys.exit(main())
