"""Images and overlays for tests, and the guest that uses them."""

import random
from pathlib import Path

from ftvm.config import DiskFile
from ftvm.demo.guests import BareGuest
from ftvm.demo.stage import Stage, prepare
from ftvm.host.disk import DiskImage, open_disk
from tests.host.pair import RAM_MIB, SETTINGS, image

BLOCK = 4096
BLOCKS = 40


def make_image(folder: Path, name: str = "disk.img", *, blocks: int = BLOCKS, odd: int = 512) -> Path:
    """An image whose last page is not whole, of bytes that differ everywhere."""
    path = folder / name
    path.write_bytes(random.Random(name).randbytes(blocks * BLOCK - odd))
    return path


def opened(path: Path, *, read_only: bool = False) -> DiskImage:
    return open_disk(DiskFile(image=path, read_only=read_only))


def device_stage(folder: Path, keys: str) -> Stage:
    """The guest `devices`, with nothing started yet; `keys` are those of `[machine]` that give it some."""
    guest = BareGuest(image("devices"), RAM_MIB, "plain", keys)
    return Stage(folder, prepare(folder, guest, replication=SETTINGS))
