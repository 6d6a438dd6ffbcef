"""Golden facts of the manual, on the reference interpreter."""

from collections.abc import Callable

import pytest

from ftvm.machine.hart.encodings import CSRS
from ftvm.machine.hart.reference import INTERRUPT, ReferenceHart
from ftvm.machine.hart.reference_csr import MACHINE, MISA, MSTATUS_TSR, MSTATUS_TVM, MSTATUS_TW, SUPERVISOR, USER
from tests.machine.assembler import Assembler
from tests.machine.oracles import FlatMemory
from tests.machine.programs import BASE

ONES = (1 << 64) - 1
INT_MIN = 1 << 63
INT32_MIN = 0xFFFF_FFFF_8000_0000
DATA = BASE + 0x1000
VECTOR = BASE + 0x800


def hart_with(build: Callable[[Assembler], object], **registers: int) -> ReferenceHart:
    """A hart in M mode before the code that `build` writes; `x5=1` sets a register, `mtvec` points to VECTOR, and PMP
    lets every mode through.
    """
    asm = Assembler(BASE)
    build(asm)
    hart = ReferenceHart(FlatMemory(asm.assemble()))
    hart.pc = BASE
    hart.csr.values |= {"mtvec": VECTOR, "pmpcfg0": 0x1F, "pmpaddr0": (1 << 54) - 1}
    for name, value in registers.items():
        hart.x[int(name[1:])] = value & ONES
    return hart


def after(build: Callable[[Assembler], object], steps: int = 1, **registers: int) -> ReferenceHart:
    hart = hart_with(build, **registers)
    for _ in range(steps):
        hart.step()
    return hart


def at_privilege(hart: ReferenceHart, privilege: int, mstatus: int = 0) -> ReferenceHart:
    hart.csr.privilege = privilege
    hart.csr.values["mstatus"] |= mstatus
    return hart


@pytest.mark.parametrize(
    ("name", "a", "b", "result"),
    [
        ("div", 7, 0, ONES),
        ("divu", 7, 0, ONES),
        ("rem", 7, 0, 7),
        ("remu", 7, 0, 7),
        ("div", INT_MIN, -1, INT_MIN),
        ("rem", INT_MIN, -1, 0),
        ("div", -7, 2, -3),
        ("rem", -7, 2, -1),
        ("div", 7, -2, -3),
        ("rem", 7, -2, 1),
        ("divw", INT32_MIN, -1, INT32_MIN),
        ("remw", INT32_MIN, -1, 0),
        ("divw", 5, 1 << 32, ONES),
        ("remw", 0xFFFF_FFFF, 1 << 32, ONES),
        ("divuw", 0xFFFF_FFFF, 1, ONES),
        ("remuw", 0x8000_0000, 0, INT32_MIN),
        ("mulh", INT_MIN, INT_MIN, 1 << 62),
        ("mulhu", ONES, ONES, ONES - 1),
        ("mulhsu", -1, ONES, ONES),
        ("mulw", 0x7FFF_FFFF, 2, -2),
        ("sll", 1, 64, 1),
        ("sll", 1, 63, INT_MIN),
        ("sra", INT_MIN, 63, ONES),
        ("srl", INT_MIN, 127, 1),
        ("sllw", 1, 31, INT32_MIN),
        ("srlw", INT32_MIN, 0, INT32_MIN),
        ("sraw", 0x8000_0000, 31, ONES),
        ("addw", 0x7FFF_FFFF, 1, INT32_MIN),
        ("subw", 0, 1, ONES),
        ("slt", -1, 0, 1),
        ("sltu", -1, 0, 0),
    ],
)
def test_register_arithmetic(name: str, a: int, b: int, result: int) -> None:
    assert after(lambda asm: asm(name, rd=3, rs1=1, rs2=2), x1=a, x2=b).x[3] == result & ONES


