"""How fast does the hart run? Guest MIPS per kernel in CPU seconds, beside QEMU on the same binaries.

Each engine gets as many rounds of a kernel as take it about the same time. Instructions are what our machine
counts for the same number of rounds: the guests are deterministic. The engines take turns, so that a computer that
changes its speed changes it for all. From QEMU's CPU seconds those of a guest that does nothing are taken off.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import find_tool, tell
from bench.figures import Spread, geomean
from bench.processes import run_alone, run_qemu
from ftvm.guests import path as guest_path
from ftvm.guests import with_rounds

KERNELS = ("sieve", "crc32", "matmul", "qsort", "sha256", "bytecode", "traploop")
INTEGER_KERNELS = KERNELS[:-1]
"""Those of the geometric mean; the trap loop measures something else."""

EMPTY = "hello"
ENGINES = ("ours", "qemu", "icount")
PEERS = ENGINES[1:]
STARTS = 5
"""Runs of the guest that does nothing."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel does."""

    per_round: int
    traps_per_round: int
    fixed: int
    """Instructions before the first round and after the last."""


class Bench:
    """`target_s`: about how many CPU seconds one run shall take."""

    def __init__(self, folder: Path, *, target_s: float, repeats: int) -> None:
        self._folder = folder
        self._target_s = target_s
        self._repeats = repeats
        self._qemu = find_tool("qemu-system-riscv64")
        self._start_s: dict[str, float] = {}
        if self._qemu is not None:
            for engine in PEERS:
                run = partial(run_qemu, self._qemu, guest_path(EMPTY), icount=engine == "icount")
                self._start_s[engine] = statistics.median(run() for _ in range(STARTS))

    def measure(self, kernel: str) -> dict[str, Any]:
        """One kernel on all engines that are there."""
        work = self._work(kernel)
        rounds = {engine: self._calibrate(engine, kernel) for engine in self._engines()}
        rates: dict[str, list[float]] = {engine: [] for engine in rounds}
        for _ in range(self._repeats):
            for engine, count in rounds.items():
                rates[engine].append((work.fixed + count * work.per_round) / self._run(engine, kernel, count) / 1e6)
        figures: dict[str, Any] = {"instructions_per_round": work.per_round, "rounds": rounds}
        for engine in ENGINES:
            figures[engine] = Spread.of(rates[engine]).fields() if engine in rates else None
            if work.traps_per_round and engine in rates:
                per_million = work.per_round / 1e6
                figures[f"traps_per_s_{engine}"] = figures[engine]["median"] / per_million * work.traps_per_round
        return figures

    def _engines(self) -> tuple[str, ...]:
        return ENGINES if self._qemu is not None else ENGINES[:1]

    def _image(self, kernel: str, rounds: int) -> Path:
        path = self._folder / f"{kernel}-{rounds}.elf"
        if not path.exists():
            path.write_bytes(with_rounds(guest_path(kernel).read_bytes(), rounds))
        return path

    def _work(self, kernel: str) -> Work:
        one, three = (run_alone([self._image(kernel, rounds)])[0] for rounds in (1, 3))
        per_round = (three["instructions"] - one["instructions"]) // 2
        traps = (three["traps"] - one["traps"]) // 2
        return Work(per_round, traps, one["instructions"] - per_round)

    def _calibrate(self, engine: str, kernel: str) -> int:
        """Rounds that take the engine about the target; starts small and looks again until the guess is good."""
        rounds, seconds = 1, self._run(engine, kernel, 1)
        while seconds < self._target_s / 4:
            rounds = max(rounds + 1, round(rounds * min(self._target_s / max(seconds, 1e-3), 20)))
            seconds = self._run(engine, kernel, rounds)
        return max(1, round(rounds * self._target_s / seconds))

    def _run(self, engine: str, kernel: str, rounds: int) -> float:
        """CPU seconds."""
        image = self._image(kernel, rounds)
        if engine == "ours":
            return float(run_alone([image])[0]["cpu_s"])
        assert self._qemu is not None
        return max(1e-4, run_qemu(self._qemu, image, icount=engine == "icount") - self._start_s[engine])


def measure_kernels(folder: Path, kernels: tuple[str, ...], *, target_s: float, repeats: int) -> dict[str, Any]:
    """{"kernels": {name: figures}, "geomean": {engine: MIPS}, "share_of_icount": {name: share, ..., "geomean"}}."""
    bench = Bench(folder, target_s=target_s, repeats=repeats)
    figures = {}
    for kernel in kernels:
        figures[kernel] = bench.measure(kernel)
        tell(f"{kernel}: {figures[kernel]['ours']['median']:.0f} MIPS")
    means: dict[str, float] = {}
    integer = [kernel for kernel in kernels if kernel in INTEGER_KERNELS]
    for engine in ENGINES:
        if integer and all(figures[kernel][engine] for kernel in integer):
            means[engine] = geomean(figures[kernel][engine]["median"] for kernel in integer)
    shares = {
        kernel: figures[kernel]["ours"]["median"] / figures[kernel]["icount"]["median"]
        for kernel in kernels
        if figures[kernel]["icount"]
    }
    if "icount" in means:
        shares["geomean"] = means["ours"] / means["icount"]
    return {"kernels": figures, "geomean": means, "share_of_icount": shares}
