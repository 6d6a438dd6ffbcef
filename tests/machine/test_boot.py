"""Boot bundles, and what lies where in RAM when a kernel is started."""

import gzip
import struct
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ImageError
from ftvm.machine import boot
from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.boot import LINUX_OFFSET, BootBundle
from ftvm.machine.hart import state as s
from ftvm.machine.image import MIB, TREE_DISTANCE, Image, load_image
from tests.machine.test_image import elf

BOARD = BoardConfig(ram_mib=256)
TREE_MAGIC = b"\xd0\x0d\xfe\xed"


def linux(size: int = 4096, image_size: int = 5 * MIB, text_offset: int = LINUX_OFFSET, flags: int = 0) -> bytes:
    """A kernel's header, and nothing behind it that would run."""
    head = b"MZ" + bytes(6) + struct.pack("<QQQ", text_offset, image_size, flags)
    return (head + bytes(16) + b"RISCV\0\0\0" + b"RSC\x05" + bytes(4)).ljust(size, b"\x13")


def load(board: BoardConfig = BOARD, **parts: object) -> Image:
    return load_image(BootBundle(**parts).encode(), board)  # type: ignore[arg-type]


def places(image: Image) -> list[tuple[int, int]]:
    return [(segment.offset, segment.end) for segment in image.segments]


def check_image(image: Image, ram_bytes: int) -> None:
    """What every image must be: inside RAM, no part over another but those of one ELF file, entered inside RAM."""
    assert RAM_BASE <= image.entry < RAM_BASE + ram_bytes
    for segment in image.segments:
        assert 0 <= segment.offset <= segment.offset + len(segment.data) <= segment.end <= ram_bytes


@given(
    bios=st.none() | st.binary(min_size=1, max_size=50),
    kernel=st.none() | st.binary(min_size=1, max_size=50),
    initrd=st.none() | st.binary(min_size=1, max_size=50),
    append=st.text(max_size=20),
)
def test_a_bundle_comes_back_as_it_was(
    bios: bytes | None, kernel: bytes | None, initrd: bytes | None, append: str
) -> None:
    bundle = BootBundle(bios, kernel, initrd, append)
    try:
        encoded = bundle.encode()
    except ImageError:
        assert kernel is None
        return
    assert BootBundle.decode(encoded) == bundle


def test_linux_is_entered_in_s_mode_with_its_device_tree() -> None:
    image = load(kernel=linux(), append="quiet")
    words = dict(image.words)
    kernel, tree = image.segments
    assert (kernel.offset, kernel.size) == (LINUX_OFFSET, 5 * MIB)
    assert tree.data[:4] == TREE_MAGIC
    assert b"quiet\0" in tree.data
    assert (tree.offset, tree.offset % (2 * MIB)) == (254 * MIB, 0)
    assert (words[s.PC], words[s.PRIV]) == (RAM_BASE + LINUX_OFFSET, s.SUPERVISOR)
    assert (words[s.X + 10], words[s.X + 11]) == (0, RAM_BASE + tree.offset)
    assert words[s.FIRMWARE] == 1
    assert words[s.MEDELEG] >> s.CAUSE_ECALL_U & 7 == 1, "a call from U mode is the kernel's, one from S mode is not"


def test_a_gzipped_kernel_is_the_same_kernel() -> None:
    assert load(kernel=gzip.compress(linux())).segments == load(kernel=linux()).segments


def test_firmware_finds_the_kernel_by_its_dynamic_information() -> None:
    image = load(bios=b"\x73" * 1000, kernel=linux())
    assert (image.entry, image.next_entry, image.words) == (RAM_BASE, RAM_BASE + LINUX_OFFSET, ())
    firmware, kernel, tree = image.segments
    assert (firmware.offset, kernel.offset) == (0, LINUX_OFFSET)
    assert b"reserved-memory" in tree.data


def test_firmware_alone_gets_a_device_tree_too() -> None:
    image = load(bios=elf(address=RAM_BASE, entry=RAM_BASE + 8))
    assert (image.entry, image.next_entry, image.words) == (RAM_BASE + 8, 0, ())
    assert image.device_tree == RAM_BASE + 254 * MIB


@pytest.mark.parametrize(
    ("ram_mib", "image_size", "size", "at"),
    [
        (256, 5 * MIB, 20 * MIB, 130 * MIB),
        (1024, 5 * MIB, 20 * MIB, 130 * MIB),
        (16384, 5 * MIB, 20 * MIB, 130 * MIB),
        (64, 5 * MIB, 20 * MIB, 34 * MIB),
        (64, 5 * MIB, 40 * MIB, 7 * MIB),
        (64, 40 * MIB + 1, 8 * MIB, 42 * MIB + 4096),
    ],
)
def test_the_initrd_lies_where_qemu_has_it_or_right_behind_the_kernel(
    ram_mib: int, image_size: int, size: int, at: int
) -> None:
    image = load(BoardConfig(ram_mib), kernel=linux(image_size=image_size), initrd=bytes(size))
    assert places(image)[1] == (at, at + size)
    assert all(one[1] <= other[0] or other[1] <= one[0] for one, other in combinations(places(image), 2))


def test_the_device_tree_lies_in_the_first_gib() -> None:
    """A kernel's early code may not reach further."""
    assert load(BoardConfig(4096), kernel=linux()).device_tree == RAM_BASE + 1022 * MIB


