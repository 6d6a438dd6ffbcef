"""One boot in a process of its own: `python -m bench.boot_alone FOLDER APPEND`.

Runs the guest in FOLDER as `ftvm run` does until its shell is there, and prints one JSON object: instructions, traps,
ticks, cpu_s (of this process, inside the run), wall_s.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bench.linux_guest import RAM_MIB, READY, LinuxGuest
from ftvm.cli.guest import GuestFlags, powered_on
from ftvm.host.solo import run_solo


class Watched:
    """A console on which nobody types, and which the run leaves when the guest has said `READY`."""

    at_end = False
    size = None

    def __init__(self) -> None:
        self.said = b""

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        time.sleep(max(0.0, wait_s))
        return b""

    def write(self, data: bytes) -> None:
        self.said += data

    @property
    def stop_wanted(self) -> bool:
        return READY in self.said


def main() -> int:
    guest, append = LinuxGuest(Path(sys.argv[1])), sys.argv[2]
    flags = GuestFlags(
        kernel=guest.kernel, initrd=guest.initrd, append=append, disk=[f"{guest.disk},snapshot"], ram=str(RAM_MIB)
    )
    console = Watched()
    with powered_on(None, flags) as (machine, world):
        cpu_ns, wall_ns = time.process_time_ns(), time.monotonic_ns()
        run_solo(machine, console, world)
        cpu_ns, wall_ns = time.process_time_ns() - cpu_ns, time.monotonic_ns() - wall_ns
        counted = machine.statistics()
    if not console.stop_wanted:
        print(console.said.decode(errors="replace")[-500:], file=sys.stderr)
        return 1
    figures = {
        "ticks": counted.tick,
        "instructions": counted.instructions,
        "traps": counted.traps,
        "cpu_s": cpu_ns / 1e9,
        "wall_s": wall_ns / 1e9,
    }
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
