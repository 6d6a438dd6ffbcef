"""How long is the service away when its leader is lost, and what is lost with it? Ours beside Redis Sentinel and etcd.

`python -m bench.failover --kills 50 --json out.json`: one closed-loop client (see `bench.faults`, the same for every
system) writes 64-byte tokens. In mid-load the leader is killed (sigkill), stopped and woken later (sigstop), asked to
hand over (hand-over), cut off from everybody (partition) or from its peers only, while clients still reach it
(isolation). The load goes on, the lost member is brought back, and every token is read back. The next fault hits the
system that has been through all those before. One round of everything takes some two minutes.

    results.systems      by system: versions, timeouts, what its answers promise
    results.faults       one object a fault: the fields of `bench.faults.Fault`
    results.summary      by system and kind: `count`; distributions of `gap_ms`, `pause_ms`, `healed_ms`,
                         `heal_pause_ms`, and (ours) of the parts of a gap, see `bench.protected_pair.STEPS`; sums of
                         `acknowledged`, `unknown`, `lost`, `doubled`
    results.left_out     by system (or kind): why it was not measured

The exit code is 1 unless all faults were survived and nothing of ours was lost or doubled; the losses of others are
figures. A peer that is not installed is said and left out. Partitions and isolations need root, iproute2, iptables.
Ours is measured at the defaults of machine.toml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import trio

from bench.common import Report, parser, print_table, tell
from bench.etcd_cluster import Etcd
from bench.faults import CUTS, KINDS, Fault, System, measure
from bench.figures import distribution
from bench.hosts import Loopback, obstacle, open_network
from bench.protected_pair import STEPS, ProtectedPair
from bench.redis_sentinel import RedisSentinel
from ftvm.errors import FtvmError

OURS = ProtectedPair.name
SYSTEMS: tuple[System, ...] = (ProtectedPair(), RedisSentinel(), Etcd(), Etcd(10, 100))
TIMES = ("gap_ms", "pause_ms", "healed_ms", "heal_pause_ms")
SUMS = ("acknowledged", "unknown", "lost", "doubled")


async def run_system(system: System, kinds: Sequence[str], kills: int, operations: int, faults: list[Fault]) -> None:
    """Fills `faults`, so that those before a failure are not lost. The cuts get a cluster on hosts of its own."""
    groups = ([kind for kind in kinds if kind not in CUTS], [kind for kind in kinds if kind in CUTS])
    for group in filter(None, groups):
        is_cut = group[0] in CUTS
        with open_network(system.hosts) if is_cut else nullcontext(Loopback()) as where:
            async with system.open(where) as cluster:
                for kind in group:
                    for number in range(kills):
                        fault = await measure(system.name, cluster, kind, f"{kind}{number}", operations)
                        faults.append(fault)
                        tell(
                            f"{system.name}: {kind} {number + 1}, gap {fault.gap_ms:.1f} ms, "
                            f"acknowledged {fault.acknowledged}, lost {fault.lost}"
                        )


def summarise(faults: Sequence[Fault]) -> dict[str, dict[str, dict[str, Any]]]:
    """{system: {kind: {figure: distribution or sum}}}; a step that never happened is None."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for system, kind in dict.fromkeys((fault.system, fault.kind) for fault in faults):
        some = [fault for fault in faults if (fault.system, fault.kind) == (system, kind)]
        row: dict[str, Any] = {"count": len(some)}
        row |= {name: distribution([getattr(fault, name) for fault in some]) for name in TIMES}
        for step in some[0].details:
            values = [value for fault in some if (value := fault.details[step]) is not None]
            row[step] = distribution(values) if values else None
        row |= {name: sum(getattr(fault, name) for fault in some) for name in SUMS}
        summary.setdefault(system, {})[kind] = row
    return summary


