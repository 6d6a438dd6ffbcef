"""`python -m tests.sim --seeds A:B`: runs the replication core through seeded histories of faults."""

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.sim import coverage
from tests.sim.clock import MS
from tests.sim.run import Result, run_seed
from tests.sim.shrink import shrink

CHUNK = 50
"""Seeds that one process runs at a time."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="A:B, the second excluded, or one seed")
    parser.add_argument("--trace", action="store_true", help="print every event and effect")
    parser.add_argument("--shrink", action="store_true", help="make the plans of failing seeds as small as they get")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--coverage", metavar="FILE", help="write the coverage table as JSON")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    if arguments.trace:
        results: Iterable[Result] = (run_seed(seed, print) for seed in seeds)
    else:
        results = _run_all(seeds, arguments.jobs)
    return _report(results, seeds, arguments)


def _run_all(seeds: range, jobs: int) -> Iterator[Result]:
    """In the order of the seeds, whoever ran them."""
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    if jobs == 1:
        _tune()
        for chunk in chunks:
            yield from _run_chunk(chunk)
        return
    with multiprocessing.Pool(jobs, _tune) as pool:
        for results in pool.imap(_run_chunk, chunks):
            yield from results


def _tune() -> None:
    """A run makes few cycles but many objects: looking for garbage that often costs a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _run_chunk(seeds: range) -> list[Result]:
    return [run_seed(seed) for seed in seeds]


def _report(results: Iterable[Result], seeds: range, arguments: argparse.Namespace) -> int:
    failures = 0
    counts: Counter[str] = Counter()
    table: coverage.Table = Counter()
    began, began_cpu = time.perf_counter(), time.process_time()
    for result in results:
        counts.update(dict(result.counts))
        counts.update(
            events=result.events,
            delivered=result.delivered,
            generations=result.generations,
            faults=result.faults,
            lost=result.lost,
            rounds=len(result.rounds),
        )
        table.update(dict(result.coverage))
        if result.failure:
            failures += 1
            _explain(result, arguments.shrink)
    seconds = max(time.perf_counter() - began, 1e-9)
    cpu = time.process_time() - began_cpu if arguments.jobs == 1 else seconds * arguments.jobs
    print(coverage.as_text(table))
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"{counts['delivered'] / len(seeds):.0f} messages and {counts['events'] / len(seeds):.0f} events a run")
    if arguments.coverage:
        Path(arguments.coverage).write_text(json.dumps(coverage.as_json(table), indent=1))
    rate = f"{len(seeds) / cpu:.0f} seeds/s, {counts['events'] / cpu:.0f} events/s on one core"
    print(f"{len(seeds)} seeds, {failures} failed; {seconds:.1f} s, {rate}")
    return 1 if failures else 0


def _explain(result: Result, smaller: bool) -> None:
    print(f"seed {result.seed}: {result.failure}")
    print(f"  repeat: python -m tests.sim --seeds {result.seed} --trace", flush=True)
    if smaller:
        best, tail = shrink(result)
        kept, before = (sum(len(one.faults) for one in plan.rounds) for plan in (best, result))
        print(f"  with {kept} of {before} faults: {best.failure}")
        for number, one in enumerate(best.rounds):
            print(f"    round {number}, {one.time_ns / MS:.1f} ms" + "".join(f"\n    {fault}" for fault in one.faults))
        print("  and it ends so:")
        print(*(f"    {line[:200]}" for line in tail), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
