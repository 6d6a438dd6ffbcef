import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.host.disk import DiskError
from ftvm.host.overlay import Overlay, OverlayStamp, open_overlay, read_stamp
from ftvm.machine.board import DiskConfig
from tests.host.disks import BLOCK, BLOCKS

DISK = DiskConfig(BLOCKS * BLOCK - 512, b"i" * 16)
HEADERS = 2
Blocks = dict[int, bytes]


def block(number: int) -> bytes:
    return struct.pack("<Q", number) * (BLOCK // 8)


def reopened(path: Path, machine: str = "bank", disk: DiskConfig = DISK) -> Overlay:
    return open_overlay(path, disk, machine)


def read(overlay: Overlay) -> Blocks:
    found: Blocks = {}
    for offset, data in overlay.read():
        for at in range(0, len(data), BLOCK):
            found[(offset + at) // BLOCK] = data[at : at + BLOCK]
    return found


def made(path: Path, blocks: Blocks, stamp: OverlayStamp | None = None) -> None:
    overlay = reopened(path)
    overlay.write(sorted((number * BLOCK, data) for number, data in blocks.items()))
    overlay.flush(stamp)
    overlay.close()


writes = st.dictionaries(
    st.integers(0, BLOCKS - 1), st.one_of(st.none(), st.integers(0, 5).map(block)), min_size=1, max_size=BLOCKS
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(writes, st.sampled_from(["write", "flush", "reopen", "begin"])), max_size=8))
def test_an_overlay_holds_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[dict[int, bytes | None], str]]
) -> None:
    """After any writes, flushes and reopenings the blocks are those that a dictionary would hold."""
    path = tmp_path_factory.mktemp("overlay") / "o"
    overlay = reopened(path)
    expected: Blocks = {}
    for written, then in steps:
        if then == "begin":
            overlay.begin()
            expected = {}
        overlay.write(sorted((number * BLOCK, data) for number, data in written.items()))
        for number, data in written.items():
            if data is None:
                expected.pop(number, None)
            else:
                expected[number] = data
        if then in ("flush", "reopen"):
            overlay.flush()
        if then == "reopen":
            overlay.close()
            overlay = reopened(path)
        assert read(overlay) == expected
        assert overlay.blocks == len(expected)
    overlay.close()


def test_equal_contents_make_equal_blocks_whatever_the_order(tmp_path: Path) -> None:
    made(tmp_path / "a", {3: block(1), 4: block(2), 39: block(3)})
    made(tmp_path / "b", {39: block(9), 4: block(2)})
    made(tmp_path / "b", {3: block(1), 39: block(3)})
    ends = [(tmp_path / name).read_bytes()[(HEADERS + 2) * BLOCK :] for name in "ab"]
    assert ends[0] == ends[1]


def test_what_a_crash_leaves_is_the_last_flush_but_for_blocks_written_since(tmp_path: Path) -> None:
    path = tmp_path / "o"
    overlay = reopened(path)
    overlay.write([(0, block(1)), (BLOCK, block(2))])
    overlay.flush(OverlayStamp("bank", 3, 1000))
    overlay.write([(BLOCK, block(7)), (2 * BLOCK, block(8))])
    shutil.copy(path, tmp_path / "crashed")
    overlay.close()
    crashed = reopened(tmp_path / "crashed")
    assert read(crashed) == {0: block(1), 1: block(7)}
    assert crashed.stamp == OverlayStamp("bank", 3, 1000)


class Crash(Exception):
    pass


@pytest.mark.parametrize("syncs", range(3))
def test_a_crash_in_the_first_flush_leaves_nothing_that_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs: int
) -> None:
    (tmp_path / "node").mkdir()
    path = tmp_path / "node" / "o"
    overlay = reopened(path)
    left = iter(range(syncs))

    def fdatasync(_fd: int) -> None:
        if next(left, None) is None:
            raise Crash

    overlay.write([(0, block(1)), (BLOCK, block(2))])
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(Crash):
        overlay.flush(OverlayStamp("bank", 3, 1000))
    monkeypatch.undo()
    shutil.copytree(path.parent, tmp_path / "crashed")
    overlay.close()
    crashed = reopened(tmp_path / "crashed" / "o")
    assert crashed.is_new
    crashed.write([(BLOCK, block(7))])
    crashed.flush()
    crashed.close()
    assert os.listdir(tmp_path / "crashed") == ["o"]
    assert read(reopened(tmp_path / "crashed" / "o")) == {1: block(7)}


