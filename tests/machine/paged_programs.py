"""Random programs under Sv39 and PMP: page tables that change without a fence, in all modes, over the borders of pages.

The first MiB is mapped twice, page by page: where it is, for S mode, and at 0x4000_0000 for U mode. Tables are mapped
like everything else, so that a program can store into them by a virtual address. Whatever becomes of the mapping, the
handler of page faults in M mode repairs the pages of code.
"""

from collections.abc import Callable
from dataclasses import replace

from ftvm.machine.hart.encodings import BY_NAME, CSRS
from tests.machine.machine_programs import MachineGenerator
from tests.machine.programs import BASE, BY_FORMAT, DATA_OFFSET, DATA_SIZE, PAGE, Program

TABLES = BASE + DATA_OFFSET + DATA_SIZE
ROOT, DIRECTORY, PAGES, USER_DIRECTORY, USER_PAGES = (TABLES + PAGE * n for n in range(5))
"""The root; then, for each of the two mappings, a directory and the table of its 4 KiB pages."""
USER_ALIAS = 0x4000_0000
FIRST_DATA, LAST_PAGE = DATA_OFFSET // PAGE, 12
CODE_PAGES = 4
CODE_COPY = 16
"""Number of the page from which on the code stands a second time, to be mapped instead of the first."""
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
ALL = V | R | W | X | A | D
SPECIAL = ("satp", "sstatus", "mstatus", "senvcfg", "menvcfg", "stimecmp", "fcsr", "medeleg", "pmpcfg0", "pmpaddr1")


def entry(page: int, flags: int) -> int:
    """The PTE of a page of RAM, by its number."""
    return (BASE >> 12) + page << 10 | flags


