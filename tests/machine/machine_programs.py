"""Random programs that use the whole machine: CSRs, traps and their handlers, delegation, interrupts, devices.

They have no end: the body runs again and again. Anything may happen in them (any encoding with any operands, any
word at all), and whatever happens must be the same on every interpreter.
"""

from collections.abc import Callable

from ftvm.machine.board import CLINT_BASE, PLIC_BASE, ROM_BASE, UART_BASE, UART_IRQ
from ftvm.machine.hart.encodings import BY_NAME, CSRS, ENCODINGS
from tests.machine.float_operands import ARITHMETIC
from tests.machine.programs import BASE, BITS, BY_FORMAT, COMPUTE, POINTERS, Generator, Program

MTIMECMP, PLIC_CLAIM = CLINT_BASE + 0x4000, PLIC_BASE + 0x20_0004
DEVICES = (CLINT_BASE, MTIMECMP, CLINT_BASE + 0xBFF8, PLIC_BASE, PLIC_CLAIM - 4, UART_BASE, ROM_BASE, BASE + (1 << 20))
"""Addresses whose surroundings are read and written; the last is where the small board's RAM ends."""

CSR_NAMES = [name for name in CSRS if not name.startswith(("hpm", "mhpm", "pmp"))]
VECTORS = (CSRS["mtvec"], CSRS["stvec"])


