import stat
from collections.abc import Iterator
from pathlib import Path

from ftvm.image.cpio import archive
from ftvm.image.tree import Tree, character_device, link, regular


def members(data: bytes) -> Iterator[tuple[list[int], str, bytes]]:
    """What the kernel's unpack_to_rootfs() would find: the 13 fields, the name and the body of each member."""
    at = 0
    while at < len(data):
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * field : at + 14 + 8 * field], 16) for field in range(13)]
        name = data[at + 110 : at + 110 + fields[11]]
        assert name.endswith(b"\0")
        body = -(-(at + 110 + fields[11]) // 4) * 4
        yield fields, name[:-1].decode(), data[body : body + fields[6]]
        at = -(-(body + fields[6]) // 4) * 4


def test_an_archive_holds_what_the_tree_holds_in_the_kernels_format(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.put("init", regular("#!/bin/sh\n", 0o755))
    tree.put("bin/sh", link("busybox"))
    tree.put("dev/console", character_device(5, 1, 0o600))
    tree.put("empty", regular(b""))
    found = {name: (fields, body) for fields, name, body in members(b"".join(archive(tree)))}
    assert list(found) == ["bin", "bin/sh", "dev", "dev/console", "empty", "init", "TRAILER!!!"]
    assert found["init"][0][1] == stat.S_IFREG | 0o755
    assert found["init"][1] == b"#!/bin/sh\n"
    assert found["bin/sh"][1] == b"busybox"
    assert stat.S_ISLNK(found["bin/sh"][0][1])
    assert stat.S_ISDIR(found["bin"][0][1])
    assert found["dev/console"][0][1] == stat.S_IFCHR | 0o600
    assert found["dev/console"][0][9:11] == [5, 1]
    numbers = [fields[0] for name, (fields, _) in found.items() if name != "TRAILER!!!"]
    assert len(set(numbers)) == len(numbers)


def test_the_same_tree_gives_the_same_bytes_in_whatever_order_it_was_filled(tmp_path: Path) -> None:
    one, other = Tree(tmp_path), Tree(tmp_path)
    for tree, names in ((one, "abc"), (other, "cba")):
        for name in names:
            tree.put(f"{name}/x", regular(name))
    assert b"".join(archive(one)) == b"".join(archive(other))
