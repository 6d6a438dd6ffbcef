"""A disk with an ext4 file system, made with e2fsprogs as any user.

mke2fs makes the empty file system and debugfs writes every file, owner, mode and date into it. `mke2fs -d` would copy
a folder at once, but in that folder's own order and with the builder's user id and change times: other bytes on every
host. Checksums of metadata stay off: they cost the guest instructions, and the superblock's own dates can be reset.
"""

import stat
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from ftvm.errors import GuestBuildError
from ftvm.image.tools import environment
from ftvm.image.tree import Node, Tree

BLOCK_SIZE = 4096
MIB = 1 << 20
FREE_SIZE = 64 * MIB
"""What a disk of no given size has room for beside its contents."""
JOURNAL_SIZE = 8 * MIB
SIZE_MIN = 32 * MIB
"""mke2fs refuses such a journal on a smaller one."""
INODE_SIZE = 256
INODES_FREE_MIN = 4096
FEATURES = (
    "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize"
)
CONFIGURATION = f"""
[defaults]
base_features = {FEATURES}
[fs_types]
ext4 = {{
    blocksize = {BLOCK_SIZE}
}}
guest = {{
    inode_size = {INODE_SIZE}
}}
"""
"""In the place of this host's mke2fs.conf(5)."""
LABEL = "ftvm"

DATES = ("atime", "mtime", "ctime", "crtime")
RESERVED_INODES = ("<1>", "<7>", "<8>")
"""Bad blocks, group descriptors and journal: dated by mke2fs."""

SUPERBLOCK_AT = 1024
SUPERBLOCK_DATES = (0x30, 0x40, 0x108)
"""s_wtime, s_lastcheck and s_mkfs_time: 32 bits each, in seconds."""
SUPERBLOCK_WRITTEN = 0x178
"""s_kbytes_written, 64 bits: how much e2fsprogs wrote."""


def size_needed(tree: Tree) -> int:
    """Bytes, in whole MiB, without which the file system cannot hold the tree."""
    blocks = sum(1 + node.size // BLOCK_SIZE for node in tree.nodes.values())
    fixed = JOURNAL_SIZE + _inodes(tree) * INODE_SIZE
    return max(SIZE_MIN, -(-(blocks * BLOCK_SIZE * 101 // 100 + fixed + MIB) // MIB) * MIB)


def write_disk(tree: Tree, path: Path, size: int, identity: uuid.UUID) -> None:
    """Makes the image of `size` bytes (whole MiB) at `path`: the same bytes for the same arguments.

    Raises GuestBuildError when a tool is not there or the tree does not fit.
    """
    newest = max((node.mtime_s for node in tree.nodes.values()), default=0)
    with path.open("xb") as file:
        file.truncate(size)
    configuration = tree.spool / "mke2fs.conf"
    configuration.write_text(CONFIGURATION)
    options = f"root_owner=0:0,hash_seed={identity},lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    kind = ["-t", "ext4", "-T", "guest", "-m", "0", "-J", f"size={JOURNAL_SIZE // MIB}", "-N", str(_inodes(tree))]
    names = ["-L", LABEL, "-U", str(identity), "-E", options]
    _run(["mke2fs", "-q", "-F", *kind, *names, str(path)], MKE2FS_CONFIG=str(configuration))
    script = tree.spool / "debugfs"
    script.write_text("".join(f"{line}\n" for line in _script(tree, newest)))
    _run(["debugfs", "-w", "-f", str(script), str(path)])
    _reset_dates(path, newest)


def _inodes(tree: Tree) -> int:
    return len(tree.nodes) + max(INODES_FREE_MIN, len(tree.nodes) // 2)


def _script(tree: Tree, newest: int) -> Iterator[str]:
    """What debugfs(8) is to do. Dates of files that we made are the newest of the packages'."""
    for number, (path, node) in enumerate(tree.sorted()):
        yield _creation(tree.spool, number, path, node)
        yield from _attributes(path, node, node.mtime_s or newest)
    for path in ("", "lost+found"):
        yield from _attributes(path, Node(stat.S_IFDIR | (0o755 if path == "" else 0o700)), newest)
    for inode in RESERVED_INODES:
        yield from (f"set_inode_field {inode} {name} @{newest}" for name in DATES)


def _attributes(path: str, node: Node, date: int) -> Iterator[str]:
    field = f"set_inode_field {_quoted('/' + path)}"
    yield f"{field} mode 0{node.mode:o}"
    yield f"{field} uid {node.uid}"
    yield f"{field} gid {node.gid}"
    yield from (f"{field} {name} @{date}" for name in DATES)


def _creation(spool: Path, number: int, path: str, node: Node) -> str:
    place = _quoted("/" + path)
    match stat.S_IFMT(node.mode):
        case stat.S_IFDIR:
            return f"mkdir {place}"
        case stat.S_IFLNK:
            return f"symlink {place} {_quoted(node.target)}"
    assert stat.S_ISREG(node.mode), f"{path}: a disk holds no devices, the guest's devtmpfs does"
    content = node.content
    if isinstance(content, bytes):
        file = spool / f"made-{number}"
        file.write_bytes(content)
        content = file
    return f"write {_quoted(str(content))} {place}"


def _quoted(text: str) -> str:
    """One argument of a debugfs command: it splits at blanks, and doubles a quote to mean one."""
    if "\n" in text:
        raise GuestBuildError(f"{text!r}: a file's name with a line break cannot be put on a disk")
    return '"' + text.replace('"', '""') + '"'


def _run(command: list[str], **more: str) -> None:
    done = subprocess.run(
        command, env=environment(**more), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    told = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(f"{command[0]} 1.")]
    if done.returncode or told:
        raise GuestBuildError(f"{command[0]}: {(told or [f'ended with {done.returncode}'])[0]}")


def _reset_dates(path: Path, date: int) -> None:
    """In the superblock and the copies of it that e2fsprogs wrote."""
    with path.open("r+b") as file:
        file.seek(SUPERBLOCK_AT)
        superblock = file.read(1024)
        per_group = struct.unpack_from("<I", superblock, 0x20)[0]
        groups = -(-path.stat().st_size // (per_group * BLOCK_SIZE))
        for group in range(groups):
            at = group * per_group * BLOCK_SIZE + (SUPERBLOCK_AT if group == 0 else 0)
            file.seek(at + 0x38)
            if file.read(2) != b"\x53\xef":
                continue
            for field in SUPERBLOCK_DATES:
                file.seek(at + field)
                file.write(struct.pack("<I", date))
            file.seek(at + SUPERBLOCK_WRITTEN)
            file.write(struct.pack("<Q", 0))
