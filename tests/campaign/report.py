"""What a campaign showed: counted, and its gaps beside their bounds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.common import facts
from bench.figures import distribution
from tests.campaign.faults import by_name
from tests.campaign.scene import Outcome

KILL_MS, SILENCE_SLACK_MS, HAND_OVER_MS = 100.0, 50.0, 20.0


def bound_ms(gap: str, timeout_ms: int) -> float:
    return {"kill": KILL_MS, "silence": timeout_ms + SILENCE_SLACK_MS, "hand-over": HAND_OVER_MS}[gap]


def summarise(outcomes: Sequence[Outcome], timeout_ms: int, seconds: float) -> dict[str, Any]:
    """Everything countable. `bounds`: for each kind of gap its bound and its distribution, ms."""
    kinds = Counter(outcome.fault for outcome in outcomes)
    gaps = {kind: [one.gap_ms for one in outcomes if one.fault == kind and one.gap_ms] for kind in kinds}
    bounds: dict[str, Any] = {}
    for outcome in outcomes:
        gap = by_name(outcome.fault).gap
        if gap and outcome.gap_ms:
            bounds.setdefault(gap, {"bound_ms": bound_ms(gap, timeout_ms), "gaps": []})["gaps"].append(outcome.gap_ms)
    for one in bounds.values():
        one.update(distribution(one.pop("gaps")))
    rejoins = [one.rejoin_gap_ms for one in outcomes if one.rejoin_gap_ms]
    return {
        "rounds": len(outcomes),
        "seconds": round(seconds, 1),
        "kinds": dict(sorted(kinds.items())),
        "operations": sum(one.operations for one in outcomes),
        "maybe": sum(one.maybe for one in outcomes),
        "lost": sum(one.lost for one in outcomes),
        "doubled": sum(one.doubled for one in outcomes),
        "admitted_lost_with_both_nodes": sum(one.admitted for one in outcomes),
        "surplus_generations": sum(one.surplus for one in outcomes),
        "zombie_bytes_at_the_edge": sum(one.zombie_bytes for one in outcomes),
        "violations": sum(len(one.violations) for one in outcomes),
        "gaps_ms": {kind: distribution(values) for kind, values in sorted(gaps.items()) if values},
        "rejoin_gap_ms": distribution(rejoins) if rejoins else None,
        "bounds": bounds,
    }


def write(path: Path, options: dict[str, Any], outcomes: Sequence[Outcome], summary: dict[str, Any]) -> None:
    document = {"options": options, "facts": facts(), "summary": summary, "rounds": [asdict(one) for one in outcomes]}
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)


def line(outcome: Outcome, total: int) -> str:
    surplus = f", {outcome.surplus} changes of generation too many" if outcome.surplus else ""
    admitted = f", {outcome.admitted} lost with both nodes, and said" if outcome.admitted else ""
    said = "".join(f"\n     ! {violation}" for violation in outcome.violations)
    return (
        f"{outcome.number:4}/{total} {outcome.fault:26} {outcome.operations:5} operations"
        f" ({outcome.maybe} maybe), gap {outcome.gap_ms:7.1f} ms, rejoin {outcome.rejoin_gap_ms:6.1f} ms,"
        f" generation {outcome.generation}, {outcome.seconds:.1f} s{surplus}{admitted}{said}"
    )


def table(summary: dict[str, Any]) -> str:
    rows = [f"{'fault':26} {'rounds':>6} {'p50':>8} {'p99':>8} {'max':>8}   client gap, ms"]
    for kind, gaps in summary["gaps_ms"].items():
        rows.append(
            f"{kind:26} {summary['kinds'][kind]:6} {gaps['p50']:8.1f} {gaps['p99']:8.1f} {gaps['max']:8.1f}"
        )
    for gap, one in summary["bounds"].items():
        verdict = "within" if one["p99"] <= one["bound_ms"] else "OVER"
        said = f"{verdict} the bound of {one['bound_ms']:g} ms"
        rows.append(f"{gap}: {one['count']} gaps, p99 {one['p99']:.1f} ms, {said}")
    rows.append(
        f"{summary['rounds']} rounds in {summary['seconds']} s: {summary['operations']} operations acknowledged,"
        f" {summary['maybe']} maybe, {summary['lost']} lost, {summary['doubled']} doubled,"
        f" {summary['surplus_generations']} changes of generation too many, {summary['violations']} violations"
    )
    return "\n".join(rows)
