"""From what the user says of a guest to a board, an image, and disks: the same for `ftvm run` and for a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftvm.config import GuestConfig
from ftvm.config.machine import MTU_DEFAULT
from ftvm.errors import ImageError
from ftvm.host.disk import DiskImage, close_disks, open_disks
from ftvm.machine.board import BoardConfig, NetConfig
from ftvm.machine.boot import BootBundle
from ftvm.machine.machine import Machine

IMAGE_SIZE_MAX = 1 << 30
DEVICES_MIB = 1


@dataclass(frozen=True, slots=True)
class Guest:
    """What a machine is made of. `close` it after the machine is gone."""

    config: GuestConfig
    board: BoardConfig
    image: bytes
    disks: tuple[DiskImage, ...]

    def power_on(self) -> Machine:
        """Raises `ImageError`, with the file's name."""
        try:
            return Machine(self.board, self.image, self.disks)
        except ImageError as error:
            raise ImageError(f"{self.config.program}: {error}") from None

    @property
    def memory_mib(self) -> int:
        """All that is state: RAM, what devices hold, and disks."""
        return self.board.ram_mib + DEVICES_MIB + sum(-(-disk.config.size >> 20) for disk in self.disks)

    def close(self) -> None:
        close_disks(self.disks)


def open_guest(config: GuestConfig, progress: Callable[[str], None] | None = None) -> Guest:
    """Reads the image and opens the disks. Raises `ImageError` and `DiskError`."""
    image = read_image(config)
    disks = open_disks(config.disks, progress)
    return Guest(config, board_of(config, disks), image, disks)


def board_of(config: GuestConfig, disks: tuple[DiskImage, ...]) -> BoardConfig:
    return BoardConfig(
        ram_mib=config.ram_mib,
        disks=tuple(disk.config for disk in disks),
        net=NetConfig(config.mac_address, config.mtu or MTU_DEFAULT) if config.net else None,
        console=config.console == "virtio",
        entropy=config.has_entropy,
    )


def read_image(config: GuestConfig) -> bytes:
    """What the machine is loaded from. Raises `ImageError`."""
    if config.image is not None:
        return _read(config.image, config.spell("image"))
    parts = {
        key: None if path is None else _read(path, config.spell(key))
        for key, path in (("bios", config.bios), ("kernel", config.kernel), ("initrd", config.initrd))
    }
    append = config.command_line if config.kernel is not None else ""
    try:
        return BootBundle(**parts, append=append).encode()
    except ImageError as error:
        raise ImageError(f"{config.program}: {error}") from None


def _read(path: Path, key: str) -> bytes:
    try:
        if path.stat().st_size > IMAGE_SIZE_MAX:
            raise ImageError(f"{path}: larger than {IMAGE_SIZE_MAX} bytes, which no machine of ours can hold")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give as {key} a file that can be read") from None
