"""Tables of privileged probes: every combination of what the manual's rules speak of, and random ones.

`TABLES` are for QEMU as well, and keep clear of what `qemu.py` lists.
"""

from random import Random

from tests.machine.control_cases import delegation, interrupts, priorities, registers, timers, traps_of_modes
from tests.machine.memory_cases import (
    ACCESSES,
    DELEGATED,
    EVERYTHING,
    NAPOT,
    PMP_ALLOWED,
    TOR,
    access,
    border_fetches,
    borders,
    divided,
    entries,
    nothing_matches,
    permissions,
    protected_borders,
    protected_code,
    protected_halfwords,
    protection,
    swallowed,
    walks_protected,
)
from tests.machine.probes import (
    BASE,
    DATA,
    MAPPED,
    MPRV,
    MXR,
    PMP_ALL,
    SUM,
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
