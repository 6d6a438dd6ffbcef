"""ELF64 RISC-V executables (ELF specification 1.2; RISC-V ELF psABI).

A file is hostile input: whatever is wrong with it ends in an `ImageError` that says what, where, what next.
"""

from dataclasses import dataclass
from io import BytesIO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ftvm.errors import ImageError
from ftvm.machine.board import RAM_BASE

SEGMENTS_MAX = 256
SYMBOLS_MAX = 1 << 20
_EM_RISCV = 243


@dataclass(frozen=True, slots=True)
class Segment:
    """`data` goes to RAM at `offset` from its start; what `size` has beyond it is zero."""

    offset: int
    data: bytes
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Program:
    """A part of what is in RAM at power-on, and the address at which it is entered."""

    entry: int
    segments: tuple[Segment, ...]
    tohost: int = 0
    fromhost: int = 0

    @property
    def end(self) -> int:
        """The offset in RAM after its last byte."""
        return max(segment.end for segment in self.segments)


def load_elf(data: bytes, ram_bytes: int) -> Program:
    """ImageError when it cannot be loaded into so much RAM."""
    if len(data) < 64:
        raise ImageError(f"the ELF image ends after {len(data)} bytes: it is cut off, copy it again")
    if data[4] != 2 or data[5] != 1:
        bits = {1: "32-bit", 2: "64-bit"}.get(data[4], "unknown-class")
        order = {1: "little-endian", 2: "big-endian"}.get(data[5], "unknown-order")
        raise ImageError(f"the ELF image is {bits} {order}: build it for riscv64, little-endian")
    machine = int.from_bytes(data[18:20], "little")
    if machine != _EM_RISCV:
        raise ImageError(f"the ELF image is for machine {machine}, not RISC-V ({_EM_RISCV}): build it for riscv64")
    kind = int.from_bytes(data[16:18], "little")
    if kind != 2:
        raise ImageError(f"the ELF image has type {kind}, not 2 (executable): link it statically, without -pie")
    try:
        elf = ELFFile(BytesIO(data))
        return _read(elf, data, ram_bytes)
    except ImageError:
        raise
    except (ELFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ImageError(f"the ELF image is damaged ({type(error).__name__}): build or copy it again") from error
    except (RecursionError, MemoryError, UnicodeError, AssertionError) as error:
        raise ImageError(f"the ELF image is damaged ({type(error).__name__}): build or copy it again") from error


def _read(elf: ELFFile, data: bytes, ram_bytes: int) -> Program:
    if elf.num_segments() > SEGMENTS_MAX:
        raise ImageError(f"the ELF image has {elf.num_segments()} segments, at most {SEGMENTS_MAX} are taken")
    segments = []
    for number in range(elf.num_segments()):
        header = elf.get_segment(number).header
        if header.p_type == "PT_LOAD" and header.p_memsz:
            segments.append(_segment(number, header, data, ram_bytes))
    if not segments:
        raise ImageError("the ELF image has nothing to load: it has no PT_LOAD segment, link it as an executable")
    entry = int(elf.header.e_entry)
    if not RAM_BASE <= entry < RAM_BASE + ram_bytes:
        raise ImageError(f"the ELF image's entry {entry:#x} is outside RAM: link it for {RAM_BASE:#x}")
    tohost, fromhost = _host_words(elf, ram_bytes)
    return Program(entry, tuple(segments), tohost, fromhost)


def _segment(number: int, header: object, data: bytes, ram_bytes: int) -> Segment:
    address, size = int(header.p_paddr), int(header.p_memsz)  # type: ignore[attr-defined]
    at, length = int(header.p_offset), int(header.p_filesz)  # type: ignore[attr-defined]
    offset = address - RAM_BASE
    if offset < 0:
        raise ImageError(f"segment {number} of the ELF image is at {address:#x}, below RAM: link it for {RAM_BASE:#x}")
    if offset + size > ram_bytes:
        raise ImageError(
            f"segment {number} of the ELF image ends at {address + size:#x}, RAM at {RAM_BASE + ram_bytes:#x}: "
            "give the machine more memory (ram_mib)"
        )
    if length > size or at + length > len(data):
        raise ImageError(f"segment {number} of the ELF image is cut off: build or copy it again")
    return Segment(offset, data[at : at + length], size)


def _host_words(elf: ELFFile, ram_bytes: int) -> tuple[int, int]:
    """Addresses of HTIF's `tohost` and `fromhost`, 0 for one that is absent."""
    found = {"tohost": 0, "fromhost": 0}
    for section in elf.iter_sections():
        if not isinstance(section, SymbolTableSection):
            continue
        if section.num_symbols() > SYMBOLS_MAX:
            raise ImageError(f"the ELF image has {section.num_symbols()} symbols, at most {SYMBOLS_MAX} are read")
        for name in found:
            for symbol in section.get_symbol_by_name(name) or ():
                address = int(symbol.entry.st_value)
                inside = RAM_BASE <= address <= RAM_BASE + ram_bytes - 8 and address % 8 == 0
                if inside and symbol.entry.st_shndx != "SHN_UNDEF":
                    found[name] = address
    return found["tohost"], found["fromhost"]
