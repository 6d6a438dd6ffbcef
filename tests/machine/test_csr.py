"""Control and status registers, as the privileged architecture has them."""

import pytest

from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import CSRS
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, A1, A2, HANDLER, T0, T1, register, run, set_handler, word

ALL = (1 << 64) - 1
ILLEGAL = 2


@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("mstatus", (s.MSTATUS_WRITABLE | s.MSTATUS_FIXED | s.MSTATUS_SD) & ALL),
        ("misa", s.MISA & ALL),
        ("medeleg", 0xB3FF),
        ("mideleg", 0x222),
        ("mie", 0xAAA),
        ("mip", 0x222),
        ("mtvec", ALL & ~2),
        ("stvec", ALL & ~2),
        ("mcounteren", 7),
        ("scounteren", 7),
        ("mscratch", ALL),
        ("sscratch", ALL),
        ("mepc", ALL & ~1),
        ("sepc", ALL & ~1),
        ("mcause", ALL),
        ("mtval", ALL),
        ("scause", ALL),
        ("stval", ALL),
        ("satp", 0),
        ("mcountinhibit", 0),
        ("menvcfg", 1 << 63 | 1),
        ("senvcfg", 1),
        ("stimecmp", ALL),
        ("pmpaddr0", (1 << 54) - 1),
        ("pmpcfg2", 0x9F9F_9F9F_9F9F_9F9F),
        ("mhpmcounter3", 0),
        ("mhpmevent31", 0),
        ("tselect", 0),
        ("tdata1", 0),
        ("tdata2", 0),
        ("tdata3", 0),
        ("sie", 0),
        ("sip", 0),
    ],
)
def test_what_all_ones_leave_in_a_register(name: str, ones: int) -> None:
    def code(asm: Assembler) -> None:
        asm("addi", rd=T0, rs1=0, imm=-1)
        asm("csrrw", rd=0, csr=name, rs1=T0)
        asm("csrrs", rd=A0, csr=name, rs1=0)

    assert register(run(code), A0) == ones


def test_counters_may_be_read_in_every_mode_from_the_start() -> None:
    def code(asm: Assembler) -> None:
        asm("csrrs", rd=A0, csr="mcounteren", rs1=0)
        asm("csrrs", rd=A1, csr="scounteren", rs1=0)

    machine = run(code)
    assert (register(machine, A0), register(machine, A1)) == (7, 7)


def test_reserved_mpp_keeps_the_old_one() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, 1 << 11)
        asm("csrrw", csr="mstatus", rs1=T0)
        asm.li(T0, 2 << 11)
        asm("csrrw", csr="mstatus", rs1=T0)
        asm("csrrs", rd=A0, csr="mstatus", rs1=0)

    assert register(run(code), A0) & s.MSTATUS_MPP == 1 << 11


def test_supervisor_views_follow_mideleg() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, s.SSIP | s.SEIP)
        asm("csrrw", csr="mideleg", rs1=T0)
        asm("addi", rd=T0, rs1=0, imm=-1)
        asm("csrrw", csr="sie", rs1=T0)
        asm("csrrw", csr="sip", rs1=T0)
        asm("csrrs", rd=A0, csr="mie", rs1=0)
        asm("csrrs", rd=A1, csr="mip", rs1=0)

    machine = run(code)
    assert register(machine, A0) == s.SSIP | s.SEIP
    assert register(machine, A1) == s.SSIP, "of sip, software in S mode sets SSIP only"


def test_of_a_software_timer_interrupt_nothing_is_left_once_stimecmp_has_the_say() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, s.STIP)
        asm("csrrw", csr="mip", rs1=T0)
        asm("csrrs", rd=A0, csr="mip")
        asm("addi", rd=T1, imm=-1)
        asm("csrrw", csr="stimecmp", rs1=T1)
        asm("csrrw", csr="menvcfg", rs1=T1)
        asm("csrrs", rd=A1, csr="mip")
        asm("csrrw", csr="menvcfg", rs1=0)
        asm("csrrs", rd=A2, csr="mip")

    machine = run(code)
    assert [register(machine, number) for number in (A0, A1, A2)] == [s.STIP, 0, 0]


@pytest.mark.parametrize(
    "number",
    [CSRS["pmpcfg0"] + 1, CSRS["pmpaddr15"] + 1, CSRS["tdata3"] + 1, 0x001, 0x003, 0x7C0, 0x5A8, 0xB01, 0xC80, 0x30C],
)
def test_registers_that_do_not_exist_trap(number: int) -> None:
    """The official tests write such registers behind a trap handler before anything else."""

    def code(asm: Assembler) -> None:
        set_handler(asm)
        asm("addi", rd=A0, rs1=0, imm=7)
        asm("csrrw", rd=A0, csr=number, rs1=0)

    machine = run(code)
    assert word(machine, s.MCAUSE) == ILLEGAL
    assert word(machine, s.MTVAL) == 0x1073 | number << 20 | A0 << 7
    assert register(machine, A0) == 7
    assert word(machine, s.PC) == HANDLER


@pytest.mark.parametrize("name", ["mvendorid", "mhartid", "cycle", "time", "instret", "hpmcounter3", "mconfigptr"])
def test_read_only_registers_trap_on_writes_only(name: str) -> None:
    def read(asm: Assembler) -> None:
        set_handler(asm)
        asm("csrrsi", rd=A0, csr=name, imm=0)
        asm("csrrc", rd=A0, csr=name, rs1=0)

    def write(asm: Assembler) -> None:
        set_handler(asm)
        asm("csrrsi", rd=A0, csr=name, imm=1)

    assert word(run(read), s.MCAUSE) == 0
    assert word(run(write), s.MCAUSE) == ILLEGAL


def test_minstret_and_mcycle_read_what_was_written_and_count_on() -> None:
    def code(asm: Assembler) -> None:
        asm("addi", rd=T0, rs1=0, imm=100)
        asm("csrrw", csr="minstret", rs1=T0)
        asm("csrrs", rd=A0, csr="minstret", rs1=0)
        asm("csrrw", csr="mcycle", rs1=T0)
        asm("addi", rd=0, rs1=0, imm=0)
        asm("csrrs", rd=A1, csr="cycle", rs1=0)
        asm("csrrs", rd=A2, csr="instret", rs1=0)

    machine = run(code)
    assert [register(machine, number) for number in (A0, A1, A2)] == [100, 101, 104]


def test_traps_do_not_retire() -> None:
    def code(asm: Assembler) -> None:
        set_handler(asm)
        asm("csrrw", csr="minstret", rs1=0)
        asm("ecall")

    def handler(asm: Assembler) -> None:
        asm("csrrs", rd=A0, csr="minstret", rs1=0)

    from tests.machine.guest import boot

    machine = boot(code, handler)
    machine.run_until(100)
    assert register(machine, A0) == 0


def test_set_bits_of_mip_do_not_make_a_line_stick() -> None:
    """csrrs on mip works on what software wrote, not on what the PLIC says (section 3.1.9)."""

    def code(asm: Assembler) -> None:
        asm.li(T0, s.SSIP)
        asm("csrrs", rd=A0, csr="mip", rs1=T0)
        asm("csrrs", rd=A1, csr="mip", rs1=0)
        asm("csrrc", rd=T1, csr="mip", rs1=T0)
        asm("csrrs", rd=A2, csr="mip", rs1=0)

    machine = run(code)
    assert [register(machine, number) for number in (A0, A1, A2)] == [0, s.SSIP, 0]
