"""Random programs in S and U mode behind Sv39, whose page tables change under them and are hardly ever fenced.

A window of pages is mapped by tables that the program edits: by plain stores, by AMOs that clear A and D, through the
window itself, one level or another, superpages among them. It loads, stores, calls and jumps to U mode there. What it
meets, A and D bits included, it adds to x10.
"""

from random import Random

from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import encode
from tests.machine.assembler import Assembler, to_bytes

BOARD = BoardConfig(ram_mib=4)
WINDOW = 0x4000_0000
PAGES = 8
BODY, TABLES, DATA = 0x1000, 0x10000, 0x18000
"""Offsets in RAM, which S mode also sees where it lies."""
ROOTS, MIDDLES, LEAVES = (0x0, 0x1000), (0x2000, 0x3000), (0x4000, 0x5000)
"""Two tables of each level, from TABLES on."""
VALID, ALL = s.PTE_V, s.PTE_V | s.PTE_R | s.PTE_W | s.PTE_X | s.PTE_A | s.PTE_D
SUM, WATCH, TEMP, OTHER, RA = 10, 11, 5, 6, 1
WINDOW_AT, TABLES_AT, DATA_AT, RAM_AT = 8, 9, 18, 19
ROUTINE, USER_ROUTINE, LAST_HALFWORD = 2, 6, 0xFFE
"""Where a page of data can be entered: at its last halfword an instruction begins that ends in the next page."""


def entry(offset: int, flags: int) -> int:
    """A page-table entry for this offset in RAM."""
    return (RAM_BASE + offset) >> 12 << s.PTE_PPN_LSB | flags


def _page(number: int) -> bytes:
    """Data, and routines that add to x10."""
    add = encode("addi", rd=SUM, rs1=SUM, imm=number + 1)
    code = [encode("c.addi", rd=SUM, imm=number + 1), encode("c.jr", rs1=RA)]
    user = [encode("ld", rd=WATCH, rs1=WINDOW_AT, imm=64), encode("ecall")]
    head = (add >> 16).to_bytes(2, "little") + to_bytes(code + user)
    middle = bytes((number * 37 + index) & 0xFF for index in range(LAST_HALFWORD - len(head)))
    return head + middle + (add & 0xFFFF).to_bytes(2, "little")


def _tables() -> bytes:
    tables = {offset: bytearray(4096) for offset in (*ROOTS, *MIDDLES, *LEAVES)}

    def put(table: int, index: int, value: int) -> None:
        tables[table][8 * index : 8 * index + 8] = value.to_bytes(8, "little")

    for root, middle, leaf in zip(ROOTS, MIDDLES, LEAVES, strict=True):
        put(root, 1, entry(TABLES + middle, VALID))
        put(root, 2, entry(0, ALL))
        put(middle, 0, entry(TABLES + leaf, VALID))
        put(middle, 1, entry(0, ALL))
        for page in range(PAGES):
            put(leaf, page, entry(DATA + 0x1000 * page, ALL))
    return b"".join(bytes(tables[offset]) for offset in sorted(tables))


