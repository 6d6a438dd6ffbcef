"""Bytes that nobody of ours made, for everything that reads bytes: `python -m tests.fuzz [--target NAME]`.

Each target runs in a process of its own, whose memory is bounded. The exit code is 1 if anything was found; a finding
prints its input, shrunk, and how to repeat it. See `tests.fuzz.guided` for inputs that are chosen by what they reach.
"""

import argparse
import multiprocessing
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.harness import Result, Target, check_one, run
from tests.fuzz.targets import TARGETS

MEMORY_MAX = 512 << 20
"""Bytes of address space that a run may take beside what the process had at its start."""


def main() -> int:
    options = _options()
    if options.hex is not None:
        finding = check_one(TARGETS[options.target[0]], bytes.fromhex(options.hex))
        print("nothing is wrong with this input" if finding is None else finding)
        return int(finding is not None)
    found = 0
    print(f"{'target':20} {'inputs':>8} {'taken':>8} {'seconds':>8}  findings")
    for name in options.target or TARGETS:
        target = TARGETS[name]
        result = _in_process(target, max(1, options.size // target.weight), options.seed, options.seconds)
        found += len(result.findings)
        figures = f"{result.executions:8} {result.accepted:8} {result.seconds:8.2f}"
        print(f"{name:20} {figures}  {len(result.findings)}", flush=True)
        for finding in result.findings:
            print(finding)
    return int(found > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="again for another; default: all")
    parser.add_argument("--size", type=int, default=10_000, help="inputs of a target; fewer for costly ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="for each target, instead of --size")
    parser.add_argument("--hex", help="this one input, for the one target")
    options = parser.parse_args()
    if options.hex is not None and len(options.target or ()) != 1:
        parser.error("--hex wants one --target")
    return options


def _in_process(target: Target, size: int, seed: int, seconds: float | None) -> Result:
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(there, target, size, seed, seconds))
    process.start()
    there.close()
    try:
        result: Result = here.recv()
    except EOFError:
        process.join()
        sys.exit(f"{target.name}: the process that ran it ended with {process.exitcode}")
    process.join()
    return result


def _child(there: Connection, target: Target, size: int, seed: int, seconds: float | None) -> None:
    had = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (had + MEMORY_MAX, resource.RLIM_INFINITY))
    there.send(run(target, size=size, seed=seed, seconds=seconds))


if __name__ == "__main__":
    sys.exit(main())
