"""How long does Debian's kernel take to a shell? Ours beside QEMU, in CPU seconds and MIPS.

Two scenes: a system in the initramfs alone, and Debian on the disk with redis-server started. The engines take turns.
Ours is timed from the first instruction on; QEMU's CPU seconds are those of the whole process until the shell is there.
Instructions are what our machine counts; QEMU's MIPS are for the same number of them, though its firmware and its
clock make its own a little different.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.common import ROOT, find_tool, tell
from bench.figures import Spread
from bench.linux_guest import IN_MEMORY, ON_DISK, READY, LinuxGuest
from bench.processes import GuestFailed

SCENES = {"initramfs": IN_MEMORY, "disk": ON_DISK}
ENGINES = ("ours", "qemu", "icount")
BOOT_TIMEOUT_S = 300.0


def measure_boot(guest: LinuxGuest, *, repeats: int) -> dict[str, Any]:
    """{scene: {"instructions", "traps", engine: {"cpu_s", "wall_s", "mips": spreads} or None}}."""
    qemu = find_tool("qemu-system-riscv64")
    return {scene: _measure(guest, append, qemu, repeats, scene) for scene, append in SCENES.items()}


def _measure(guest: LinuxGuest, append: str, qemu: str | None, repeats: int, scene: str) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for _ in range(repeats):
        runs["ours"].append(_ours(guest, append))
        if qemu is not None:
            for engine in ENGINES[1:]:
                runs[engine].append(_theirs(guest.qemu_command(qemu, append, icount=engine == "icount")))
        told = ", ".join(f"{engine} {found[-1]['cpu_s']:.2f} s" for engine, found in runs.items() if found)
        tell(f"boot, {scene}: {told}")
    instructions = statistics.median(run["instructions"] for run in runs["ours"])
    figures: dict[str, Any] = {
        "instructions": instructions,
        "traps": statistics.median(run["traps"] for run in runs["ours"]),
    }
    for engine, found in runs.items():
        figures[engine] = None
        if found:
            figures[engine] = {key: Spread.of(run[key] for run in found).fields() for key in ("cpu_s", "wall_s")}
            mips = (run.get("instructions", instructions) / run["cpu_s"] / 1e6 for run in found)
            figures[engine]["mips"] = Spread.of(mips).fields()
    return figures


def _ours(guest: LinuxGuest, append: str) -> dict[str, float]:
    words = [sys.executable, "-m", "bench.boot_alone", str(guest.folder), append]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=BOOT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise GuestFailed(f"the guest did not boot in our machine: {done.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _theirs(command: list[str]) -> dict[str, float]:
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = b""
    with process.stdout:
        while READY not in said and (more := os.read(process.stdout.fileno(), 65536)):
            said += more
    process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if READY not in said:
        raise GuestFailed(f"the guest did not boot in QEMU: {said.decode(errors='replace')[-300:]}")
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.monotonic() - started}
