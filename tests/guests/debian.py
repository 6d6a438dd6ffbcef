"""The Debian guest that tests boot: made once from the mirror, then from the cache; and QEMU, to boot it in."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.errors import MirrorUnavailable
from ftvm.image import tools
from ftvm.image.debian import APPEND, DISK, INITRD, KERNEL, Request, make_guest
from tests.guests.boards import Wire, tool
from tests.needs import lack

ON_DISK = APPEND
IN_MEMORY = "console=ttyS0 quiet cryptomgr.notests"
"""The kernel's command line, with the disk and without."""
READY = b"SHELL-READY"
PROMPT = b"# "
BOOT_TIMEOUT_S = 120
REDIS_PORT = 6379


@dataclass(frozen=True, slots=True)
class DebianGuest:
    """Files in the cache, which are for reading only: QEMU gets `snapshot=on`, a machine of ours maps privately."""

    kernel: Path
    initrd: Path
    disk: Path


class Silent:
    """A reporter that nobody hears."""

    def step(self, text: str) -> None:
        pass

    def progress(self, fraction: float) -> None:
        pass


def make_debian_guest(*packages: str) -> DebianGuest:
    """The guest with `packages`. Skips the test where there are no tools or no mirror; fails it on CI."""
    if absent := tools.missing():
        lack(f"guests are made with Debian's tools: apt-get install {' '.join(absent)}")
    try:
        made = make_guest(Request(packages), Silent())
    except MirrorUnavailable as error:
        lack(f"the guest's packages cannot be had: {error}")
    return DebianGuest(made / KERNEL, made / INITRD, made / DISK)


@pytest.fixture(scope="session")
def debian_guest() -> DebianGuest:
    """Debian with redis-server. The first test on a computer fetches 135 MB and takes 15 s, later ones 1 s."""
    return make_debian_guest("redis-server")


@contextmanager
def in_qemu(guest: DebianGuest, append: str, options: Sequence[str] = (), keeps: bool = False) -> Iterator[Wire]:
    """The guest in QEMU with all devices of our board; its console. The disk `keeps` changes, or they are thrown
    away."""
    ours, its = socket.socketpair()
    devices = [
        *("-drive", f"file={guest.disk},format=raw,if=none,id=disk,snapshot={'off' if keeps else 'on'}"),
        *("-device", "virtio-blk-device,drive=disk"),
        *("-device", "virtio-rng-device"),
    ]
    command = [tool("qemu-system-riscv64"), "-M", "virt", "-m", "256", "-display", "none", "-monitor", "none"]
    command += ["-global", "virtio-mmio.force-legacy=false", "-serial", "stdio", *devices, *options]
    command += ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", append]
    with ours, its, subprocess.Popen(command, stdin=its, stdout=its) as process:
        its.close()
        try:
            wire = Wire(ours)
            ours.settimeout(BOOT_TIMEOUT_S)
            yield wire
        finally:
            process.kill()


def at_prompt(console: Wire) -> None:
    """Waits until the guest has booted to its shell."""
    console.until(READY)
    console.until(PROMPT)


def say(console: Wire, command: str) -> str:
    """What the shell on `console` prints for a command. The marks differ from the typed line, which is echoed."""
    console.send(f"echo '<'; {command}; echo '>'\n".encode())
    console.until(b"\n<\r\n")
    printed = console.until(b">\r\n").removesuffix(b">\r\n")
    console.until(PROMPT)
    return printed.decode(errors="replace").replace("\r", "").rstrip("\n")
