"""A Debian guest: kernel, initramfs and disk from the packages of one suite.

What was fetched and what was made stay in the cache folder: the same packages, size and recipe give the same guest,
byte for byte, so a second call only copies. A call that was interrupted left nothing half made.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from ftvm.errors import GuestBuildError, MirrorUnavailable
from ftvm.image import contents, cpio, disk, modules, tools
from ftvm.image.apt import LISTS_AGE_MAX_S, Apt, Package, Selection
from ftvm.image.tree import Tree

SUITE = "trixie"
"""The first with riscv64."""
KERNEL_PACKAGE = "linux-image-riscv64"
KERNEL_WITHOUT = ("initramfs-tools", "linux-initramfs-tool", "kmod", "linux-base")
"""What a kernel needs where it is installed, as here it is not."""

KERNEL, INITRD, DISK = FILES = ("kernel", "initrd", "disk.img")
APPEND = "console=ttyS0 root=/dev/vda quiet cryptomgr.notests"
"""The kernel's command line. Without the last word it spends nearly half of its boot on testing its ciphers."""

MADE_KEPT_MAX = 4
"""Guests in the cache."""
SIZE_MAX = 16 << 30
PACKAGE_PATTERN = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](=[A-Za-z0-9.+~:-]+)?")
SUITE_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
SIZE_PATTERN = re.compile(r"([1-9][0-9]{0,8})(M|MiB|G|GiB)")


class Reporter(Protocol):
    """Hears how the work goes."""

    def step(self, text: str) -> None:
        """What is done from now on."""

    def progress(self, fraction: float) -> None:
        """How much of this step is done."""


@dataclass(frozen=True, slots=True)
class Request:
    """What guest is wanted. Raises GuestBuildError on a name that cannot be one, before anything is asked for."""

    packages: tuple[str, ...] = ()
    suite: str = SUITE
    size: int | None = None
    """Of the disk, in bytes; None: what the contents need, and 64 MiB more."""
    mirror: str | None = None

    def __post_init__(self) -> None:
        for name in self.packages:
            if not PACKAGE_PATTERN.fullmatch(name):
                raise GuestBuildError(f"{name!r} is no name of a package")
        if not SUITE_PATTERN.fullmatch(self.suite):
            raise GuestBuildError(f"{self.suite!r} is no name of a suite; {SUITE} is one")
        if self.mirror is not None and not re.fullmatch(r"[a-z][a-z0-9+]*:[^\s\[\]#\"]+", self.mirror):
            raise GuestBuildError(f"{self.mirror!r} is no mirror; give it as http://MIRROR/debian")


def parse_size(text: str) -> int:
    """`512M` or `2G`, in bytes. Raises GuestBuildError."""
    found = SIZE_PATTERN.fullmatch(text)
    size = int(found[1]) << (20 if found[2].startswith("M") else 30) if found else 0
    if not 0 < size <= SIZE_MAX:
        raise GuestBuildError(f"{text!r} is no size of a disk; give it as 512M or 2G, {SIZE_MAX >> 30}G at most")
    return size


def cache_folder() -> Path:
    """$FTVM_CACHE_DIR/debian, or ~/.cache/ftvm/debian."""
    root = os.environ.get("FTVM_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ftvm")
    return (Path(root) / "debian").expanduser().absolute()


def make_guest(request: Request, reporter: Reporter, cache: Path | None = None) -> Path:
    """Makes the guest, or finds it made, and returns the folder in the cache that holds its FILES.

    Whoever runs them takes copies: the folder goes when newer guests need its place. Raises GuestBuildError and its
    kinds.
    """
    tools.check()
    cache = cache or cache_folder()
    with _explained(cache):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(cache, reporter):
            return _make(request, reporter, cache)


def _make(request: Request, reporter: Reporter, cache: Path) -> Path:
    apt = Apt(cache / "apt", request.suite, request.mirror)
    kernel = Selection((KERNEL_PACKAGE,), KERNEL_WITHOUT)
    userland = Selection((*contents.BASE, *request.packages))
    age_s = apt.lists_age_s
    if age_s is None or age_s > LISTS_AGE_MAX_S:
        _update(apt, reporter, needed=age_s is None)
    packages = _resolved(apt, kernel, userland)
    made = cache / "made" / _key(request, packages)
    if not made.is_dir():
        packages = _fetched(apt, kernel, userland, reporter)
        made = cache / "made" / _key(request, packages)
    if not made.is_dir():
        _build(request, packages, made, reporter)
    made.touch()
    for old in sorted(made.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-MADE_KEPT_MAX]:
        shutil.rmtree(old)
    return made


def _update(apt: Apt, reporter: Reporter, needed: bool) -> None:
    reporter.step(f"asking {apt.mirror} for its packages")
    try:
        apt.update(reporter.progress)
    except MirrorUnavailable as error:
        if needed:
            raise
        reporter.step(f"going on with the lists of an earlier call: {error}")


def _fetched(apt: Apt, kernel: Selection, userland: Selection, reporter: Reporter) -> list[Package]:
    """The packages, all of them there and whole. A mirror drops old packages: its lists may have to be asked anew."""
    for is_last in (False, True):
        packages = _resolved(apt, kernel, userland)
        absent = [package for package in packages if not package.path.exists()]
        if absent:
            size = sum(package.size for package in absent)
            reporter.step(f"fetching {len(absent)} packages, {size / 1e6:.0f} MB, from {apt.mirror}")
        try:
            for selection in (kernel, userland):
                apt.fetch(selection, reporter.progress)
            break
        except MirrorUnavailable:
            if is_last:
                raise
            _update(apt, reporter, needed=True)
    for package in packages:
        package.check()
    return packages


