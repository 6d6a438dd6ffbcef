"""Which kernel modules a guest loads, and in which order.

The package's modules.dep does not exist before depmod has run in the guest, so the order comes from where depmod
has it from: the `depends` in each module's .modinfo section.
"""

import io
import lzma
import struct
from collections.abc import Callable, Mapping, Sequence

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ftvm.errors import GuestBuildError

BUS = ("virtio_mmio",)
DRIVERS = {"0x0001": ("virtio_net",), "0x0002": ("virtio_blk",), "0x0004": ("virtio_rng",)}
"""By the device's id as the bus tells it (virtio 1.2, section 5), for a driver is loaded for what is there only."""
FILE_SYSTEM = ("crc32c_generic", "ext4")
"""ext4 asks the kernel for "crc32c" by its algorithm's name, which no `depends` tells."""

SIGNATURE_MAGIC = b"~Module signature appended~\n"
SIGNATURE_SIZES = struct.Struct(">8xI")
"""struct module_signature of include/linux/module_signature.h: how long the signature before it is."""


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
        return _unsigned(lzma.decompress(content) if content.startswith(b"\xfd7zXZ\0") else content)
    except lzma.LZMAError as error:
        raise GuestBuildError(f"the kernel's module {name} is damaged: {error}") from None


def _unsigned(module: bytes) -> bytes:
    """Without the signature: apt has checked the package's, and a hart that is interpreted spends 0.2 s on each module
    to check it again. Debian's kernel takes it so, and marks itself as tainted (E)."""
    if not module.endswith(SIGNATURE_MAGIC):
        return module
    end = max(0, len(module) - len(SIGNATURE_MAGIC) - SIGNATURE_SIZES.size)
    (size,) = SIGNATURE_SIZES.unpack_from(module, end)
    return module[: max(0, end - size)]


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
