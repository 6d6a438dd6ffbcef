"""The journal holds what was committed and nothing else; a disk that fails ends it, and only it."""

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvm.host.journal import KEPT_LOGS_MAX, Journal
from ftvm.host.welcome import MachineIdentity
from ftvm.log.entry import Entry, Horizon
from ftvm.log.file import LogReader
from ftvm.log.stamp import Stamp
from tests.needs import small_file_system

MACHINE = MachineIdentity(b"c" * 16, b"i" * 16)
STATE = b"the state at the start"
STAMP = Stamp("machine", "alpha", b"l" * 16, 0, b"", 0, ())
ALONE = Stamp("machine", "alpha", b"l" * 16, 1, b"l" * 16, 1, (("alpha", b"l" * 16),))


def entries_of(path: Path) -> list[Entry]:
    with LogReader(path) as reader:
        entries = list(reader.entries())
        assert reader.torn is None
        return entries


def horizons(first: int, count: int) -> tuple[Entry, ...]:
    return tuple(Horizon(tick) for tick in range(first, first + count))


def start(journal: Journal, pos: int) -> None:
    """A new log, with its file at once."""
    number = journal.begin(pos)
    if journal.awaits_file:
        journal.adopt(number, journal.create(MACHINE, pos, STATE, STAMP))


def test_what_is_not_committed_is_not_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    journal = Journal(path)
    start(journal, 100)
    journal.append(horizons(1, 3))
    assert entries_of(path) == []
    journal.commit(102)  # in the middle of what was reported together: it stays together
    journal.write()
    assert entries_of(path) == []
    journal.append(horizons(4, 2))
    journal.commit(103)
    journal.write()
    assert entries_of(path) == list(horizons(1, 3))
    journal.commit(105)
    journal.write()
    assert entries_of(path) == list(horizons(1, 5))
    journal.append(horizons(6, 4))
    journal.close()
    assert entries_of(path) == list(horizons(1, 5))


def test_the_log_starts_with_the_state_and_its_position(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    journal = Journal(path)
    start(journal, 7)
    journal.append(horizons(1, 1))
    journal.commit(8)
    journal.write()
    assert journal.encoded_bytes > 0
    journal.close()
    with LogReader(path) as reader:
        assert reader.snapshot() == STATE
        assert next(iter(reader.batches())).position == 7
        assert (reader.header.config_hash, reader.header.image_hash) == (MACHINE.config_hash, MACHINE.image_hash)


def test_an_earlier_log_is_set_aside_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    journal = Journal(path)
    for count in (1, 2, 3):
        start(journal, 0)
        journal.append(horizons(1, count))
        journal.commit(count)
        journal.write()
    journal.close()
    assert [len(entries_of(tmp_path / name)) for name in ("a.ftlog.1", "a.ftlog.2", "a.ftlog")] == [1, 2, 3]


def test_too_many_earlier_logs_end_the_journal_with_words(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    for name in ("a.ftlog", *(f"a.ftlog.{number}" for number in range(1, KEPT_LOGS_MAX + 1))):
        (tmp_path / name).touch()
    journal = Journal(path)
    start(journal, 0)
    assert "move them away" in journal.trouble
    journal.append(horizons(1, 1))
    journal.commit(1)
    journal.write()
    assert path.stat().st_size == 0


def test_no_path_no_file(tmp_path: Path) -> None:
    journal = Journal(None)
    start(journal, 0)
    journal.append(horizons(1, 1))
    journal.commit(1)
    journal.write()
    assert (journal.trouble, journal.path_text, journal.encoded_bytes) == ("", "", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_stamp_stands_after_all_that_was_committed_and_before_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    journal = Journal(path)
    start(journal, 0)
    journal.append(horizons(1, 3))
    journal.commit(3)
    journal.append(horizons(4, 2))
    journal.stamp(ALONE)
    held = journal.inspect("machine", lambda _log: "")
    assert held is not None
    assert (held.stamp, held.pos, held.tick) == (ALONE, 3, 3)
    journal.commit(5)
    journal.close()
    held = journal.inspect("machine", lambda _log: "")
    assert held is not None
    assert (held.stamp, held.pos, held.tick) == (ALONE, 5, 5)


def test_a_log_that_can_neither_be_stamped_nor_put_aside_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ftlog"
    journal = Journal(path)
    start(journal, 0)

    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(os, "write", refuse)
    journal.stamp(ALONE)
    monkeypatch.undo()
    assert journal.stuck
    assert "nor can it be put aside" in journal.trouble
    held = journal.inspect("machine", lambda _log: "")
    assert held is not None
    assert held.stamp == STAMP
    start(journal, 0)
    assert not journal.stuck


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """As on a full disk: writing beyond `size` bytes of any file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def assert_ends_in_order(path: Path) -> None:
    """Writes until the journal gives up; what it wrote before is whole, and its file is closed."""
    journal = Journal(path)
    start(journal, 0)
    open_files = len(os.listdir("/proc/self/fd"))
    tick = 1
    while not journal.trouble:
        assert tick < 1_000_000
        journal.append(horizons(tick, 100))
        journal.commit(tick + 99)
        journal.write()
        tick += 100
    assert "cannot be written" in journal.trouble
    assert len(os.listdir("/proc/self/fd")) == open_files - 1
    journal.append(horizons(tick, 1))
    journal.commit(tick)
    journal.write()
    journal.close()
    assert not path.exists(), "a log that ends early is put aside: nobody may go on from it by mistake"
    written = entries_of(path.with_name(f"{path.name}.1"))
    assert written == list(horizons(1, len(written)))
    assert written


def test_a_write_that_fails_ends_the_journal_and_not_the_node(tmp_path: Path) -> None:
    with files_end_at(16_384):
        assert_ends_in_order(tmp_path / "a.ftlog")


def test_a_full_disk_ends_the_journal_and_not_the_node(tmp_path: Path) -> None:
    with small_file_system(tmp_path, "32k"):
        assert_ends_in_order(tmp_path / "a.ftlog")


def test_a_folder_that_cannot_be_made_is_trouble_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "a.ftlog")
    start(journal, 0)
    assert journal.trouble