@pytest.mark.parametrize(
    ("ram_mib", "image_size", "initrd_size", "what"),
    [
        (4, 5 * MIB, 0, "kernel does not fit into 4 MiB of RAM: give the machine 9 MiB"),
        (8, 5 * MIB, 0, "kernel and device tree do not fit into 8 MiB of RAM: give the machine 9 MiB"),
        (32, 5 * MIB, 30 * MIB, "initrd and device tree do not fit into 32 MiB of RAM: give the machine 39 MiB"),
        (64, 1 << 62, 0, "first GiB"),
    ],
)
def test_what_does_not_fit_says_how_much_ram_would_do(
    ram_mib: int, image_size: int, initrd_size: int, what: str
) -> None:
    with pytest.raises(ImageError, match=what):
        load(BoardConfig(ram_mib), kernel=linux(image_size=image_size), initrd=bytes(initrd_size) or None)


@pytest.mark.parametrize("sizes", [(5 * MIB, 0), (5 * MIB, 30 * MIB), (34 * MIB + 3, 9 * MIB + 1)])
def test_the_ram_that_is_said_to_do_does(sizes: tuple[int, int]) -> None:
    image_size, initrd_size = sizes
    parts = {"kernel": linux(image_size=image_size), "initrd": bytes(initrd_size) or None}
    with pytest.raises(ImageError) as caught:
        load(BoardConfig(8), **parts)
    ram_mib = int(str(caught.value).split("give the machine ")[1].split()[0])
    load(BoardConfig(ram_mib), **parts)
    with pytest.raises(ImageError):
        load(BoardConfig(ram_mib - 3), **parts)


def _pe(offset: int, mark: bytes) -> bytes:
    return bytes(offset).replace(b"\0\0", b"MZ", 1) + mark + bytes(600)


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        (elf(machine=62), "the kernel: .*machine 62"),
        (elf(address=0x10000), "the kernel: .*below RAM"),
        (_pe(56, b"ARM\x64"), "arm64"),
        (bytes(0x202) + b"HdrS" + bytes(600), "x86"),
        (bytes(4) + b"zimg" + bytes(600), "EFI"),
        (_pe(0, b"MZ"), "EFI"),
        (b"\xfd7zXZ\0" + bytes(100), "xz"),
        (gzip.compress(linux())[:-9], "cut off"),
        (b"\x1f\x8b\x08" + b"\xff" * 100, "damaged"),
        (gzip.compress(bytes(boot.KERNEL_SIZE_MAX + 1), 1), "more than 256 MiB"),
        (gzip.compress(elf(machine=62)), "machine 62"),
        (linux(flags=1), "big-endian"),
        (linux(text_offset=0), "S mode"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_kernel_for_something_else_is_refused_in_one_line(kernel: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=what) as caught:
        load(kernel=kernel)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({}, "nothing to start"),
        ({"bios": b""}, "firmware is empty"),
        ({"kernel": b""}, "kernel is empty"),
        ({"kernel": linux(), "initrd": b""}, "initrd is empty"),
        ({"initrd": b"x"}, "nothing to start"),
        ({"bios": b"x", "initrd": b"x"}, "give the kernel"),
        ({"bios": b"x", "append": "x"}, "give the kernel"),
        ({"bios": bytes(3 * MIB), "kernel": linux()}, "overwrite the firmware"),
        ({"bios": elf(memsz=3 * MIB), "kernel": linux()}, "overwrite the firmware"),
        ({"bios": b"x", "kernel": elf()}, "overwrite"),
        ({"kernel": elf(address=RAM_BASE + 254 * MIB)}, "kernel and device tree"),
        ({"bios": elf(machine=62)}, "the firmware: .*machine 62"),
        ({"bios": bytes(300 * MIB)}, "the firmware: .*ram_mib"),
        ({"kernel": linux(), "append": "ü"}, "command line"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(parts: dict[str, object], what: str) -> None:
    with pytest.raises(ImageError, match=what):
        load(**parts)


BUNDLE = BootBundle(b"\x73" * 40, linux(100, image_size=4096), b"initrd", "quiet").encode()
SMALL = BoardConfig(ram_mib=8)


@settings(max_examples=300)
@given(places=st.lists(st.integers(0, len(BUNDLE) - 1), max_size=4), value=st.integers(0, 255), cut=st.integers(0, 300))
def test_a_damaged_bundle_loads_or_is_an_image_error(places: list[int], value: int, cut: int) -> None:
    """Truncation, growth and changed bytes: an ImageError, or parts that lie in RAM and apart from each other."""
    damaged = bytearray(BUNDLE)
    for place in places:
        damaged[place] ^= value
    try:
        image = load_image(bytes(damaged[: max(len(damaged) - cut, 1)]), SMALL)
    except ImageError:
        return
    check_image(image, SMALL.ram_mib * MIB)


def test_a_bundle_of_another_version_or_size_is_refused() -> None:
    assert load_image(BUNDLE, SMALL).next_entry
    for damaged in (BUNDLE[:-1], BUNDLE + b"x", BUNDLE[:20], BUNDLE[:8] + b"\x02" + BUNDLE[9:]):
        with pytest.raises(ImageError, match="make it again"):
            load_image(damaged, SMALL)


@pytest.mark.parametrize("ram_mib", [1, 3, 4, 5, 64])
def test_a_program_for_m_mode_gets_a_device_tree_where_there_is_room(ram_mib: int) -> None:
    image = load_image(elf(memsz=8192), BoardConfig(ram_mib))
    assert bool(image.device_tree) == (ram_mib >= 5)
    if image.device_tree:
        program, tree = image.segments
        assert tree.offset >= program.end + TREE_DISTANCE
        assert RAM_BASE + tree.offset == image.device_tree
    assert image.words == ()
