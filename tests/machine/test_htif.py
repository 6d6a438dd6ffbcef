"""HTIF: two words of RAM through which a guest ends a test and writes to the console."""

import pytest

from ftvm.machine.board import RAM_BASE
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Halt, Machine, StopReason
from ftvm.machine.output import UART, Output
from tests.machine.assembler import Assembler
from tests.machine.guest import A0, ROM_TICKS, T0, T1, boot, load_address, register, stops

TOHOST, FROMHOST = RAM_BASE + 0x1000, RAM_BASE + 0x1040
PUTCHAR = 0x0101


def with_htif(machine: Machine) -> Machine:
    """As if the image had the two symbols."""
    machine._memory.state[s.TOHOST], machine._memory.state[s.FROMHOST] = TOHOST, FROMHOST
    machine._watch_tohost()
    return machine


def tell(asm: Assembler, low: int, high: int = 0) -> None:
    """A command of 64 bits in one store."""
    load_address(asm, T0, TOHOST)
    asm("addi", rd=T1, rs1=0, imm=high)
    asm("slli", rd=T1, rs1=T1, imm=48)
    asm("addi", rd=T1, rs1=T1, imm=low)
    asm("sd", rs1=T0, rs2=T1)


@pytest.mark.parametrize(("value", "halt"), [(1, Halt(True, 0, "htif")), (2 * 77 + 1, Halt(False, 77, "htif"))])
def test_an_odd_value_ends_the_test(value: int, halt: Halt) -> None:
    machine = with_htif(boot(lambda asm: tell(asm, value)))
    stop = machine.run_until(1000)
    assert (stop.reason, stop.tick, machine.halt) == (StopReason.HALTED, ROM_TICKS + 8, halt)


def test_the_lower_word_alone_is_enough() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T0, TOHOST)
        asm("addi", rd=T1, rs1=0, imm=1)
        asm("sw", rs1=T0, rs2=T1)

    assert with_htif(boot(code)).run_until(1000).reason is StopReason.HALTED


def test_console_output_joins_the_stream_and_is_answered() -> None:
    def code(asm: Assembler) -> None:
        for byte in b"hi":
            tell(asm, byte, PUTCHAR)
        asm("ld", rd=A0, rs1=T0, imm=FROMHOST - TOHOST)
        asm("ld", rd=T1, rs1=T0)

    machine = with_htif(boot(code))
    assert [stop.reason for stop in stops(machine, 100)] == [StopReason.LIMIT]
    assert machine.take_outputs() == [Output(ROM_TICKS + 16, UART, 0, b"hi")]
    assert register(machine, A0) == PUTCHAR << 48 | 0x100 | ord("i")
    assert register(machine, T1) == 0, "tohost is free again"


def test_stores_beside_tohost_are_just_stores() -> None:
    def code(asm: Assembler) -> None:
        load_address(asm, T0, TOHOST)
        asm("addi", rd=T1, rs1=0, imm=1)
        asm("sd", rs1=T0, rs2=T1, imm=8)
        asm("sd", rs1=T0, rs2=T1, imm=-8)

    machine = with_htif(boot(code))
    assert machine.run_until(100).reason is StopReason.LIMIT
    assert Machine.restore(machine.save()).digest() == machine.digest()


def test_without_the_symbols_it_is_memory() -> None:
    machine = boot(lambda asm: tell(asm, 1))
    assert machine.run_until(100).reason is StopReason.LIMIT
