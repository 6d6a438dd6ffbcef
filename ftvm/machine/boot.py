"""Boot bundles: firmware, kernel, initial RAM disk and command line as the one byte string that an image is.

A bundle is a header (magic, version, and the sizes of four parts, little-endian) and the parts: command line, firmware,
kernel, initrd. A part of size 0 is absent. `image.py` says what of it goes where.
"""

import struct
import zlib
from dataclasses import dataclass

from ftvm.errors import ImageError

MAGIC = b"ftvmboot"
VERSION = 1
BUNDLE_SIZE_MAX = 1 << 30
KERNEL_SIZE_MAX = 1 << 28
"""Of a kernel that was compressed."""
_HEADER = struct.Struct("<8sQQQQQ")

LINUX_OFFSET = 0x20_0000
"""From the start of RAM: Linux on RV64 lies there, and so does, in QEMU, whatever OpenSBI goes on to."""
_LINUX = struct.Struct("<8xQQQ24xI4x")
"""text_offset, image_size, flags, magic2 (Linux Documentation/arch/riscv/boot-image-header.rst)."""
_LINUX_MAGIC = 0x0543_5352
_LINUX_BIG_ENDIAN = 1
_FOREIGN = (
    (56, b"ARM\x64", "an arm64 Linux kernel"),
    (0x24, b"\x18\x28\x6f\x01", "an arm Linux kernel"),
    (0x202, b"HdrS", "an x86 Linux kernel"),
    (56, b"\xcd\x23\x82\x81", "a LoongArch Linux kernel"),
    (4, b"zimg", "a compressed EFI program"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"MZ", "an EFI program"),
)
"""Offset and bytes by which what is no kernel for this machine is known."""


@dataclass(frozen=True, slots=True)
class BootBundle:
    """What the machine starts from: a kernel, a firmware for M mode (instead of the built-in one), or both."""

    bios: bytes | None = None
    kernel: bytes | None = None
    initrd: bytes | None = None
    append: str = ""

    def encode(self) -> bytes:
        """ImageError for a bundle that cannot start."""
        for name, part in (("firmware", self.bios), ("kernel", self.kernel), ("initrd", self.initrd)):
            if part is not None and not part:
                raise ImageError(f"the {name} is empty: copy it again")
        if self.bios is None and self.kernel is None:
            raise ImageError("there is nothing to start: give a kernel or a firmware")
        if self.kernel is None and (self.initrd is not None or self.append):
            raise ImageError("an initrd and a command line are a kernel's: give the kernel too")
        parts = [self.append.encode(), self.bios or b"", self.kernel or b"", self.initrd or b""]
        size = _HEADER.size + sum(map(len, parts))
        if size > BUNDLE_SIZE_MAX:
            raise ImageError(f"firmware, kernel and initrd have {size} bytes, at most {BUNDLE_SIZE_MAX} are taken")
        return b"".join([_HEADER.pack(MAGIC, VERSION, *map(len, parts)), *parts])

    @classmethod
    def decode(cls, data: bytes) -> "BootBundle":
        """ImageError for bytes that `encode` did not make."""
        if len(data) < _HEADER.size or len(data) > BUNDLE_SIZE_MAX:
            raise ImageError(f"the boot bundle has {len(data)} bytes: make it again")
        magic, version, *sizes = _HEADER.unpack_from(data)
        if magic != MAGIC or version != VERSION:
            raise ImageError(f"the boot bundle has version {version}, not {VERSION}: make it again with this ftvm")
        if _HEADER.size + sum(sizes) != len(data):
            raise ImageError("the boot bundle's parts do not add up to its size: make it again")
        parts, at = [], _HEADER.size
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        append, bios, kernel, initrd = parts
        try:
            bundle = cls(bios or None, kernel or None, initrd or None, append.decode())
        except UnicodeDecodeError:
            raise ImageError("the boot bundle's command line is not UTF-8: make it again") from None
        if not bundle.kernel and (bundle.initrd or bundle.append or not bundle.bios):
            raise ImageError("the boot bundle has no kernel: make it again")
        return bundle


def is_bundle(data: bytes) -> bool:
    return data[: len(MAGIC)] == MAGIC


def unpack_kernel(data: bytes) -> bytes:
    """The kernel without gzip's compression. ImageError for one that is not for this machine."""
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data)
    if linux_size(data) is None:
        for at, mark, what in _FOREIGN:
            if data[at : at + len(mark)] == mark:
                raise ImageError(f"the kernel is {what}: give a riscv64 Linux Image, plain or gzipped, or an ELF file")
    return data


def _gunzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, KERNEL_SIZE_MAX)
    except zlib.error:
        raise ImageError("the gzipped kernel is damaged: copy it again") from None
    if stream.unconsumed_tail:
        raise ImageError(f"the gzipped kernel has more than {KERNEL_SIZE_MAX >> 20} MiB: give a smaller one")
    if not stream.eof:
        raise ImageError("the gzipped kernel is cut off: copy it again")
    return plain


def linux_size(data: bytes) -> int | None:
    """How much RAM a Linux Image for RISC-V takes from LINUX_OFFSET on; None for what is none."""
    if len(data) < _LINUX.size:
        return None
    text_offset, image_size, flags, magic = _LINUX.unpack_from(data)
    if magic != _LINUX_MAGIC:
        return None
    if flags & _LINUX_BIG_ENDIAN:
        raise ImageError("the kernel is big-endian: build it for little-endian riscv64")
    if text_offset != LINUX_OFFSET:
        raise ImageError(
            f"the kernel wants to lie {text_offset:#x} bytes into RAM, not {LINUX_OFFSET:#x}: "
            "build it for riscv64 and S mode"
        )
    return max(int(image_size), len(data))
