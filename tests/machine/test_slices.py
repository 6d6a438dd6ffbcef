"""How a run is cut, when caches are flushed, and whether it went through a snapshot never shows."""

from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.log.entry import Action, Clock, Control, Entry, Input
from ftvm.machine.board import CLINT_BASE, PLIC_BASE, RAM_BASE, UART_BASE
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine, StopReason
from ftvm.machine.output import UART, Output
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, A1, A2, BOARD, T0, T1, T2, T3, load_address, program, set_handler, store

END = 400_000
SLICES = (1, 997, 2101, 7777, 100_000, END)
SEEDS = (1, 2)


def busy(asm: Assembler) -> None:
    """Sums over RAM, rewrites its own routine, calls the environment, prints, and takes interrupts all the while."""
    set_handler(asm)
    store(asm, PLIC_BASE + 40, 1)
    store(asm, PLIC_BASE + 0x2000, 1 << 10)
    store(asm, UART_BASE + 1, 5, "b")
    store(asm, CLINT_BASE + 0x4000, 50, "d")
    asm.li(T0, s.MTIP | s.MEIP)
    asm("csrrw", csr="mie", rs1=T0)
    asm("csrrsi", rd=0, csr="mstatus", imm=8)
    load_address(asm, A1, RAM_BASE + 0x4000)
    load_address(asm, A2, RAM_BASE + 0x8000)
    asm.label("again")
    asm("addi", rd=A0, rs1=A0, imm=1)
    asm("ld", rd=T1, rs1=A1, imm=3)
    asm("add", rd=T1, rs1=T1, rs2=A0)
    asm("sd", rs1=A1, rs2=T1, imm=3)
    asm("amoadd.d", rd=T1, rs1=A2, rs2=A0)
    asm("addi", rd=A1, rs1=A1, imm=9)
    asm("andi", rd=T1, rs1=A0, imm=0x3FF)
    asm("bne", rs1=T1, rs2=0, imm="again")
    load_address(asm, A1, RAM_BASE + 0x4000)
    asm("ecall")
    load_address(asm, T1, UART_BASE)
    asm("sb", rs1=T1, rs2=A0)
    load_address(asm, T1, RAM_BASE + 0x3000)
    asm.li(T2, 0x0015_0513)
    asm("sw", rs1=T1, rs2=T2)
    asm.li(T2, 0x0000_8067)
    asm("sw", rs1=T1, rs2=T2, imm=4)
    asm("jalr", rd=1, rs1=T1)
    asm("jal", imm="again")


def handler(asm: Assembler) -> None:
    """Timer: set it 50 further. External: claim, read, echo, complete. Else: step over."""
    asm("csrrs", rd=T3, csr="mcause", rs1=0)
    asm("bge", rs1=T3, rs2=0, imm="exception")
    asm("andi", rd=T3, rs1=T3, imm=15)
    asm("addi", rd=T3, rs1=T3, imm=-7)
    asm("bne", rs1=T3, rs2=0, imm="external")
    load_address(asm, T3, CLINT_BASE + 0x4000)
    asm("ld", rd=29, rs1=T3)
    asm("addi", rd=29, rs1=29, imm=50)
    asm("sd", rs1=T3, rs2=29)
    asm("mret")
    asm.label("external")
    load_address(asm, T3, PLIC_BASE + 0x20_0004)
    asm("lw", rd=29, rs1=T3)
    load_address(asm, 30, UART_BASE)
    asm("lbu", rd=31, rs1=30, imm=5)
    asm("lbu", rd=31, rs1=30)
    asm("sb", rs1=30, rs2=31)
    asm("sw", rs1=T3, rs2=29)
    asm("mret")
    asm.label("exception")
    asm("csrrs", rd=T3, csr="mepc", rs1=0)
    asm("addi", rd=T3, rs1=T3, imm=4)
    asm("csrrw", csr="mepc", rs1=T3)
    asm("mret")


def entries(seed: int) -> list[Entry]:
    """A log: clock samples, console input and breaks, and a reset, at random ticks."""
    random = Random(seed)
    log: list[Entry] = []
    mtime = offset = 0
    for tick in sorted(random.sample(range(END), 60)):
        kind = random.random()
        if kind < 0.5:
            mtime += random.randrange(5000)
            log.append(Clock(tick, mtime, random.randrange(1 << 30), 20_000))
        elif kind < 0.95:
            is_break = random.random() < 0.2
            data = b"\0" if is_break else random.randbytes(random.randrange(1, 60))
            log.append(Input(tick, UART, offset, data, is_break))
            offset += len(data)
        else:
            log.append(Control(tick, Action.RESET))
    return log


def replay(seed: int, slice_ticks: int, disturb: int | None = None) -> tuple[bytes, bytes, list[tuple[int, bool]]]:
    """Digest at END, digests on the way, and the output stream as (byte, is_break)."""
    random = Random(disturb)
    machine = Machine(BOARD, program(busy, handler))
    outputs: list[Output] = []
    middle = b""
    for entry in [*entries(seed), None]:
        target = END if entry is None else entry.tick
        while machine.tick < target:
            stop = machine.run_until(min(machine.tick + slice_ticks, target))
            assert stop.reason in (StopReason.LIMIT, StopReason.OUTPUT)
            outputs += machine.take_outputs()
            if disturb is not None and random.random() < 0.05:
                machine.flush_caches()
            if disturb is not None and random.random() < 0.02:
                machine = Machine.restore(machine.save())
        if entry is not None:
            middle += machine.digest()
            machine.apply(entry)
    assert machine.tick == END
    units = [(byte, output.is_break) for output in outputs for byte in output.data]
    assert outputs[-1].offset + len(outputs[-1].data) == len(units) == machine.output_offset(UART)
    statistics = machine.statistics()
    assert disturb is not None or min(statistics.interrupts, statistics.traps, statistics.code_stores) > 20
    return machine.digest(), middle, units


@cache
def whole(seed: int) -> tuple[bytes, bytes, list[tuple[int, bool]]]:
    return replay(seed, END)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slice_ticks", SLICES)
def test_six_slice_sizes_one_digest(seed: int, slice_ticks: int) -> None:
    if slice_ticks == 1 and seed != SEEDS[0]:
        slice_ticks = 13
    assert replay(seed, slice_ticks) == whole(seed)


@settings(deadline=None, max_examples=15)
@given(seed=st.sampled_from(SEEDS), slice_ticks=st.integers(900, 30_000), disturb=st.integers(0, 1 << 32))
def test_flushed_caches_and_snapshots_at_random_ticks_never_show(seed: int, slice_ticks: int, disturb: int) -> None:
    assert replay(seed, slice_ticks, disturb) == whole(seed)
