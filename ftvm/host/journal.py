"""A node's execution log on disk, which never runs ahead of what the pair agreed on.

Entries are written once they are committed: what a primary logged and nobody acknowledged is a future that its death
cancels, and must not be found on its disk as if it had happened.

A disk that fails ends the journal, not the machine: the pair is what keeps the guest alive. But a log that goes on
saying "this node is alone" while the machine goes on without it would one day be restarted from, and take back hours;
so a log that cannot be gone on with is put aside. Where even that fails, no shadow can be admitted (`stuck`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftvm.errors import LogError
from ftvm.host import logs
from ftvm.host.welcome import MachineIdentity
from ftvm.log.entry import Entry
from ftvm.log.file import LogWriter, Sync
from ftvm.log.resume import Fits, inspect, resume
from ftvm.log.stamp import Held, Stamp

WRITE_INTERVAL_NS = 50_000_000
HELD_MAX = 1024
"""Reports of an engine that are held back at most; each is bounded by what fits into one slice."""

HELD_BEFORE_FILE_MAX = 64 * HELD_MAX
"""Reports that wait for the file that they go into: minutes of a busy machine."""

KEPT_LOGS_MAX = 100
"""Earlier logs of the same path that are kept as PATH.1, PATH.2, ...; then the operator has to tidy up."""

_log = logs.get_logger("journal")


class Journal:
    """`path` None: nothing is written, and all methods do nothing but count."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writer: LogWriter | None = None
        self._held: deque[tuple[Entry, ...]] = deque()
        self._pos = self._committed = 0
        self._written_ns = 0
        self._start_size = 0
        self._number = 0
        self._awaits_file = False
        self._held_stamps: list[tuple[int, Stamp]] = []
        self.trouble = ""
        """Why the journal ended early, if it did."""
        self.stuck = False
        """It did, and its log could not be put aside: it says for ever what its last stamp says."""

    @property
    def path_text(self) -> str:
        return "" if self._path is None else str(self._path)

    @property
    def encoded_bytes(self) -> int:
        """Bytes of the log so far, without the snapshot that it starts with."""
        return 0 if self._writer is None else self._writer.size - self._start_size

    def describe(self) -> dict[str, Any]:
        """For `ftvm status`. A log that begins has no file before its machine's state is written."""
        file = self._writer is not None
        return {"bytes": self.encoded_bytes, "path": self.path_text, "has_file": file, "trouble": self.trouble}

    def inspect(self, machine: str, fits: Fits) -> Held | None:
        """What an earlier process left here. Reads the file: for a thread of its own."""
        return None if self._path is None else inspect(self._path, machine, fits)

    def reread(
        self, stamp: Stamp, begin: Callable[[bytes, int], None], each: Callable[[Entry], None]
    ) -> tuple[LogWriter, int]:
        """See `resume`; for a thread of its own. What it returns is for `go_on`."""
        assert self._path is not None
        return resume(self._path, stamp, begin, each)

    def go_on(self, writer: LogWriter, start_size: int) -> None:
        """From here on the log of an earlier process is this one's."""
        self._begin(writer.position)
        self._writer, self._start_size = writer, start_size

    def _begin(self, pos: int) -> None:
        self.close()
        self._held.clear()
        self._pos = self._committed = pos
        self.trouble, self.stuck = "", False

    @property
    def is_kept(self) -> bool:
        return self._path is not None

    @property
    def awaits_file(self) -> bool:
        """What was stamped is not written yet, for there is no file: `adopt` brings it."""
        return self._awaits_file

    def begin(self, pos: int) -> int:
        """A new log begins here, at `pos`, and an older one at the path is set aside. What is appended or stamped waits
        for the file that `adopt` brings: the state of a large machine takes longer to write than its guest may wait.

        Returns the number of this log, for `adopt` and `is_awaited`.
        """
        self._begin(pos)
        self._number += 1
        if self._path is not None:
            self._awaits_file = True
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _set_aside(self._path)
            except (LogError, OSError) as error:
                self._give_up(error)
        return self._number

    def is_awaited(self, number: int) -> bool:
        """The file of this log is still wanted. May be called from any thread."""
        return self._awaits_file and number == self._number

    def adopt(self, number: int, made: LogWriter | Exception) -> None:
        """The file of this log, from `create`; what waited goes into it. Only then may another one be created."""
        if not self.is_awaited(number):
            if isinstance(made, LogWriter):
                made.close()
                made.path.unlink(missing_ok=True)
            return
        self._awaits_file = False
        if isinstance(made, LogWriter):
            self._writer, self._start_size = made, made.size
            stamps, self._held_stamps = self._held_stamps, []
            for committed, stamp in stamps:
                self._write_up_to(committed)
                self._write_stamp(stamp)
        else:
            self._give_up(made)

    def create(self, machine: MachineIdentity, pos: int, state: bytes, stamp: Stamp) -> LogWriter | Exception:
        """The file of a new log, or why there is none. May be called from any thread."""
        assert self._path is not None
        try:
            return LogWriter.create(
                self._path,
                config_hash=machine.config_hash,
                image_hash=machine.image_hash,
                snapshot=state,
                position=pos,
                stamp=stamp,
                sync=Sync.NEVER,
            )
        except (LogError, OSError) as error:
            return error

    def append(self, entries: tuple[Entry, ...]) -> None:
        """The next entries, to be written when they are committed."""
        if (self._writer is not None or self._awaits_file) and entries:
            self._held.append(entries)
            if self._awaits_file and len(self._held) > HELD_BEFORE_FILE_MAX:
                self._give_up(LogError(f"{self.path_text}: to write the machine's state took too long"))

    def commit(self, pos: int) -> None:
        """Everything before log position `pos` may be written."""
        self._committed = max(self._committed, pos)

    def write(self, now_ns: int | None = None) -> None:
        """Write what is committed. With a time: only if the last write is `WRITE_INTERVAL_NS` ago.

        One batch for many slices: a write for each would cost a busy machine more than the log is worth. What a
        killed process had not written yet, its peer has.
        """
        if not self._held or self._writer is None:
            return
        if now_ns is not None:
            if now_ns - self._written_ns < WRITE_INTERVAL_NS and len(self._held) < HELD_MAX:
                return
            self._written_ns = now_ns
        self._write_up_to(self._committed)

    def _write_up_to(self, pos: int) -> None:
        batch: list[Entry] = []
        while self._held and self._pos + len(self._held[0]) <= pos:
            entries = self._held.popleft()
            self._pos += len(entries)
            batch.extend(entries)
        if batch and self._writer is not None:
            try:
                self._writer.append(batch)
            except LogError as error:
                self._give_up(error)

    def stamp(self, stamp: Stamp) -> None:
        """After all that is committed."""
        if self._awaits_file:
            self._held_stamps.append((self._committed, stamp))
            return
        self.write()
        self._write_stamp(stamp)

    def _write_stamp(self, stamp: Stamp) -> None:
        if self._writer is not None:
            try:
                self._writer.stamp(stamp)
            except LogError as error:
                self._give_up(error)

    def duplicate_fd(self) -> int | None:
        """For whoever syncs the log in a thread of its own; None where there is no log."""
        return None if self._writer is None else self._writer.duplicate_fd()

    def sync_failed(self, error: OSError) -> None:
        if self._writer is not None:
            self._give_up(error)

    def close(self) -> None:
        self.write()
        self._awaits_file = False
        self._held_stamps.clear()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _give_up(self, error: Exception) -> None:
        self.trouble = str(error)
        self._held.clear()
        self.close()
        assert self._path is not None
        try:
            _set_aside(self._path)
        except (LogError, OSError) as worse:
            self.stuck = self._path.exists()
            self.trouble += f"; nor can it be put aside: {worse}"
        _log.error("the log ends here, the machine goes on", path=self.path_text, why=self.trouble)


def _set_aside(path: Path) -> None:
    if not path.exists():
        return
    for number in range(1, KEPT_LOGS_MAX + 1):
        aside = path.with_name(f"{path.name}.{number}")
        if not aside.exists():
            path.rename(aside)
            return
    raise LogError(f"{path}: {KEPT_LOGS_MAX} earlier logs stand beside it; move them away")
