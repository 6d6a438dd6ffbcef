"""Privileged probes: a table of cases, and a small monitor in M mode that tries one after the other.

A case sets up page tables, PMP, delegation and interrupts, enters a mode and executes up to four instructions and an
ECALL there. Whatever traps first ends the case: mcause, mtval and the rest go into a table of results. Kernel,
reference and QEMU run the same image, and their tables of results must be the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ftvm.machine.board import CLINT_BASE, FINISHER_BASE
from ftvm.machine.devices.finisher import PASS
from ftvm.machine.hart.encodings import encode
from tests.machine.assembler import Assembler

BASE = 0x8000_0000
ROOT, CODE_L1, CODE_L0, STUB = (BASE + 0x1_0000 + 0x1000 * n for n in range(4))
"""Tables and the page that cases run in; PMP entry 0 lets every mode use these."""
TABLE_L1, TABLE_L0 = BASE + 0x2_0000, BASE + 0x2_1000
DATA = BASE + 0x3_0000
"""Four pages for cases to access."""
DATA_PAGES = 4
CASES = BASE + 0x10_0000
CASES_MAX = 4096
RESULTS = BASE + 0x30_0000
RAM_MIB = 8

STUB_SUPERVISOR, STUB_USER = 0x4000_0000, 0x4000_1000
"""Where Sv39 has the stub page, for S mode and for U mode."""
HANDLER_OFFSET = 0x800
MAPPED = 0xC000_0000
"""Virtual address under the root's entry 3: cases put what they like there. No physical memory has this address, for
QEMU takes loads by MPRV from its TLB's entry for code if the monitor runs at the same address.
"""
ECALLS = encode("ecall") << 32 | encode("ecall")
"""What the data pages are full of, so that they can be run."""
BLOCK = BASE + 0xF000
"""The monitor's variables: pointers to the present case and result, and how many cases are left."""

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
SV39 = 8 << 60 | ROOT >> 12
MPRV, SUM, MXR, TVM, TW, TSR = (1 << bit for bit in (17, 18, 19, 20, 21, 22))
FS_CLEAN = 2 << 13
USER, SUPERVISOR, MACHINE = 0, 1, 3
PMP_ALL = 0x1F


def pte(address: int, flags: int) -> int:
    return address >> 12 << 10 | flags


def napot(address: int, size: int) -> int:
    """pmpaddr of a naturally aligned power of two of at least 8 bytes."""
    return address >> 2 | (size >> 3) - 1


@dataclass(frozen=True, slots=True)
class Case:
    """Registers are set as their names say; `patches` are doublewords to store first, up to four. `pc` is where
    mstatus.MPP enters: 0 stands for the stub page as that mode sees it. With `in_place` the case runs in M mode
    without an MRET.
    """

    code: tuple[int, ...] = ()
    patches: tuple[tuple[int, int], ...] = ()
    mode: int = MACHINE
    mstatus: int = 0
    satp: int = 0
    x10: int = 0
    x11: int = 0
    pc: int = 0
    in_place: bool = False
    medeleg: int = 0
    mideleg: int = 0
    mie: int = 0
    mip: int = 0
    msip: int = 0
    mtimecmp: int = (1 << 64) - 1
    stimecmp: int = (1 << 64) - 1
    menvcfg: int = 0
    counteren: int = 7
    pmpcfg0: int = PMP_ALL << 56
    pmpaddr: tuple[int, ...] = (0, 0, 0, 0, 0, 0, (1 << 54) - 1)
    """Entries 1 to 7."""

    def words(self) -> list[int]:
        code = [*self.code, *[encode("addi")] * (4 - len(self.code))]
        filler = next((patch for patch in self.patches if patch[0] == DATA), (DATA, ECALLS))
        patches = [*self.patches, *[filler] * (4 - len(self.patches))]
        translated = self.satp >> 60 and self.mode != MACHINE and not self.in_place
        stub = {USER: STUB_USER, SUPERVISOR: STUB_SUPERVISOR}[self.mode] if translated else STUB
        handler = (STUB_SUPERVISOR if self.satp >> 60 else STUB) + HANDLER_OFFSET
        return [
            code[0] | code[1] << 32,
            code[2] | code[3] << 32,
            *(word for patch in patches for word in patch),
            self.pc or stub,
            self.mstatus | self.mode << 11,
            self.satp,
            self.x10,
            self.x11,
            int(self.in_place),
            self.medeleg,
            self.mideleg,
            self.mie,
            self.mip,
            self.msip,
            self.mtimecmp,
            self.stimecmp,
            self.menvcfg,
            self.counteren,
            handler,
            self.pmpcfg0 & ~0xFF | PMP_ALL,
            napot(ROOT, 0x1_0000),
            *self.pmpaddr,
        ]


