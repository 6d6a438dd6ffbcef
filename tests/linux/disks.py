"""What lies on a protected guest's disk, looked at from outside: its image with an overlay in one file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ftvm.demo.stage import Stage
from ftvm.host.disk import open_disk
from ftvm.host.overlay import OverlayStamp, open_overlay
from tests.needs import need


@dataclass(frozen=True, slots=True)
class Merged:
    """The disk as the guest of one node left it. `blocks`: how many of it are in the overlay."""

    path: Path
    stamp: OverlayStamp
    blocks: int

    def complaint(self) -> str:
        """What e2fsck has against it, which repairs nothing, not even by the journal: ""."""
        done = subprocess.run(
            [need("e2fsck", "e2fsprogs"), "-fn", str(self.path)], capture_output=True, text=True, check=False
        )
        return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    def folder(self, inside: str, outside: Path) -> dict[str, bytes]:
        """The files in a folder of the guest's, by name; copied to `outside` first."""
        outside.mkdir()
        request = f"rdump {inside} {outside}"
        subprocess.run([need("debugfs", "e2fsprogs"), "-R", request, str(self.path)], capture_output=True, check=True)
        return {file.name: file.read_bytes() for file in (outside / Path(inside).name).iterdir()}

    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()


def merge(stage: Stage, node: str) -> Merged:
    """The node must have ended."""
    image = open_disk(stage.config.machine.disks[0])
    folder = stage.config.node(node).disks
    assert folder is not None
    overlay = open_overlay(folder / "disk0.overlay", image.config, stage.config.machine.name)
    try:
        target = stage.folder / f"{node}.merged"
        shutil.copyfile(image.path, target)
        with target.open("r+b") as file:
            for offset, data in overlay.read():
                file.seek(offset)
                file.write(data)
            file.truncate(image.config.size)
        return Merged(target, overlay.stamp, overlay.blocks)
    finally:
        overlay.close()
        image.close()