def _options(words: list[str] | None) -> argparse.Namespace:
    made = parser("failover", __doc__)
    made.add_argument("--kills", type=int, default=10, help="of each kind (default: 10)")
    made.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS), help="how the leader is lost")
    names = [system.name for system in SYSTEMS]
    made.add_argument("--system", nargs="+", choices=names, default=names, help="what is measured (default: all)")
    made.add_argument("--operations", type=int, default=300, help="acknowledged on each side of a fault (default: 300)")
    return made.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    report = Report("failover", options)
    faults: list[Fault] = []
    failures: list[str] = []
    left_out: dict[str, str] = {}
    kinds = list(options.kind)
    if (why := obstacle()) and set(kinds) & set(CUTS):
        left_out |= dict.fromkeys(CUTS, why)
        kinds = [kind for kind in kinds if kind not in CUTS]
    for system in SYSTEMS:
        if system.name not in options.system:
            continue
        if why := system.obstacle():
            left_out[system.name] = why
            continue
        report.add("systems", {**report.results.get("systems", {}), system.name: system.settings()})
        suited = [kind for kind in kinds if kind in system.kinds]
        done = len(faults)
        try:
            trio.run(run_system, system, suited, options.kills, options.operations, faults)
        except* FtvmError as errors:
            failures += [f"{system.name}, after {len(faults) - done} faults: {error}" for error in errors.exceptions]
        report.add("faults", [asdict(fault) for fault in faults])
        report.add("summary", summarise(faults))
    report.add("left_out", left_out)
    if faults:
        _show(report.results)
        report.finish(_draw)
    for line in [f"{name} was left out: {why}" for name, why in left_out.items()]:
        tell(line)
    for line in failures:
        print(f"bench.failover: {line}", file=sys.stderr)
    return int(bool(failures) or not faults or any(fault.lost or fault.doubled for fault in faults if _is_ours(fault)))


def _is_ours(fault: Fault) -> bool:
    return fault.system == OURS


def _show(results: dict[str, Any]) -> None:
    rows = []
    for system, kinds in results["summary"].items():
        for kind, row in kinds.items():
            gaps = [row["gap_ms"][key] for key in ("p50", "p99", "max")]
            rows.append([system, kind, row["count"], *gaps, row["healed_ms"]["p50"], *(row[name] for name in SUMS)])
    headings = ("system", "leader lost by", "times", "gap p50", "p99", "max", "healed p50", *SUMS)
    print_table("client-visible gap, and redundant again after, ms; operations", headings, rows)
    ours = results["summary"].get(OURS, {})
    parts = [[kind, *(row[step] and row[step]["p50"] for step in STEPS)] for kind, row in ours.items()]
    if parts:
        headings = ("leader lost by", *(step.removesuffix("_ms").replace("_", " ") for step in STEPS))
        print_table("what our gap is made of, p50, ms", headings, parts)


def _draw(figure: Any, results: dict[str, Any]) -> None:
    """Left: the gaps of each system by kind, p50 and p99. Right: what of the acknowledged was lost, per million."""
    gaps, losses = figure.subplots(1, 2)
    kinds = [kind for kind in KINDS if any(kind in rows for rows in results["summary"].values())]
    width = 0.8 / len(results["summary"])
    for number, (system, rows) in enumerate(results["summary"].items()):
        at = [kinds.index(kind) + number * width for kind in rows]
        middle = [row["gap_ms"]["p50"] for row in rows.values()]
        beyond = [max(0.0, row["gap_ms"]["p99"] - row["gap_ms"]["p50"]) for row in rows.values()]
        gaps.bar(at, middle, width, yerr=([0.0] * len(at), beyond), label=system)
        lost = [1e6 * row["lost"] / max(1, row["acknowledged"]) for row in rows.values()]
        losses.bar(at, lost, width, label=system)
    for axes in (gaps, losses):
        axes.set_xticks([place + 0.4 for place in range(len(kinds))], kinds)
    gaps.set(title="client-visible gap, p50 (line: p99)", ylabel="ms", yscale="log")
    losses.set(title="acknowledged operations lost", ylabel="per million")
    losses.set_yscale("symlog")
    gaps.legend()


if __name__ == "__main__":
    sys.exit(main())
