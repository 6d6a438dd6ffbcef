"""Do TCP connections into a Debian guest survive the death of its primary? `python -m bench.survival --kills 20`

redis-server runs in the guest; one closed-loop client (see `bench.faults`) has one connection into it, and never
connects anew. In mid-load the live node is killed, the load goes on, the node comes back as a shadow, every token is
read back over the same connection; then the other node is killed. Once for each way into the guest:

    publish    a port of the edge leads to the guest, through libslirp
    tap        each node has a TAP interface in a bridge of its own host, there is no edge; the hosts and the client's
               are network namespaces on one switch. Needs root.

    results.faults     by way: one object a kill, the fields of `bench.faults.Fault`; its `details` are the parts of the
                       gap, see `bench.protected_pair.STEPS`, and `retransmitted`: segments that the client repeated
    results.summary    by way: `survived` of `kills`; distributions of `gap_ms`, `pause_ms`, `healed_ms`,
                       `heal_pause_ms` and of the parts of a gap; sums of `acknowledged`, `unknown`, `lost`, `doubled`
    results.left_out   by way: why it was not measured
    results.load_average_after   as `facts.load_average` is before

The exit code is 1 unless all kills were survived and nothing was lost or doubled.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from bench.common import Report, parser, print_table, tell
from bench.failover import SUMS, summarise
from bench.faults import Fault, measure
from bench.guest_ways import WAYS, obstacle, open_way
from bench.linux_guest import LinuxGuest, get_guest
from bench.protected_pair import STEPS
from ftvm.cli.progress import prepared_kernel
from ftvm.errors import FtvmError


async def run_way(way: str, guest: LinuxGuest, kills: int, operations: int, faults: list[Fault]) -> None:
    """Fills `faults`, so that those before a failure are not lost."""
    async with open_way(way, guest) as cluster:
        for number in range(kills):
            fault = await measure(way, cluster, "sigkill", f"kill{number}", operations)
            faults.append(fault)
            tell(
                f"{way}: kill {number + 1}, gap {fault.gap_ms:.1f} ms, healed after {fault.healed_ms:.0f} ms,"
                f" acknowledged {fault.acknowledged}, lost {fault.lost}"
            )


def _options(words: list[str] | None) -> argparse.Namespace:
    made = parser("survival", __doc__)
    made.add_argument("--kills", type=int, default=20, help="of the live node, each way (default: 20)")
    made.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), help="into the guest (default: both)")
    made.add_argument("--guest", type=Path, metavar="DIR", help="as `ftvm image debian -o DIR` made it (default: made)")
    made.add_argument("--operations", type=int, default=300, help="acknowledged on each side of a kill (default: 300)")
    return made.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    report = Report("survival", options)
    left_out: dict[str, str] = {}
    failures: list[str] = []
    found: dict[str, list[Fault]] = {}
    guest = get_guest(options.guest)
    prepared_kernel()
    for way in options.way:
        if why := obstacle(way):
            left_out[way] = why
            continue
        faults = found.setdefault(way, [])
        try:
            trio.run(run_way, way, guest, options.kills, options.operations, faults)
        except* FtvmError as errors:
            failures += [f"{way}, after {len(faults)} kills: {error}" for error in errors.exceptions]
        report.add("faults", {name: [asdict(fault) for fault in some] for name, some in found.items()})
        report.add("summary", _summary(found, options.kills))
    report.add("left_out", left_out)
    report.add("load_average_after", list(os.getloadavg()))
    if any(found.values()):
        _show(report.results["summary"])
        report.finish(_draw)
    for line in [f"{way} was left out: {why}" for way, why in left_out.items()]:
        tell(line)
    for line in failures:
        print(f"bench.survival: {line}", file=sys.stderr)
    every = [fault for faults in found.values() for fault in faults]
    return int(bool(failures) or not every or any(fault.lost or fault.doubled for fault in every))


def _summary(found: dict[str, list[Fault]], kills: int) -> dict[str, dict[str, Any]]:
    summary: dict[str, dict[str, Any]] = {}
    for way, faults in found.items():
        if faults:
            row = summarise(faults)[way]["sigkill"]
            summary[way] = {"kills": kills, "survived": row.pop("count"), **row}
    return summary


def _show(summary: dict[str, dict[str, Any]]) -> None:
    rows: list[Sequence[object]] = []
    for way, row in summary.items():
        gaps = [row["gap_ms"][key] for key in ("p50", "p99", "max")]
        survived = f"{row['survived']} of {row['kills']}"
        rows.append([way, survived, *gaps, row["heal_pause_ms"]["max"], row["healed_ms"]["p50"], *map(row.get, SUMS)])
    headings = ("way", "survived", "gap p50", "p99", "max", "healing pause max", "healed p50", *SUMS)
    print_table("one connection into Debian, ms as its client saw them; operations", headings, rows)
    names = (*STEPS, "retransmitted")
    parts = [[way, *(row[name] and row[name]["p50"] for name in names)] for way, row in summary.items()]
    headings = ("way", *(name.removesuffix("_ms").replace("_", " ") for name in names))
    print_table("what the gap is made of, p50, ms; segments", headings, parts)


def _draw(figure: Any, results: dict[str, Any]) -> None:
    axes = figure.subplots()
    for way, faults in results["faults"].items():
        gaps = sorted(fault["gap_ms"] for fault in faults)
        axes.step(gaps, [(number + 1) / len(gaps) for number in range(len(gaps))], where="post", label=way)
    axes.set(title="connections into Debian, SIGKILL of the primary", xlabel="gap, ms", ylabel="share of kills")
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())
