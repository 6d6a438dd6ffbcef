"""Tables of privileged probes: every combination of what the manual's rules speak of, and random ones.

`TABLES` are for QEMU as well, and keep clear of what `qemu.py` lists.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random

from ftvm.machine.hart.encodings import CSRS, encode
from tests.machine.probes import (
    BASE,
    DATA,
    ECALLS,
    FS_CLEAN,
    MACHINE,
    MAPPED,
    MPRV,
    MXR,
    PMP_ALL,
    ROOT,
    SUM,
    SUPERVISOR,
    SV39,
    TABLE_L0,
    TABLE_L1,
    TSR,
    TVM,
    TW,
    USER,
    A,
    Case,
    D,
    G,
    R,
    U,
    V,
    W,
    X,
    napot,
    pte,
)

ACCESSES: dict[str, tuple[int, ...]] = {
    "load": (encode("ld", rd=11, rs1=10),),
    "store": (encode("sd", rs1=10, rs2=11),),
    "amo": (encode("amoor.d", rd=11, rs1=10, rs2=11),),
    "lr": (encode("lr.d", rd=11, rs1=10),),
    "reserve": (encode("lr.w", rd=12, rs1=10), encode("sc.w", rd=11, rs1=10, rs2=11)),
    "fetch": (encode("jalr", rd=1, rs1=10),),
}
LOADS = {1: "lbu", 2: "lh", 4: "lw", 8: "ld"}
STORES = {1: "sb", 2: "sh", 4: "sw", 8: "sd"}
DELEGATED = 0xB1FF
"""All exceptions but the environment calls with which cases end."""
TOR, NA4, NAPOT = (mode << 3 for mode in (1, 2, 3))


def access(size: int, store: bool) -> tuple[int, ...]:
    if store:
        return (encode(STORES[size], rs1=10, rs2=11),)
    return (encode(LOADS[size], rd=11, rs1=10),)


def permissions() -> Iterator[Case]:
    """Bits of a leaf entry, mode, SUM, MXR, kind of access; in M mode with MPRV as well."""
    flags = [sum(bits) for bits in product(*((0, bit) for bit in (R, W, X, U, A, D)))]
    for leaf, mode, sum_mxr, (name, code) in product(flags, (USER, SUPERVISOR), range(4), ACCESSES.items()):
        mstatus = sum_mxr << 18
        patches = ((TABLE_L0, pte(DATA, V | leaf)), (DATA, ECALLS))
        case = Case(code, patches, mode, mstatus, SV39, MAPPED, 0x55)
        yield case
        if name in ("load", "store", "amo"):
            yield Case(code, patches, mode, mstatus | MPRV, SV39, MAPPED, 0x55, in_place=True)


def entries() -> Iterator[Case]:
    """Entries with reserved bits or none at all, pointers and superpages at each level, misaligned ones too; addresses
    that are no Sv39 addresses.
    """
    leaf = V | R | W | X | A | D
    for code, mode in product((ACCESSES["load"], ACCESSES["store"], ACCESSES["fetch"]), (SUPERVISOR, USER)):
        user = U if mode == USER else 0

        def case(*patches: tuple[int, int], x10: int = MAPPED, code: tuple[int, ...] = code, mode: int = mode) -> Case:
            return Case(code, patches, mode, 0, SV39, x10, 1)

        pointer = (TABLE_L1, pte(TABLE_L0, V))
        for bit in (0, *range(8, 10), *range(54, 64)):
            yield case((TABLE_L0, pte(DATA, leaf | user) ^ 1 << bit), pointer)
            yield case((TABLE_L0, pte(DATA, leaf | user)), (TABLE_L1, pte(TABLE_L0, V) ^ 1 << bit))
        for extra in (0, G, A, D, U, A | D, A | D | U, W, W | X):
            yield case((TABLE_L0, pte(DATA, leaf | user)), (TABLE_L1, pte(TABLE_L0, V | extra)))
            yield case((TABLE_L0, pte(DATA, V | extra)), pointer)
        for page in (0, 1, 2, 0x100, 0x1FF, 0x200, 0x201, 0x3FFFF, 0x40000):
            for table in (ROOT + 0x18, TABLE_L1):
                offset = 0x8000_0000 + 0x1000 * page
                for ad in (0, A | D):
                    flags = V | R | W | X | user | ad
                    address = MAPPED + DATA % (1 << 21)
                    entry = (table, pte(offset, flags))
                    yield case(entry, (DATA, ECALLS), x10=address)
        for high in (0, 1, 1 << 24, (1 << 25) - 1, (1 << 25) - 2, 1 << 23):
            yield case((TABLE_L0, pte(DATA, leaf | user)), pointer, x10=(high << 39 | MAPPED) & (1 << 64) - 1)
            yield case((TABLE_L0, pte(DATA, leaf | user)), pointer, x10=(high << 39 | 1 << 38 | MAPPED) & (1 << 64) - 1)


def borders() -> Iterator[Case]:
    """Accesses over the border of two pages, each of which may be anywhere, or may not be accessed."""
    pages = (V | R | W | X | A | D, V | R, V | R | W, V | R | X | A, 0)
    for first, second, size, store, mode in product(pages, pages, (2, 4, 8), (False, True), (SUPERVISOR, USER)):
        user = U if mode == USER else 0
        for back in {1, size // 2, size - 1}:
            patches = (
                (TABLE_L0, pte(DATA + 0x2000, first | user)),
                (TABLE_L0 + 8, pte(DATA + 0x1000, second | user)),
                (DATA + 0x2FF8, 0x1122_3344_5566_7788),
                (DATA + 0x1000, 0x99AA_BBCC_DDEE_FF00),
            )
            yield Case(access(size, store), patches, mode, 0, SV39, MAPPED + 0x1000 - back, 0x0102_0304_0506_0708)


def border_fetches() -> Iterator[Case]:
    """Instructions of which one half is in another page."""
    pages = (V | X | A, V | X, V | R | W | A | D, 0)
    ecall = encode("ecall")
    for first, second, mode, delegated in product(pages, pages, (SUPERVISOR, USER), (0, DELEGATED)):
        user = U if mode == USER else 0
        patches = (
            (TABLE_L0, pte(DATA + 0x2000, first | user)),
            (TABLE_L0 + 8, pte(DATA + 0x1000, second | user)),
            (DATA + 0x2FF8, (ecall & 0xFFFF) << 48 | 0x1_0001),
            (DATA + 0x1000, ecall >> 16),
        )
        yield Case(ACCESSES["fetch"], patches, mode, 0, SV39, MAPPED + 0xFFE, medeleg=delegated)


WINDOW = DATA + 0x1100
ENTRY_KINDS = {
    "tor": (WINDOW >> 2, WINDOW + 0x40 >> 2, TOR),
    "empty": (WINDOW + 0x40 >> 2, WINDOW >> 2, TOR),
    "na4": (0, WINDOW >> 2, NA4),
    "napot8": (0, napot(WINDOW, 8), NAPOT),
    "napot64": (0, napot(WINDOW, 64), NAPOT),
    "page": (0, napot(DATA + 0x1000, 0x1000), NAPOT),
}
PMP_ALLOWED = (0, 1, 3, 4, 5, 7)
"""Permissions of an entry; W without R is reserved."""
EVERYTHING = (1 << 54) - 1


def protection() -> Iterator[Case]:
    """PMP entries of each kind with each permission, and accesses on both sides of their ends."""
    for (low, high, kind), allowed, mode in product(ENTRY_KINDS.values(), PMP_ALLOWED, (USER, SUPERVISOR, MACHINE)):
        config = PMP_ALL << 56 | (kind | allowed) << 16
        addresses = (low, high, 0, 0, 0, 0, EVERYTHING)
        for offset, size, store in product((-4, -1, 0, 1, 3, 4, 6, 60, 62, 64), (1, 4, 8), (False, True)):
            if kind != NA4 or (offset, size) != (-1, 8):
                yield Case(access(size, store), (), mode, x10=WINDOW + offset, pmpcfg0=config, pmpaddr=addresses)


def swallowed() -> Iterator[Case]:
    """Accesses that hold a whole entry and more: QEMU only looks at the first and the last byte."""
    for allowed, mode, store in product(PMP_ALLOWED, (USER, SUPERVISOR, MACHINE), (False, True)):
        config = PMP_ALL << 56 | (NA4 | allowed) << 8
        addresses = (WINDOW >> 2, 0, 0, 0, 0, 0, EVERYTHING)
        yield Case(access(8, store), (), mode, x10=WINDOW - 1, pmpcfg0=config, pmpaddr=addresses)


def protected_code() -> Iterator[Case]:
    """Fetches from pages that PMP protects as a whole."""
    for allowed, mode, delegated in product(PMP_ALLOWED, (USER, SUPERVISOR, MACHINE), (0, DELEGATED)):
        config = PMP_ALL << 56 | (NAPOT | allowed) << 8
        addresses = (napot(DATA + 0x1000, 0x1000), 0, 0, 0, 0, 0, EVERYTHING)
        ecall = encode("ecall")
        patches = ((DATA + 0xFF8, (ecall & 0xFFFF) << 48 | 0x1_0001), (DATA + 0x1000, ecall >> 16))
        for target in (DATA + 0xFF8, DATA + 0xFFE, DATA + 0x1008):
            code = ACCESSES["fetch"]
            yield Case(code, patches, mode, x10=target, medeleg=delegated, pmpcfg0=config, pmpaddr=addresses)


def protected_halfwords() -> Iterator[Case]:
    """Fetches around entries that are smaller than a page, of instructions that no end of an entry divides."""
    for offset in (-8, -6, -4, 0, 0x3A, 0x40):
        yield from _fetches_at(offset)


def divided() -> Iterator[Case]:
    """Each halfword is an access of its own; QEMU only looks at the first of those in one page."""
    for offset in (-2, 2, 6, 0x3E):
        yield from _fetches_at(offset)


def _fetches_at(offset: int) -> Iterator[Case]:
    for (low, high, kind), allowed, mode in product(ENTRY_KINDS.values(), PMP_ALLOWED, (USER, SUPERVISOR, MACHINE)):
        config = PMP_ALL << 56 | (kind | allowed) << 16
        addresses = (low, high, 0, 0, 0, 0, EVERYTHING)
        patches = tuple((WINDOW + at, ECALLS << 16 & (1 << 64) - 1 | 1) for at in (-8, 0, 0x38, 0x40))
        yield Case(ACCESSES["fetch"], patches, mode, x10=WINDOW + offset, pmpcfg0=config, pmpaddr=addresses)


def protected_borders() -> Iterator[Case]:
    """Accesses over two pages with different entries: in QEMU it depends on its TLB what is checked."""
    for first, second, mode, size, store in product(
        PMP_ALLOWED, PMP_ALLOWED, (USER, SUPERVISOR, MACHINE), (2, 4, 8), (False, True)
    ):
        config = PMP_ALL << 56 | (NAPOT | first) << 8 | (NAPOT | second) << 16
        addresses = (napot(DATA, 0x1000), napot(DATA + 0x1000, 0x1000), 0, 0, 0, 0, EVERYTHING)
        for back in {1, size - 1}:
            yield Case(access(size, store), (), mode, x10=DATA + 0x1000 - back, pmpcfg0=config, pmpaddr=addresses)


def walks_protected() -> Iterator[Case]:
    """PMP over the tables that a walk reads and the page that it leads to."""
    for table, allowed, code, ad in product(
        (TABLE_L1, TABLE_L0, DATA), PMP_ALLOWED, (ACCESSES[name] for name in ("load", "store", "fetch")), (0, A | D)
    ):
        if ad == 0 and table == TABLE_L0 and allowed & 3 == 1:
            continue
        config = PMP_ALL << 56 | (NAPOT | allowed) << 8
        patches = ((TABLE_L0, pte(DATA, V | R | W | X | ad)), (DATA, ECALLS))
        addresses = (napot(table, 0x1000), 0, 0, 0, 0, 0, EVERYTHING)
        for delegated, mprv in product((0, DELEGATED), (False, True)):
            mstatus = MPRV if mprv else 0
            yield Case(
                code,
                patches,
                SUPERVISOR,
                mstatus,
                SV39,
                MAPPED,
                7,
                in_place=mprv,
                medeleg=delegated,
                pmpcfg0=config,
                pmpaddr=addresses,
            )


def nothing_matches() -> Iterator[Case]:
    """Without a last entry that lets everything pass."""
    for mode, code in product((USER, SUPERVISOR, MACHINE), ACCESSES.values()):
        yield Case(code, ((DATA, ECALLS),), mode, x10=DATA, pmpcfg0=0)


def delegation() -> Iterator[Case]:
    """Every exception, delegated or not, from every mode."""
    causes = {
        1: (encode("jalr", rd=1, rs1=0),),
        2: (0,),
        4: (encode("lr.w", rd=11, rs1=11),),
        5: (encode("ld", rd=11, rs1=0),),
        6: (encode("amoadd.w", rd=11, rs1=11),),
        7: (encode("sd", rs1=0, rs2=0),),
        9: (),
        12: (encode("jalr", rd=1, rs1=10),),
        13: (encode("ld", rd=11, rs1=10),),
        15: (encode("sd", rs1=10, rs2=0),),
    }
    for (cause, code), mode, satp in product(causes.items(), (USER, SUPERVISOR, MACHINE), (0, SV39)):
        for medeleg in (0, 1 << cause & ~(1 << 9), 0xB1FF & ~(1 << cause)):
            for mstatus in (0, 2, 2 | 1 << 5, 1 << 7):
                yield Case(code, (), mode, mstatus, satp, MAPPED + 0x10_0000, DATA + 1, medeleg=medeleg)


SPECIFIED = (11, 3, 7, 9, 1, 5)


def interrupts() -> Iterator[Case]:
    """What is pending, enabled and delegated, in every mode. Where two could be taken, QEMU's order decides nothing:
    such cases are in `priorities`.
    """
    for case in _interrupts():
        if len(_candidates(case)) <= 1:
            yield case


def priorities() -> Iterator[Case]:
    for case in _interrupts():
        if len(_candidates(case)) > 1:
            yield case


def _interrupts() -> Iterator[Case]:
    for pending, enabled, delegated, mode, status in product(
        range(32),
        (0xAAA, 0x2A2, 0x088),
        (0, 0x222, 0x20, 0x202),
        (USER, SUPERVISOR, MACHINE),
        (0, 1 << 7, 2, 2 | 1 << 7),
    ):
        mip = (pending & 1) << 1 | (pending & 2) << 4 | (pending & 4) << 7
        msip, mtimecmp = pending >> 3 & 1, 0 if pending >> 4 else -1
        yield Case(
            (),
            (),
            mode,
            status,
            0,
            mideleg=delegated,
            mie=enabled,
            mip=mip,
            msip=msip,
            mtimecmp=mtimecmp & (1 << 64) - 1,
        )


def _candidates(case: Case) -> list[int]:
    pending = (case.mip | case.msip << 3 | (case.mtimecmp == 0) << 7) & case.mie
    machine, supervisor = pending & ~case.mideleg, pending & case.mideleg
    if case.mode == MACHINE and not case.mstatus & 1 << 7:
        machine = 0
    if case.mode == MACHINE or (case.mode == SUPERVISOR and not case.mstatus & 2):
        supervisor = 0
    chosen = machine or supervisor
    return [number for number in SPECIFIED if chosen >> number & 1]


def timers() -> Iterator[Case]:
    """stimecmp: who may reach it, and what mip.STIP is. While stimecmp is off M mode leaves it alone: in QEMU a write
    to it changes the bit that software set.
    """
    read, write = encode("csrrs", rd=11, csr=CSRS["stimecmp"]), encode("csrrw", csr=CSRS["stimecmp"], rs1=10)
    seen = encode("csrrs", rd=12, csr=CSRS["sip"])
    for mode, stce, counteren, stimecmp, mip in product(
        (USER, SUPERVISOR, MACHINE), (0, 1 << 63), (0, 2, 7), (0, (1 << 64) - 1), (0, 1 << 5)
    ):
        case = Case(mode=mode, menvcfg=stce, counteren=counteren, stimecmp=stimecmp, mideleg=0x222, mip=mip)
        if stce or mode < MACHINE:
            yield replace(case, code=(read, write, seen), x10=(1 << 64) - 1)
            yield replace(case, code=(read, write, seen), mie=0x20)
        yield replace(case, mie=0x20, mstatus=2)


def traps_of_modes() -> Iterator[Case]:
    """TVM, TW, TSR, counters, FS: what they make illegal."""
    codes = [
        (encode("sfence.vma", rs1=10, rs2=11),),
        (encode("csrrs", rd=11, csr=CSRS["satp"]),),
        (encode("csrrw", rd=11, csr=CSRS["satp"], rs1=10),),
        (encode("csrrs", rd=0, csr=CSRS["cycle"]),),
        (encode("csrrs", rd=0, csr=CSRS["time"]),),
        (encode("csrrs", rd=0, csr=CSRS["instret"]),),
        (encode("csrrs", rd=11, csr=CSRS["fcsr"]),),
        (encode("csrrw", rd=11, csr=CSRS["fcsr"], rs1=10), encode("csrrs", rd=12, csr=CSRS["frm"])),
        (encode("csrrwi", rd=11, csr=CSRS["fflags"], imm=21), encode("csrrs", rd=12, csr=CSRS["fcsr"])),
        (encode("fld", rd=1, rs1=10),),
        (encode("fsw", rs1=10, rs2=1),),
        (encode("fmv.d.x", rd=1, rs1=10), encode("fadd.d", rd=2, rs1=1, rs2=1, rm=7)),
        (encode("fadd.s", rd=2, rs1=1, rs2=1),),
    ]
    for code, mode, mstatus, counteren in product(
        codes, (USER, SUPERVISOR, MACHINE), (0, TVM, TW | TVM, TSR, 1 << 13, FS_CLEAN, 3 << 13), (0, 1, 2, 4)
    ):
        yield Case(code, ((DATA, ECALLS),), mode, mstatus, 0, DATA, counteren=counteren)
    for mode, mstatus in product((USER, SUPERVISOR), (0, TW, TSR, TVM)):
        if mode == USER or mstatus == TW:
            yield Case((encode("wfi"),), (), mode, mstatus)
        if mode == USER or mstatus == TSR:
            yield Case((encode("sret"),), (), mode, mstatus)
        yield Case((encode("mret"),), (), mode, mstatus)


RESERVED_FOR_QEMU = {
    "mtvec": 0,
    "mscratch": 0,
    "stvec": 0,
    "mepc": ~1,
    "sepc": ~1,
    "medeleg": 0xB3FF,
    "mideleg": 0x222,
    "mie": 0xAAA,
    "mip": 0x222,
    "sie": 0x222,
    "sip": 0x222,
    "mcounteren": 7,
    "scounteren": 7,
    "mcountinhibit": 0,
    "menvcfg": 1 << 63 | 1,
    "senvcfg": 1,
    "pmpcfg0": 0,
    "pmpcfg2": 0x1D1D_1D1D_1D1D_1D1D,
    "stimecmp": 0,
    "satp": 0,
    "mstatus": 0x7E_79AA & ~(1 << 12),
    "sstatus": 0xC_6122,
    "fcsr": 0xFF,
    "cycle": 0,
}
"""Bits that QEMU and this board keep alike: only these are written. Registers with 0 are only read."""
NOT_COMPARED = ("cycle", "time", "instret", "mcycle", "minstret", "mvendorid", "marchid", "mimpid", "misa")


def registers() -> Iterator[Case]:
    """Each CSR that QEMU has and this board too, from each mode: read, write, set, clear."""
    names = [
        name
        for name in CSRS
        if not name.startswith(("hpm", "mhpm", "pmp", "tselect", "tdata")) and name not in NOT_COMPARED
    ]
    for name, mode in product([*names, "pmpaddr3", "pmpaddr15", "pmpcfg2"], (USER, SUPERVISOR, MACHINE)):
        writable = RESERVED_FOR_QEMU.get(name, -1)
        yield Case((encode("csrrs", rd=11, csr=CSRS[name]),), (), mode, FS_CLEAN)
        for value in (-1, 0, 0x1234_5678_9ABC_DEF0, 0x0F0F_0F0F_0F0F_0F0F):
            value &= writable & (1 << 54) - 1 if name.startswith("pmpaddr") else writable
            for operation in ("csrrw", "csrrs", "csrrc"):
                code = (encode(operation, rd=11, csr=CSRS[name], rs1=10), encode("csrrs", rd=12, csr=CSRS[name]))
                # QEMU lets CSRRS and CSRRC write zero bits to a read-only register.
                if writable and (value or operation == "csrrw"):
                    yield Case(code, (), mode, FS_CLEAN, x10=value & (1 << 64) - 1)


TABLES = {
    table.__name__: table
    for table in (
        permissions,
        entries,
        borders,
        border_fetches,
        protection,
        protected_code,
        protected_halfwords,
        walks_protected,
        nothing_matches,
        delegation,
        interrupts,
        timers,
        traps_of_modes,
        registers,
    )
}
"""For QEMU, kernel and reference."""

ONLY_HERE = {table.__name__: table for table in (divided, swallowed, protected_borders, priorities)}
"""Where QEMU does not do what the manual says: for kernel and reference."""


FREE = BASE + 0x40_0000
"""The 2 MiB from here on are used for nothing else."""


def random_cases(seed: int, count: int) -> list[Case]:
    """Entries at all three levels, protection, modes and accesses at random, often over the border of two pages."""
    random = Random(f"probes:{seed}")
    return [_random_case(random) for _ in range(count)]


def _random_case(random: Random) -> Case:
    mode = random.choice((USER, SUPERVISOR, SUPERVISOR))
    mprv = random.randrange(5) == 0
    mstatus = (MPRV if mprv else 0) | random.choice((0, SUM, MXR, SUM | MXR)) | random.choice((0, 2, 1 << 7))
    name = random.choice(list(ACCESSES))
    if mprv and name == "fetch":
        name = "load"
    code = ACCESSES[name]
    if name in ("load", "store") and random.randrange(3):
        code = access(random.choice((1, 2, 4, 8)), name == "store")
    page = random.choice((0, 1))
    offset = random.choice((0, 8, 0x7F8, 0xFF8, *range(0xFF0, 0x1000)))
    if name == "fetch":
        # Where no other case has stored.
        offset = random.choice((0x100, 0x104, 0xA00))
    flags = [_random_flags(random, mode) for _ in range(3)]
    patches = [(TABLE_L0 + 8 * index, pte(DATA + 0x1000 * random.randrange(4), flags[index])) for index in range(2)]
    superpage = random.randrange(6) == 0
    patches.append((TABLE_L1, pte(FREE, flags[2]) if superpage else pte(TABLE_L0, V)))
    config, addresses = PMP_ALL << 56, (0, 0, 0, 0, 0, 0, EVERYTHING)
    if offset <= 0xFF8:
        config, addresses = _random_protection(random, whole=name == "amo")
    satp = random.choice((0, SV39, SV39, SV39, SV39 | random.getrandbits(16) << 44))
    return Case(
        code=code,
        patches=tuple(patches),
        mode=mode,
        mstatus=mstatus,
        satp=satp,
        x10=(MAPPED if satp else DATA) + 0x1000 * page + offset,
        x11=random.getrandbits(64),
        in_place=mprv,
        medeleg=random.choice((0, DELEGATED, random.getrandbits(16) & DELEGATED)),
        mideleg=random.choice((0, 0x222)),
        pmpcfg0=config,
        pmpaddr=addresses,
    )


def _random_flags(random: Random, mode: int) -> int:
    flags = V | R | W | X | A | D | (U if mode == USER else 0)
    for bit in (V, R, W, X, U, A, D):
        if random.randrange(6) == 0:
            flags ^= bit
    return flags | random.choice((0, G))


def _random_protection(random: Random, whole: bool) -> tuple[int, tuple[int, ...]]:
    """Entries 1 to 7, of `whole` pages if QEMU needs that. None is smaller than 8 bytes, so that no access holds one
    and more. Tables that can be read can be written too, for QEMU does not ask before it sets A and D.
    """
    config = PMP_ALL << 56
    addresses = []
    kind = 0
    for entry in range(1, 7):
        kind = random.choice((0, 0, NAPOT, NAPOT, 0 if kind == NAPOT or whole else TOR))
        page = random.choice((DATA, DATA + 0x1000, DATA + 0x2000, TABLE_L0, TABLE_L1))
        around = page if whole else page + random.choice((0, 0, 0xFF0, 0xFF8))
        allowed = random.choice((0, 3, 4, 7, 7) if kind == TOR or page < DATA else (*PMP_ALLOWED, 7, 7))
        config |= (kind | allowed) << 8 * entry
        size = random.choice((4096, 8192) if whole else (8, 16, 4096, 8192))
        addresses.append(napot(around, size) if kind == NAPOT else around >> 2)
    return config, (*addresses, EVERYTHING)
