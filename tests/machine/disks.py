"""A disk whose image is bytes in memory."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from ftvm.machine.board import DiskConfig


@dataclass(frozen=True)
class BytesDisk:
    image: bytes
    read_only: bool = False

    @cached_property
    def config(self) -> DiskConfig:
        return DiskConfig(len(self.image), xxhash.xxh3_128_digest(self.image), self.read_only)

    def place(self, memory: NDArray[np.uint8], offset: int) -> None:
        part = np.frombuffer(self.image[offset : offset + len(memory)], np.uint8)
        memory[: len(part)] = part
        memory[len(part) :] = 0
