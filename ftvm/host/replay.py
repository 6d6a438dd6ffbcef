"""Replay: a log that carries its own start state, executed again to any tick."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftvm.config import DiskFile
from ftvm.errors import DivergenceError, LogError
from ftvm.host.disk import DiskImage, close_disks, open_disks
from ftvm.log.entry import Digest
from ftvm.log.file import LogReader, TornTail
from ftvm.machine.machine import Halt, Machine, StopReason

STEP_TICKS = 200_000_000
"""How far one call into the machine goes: progress is told in between."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """Where the replay ended, and what it checked. `tail` is what a crash left behind the last whole batch."""

    tick: int
    digest: bytes
    entries: int
    digests_compared: int
    halt: Halt | None
    tail: TornTail | None


def replay_log(
    path: Path,
    *,
    disks: Sequence[DiskFile] = (),
    until: int | None = None,
    expect: Mapping[int, bytes] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReplayResult:
    """Execute the log at `path` from its start, to tick `until` or to its last entry. `disks` are the machine's, in
    their order; their overlays are not looked at.

    Every `Digest` in it is compared, and every digest of `expect` (by tick) must be one of those, but for what is from
    before the start of this log. By entry and not by tick alone, for an input may follow at the very same tick. Raises
    `DivergenceError` at the first that differs, or when the machine cannot get to an entry's tick; `LogError` for a
    bad log or an `until` beyond its end.
    """
    compared = count = 0
    wanted = dict(expect or {})
    with LogReader(path) as reader, opened_disks(disks) as images:
        machine = Machine.restore(reader.snapshot(), images)
        wanted = {tick: digest for tick, digest in wanted.items() if tick > machine.tick}
        for entry in reader.entries():
            if until is not None and entry.tick > until:
                break
            run_to(machine, entry.tick, progress)
            count += 1
            if isinstance(entry, Digest):
                compare(machine, entry.digest)
                compared += 1
                if wanted.get(entry.tick) == entry.digest:
                    del wanted[entry.tick]
                    compared += 1
            else:
                machine.apply(entry)
        else:
            _check_end(machine, until)
        if until is not None:
            run_to(machine, until, progress)
        for tick, digest in wanted.items():
            raise DivergenceError(f"{path}: nothing in it has the digest {digest.hex()} at tick {tick}")
        return ReplayResult(machine.tick, machine.digest(), count, compared, machine.halt, reader.torn)


@contextmanager
def opened_disks(disks: Sequence[DiskFile]) -> Iterator[tuple[DiskImage, ...]]:
    images = open_disks(disks)
    try:
        yield images
    finally:
        close_disks(images)


def _check_end(machine: Machine, until: int | None) -> None:
    """Beyond the last entry nothing is known: the next input could have come at any tick."""
    if until is not None and until > machine.tick:
        raise LogError(f"--until {until}: the log ends at tick {machine.tick}")


def run_to(machine: Machine, tick: int, progress: Callable[[int], None] | None) -> None:
    """Execute to `tick`, where the log's next entry is. Raises `DivergenceError` when the machine cannot get there."""
    while machine.tick < tick:
        stop = machine.run_until(min(tick, machine.tick + STEP_TICKS))
        machine.take_outputs()
        if stop.reason in (StopReason.IDLE, StopReason.HALTED) and machine.tick < tick:
            raise DivergenceError(f"the machine is {stop.reason.name.lower()} at tick {machine.tick}, before {tick}")
        if progress is not None:
            progress(machine.tick)


def compare(machine: Machine, digest: bytes) -> None:
    """Raises `DivergenceError` when the machine has another digest."""
    ours = machine.digest()
    if ours != digest:
        raise DivergenceError(f"at tick {machine.tick} the digest is {ours.hex()}, and {digest.hex()} was logged")
