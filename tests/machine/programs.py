"""Random guest programs from the encodings table, the same for every interpreter that is compared.

A program is a flat image: a prologue that loads all registers from a table, a body of random instructions, and
a data area. Here are user-level programs, which an oracle of integer instructions can run to their end: jumps go
forward or around counted loops, and accesses stay in the data area (misaligned too). `machine_programs.py` adds
what traps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from ftvm.machine.hart.encodings import BY_NAME, CSRS, ENCODINGS, decode, encode
from ftvm.machine.hart.formats import Encoding
from tests.machine.assembler import Assembler, size_of, to_bytes
from tests.machine.float_operands import ARITHMETIC, operand_width, random_operand

BASE = 0x8000_0000
DATA_OFFSET = 0x4000
DATA_SIZE = 0x2000
IMAGE_SIZE = DATA_OFFSET + DATA_SIZE
TABLE_OFFSET = DATA_OFFSET - 512
"""Initial values of x0 to x31 and of f0 to f31; x0's word is where the reservation is cleared."""
MIDDLE = BASE + DATA_OFFSET + DATA_SIZE // 2

POINTERS = {2: MIDDLE, 8: MIDDLE + 0x40, 9: MIDDLE - 0x123, 10: MIDDLE - 0x200}
"""Registers that point into the data area: sp, an aligned, a misaligned and an aligned one. RVC can use 8 and 9."""
DOUBLES = range(8, 24)
"""Registers that hold doubles, those that RVC can use among them; the others hold singles. Unicorn does not NaN-box."""
SINGLES = (*range(8), *range(24, 32))
FLOATS_AT = -0x400
"""Where the floating-point registers are written at the end, relative to x8."""
MSTATUS_FS = 3 << 13
PAGE = 4096
LOOP_COUNTER = 31

CORNERS = (0, 1, 2, 63, 64, 0x7F, 0x80, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1)

BY_FORMAT: dict[str, list[Encoding]] = {}
for _encoding in ENCODINGS:
    BY_FORMAT.setdefault(_encoding.format, []).append(_encoding)

COMPUTE = [
    encoding
    for form in [
        "R",
        "I",
        "U",
        "shift6",
        "shift5",
        "CR",
        "CI",
        "CI.lui",
        "CI.shift",
        "CIW",
        "CA",
        "CB.shift",
        "CB.andi",
    ]
    for encoding in BY_FORMAT[form]
    if encoding.name != "jalr" and not encoding.extension.startswith("Z")
]
LOADS = [encoding for form in ["load", "CL.w", "CL.d", "CI.lwsp", "CI.ldsp"] for encoding in BY_FORMAT[form]]
STORES = [encoding for form in ["store", "CS.w", "CS.d", "CSS.swsp", "CSS.sdsp"] for encoding in BY_FORMAT[form]]
BRANCHES = [encoding for form in ("B", "CB") for encoding in BY_FORMAT[form]]
BITS = [encoding for encoding in ENCODINGS if encoding.extension in ("Zba", "Zbb", "Zbs", "Zicond")]
FLOAT_MEMORY = [encoding for form in ("F.load", "F.store", "CL.f", "CS.f") for encoding in BY_FORMAT[form]]
MINIMA = [encoding for encoding in ARITHMETIC if encoding.name.startswith(("fmin", "fmax"))]
AMOS = [encoding for encoding in BY_FORMAT["amo"] if not encoding.name.startswith("sc")]
NOT_JUMPING = [encoding for encoding in COMPUTE + LOADS + STORES if encoding.size == 4]


@dataclass(frozen=True, slots=True)
class Program:
    """`words` are the instructions from BASE on; `image()` is what is loaded there."""

    seed: int
    level: str
    words: tuple[int, ...]
    body: int
    """Index of the first word after the prologue."""
    data: bytes

    @property
    def end(self) -> int:
        """Address after the last word: a user-level program is over when the pc is here, at a WFI."""
        return BASE + sum(size_of(word) for word in self.words)

    def image(self) -> bytes:
        code = to_bytes([*self.words, encode("wfi")])
        assert len(code) <= TABLE_OFFSET
        return code.ljust(TABLE_OFFSET, b"\0") + self.data

    def without(self, first: int, last: int) -> "Program":
        """The same with no-ops of equal sizes for words[first:last]. FENCE.I stays: without it, code that was written
        over may or may not run.
        """
        words = list(self.words)
        for index in range(max(first, self.body), min(last, len(words))):
            if words[index] != encode("fence.i"):
                words[index] = encode("addi") if size_of(words[index]) == 4 else encode("c.nop")
        return replace(self, words=tuple(words))


