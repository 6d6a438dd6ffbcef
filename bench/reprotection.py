"""How long does a lone machine take to get a shadow, and what does its guest notice?

`python -m bench.reprotection --json out.json`. The guest (`scribble`) has filled most of RAM with noise and writes
whole pages at random places at a steady rate; it looks at its clock all the time and says, when asked, for how long
at most it could not. A shadow is started with nothing (`fresh`); then the same process is stopped with SIGSTOP for
longer than it is waited for, and continues (`resumed`); then it is killed and started again, with nothing but its own
log on disk (`restarted`).

    results.joins        one object a join:
        kind             fresh, resumed or restarted
        join_s           from the start of the process (resumed: from SIGCONT) until the machine is protected
        copy_s           of that, from the start of the copy to its end
        sent_mib         memory that went over the session, and of the machine's pages in MiB:
        kept_mib         those that never went, for they were there or zero
        rounds           over what the guest had written meanwhile, with the last one
        pause_ms         the guest was at rest at the end of the copy
        gap_ms           the longest that the guest did not see its clock, from the start of the join until after it
        written_mb_s     what the guest wrote in that time
    results.alone        gap_ms and written_mb_s without any join
    results.size_mib, results.rate_mb_s

The exit code is 1 unless every join came to its end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from bench.common import Report, parser, print_table, tell
from ftvm.cli.progress import prepared_kernel
from ftvm.demo.stage import Stage, prepare
from ftvm.errors import FtvmError
from ftvm.guests import path as guest_path

MIB = 1 << 20
PAGES_PER_MIB = 256
SPARE_MIB = 16
"""Of RAM, that the guest does not fill: its own pages are there, and some stay zero."""
LINE_SIZE_MAX = 4096
FILL_TIMEOUT_S = 60.0
JOIN_TIMEOUT_S = 60.0
ASK_S = 0.05
POLL_S = 0.01
US_PER_MS = 1000


@dataclass(frozen=True, slots=True)
class Join:
    """One join; see the module's docstring."""

    kind: str
    join_s: float
    copy_s: float
    sent_mib: float
    kept_mib: float
    rounds: int
    pause_ms: float
    gap_ms: float
    written_mb_s: float


class Console:
    """The guest's, through the edge: commands and the lines that answer them."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._said = b""

    async def say(self, command: str) -> None:
        await self._stream.send_all(command.encode() + b"\n")

    async def line(self) -> str:
        while b"\n" not in self._said:
            part = await self._stream.receive_some()
            if not part or len(self._said) > LINE_SIZE_MAX:
                raise FtvmError("the guest's console ended, or says what it should not")
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    async def ask(self) -> tuple[int, int]:
        """(bytes written, longest gap in us) since the last time."""
        await self.say("?")
        words = (await self.line()).split()
        return int(words[1]), int(words[3])


class Watch:
    """Asks the guest again and again while the block runs; the longest gap, and the rate of its writing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._written = self._gap_us = 0
        self._began_s = 0.0

    async def begin(self) -> None:
        await self._console.ask()
        self._began_s = time.monotonic()

    async def run(self) -> None:
        while True:
            await trio.sleep(ASK_S)
            with trio.CancelScope(shield=True):
                await self.look()

    async def look(self) -> tuple[float, float]:
        """(gap in ms, MB/s) so far."""
        written, gap_us = await self._console.ask()
        self._written += written
        self._gap_us = max(self._gap_us, gap_us)
        return self._gap_us / US_PER_MS, self._written / 1e6 / (time.monotonic() - self._began_s)


async def measure(stage: Stage, console: Console, after_s: float) -> AsyncGenerator[Join, None]:
    """The three kinds of joins of beta, with alpha live; each is watched for `after_s` longer."""
    stage.start_node("beta", "shadow")
    yield await _join(stage, console, after_s, "fresh", lambda: None)
    stage.signal("beta", signal.SIGSTOP)
    await _wait_alone(stage)
    await trio.sleep(after_s)
    yield await _join(stage, console, after_s, "resumed", lambda: stage.signal("beta", signal.SIGCONT))
    await stage.wait_status("beta", lambda status: status["log"]["bytes"] > 0, "a log of its own")
    stage.signal("beta", signal.SIGKILL)
    await stage.wait_exit("beta")
    await _wait_alone(stage)
    yield await _join(stage, console, after_s, "restarted", lambda: stage.start_node("beta", "shadow"))