FIELDS = (
    *("code0", "code1", "at0", "patch0", "at1", "patch1", "at2", "patch2", "at3", "patch3"),
    *("pc", "mstatus", "satp", "x10", "x11", "in_place", "medeleg", "mideleg", "mie", "mip", "msip", "mtimecmp"),
    *("stimecmp", "menvcfg", "counteren", "handler", "pmpcfg0", *(f"pmpaddr{n}" for n in range(8))),
)
"""The doublewords of a case, as `Case.words` lists them."""
AT = {name: 8 * index for index, name in enumerate(FIELDS)}
CASE_SIZE = 8 * len(FIELDS)


@dataclass(frozen=True, slots=True)
class Result:
    """What a case left behind; x12 to x15 are scause, stval, sepc and sstatus if it trapped to S mode."""

    mcause: int
    mepc: int
    mtval: int
    mstatus: int
    x10: int
    x11: int
    x12: int
    x13: int
    x14: int
    x15: int
    mip: int
    satp: int
    memory0: int
    memory1: int
    memory2: int
    memory3: int

    def differences(self, other: "Result") -> list[str]:
        return [
            f"{field.name}: {getattr(self, field.name):#x} != {getattr(other, field.name):#x}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


RESULT_SIZE = 8 * len(fields(Result))


def _address(asm: Assembler, rd: int, value: int) -> None:
    asm.li(rd, value)
    asm("slli", rd=rd, rs1=rd, imm=32)
    asm("srli", rd=rd, rs1=rd, imm=32)


def _monitor(count: int, ending: int) -> Assembler:
    """x5 is the case, x6 its result, x31 the block."""
    asm = Assembler(BASE)
    _address(asm, 31, BLOCK)
    _address(asm, 5, CASES)
    _address(asm, 6, RESULTS)
    asm.li(7, count)
    asm("sd", rs1=31, rs2=5, imm=0)
    asm("sd", rs1=31, rs2=6, imm=8)
    asm("sd", rs1=31, rs2=7, imm=16)
    asm("auipc", rd=7, imm=0)
    asm("addi", rd=7, rs1=7, imm=16)
    asm("csrrw", csr="mtvec", rs1=7)
    asm("jal", imm="first")
    _record(asm, ending)
    asm.label("first")
    _set_up(asm)
    return asm


def _record(asm: Assembler, ending: int) -> None:
    """The handler of all traps in M mode: write down the result, go on with the next case."""
    asm("csrrw", rd=31, csr="mscratch", rs1=31)
    asm("ld", rd=6, rs1=31, imm=8)
    for register in range(10, 16):
        asm("sd", rs1=6, rs2=register, imm=8 * (register - 6))
    asm.li(7, MPRV)
    for index, csr in ((0, "mcause"), (1, "mepc"), (2, "mtval"), (3, "mstatus"), (10, "mip"), (11, "satp")):
        asm("csrrs", rd=8, csr=csr)
        asm("sd", rs1=6, rs2=8, imm=8 * index)
    asm("csrrc", csr="mstatus", rs1=7)
    # An access that only a part of an entry matches fails, in M mode as well.
    asm("csrrwi", csr="pmpcfg0", imm=0)
    asm("ld", rd=5, rs1=31, imm=0)
    for patch in range(4):
        asm("ld", rd=7, rs1=5, imm=AT[f"at{patch}"])
        asm("ld", rd=7, rs1=7, imm=0)
        asm("sd", rs1=6, rs2=7, imm=8 * (12 + patch))
    asm("addi", rd=5, rs1=5, imm=CASE_SIZE)
    asm("addi", rd=6, rs1=6, imm=RESULT_SIZE)
    asm("ld", rd=7, rs1=31, imm=16)
    asm("addi", rd=7, rs1=7, imm=-1)
    asm("sd", rs1=31, rs2=5, imm=0)
    asm("sd", rs1=31, rs2=6, imm=8)
    asm("sd", rs1=31, rs2=7, imm=16)
    asm("bne", rs1=7, rs2=0, imm="first")
    asm.li(8, FINISHER_BASE)
    asm.li(9, ending)
    asm("sw", rs1=8, rs2=9, imm=0)
    asm("jal", imm=0)


def _set_up(asm: Assembler) -> None:
    """The case at x5, and into it."""
    asm("csrrwi", csr="mie", imm=0)
    for patch in range(4):
        asm("ld", rd=7, rs1=5, imm=AT[f"at{patch}"])
        asm("ld", rd=8, rs1=5, imm=AT[f"patch{patch}"])
        asm("sd", rs1=7, rs2=8, imm=0)
    _address(asm, 7, STUB)
    for half in range(2):
        asm("ld", rd=8, rs1=5, imm=AT[f"code{half}"])
        asm("sd", rs1=7, rs2=8, imm=8 * half)
    asm.li(7, CLINT_BASE)
    asm("ld", rd=8, rs1=5, imm=AT["msip"])
    asm("sw", rs1=7, rs2=8, imm=0)
    asm.li(7, CLINT_BASE + 0x4000)
    asm("ld", rd=8, rs1=5, imm=AT["mtimecmp"])
    asm("sd", rs1=7, rs2=8, imm=0)
    names = ("menvcfg", "stimecmp", "medeleg", "mideleg", "mip", "satp", *(f"pmpaddr{n}" for n in range(8)))
    for csr in (*names, "pmpcfg0", "mie"):
        asm("ld", rd=8, rs1=5, imm=AT[csr])
        asm("csrrw", csr=csr, rs1=8)
    for csr, field in (("mcounteren", "counteren"), ("scounteren", "counteren"), ("stvec", "handler"), ("mepc", "pc")):
        asm("ld", rd=8, rs1=5, imm=AT[field])
        asm("csrrw", csr=csr, rs1=8)
    asm("sfence.vma")
    asm("fence.i")
    asm("csrrw", csr="mscratch", rs1=31)
    for register in range(12, 16):
        asm("addi", rd=register)
    asm("ld", rd=10, rs1=5, imm=AT["x10"])
    asm("ld", rd=11, rs1=5, imm=AT["x11"])
    asm("ld", rd=9, rs1=5, imm=AT["in_place"])
    asm("ld", rd=7, rs1=5, imm=AT["pc"])
    asm("ld", rd=8, rs1=5, imm=AT["mstatus"])
    asm("csrrw", csr="mstatus", rs1=8)
    asm("bne", rs1=9, rs2=0, imm=8)
    asm("mret")
    asm("jalr", rs1=7)


def _handler() -> bytes:
    """Of traps to S mode: what they left, for the monitor to write down."""
    asm = Assembler(STUB + HANDLER_OFFSET)
    for register, csr in ((12, "scause"), (13, "stval"), (14, "sepc"), (15, "sstatus")):
        asm("csrrs", rd=register, csr=csr)
    asm("ecall")
    return asm.assemble()


def image_of(cases: Sequence[Case], ending: int = PASS) -> bytes:
    """`ending` is what is written to the test finisher."""
    assert 0 < len(cases) <= CASES_MAX
    image = bytearray(CASES - BASE)

    def place(address: int, data: bytes) -> None:
        image[address - BASE : address - BASE + len(data)] = data

    monitor = _monitor(len(cases), ending).assemble()
    assert len(monitor) < BLOCK - BASE
    place(BASE, monitor)
    place(STUB + 16, encode("ecall").to_bytes(4, "little"))
    place(STUB + HANDLER_OFFSET, _handler())
    for table, index, entry in (
        (ROOT, 1, pte(CODE_L1, V)),
        (ROOT, 3, pte(TABLE_L1, V)),
        (CODE_L1, 0, pte(CODE_L0, V)),
        (CODE_L0, 0, pte(STUB, V | X | R | A | D)),
        (CODE_L0, 1, pte(STUB, V | X | R | A | D | U)),
        (TABLE_L1, 0, pte(TABLE_L0, V)),
    ):
        place(table + 8 * index, entry.to_bytes(8, "little"))
    for page in range(DATA_PAGES):
        place(DATA + 0x1000 * page, ECALLS.to_bytes(8, "little") * 512)
    for case in cases:
        image += b"".join((word & (1 << 64) - 1).to_bytes(8, "little") for word in case.words())
    return bytes(image)


def results_in(dump: bytes, count: int) -> list[Result]:
    """From the memory at RESULTS on."""
    words = [int.from_bytes(dump[at : at + 8], "little") for at in range(0, count * RESULT_SIZE, 8)]
    width = RESULT_SIZE // 8
    return [Result(*words[index * width : (index + 1) * width]) for index in range(count)]
