"""`python -m tests.sim --seeds A:B [--trace]`: runs the replication core through seeded histories of faults."""

import argparse
import sys
import time
from collections import Counter

from tests.sim.run import run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="A:B, the second excluded, or one seed")
    parser.add_argument("--trace", action="store_true", help="print every event and effect")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    failures = 0
    counts: Counter[str] = Counter()
    began = time.process_time()
    for seed in seeds:
        result = run_seed(seed, print if arguments.trace else None)
        counts.update(dict(result.counts))
        counts.update(
            events=result.events,
            delivered=result.delivered,
            generations=result.generations,
            faults=result.faults,
            lost=result.lost,
        )
        if result.failure:
            failures += 1
            print(f"seed {seed}: {result.failure}")
            print(f"  repeat: python -m tests.sim --seeds {seed}:{seed + 1} --trace", flush=True)
    seconds = max(time.process_time() - began, 1e-9)
    print(f"{len(seeds)} seeds, {failures} failed, {len(seeds) / seconds:.0f} seeds/s, {seconds:.1f} CPU s")
    print(f"{counts['events'] / seconds:.0f} events/s, {counts['delivered'] / len(seeds):.0f} messages a run")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