@pytest.mark.parametrize("at", [8, 40, BLOCK * HEADERS])
def test_a_flush_that_was_torn_in_its_header_or_bitmap_leaves_the_one_before(tmp_path: Path, at: int) -> None:
    path = tmp_path / "o"
    made(path, {1: block(1)}, OverlayStamp("bank", 1, 10))  # to slot 1
    made(path, {2: block(2)}, OverlayStamp("bank", 1, 20))  # to slot 0
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    overlay = reopened(path)
    assert overlay.stamp.tick == 10
    assert read(overlay) == {1: block(1)}
    overlay.write([(3 * BLOCK, block(3))])
    overlay.flush()
    overlay.close()
    assert read(reopened(path)) == {1: block(1), 3: block(3)}


def test_a_new_file_takes_the_place_of_the_old_one_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "o"
    made(path, {1: block(1)}, OverlayStamp("bank", 1, 10))
    overlay = reopened(path)
    overlay.begin()
    overlay.write([(2 * BLOCK, block(2))])
    shutil.copy(path, tmp_path / "meanwhile")
    overlay.flush(OverlayStamp("bank", 2, 20))
    with pytest.raises(DiskError, match="in use by another machine"):
        reopened(path)
    overlay.close()
    assert read(reopened(tmp_path / "meanwhile")) == {1: block(1)}
    assert read(reopened(path)) == {2: block(2)}
    assert sorted(os.listdir(tmp_path)) == ["meanwhile", "o"]


def test_a_new_file_that_was_never_flushed_is_gone_and_the_old_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "o"
    made(path, {1: block(1)})
    overlay = reopened(path)
    overlay.begin()
    overlay.write([(2 * BLOCK, block(2))])
    overlay.close()
    assert os.listdir(tmp_path) == ["o"]
    assert read(reopened(path)) == {1: block(1)}


def test_a_new_file_that_cannot_be_made_leaves_the_old_one_to_be_closed_once(tmp_path: Path) -> None:
    path = tmp_path / "o"
    made(path, {1: block(1)})
    overlay = reopened(path)
    (tmp_path / "o.new").mkdir()
    with pytest.raises(DiskError):
        overlay.begin()
    overlay.close()
    assert read(reopened(path)) == {1: block(1)}


def test_an_overlay_that_nothing_was_flushed_to_is_removed(tmp_path: Path) -> None:
    reopened(tmp_path / "o").close()
    assert os.listdir(tmp_path) == []
    assert read_stamp(tmp_path / "o", DISK, "bank") is None


@pytest.mark.parametrize(
    ("disk", "machine", "told"),
    [
        (DiskConfig(DISK.size - 4096, DISK.image_hash), "bank", "is shorter now"),
        (DiskConfig(DISK.size + 512, DISK.image_hash), "bank", "is longer now"),
        (DiskConfig(DISK.size, b"j" * 16), "bank", "lies over another image"),
        (DISK, "shop", "is of machine 'bank', not of 'shop'"),
    ],
)
def test_an_overlay_of_another_disk_or_machine_is_one_line(
    tmp_path: Path, disk: DiskConfig, machine: str, told: str
) -> None:
    made(tmp_path / "o", {1: block(1)})
    with pytest.raises(DiskError, match=told) as caught:
        reopened(tmp_path / "o", machine, disk)
    assert "\n" not in str(caught.value)
    reopened(tmp_path / "o").close()


def test_a_file_that_was_cut_off_and_one_that_is_no_overlay_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "o"
    made(path, {39: block(1)})
    content = path.read_bytes()
    os.truncate(path, len(content) - 1)
    with pytest.raises(DiskError, match="cut off"):
        reopened(path)
    path.write_bytes(b"MThd" * 5000)
    with pytest.raises(DiskError, match="damaged, or no overlay"):
        reopened(path)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, (HEADERS + 2) * BLOCK - 1), st.integers(1, 255), st.integers(0, (HEADERS + 3) * BLOCK))
def test_a_damaged_overlay_is_an_overlay_or_a_disk_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, flip: int, size: int
) -> None:
    """Whatever is flipped or cut off in headers and bitmaps, nothing but DiskError is raised."""
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.unlink(missing_ok=True)
    made(path, {1: block(1)})
    content = bytearray(path.read_bytes())
    content[at] ^= flip
    path.write_bytes(content if size > 2 * BLOCK else content[:size])
    with suppress(DiskError):
        overlay = reopened(path)
        read(overlay)
        overlay.close()


def test_a_full_disk_is_one_line_and_leaves_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o"
    made(path, {1: block(1)})
    overlay = reopened(path)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskError, match="No space left on device; make room there"):
        overlay.write([(2 * BLOCK, block(2))])
    monkeypatch.undo()
    overlay.close()
    assert read(reopened(path)) == {1: block(1)}
