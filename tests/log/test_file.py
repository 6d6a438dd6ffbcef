import itertools
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ExitCode, LogError
from ftvm.log import file as log_file
from ftvm.log.entry import LOG_VERSION, Clock, Entry, Horizon, Input
from ftvm.log.file import LogReader, LogWriteError, LogWriter, Sync, TornTail
from tests.log.strategies import entry_lists

CONFIG_HASH = bytes(range(16))
IMAGE_HASH = bytes(range(16, 32))
SNAPSHOT = b"the machine at its start"
BATCHES: list[list[Entry]] = [
    [Clock(0, 0, 1 << 30, 100_000), Input(0, "uart0", 0, b"PING\r\n")],
    [Horizon(70_000)],
    [Clock(80_000, 500, 1 << 30, 100_000), Horizon(90_000)],
]


def write(path: Path, batches: list[list[Entry]] = BATCHES, *, position: int = 0) -> list[int]:
    """A log of `batches`; returns the offsets at which each of them ends, the first being the snapshot's."""
    with LogWriter.create(
        path, config_hash=CONFIG_HASH, image_hash=IMAGE_HASH, snapshot=SNAPSHOT, position=position
    ) as writer:
        ends = [path.stat().st_size]
        for batch in batches:
            writer.append(batch)
            ends.append(path.stat().st_size)
        assert writer.size == ends[-1]
    return ends


def read(path: Path) -> tuple[bytes, list[list[Entry]], TornTail | None]:
    with LogReader(path) as reader:
        snapshot = reader.snapshot()
        batches = [batch.entries for batch in reader.batches()]
    return snapshot, batches, reader.torn


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path, position=41)
    assert read(path) == (SNAPSHOT, BATCHES, None)
    with LogReader(path) as reader:
        assert (reader.header.config_hash, reader.header.image_hash) == (CONFIG_HASH, IMAGE_HASH)
        assert [batch.position for batch in reader.batches()] == [41, 43, 44]
        assert list(reader.entries()) == [entry for batch in BATCHES for entry in batch]


def test_a_log_is_its_owners_alone_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x.log"]


@given(entry_lists(max_size=40), st.data())
def test_round_trip_however_entries_are_batched(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], data: st.DataObject
) -> None:
    """Entries come back in order, whatever the cuts between appends."""
    path = tmp_path_factory.getbasetemp() / "round-trip.log"
    writer = LogWriter.create(
        path, config_hash=CONFIG_HASH, image_hash=IMAGE_HASH, snapshot=b"", sync=Sync.NEVER, replace=True
    )
    with writer:
        start = 0
        while start < len(entries):
            end = data.draw(st.integers(start + 1, len(entries)))
            writer.append(entries[start:end])
            start = end
        writer.append([])
        assert writer.position == len(entries)
    with LogReader(path) as reader:
        assert list(reader.entries()) == entries


