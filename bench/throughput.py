"""How fast is the guest, and what does protection cost it? `python -m bench.throughput --json out.json`

The parts, each in a file of its own, whose docstrings say what the figures mean:

    results.kernels      bench.kernels     guest MIPS per kernel, ours beside QEMU's, in CPU seconds
    results.protection   bench.protection  each replica of a pair beside two unprotected machines; log per 1,000 ticks
    results.lag          bench.protection  how far the shadow is behind a guest that computes
    results.service      bench.service     requests/s and latency of kv, unprotected and protected; log per request
    results.idle         bench.idle        log, wire and CPU of a pair whose guest waits

All at the defaults of machine.toml. A part that was left out (--only) has no entry, nor has one that could not be
measured: then the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from bench import idle, kernels, protection, service
from bench.common import Report, parser, print_table, tell
from ftvm.cli.progress import prepared_kernel
from ftvm.errors import FtvmError
from ftvm.guests import path as guest_path

PARTS = ("kernels", "protection", "lag", "service", "idle")


def _options(words: list[str] | None) -> argparse.Namespace:
    made = parser("throughput", __doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts only")
    made.add_argument("--kernels", nargs="+", choices=kernels.KERNELS, default=list(kernels.KERNELS))
    made.add_argument("--repeats", type=int, default=3, help="of each kernel, by each engine (default: 3)")
    made.add_argument("--seconds", type=float, default=1.0, help="CPU seconds of one run of a kernel (default: 1)")
    made.add_argument("--window", type=float, default=4.0, help="seconds of a pair beside two lone ones (default: 4)")
    made.add_argument("--requests", type=int, default=5000, help="of each kind to kv (default: 5000)")
    made.add_argument("--idle", type=float, default=10.0, help="seconds to watch an idle pair (default: 10)")
    return made.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    report = Report("throughput", options)
    prepared_kernel()
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        for part in options.only:
            tell(f"measuring: {part}")
            try:
                report.add(part, _measure(part, Path(folder), options))
            except FtvmError as error:
                failed.append(f"{part}: {error}")
                tell(f"NOT MEASURED: {failed[-1]}")
    for part, results in report.results.items():
        _SHOW[part](results)
    report.finish(_draw)
    for line in failed:
        print(f"bench.throughput: not measured: {line}", file=sys.stderr)
    return 1 if failed else 0


def _measure(part: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    names = tuple(options.kernels)
    match part:
        case "kernels":
            return kernels.measure_kernels(folder, names, target_s=options.seconds, repeats=options.repeats)
        case "protection":

            async def protect() -> dict[str, Any]:
                return await protection.measure_protection(
                    folder, names, seconds=options.window, repeats=options.repeats
                )

            return trio.run(protect)
        case "lag":

            async def lag() -> dict[str, Any]:
                return await protection.measure_lag(names[0], seconds=options.window)

            return trio.run(lag)
        case "service":

            async def serve() -> dict[str, Any]:
                return await service.measure_service(requests=options.requests)

            return trio.run(serve)
    assert part == "idle", part

    async def rest() -> dict[str, Any]:
        return await idle.measure_idle(guest_path("kv").read_bytes(), seconds=options.idle)

    return trio.run(rest)


def _show_kernels(results: dict[str, Any]) -> None:
    shares = results["share_of_icount"]
    rows: list[list[object]] = [
        [
            name,
            *(figures[engine] and figures[engine]["median"] for engine in kernels.ENGINES),
            shares.get(name),
            f"{figures['ours']['spread']:.1%}",
        ]
        for name, figures in results["kernels"].items()
    ]
    means = results["geomean"]
    rows.append(["geomean, integer", *(means.get(engine) for engine in kernels.ENGINES), shares.get("geomean"), None])
    if trap := results["kernels"].get("traploop"):
        rates = (trap.get(f"traps_per_s_{engine}") for engine in kernels.ENGINES)
        rows.append(["million traps/s", *(rate and rate / 1e6 for rate in rates), None, None])
    headings = ("kernel", "ours", "QEMU", "QEMU -icount", "ours / -icount", "spread of ours")
    print_table("guest MIPS by CPU seconds, medians", headings, rows)


def _show_protection(results: dict[str, Any]) -> None:
    ratios = ("primary_ratio", "shadow_ratio", "primary_cpu_ratio", "shadow_cpu_ratio")
    keys = ("unprotected", "primary", "shadow", *ratios, "log_bytes_per_1000")
    rows = [[name, *(figures[key]["median"] for key in keys)] for name, figures in results.items()]
    headings = ("kernel", "alone", "primary", "shadow", "ratio", "ratio", "by CPU s", "by CPU s", "log B / 1,000")
    print_table("protected beside two unprotected machines, million ticks a second, medians", headings, rows)


def _show_lag(results: dict[str, Any]) -> None:
    keys = ("p50", "p90", "p99", "max")
    names = ("executed_ms", "executed_ticks", "acknowledged_ticks")
    rows = [[name.replace("_", ", "), *(results[name][key] for key in keys)] for name in names]
    print_table(f"lag of the shadow, guest {results['guest']}", ("", *keys), rows)


def _show_service(results: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for state in ("unprotected", "protected"):
        for client in ("ours", "redis_benchmark"):
            for word, figures in (results[state][client] or {}).items():
                latency = figures["ms"]
                rows.append([f"{state}, {client}, {word}", figures["per_s"], latency["p50"], latency["p99"]])
    print_table("kv behind the edge, one client", ("", "requests/s", "p50 ms", "p99 ms"), rows)
    trip = results["tls_round_trip_ms"]["p50"]
    tell(f"added to SET by protection: {results['added_ms']:.3f} ms; one raw TLS round trip: {trip:.3f} ms")
    tell(f"log per request: {results['protected']['log_bytes_per_request']:.1f} bytes")


def _show_idle(results: dict[str, Any]) -> None:
    print_table("idle pair", ("", "figure"), [[name.replace("_", " "), value] for name, value in results.items()])


_SHOW = {
    "kernels": _show_kernels,
    "protection": _show_protection,
    "lag": _show_lag,
    "service": _show_service,
    "idle": _show_idle,
}


def _draw(figure: Any, results: dict[str, Any]) -> None:
    """Left: MIPS by engine. Right: what of the speed the replicas keep."""
    speed, kept = figure.subplots(1, 2)
    measured = results.get("kernels", {}).get("kernels", {})
    for number, engine in enumerate(kernels.ENGINES):
        found = [(at, figures[engine]["median"]) for at, figures in enumerate(measured.values()) if figures[engine]]
        if found:
            speed.bar([at + 0.27 * (number - 1) for at, _ in found], [rate for _, rate in found], 0.25, label=engine)
    speed.set(title="guest MIPS by CPU seconds", yscale="log", ylabel="MIPS")
    speed.set_xticks(range(len(measured)), list(measured), rotation=30)
    protected = results.get("protection", {})
    for number, role in enumerate(("primary", "shadow")):
        heights = [figures[f"{role}_ratio"]["median"] for figures in protected.values()]
        kept.bar([at + 0.4 * (number - 0.5) for at in range(len(heights))], heights, 0.38, label=role)
    kept.axhline(0.95, color="black", linewidth=0.8, linestyle=":")
    kept.set(title="speed of a replica, unprotected = 1")
    kept.set_xticks(range(len(protected)), list(protected), rotation=30)
    for axes, shown in ((speed, measured), (kept, protected)):
        if shown:
            axes.legend()


if __name__ == "__main__":
    sys.exit(main())
