"""Privileged probes of delegation, interrupts, timers, CSRs, and of what is illegal in which mode."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from ftvm.machine.hart.encodings import CSRS, encode
from tests.machine.probes import (
    DATA,
    ECALLS,
    FS_CLEAN,
    MACHINE,
    MAPPED,
    SUPERVISOR,
    SV39,
    TSR,
    TVM,
    TW,
    USER,
    Case,
)


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
