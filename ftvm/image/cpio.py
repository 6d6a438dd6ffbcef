"""An initramfs: the "newc" archive of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst."""

import stat
from collections.abc import Iterator

from ftvm.image.tree import Node, Tree

MAGIC = b"070701"
ALIGNMENT = 4
TRAILER = "TRAILER!!!"


def archive(tree: Tree) -> Iterator[bytes]:
    """The archive, uncompressed: a guest copies faster than it unpacks, and every replica boots."""
    for number, (path, node) in enumerate(tree.sorted(), start=1):
        yield _member(number, path, node)
    yield _member(0, TRAILER, Node(mode=0))


def _member(number: int, path: str, node: Node) -> bytes:
    name = path.encode() + b"\0"
    body = node.target.encode() if stat.S_ISLNK(node.mode) else node.read()
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (number, node.mode, node.uid, node.gid, links, node.mtime_s, len(body), 0, 0, *node.device, len(name), 0)
    return _padded(MAGIC + b"".join(b"%08X" % value for value in fields) + name) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
