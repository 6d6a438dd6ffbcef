"""The programs of the host that make a guest: apt, dpkg and e2fsprogs, which every Debian has."""

import os
import shutil
from collections.abc import Sequence

from ftvm.errors import GuestBuildError

PACKAGES = {"apt-get": "apt", "apt-config": "apt", "dpkg-deb": "dpkg", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}
FOLDERS = ("/usr/sbin", "/sbin")
"""Where e2fsprogs lies, also for users whose PATH leaves it out."""


def environment(**more: str) -> dict[str, str]:
    """What a tool gets: the user's own environment, with messages that can be read by a program."""
    return {**os.environ, "LC_ALL": "C", "PATH": _path(), **more}


def missing(tools: Sequence[str] = tuple(PACKAGES)) -> list[str]:
    """The packages to install before a guest can be made."""
    return sorted({PACKAGES[tool] for tool in tools if shutil.which(tool, path=_path()) is None})


def check() -> None:
    """Raises GuestBuildError when a tool is not there."""
    if packages := missing():
        raise GuestBuildError(f"guests are made with {', '.join(packages)}: apt-get install {' '.join(packages)}")


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *FOLDERS])