@pytest.mark.parametrize(
    ("name", "a", "imm", "result"),
    [
        ("sltiu", 5, -1, 1),
        ("slti", 5, -1, 0),
        ("andi", ONES, -2048, -2048),
        ("srai", INT_MIN, 63, ONES),
        ("srliw", 0xFFFF_FFFF_8000_0000, 31, 1),
        ("sraiw", 0x8000_0000, 4, 0xFFFF_FFFF_F800_0000),
        ("addiw", 0x1_7FFF_FFFF, 1, INT32_MIN),
        ("slliw", 0x4000_0000, 1, INT32_MIN),
    ],
)
def test_immediate_arithmetic(name: str, a: int, imm: int, result: int) -> None:
    assert after(lambda asm: asm(name, rd=3, rs1=1, imm=imm), x1=a).x[3] == result & ONES


def test_lui_and_auipc_sign_extend() -> None:
    hart = after(lambda asm: (asm("lui", rd=1, imm=-(1 << 31)), asm("auipc", rd=2, imm=-(1 << 31))), steps=2)
    assert hart.x[1] == INT32_MIN
    assert hart.x[2] == (BASE + 4 - (1 << 31)) & ONES


def test_x0_stays_zero() -> None:
    assert after(lambda asm: asm("addi", rd=0, rs1=0, imm=5)).x[0] == 0


def test_jalr_clears_bit_0_and_links_from_its_own_source() -> None:
    hart = after(lambda asm: asm("jalr", rd=1, rs1=1, imm=1), x1=DATA)
    assert (hart.pc, hart.x[1]) == (DATA, BASE + 4)


@pytest.mark.parametrize(("name", "result"), [("lb", -128), ("lbu", 0x80), ("lh", -128), ("lhu", 0xFF80)])
def test_loads_extend(name: str, result: int) -> None:
    hart = hart_with(lambda asm: asm(name, rd=3, rs1=1, imm=1), x1=DATA)
    hart.bus.store(DATA + 1, 2, 0xFF80)
    hart.step()
    assert hart.x[3] == result & ONES


def test_misaligned_accesses_are_performed() -> None:
    def build(asm: Assembler) -> None:
        asm("sd", rs1=1, rs2=2, imm=1)
        asm("ld", rd=3, rs1=1, imm=1)

    assert after(build, steps=2, x1=DATA, x2=0x0123_4567_89AB_CDEF).x[3] == 0x0123_4567_89AB_CDEF


def reserve(asm: Assembler, *between: str, target: int = 1) -> None:
    asm("lr.w", rd=3, rs1=1)
    for name in between:
        asm(name, rs1=1, rs2=2)
    asm("sc.w", rd=4, rs1=target, rs2=2)


def test_sc_succeeds_once_after_lr_of_the_same_address() -> None:
    hart = after(lambda asm: (reserve(asm), asm("sc.w", rd=5, rs1=1, rs2=0)), steps=3, x1=DATA, x2=9)
    assert (hart.x[4], hart.x[5], hart.bus.load(DATA, 4)) == (0, 1, 9)


def test_sc_fails_without_a_store_at_another_address() -> None:
    hart = after(lambda asm: reserve(asm, target=6), steps=2, x1=DATA, x2=9, x6=DATA + 8)
    assert (hart.x[4], hart.bus.load(DATA + 8, 4)) == (1, 0)


def test_amo_gives_the_old_value_sign_extended_and_compares_as_its_name_says() -> None:
    hart = hart_with(
        lambda asm: (asm("amomaxu.w", rd=3, rs1=1, rs2=2), asm("amomin.w", rd=4, rs1=1, rs2=5)), x1=DATA, x2=1, x5=1
    )
    hart.bus.store(DATA, 4, 0x8000_0000)
    hart.step()
    assert (hart.x[3], hart.bus.load(DATA, 4)) == (INT32_MIN, 0x8000_0000)
    hart.step()
    assert (hart.x[4], hart.bus.load(DATA, 4)) == (INT32_MIN, 0x8000_0000)


