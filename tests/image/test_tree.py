import io
import stat
import tarfile
from pathlib import Path

import pytest

from ftvm.errors import GuestBuildError
from ftvm.image.tree import Tree, directory, link, regular


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **more: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    found.uid, found.gid, found.mtime, found.mode = (more.get(one, 0) for one in ("uid", "gid", "mtime", "mode"))
    return found


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for one, content in members:
            one.size = len(content)
            file.addfile(one, io.BytesIO(content))
    stream.seek(0)
    return stream


def test_an_archive_keeps_owners_modes_dates_and_contents(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.unpack(packed((member("./a/b", uid=7, gid=8, mtime=9, mode=0o4750), b"content")), lambda path: True)
    node = tree["a/b"]
    assert (node.uid, node.gid, node.mtime_s, stat.S_IMODE(node.mode)) == (7, 8, 9, 0o4750)
    assert (node.read(), node.size) == (b"content", 7)
    assert stat.S_ISDIR(tree["a"].mode)


def test_only_wanted_files_are_taken(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.unpack(packed((member("./a"), b"1"), (member("./b"), b"2")), lambda path: path == "b")
    assert sorted(tree.nodes) == ["b"]


def test_files_of_a_linked_folder_lie_in_the_folder_it_leads_to(tmp_path: Path) -> None:
    """Debian's /bin and /lib are links to /usr; packages may still say /lib."""
    tree = Tree(tmp_path)
    tree.put("lib", link("usr/lib"))
    tree.put("etc/there", link("/lib/deep/.."))
    tree.unpack(packed((member("./lib/", tarfile.DIRTYPE), b""), (member("./lib/x/y"), b"1")), lambda path: True)
    tree.put("etc/there/z", regular("2"))
    assert sorted(tree.nodes) == ["etc", "etc/there", "lib", "usr", "usr/lib", "usr/lib/x", "usr/lib/x/y", "usr/lib/z"]
    assert stat.S_ISLNK(tree["lib"].mode)


def test_names_never_leave_the_tree(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "spool")
    tree.spool.mkdir()
    names = ["../../escape", "/absolute", "a/../../b"]
    tree.unpack(packed(*((member(name), b"x") for name in names)), lambda path: True)
    assert sorted(tree.nodes) == ["a", "a/b", "absolute", "escape"]
    assert list(tmp_path.iterdir()) == [tree.spool]


def test_a_hard_link_is_the_same_file(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.unpack(
        packed((member("./a", mode=0o755), b"1"), (member("./b", tarfile.LNKTYPE, "./a"), b"")), lambda path: True
    )
    assert tree["a"] == tree["b"]


@pytest.mark.parametrize(
    "archive",
    [
        io.BytesIO(b"no archive at all" * 100),
        io.BytesIO(packed((member("./a"), b"x" * 5000)).getvalue()[:3000]),
        packed((member("./b", tarfile.LNKTYPE, "./absent"), b"")),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, archive: io.BytesIO) -> None:
    archive.seek(0)
    with pytest.raises(GuestBuildError, match="damaged"):
        Tree(tmp_path).unpack(archive, lambda path: True)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put("a", link("b"))
    tree.put("b", link("a"))
    with pytest.raises(GuestBuildError, match="too many symbolic links"):
        tree.put("a/c", directory())


def test_parents_come_before_their_children(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for path in ("a-b", "a/b", "a/b/c", "a"):
        tree.put(path, directory())
    assert [path for path, _ in tree.sorted()] == ["a", "a/b", "a/b/c", "a-b"]
