"""Traps, delegation, interrupts and returns."""

from collections.abc import Callable

import pytest

from ftvm.machine.board import CLINT_BASE, RAM_BASE
from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import encode
from ftvm.machine.machine import Machine, StopReason
from tests.machine.assembler import Assembler
from tests.machine.guest import (
    A0,
    A1,
    HANDLER,
    T0,
    T1,
    allow_all,
    boot,
    load_address,
    register,
    run,
    set_handler,
    store,
    word,
)

Code = Callable[[Assembler], None]


def enter(asm: Assembler, priv: int) -> None:
    """Go on in U or S mode with the next instruction."""
    allow_all(asm)
    asm.li(T0, s.MSTATUS_MPP)
    asm("csrrc", csr="mstatus", rs1=T0)
    asm.li(T0, priv << 11)
    asm("csrrs", csr="mstatus", rs1=T0)
    asm("auipc", rd=T0, imm=0)
    asm("addi", rd=T0, rs1=T0, imm=16)
    asm("csrrw", csr="mepc", rs1=T0)
    asm("mret")


def trapped(code: Code) -> tuple[Machine, int, int]:
    """The machine after a trap to HANDLER in M mode, mcause and mtval."""

    def whole(asm: Assembler) -> None:
        set_handler(asm)
        code(asm)

    machine = run(whole)
    assert word(machine, s.PC) == HANDLER
    return machine, word(machine, s.MCAUSE), word(machine, s.MTVAL)


@pytest.mark.parametrize("last", [2, 4, 4096])
def test_a_jump_to_the_last_page_of_the_address_space(last: int) -> None:
    """Its page number is -1, which must not pass for an empty entry of the fetch TLB."""

    def code(asm: Assembler) -> None:
        asm.li(T1, -last)
        asm("jalr", rs1=T1)

    assert trapped(code)[1:] == (1, (1 << 64) - last)


@pytest.mark.parametrize("shift", range(32, 64))
def test_a_straddling_jump_to_anywhere(shift: int) -> None:
    """The scratch slot it runs from is no page: no target may pass for one that lies in it."""

    def code(asm: Assembler) -> None:
        load_address(asm, T0, RAM_BASE + 0x2000 - 2)
        asm.li(T1, encode("jalr", rs1=A0))
        asm("sw", rs1=T0, rs2=T1)
        asm("addi", rd=A0, rs1=0, imm=1)
        asm("slli", rd=A0, rs1=A0, imm=shift)
        asm("add", rd=A0, rs1=A0, rs2=T0)
        asm("jalr", rs1=T0)

    target = (1 << shift) + RAM_BASE + 0x1FFE
    assert trapped(code)[1:] == (1, target & (1 << 64) - 1)


@pytest.mark.parametrize("priv", [s.USER, s.SUPERVISOR, s.MACHINE])
def test_ecall_tells_where_it_came_from(priv: int) -> None:
    def code(asm: Assembler) -> None:
        if priv != s.MACHINE:
            enter(asm, priv)
        asm("ecall")

    machine, cause, value = trapped(code)
    assert (cause, value) == (8 + priv, 0)
    assert word(machine, s.MSTATUS) & s.MSTATUS_MPP == priv << 11
    assert word(machine, s.PRIV) == s.MACHINE


def test_ebreak_reports_its_own_address() -> None:
    machine, cause, value = trapped(lambda asm: asm("ebreak"))
    assert (cause, value) == (3, word(machine, s.MEPC))


def test_compressed_illegal_instruction_reports_16_bits() -> None:
    def code(asm: Assembler) -> None:
        asm.word(0x0000)

    assert trapped(code)[1:] == (2, 0)

    def reserved(asm: Assembler) -> None:
        asm.word(0x8002)

    assert trapped(reserved)[1:] == (2, 0x8002)


@pytest.mark.parametrize(
    ("instruction", "address", "cause"),
    [
        ("lw", 0x4000_0000, 5),
        ("sw", 0x4000_0000, 7),
        ("sw", 0x1000, 7),
        ("lw", 0x1000_0001, 5),
        ("ld", 0x0C00_0000, 5),
        ("sb", 0x0200_4000, 7),
        ("amoadd.w", 0x0200_4000, 7),
        ("lr.w", 0x0200_4000, 5),
        ("lr.w", RAM_BASE + 2, 4),
        ("sc.d", RAM_BASE + 4, 6),
        ("amoor.d", RAM_BASE + 0x101, 6),
    ],
)
def test_accesses_that_fault(instruction: str, address: int, cause: int) -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T1, address)
        operands = {"rs2": T0} if instruction[0] in "sa" else {"rd": A0}
        asm(instruction, rs1=T1, **operands)

    assert trapped(code)[1:] == (cause, address)


def test_an_access_that_leaves_ram_faults_at_the_first_byte_outside() -> None:
    end = RAM_BASE + (1 << 20)

    def code(asm: Assembler) -> None:
        load_address(asm, T1, end - 3)
        asm("ld", rd=A0, rs1=T1)

    assert trapped(code)[1:] == (5, end)


def test_fetch_from_nowhere() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T1, 0x4000_0000)
        asm("jalr", rs1=T1)

    machine, cause, value = trapped(code)
    assert (cause, value, word(machine, s.MEPC)) == (1, 0x4000_0000, 0x4000_0000)


def test_an_instruction_whose_second_half_cannot_be_fetched() -> None:
    last = RAM_BASE + (1 << 20) - 2

    def code(asm: Assembler) -> None:
        load_address(asm, T1, last)
        asm.li(T0, 0x13)
        asm("sh", rs1=T1, rs2=T0)
        asm("jalr", rs1=T1)

    machine, cause, value = trapped(code)
    assert (cause, value, word(machine, s.MEPC)) == (1, last + 2, last)


