"""Guests in processes of their own: unprotected machines of ours, and QEMU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common import ROOT
from ftvm.errors import FtvmError

RUN_TIMEOUT_S = 300.0
QEMU_BOARD = ("-machine", "virt", "-m", "64", "-bios", "none")
QEMU_SILENT = ("-display", "none", "-serial", "null", "-monitor", "none", "-nodefaults")
ICOUNT = ("-icount", "shift=0")


class GuestFailed(FtvmError):
    """A guest did not end as it should: no figure may come of it."""


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core; threads that it starts later inherit that."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0))


def run_alone(
    images: Sequence[Path], *, seconds: float | None = None, pinned: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Run unprotected machines at the same time, one an image; their figures as `bench.alone` prints them.

    Args:
        images: one machine each.
        seconds: how long; None: until the guest halts.
        pinned: the core of each machine; empty: the kernel decides.
    """
    words = [] if seconds is None else ["--for", str(seconds)]
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.alone", str(image), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for image in images
    ]
    try:
        for machine in machines:
            assert machine.stdout is not None
            if machine.stdout.readline() != "ready\n":
                raise GuestFailed("bench.alone did not start")
        for machine, core in zip(machines, pinned, strict=False):
            pin(machine.pid, core)
        for machine in machines:
            assert machine.stdin is not None
            machine.stdin.write("go\n")
            machine.stdin.flush()
        figures = [json.loads(machine.communicate(timeout=RUN_TIMEOUT_S)[0]) for machine in machines]
    finally:
        for machine in machines:
            if machine.poll() is None:
                machine.kill()
                machine.wait()
    for image, figure in zip(images, figures, strict=True):
        if not figure["ok"]:
            raise GuestFailed(f"{image.name}: the guest failed in our machine")
    return figures


def run_qemu(qemu: str, image: Path, *, icount: bool) -> float:
    """CPU seconds of a whole QEMU process that runs the image to its end."""
    words = [qemu, *QEMU_BOARD, "-kernel", str(image), *QEMU_SILENT, *(ICOUNT if icount else ())]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise GuestFailed(f"{image.name}: QEMU ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime
