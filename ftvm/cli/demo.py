"""`ftvm demo`: watch a machine lose its host, and its client not notice."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import trio
from cyclopts import Parameter
from cyclopts.validators import Number

from ftvm.cli.progress import prepared_kernel
from ftvm.errors import ExitCode

if TYPE_CHECKING:
    from ftvm.demo.guests import Guest
    from ftvm.demo.run import DemoResult, Kill, Moment
    from ftvm.demo.stage import Stage

Operations = Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))]
Kills = Annotated[int, Parameter(validator=Number(gte=1, lte=100))]
Arbiter = Literal["directory", "witness", "etcd"]
GuestName = Literal["kv", "linux"]
KILLS_SHOWN_MAX = 5
OPERATIONS = {"kv": 2500, "linux": 1000}


def demo(
    *,
    guest: GuestName = "kv",
    operations: Operations | None = None,
    kills: Kills = 1,
    arbiter: Arbiter = "directory",
    keep: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Run a Redis-like service twice, load it, kill the primary with SIGKILL, and account for every operation.

    The killed node comes back as a shadow while the load goes on. Exits with 0 only if nothing was lost or doubled,
    and replays of all logs agree with each other and with both replicas.

    Parameters
    ----------
    guest
        kv: a small program that speaks Redis' protocol on the console. linux: Debian with its own redis-server, which
        clients reach through the network; made by `ftvm image debian` when it is used for the first time.
    operations
        Acknowledged operations on each side of a kill: 2500 for kv, 1000 for linux if not said.
    kills
        How often to kill whichever node is live, with re-protection between.
    arbiter
        Who grants generations: a folder, ftvm's own witness, or an etcd (Debian: etcd-server) started for this.
    keep
        Leave the survivor and the edge running, and say how to connect.
    as_json
        Print one JSON object as the last line.
    """
    prepared_kernel()
    made = _linux() if guest == "linux" else _kv()
    return trio.run(_demo, made, operations or OPERATIONS[guest], kills, arbiter, keep, as_json)


def _kv() -> Guest:
    from ftvm.demo.guests import BareGuest
    from ftvm.guests import path as guest_path

    return BareGuest(guest_path("kv").read_bytes())


def _linux() -> Guest:
    from ftvm.cli.image import made_guest
    from ftvm.demo.guests import DebianGuest

    return DebianGuest(made_guest(("redis-server",)))


async def _demo(guest: Guest, operations: int, kills: int, arbiter: str, keep: bool, as_json: bool) -> int:
    from ftvm.demo.run import run_demo
    from ftvm.demo.stage import open_stage

    started = trio.current_time()

    def tell(line: str) -> None:
        seconds = trio.current_time() - started
        print(f"[{seconds:6.2f} s] {line}", file=sys.stderr if as_json else sys.stdout, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="ftvm-demo-"))
    tell(f"starting two nodes and an edge: mutual TLS, arbiter: {arbiter}, {guest.title}")
    async with open_stage(folder, guest, arbiter=arbiter) as stage:
        tell(f"protected: alpha (pid {stage.pid('alpha')}) is live, beta (pid {stage.pid('beta')}) follows in lockstep")
        with _view(as_json) as show:
            result = await run_demo(stage, operations=operations, kills=kills, tell=tell, show=show)
        if not as_json:
            _print_table(result)
        if keep:
            _tell_how_to_connect(stage, tell)
            stage.forget()
    if not keep:
        _remove(folder)
    if as_json:
        print(json.dumps(_json_fields(result)), flush=True)
    return int(ExitCode.OK if result.ok else ExitCode.DIVERGENCE if not result.digest_match else ExitCode.GUEST_FAILED)


def _json_fields(result: DemoResult) -> dict[str, object]:
    return {**asdict(result), "ok": result.ok}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _tell_how_to_connect(stage: Stage, tell: Callable[[str], None]) -> None:
    tell(f"left running; connect with: redis-cli -p {stage.port}")
    tell(f"look at it with: ftvm status {stage.toml}")
    tell(f"end it with: kill {' '.join(map(str, stage.pids()))}")


@contextmanager
def _view(quiet: bool) -> Iterator[Callable[[Moment], None]]:
    """A live line on a terminal, a line about every second elsewhere, nothing when quiet."""
    if quiet:
        yield lambda moment: None
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(), refresh_per_second=10, transient=True) as live:
            yield lambda moment: live.update(_line(moment))
    else:
        shown = [0.0]

        def show(moment: Moment) -> None:
            if trio.current_time() - shown[0] >= 1:
                shown[0] = trio.current_time()
                print(f"           {_line(moment)}", flush=True)

        yield show


def _line(moment: Moment) -> str:
    gap = f"longest gap {moment.gap_ms:.1f} ms"
    parts = [f"{moment.acknowledged:6} acknowledged", f"{moment.rate_per_s:6.0f}/s", gap]
    for name, status in moment.nodes.items():
        if status is None:
            parts.append(f"{name}: dead")
        else:
            core = status["core"]
            lag = f", lag {core['lag_ticks']} ticks" if core["members"] else ""
            parts.append(f"{name}: {core['state']} gen {core['generation']}, log {status['log']['bytes']} B{lag}")
    return " | ".join(parts)


def _print_table(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what the client and the log say", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = [
        ("operations acknowledged", f"{result.acknowledged}"),
        ("lost", f"{result.lost}"),
        ("doubled", f"{result.duplicated}"),
        ("surprising answers", f"{len(result.surprises)}"),
        ("rate, p50", f"{result.rate_per_s:.0f}/s, {result.latency_p50_ms:.2f} ms"),
        ("longest gap between two answers", f"{result.gap_ms:.1f} ms"),
        *_rows_of_kills(result.kills),
        ("generation; failovers without a kill", f"{result.generation}; {result.false_failovers}"),
        ("ticks of the guest", f"{result.ticks}"),
        ("log", f"{result.log_bytes} bytes"),
        ("digests compared in the replays", f"{result.digests_compared}"),
        ("replays agree with both replicas", "yes" if result.digest_match else f"NO: {result.divergence}"),
        ("redis-benchmark", "see above" if result.real_client else "not installed"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for surprise in result.surprises:
        console.print(f"surprise: {surprise}")
    console.print("[green]nothing lost, nothing doubled[/]" if result.ok else "[red]the promise was broken[/]")


def _rows_of_kills(kills: Sequence[Kill]) -> Iterator[tuple[str, str]]:
    if len(kills) > KILLS_SHOWN_MAX:
        gaps = sorted(kill.gap_ms for kill in kills)
        yield "gaps of all kills: median, longest", f"{median(gaps):.1f}, {gaps[-1]:.1f} ms"
        yield "protected again after, median", f"{median(kill.reprotection_ms for kill in kills):.0f} ms"
        return
    for number, kill in enumerate(kills, 1):
        steps = f"{kill.detection_ms:.1f} + {kill.claim_ms:.1f} + {kill.catch_up_ms:.1f}"
        yield f"gap {number} (detection + claim + catch-up)", f"{kill.gap_ms:.1f} ms ({steps})"
        yield f"  {kill.victim} a shadow again after", f"{kill.reprotection_ms:.0f} ms"
