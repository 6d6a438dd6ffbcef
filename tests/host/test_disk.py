import fcntl
import os
from pathlib import Path

import pytest
import xxhash

from ftvm.config import DiskFile
from ftvm.host.disk import DiskError, open_disks
from ftvm.machine.board import BoardConfig
from ftvm.machine.hart import control as c
from ftvm.machine.machine import Machine
from tests.host.disks import BLOCK, BLOCKS, make_image, opened

IMAGE = b"\x01\x00" * 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hashes of the images here are kept here."""
    root = tmp_path / "cache"
    monkeypatch.delenv("FTVM_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "ftvm"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.delenv("XDG_CACHE_HOME")  # the interpreter's code is where it is
    images = [opened(make_image(tmp_path, name)) for name in ("a.img", "b.img")]
    return Machine(BoardConfig(ram_mib=1, disks=tuple(image.config for image in images)), IMAGE, images)


def contents(machine: Machine, disk: int) -> bytes:
    memory = machine._memory
    at = memory.disk_offset(disk)
    return memory.bytes[at : at + BLOCKS * BLOCK].tobytes()


def write(machine: Machine, disk: int, block: int, data: bytes) -> None:
    """As the disk device does it."""
    memory = machine._memory
    at = memory.disk_offset(disk) + block * BLOCK
    memory.bytes[at : at + len(data)] = bytearray(data)
    memory.flags[at // BLOCK] |= c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN


def test_an_image_is_mapped_page_for_page_and_zero_after_its_end(tmp_path: Path, machine: Machine) -> None:
    for disk, name in enumerate(("a.img", "b.img")):
        image = (tmp_path / name).read_bytes()
        assert contents(machine, disk) == image.ljust(BLOCKS * BLOCK, b"\0")


def test_what_a_guest_writes_never_reaches_the_image_and_a_reverted_page_is_the_images_again(
    tmp_path: Path, machine: Machine
) -> None:
    before = (tmp_path / "a.img").read_bytes()
    write(machine, 0, 3, b"x" * BLOCK)
    write(machine, 0, BLOCKS - 1, b"y" * BLOCK)
    assert (tmp_path / "a.img").read_bytes() == before
    assert contents(machine, 0)[3 * BLOCK : 4 * BLOCK] == b"x" * BLOCK
    machine.wipe()
    assert contents(machine, 0) == before.ljust(BLOCKS * BLOCK, b"\0")


def test_the_hash_is_of_the_whole_image_and_read_only_is_told(tmp_path: Path) -> None:
    path = make_image(tmp_path)
    image = opened(path, read_only=True)
    assert image.config.image_hash == xxhash.xxh3_128_digest(path.read_bytes())
    assert (image.config.size, image.config.read_only) == (BLOCKS * BLOCK - 512, True)
    image.close()


def test_a_hash_is_kept_until_the_image_changes(tmp_path: Path, cache: Path) -> None:
    path = make_image(tmp_path)
    opened(path).close()
    assert not list(cache.glob("disk-hashes/*"))  # it may be written again within the same time stamp
    os.utime(path, ns=(0, 0))
    first = opened(path)
    (kept,) = cache.glob("disk-hashes/*")
    first.close()
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    second = opened(path)
    assert second.config.image_hash == xxhash.xxh3_128_digest(bytes(content)) != first.config.image_hash
    second.close()
    os.utime(path, ns=(0, 0))
    kept.write_text('{"of": 3')
    third = opened(path)
    assert third.config.image_hash == second.config.image_hash
    third.close()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "give an image of whole sectors"),
        (b"x" * 1000, "has 1000 bytes"),
        (b"QFI\xfb".ljust(1024), "a qcow2 image"),
    ],
)
def test_a_file_that_is_no_raw_image_is_one_line(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "disk.img"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DiskError, match=told) as caught:
        opened(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="neither a file nor a block device"):
        opened(tmp_path)


def test_an_image_that_another_program_writes_is_in_use_and_one_that_is_read_can_be_shared(tmp_path: Path) -> None:
    path = make_image(tmp_path)
    first, second = opened(path), opened(path)
    second.close()
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    first.close()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(DiskError, match="in use by another program"):
        opened(path)
    os.close(fd)


def test_of_several_disks_all_are_opened_or_none(tmp_path: Path) -> None:
    path = make_image(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(DiskError, match="absent"):
        open_disks([DiskFile(image=path), DiskFile(image=tmp_path / "absent")])
    assert set(os.listdir("/proc/self/fd")) == before