async def _wait_alone(stage: Stage) -> None:
    await stage.wait_status("alpha", lambda status: status["core"]["state"] == "SOLO", "being alone")


async def _join(stage: Stage, console: Console, after_s: float, kind: str, start: Callable[[], None]) -> Join:
    watch = Watch(console)
    await watch.begin()
    began_s = time.monotonic()
    start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        status = await stage.wait_status(
            "alpha", lambda status: status["core"]["state"] == "PROTECTED", "a shadow", JOIN_TIMEOUT_S
        )
        join_s = time.monotonic() - began_s
        await trio.sleep(after_s)
        nursery.cancel_scope.cancel()
    gap_ms, written_mb_s = await watch.look()
    told = status["reprotection"]
    assert told is not None
    assert told["sent"]
    return Join(
        kind,
        join_s,
        told["seconds"],
        told["bytes"] / MIB,
        told["pages_kept"] / PAGES_PER_MIB,
        told["rounds"],
        told["pause_ms"],
        gap_ms,
        written_mb_s,
    )


async def _run(options: argparse.Namespace, report: Report) -> bool:
    with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
        image = guest_path("scribble").read_bytes()
        stage = Stage(Path(folder), prepare(Path(folder), image, ram_mib=options.size, sessions="plain"))
        try:
            stage.start_node("alpha", "primary")
            stage.start("edge", "edge", str(stage.toml))
            await stage.wait_live("alpha")
            await stage.wait_status("edge", lambda status: status["generation"] > 0, "a live machine")
            async with await trio.open_tcp_stream("127.0.0.1", stage.port) as stream:
                return await _measure_all(stage, Console(stream), options, report)
        finally:
            await trio.to_thread.run_sync(stage.stop)


async def _measure_all(stage: Stage, console: Console, options: argparse.Namespace, report: Report) -> bool:
    with trio.fail_after(FILL_TIMEOUT_S):
        await console.say(f"f {options.size - SPARE_MIB}")
        assert await console.line() == "filled"
    await console.say(f"w {options.rate}")
    watch = Watch(console)
    await watch.begin()
    await trio.sleep(options.watch)
    gap_ms, written_mb_s = await watch.look()
    report.add("alone", {"gap_ms": gap_ms, "written_mb_s": written_mb_s})
    joins: list[Join] = []
    async with aclosing(measure(stage, console, options.watch)) as each:
        async for join in each:
            tell(f"{join.kind}: {join.join_s:.2f} s, {join.sent_mib:.1f} MiB, gap {join.gap_ms:.1f} ms")
            joins.append(join)
            report.add("joins", [asdict(one) for one in joins])
    rows = [list(asdict(join).values()) for join in joins]
    title = f"A machine of {options.size} MiB whose guest writes {options.rate} MB/s gets a shadow"
    print_table(title, list(asdict(joins[0])), rows)
    return len(joins) == 3


def draw(figure: Any, results: dict[str, Any]) -> None:
    joins = results["joins"]
    kinds = [join["kind"] for join in joins]
    titles = {"join_s": "join, s", "sent_mib": "sent, MiB", "gap_ms": "guest's gap, ms"}
    for place, (key, title) in enumerate(titles.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.bar(kinds, [join[key] for join in joins])
        axes.set_title(title)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser("reprotection", __doc__)
    made.add_argument("--size", type=int, default=256, metavar="MIB", help="RAM of the machine (default: 256)")
    made.add_argument("--rate", type=int, default=20, metavar="MB", help="what the guest writes in 1 s (default: 20)")
    made.add_argument("--watch", type=float, default=1.0, metavar="S", help="watch the guest so long between and after")
    options = made.parse_args(arguments)
    report = Report("reprotection", options)
    report.add("size_mib", options.size)
    report.add("rate_mb_s", options.rate)
    prepared_kernel()
    good = trio.run(_run, options, report)
    report.finish(draw)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
