"""How fast is Debian in the guest, beside QEMU? `python -m bench.linux --json out.json`

    results.boot     bench.boot           the kernel to a shell: CPU seconds and MIPS, ours beside QEMU's
    results.redis    bench.guest_redis    one client of redis-server in the guest: ours unprotected and protected; QEMU
                                          plain, counting instructions, and recording
    results.idle     bench.idle           log, wire and CPU of a protected pair whose guest waits, without and with
                                          redis

The guest is what `ftvm image debian --with redis-server` makes. A part that could not be measured has no entry: then
the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import trio

from bench import boot, guest_redis, idle
from bench.common import Report, parser, print_table, tell
from bench.linux_guest import IN_MEMORY, ON_DISK, LinuxGuest, get_guest
from ftvm.cli.progress import prepared_kernel
from ftvm.demo.guests import DebianGuest
from ftvm.demo.stage import EDGE, NODES
from ftvm.errors import FtvmError

PARTS = ("boot", "redis", "idle")
IDLE = {"shell": IN_MEMORY, "redis": ON_DISK}
"""The kernel's command line for each guest that waits."""


def _options(words: list[str] | None) -> argparse.Namespace:
    made = parser("linux", __doc__)
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts only")
    made.add_argument("--guest", type=Path, metavar="DIR", help="as `ftvm image debian -o DIR` made it (default: made)")
    made.add_argument("--repeats", type=int, default=3, help="turns of the engines (default: 3)")
    made.add_argument("--requests", type=int, default=1000, help="of each kind to redis (default: 1000)")
    made.add_argument("--idle", type=float, default=20.0, help="seconds to watch an idle pair (default: 20)")
    made.add_argument("--engines", nargs="+", choices=guest_redis.ENGINES, default=list(guest_redis.ENGINES))
    return made.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = _options(words)
    report = Report("linux", options)
    prepared_kernel()
    failed: list[str] = []
    for part in options.only:
        tell(f"measuring: {part}")
        try:
            report.add(part, _measure(part, get_guest(options.guest), options))
        except FtvmError as error:
            failed.append(f"{part}: {error}")
            tell(f"NOT MEASURED: {failed[-1]}")
    for part, results in report.results.items():
        {"boot": _show_boot, "redis": _show_redis, "idle": _show_idle}[part](results)
    report.finish(_draw)
    for line in failed:
        print(f"bench.linux: not measured: {line}", file=sys.stderr)
    return 1 if failed else 0


def _measure(part: str, guest: LinuxGuest, options: argparse.Namespace) -> dict[str, Any]:
    if part == "boot":
        return boot.measure_boot(guest, repeats=options.repeats)
    if part == "idle":
        return {name: trio.run(_rest, guest, append, options.idle) for name, append in IDLE.items()}

    async def load() -> dict[str, Any]:
        return await guest_redis.measure_redis(
            guest, requests=options.requests, repeats=options.repeats, engines=options.engines
        )

    return trio.run(load)


async def _rest(guest: LinuxGuest, append: str, seconds: float) -> dict[str, Any]:
    return await idle.measure_idle(DebianGuest(guest.folder, append=append), seconds=seconds)


def _show_boot(results: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for scene, figures in results.items():
        for engine in boot.ENGINES:
            if found := figures[engine]:
                medians = [found[key]["median"] for key in ("cpu_s", "wall_s", "mips")]
                rows.append([f"{scene}, {engine}", *medians, f"{found['cpu_s']['spread']:.1%}"])
        rows.append([f"{scene}, million instructions", figures["instructions"] / 1e6, None, None, None])
    print_table("Debian's kernel to a shell, medians", ("", "CPU s", "wall s", "MIPS", "spread"), rows)


def _show_redis(results: dict[str, Any]) -> None:
    rows: list[list[object]] = []
    for engine in guest_redis.ENGINES:
        if figures := results.get(engine):
            rates = [
                figures[kind][key]["median"] for kind in guest_redis.KINDS for key in ("per_s", "p50_ms", "p99_ms")
            ]
            extra = [figures[key] and figures[key]["median"] for key in ("cpu_ms_per_request", "log_bytes_per_request")]
            rows.append([engine, *rates, *extra])
    headings = ("", "SET/s", "p50 ms", "p99 ms", "GET/s", "p50 ms", "p99 ms", "CPU ms/request", "log B/request")
    print_table("redis-server in the guest, one client, 64 B, medians", headings, rows)
    for name, meaning in (("protected_share", "protected / alone"), ("times_record", "protected / QEMU's record")):
        if results[name] is not None:
            tell(f"{meaning}, SET/s: {results[name]:.2f}")


def _show_idle(results: dict[str, Any]) -> None:
    keys = ("ticks_per_s", "log_bytes_per_s", *(f"cpu_percent_{name}" for name in (*NODES, EDGE)))
    rows: list[list[object]] = [[name, *(figures[key] for key in keys)] for name, figures in results.items()]
    print_table("idle pair", ("", *(key.replace("_", " ") for key in keys)), rows)


def _draw(figure: Any, results: dict[str, Any]) -> None:
    """Left: CPU seconds of a boot. Right: SET/s."""
    left, right = figure.subplots(1, 2)
    scenes = results.get("boot", {})
    for number, engine in enumerate(boot.ENGINES):
        found = [(at, one[engine]["cpu_s"]["median"]) for at, one in enumerate(scenes.values()) if one[engine]]
        if found:
            left.bar([at + 0.27 * (number - 1) for at, _ in found], [one for _, one in found], 0.25, label=engine)
    left.set(title="Debian's kernel to a shell", ylabel="CPU s")
    left.set_xticks(range(len(scenes)), list(scenes))
    if scenes:
        left.legend()
    redis = results.get("redis", {})
    measured = [engine for engine in guest_redis.ENGINES if redis.get(engine)]
    right.bar(measured, [redis[engine]["SET"]["per_s"]["median"] for engine in measured])
    right.set(title="redis-server in the guest, one client", ylabel="SET/s")


if __name__ == "__main__":
    sys.exit(main())