def random_value(random: Random) -> int:
    kind = random.randrange(4)
    if kind == 0:
        return random.getrandbits(64)
    if kind == 1:
        return random.randrange(-128, 128) & (1 << 64) - 1
    if kind == 2:
        return random.choice((1, -1)) * random.choice(CORNERS) + random.randrange(-1, 2) & (1 << 64) - 1
    return (1 << random.randrange(64)) * random.choice((1, -1)) & (1 << 64) - 1


class Generator:
    """Writes one program. Labels of forward jumps that are still to be placed count down with each step."""

    level = "user"
    pointers = POINTERS
    computations = COMPUTE

    def __init__(self, seed: int) -> None:
        self.random = Random(f"{self.level}:{seed}")
        self.asm = Assembler(BASE)
        self.pending: dict[str, int] = {}
        self.label_count = 0
        self.in_loop = False

    def program(self, seed: int, length: int) -> Program:
        values = [random_value(self.random) for _ in range(32)]
        for register, pointer in self.pointers.items():
            values[register] = pointer
        self._prologue()
        body = len(self.asm.words())
        for _ in range(length):
            self._step()
            self._place_labels()
        for label in self.pending:
            self.asm.label(label)
        self._epilogue()
        values += [random_operand(self.random, "d" if register in DOUBLES else "s") for register in range(32)]
        table = b"".join(value.to_bytes(8, "little") for value in values)
        data = table + self.random.randbytes(DATA_SIZE)
        return Program(seed, self.level, tuple(self.asm.words()), body, data)

    def _prologue(self) -> None:
        """End any reservation, do what the level wants done, load the registers."""
        asm = self.asm
        asm("auipc", rd=1, imm=(TABLE_OFFSET + 0x800) & ~0xFFF)
        asm("addi", rd=1, rs1=1, imm=TABLE_OFFSET - ((TABLE_OFFSET + 0x800) & ~0xFFF))
        asm("lr.d", rd=0, rs1=1)
        asm("sc.d", rd=0, rs1=1, rs2=0)
        asm("lui", rd=2, imm=MSTATUS_FS)
        asm("csrrs", csr="mstatus", rs1=2)
        asm("csrrwi", csr="fcsr", imm=self.random.choice((0, 1, 31)))
        for register in range(32):
            asm("fld" if register in DOUBLES else "flw", rd=register, rs1=1, imm=256 + 8 * register)
        self._set_up()
        for register in (*range(2, 32), 1):
            asm("ld", rd=register, rs1=1, imm=8 * register)
        if self.random.randrange(2):
            self._pad()
        asm.label("body")

    def _pad(self) -> None:
        """Jump to a little before the end of the page, so that the body crosses into the next."""
        used = self.asm.size()
        self.asm("jal", imm="body")
        for _ in range((PAGE - used - self.random.randrange(600)) // 2):
            self.asm.word(encode("c.nop"))

    def _set_up(self) -> None:
        """Before the integer registers are loaded: nothing."""

    def _epilogue(self) -> None:
        """After the body, and before a WFI: what floating point left behind, to where it is compared."""
        for register in range(32):
            self.asm("fsd" if register in DOUBLES else "fsw", rs1=8, rs2=register, imm=FLOATS_AT + 8 * register)
        self.asm("sd", rs1=8, rs2=LOOP_COUNTER, imm=FLOATS_AT + 256)
        self.asm("csrrs", rd=LOOP_COUNTER, csr="fcsr")

    def _new_label(self, steps: int) -> str:
        self.label_count += 1
        label = f"L{self.label_count}"
        self.pending[label] = steps
        return label

    def _place_labels(self) -> None:
        for label in list(self.pending):
            self.pending[label] -= 1
            if self.pending[label] <= 0:
                self.asm.label(label)
                del self.pending[label]

    def _kinds(self) -> dict[Callable[[], None], int]:
        """What a step can be, with weights."""
        return {
            self._compute: 50,
            self._memory: 25,
            self._float: 25,
            self._float_memory: 8,
            self._float_status: 3,
            self._branch: 10,
            self._jump: 4,
            self._atomic: 4,
            self._reserve: 2,
            self._loop: 2,
            self._self_modify: 2,
            self._stack: 1,
            self._fence: 1,
        }

    def _step(self) -> None:
        kinds = self._kinds()
        self.random.choices(list(kinds), list(kinds.values()))[0]()

    def _operands(self, encoding: Encoding, **fixed: int) -> dict[str, int] | None:
        """Random operands that leave the pointers alone; None where the draw is reserved or means another one."""
        operands = {}
        for name, field in encoding.fields.items():
            bits = self.random.getrandbits(32)
            if name not in ("rd", "rs1", "rs2"):
                bits = self.random.choice((bits, bits, 0, 0xFFFF_FFFF))
            operands[name] = fixed.get(name, field.extract(bits))
        protected = {*self.pointers, LOOP_COUNTER} if self.in_loop else self.pointers
        if "rd" in operands and encoding.fields["rd"].registers == "x" and operands["rd"] in protected:
            return None
        word = encoding.match
        for name, value in operands.items():
            word |= encoding.fields[name].insert(value)
        return operands if decode(word) is encoding else None

    def _draw(self, encodings: list[Encoding], **fixed: int) -> None:
        while True:
            encoding = self.random.choice(encodings)
            operands = self._operands(encoding, **fixed)
            if operands is not None:
                self.asm(encoding.name, **operands)
                return

    def _compute(self) -> None:
        self._draw(self.computations)

    def _float_registers(self, encoding: Encoding) -> dict[str, int]:
        """Registers of the widths that the instruction has."""
        return {
            name: self.random.choice(DOUBLES if operand_width(encoding, name) == "d" else SINGLES)
            for name, field in encoding.fields.items()
            if field.registers == "f"
        }

    def _float(self) -> None:
        """Where unicorn is not right: its FMIN and FMAX get no signalling NaNs, fused instructions no NaN as addend."""
        encoding = self.random.choice(ARITHMETIC)
        registers = self._float_registers(encoding)
        if encoding in MINIMA:
            for name in ("rs1", "rs2"):
                self.asm(f"fadd.{encoding.name[-1]}", rd=registers[name], rs1=registers[name], rs2=registers[name])
        if encoding.format == "F.fma":
            name = f"fcvt.{operand_width(encoding, 'rd')}.l"
            self.asm(name, rd=registers["rs3"], rs1=self.random.randrange(32), rm=self.random.randrange(5))
        self._draw([encoding], **registers)

    def _float_memory(self) -> None:
        encoding = self.random.choice(FLOAT_MEMORY)
        name = "rs2" if "rs2" in encoding.fields else "rd"
        numbers = DOUBLES if "d" in encoding.name else SINGLES
        if encoding.size == 2:
            numbers = range(8, 16)
        self._draw([encoding], **{name: self.random.choice(numbers), "rs1": self.random.choice((8, 9))})

    def _float_status(self) -> None:
        """Another rounding mode, or flags read and written."""
        kind = self.random.randrange(3)
        if kind == 0:
            self.asm("csrrwi", csr="frm", imm=self.random.randrange(5))
        elif kind == 1:
            self._draw([BY_NAME["csrrs"]], csr=CSRS["fcsr"], rs1=0)
        else:
            self._draw(BY_FORMAT["csr"] + BY_FORMAT["csri"], csr=CSRS["fflags"])

    def _memory(self) -> None:
        encodings = self.random.choice((LOADS, STORES))
        self._draw(encodings, rs1=self.random.choice((8, 9)))

    def _branch(self) -> None:
        encoding = self.random.choice(BRANCHES)
        label = self._new_label(self.random.randrange(1, 6))
        registers = {
            name: field.extract(self.random.getrandbits(32)) for name, field in encoding.fields.items() if name != "imm"
        }
        self.asm(encoding.name, imm=label, **registers)

    def _jump(self) -> None:
        """JAL, C.J, or an indirect jump over AUIPC to the instruction just after it."""
        random = self.random
        link = random.choice([0, 1, 5, 20, 21])
        kind = random.randrange(4)
        if kind == 0:
            self.asm("jal", rd=link, imm=self._new_label(random.randrange(1, 6)))
        elif kind == 1:
            self.asm("c.j", imm=self._new_label(random.randrange(1, 6)))
        else:
            skipped = random.randrange(3)
            compressed = kind == 2
            self.asm("auipc", rd=5, imm=0)
            self.asm("addi", rd=5, rs1=5, imm=8 + (2 if compressed else 4) + 4 * skipped)
            if compressed:
                self.asm(random.choice(("c.jr", "c.jalr")), rs1=5)
            else:
                self.asm("jalr", rd=link, rs1=5, imm=random.choice((0, 0, 1)))
            for _ in range(skipped):
                self._draw(NOT_JUMPING, rs1=8)

    def _atomic(self) -> None:
        self.asm("addi", rd=5, rs1=10, imm=8 * self.random.randrange(-64, 64))
        self._draw(AMOS, rs1=self.random.choice((5, 8, 10)))

    def _reserve(self) -> None:
        """LR and SC of the same width, to the same or to another address, with computation between them."""
        width = self.random.choice("wd")
        base = self.random.choice((8, 10))
        self._draw([BY_NAME[f"lr.{width}"]], rs1=base)
        for _ in range(self.random.randrange(3)):
            self._compute()
        target = base if self.random.randrange(4) else self.random.choice((8, 10))
        self._draw([BY_NAME[f"sc.{width}"]], rs1=target)

    def _loop(self) -> None:
        """A counted loop around a few instructions that neither jump nor touch the counter."""
        if self.in_loop:
            return
        self.in_loop = True
        self.label_count += 1
        label = f"L{self.label_count}"
        self.asm("addi", rd=LOOP_COUNTER, rs1=0, imm=self.random.randrange(1, 20))
        self.asm.label(label)
        for _ in range(self.random.randrange(1, 6)):
            self.random.choice((self._compute, self._memory, self._atomic, self._float, self._float_memory))()
        self.asm("addi", rd=LOOP_COUNTER, rs1=LOOP_COUNTER, imm=-1)
        self.asm("bne", rs1=LOOP_COUNTER, rs2=0, imm=label)
        self.in_loop = False

    def _self_modify(self) -> None:
        """Write a random instruction over one a little further on, FENCE.I, and run into it."""
        random = self.random
        patch = Assembler(BASE)
        kept, self.asm = self.asm, patch
        self._draw(NOT_JUMPING, rs1=8)
        self.asm = kept
        between = random.randrange(3)
        self.asm("auipc", rd=5, imm=0)
        self.asm.li(6, patch.words()[0])
        self.asm("sw", rs1=5, rs2=6, imm=20 + 4 * between)
        self.asm("fence.i")
        for _ in range(between):
            self._draw(NOT_JUMPING, rs1=8)
        self._draw(NOT_JUMPING, rs1=8)

    def _stack(self) -> None:
        step = 16 * self.random.randrange(1, 31)
        self.asm("c.addi16sp", imm=-step)
        self._draw(BY_FORMAT["CIW"])
        self._draw(BY_FORMAT["CI.fldsp"], rd=self.random.choice(DOUBLES))
        self._draw(BY_FORMAT["CSS.fsdsp"], rs2=self.random.choice(DOUBLES))
        self.asm("c.addi16sp", imm=step)

    def _fence(self) -> None:
        self.asm(self.random.choice(("fence", "fence.i")))


def generate(seed: int, length: int = 200) -> Program:
    """The user-level program of a seed: the same bytes in every process."""
    return Generator(seed).program(seed, length)
