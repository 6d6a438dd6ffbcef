"""One unprotected machine in a process of its own: `python -m bench.alone IMAGE [--for SECONDS]`.

Prints one line "ready" when the machine code is loaded and the machine is built, waits for a line on standard input,
runs as `ftvm run` does, and prints one JSON object: ticks, instructions, traps, cpu_s (of this process, inside the
run), wall_s, ok (the guest passed, or was stopped because its time was up).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ftvm.host.solo import run_solo
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine


class Silence:
    """A console on which nobody types, and which the run leaves when its time is up."""

    at_end = False
    size = None

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        pass

    @property
    def stop_wanted(self) -> bool:
        return self._until is not None and time.monotonic() >= self._until


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.alone")
    parser.add_argument("image", type=Path)
    parser.add_argument("--for", dest="seconds", type=float, help="stop after so long; default: when the guest halts")
    options = parser.parse_args()
    machine = Machine(BoardConfig(), options.image.read_bytes())
    print("ready", flush=True)
    sys.stdin.readline()
    cpu_ns, wall_ns = time.process_time_ns(), time.monotonic_ns()
    result = run_solo(machine, Silence(options.seconds))
    cpu_ns, wall_ns = time.process_time_ns() - cpu_ns, time.monotonic_ns() - wall_ns
    counted = machine.statistics()
    ok = options.seconds is not None if result.halt is None else result.halt.ok
    figures = {
        "ticks": counted.tick,
        "instructions": counted.instructions,
        "traps": counted.traps,
        "cpu_s": cpu_ns / 1e9,
        "wall_s": wall_ns / 1e9,
        "ok": ok,
    }
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
