"""Privileged probes of memory: every combination of what the rules of Sv39 and PMP speak of."""

from collections.abc import Iterator
from itertools import product

from ftvm.machine.hart.encodings import encode
from tests.machine.probes import (
    DATA,
    ECALLS,
    MACHINE,
    MAPPED,
    MPRV,
    PMP_ALL,
    ROOT,
    SUPERVISOR,
    SV39,
    TABLE_L0,
    TABLE_L1,
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