class MachineGenerator(Generator):
    """x11 points to RAM's end and x12 to a device; x13 is the handlers' scratch register."""

    level = "machine"
    computations = COMPUTE + BITS

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pointers = POINTERS | {11: self.random.choice(DEVICES), 12: self.random.choice(DEVICES), 13: BASE}

    def _set_up(self) -> None:
        random = self.random
        if random.randrange(8):
            self._allow_everything()
        self._handler("m", "s")
        self._handler("s", "m")
        if random.randrange(2):
            self._set_csr("medeleg", random.getrandbits(16) & ~(1 << 1))
            self._set_csr("mideleg", random.getrandbits(12))
        if random.randrange(4):
            self._enable_device_interrupts()
        self._set_csr("mie", random.choice((0, 0xAAA, random.getrandbits(12))))
        floating_point = random.choice((0, 1, 2, 3, 3)) << 13
        self._set_csr("mstatus", random.choice((0, 0xA, 0x1888, 0x88)) | random.getrandbits(1) << 21 | floating_point)

    def _allow_everything(self) -> None:
        """By the last PMP entry: without any, S and U mode may do nothing."""
        self.asm("addi", rd=2, rs1=0, imm=-1)
        self.asm("csrrw", csr="pmpaddr15", rs1=2)
        self.asm.li(2, 0x1F)
        self.asm("slli", rd=2, rs1=2, imm=56)
        self.asm("csrrw", csr="pmpcfg2", rs1=2)

    def _set_csr(self, name: str, value: int) -> None:
        self.asm.li(2, value)
        self.asm("csrrw", csr=name, rs1=2)

    def _store_word(self, address: int, value: int, name: str = "sw") -> None:
        self.asm.li(2, address)
        self.asm.li(3, value)
        self.asm(name, rs1=2, rs2=3, imm=0)

    def _enable_device_interrupts(self) -> None:
        self._store_word(PLIC_BASE + 4 * UART_IRQ, self.random.randrange(8))
        self._store_word(PLIC_BASE + 0x2000, self.random.choice((0, -1)))
        self._store_word(PLIC_BASE + 0x2080, self.random.choice((0, -1)))
        self._store_word(UART_BASE + 1, self.random.randrange(16), "sb")
        self._store_word(UART_BASE + 2, self.random.choice((0, 1, 0x41, 0xC7)), "sb")

    def _handler(self, mode: str, other: str) -> None:
        """Steps over the instruction that trapped. After an interrupt it disables that kind and claims from the
        PLIC; after a fetch fault the body starts again.
        """
        asm = self.asm
        asm("auipc", rd=2, imm=0)
        asm("addi", rd=2, rs1=2, imm=16)
        asm("csrrw", csr=f"{mode}tvec", rs1=2)
        asm("jal", imm=f"{mode}after")
        asm("csrrw", rd=13, csr=f"{mode}scratch", rs1=13)
        asm("csrrs", rd=13, csr=f"{mode}cause")
        asm("blt", rs1=13, rs2=0, imm=f"{mode}interrupt")
        asm("addi", rd=13, rs1=13, imm=-1)
        asm("beq", rs1=13, rs2=0, imm=f"{mode}again")
        self._handle_more(mode)
        asm("csrrs", rd=13, csr=f"{mode}epc")
        asm("addi", rd=13, rs1=13, imm=self.random.choice((2, 4)))
        asm("csrrw", csr=f"{mode}epc", rs1=13)
        asm("jal", imm=f"{mode}return")
        asm.label(f"{mode}again")
        asm("jal", rd=13, imm=4)
        asm("addi", rd=13, rs1=13, imm=f"{mode}restart")
        asm("csrrw", csr=f"{mode}epc", rs1=13)
        asm("jal", imm=f"{mode}return")
        asm.label(f"{mode}interrupt")
        if self.random.randrange(2):
            asm("lui", rd=13, imm=PLIC_BASE + 0x20_0000 + (0x1000 if mode == "s" else 0))
            asm("lw", rd=13, rs1=13, imm=4)
        asm("csrrwi", csr=f"{mode}ie", imm=self.random.choice((0, 2, 8)))
        if mode == "m" and self.random.randrange(2):
            asm.li(13, 3 << 11)
            asm("csrrs", csr="mstatus", rs1=13)
        asm.label(f"{mode}return")
        asm("csrrs", rd=13, csr=f"{mode}tval")
        asm("csrrw", rd=13, csr=f"{mode}scratch", rs1=13)
        asm(f"{mode}ret")
        asm.label(f"{mode}restart")
        asm("jal", imm="body")
        asm.label(f"{mode}after")

    def _handle_more(self, mode: str) -> None:
        """In a handler, with the cause of an exception less 1 in x13: nothing."""

    def _epilogue(self) -> None:
        self.asm("jal", imm="body")

    def _kinds(self) -> dict[Callable[[], None], int]:
        machine = {
            self._csr: 12,
            self._anything: 5,
            self._garbage: 3,
            self._system: 4,
            self._device: 6,
            self._timer: 3,
            self._enable: 3,
            self._wait: 1,
            self._enter: 3,
            self._any_float: 10,
        }
        return super()._kinds() | machine

    def _csr(self) -> None:
        """Any CSR that exists, now and then any number; the vectors rarely, for most values end the fun."""
        number = CSRS[self.random.choice(CSR_NAMES)]
        if self.random.randrange(10) == 0:
            number = self.random.getrandbits(12)
        if number not in VECTORS or self.random.randrange(20) == 0:
            self._draw(BY_FORMAT["csr"] + BY_FORMAT["csri"], csr=number)

    def _anything(self) -> None:
        """Any encoding with any operands: wild accesses and jumps."""
        encoding = self.random.choice(ENCODINGS)
        word = encoding.match
        for field in encoding.fields.values():
            word |= field.insert(field.extract(self.random.getrandbits(32)))
        self.asm.word(word)

    def _any_float(self) -> None:
        """On any registers: singles that are not NaN-boxed, and the rounding modes that the CSRs came to hold."""
        self._draw(ARITHMETIC)

    def _garbage(self) -> None:
        word = self.random.getrandbits(32)
        self.asm.word(word if word & 3 == 3 else word & 0xFFFF)

    def _system(self) -> None:
        self._draw([BY_NAME[self.random.choice(("ecall", "ebreak", "c.ebreak", "mret", "sret", "sfence.vma"))]])

    def _device(self) -> None:
        encodings = self.random.choice((BY_FORMAT["load"], BY_FORMAT["store"], BY_FORMAT["amo"], BY_FORMAT["lr"]))
        offset = self.random.choice((*range(-8, 9), 12, 16, 20, 40))
        self._draw(encodings, rs1=self.random.choice((11, 12)), imm=offset)

    def _timer(self) -> None:
        """mtimecmp a little after now."""
        self.asm("lui", rd=5, imm=MTIMECMP)
        self.asm("csrrs", rd=6, csr="time")
        self.asm("addi", rd=6, rs1=6, imm=self.random.randrange(100))
        self.asm("sd", rs1=5, rs2=6, imm=0)

    def _enable(self) -> None:
        """Interrupts on, or one made pending."""
        random = self.random
        self.asm.li(5, random.choice((0xAAA, 0x222, 0x80, 0x8, 0x200)))
        self.asm(random.choice(("csrrs", "csrrw")), csr=random.choice(("mie", "mip", "sie", "sip")), rs1=5)
        self.asm("csrrsi", csr=random.choice(("mstatus", "sstatus")), imm=random.choice((2, 8, 10)))

    def _enter(self) -> None:
        """Go on in another mode, mostly S."""
        asm = self.asm
        asm.li(6, 3 << 11)
        asm("csrrc", csr="mstatus", rs1=6)
        asm.li(6, self.random.choice((0, 1, 1)) << 11 | self.random.choice((0, 1 << 5)))
        asm("csrrs", csr="mstatus", rs1=6)
        asm("auipc", rd=5, imm=0)
        asm("addi", rd=5, rs1=5, imm=16)
        asm("csrrw", csr="mepc", rs1=5)
        asm("mret")

    def _wait(self) -> None:
        """WFI with something that will end it: the timer, or the next Clock or Input entry."""
        self._timer()
        self.asm.li(5, 0xA80)
        self.asm("csrrs", csr="mie", rs1=5)
        self.asm("wfi")


def generate_machine(seed: int, length: int = 200) -> Program:
    """The machine-level program of a seed: the same bytes in every process."""
    return MachineGenerator(seed).program(seed, length)