def _resolved(apt: Apt, kernel: Selection, userland: Selection) -> list[Package]:
    """The package that holds the kernel, and after it all that the disk needs."""
    try:
        found = apt.resolve(kernel)
    except GuestBuildError as error:
        if KERNEL_PACKAGE not in str(error):
            raise
        raise GuestBuildError(f"{apt.mirror} has no riscv64 in {apt.suite}; Debian has it from {SUITE} on") from None
    # Another package only says which kernel is the newest.
    kernels = [
        package for package in found if package.name != KERNEL_PACKAGE and package.name.startswith("linux-image-")
    ]
    if len(kernels) != 1:
        raise GuestBuildError(f"{KERNEL_PACKAGE} of {apt.suite} leads to {len(kernels)} kernels, not to one")
    return [*kernels, *apt.resolve(userland)]


def _build(request: Request, packages: Sequence[Package], made: Path, reporter: Reporter) -> None:
    """Makes the folder `made`, at once and whole."""
    made.parent.mkdir(exist_ok=True)
    # A folder of the cache, so that the end is a rename; what an interrupted call left goes with `_only_one`.
    with tempfile.TemporaryDirectory(prefix="making-", dir=made.parent.parent) as scratch:
        result = Path(scratch, "result")
        for folder in ("result", "kernel", "disk"):
            Path(scratch, folder).mkdir()
        reporter.step("unpacking the disk's packages")
        tree = Tree(Path(scratch, "disk"))
        # Its links from /bin and /lib to /usr have to be there before files of other packages are put below them.
        others = sorted(packages[1:], key=lambda package: package.name != "base-files")
        for number, package in enumerate(others):
            reporter.progress(number / len(others))
            _unpack(package, tree, contents.wanted)
        contents.disk(tree, [package.name for package in others])
        reporter.step("making the disk")
        size = _disk_size(request, tree)
        disk.write_disk(tree, result / DISK, size, uuid.uuid5(uuid.NAMESPACE_OID, made.name))

        reporter.step("unpacking the kernel")
        system = Tree(Path(scratch, "kernel"))
        _unpack(packages[0], system, _is_of_kernel)
        _write_kernel(system, result / KERNEL)
        reporter.step("making the initramfs")
        _write_initramfs(system, tree["usr/bin/busybox"].read(), result / INITRD)
        for name in FILES:
            with (result / name).open("rb") as file:
                os.fsync(file.fileno())
        result.rename(made)


def _is_of_kernel(path: str) -> bool:
    return path.startswith("boot/vmlinu") or (path.startswith("usr/lib/modules/") and ".ko" in path)


def _unpack(package: Package, tree: Tree, wanted: Callable[[str], bool]) -> None:
    command = ["dpkg-deb", "--fsys-tarfile", str(package.path)]
    with subprocess.Popen(
        command, env=tools.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        tree.unpack(process.stdout, wanted)
        # Padding may follow the last member.
        while process.stdout.read(1 << 20):
            pass
    if process.returncode:
        raise GuestBuildError(f"{package.path.name} cannot be unpacked; remove {package.path} and try again")


def _write_kernel(system: Tree, path: Path) -> None:
    found = [node for name, node in system.nodes.items() if name.startswith("boot/vmlinu")]
    if len(found) != 1:
        raise GuestBuildError(f"the kernel's package holds {len(found)} kernels")
    path.write_bytes(found[0].read())


def _write_initramfs(system: Tree, busybox: bytes, path: Path) -> None:
    read = {modules.name_of(name): node.read for name, node in system.nodes.items() if ".ko" in name}
    groups = {"bus": modules.BUS, **modules.DRIVERS, "file-system": modules.FILE_SYSTEM}
    tree = Tree(system.spool)
    contents.initramfs(tree, busybox, {name: modules.load_order(wanted, read) for name, wanted in groups.items()})
    with path.open("xb") as file:
        for member in cpio.archive(tree):
            file.write(member)


def _disk_size(request: Request, tree: Tree) -> int:
    needed = disk.size_needed(tree)
    if request.size is None:
        return needed + disk.FREE_SIZE
    if request.size < needed:
        raise GuestBuildError(
            f"a disk of {request.size >> 20}M is too small for its packages; give --size {needed >> 20}M or more"
        )
    return request.size


def _key(request: Request, packages: Sequence[Package]) -> str:
    """Says what is in a guest: the packages, the disk's size, and how we make it."""
    said = hashlib.sha256(f"{request.size} {request.packages}".encode())
    for package in packages:
        said.update(f"{package.path.name} {package.sha256}\n".encode())
    for folder in (resources.files("ftvm.image"), resources.files("ftvm.image").joinpath("files")):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.is_file():
                said.update(file.read_bytes())
    return said.hexdigest()[:32]


@contextmanager
def _only_one(cache: Path, reporter: Reporter) -> Iterator[None]:
    """Waits until no other process makes a guest here, and removes what killed ones left."""
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.step(f"waiting for another call that works in {cache}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob("making-*"):
            shutil.rmtree(left)
        yield


@contextmanager
def _explained(cache: Path) -> Iterator[None]:
    """The system's refusals, in our words."""
    try:
        yield
    except OSError as error:
        what_next = "set FTVM_CACHE_DIR to a folder of yours"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what_next = "make room there, or set FTVM_CACHE_DIR to a folder with more"
        raise GuestBuildError(f"{error.filename or cache}: {error.strerror}; {what_next}") from None