@pytest.mark.parametrize(
    ("build", "cause", "tval"),
    [
        (lambda asm: asm("lr.w", rs1=1), 4, DATA + 1),
        (lambda asm: asm("sc.w", rs1=1), 6, DATA + 1),
        (lambda asm: asm("amoadd.d", rs1=1), 6, DATA + 1),
        (lambda asm: asm("lw", rd=3, rs1=0, imm=-4), 5, ONES - 3),
        (lambda asm: asm("sw", rs1=0, imm=-4), 7, ONES - 3),
        (lambda asm: asm("amoadd.w", rs1=0), 7, 0),
        (lambda asm: asm("lr.d", rs1=0), 5, 0),
        (lambda asm: asm("ebreak"), 3, BASE),
        (lambda asm: asm("c.ebreak"), 3, BASE),
        (lambda asm: asm("ecall"), 11, 0),
        (lambda asm: asm.word(0), 2, 0),
        (lambda asm: asm.word(0x2000), 2, 0x2000),
        (lambda asm: asm.word(0xFFFF_FFFF), 2, 0xFFFF_FFFF),
        (lambda asm: asm("csrrw", csr="cycle", rs1=1), 2, 0xC000_9073),
        (lambda asm: asm("csrrs", rd=1, csr=0x7C0), 2, 0x7C00_20F3),
    ],
)
def test_exceptions(build: Callable[[Assembler], object], cause: int, tval: int) -> None:
    hart = after(build, x1=DATA + 1)
    values = hart.csr.values
    assert (values["mcause"], values["mtval"], values["mepc"], hart.pc) == (cause, tval, BASE, VECTOR)
    assert (hart.bus.tick, hart.csr.not_retired) == (1, 1)


def test_an_instruction_whose_second_half_is_missing_reports_that_half() -> None:
    hart = hart_with(lambda asm: asm("addi"))
    last = BASE + 0x8000 - 2
    hart.bus.store(last, 2, 0x13)
    hart.pc = last
    hart.step()
    values = hart.csr.values
    assert (values["mcause"], values["mepc"], values["mtval"]) == (1, last, last + 2)


def test_a_trap_saves_and_mret_restores_mode_and_interrupt_enable() -> None:
    hart = at_privilege(hart_with(lambda asm: asm("ecall")), USER, mstatus=1 << 3)
    hart.bus.store(VECTOR, 4, 0x30200073)
    hart.step()
    assert hart.csr.privilege == MACHINE
    assert hart.csr.values["mcause"] == 8
    assert hart.csr.values["mstatus"] & 0x1888 == 1 << 7
    hart.step()
    assert (hart.csr.privilege, hart.pc) == (USER, BASE)
    assert hart.csr.values["mstatus"] & 0x1888 == 0x88


def test_delegated_traps_go_to_s_mode_but_never_down_from_m_mode() -> None:
    for privilege, expected in ((USER, SUPERVISOR), (SUPERVISOR, SUPERVISOR), (MACHINE, MACHINE)):
        hart = at_privilege(hart_with(lambda asm: asm.word(0)), privilege)
        hart.csr.values |= {"medeleg": 1 << 2, "stvec": VECTOR + 0x100}
        hart.step()
        assert hart.csr.privilege == expected
        if expected == SUPERVISOR:
            assert (hart.pc, hart.csr.values["scause"], hart.csr.values["sepc"]) == (VECTOR + 0x100, 2, BASE)
            assert bool(hart.csr.values["mstatus"] & 1 << 8) == (privilege == SUPERVISOR)


@pytest.mark.parametrize(
    ("name", "privilege", "mstatus", "legal"),
    [
        ("mret", SUPERVISOR, 0, False),
        ("sret", USER, 0, False),
        ("sret", SUPERVISOR, 0, True),
        ("sret", SUPERVISOR, MSTATUS_TSR, False),
        ("sret", MACHINE, MSTATUS_TSR, True),
        ("wfi", USER, 0, False),
        ("wfi", SUPERVISOR, 0, True),
        ("wfi", SUPERVISOR, MSTATUS_TW, False),
        ("wfi", MACHINE, MSTATUS_TW, True),
        ("sfence.vma", USER, 0, False),
        ("sfence.vma", SUPERVISOR, 0, True),
        ("sfence.vma", SUPERVISOR, MSTATUS_TVM, False),
        ("sfence.vma", MACHINE, MSTATUS_TVM, True),
    ],
)
def test_who_may_use_privileged_instructions(name: str, privilege: int, mstatus: int, legal: bool) -> None:
    hart = at_privilege(hart_with(lambda asm: asm(name)), privilege, mstatus)
    hart.step()
    assert (hart.csr.values["mcause"] != 2) == legal


