"""Inputs chosen by the code that they reach: `python -m tests.fuzz.guided NAME --seconds 60`.

By atheris, which is no requirement of ours: `pip install atheris`. The specimens are the corpus to begin with.
"""

import argparse
import importlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["ftvm", "transport"]):
        targets = importlib.import_module("tests.fuzz.targets").TARGETS
    harness = importlib.import_module("tests.fuzz.harness")
    if options.target not in targets:
        parser.error(f"targets are {', '.join(targets)}")
    target = targets[options.target]

    def one(data: bytes) -> None:
        finding = harness.attempt(target, data, measured=False)
        if finding is not None:
            print(harness.shrink(target, finding), flush=True)
            raise AssertionError(finding.kind)

    with tempfile.TemporaryDirectory(prefix="ftvm-fuzz-") as corpus, target.surroundings(), harness.alarm():
        for number, specimen in enumerate(target.specimens(random.Random(options.seed))):
            (Path(corpus) / f"{number}").write_bytes(specimen)
        bounds = (f"-max_total_time={options.seconds}", f"-max_len={target.size_max}", f"-seed={options.seed}")
        atheris.Setup([sys.argv[0], *bounds, corpus], one)
        atheris.Fuzz()  # ends the process itself
    return 0


if __name__ == "__main__":
    sys.exit(main())
