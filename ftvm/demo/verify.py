"""The logs of all lives of the demonstration, replayed on a third machine in this process.

Each life of a node leaves one self-contained log: the snapshot it joined with, and what was committed while it lived.
Lives overlap, for each was a shadow of the one before: so every digest that a dead primary left on its disk must be
found, at the same tick, in the log of the life that took over, and a replay of that log must come to it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftvm.host.replay import replay_log
from ftvm.log.entry import Digest
from ftvm.log.file import LogReader


def logs_of(path: Path) -> list[Path]:
    """The logs that stand at `path`, oldest first: PATH.1, PATH.2, ... were set aside by later lives."""
    numbered = [aside for aside in path.parent.glob(f"{path.name}.*") if aside.suffix[1:].isdigit()]
    return [*sorted(numbered, key=lambda aside: int(aside.suffix[1:])), path]


def verify_replays(logs: Sequence[Path], tick: int, digest: str) -> int:
    """Replay `logs`, in the order in which their lives began. Returns how many digests were compared.

    The last two are of the replicas that live: both must have `digest` at `tick`, where the machine was asked for it.
    Raises `DivergenceError`, which says what differs; `LogError` for a log that cannot be read.
    """
    compared = 0
    theirs: dict[int, bytes] = {}
    asked = {tick: bytes.fromhex(digest)}
    for number, log in enumerate(logs):
        alive = number >= len(logs) - 2
        result = replay_log(log, until=tick if alive else None, expect={**theirs, **(asked if alive else {})})
        compared += result.digests_compared
        with LogReader(log) as reader:
            digests = [entry for entry in reader.entries() if isinstance(entry, Digest)]
        theirs = {entry.tick: entry.digest for entry in digests if not alive or entry.tick <= tick}
    return compared
