"""Sv39, PMP and Sstc: what QEMU does not show, facts of the reference, and random programs on kernel and reference."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.machine.hart.reference import ReferenceHart
from ftvm.machine.hart.reference_csr import SUPERVISOR, USER
from ftvm.machine.hart.reference_mmu import ReferenceMemory, pmp_regions
from tests.differential.machines import compare, machine_campaign, plan_of
from tests.differential.probes import compare_probes
from tests.machine.assembler import Assembler
from tests.machine.oracles import FlatMemory
from tests.machine.paged_programs import generate_paged
from tests.machine.privileged_cases import ONLY_HERE
from tests.machine.programs import BASE

LENGTH = 150
ROOT, TABLE, PAGES, DATA = (BASE + 0x1000 * n for n in range(1, 5))
VIRTUAL = 0x4000_0000
V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
LEAF = V | R | W | X | A | D


@pytest.mark.parametrize("name", ONLY_HERE)
def test_kernel_and_reference_agree_where_qemu_is_no_oracle(name: str) -> None:
    assert not compare_probes(list(ONLY_HERE[name]())[::5], ["reference", "kernel"])


def test_kernel_and_reference_agree_on_paged_programs() -> None:
    assert next((report for report in machine_campaign(range(15), LENGTH, "paged") if report is not None), None) is None


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_paged_programs_agree_after_every_slice(seed: int, plan_seed: int) -> None:
    """Same image and same entries: equal digests at each stop, wherever the stops are and whenever caches are lost."""
    assert not compare(generate_paged(seed, LENGTH), plan_of(plan_seed))


def without_dirty(memory: ReferenceMemory, address: int, access: object, privilege: int) -> int:
    from ftvm.machine.hart.reference_mmu import LOAD, STORE

    return TRANSLATE(memory, address, LOAD if access is STORE else access, privilege)  # type: ignore[arg-type]


TRANSLATE = ReferenceMemory._translate


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (ReferenceMemory, "_translate", without_dirty),
        (ReferenceMemory, "_permits", lambda memory, address, size, needs, privilege: True),
        (ReferenceMemory, "_grants", lambda memory, entry, access, privilege: True),
        (ReferenceMemory, "_data_privilege", lambda memory: memory.csr.privilege),
    ],
)
def test_a_wrong_reference_is_found(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mutant: object) -> None:
    """Mutants of what only paged programs reach: the comparison must see each."""
    monkeypatch.setattr(owner, name, mutant)
    assert any(compare(generate_paged(seed, LENGTH), plan_of(seed)) for seed in range(60, 100))


def paged_hart(leaf: int, **values: int) -> ReferenceHart:
    """In S mode before `ld x3, 0(x1)`, with one page at VIRTUAL behind `leaf`; PMP lets everything through."""
    asm = Assembler(BASE)
    asm("ld", rd=3, rs1=1)
    asm("sd", rs1=1, rs2=2)
    hart = ReferenceHart(FlatMemory(asm.assemble()))
    for place, entry in (
        (ROOT + 8, TABLE >> 12 << 10 | V),
        (ROOT + 16, BASE >> 12 << 10 | LEAF),
        (TABLE, PAGES >> 12 << 10 | V),
        (PAGES, DATA >> 12 << 10 | leaf),
    ):
        hart.bus.store(place, 8, entry)
    hart.pc, hart.x[1] = BASE, VIRTUAL
    hart.csr.privilege = SUPERVISOR
    hart.csr.values |= {"pmpcfg0": 0x1F, "pmpaddr0": (1 << 54) - 1, "satp": 8 << 60 | ROOT >> 12, **values}
    return hart


def test_a_load_sets_a_and_a_store_sets_d() -> None:
    hart = paged_hart(V | R | W)
    hart.step()
    assert hart.bus.load(PAGES, 8) & 0xFF == V | R | W | A
    hart.step()
    assert hart.bus.load(PAGES, 8) & 0xFF == V | R | W | A | D


def test_a_page_fault_leaves_the_entry_alone_and_names_the_address() -> None:
    hart = paged_hart(V | X)
    hart.step()
    values = hart.csr.values
    assert (values["mcause"], values["mtval"], values["mepc"]) == (13, VIRTUAL, BASE)
    assert hart.bus.load(PAGES, 8) & 0xFF == V | X


def test_an_access_over_two_pages_names_the_second_if_that_fails() -> None:
    hart = paged_hart(LEAF)
    hart.x[1] = VIRTUAL + 0xFFD
    hart.step()
    assert (hart.csr.values["mcause"], hart.csr.values["mtval"]) == (13, VIRTUAL + 0x1000)


def test_a_table_that_pmp_protects_is_an_access_fault_of_the_access() -> None:
    hart = paged_hart(V | R | W | A)
    read_only = 0x19
    hart.csr.values |= {"pmpcfg0": 0x1F00 | read_only, "pmpaddr0": PAGES >> 2 | 0x1FF, "pmpaddr1": (1 << 54) - 1}
    hart.step()
    assert hart.csr.values["mcause"] == 0
    hart.step()
    assert (hart.csr.values["mcause"], hart.csr.values["mtval"]) == (7, VIRTUAL)
    assert hart.bus.load(PAGES, 8) & D == 0


def test_locked_entries_bind_m_mode_and_stay() -> None:
    asm = Assembler(BASE)
    asm("csrrw", csr="pmpcfg0", rs1=2)
    asm("csrrw", csr="pmpcfg0", rs1=0)
    asm("csrrw", csr="pmpaddr0", rs1=0)
    asm("ld", rd=4, rs1=1)
    asm("sd", rs1=1, rs2=4)
    hart = ReferenceHart(FlatMemory(asm.assemble()))
    hart.csr.values |= {"pmpaddr0": DATA >> 2, "pmpaddr1": DATA + 8 >> 2}
    hart.pc, hart.x[1], hart.x[2] = BASE, DATA, 0x8900
    for _ in range(4):
        hart.step()
    values = hart.csr.values
    assert (values["pmpcfg0"], values["pmpaddr0"], values["mcause"]) == (0x8900, DATA >> 2, 0)
    hart.step()
    assert (values["mcause"], values["mtval"]) == (7, DATA)


@pytest.mark.parametrize(
    ("configuration", "address", "region"),
    [
        (0x10, DATA >> 2, (DATA, DATA + 3)),
        (0x18, DATA >> 2, (DATA, DATA + 7)),
        (0x18, DATA >> 2 | 0x1FF, (DATA, DATA + 0xFFF)),
        (0x18, (1 << 54) - 1, (0, (1 << 57) - 1)),
        (0x08, DATA >> 2, (0, DATA - 1)),
    ],
)
def test_regions_of_pmp_entries(configuration: int, address: int, region: tuple[int, int]) -> None:
    assert pmp_regions((configuration, 0, address, *[0] * 15)) == [(*region, configuration)]


def test_stip_is_the_comparison_with_stimecmp_only_while_that_is_on() -> None:
    hart = ReferenceHart(FlatMemory(b""))
    board, values = hart.bus, hart.csr.values
    assert isinstance(board, FlatMemory)
    values |= {"stimecmp": 10, "mip": 0}
    board.now = 10
    assert hart.csr.read("mip") == 0
    values["menvcfg"] = 1 << 63
    assert hart.csr.read("mip") == 1 << 5
    board.now = 9
    hart.csr.write("mip", 1 << 5)
    assert hart.csr.read("mip") == 0


def test_u_mode_never_reaches_stimecmp() -> None:
    asm = Assembler(BASE)
    asm("csrrs", rd=1, csr="stimecmp")
    hart = ReferenceHart(FlatMemory(asm.assemble()))
    hart.pc, hart.csr.privilege = BASE, USER
    hart.csr.values |= {"menvcfg": 1 << 63, "pmpcfg0": 0x1F, "pmpaddr0": (1 << 54) - 1}
    hart.step()
    assert hart.csr.values["mcause"] == 2