class WindowProgram:
    """`image` never ends: the body runs again and again."""

    def __init__(self, seed: int, length: int = 120) -> None:
        self._random = Random(seed)
        image = self._start().ljust(BODY, b"\0") + self._body(length)
        assert len(image) <= TABLES
        image = image.ljust(TABLES, b"\0") + _tables()
        self.image = image.ljust(DATA, b"\0") + b"".join(_page(number) for number in range(PAGES))

    def _start(self) -> bytes:
        """M mode: to the body in S mode."""
        asm = self._asm = Assembler(RAM_BASE)
        asm("addi", rd=TEMP, imm=-1)
        asm("csrrw", csr="pmpaddr0", rs1=TEMP)
        asm("csrrwi", csr="pmpcfg0", imm=s.PMPCFG_ALLOW_ALL)
        asm("csrrw", csr="medeleg", rs1=TEMP)
        self._address(RAM_AT, 0)
        self._address(TABLES_AT, TABLES)
        self._address(DATA_AT, DATA)
        asm("lui", rd=WINDOW_AT, imm=WINDOW)
        self._address(TEMP, BODY)
        asm("csrrw", csr="mepc", rs1=TEMP)
        self._satp(0)
        asm.li(TEMP, 1 << 11)
        asm("csrrw", csr="mstatus", rs1=TEMP)
        asm("mret")
        return asm.assemble()

    def _address(self, rd: int, offset: int) -> None:
        self._asm("addi", rd=rd, imm=1)
        self._asm("slli", rd=rd, rs1=rd, imm=31)
        self._asm.li(OTHER, offset)
        self._asm("add", rd=rd, rs1=rd, rs2=OTHER)

    def _satp(self, which: int) -> None:
        self._constant(
            TEMP, s.SATP_SV39 << 60 | self._random.getrandbits(4) << 44 | RAM_BASE + TABLES + ROOTS[which] >> 12
        )
        self._asm("csrrw", csr="satp", rs1=TEMP)

    def _constant(self, rd: int, value: int) -> None:
        self._asm.li(rd, value >> 32)
        self._asm("slli", rd=rd, rs1=rd, imm=32)
        self._asm.li(OTHER, value & 0xFFFF_FFFF)
        self._asm("slli", rd=OTHER, rs1=OTHER, imm=32)
        self._asm("srli", rd=OTHER, rs1=OTHER, imm=32)
        self._asm("or", rd=rd, rs1=rd, rs2=OTHER)

    def _body(self, length: int) -> bytes:
        asm = self._asm = Assembler(RAM_BASE + BODY)
        asm("jal", imm="body")
        asm.label("handler")
        self._handler()
        asm.label("body")
        asm("addi", rd=TEMP, rs1=RAM_AT, imm=4)
        asm.li(OTHER, BODY)
        asm("add", rd=TEMP, rs1=TEMP, rs2=OTHER)
        asm("csrrw", csr="stvec", rs1=TEMP)
        start = asm.size()
        actions = (
            *(self._load,) * 6,
            *(self._store,) * 6,
            *(self._atomic,) * 2,
            *(self._edit_leaf,) * 5,
            *(self._clear_bits,) * 3,
            *(self._look_at_entry,) * 2,
            *(self._call,) * 5,
            *(self._change_code,) * 2,
            *(self._change_status,) * 2,
            *(self._enter_user,) * 2,
            self._edit_middle,
            self._edit_root,
            self._switch,
            self._fence,
        )
        for _ in range(length):
            self._random.choice(actions)()
        asm("auipc", rd=TEMP, imm=0)
        asm("addi", rd=TEMP, rs1=TEMP, imm=-8)
        asm.li(OTHER, start - asm.size())
        asm("add", rd=TEMP, rs1=TEMP, rs2=OTHER)
        asm("jalr", rs1=TEMP)
        return asm.assemble()

    def _handler(self) -> None:
        """Adds cause and value; steps over an instruction of the body, and returns from what cannot be fetched, from U
        mode, and from routines that a store has spoilt.
        """
        asm = self._asm
        asm("csrrs", rd=13, csr="stval")
        asm("add", rd=SUM, rs1=SUM, rs2=13)
        asm("csrrs", rd=13, csr="scause")
        asm("add", rd=SUM, rs1=SUM, rs2=13)
        for cause in (s.CAUSE_FETCH_ACCESS, s.CAUSE_ECALL_U, s.CAUSE_FETCH_PAGE):
            asm("addi", rd=14, imm=cause)
            asm("beq", rs1=13, rs2=14, imm="leave")
        asm("csrrs", rd=14, csr="sepc")
        asm("bge", rs1=14, rs2=RAM_AT, imm="step")
        asm("addi", rd=13, rs1=13, imm=-s.CAUSE_ILLEGAL)
        asm("beq", rs1=13, rs2=0, imm="leave")
        asm.label("step")
        asm("addi", rd=14, rs1=14, imm=4)
        asm("csrrw", csr="sepc", rs1=14)
        asm("sret")
        asm.label("leave")
        asm("csrrw", csr="sepc", rs1=RA)
        asm("addi", rd=13, imm=s.MSTATUS_SPP)
        asm("csrrs", csr="sstatus", rs1=13)
        asm("sret")

    def _window(self, rd: int, offset: int) -> None:
        """rd: an address in the window."""
        self._asm.li(rd, WINDOW + offset)

    def _offset(self, size: int = 1) -> int:
        """Somewhere in the window: often its first page, a page's end, or the superpage that follows the pages."""
        random = self._random
        page = random.choice((0, 1, random.randrange(PAGES), random.randrange(PAGES), PAGES, 512 + DATA // 4096))
        inside = random.choice((8, 64, random.randrange(4096), 4096 - random.randrange(1, 8), 72))
        return (page * 4096 + inside) & -size

    def _load(self) -> None:
        name = self._random.choice(("lb", "lhu", "lw", "ld", "ld", "fld"))
        self._window(TEMP, self._offset())
        if name == "fld":
            self._asm("fld", rd=1, rs1=TEMP)
        else:
            self._asm(name, rd=WATCH, rs1=TEMP)
            self._asm("add", rd=SUM, rs1=SUM, rs2=WATCH)

    def _store(self) -> None:
        self._window(TEMP, self._offset())
        self._asm(self._random.choice(("sb", "sh", "sw", "sd", "fsd")), rs1=TEMP, rs2=SUM)

    def _atomic(self) -> None:
        self._window(TEMP, self._offset(8))
        if self._random.randrange(2):
            self._asm(self._random.choice(("amoadd.d", "amoswap.w", "amoand.d")), rd=WATCH, rs1=TEMP, rs2=SUM)
        else:
            self._asm("lr.d", rd=WATCH, rs1=TEMP)
            self._asm("sc.d", rd=OTHER, rs1=TEMP, rs2=SUM)
            self._asm("add", rd=SUM, rs1=SUM, rs2=OTHER)
        self._asm("add", rd=SUM, rs1=SUM, rs2=WATCH)

    def _flags(self) -> int:
        random = self._random
        flags = random.choice(
            (ALL, ALL, ALL, s.PTE_V | s.PTE_R, s.PTE_V | s.PTE_X, s.PTE_V | s.PTE_R | s.PTE_W | s.PTE_X)
        )
        return (
            flags
            | random.choice((0, s.PTE_U, s.PTE_U))
            | random.choice((0, 0, 0, s.PTE_RSW, s.PTE_G)) ^ (random.choice((0, 0, 0, 0, 0, 0, s.PTE_V, s.PTE_R)))
        )

    def _put(self, table: int, index: int, value: int) -> None:
        self._constant(TEMP, value)
        self._asm.li(OTHER, table + 8 * index)
        self._asm("add", rd=OTHER, rs1=OTHER, rs2=TABLES_AT)
        self._asm("sd", rs1=OTHER, rs2=TEMP)

    def _edit_leaf(self) -> None:
        """Mostly to a page of data; now and then to the tables of leaves themselves."""
        random = self._random
        target = DATA + 0x1000 * random.randrange(PAGES) if random.randrange(8) else TABLES + random.choice(LEAVES)
        self._put(random.choice(LEAVES), random.randrange(PAGES), entry(target, self._flags()))

    def _clear_bits(self) -> None:
        """A, D or both, of one entry, as kernels do to see what is used."""
        random, asm = self._random, self._asm
        asm.li(OTHER, random.choice((LEAVES[0], LEAVES[0], LEAVES[1], MIDDLES[0])) + 8 * random.randrange(2))
        asm("add", rd=OTHER, rs1=OTHER, rs2=TABLES_AT)
        asm("addi", rd=TEMP, imm=~random.choice((s.PTE_A, s.PTE_D, s.PTE_A | s.PTE_D)))
        asm("amoand.d", rd=WATCH, rs1=OTHER, rs2=TEMP)
        asm("add", rd=SUM, rs1=SUM, rs2=WATCH)

    def _look_at_entry(self) -> None:
        asm = self._asm
        asm.li(OTHER, self._random.choice((*LEAVES, *MIDDLES)) + 8 * self._random.randrange(PAGES))
        asm("add", rd=OTHER, rs1=OTHER, rs2=TABLES_AT)
        asm("ld", rd=WATCH, rs1=OTHER)
        asm("add", rd=SUM, rs1=SUM, rs2=WATCH)

    def _edit_middle(self) -> None:
        """To a table, or to a superpage that is all of RAM."""
        random = self._random
        leaf = entry(TABLES + random.choice(LEAVES), VALID)
        self._put(
            random.choice(MIDDLES), random.randrange(2), random.choice((leaf, leaf, leaf, entry(0, self._flags())))
        )

    def _edit_root(self) -> None:
        random = self._random
        middle = entry(TABLES + random.choice(MIDDLES), VALID)
        self._put(random.choice(ROOTS), 1, random.choice((middle, middle, middle, entry(0, self._flags()))))

    def _switch(self) -> None:
        self._satp(self._random.randrange(2))

    def _fence(self) -> None:
        self._asm("sfence.vma")

    def _call(self) -> None:
        where = self._random.choice((ROUTINE, ROUTINE, LAST_HALFWORD)) + 4096 * self._random.randrange(3)
        self._window(TEMP, where)
        self._asm("jalr", rd=RA, rs1=TEMP)

    def _enter_user(self) -> None:
        asm = self._asm
        self._window(TEMP, USER_ROUTINE + 4096 * self._random.randrange(3))
        asm("csrrw", csr="sepc", rs1=TEMP)
        asm("addi", rd=TEMP, imm=s.MSTATUS_SPP)
        asm("csrrc", csr="sstatus", rs1=TEMP)
        asm("auipc", rd=RA, imm=0)
        asm("addi", rd=RA, rs1=RA, imm=12)
        asm("sret")

    def _change_code(self) -> None:
        """A routine adds another number from now on: written through the window, or where it lies in RAM."""
        random, asm = self._random, self._asm
        page = 4096 * random.randrange(3)
        asm.li(TEMP, page)
        asm("add", rd=TEMP, rs1=TEMP, rs2=random.choice((DATA_AT, DATA_AT, WINDOW_AT)))
        number = random.randrange(1, 32)
        if random.randrange(2):
            asm.li(OTHER, encode("c.addi", rd=SUM, imm=number))
            asm("sh", rs1=TEMP, rs2=OTHER, imm=ROUTINE)
        else:
            # The second half of the instruction that begins in the page before.
            asm.li(OTHER, encode("addi", rd=SUM, rs1=SUM, imm=number) >> 16)
            asm("sh", rs1=TEMP, rs2=OTHER)

    def _change_status(self) -> None:
        random = self._random
        self._asm.li(TEMP, random.choice((s.MSTATUS_SUM, s.MSTATUS_SUM, s.MSTATUS_MXR, s.MSTATUS_FS)))
        self._asm(random.choice(("csrrs", "csrrs", "csrrc")), csr="sstatus", rs1=TEMP)