@pytest.mark.parametrize(
    ("csr", "privilege", "changes", "legal"),
    [
        ("mstatus", SUPERVISOR, {}, False),
        ("sstatus", USER, {}, False),
        ("sstatus", SUPERVISOR, {}, True),
        ("satp", SUPERVISOR, {}, True),
        ("satp", SUPERVISOR, {"mstatus": MSTATUS_TVM}, False),
        ("time", USER, {"mcounteren": 7, "scounteren": 7}, True),
        ("time", USER, {"mcounteren": 7, "scounteren": 5}, False),
        ("time", SUPERVISOR, {"mcounteren": 7, "scounteren": 0}, True),
        ("cycle", SUPERVISOR, {"mcounteren": 6}, False),
        ("instret", MACHINE, {"mcounteren": 0}, True),
        ("tselect", MACHINE, {}, True),
        ("tselect", SUPERVISOR, {}, False),
    ],
)
def test_who_may_read_csrs(csr: str, privilege: int, changes: dict[str, int], legal: bool) -> None:
    hart = at_privilege(hart_with(lambda asm: asm("csrrs", rd=1, csr=csr)), privilege)
    hart.csr.values |= changes
    hart.step()
    assert (hart.csr.values["mcause"] != 2) == legal


@pytest.mark.parametrize(
    ("csr", "written", "read"),
    [
        ("misa", 0, MISA),
        ("mtvec", VECTOR | 3, VECTOR | 1),
        ("mepc", BASE + 3, BASE + 2),
        ("medeleg", ONES, 0xB3FF),
        ("mideleg", ONES, 0x222),
        ("mie", ONES, 0xAAA),
        ("mip", ONES, 0x222),
        ("satp", ONES, 0),
        ("satp", 8 << 60 | ONES >> 4, 8 << 60 | ONES >> 4),
        ("menvcfg", ONES, 1 << 63 | 1),
        ("senvcfg", ONES, 1),
        ("stimecmp", ONES, ONES),
        ("pmpaddr15", ONES, ONES >> 10),
        ("pmpcfg2", 0x7F7F_7F7F_7F7F_7F7F, 0x1F1F_1F1F_1F1F_1F1F),
        ("mhartid", None, 0),
        ("mcounteren", ONES, 7),
        ("mscratch", ONES, ONES),
        ("mstatus", 2 << 11, 0xA_0000_0000),
        ("mstatus", ONES, 1 << 63 | 0xA_007E_79AA),
        ("minstret", 100, 100),
        ("mcycle", 100, 100),
        ("tselect", ONES, 0),
        ("tdata1", 2 << 60, 0),
    ],
)
def test_csr_fields_keep_only_legal_values(csr: str, written: int | None, read: int) -> None:
    def build(asm: Assembler) -> None:
        if written is not None:
            asm("csrrw", csr=csr, rs1=1)
        asm("csrrs", rd=2, csr=csr)

    steps = 1 if written is None else 2
    assert after(build, steps=steps, x1=written or 0).x[2] == read


def test_csrrs_with_x0_does_not_write_but_a_zero_register_does() -> None:
    assert after(lambda asm: asm("csrrs", rd=1, csr="mhartid", rs1=0)).csr.values["mcause"] == 0
    assert after(lambda asm: asm("csrrs", rd=1, csr="mhartid", rs1=5)).csr.values["mcause"] == 2
    assert after(lambda asm: asm("csrrci", rd=1, csr="mhartid", imm=0)).csr.values["mcause"] == 0


