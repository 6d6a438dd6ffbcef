"""Small guest programs for the virt board: C sources, the script that builds them, and the built images.

Words that a user of an image may set stand under well-known symbols in its `.data`: `rounds` in the compute
guests (0: run for ever), `heap_size` in `kv`.
"""

import io
import struct
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ftvm.errors import ImageError

IMAGES = Path(__file__).parent / "images"


def names() -> list[str]:
    """The guests that are there, sorted."""
    return sorted(image.stem for image in IMAGES.glob("*.elf"))


def path(name: str) -> Path:
    """The image of guest `name`; `ImageError` when there is none."""
    image = IMAGES / f"{name}.elf"
    if not image.is_file():
        raise ImageError(f"no guest named {name!r}; there are: {', '.join(names())}")
    return image


def with_word(image: bytes, symbol: str, value: int) -> bytes:
    """`image` (ELF64) with the 64-bit word at `symbol` set to `value`; `ImageError` when it has no such data."""
    if not 0 <= value < 1 << 64:
        raise ImageError(f"{symbol} = {value} does not fit in 64 bits")
    offset = _file_offset(image, symbol)
    return image[:offset] + struct.pack("<Q", value) + image[offset + 8 :]


def with_rounds(image: bytes, rounds: int) -> bytes:
    """A compute guest's image that does `rounds` rounds of its work; 0 means for ever."""
    return with_word(image, "rounds", rounds)


def _file_offset(image: bytes, symbol: str) -> int:
    try:
        elf = ELFFile(io.BytesIO(image))
        table = elf.get_section_by_name(".symtab")
        found = table.get_symbol_by_name(symbol) if isinstance(table, SymbolTableSection) else None
        offsets = list(elf.address_offsets(found[0]["st_value"], 8)) if found else []
    except ELFError as error:
        raise ImageError(f"not an ELF image: {error}") from error
    if not offsets:
        raise ImageError(f"the image has no initialised data under the symbol {symbol!r}")
    return int(offsets[0])
