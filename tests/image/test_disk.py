import subprocess
import time
import uuid
from pathlib import Path

import pytest

from ftvm.errors import GuestBuildError
from ftvm.image.disk import MIB, SIZE_MIN, size_needed, write_disk
from ftvm.image.tools import environment
from ftvm.image.tree import Node, Tree, directory, link, regular
from tests.needs import need

NAMES = ("plain", "with blank", 'quo"ted', "ümlaut", "-dash")
IDENTITY = uuid.UUID(int=7)


@pytest.fixture(autouse=True)
def _tools() -> None:
    need("mke2fs", "e2fsprogs")


def small_tree(folder: Path) -> Tree:
    folder.mkdir()
    tree = Tree(folder)
    for name in NAMES:
        tree.put(f"folder/{name}", regular(f"content of {name}"))
    (folder / "large").write_bytes(b"large" * MIB)
    tree.put("large", Node(0o100640, uid=101, gid=102, mtime_s=1_700_000_000, content=folder / "large"))
    tree.put("private", directory(0o700, 101, 101))
    tree.put("link to", link("folder/with blank"))
    return tree


def asked(path: Path, request: str) -> bytes:
    command = ["debugfs", "-R", request, str(path)]
    return subprocess.run(command, capture_output=True, check=True, env=environment()).stdout


def test_a_disk_holds_the_tree_and_is_a_sound_file_system(tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "spool")
    path = tmp_path / "disk"
    write_disk(tree, path, 32 * MIB, IDENTITY)
    subprocess.run(["e2fsck", "-fn", path], check=True, capture_output=True, env=environment())
    for name in NAMES:
        quoted = name.replace('"', '""')
        assert asked(path, f'cat "/folder/{quoted}"').decode() == f"content of {name}"
    large = asked(path, "stat /large").decode()
    assert "Mode:  0640" in large
    assert "User:   101   Group:   102" in large
    assert "0x6553f100" in large
    assert asked(path, "cat /large") == b"large" * MIB
    assert "Mode:  0700" in asked(path, "stat /private").decode()
    assert 'Fast link dest: "folder/with blank"' in asked(path, 'stat "/link to"').decode()


def test_the_same_tree_gives_the_same_bytes_at_another_time_and_place(tmp_path: Path) -> None:
    """Whoever builds the guest again gets the image whose hash the other replicas know."""
    disks = []
    for name in ("one", "other"):
        path = tmp_path / f"{name}.img"
        write_disk(small_tree(tmp_path / name), path, 160 * MIB, IDENTITY)
        disks.append(path.read_bytes())
        _until_the_next_second()
    assert disks[0] == disks[1]


@pytest.mark.parametrize(("files", "size"), [(1, 40 * MIB), (3000, 10_000), (12_000, 0)])
def test_the_size_needed_is_enough(tmp_path: Path, files: int, size: int) -> None:
    tree = Tree(tmp_path)
    for number in range(files):
        tree.put(f"{number % 50}/{number}", regular(bytes([number % 255 + 1]) * size))
    write_disk(tree, tmp_path / "disk", size_needed(tree), IDENTITY)


def test_a_tree_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put("large", regular(b"x" * 40 * MIB))
    with pytest.raises(GuestBuildError, match="debugfs"):
        write_disk(tree, tmp_path / "disk", SIZE_MIN, IDENTITY)


def test_a_name_that_debugfs_cannot_read_is_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put("line\nrm /", regular(""))
    with pytest.raises(GuestBuildError, match="line break"):
        write_disk(tree, tmp_path / "disk", 32 * MIB, IDENTITY)


def _until_the_next_second() -> None:
    """Dates on a file system are in seconds."""
    now = int(time.time())
    while int(time.time()) == now:
        pass
