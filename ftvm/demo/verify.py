"""The logs of all lives of the demonstration, replayed on a third machine in this process.

Each life of a node leaves one self-contained log: the snapshot it joined with, and what was agreed on while it lived.
Lives overlap, for each began as the shadow of another: so every digest that a dead primary left on its disk must be
found, at the same tick, in the log of the life that took over, and a replay of that log must come to it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftvm.config import DiskFile
from ftvm.host.replay import replay_log
from ftvm.log.entry import Digest
from ftvm.log.file import LogReader


@dataclass(frozen=True, slots=True)
class LifeLog:
    """One life's log. `alive`: its node still writes it."""

    path: Path
    alive: bool


def logs_of(path: Path) -> list[LifeLog]:
    """The logs of a living node, oldest first: PATH.1, PATH.2, ... were set aside by its later lives."""
    numbered = [aside for aside in path.parent.glob(f"{path.name}.*") if aside.suffix[1:].isdigit()]
    earlier = sorted(numbered, key=lambda aside: int(aside.suffix[1:]))
    return [*(LifeLog(aside, False) for aside in earlier), LifeLog(path, True)]


def verify_replays(logs: Sequence[LifeLog], tick: int, digest: str, disks: Sequence[DiskFile] = ()) -> int:
    """Replay every log. Returns how many digests were compared: the logs' own, and those of all others in its span.

    The logs of living nodes are replayed to `tick`, where the live machine was asked for its `digest`. Raises
    `DivergenceError`, which says what differs; `LogError` for a log that cannot be read.
    """
    asked = {tick: bytes.fromhex(digest)}
    spans = [_read_span(log) for log in logs]
    compared = 0
    for number, (log, (end, _)) in enumerate(zip(logs, spans, strict=True)):
        end = tick if log.alive else end
        others = [digests for other, (_, digests) in enumerate(spans) if other != number]
        # At the very tick at which a dead one's log ends there may be more in others.
        theirs = {at: one for digests in others for at, one in digests.items() if at < end + log.alive}
        expect = {**theirs, **asked} if log.alive else theirs
        until = tick if log.alive else None
        compared += replay_log(log.path, disks=disks, until=until, expect=expect).digests_compared
    return compared


def _read_span(log: LifeLog) -> tuple[int, dict[int, bytes]]:
    """The tick of its last entry, and its digests by tick."""
    last, digests = 0, {}
    with LogReader(log.path) as reader:
        for entry in reader.entries():
            last = entry.tick
            if isinstance(entry, Digest):
                digests[entry.tick] = entry.digest
    return last, digests
