"""Plants each fault in a copy of the tree, and sees to it that its tests notice.

    python -m tests.mutants [--only NAME] [--jobs N]

First the tests run on an unchanged copy: a test that fails anyway kills nothing.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("ftvm", "transport", "tests", "pyproject.toml")
KILL_S_MAX = 20
"""A mutant has to be noticed so soon."""
HEALTHY_S_MAX = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    killed: bool
    seconds: float
    line: str


def problem_of(mutant: Mutant, root: Path = ROOT) -> str:
    """Why it cannot be planted; "" if it can."""
    path = root / mutant.file
    if not path.is_file():
        return f"{mutant.file} is not there"
    found = path.read_text().count(mutant.old)
    if found != 1:
        return f"its text occurs {found} times in {mutant.file}"
    missing = [test for test in mutant.tests if not _has_test(root, test)]
    return f"no such test: {missing[0]}" if missing else ""


def _has_test(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    path = root / file
    if not path.is_file():
        return False
    function = name.partition("[")[0].rpartition("::")[2]
    return not name or re.search(rf"^\s*(async )?def {re.escape(function)}\(", path.read_text(), re.M) is not None


@contextmanager
def copied_tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ftvm-mutant-") as folder:
        target = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target / name)
        yield target


def run_mutant(mutant: Mutant) -> Outcome:
    with copied_tree() as tree:
        path = tree / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        started_s = time.monotonic()
        code, told = run_tests(tree, mutant.tests, KILL_S_MAX)
        seconds = time.monotonic() - started_s
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", told, re.M)
    if code is None:
        return Outcome(False, seconds, f"its tests took more than {KILL_S_MAX} s")
    if code == 0:
        return Outcome(False, seconds, "SURVIVED")
    if code != 1 or failed is None:
        return Outcome(False, seconds, f"pytest ended with {code}: {' '.join(told.split())[-200:]}")
    return Outcome(True, seconds, f"killed by {failed.group(1).rpartition('/')[2]}")


def run_tests(tree: Path, tests: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """pytest's exit code (None: not done in time) and what it said. Stops at the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-rfE", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None, ""
    return process.returncode, told


def healthy(mutants: Sequence[Mutant]) -> str:
    """What is wrong with the named tests on an unchanged tree; "" if nothing."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with copied_tree() as tree:
        code, told = run_tests(tree, tests, HEALTHY_S_MAX)
    if code is None:
        return f"the tests took more than {HEALTHY_S_MAX} s on an unchanged tree"
    return "" if code == 0 else f"the tests fail on an unchanged tree:\n{told[-2000:]}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="NAME", help="mutants with NAME in their names")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time")
    options = parser.parse_args(arguments)
    mutants = [one for one in MUTANTS if options.only in one.name]
    problems = [f"{one.name}: {problem}" for one in mutants if (problem := problem_of(one))]
    if not mutants:
        problems.append(f"no mutant has {options.only!r} in its name")
    trouble = "\n".join(problems) or healthy(mutants)
    if trouble:
        print(trouble, file=sys.stderr)
        return 1
    survived = 0
    with ThreadPoolExecutor(max(options.jobs, 1)) as pool:
        for mutant, outcome in zip(mutants, pool.map(run_mutant, mutants), strict=True):
            survived += not outcome.killed
            print(f"{mutant.name:<50} {outcome.seconds:6.1f} s  {outcome.line}", flush=True)
    print(f"{len(mutants)} mutants, {len(mutants) - survived} killed, {survived} not")
    return 1 if survived else 0
