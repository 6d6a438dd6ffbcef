"""Which kernel modules a guest loads, and in which order.

The package's modules.dep does not exist before depmod has run in the guest, so the order comes from where depmod
has it from: the `depends` in each module's .modinfo section.
"""

import io
import lzma
from collections.abc import Callable, Mapping, Sequence

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ftvm.errors import GuestBuildError

DEVICES = ("virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng")
FILE_SYSTEM = ("crc32c_generic", "ext4")
"""ext4 asks the kernel for "crc32c" by its algorithm's name, which no `depends` tells."""


def name_of(path: str) -> str:
    """The module in the file at `path`; hyphens and underscores are the same."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def load_order(wanted: Sequence[str], read: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """The modules that `wanted` need and themselves, each after what it needs, as ELF files.

    `read` gives every module's file, as in the package. GuestBuildError when one is absent or damaged.
    """
    done: dict[str, bytes] = {}
    waiting: list[str] = []

    def load(name: str) -> None:
        if name in done:
            return
        if name in waiting:
            raise GuestBuildError(f"the kernel's module {name} needs itself")
        if name not in read:
            raise GuestBuildError(f"the kernel has no module {name}")
        waiting.append(name)
        module = _unpacked(name, read[name]())
        for needed in _depends(name, module):
            load(needed)
        done[name] = module
        waiting.pop()

    for name in wanted:
        load(name)
    return done


def _unpacked(name: str, content: bytes) -> bytes:
    try:
        return lzma.decompress(content) if content.startswith(b"\xfd7zXZ\0") else content
    except lzma.LZMAError as error:
        raise GuestBuildError(f"the kernel's module {name} is damaged: {error}") from None


def _depends(name: str, module: bytes) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise GuestBuildError(f"the kernel's module {name} is damaged: {error}") from None
    if section is None:
        raise GuestBuildError(f"the kernel's module {name} is damaged: it has no .modinfo section")
    needed: list[str] = []
    for entry in bytes(section.data()).split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            needed += [one.replace("-", "_") for one in value.decode(errors="replace").split(",") if one]
    return needed
