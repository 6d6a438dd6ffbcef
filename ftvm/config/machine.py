"""`[machine]`: the guest and what it can see. `ftvm run` has the same keys as flags."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftvm.config import readers
from ftvm.errors import ConfigError

RAM_MIB_MAX = 2048
DISKS_MAX = 4
APPEND_SIZE_MAX = 1023
"""Bytes of a kernel's command line: Linux on riscv keeps so many."""

MTU_MIN, MTU_MAX = 576, 65521
MTU_DEFAULT = 1500
MAC_DEFAULT = "52:54:00:12:34:56"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """`[[machine.disks]]`: a raw image, which is never written. What the guest writes goes to an overlay."""

    image: Path = field(metadata=readers.path())
    read_only: bool = field(default=False, metadata=readers.flag())


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """What is run, and on what board: either a bare `image`, or a kernel, a firmware, or both."""

    image: Path | None = field(default=None, metadata=readers.path())
    """An ELF64 RISC-V executable or a raw binary, started in M mode."""
    kernel: Path | None = field(default=None, metadata=readers.path())
    initrd: Path | None = field(default=None, metadata=readers.path())
    append: str | None = field(default=None, metadata=readers.line(APPEND_SIZE_MAX))
    """The kernel's command line. None: `console=` the guest's console, and nothing else."""
    bios: Path | None = field(default=None, metadata=readers.path())
    """Firmware that runs in M mode. None with a kernel: the built-in SBI."""
    ram_mib: int = field(default=128, metadata=readers.mebibytes(1, RAM_MIB_MAX))
    disks: tuple[DiskFile, ...] = field(default=(), metadata={"array": DiskFile})
    net: bool = field(default=False, metadata=readers.flag())
    mac: str | None = field(default=None, metadata=readers.mac_address())
    mtu: int | None = field(default=None, metadata=readers.integer(MTU_MIN, MTU_MAX, "bytes"))
    console: str = field(default="uart", metadata=readers.choice("uart", "virtio"))
    """Which device is the console that clients and `ftvm console` talk to."""
    entropy: bool | None = field(default=None, metadata=readers.flag())
    """A virtio entropy device. None: with a kernel or a firmware, and not with a bare image."""

    def __post_init__(self) -> None:
        for key, wrong in self._mistakes():
            raise ConfigError(f"{self.spell(key)}: {wrong}")

    def spell(self, key: str) -> str:
        """How the user wrote `key`."""
        return self.spelling(key)

    @staticmethod
    def spelling(key: str) -> str:
        """The flag for `key`."""
        return {"image": "IMAGE", "ram_mib": "--ram", "disks": "--disk"}.get(key, f"--{key}")

    def _mistakes(self) -> list[tuple[str, str]]:
        bare, kernel, bios = self.image is not None, self.kernel is not None, self.bios is not None
        names = {key: self.spell(key) for key in ("image", "kernel", "bios", "net")}
        mistakes: list[tuple[str, str]] = []
        if not (bare or kernel or bios):
            mistakes.append(("image", f"missing; give {names['image']}, or {names['kernel']} or {names['bios']}"))
        if bare and (kernel or bios):
            other = names["kernel" if kernel else "bios"]
            mistakes.append(("image", f"a bare image runs by itself, without {other}; give one of them"))
        for key in ("initrd", "append"):
            if getattr(self, key) is not None and not kernel:
                mistakes.append((key, f"is for a kernel; give {names['kernel']} with it"))
        if len(self.disks) > DISKS_MAX:
            mistakes.append(("disks", f"at most {DISKS_MAX} are possible, got {len(self.disks)}"))
        written = [disk.image for disk in self.disks if not disk.read_only]
        for image in written:
            if sum(disk.image == image for disk in self.disks) > 1:
                mistakes.append(("disks", f"{image} is given twice; a disk that is written can be given once"))
                break
        for key in ("mac", "mtu"):
            if getattr(self, key) is not None and not self.net:
                mistakes.append((key, f"there is no network card; give {names['net']} with it"))
        return mistakes

    @property
    def is_bare(self) -> bool:
        return self.image is not None

    @property
    def program(self) -> Path:
        """The file that says what runs, for messages about it."""
        program = self.image or self.kernel or self.bios
        assert program is not None
        return program

    @property
    def command_line(self) -> str:
        """Of the kernel."""
        if self.append is not None:
            return self.append
        return "console=hvc0" if self.console == "virtio" else "console=ttyS0"

    @property
    def mac_address(self) -> str:
        return self.mac or MAC_DEFAULT

    @property
    def has_entropy(self) -> bool:
        return not self.is_bare if self.entropy is None else self.entropy

    @property
    def streams(self) -> tuple[str, ...]:
        """The devices that take input from outside and send there, as `Machine.streams` has them."""
        present = {"uart0": True, "net0": self.net, "console0": self.console == "virtio"}
        return tuple(device for device, is_there in present.items() if is_there)

    @property
    def console_device(self) -> Literal["uart0", "console0"]:
        """The stream that clients and `ftvm console` talk to."""
        return "console0" if self.console == "virtio" else "uart0"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig(GuestConfig):
    """`[machine]`: a guest with a name."""

    name: str = field(metadata=readers.name())

    def spell(self, key: str) -> str:
        return f"[machine] {key}"

    @property
    def mac_address(self) -> str:
        """The same on all nodes, and another one for each machine's name: several may stand on one bridge."""
        if self.mac is not None:
            return self.mac
        number = zlib.crc32(self.name.encode()) & 0xFF_FFFF
        return ":".join(["52:54:00", *(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0))])
