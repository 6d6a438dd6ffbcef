"""`ftvm image`: guests to run, made from packages."""

import filecmp
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ftvm.errors import GuestBuildError

if TYPE_CHECKING:
    from ftvm.image.debian import Request

app = App(name="image", help="Make guests to run.", help_format="plaintext")

Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@app.command
def debian(
    *,
    output: Output,
    with_: Annotated[tuple[str, ...], Parameter(name="--with", consume_multiple=True, negative="")] = (),
    size: str | None = None,
    suite: Annotated[str, Parameter(env_var="FTVM_IMAGE_SUITE")] = "trixie",
    mirror: Annotated[str | None, Parameter(env_var="FTVM_IMAGE_MIRROR")] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make a Debian guest: a kernel, an initramfs, and a disk with a shell and the packages asked for.

    Everything comes from the Debian mirror that this host uses, with its signatures checked; root is not needed. The
    guest takes its address by DHCP, has a shell for root on its console, and runs redis-server if it was asked for.

    Parameters
    ----------
    output
        The folder for kernel, initrd and disk.img.
    with_
        Packages to put on the disk, with all that they need.
    size
        The disk's size, as 512M or 2G. Without it: what it holds, and 64 MiB more.
    suite
        The Debian suite.
    mirror
        The mirror's URI, when it is not the one in /etc/apt.
    force
        Replace another guest that is in the folder.
    """
    from ftvm.image.debian import FILES, Request, parse_size

    request = Request(with_, suite, None if size is None else parse_size(size), mirror)
    _writable(output)
    made = _made(request)
    try:
        different = [name for name in FILES if (output / name).exists() and not _same(made / name, output / name)]
        if different and not force:
            raise GuestBuildError(
                f"{output / different[0]} is there and is another; take another folder, or --force to replace it"
            )
        for name in FILES:
            if name in different or not (output / name).exists():
                _copy(made / name, output / name)
    except OSError as error:
        raise GuestBuildError(f"{error.filename or output}: {error.strerror}") from None
    print(f"{output}: {', '.join(FILES)}; start it with:")
    print(_command(output))


def made_guest(packages: tuple[str, ...]) -> Path:
    """The folder in the cache with a guest that has these packages; made now if it is not there."""
    from ftvm.image.debian import Request

    return _made(Request(packages))


def _made(request: "Request") -> Path:
    from ftvm.image.debian import make_guest

    with ExitStack() as stack:
        return make_guest(request, _reporter(stack))


def _command(output: Path) -> str:
    from ftvm.image.debian import APPEND

    files = f"--kernel {output}/kernel --initrd {output}/initrd --disk {output}/disk.img"
    return f"ftvm run {files} --append '{APPEND}' --net user"


def _writable(output: Path) -> None:
    """Says before the work that its result has no place."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(output))
    except OSError as error:
        raise GuestBuildError(f"{output}: {error.strerror}; take another folder") from None


def _same(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all. What is a hole in the source stays one."""
    part = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as reading, part.open("wb") as writing:
            end = os.fstat(reading.fileno()).st_size
            os.truncate(writing.fileno(), end)
            at = 0
            while at < end:
                try:
                    at = os.lseek(reading.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                stop = os.lseek(reading.fileno(), at, os.SEEK_HOLE)
                writing.seek(at)
                while at < stop:
                    at += os.sendfile(writing.fileno(), reading.fileno(), at, stop - at)
            os.fsync(writing.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


class _Lines:
    """Steps as lines, where nobody watches."""

    def step(self, text: str) -> None:
        print(f"ftvm: {text}", file=sys.stderr, flush=True)

    def progress(self, fraction: float) -> None:
        pass


class _Bar:
    """The step and how far it is, on a terminal."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
        self._bar = self._bars.add_task("…", total=None)

    def step(self, text: str) -> None:
        self._bars.reset(self._bar, description=text, total=None)

    def progress(self, fraction: float) -> None:
        self._bars.update(self._bar, total=1.0, completed=fraction)


def _reporter(stack: ExitStack) -> _Bar | _Lines:
    return _Bar(stack) if sys.stderr.isatty() else _Lines()