def test_csrrs_on_mip_does_not_latch_the_devices_line() -> None:
    hart = hart_with(lambda asm: asm("csrrsi", rd=1, csr="mip", imm=2))
    board = hart.bus
    assert isinstance(board, FlatMemory)
    board.lines = 1 << 9
    hart.step()
    assert hart.x[1] == 1 << 9
    board.lines = 0
    assert hart.csr.read("mip") == 1 << 1


def interrupted(lines: int, privilege: int = MACHINE, **values: int) -> ReferenceHart:
    hart = at_privilege(hart_with(lambda asm: asm("addi", rd=1, rs1=0, imm=1)), privilege)
    hart.csr.values |= {"mie": 0xAAA, **values}
    board = hart.bus
    assert isinstance(board, FlatMemory)
    board.lines = lines
    hart.step()
    return hart


def test_interrupts_are_taken_by_priority_before_an_instruction_and_cost_a_tick() -> None:
    hart = interrupted(0xAAA, mstatus=1 << 3, mtvec=VECTOR | 1)
    assert (hart.csr.values["mcause"], hart.pc) == (INTERRUPT | 11, VECTOR + 4 * 11)
    assert (hart.x[1], hart.bus.tick, hart.csr.not_retired, hart.csr.values["mepc"]) == (0, 1, 1, BASE)
    assert interrupted(0x0AA, mstatus=1 << 3).csr.values["mcause"] == INTERRUPT | 3
    assert interrupted(0x2A2, mstatus=1 << 3).csr.values["mcause"] == INTERRUPT | 7


def test_machine_interrupts_come_before_delegated_ones_whatever_their_numbers() -> None:
    hart = interrupted(0x280, privilege=SUPERVISOR, mideleg=0x222, mstatus=1 << 1)
    assert hart.csr.values["mcause"] == INTERRUPT | 7


def test_interrupts_wait_for_the_enable_of_their_own_mode_only() -> None:
    assert interrupted(0x80).csr.values["mcause"] == 0
    assert interrupted(0x80, privilege=SUPERVISOR).csr.values["mcause"] == INTERRUPT | 7
    delegated = interrupted(0x20, privilege=SUPERVISOR, mideleg=0x222)
    assert (delegated.csr.values["scause"], delegated.x[1]) == (0, 1)
    assert interrupted(0x20, privilege=USER, mideleg=0x222).csr.values["scause"] == INTERRUPT | 5
    assert interrupted(0x20, privilege=MACHINE, mideleg=0x222, mstatus=0xA).csr.values["scause"] == 0


def test_wfi_retires_then_waits_until_an_enabled_interrupt_is_pending_even_if_it_is_not_taken() -> None:
    hart = hart_with(lambda asm: (asm("wfi"), asm("addi", rd=1, rs1=0, imm=1)))
    board = hart.bus
    assert isinstance(board, FlatMemory)
    hart.csr.values["mie"] = 1 << 7
    hart.step()
    assert (hart.pc, board.tick, hart.is_idle()) == (BASE + 4, 1, True)
    board.lines = 1 << 3
    assert hart.is_idle()
    board.lines = 1 << 7
    assert not hart.is_idle()
    hart.step()
    assert (hart.x[1], hart.csr.values["mcause"]) == (1, 0)


def test_minstret_counts_what_retires_and_mcycle_every_tick() -> None:
    def build(asm: Assembler) -> None:
        asm("addi")
        asm("ecall")

    hart = after(build, steps=2)
    assert (hart.csr.read("minstret"), hart.csr.read("mcycle")) == (1, 2)


def test_every_csr_number_traps_or_reads_and_none_fails_otherwise() -> None:
    for number in range(4096):
        hart = after(lambda asm, number=number: asm("csrrs", rd=1, csr=number))
        assert hart.csr.values["mcause"] in (0, 2)
        assert (hart.csr.values["mcause"] == 0) <= (number in CSRS.values())
