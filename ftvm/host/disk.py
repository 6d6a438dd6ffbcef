"""Disk images: raw files that are read and never written. What a guest writes goes to an overlay (`ftvm.host.overlay`).

An image's pages are mapped privately into the machine's memory, so a disk of many gigabytes is there at once and only
what the guest reads is ever loaded. Whoever uses one holds a shared lock on it (flock): a program that takes its files
for itself, as ours take overlays, finds it in use.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from ftvm.config import DiskFile
from ftvm.errors import ConfigError, ExitCode, FtvmError
from ftvm.machine.board import DiskConfig

PAGE = 4096
HASH_STEP = 1 << 22
PROGRESS_STEP = 1 << 28
"""Who waits for an image to be hashed hears of it as often as this many bytes."""

SETTLED_NS = 2_000_000_000
"""A file that was written so recently may be written again within the same time stamp: its hash is not kept."""

HASH_FILE_SIZE_MAX = 4096
_FOREIGN_FORMATS = {b"QFI\xfb": "qcow2", b"KDMV": "vmdk", b"vhdxfile": "vhdx", b"conectix": "vpc", b"<<< ": "vdi"}

Progress = Callable[[str], None]


class DiskError(FtvmError):
    """A disk's image or overlay cannot be used: absent, of a wrong size or format, in use, damaged."""


class DiskUnavailable(DiskError):
    """Another machine or program has it, or what is under it fails or is full."""

    exit_code = ExitCode.UNAVAILABLE


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
"""Not in Python's mmap module; asm-generic/mman-common.h: the same wherever numba runs."""


@dataclass(frozen=True, slots=True)
class DiskImage:
    """An open image; a `ftvm.machine.memory.DiskBacking`. Made by `open_disk`; `close` it after the machine is gone."""

    path: Path
    config: DiskConfig
    fd: int

    def place(self, memory: Any, offset: int) -> None:
        """See `DiskBacking`. `memory` is an array of bytes that begins at a page; it stays mapped until it is freed."""
        address, size = memory.ctypes.data, memory.nbytes
        assert address % PAGE == size % PAGE == offset % PAGE == 0, (address, size, offset)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
        if _libc.mmap(address, size, protection, flags, self.fd, offset) == _MAP_FAILED:
            raise DiskError(f"{self.path}: cannot be mapped: {os.strerror(ctypes.get_errno())}; free some memory")

    def close(self) -> None:
        os.close(self.fd)


def open_disk(disk: DiskFile, progress: Progress | None = None) -> DiskImage:
    """Opens, checks and locks an image. Raises `DiskError`. Hashes all of it, unless its hash is known from before."""
    path = disk.image
    fd = open_file(path, os.O_RDONLY)
    try:
        lock(fd, fcntl.LOCK_SH, f"{path}: is in use by another program that writes it; end that one first")
        size = _size(path, fd)
        _refuse_foreign(path, fd)
        # Checked before all of a wrong file is read.
        DiskConfig(size, b"", disk.read_only)
        return DiskImage(path, DiskConfig(size, _hash(path, fd, size, progress), disk.read_only), fd)
    except ConfigError as error:
        os.close(fd)
        raise DiskError(f"{path}: {error}") from None
    except BaseException:
        os.close(fd)
        raise


def open_disks(disks: Sequence[DiskFile], progress: Progress | None = None) -> tuple[DiskImage, ...]:
    """All or none."""
    opened: list[DiskImage] = []
    try:
        for disk in disks:
            opened.append(open_disk(disk, progress))
    except BaseException:
        close_disks(opened)
        raise
    return tuple(opened)


def close_disks(disks: Sequence[DiskImage]) -> None:
    for disk in disks:
        disk.close()


def open_file(path: Path, flags: int) -> int:
    """Raises `DiskError`."""
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}; give a disk image that can be opened") from None


def lock(fd: int, how: int, refusal: str) -> None:
    """Raises `DiskUnavailable` with `refusal` where another process holds it."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DiskUnavailable(refusal) from None
    except OSError:
        return  # a file system without locks: nothing is known, and nothing refused


def _size(path: Path, fd: int) -> int:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise DiskError(f"{path}: neither a file nor a block device; give a raw disk image")
    return os.lseek(fd, 0, os.SEEK_END)


def _refuse_foreign(path: Path, fd: int) -> None:
    begin = os.pread(fd, 8, 0)
    for magic, name in _FOREIGN_FORMATS.items():
        if begin.startswith(magic):
            raise DiskError(
                f"{path}: a {name} image, and disks are raw here: `qemu-img convert -O raw` makes one of it"
            )


def _hash(path: Path, fd: int, size: int, progress: Progress | None) -> bytes:
    status = os.fstat(fd)
    key = [os.fspath(path.absolute()), size, status.st_mtime_ns, status.st_dev, status.st_ino]
    settled = stat.S_ISREG(status.st_mode) and time.time_ns() - status.st_mtime_ns > SETTLED_NS
    kept = _kept_hash_file(path) if settled else None
    if kept is not None:
        known = _read_kept(kept, key)
        if known is not None:
            return known
    whole = xxhash.xxh3_128()
    told = 0
    for at in range(0, size, HASH_STEP):
        if progress is not None and at - told >= PROGRESS_STEP:
            told = at
            progress(f"reading {path}: {at >> 20} of {size >> 20} MiB")
        whole.update(os.pread(fd, HASH_STEP, at))
    if kept is not None:
        _keep(kept, key, whole.digest())
    return whole.digest()


def _kept_hash_file(path: Path) -> Path | None:
    """Where the hash of this image is kept; None where there is no such folder and none can be made."""
    root = Path(os.environ.get("FTVM_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ftvm"))
    folder = root.expanduser() / "disk-hashes"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder / hashlib.blake2b(os.fspath(path.absolute()).encode(), digest_size=12).hexdigest()


def _read_kept(kept: Path, key: list[object]) -> bytes | None:
    try:
        with kept.open("rb") as file:
            found = json.loads(file.read(HASH_FILE_SIZE_MAX))
        known = bytes.fromhex(found["xxh3_128"]) if found["of"] == key else b""
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if len(known) == xxhash.xxh3_128().digest_size else None


def _keep(kept: Path, key: list[object], digest: bytes) -> None:
    temporary = kept.with_name(f"{kept.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.write_text(json.dumps({"of": key, "xxh3_128": digest.hex()}))
        temporary.replace(kept)
