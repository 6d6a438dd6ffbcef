"""The flag `--disk`, which `ftvm run`, `record` and `replay` share."""

from dataclasses import dataclass
from pathlib import Path

from ftvm.config import DiskFile
from ftvm.errors import UsageError

OVERLAY_SUFFIX = ".overlay"
DISK_WORDS = ("ro", "snapshot")


@dataclass(frozen=True, slots=True)
class DiskFlag:
    file: DiskFile
    is_snapshot: bool
    """What the guest writes is thrown away."""

    @classmethod
    def parse(cls, text: str) -> "DiskFlag":
        """`FILE[,ro][,snapshot]`."""
        words: set[str] = set()
        path, comma, last = text.rpartition(",")
        while comma and last in DISK_WORDS:
            words.add(last)
            text = path
            path, comma, last = text.rpartition(",")
        if not text or "\0" in text:
            raise UsageError(f"--disk {text!r:.60}: expected FILE[,ro][,snapshot]")
        return cls(DiskFile(image=Path.cwd() / Path(text).expanduser(), read_only="ro" in words), "snapshot" in words)

    @property
    def overlay(self) -> Path | None:
        if self.file.read_only or self.is_snapshot:
            return None
        return self.file.image.with_name(self.file.image.name + OVERLAY_SUFFIX)