def test_delegated_exception_goes_to_supervisor_mode() -> None:
    def code(asm: Assembler) -> None:
        set_handler(asm)
        asm("csrrw", csr="stvec", rs1=T0)
        asm.li(T0, 1 << 8)
        asm("csrrw", csr="medeleg", rs1=T0)
        enter(asm, s.USER)
        asm("ecall")

    machine = run(code)
    assert word(machine, s.PC) == HANDLER
    assert word(machine, s.PRIV) == s.SUPERVISOR
    assert (word(machine, s.SCAUSE), word(machine, s.MCAUSE)) == (8, 0)
    assert word(machine, s.MSTATUS) & s.MSTATUS_SPP == 0


def test_machine_mode_traps_are_never_delegated() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, 1 << 3)
        asm("csrrw", csr="medeleg", rs1=T0)
        asm("ebreak")

    assert trapped(code)[1] == 3


@pytest.mark.parametrize(
    ("priv", "bits", "instruction"),
    [
        (s.USER, 0, "mret"),
        (s.USER, 0, "sret"),
        (s.USER, 0, "wfi"),
        (s.USER, 0, "sfence.vma"),
        (s.SUPERVISOR, 0, "mret"),
        (s.SUPERVISOR, s.MSTATUS_TSR, "sret"),
        (s.SUPERVISOR, s.MSTATUS_TW, "wfi"),
        (s.SUPERVISOR, s.MSTATUS_TVM, "sfence.vma"),
        (s.SUPERVISOR, s.MSTATUS_TVM, "csrrs"),
    ],
)
def test_privileged_instructions_trap_below_their_mode(priv: int, bits: int, instruction: str) -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, bits)
        asm("csrrs", csr="mstatus", rs1=T0)
        enter(asm, priv)
        if instruction == "csrrs":
            asm("csrrs", rd=A0, csr="satp", rs1=0)
        else:
            asm(instruction)

    assert trapped(code)[1] == 2


def test_user_counters_need_both_enables() -> None:
    def code(asm: Assembler) -> None:
        asm("csrrwi", csr="scounteren", imm=5)
        enter(asm, s.USER)
        asm("csrrs", rd=A0, csr="cycle", rs1=0)
        asm("csrrs", rd=A1, csr="time", rs1=0)

    machine, cause, _ = trapped(code)
    assert cause == 2
    assert register(machine, A0) > 0


def test_mret_to_a_lower_mode_clears_mprv() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, s.MSTATUS_MPRV)
        asm("csrrs", csr="mstatus", rs1=T0)
        enter(asm, s.USER)

    assert word(run(code), s.MSTATUS) & s.MSTATUS_MPRV == 0


def test_software_interrupt_is_vectored_and_counts_one_tick() -> None:
    def code(asm: Assembler) -> None:
        set_handler(asm)
        asm("csrrwi", rd=0, csr="mie", imm=8)
        asm("csrrsi", rd=0, csr="mtvec", imm=1)
        asm("csrrsi", rd=0, csr="mstatus", imm=8)
        asm.label("raise")
        store(asm, CLINT_BASE, 1)

    machine = boot(code)
    while not word(machine, s.NOT_RETIRED):
        before = machine.tick
        machine.run_until(before + 1)
    assert word(machine, s.PC) == HANDLER + 4 * 3
    assert word(machine, s.MCAUSE) == 1 << 63 | 3
    assert machine.tick == before + 1
    assert machine.statistics().interrupts == 1


def test_machine_interrupts_come_before_supervisor_ones() -> None:
    def code(asm: Assembler) -> None:
        set_handler(asm)
        asm.li(T0, s.SSIP)
        asm("csrrw", csr="mideleg", rs1=T0)
        asm("csrrw", csr="mip", rs1=T0)
        asm.li(T0, s.SSIP | s.MSIP)
        asm("csrrw", csr="mie", rs1=T0)
        store(asm, CLINT_BASE, 1)
        enter(asm, s.USER)

    assert word(run(code), s.MCAUSE) == 1 << 63 | 3


def test_delegated_interrupt_waits_in_machine_mode() -> None:
    def code(asm: Assembler) -> None:
        asm.li(T0, s.SSIP)
        asm("csrrw", csr="mideleg", rs1=T0)
        asm("csrrw", csr="mie", rs1=T0)
        asm("csrrw", csr="mip", rs1=T0)
        asm("csrrsi", rd=0, csr="mstatus", imm=10)

    assert word(run(code), s.SCAUSE) == 0


def test_wfi_goes_on_when_an_interrupt_is_pending_but_not_globally_enabled() -> None:
    def code(asm: Assembler) -> None:
        asm("csrrwi", rd=0, csr="mie", imm=8)
        asm("wfi")
        asm("addi", rd=A0, rs1=0, imm=1)

    machine = boot(code)
    stop = machine.run_until(100)
    assert stop.reason is StopReason.IDLE
    assert machine.run_until(100) == stop, "ticks stand still"
    assert machine.deadline() is None
    machine._memory.state[s.MIP] = s.SSIP
    assert machine.run_until(100) == stop, "mie does not enable it"
    machine._memory.state[s.MIE] |= s.SSIP
    assert machine.run_until(100).reason is StopReason.LIMIT
    assert register(machine, A0) == 1
    assert word(machine, s.NOT_RETIRED) == 0


def test_lr_sc() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T1, RAM_BASE + 0x1000)
        asm("lr.w", rd=T0, rs1=T1)
        asm("sc.w", rd=A0, rs1=T1, rs2=T1)
        asm("sc.w", rd=A1, rs1=T1, rs2=T1)

    machine = run(code)
    assert (register(machine, A0), register(machine, A1)) == (0, 1)
