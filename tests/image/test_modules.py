import lzma
import struct
from collections.abc import Callable

import pytest

from ftvm.errors import GuestBuildError
from ftvm.image.modules import load_order, name_of


def module(*info: str) -> bytes:
    """An ELF64 object whose .modinfo section holds `info`."""
    content = b"".join(line.encode() + b"\0" for line in info)
    names = b"\0.modinfo\0.shstrtab\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 243, 1, 0, 0, 64 + len(content) + len(names), 0, 64, 0, 0, 64, 3, 2)

    def section(name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, 0, 0, 1, 0)

    table = bytes(64) + section(1, 1, 64, len(content)) + section(10, 3, 64 + len(content), len(names))
    return header + content + names + table


def reading(**files: bytes) -> dict[str, Callable[[], bytes]]:
    return {name: lambda content=content: content for name, content in files.items()}  # type: ignore[misc]


FILES = reading(
    ext4=module("license=GPL", "depends=jbd2,crc-16", "name=ext4"),
    jbd2=lzma.compress(module("depends=")),
    crc_16=module(),
    loop_a=module("depends=loop_b"),
    loop_b=module("depends=loop_a"),
    lost=module("depends=absent"),
    cut=module("depends=")[:70],
    squeezed=lzma.compress(module())[:-20],
    text=b"not a module",
)


def test_a_module_comes_after_all_it_needs_and_once() -> None:
    loaded = load_order(["jbd2", "ext4", "ext4"], FILES)
    assert list(loaded) == ["jbd2", "crc_16", "ext4"]
    assert loaded["jbd2"] == module("depends=")


def test_a_signature_is_taken_off_and_nothing_else() -> None:
    """include/linux/module_signature.h: signature, its sizes, and a magic string at the very end."""
    plain = module("depends=")
    signed = plain + b"s" * 300 + struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, 300) + b"~Module signature appended~\n"
    assert load_order(["x"], reading(x=signed)) == {"x": plain}
    assert load_order(["x"], reading(x=lzma.compress(signed))) == {"x": plain}
    for damaged in (b"~Module signature appended~\n", struct.pack(">8xI", 99) + b"~Module signature appended~\n"):
        with pytest.raises(GuestBuildError, match="damaged"):
            load_order(["x"], reading(x=damaged))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("loop_a", "loop_a needs itself"),
        ("lost", "no module absent"),
        ("cut", "cut is damaged"),
        ("squeezed", "squeezed is damaged"),
        ("text", "text is damaged"),
    ],
)
def test_modules_that_cannot_be_loaded_are_named(name: str, told: str) -> None:
    with pytest.raises(GuestBuildError, match=told):
        load_order([name], FILES)


def test_a_modules_name_has_no_hyphens_and_no_ending() -> None:
    assert name_of("usr/lib/modules/6.12/kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"
