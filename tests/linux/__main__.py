"""`python -m tests.linux [--kills N] [--seed N] [--keep FOLDER]`

Debian on a protected pair at work, and its primary killed N times. Exit 0: nothing was violated; 1: something was; 2:
it cannot run here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import trio

from ftvm.errors import FtvmError
from ftvm.image.debian import Request, make_guest
from tests.guests.debian import Silent
from tests.linux.scene import Findings, play


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m tests.linux", description=(__doc__ or "").partition("\n\n")[2])
    made.add_argument("--kills", type=int, default=20, help="the first during boot (default: 20)")
    made.add_argument("--seed", type=int, default=1, help="decides when")
    made.add_argument("--keep", type=Path, metavar="FOLDER", help="use this empty folder, and leave everything in it")
    options = made.parse_args()
    try:
        files = make_guest(Request(("redis-server",)), Silent())
        with tempfile.TemporaryDirectory() as folder:
            keep = options.keep or Path(folder)
            keep.mkdir(exist_ok=True)
            found = trio.run(_play, keep, files, options)
    except FtvmError as error:
        print(f"tests.linux: {error}", file=sys.stderr)
        return 2
    for name, value in asdict(found).items():
        print(f"{name.replace('_', ' ')}: {value}")
    return int(bool(found.violations))


def tell(text: str) -> None:
    print(text, flush=True)


async def _play(folder: Path, files: Path, options: argparse.Namespace) -> Findings:
    return await play(folder, files, kills=options.kills, seed=options.seed, tell=tell)


if __name__ == "__main__":
    sys.exit(main())
