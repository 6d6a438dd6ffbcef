"""`python -m tests.campaign --size small|full [--seed N] [--json FILE] [--only FAULT]`

Faults of every kind on a protected machine under load, on hosts that are network namespaces of this computer. Exit 0:
nothing was violated; 1: something was; 2: it cannot run here.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from ftvm.cli.progress import prepared_kernel
from ftvm.errors import FtvmError
from tests.campaign import report
from tests.campaign.faults import FAULTS, Fault, by_name, missing_tools, plan
from tests.campaign.run import run
from tests.campaign.scene import Outcome
from tests.namespaces.network import NetworkError, missing
from transport.background import open_background

TIMEOUT_MS = 200
"""The detector's, as it is by default."""


def main() -> int:
    options = _options()
    lacking = missing() or (f"apt-get install {' '.join(tools)}" if (tools := missing_tools()) else "")
    if lacking:
        print(f"tests.campaign: {lacking}", file=sys.stderr)
        return 2
    prepared_kernel()
    chance = random.Random(options.seed)
    rounds = [by_name(options.only)] * options.rounds if options.only else plan(options.size, chance)
    if options.rounds and not options.only:
        rounds = rounds[: options.rounds]
    outcomes: list[Outcome] = []
    began = time.monotonic()

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(report.line(outcome, len(rounds)), flush=True)

    failure = ""
    try:
        trio.run(_until_told, rounds, options, tell)
    except (FtvmError, NetworkError) as error:
        failure = str(error)
    if not outcomes:
        print(f"tests.campaign: {failure}", file=sys.stderr)
        return 1
    summary = report.summarise(outcomes, options.timeout_ms, time.monotonic() - began)
    print(report.table(summary))
    if options.json is not None:
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        report.write(options.json, plain, outcomes, summary)
    if len(outcomes) < len(rounds):
        broken = any(outcome.violations for outcome in outcomes)
        failure = failure or ("too many rounds broke their machine" if broken else "it was told to stop")
        print(f"tests.campaign: ended after {len(outcomes)} of {len(rounds)} rounds: {failure}", file=sys.stderr)
        return 1
    return int(summary["violations"] > 0)


async def _until_told(
    rounds: list[Fault], options: argparse.Namespace, tell: Callable[[Outcome], None]
) -> None:
    """SIGTERM and SIGINT end it in order: nothing of its network is left behind."""

    async def listen() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()

    async with open_background() as nursery:
        nursery.start_soon(listen)
        await run(rounds, seed=options.seed, timeout_ms=options.timeout_ms, tell=tell, keep=options.keep)


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m tests.campaign", description=(__doc__ or "").partition("\n\n")[2])
    made.add_argument("--size", choices=("smoke", "small", "full"), default="small", help="default: small")
    made.add_argument("--seed", type=int, default=1, help="decides the order of the faults, and what clients do")
    made.add_argument("--only", choices=[fault.name for fault in FAULTS], help="this fault alone, --rounds times")
    made.add_argument("--rounds", type=int, default=0, help="at most so many; with --only: how many (default: 5)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures, and every round, to FILE")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what processes said in rounds that broke")
    made.add_argument("--timeout-ms", type=int, default=TIMEOUT_MS, help="the failure detector's (default: 200)")
    options = made.parse_args()
    if options.only and not options.rounds:
        options.rounds = 5
    return options


if __name__ == "__main__":
    sys.exit(main())
