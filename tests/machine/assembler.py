"""A two-pass assembler over the encodings table, for tests that write guest code in Python."""

from ftvm.machine.hart.encodings import BY_NAME, CSRS, decode, disassemble, encode


def size_of(word: int) -> int:
    return 4 if word & 3 == 3 else 2


class Assembler:
    """Collects instructions from `base` on; labels may be used before they are placed."""

    def __init__(self, base: int) -> None:
        self.base = base
        self._instructions: list[tuple[str, dict[str, int | str]]] = []
        self._words: dict[int, int] = {}
        self._labels: dict[str, int] = {}

    def __call__(self, name: str, **operands: int | str) -> None:
        """Append an instruction. `imm` may be a label (pc-relative), `csr` a name."""
        self._instructions.append((name, operands))

    def word(self, word: int) -> None:
        """Append an instruction by its bits, an illegal one too: `size_of(word)` bytes."""
        self._words[len(self._instructions)] = word
        self._instructions.append(("", {}))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def li(self, rd: int, value: int) -> None:
        """Load a 32-bit constant, sign-extended: always two instructions."""
        low = (value & 0xFFF ^ 0x800) - 0x800
        high = ((value - low) & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
        self("lui", rd=rd, imm=high)
        self("addiw", rd=rd, rs1=rd, imm=low)

    def _size(self, index: int) -> int:
        if index in self._words:
            return size_of(self._words[index])
        return BY_NAME[self._instructions[index][0]].size

    def size(self) -> int:
        """Bytes so far."""
        return sum(self._size(index) for index in range(len(self._instructions)))

    def words(self) -> list[int]:
        addresses = [0]
        for index in range(len(self._instructions)):
            addresses.append(addresses[-1] + self._size(index))
        words = []
        for index, (name, operands) in enumerate(self._instructions):
            resolved = {}
            for operand, value in operands.items():
                if isinstance(value, str):
                    value = CSRS[value] if operand == "csr" else addresses[self._labels[value]] - addresses[index]
                resolved[operand] = value
            words.append(self._words[index] if index in self._words else encode(name, **resolved))
        return words

    def assemble(self) -> bytes:
        return to_bytes(self.words())


def to_bytes(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(size_of(word), "little") for word in words)


def listing(words: list[int], base: int, first: int = 0) -> str:
    """Disassembly from words[first] on, one instruction a line; no-ops are left out."""
    lines = []
    address = base
    for index, word in enumerate(words):
        encoding = decode(word)
        if index >= first and word not in (encode("addi"), encode("c.nop")):
            known = disassemble(word, address)
            expansion = f"    ({encoding.expansion})" if encoding and encoding.expansion else ""
            lines.append(f"{address:#x}: {word:0{2 * size_of(word)}x}  {known}{expansion}")
        address += size_of(word)
    return "\n".join(lines)
