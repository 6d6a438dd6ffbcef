"""Images: what loads, and one line for what does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ImageError
from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.image import load_image

RAM = 1 << 20
BOARD = BoardConfig(ram_mib=1)


def elf(
    *,
    entry: int = RAM_BASE,
    address: int = RAM_BASE,
    data: bytes = b"\x13\0\0\0",
    memsz: int = 8192,
    machine: int = 243,
    kind: int = 2,
    elf_class: int = 2,
    order: int = 1,
    segment: int = 1,
) -> bytes:
    """One segment, no sections."""
    header = b"\x7fELF" + bytes([elf_class, order, 1]) + bytes(9)
    header += kind.to_bytes(2, "little") + machine.to_bytes(2, "little") + (1).to_bytes(4, "little")
    header += entry.to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8) + bytes(4)
    header += b"".join(n.to_bytes(2, "little") for n in (64, 56, 1, 64, 0, 0))
    words = (120, address, address, len(data), memsz, 4096)
    program = segment.to_bytes(4, "little") + (7).to_bytes(4, "little")
    return header + program + b"".join(n.to_bytes(8, "little") for n in words) + data


def test_an_elf_is_placed_by_physical_address() -> None:
    image = load_image(elf(address=RAM_BASE + 0x3000, entry=RAM_BASE + 0x3000), BOARD)
    assert image.entry == RAM_BASE + 0x3000
    (segment,) = image.segments
    assert (segment.offset, segment.data, segment.size) == (0x3000, b"\x13\0\0\0", 8192)


def test_anything_else_is_a_raw_image() -> None:
    image = load_image(b"\x6f\0\0\0", BOARD)
    assert (image.entry, image.segments[0].data) == (RAM_BASE, b"\x6f\0\0\0")


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (b"", "empty"),
        (bytes(RAM + 1), "ram_mib"),
        (b"\x7fELF", "cut off"),
        (elf()[:63], "cut off"),
        (elf()[:100], "damaged|cut off"),
        (elf()[:-1], "cut off"),
        (elf(elf_class=1), "32-bit"),
        (elf(elf_class=9), "unknown-class"),
        (elf(order=2), "big-endian"),
        (elf(machine=62), "machine 62, not RISC-V"),
        (elf(kind=3), "-pie"),
        (elf(entry=0x1000), "outside RAM"),
        (elf(entry=RAM_BASE + RAM), "outside RAM"),
        (elf(address=0x10000), "below RAM"),
        (elf(memsz=RAM + 1), "ram_mib"),
        (elf(address=RAM_BASE + RAM), "ram_mib"),
        (elf(address=(1 << 64) - 4096), "ram_mib"),
        (elf(memsz=2), "cut off"),
        (elf(segment=0), "nothing to load"),
    ],
)
def test_bad_images_are_refused_in_one_line(image: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=what) as caught:
        load_image(image, BOARD)
    assert "\n" not in str(caught.value)


@settings(max_examples=300)
@given(place=st.integers(0, 119), value=st.integers(0, 255), length=st.integers(64, 200))
def test_a_damaged_elf_loads_or_is_an_image_error(place: int, value: int, length: int) -> None:
    damaged = bytearray(elf())
    damaged[place] = value
    try:
        image = load_image(bytes(damaged[:length]), BOARD)
    except ImageError:
        return
    for segment in image.segments:
        assert 0 <= segment.offset <= segment.offset + len(segment.data) <= segment.offset + segment.size <= RAM