def test_more_entries_than_fit_one_batch_become_several(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    entries: list[Entry] = [Horizon(tick) for tick in range(10_000)]
    write(path, [entries])
    snapshot, batches, torn = read(path)
    assert (snapshot, torn) == (SNAPSHOT, None)
    assert len(batches) == 3
    assert [entry for batch in batches for entry in batch] == entries


def test_every_truncation_is_cut_at_the_last_whole_batch_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    ends = write(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size < ends[0]:
            with pytest.raises(LogError):
                read(path)
            continue
        kept = sum(end <= size for end in ends) - 1
        torn = TornTail(ends[kept], size - ends[kept]) if size > ends[kept] else None
        assert read(path) == (SNAPSHOT, BATCHES[:kept], torn)


def test_every_flipped_bit_is_damage_or_a_cut_and_never_another_log(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    ends = write(path)
    whole = path.read_bytes()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if bit // 8 < ends[-2]:
            with pytest.raises(LogError):
                read(path)
        else:
            assert read(path) == (SNAPSHOT, BATCHES[:-1], TornTail(ends[-2], ends[-1] - ends[-2]))


def test_damage_in_the_middle_names_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    ends = write(path)
    damaged = bytearray(path.read_bytes())
    damaged[ends[1] + 3] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(LogError, match=rf"x\.log: damaged at offset {ends[1]},.* from offset {ends[2]} on"):
        read(path)


def test_damage_before_a_far_record_is_not_taken_for_a_torn_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_SEARCH_SIZE", 64)
    path = tmp_path / "x.log"
    big: list[Entry] = [Input(70_000, "uart0", 6, bytes(4000))]
    lasts: list[list[Entry]] = [BATCHES[2], [Horizon(80_000)]]
    for last in lasts:
        batches = [*BATCHES[:2], big, last]
        path.unlink(missing_ok=True)
        ends = write(path, batches)
        damaged = bytearray(path.read_bytes())
        damaged[ends[2] + 50] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(LogError, match=f"damaged at offset {ends[2]},.* from offset {ends[3]} on"):
            read(path)


@pytest.mark.parametrize("order", [[0, 2], [0, 1, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_a_gap_a_duplicate_and_a_reorder_are_rejected(tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "x.log"
    ends = write(path)
    whole = path.read_bytes()
    parts = [whole[start:end] for start, end in itertools.pairwise(ends)]
    path.write_bytes(whole[: ends[0]] + b"".join(parts[index] for index in order))
    with pytest.raises(LogError, match="damaged at offset"):
        read(path)


def test_a_record_of_another_session_is_rejected(tmp_path: Path) -> None:
    ends = write(tmp_path / "one.log")
    write(tmp_path / "two.log")
    one, two = (tmp_path / "one.log").read_bytes(), (tmp_path / "two.log").read_bytes()
    spliced = one[: ends[1]] + two[ends[1] : ends[2]] + one[ends[2] :]
    (tmp_path / "one.log").write_bytes(spliced)
    with pytest.raises(LogError, match=f"damaged at offset {ends[1]}"):
        read(tmp_path / "one.log")


def test_another_version_is_refused_with_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.log"
    monkeypatch.setattr(log_file, "LOG_VERSION", LOG_VERSION + 6)
    write(path)
    monkeypatch.undo()
    with pytest.raises(LogError, match=rf"version {LOG_VERSION + 6},.*reads version {LOG_VERSION}"):
        LogReader(path)


@pytest.mark.parametrize("content", [b"", b"ftvm", b"\x7fELF" + bytes(200), os.urandom(500)])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(content)
    with pytest.raises(LogError, match="not an ftvm log"):
        LogReader(path)


def test_an_absent_log_and_a_folder_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="No such file"):
        LogReader(tmp_path / "absent.log")
    with pytest.raises(LogError, match="directory"):
        LogReader(tmp_path)


def test_an_existing_log_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    write(path)
    before = path.read_bytes()
    with pytest.raises(LogWriteError, match="exists already"):
        write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.log"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogWriteError, match="No such file") as caught:
        write(tmp_path / "absent" / "x.log")
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


_FULL_DISK = """
import resource, signal, sys
from ftvm.log.entry import Input
from ftvm.log.file import LogWriteError, LogWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = LogWriter.create(sys.argv[1], config_hash=bytes(16), image_hash=bytes(16), snapshot=b"s")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
written = 0
try:
    while True:
        writer.append([Input(5, "uart0", written, bytes(900))])
        written += 1
except LogWriteError as error:
    print(written, error)
writer.close()
"""


def test_a_full_disk_is_a_typed_error_and_leaves_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    written, message = done.stdout.split(" ", 1)
    assert "cannot be written" in message
    assert int(written) == 10
    with LogReader(path) as reader:
        assert len(list(reader.entries())) == int(written)
        assert reader.torn is None


def test_a_long_log_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    count = 4000
    with LogWriter.create(
        path, config_hash=CONFIG_HASH, image_hash=IMAGE_HASH, snapshot=b"", sync=Sync.NEVER
    ) as writer:
        for index in range(count):
            writer.append([Input(index, "uart0", index * 4096, bytes(4096))] * 4)
    assert path.stat().st_size > 60 << 20
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LogReader(path) as reader:
        assert sum(1 for _ in reader.entries()) == count * 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 16 << 10