def tables() -> bytes:
    words = [0] * (5 * PAGE // 8)

    def put(table: int, index: int, word: int) -> None:
        words[(table - TABLES) // 8 + index] = word

    for root_index, directory, pages, flags in ((2, DIRECTORY, PAGES, ALL), (1, USER_DIRECTORY, USER_PAGES, ALL | U)):
        put(ROOT, root_index, directory >> 12 << 10 | V)
        put(directory, 0, pages >> 12 << 10 | V)
        for page in range(256):
            put(pages, page, entry(page, flags))
    return b"".join(word.to_bytes(8, "little") for word in words)


class PagedGenerator(MachineGenerator):
    """x14 points to the table of the pages that S mode uses, x15 to that of U mode's."""

    level = "paged"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        random = self.random
        border = BASE + DATA_OFFSET + PAGE
        pointers = {8: border - random.choice((0x40, 8)), 9: border + random.randrange(-9, 9)}
        pointers |= {register: self.pointers[register] for register in (2, 10, 11, 12, 13)}
        if random.randrange(3) == 0:
            pointers[9] -= BASE - USER_ALIAS
        self.pointers = pointers | {14: PAGES, 15: USER_PAGES}

    def program(self, seed: int, length: int) -> Program:
        program = super().program(seed, length)
        code = program.image()[: CODE_PAGES * PAGE]
        data = (program.data + tables()).ljust(CODE_COPY * PAGE - DATA_OFFSET + 256, b"\0")
        return replace(program, data=data + code)

    def _set_up(self) -> None:
        random = self.random
        super()._set_up()
        self._allow_everything()
        self._set_csr("medeleg", random.choice((0, 0xB000 & ~(1 << 12), random.getrandbits(16) & ~0x1002)))
        if random.randrange(2):
            self.asm("addi", rd=2, rs1=0, imm=-1)
            self.asm("slli", rd=2, rs1=2, imm=63)
            self.asm("csrrw", csr="menvcfg", rs1=2)
        self._set_csr("mstatus", random.choice((0, 0x88, 0xA, 1 << 11, 1 << 13, 3 << 13, 1 << 18, 1 << 19)))
        self._translate()
        if random.randrange(4):
            self._enter()

    def _handle_more(self, mode: str) -> None:
        """M mode's handler of instruction page faults: the pages of code as they were, and again from the body on."""
        if mode == "s":
            return
        asm = self.asm
        asm("addi", rd=13, rs1=13, imm=-11)
        asm("bne", rs1=13, rs2=0, imm="no_page_fault")
        for table, flags in ((PAGES, ALL), (USER_PAGES, ALL | U)):
            asm("addi", rd=13, rs1=0, imm=1)
            asm("slli", rd=13, rs1=13, imm=31)
            asm.li(5, table - BASE)
            asm("add", rd=13, rs1=13, rs2=5)
            for page in range(CODE_PAGES):
                asm.li(5, entry(page, flags))
                asm("sd", rs1=13, rs2=5, imm=8 * page)
        asm.li(13, 3 << 11)
        asm("csrrc", csr="mstatus", rs1=13)
        asm.li(13, 1 << 11)
        asm("csrrs", csr="mstatus", rs1=13)
        asm("jal", imm="magain")
        asm.label("no_page_fault")

    def _kinds(self) -> dict[Callable[[], None], int]:
        paged = {
            self._edit_entry: 12,
            self._translate: 4,
            self._special: 8,
            self._status: 5,
            self._protect: 3,
            self._fence_tables: 3,
            self._enter: 6,
            self._leave: 4,
            self._timer: 3,
            self._device: 1,
            self._memory: 40,
        }
        return super()._kinds() | paged

    def _edit_entry(self) -> None:
        """A PTE of a page of data or of tables, now and then of code, in either mapping; mostly without a fence."""
        random = self.random
        page = random.choice((*range(FIRST_DATA, LAST_PAGE), FIRST_DATA, FIRST_DATA + 1, random.randrange(CODE_PAGES)))
        target = random.choice((page, page, random.randrange(FIRST_DATA, LAST_PAGE)))
        if page < CODE_PAGES:
            target = random.choice((page, CODE_COPY + page, CODE_COPY + page))
        flags = ALL | random.choice((0, U))
        for _ in range(random.randrange(3)):
            flags ^= random.choice((V, R, W, X, U, G, A, D, A | D))
        self.asm.li(5, entry(target, flags))
        self.asm("sd", rs1=random.choice((14, 15)), rs2=5, imm=8 * page)

    def _fence_tables(self) -> None:
        self._draw([BY_NAME["sfence.vma"]])

    def _translate(self) -> None:
        """satp: Sv39 with any ASID; rarely Bare, or a mode that does not exist."""
        asm, random = self.asm, self.random
        asm("addi", rd=5, rs1=0, imm=random.choice((8, 8, 8, 8, 8, 0, 9)))
        asm("slli", rd=5, rs1=5, imm=16)
        asm.li(6, random.choice((0, random.getrandbits(16))))
        asm("or", rd=5, rs1=5, rs2=6)
        asm("slli", rd=5, rs1=5, imm=44)
        asm.li(6, ROOT >> 12)
        asm("or", rd=5, rs1=5, rs2=6)
        asm("csrrw", csr="satp", rs1=5)

    def _special(self) -> None:
        self._draw(BY_FORMAT["csr"] + BY_FORMAT["csri"], csr=CSRS[self.random.choice(SPECIAL)])

    def _status(self) -> None:
        """Bits that say what memory may be accessed, and how."""
        bits = self.random.choice((1 << 17, 1 << 18, 1 << 19, 1 << 11, 1 << 17 | 1 << 11, 3 << 13, 1 << 8))
        self.asm.li(5, bits)
        csr = self.random.choice(("mstatus", "mstatus", "sstatus"))
        self.asm(self.random.choice(("csrrs", "csrrc")), csr=csr, rs1=5)

    def _protect(self) -> None:
        """A PMP entry somewhere in the data or the tables."""
        asm, random = self.asm, self.random
        index = random.randrange(8)
        address = BASE + PAGE * random.randrange(FIRST_DATA, LAST_PAGE) + random.choice((0, 0, 0xFF8, 0x7FC))
        asm.li(5, address >> 2 | random.choice((0, 1, 511, 1023)))
        asm("csrrw", csr=f"pmpaddr{index}", rs1=5)
        asm.li(5, random.choice((0, 8, 16, 24)) | random.randrange(8))
        asm("slli", rd=5, rs1=5, imm=8 * index)
        asm(random.choice(("csrrw", "csrrs")), csr="pmpcfg0", rs1=5)

    def _enter(self) -> None:
        """From M mode to S or U mode."""
        asm = self.asm
        user = self.random.randrange(3) == 0
        asm.li(6, 3 << 11)
        asm("csrrc", csr="mstatus", rs1=6)
        asm.li(6, (0 if user else 1) << 11 | self.random.choice((0, 1 << 5)))
        asm("csrrs", csr="mstatus", rs1=6)
        self._target("mepc", user)

    def _leave(self) -> None:
        """From S mode to U mode, or to S mode."""
        user = self.random.randrange(4) != 0
        self.asm.li(6, 1 << 8)
        self.asm("csrrc" if user else "csrrs", csr="sstatus", rs1=6)
        self._target("sepc", user)

    def _target(self, csr: str, user: bool) -> None:
        """Return to the instruction after the return, as the mode sees it."""
        asm = self.asm
        asm("lui", rd=7, imm=(BASE - USER_ALIAS) if user else 0)
        asm("auipc", rd=5, imm=0)
        asm("sub", rd=5, rs1=5, rs2=7)
        asm("addi", rd=5, rs1=5, imm=20)
        asm("csrrw", csr=csr, rs1=5)
        asm("mret" if csr == "mepc" else "sret")

    def _timer(self) -> None:
        """stimecmp or mtimecmp a little after now."""
        if self.random.randrange(2):
            super()._timer()
            return
        self.asm("csrrs", rd=6, csr="time")
        self.asm("addi", rd=6, rs1=6, imm=self.random.randrange(100))
        self.asm("csrrw", csr="stimecmp", rs1=6)


def generate_paged(seed: int, length: int = 200) -> Program:
    """The program of a seed: the same bytes in every process."""
    return PagedGenerator(seed).program(seed, length)
