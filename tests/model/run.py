"""Runs SPIN over the model: every case must hold, every mutant of the model must be found out.

    python -m tests.model [--size small|full] [--mutants] [--only TEXT]

A case that does not hold prints the steps that lead there. A search that did not end (memory, depth, time) is a
failure too: it proved nothing.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.model.cases import CASES, MUTANTS, Case, ModelMutant

MODEL = Path(__file__).with_name("protocol.pml")
MEMORY_MIB_MAX = 3000
DEPTH_MAX = 100_000
SEARCH_S_MAX = 600
TRAIL_LINES_MAX = 160


class ModelError(Exception):
    """The checker could not be run."""


@dataclass(frozen=True, slots=True)
class Result:
    """`holds` None: the search did not come to an end, and `line` says why."""

    holds: bool | None
    line: str
    states: int
    depth: int
    memory_mib: float
    seconds: float
    trail: str = ""


def missing_tools() -> str:
    """What has to be installed, as a line; "" if nothing has."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    return f"the model needs {' and '.join(missing)}: apt-get install {' '.join(missing)}" if missing else ""


def mutated(mutant: ModelMutant) -> str:
    text = MODEL.read_text()
    found = text.count(mutant.old)
    if found != mutant.times:
        raise ModelError(f"mutant {mutant.name!r}: its text occurs {found} times in {MODEL.name}, not {mutant.times}")
    return text.replace(mutant.old, mutant.new)


def check(text: str, defines: Mapping[str, int], *, endless: bool = False, quick: bool = False) -> Result:
    """One search. `quick` compiles faster and searches more slowly: for small ones."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ftvm-model-") as folder:
        words = [f"-D{name}={value}" for name, value in defines.items()]
        Path(folder, "protocol.pml").write_text(text)
        told = _run(folder, "spin", "-a", *words, "protocol.pml").stdout
        if "rror:" in told or not Path(folder, "pan.c").exists():
            raise ModelError(f"spin does not take the model:\n{told}")
        search = ["-DNP", "-DNOFAIR"] if endless else ["-DSAFETY", "-DNOFAIR"]
        level = "-O0" if quick else "-O2"
        search += ["-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB_MAX}"]
        told = _run(folder, "gcc", level, "-w", *search, "-o", "pan", "pan.c").stdout
        if not Path(folder, "pan").exists():
            raise ModelError(f"gcc does not take what spin made of the model:\n{told}")
        options = [f"-m{DEPTH_MAX}", *(["-l"] if endless else [])]
        try:
            told = _run(folder, "./pan", *options, timeout_s=SEARCH_S_MAX).stdout
        except subprocess.TimeoutExpired:
            return Result(None, f"no end after {SEARCH_S_MAX} s", 0, 0, 0.0, time.monotonic() - started_s)
        return _read(told, folder, words, started_s)


def _read(told: str, folder: str, words: list[str], started_s: float) -> Result:
    def number(pattern: str) -> float:
        found = re.search(pattern, told)
        return float(found.group(1)) if found else 0.0

    errors = re.search(r"errors: (\d+)", told)
    complaint = next((line for line in told.splitlines() if re.match(r"pan:\d+:", line)), "")
    unfinished = re.search(r"max search depth too small|memory limit|out of memory|Search not completed", told)
    holds: bool | None = errors is not None and errors.group(1) == "0"
    line = "holds"
    if errors is None or (holds and unfinished):
        holds, line = None, f"the search did not end: {unfinished.group(0) if unfinished else told[-500:]}"
    trail = ""
    if holds is False:
        line = re.sub(r"\s+", " ", complaint)
        trail = "\n".join(_story(_run(folder, "spin", "-t", "-p", *words, "protocol.pml").stdout))
    return Result(
        holds,
        line,
        int(number(r"([\d.e+]+) states, stored")),
        int(number(r"depth reached (\d+)")),
        number(r"([\d.]+)\s+total actual memory usage"),
        time.monotonic() - started_s,
        trail,
    )


def _story(told: str) -> Iterator[str]:
    """The steps of a counterexample without their bookkeeping, then how things stand at its end."""
    steps, _, end = told.partition("spin: trail ends")
    lines = []
    for line in steps.splitlines():
        found = re.match(r"\s*(\d+):\s+proc\s+\d+ \((\w+):\d+\) \S+ \(state \d+\)\s+\[(.*)\]$", line)
        if found is None:
            continue
        step, process, text = found.groups()
        told_nothing = text == "else" or re.fullmatch(r"[a-z] = 0", text) or text.startswith(("(", "assert"))
        if process != ":init:" and not told_nothing:
            lines.append(f"{step:>5} {process:<8} {text}")
    if len(lines) > TRAIL_LINES_MAX:
        yield f"      ({len(lines) - TRAIL_LINES_MAX} earlier steps)"
    yield from lines[-TRAIL_LINES_MAX:]
    stands = [line.strip() for line in end.splitlines() if " = " in line and not line.rstrip().endswith("= 0")]
    yield "  end: " + ", ".join(stands)


def _run(folder: str, *command: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )


def run_case(case: Case, *, quick: bool = False) -> Result:
    return check(MODEL.read_text(), case.defines, endless=case.endless, quick=quick)


def run_mutant(mutant: ModelMutant) -> Result:
    return check(mutated(mutant), mutant.defines, quick=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--mutants", action="store_true", help="also the mutants (`full` always has them)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases and mutants with TEXT in their names")
    options = parser.parse_args(arguments)
    missing = missing_tools()
    if missing:
        print(missing, file=sys.stderr)
        return 2
    full = options.size == "full"
    cases = [case for case in CASES if (full or case.small) and options.only in case.name]
    mutants = [one for one in MUTANTS if (full or options.mutants) and options.only in one.name]
    try:
        failed = _all_cases(cases) + _all_mutants(mutants)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(cases)} cases, {len(mutants)} mutants: {failed} failed")
    return 1 if failed else 0


HEAD = f"{'':<66} {'states':>10} {'depth':>7} {'MiB':>6} {'s':>6}"


def _line(name: str, result: Result, verdict: str) -> str:
    figures = f"{result.states:>10,} {result.depth:>7,} {result.memory_mib:>6.0f} {result.seconds:>6.1f}"
    return f"{name:<66} {figures}  {verdict}"


def _all_cases(cases: list[Case]) -> int:
    failed = 0
    print(HEAD)
    for case in cases:
        result = run_case(case, quick=case.small)
        failed += result.holds is not True
        print(_line(case.name, result, result.line if result.holds else f"FAILS: {result.line}"), flush=True)
        if result.trail:
            print(result.trail)
    return failed


def _all_mutants(mutants: list[ModelMutant]) -> int:
    failed = 0
    for mutant in mutants:
        result = run_mutant(mutant)
        failed += result.holds is not False
        verdict = "caught" if result.holds is False else f"NOT CAUGHT: {result.line}"
        print(_line(f"mutant: {mutant.name}", result, verdict), flush=True)
    return failed
