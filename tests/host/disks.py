"""Images and overlays for tests."""

import random
from pathlib import Path

from ftvm.config import DiskFile
from ftvm.host.disk import DiskImage, open_disk

BLOCK = 4096
BLOCKS = 40


def make_image(folder: Path, name: str = "disk.img", *, blocks: int = BLOCKS, odd: int = 512) -> Path:
    """An image whose last page is not whole, of bytes that differ everywhere."""
    path = folder / name
    path.write_bytes(random.Random(name).randbytes(blocks * BLOCK - odd))
    return path


def opened(path: Path, *, read_only: bool = False) -> DiskImage:
    return open_disk(DiskFile(image=path, read_only=read_only))
