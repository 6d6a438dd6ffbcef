"""The files that a guest begins with, before they are an initramfs or a disk.

Owners, modes and dates are what the packages say, whoever builds: contents lie in a folder of ours, everything else
in this table.
"""

import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from ftvm.errors import GuestBuildError

LINKS_FOLLOWED_MAX = 40


@dataclass(frozen=True, slots=True)
class Node:
    """A file, directory, symbolic link or device. `mode` includes the type, as in st_mode."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    content: bytes | Path = b""
    """Of a file; a Path is where the content lies on this host."""
    target: str = ""
    device: tuple[int, int] = (0, 0)

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def read(self) -> bytes:
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


def directory(mode: int = 0o755, uid: int = 0, gid: int = 0) -> Node:
    return Node(stat.S_IFDIR | mode, uid, gid)


def regular(content: str | bytes | Path, mode: int = 0o644) -> Node:
    return Node(stat.S_IFREG | mode, content=content.encode() if isinstance(content, str) else content)


def link(target: str) -> Node:
    return Node(stat.S_IFLNK | 0o777, target=target)


def character_device(major: int, minor: int, mode: int) -> Node:
    return Node(stat.S_IFCHR | mode, device=(major, minor))


@dataclass(slots=True)
class Tree:
    """Paths (relative, the root left out) to nodes. Every parent of a node is a directory in the table."""

    spool: Path
    """Where contents from archives are kept."""
    nodes: dict[str, Node] = field(default_factory=dict)
    _kept: int = 0

    def __contains__(self, path: str) -> bool:
        return self._resolved(path) in self.nodes

    def __getitem__(self, path: str) -> Node:
        return self.nodes[self._resolved(path)]

    def put(self, path: str, node: Node) -> None:
        """Adds `node`, and the directories to it. A directory takes the place of none that is there or linked to."""
        path = self._resolved(path)
        if not path:
            return
        parent = str(PurePosixPath(path).parent)
        if parent != "." and parent not in self.nodes:
            self.put(parent, directory())
        there = self.nodes.get(path)
        if there and stat.S_ISDIR(node.mode) and stat.S_ISLNK(there.mode):
            return
        self.nodes[path] = node

    def sorted(self) -> Iterator[tuple[str, Node]]:
        """Parents before their children; the order depends on nothing but the names."""
        for path in sorted(self.nodes, key=lambda path: path.split("/")):
            yield path, self.nodes[path]

    def unpack(self, archive: IO[bytes], wanted: Callable[[str], bool]) -> None:
        """Adds what a tar stream holds of `wanted` paths. Raises GuestBuildError when it is damaged."""
        try:
            with tarfile.open(fileobj=archive, mode="r|") as members:
                for member in members:
                    path = _inside(member.name)
                    if path and (member.isdir() or wanted(path)):
                        self._add(path, member, members)
        except (tarfile.TarError, EOFError) as error:
            raise GuestBuildError(f"a package is damaged: {error}") from None

    def _add(self, path: str, member: tarfile.TarInfo, members: tarfile.TarFile) -> None:
        def node(kind: int, content: bytes | Path = b"", target: str = "") -> Node:
            return Node(kind | member.mode & 0o7777, member.uid, member.gid, int(member.mtime), content, target)

        if member.isdir():
            self.put(path, node(stat.S_IFDIR))
        elif member.issym():
            self.put(path, node(stat.S_IFLNK, target=member.linkname))
        elif member.islnk():
            original = _inside(member.linkname)
            if original not in self:
                raise GuestBuildError(f"a package is damaged: {path} is a link to {original}, which it does not hold")
            self.put(path, self[original])
        elif member.isreg():
            content = members.extractfile(member)
            assert content is not None
            self.put(path, node(stat.S_IFREG, self._keep(content)))

    def _keep(self, content: IO[bytes]) -> Path:
        self._kept += 1
        path = self.spool / str(self._kept)
        with path.open("xb") as file:
            shutil.copyfileobj(content, file)
        return path

    def _resolved(self, path: str) -> str:
        """`path` with the links on the way to its last part followed, as /lib is one to /usr/lib."""
        done: list[str] = []
        rest = path.split("/")[::-1]
        for _ in range(LINKS_FOLLOWED_MAX + len(rest)):
            if not rest:
                return "/".join(done)
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            node = self.nodes.get("/".join([*done, part]))
            if rest and node and stat.S_ISLNK(node.mode):
                done = [] if node.target.startswith("/") else done
                rest += node.target.split("/")[::-1]
            else:
                done.append(part)
        raise GuestBuildError(f"{path}: too many symbolic links on the way")


def _inside(name: str) -> str:
    """The path of an archive's member below the root, wherever it says it lies."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
