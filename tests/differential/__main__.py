"""`python -m tests.differential --programs N [--seed S]`: a campaign against unicorn, or kernel against reference.

Levels: "user" programs run on unicorn as well; "float" is LENGTH floating-point instructions on operands of their own;
"machine" adds CSRs, traps and devices, "paged" Sv39 and PMP too, on kernel and reference; "probes" are LENGTH random
privileged cases on QEMU, kernel and reference, and "tables" all the systematic ones, whatever N is.

Exit code 0 when nothing differed, 1 otherwise. Each mismatch is printed with its seed and a minimised listing.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from tests.differential.campaign import campaign
from tests.differential.floats import float_campaign
from tests.differential.machines import machine_campaign
from tests.differential.probes import probe_campaign, table_campaign
from tests.machine.engines import on_kernel, on_reference
from tests.machine.oracles import Unicorn

MISMATCHES_MAX = 5
"""Reports after which a campaign ends: more of them tell the same."""


def reports(arguments: argparse.Namespace) -> Iterator[str | None]:
    """For each program in turn: a report, or None when all agree."""
    seeds = range(arguments.seed, arguments.seed + arguments.programs)
    campaigns = {
        "float": lambda: float_campaign(seeds, arguments.length),
        "machine": lambda: machine_campaign(seeds, arguments.length, "machine"),
        "paged": lambda: machine_campaign(seeds, arguments.length, "paged"),
        "probes": lambda: probe_campaign(seeds, arguments.length),
        "tables": table_campaign,
    }
    if arguments.level in campaigns:
        yield from campaigns[arguments.level]()
        return
    oracle = Unicorn()
    for seed in seeds:
        engines = {"kernel": on_kernel}
        if seed % arguments.reference_every == 0:
            engines["reference"] = on_reference
        for _, mismatch in campaign(oracle.run, engines, range(seed, seed + 1), arguments.length):
            yield mismatch.report() if mismatch else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, help="how many, with seeds from --seed on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=200, help="steps of a program, each one to some instructions")
    parser.add_argument(
        "--level", choices=("user", "float", "machine", "paged", "probes", "tables"), default="user", help="see above"
    )
    parser.add_argument("--reference-every", type=int, default=10, help="run the slow reference on every nth program")
    arguments = parser.parse_args()
    began = time.monotonic()
    mismatches = 0
    done = 0
    for done, report in enumerate(reports(arguments), 1):
        if report:
            mismatches += 1
            print(f"\n{report}\n", flush=True)
            if mismatches == MISMATCHES_MAX:
                break
        if sys.stderr.isatty():
            print(f"\r{done} of {arguments.programs}", end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{done} programs from seed {arguments.seed}, {mismatches} mismatches, {seconds:.1f} s")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
