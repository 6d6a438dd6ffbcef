"""`python -m tests.isa FOLDER [--only PATTERN] [--reference]`: the official ISA tests, built by their Makefile.

Each program in the folder (`rv64ui-p-add`, `rv64ud-v-fmadd`, ...) runs on a machine of its own, in this process, and
gets a line. Exit code 0 when none failed, 1 otherwise, 2 when there is nothing to run. What a program wants that this
hart is not (RV32, vectors, misaligned accesses that trap) is skipped, and the line says so.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine
from tests.isa.runner import Verdict, run_one


def programs(folder: Path, only: str) -> list[Path]:
    """The executables whose names match `only`; the Makefile leaves listings beside them."""
    found = []
    for path in sorted(folder.glob(only)):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    found.append(path)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.isa", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="isa/ of riscv-tests, after `make`")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="programs of such names: 'rv64ud-p-*'")
    parser.add_argument("--reference", action="store_true", help="on the reference hart: 100 times as slow")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    paths = programs(options.folder, options.only)
    if not paths:
        parser.error(f"{options.folder} has no such program: build the tests there first")
    verdicts: Counter[Verdict] = Counter()
    for path in paths:
        report = run_one(path.name, path.read_bytes(), ReferenceMachine if options.reference else Machine)
        verdicts[report.verdict] += 1
        print(report, flush=True)
    print(", ".join(f"{verdicts[verdict]} {verdict.value.lower()}" for verdict in Verdict))
    return int(verdicts[Verdict.FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main())
