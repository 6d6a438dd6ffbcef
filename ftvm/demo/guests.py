"""What runs on a stage: a bare program on the console, or Debian with a network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ftvm.demo.system import free_ports
from ftvm.image.debian import APPEND

REDIS_PORT = 6379


class Guest(Protocol):
    """Its part of `machine.toml`."""

    @property
    def title(self) -> str: ...

    def install(self, folder: Path) -> str:
        """Put its files there. Returns the keys of `[machine]`, and tables within it, but for the name."""

    def doors(self) -> str:
        """The keys of `[edge]` but for `listen`."""


@dataclass(frozen=True, slots=True)
class BareGuest:
    image: bytes
    ram_mib: int = 64
    sessions: str = "break"
    devices: str = ""
    """More lines of `[machine]`."""

    @property
    def title(self) -> str:
        return "kv.elf (RV64IMAC, bare metal)"

    def install(self, folder: Path) -> str:
        (folder / "guest.elf").write_bytes(self.image)
        return f'image = "guest.elf"\nram_mib = {self.ram_mib}\n{self.devices}\n'

    def doors(self) -> str:
        return f'sessions = "{self.sessions}"\n'


@dataclass(frozen=True, slots=True)
class DebianGuest:
    """What `ftvm image debian` made, with the ports of its services at free ports of this host's loopback."""

    files: Path
    ram_mib: int = 256
    append: str = APPEND
    ports: tuple[int, ...] = (REDIS_PORT,)

    @property
    def title(self) -> str:
        return f"Debian's kernel and redis-server, {self.ram_mib} MiB"

    def install(self, folder: Path) -> str:
        for name in ("kernel", "initrd", "disk.img"):
            target = folder / name
            try:
                target.hardlink_to(self.files / name)
            except OSError:
                shutil.copyfile(self.files / name, target)
        lines = (
            f"ram_mib = {self.ram_mib}",
            'kernel = "kernel"',
            'initrd = "initrd"',
            f'append = "{self.append}"',
            "net = true",
            "",
            "[[machine.disks]]",
            'image = "disk.img"',
        )
        return "\n".join(lines) + "\n"

    def doors(self) -> str:
        published = [f'"{host}:{guest}"' for host, guest in zip(free_ports(len(self.ports)), self.ports, strict=True)]
        return f'sessions = "plain"\nnet = "user"\npublish = [{", ".join(published)}]\n'
