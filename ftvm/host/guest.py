"""From what the user says of a guest to a board, an image, and disks: the same for `ftvm run` and for a node."""

from __future__ import annotations

from pathlib import Path

from ftvm.config import GuestConfig
from ftvm.errors import ImageError

IMAGE_SIZE_MAX = 1 << 30


def read_image(config: GuestConfig) -> bytes:
    """What the machine is loaded from. Raises `ImageError`."""
    assert config.image is not None
    return _read(config.image, config.spell("image"))


def _read(path: Path, key: str) -> bytes:
    try:
        if path.stat().st_size > IMAGE_SIZE_MAX:
            raise ImageError(f"{path}: larger than {IMAGE_SIZE_MAX} bytes, which no machine of ours can hold")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give as {key} a file that can be read") from None
