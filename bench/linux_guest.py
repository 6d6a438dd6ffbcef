"""The Linux guest of the benchmarks, and QEMU with the same board around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.common import tell
from ftvm.image.debian import APPEND, DISK, INITRD, KERNEL, Request, make_guest

RAM_MIB = 256
IN_MEMORY = "console=ttyS0 quiet"
ON_DISK = APPEND
"""The kernel's command line for a system in the initramfs alone, with all that the kernel does of itself, and for
Debian on the disk, as we start it."""

READY = b"SHELL-READY"
"""What the guest's start says when the shell comes next."""

RATE = ("-icount", "shift=auto")


@dataclass(frozen=True, slots=True)
class LinuxGuest:
    """What `ftvm image debian --with redis-server` makes, in `folder`."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / KERNEL

    @property
    def initrd(self) -> Path:
        return self.folder / INITRD

    @property
    def disk(self) -> Path:
        return self.folder / DISK

    def ftvm_flags(self, append: str) -> list[str]:
        """For `ftvm run` with a disk whose changes are thrown away."""
        files = ["--kernel", str(self.kernel), "--initrd", str(self.initrd), "--append", append]
        return [*files, "--disk", f"{self.disk},snapshot", "--ram", str(RAM_MIB)]

    def qemu_command(self, qemu: str, append: str, *, icount: bool = False, log: Path | None = None) -> list[str]:
        """The same board in QEMU, its console on standard input and output. With `log` everything that the guest gets
        from outside is recorded in it, which counts instructions too."""
        words = [qemu, "-machine", "virt", "-m", str(RAM_MIB), "-display", "none", "-monitor", "none", "-nodefaults"]
        words += ["-serial", "stdio", "-global", "virtio-mmio.force-legacy=false"]
        words += ["-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", append]
        words += ["-drive", f"file={self.disk},format=raw,if=none,id=image,snapshot=on"]
        if log is None:
            words += [*(RATE if icount else ()), "-device", "virtio-blk-device,drive=image"]
        else:
            words += ["-icount", f"{RATE[1]},rr=record,rrfile={log}"]
            words += ["-drive", "driver=blkreplay,if=none,image=image,id=replayed"]
            words += ["-device", "virtio-blk-device,drive=replayed"]
        return [*words, "-device", "virtio-rng-device"]


def qemu_network(host_port: int, guest_port: int, *, recorded: bool) -> Sequence[str]:
    """A network card that is reached at `host_port` of loopback."""
    forward = f"user,id=net,hostfwd=tcp:127.0.0.1:{host_port}-:{guest_port}"
    replay = ("-object", "filter-replay,id=filter,netdev=net") if recorded else ()
    return ["-netdev", forward, "-device", "virtio-net-device,netdev=net", *replay]


class Steps:
    """Says how the making of the guest goes."""

    def step(self, text: str) -> None:
        tell(text)

    def progress(self, fraction: float) -> None:
        pass


def get_guest(folder: Path | None) -> LinuxGuest:
    """The guest in `folder`, or else one made from the host's mirror. FtvmError when it cannot be had."""
    return LinuxGuest(folder or make_guest(Request(("redis-server",)), Steps()))
