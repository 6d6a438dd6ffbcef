"""What a test needs of its computer. Where that is absent it is skipped with what to install; on CI it fails."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest


def lack(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def need(tool: str, package: str) -> str:
    """The path of a program of a Debian package."""
    return shutil.which(tool) or lack(f"{tool} is missing: apt-get install {package}")


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    """A tmpfs of `size` on `folder`."""
    if os.geteuid() != 0:
        lack("only root may mount a small file system: run this test as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """A file of all the room there is."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
