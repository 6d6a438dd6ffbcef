"""Small guests written in Python, for tests of the machine."""

from collections.abc import Callable, Iterator

from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.hart import state as s
from ftvm.machine.machine import Machine, Stop, StopReason
from tests.machine.assembler import Assembler

ROM_TICKS = 6
"""Instructions of the reset ROM before the image's first."""
BOARD = BoardConfig(ram_mib=1)
A0, A1, A2, T0, T1, T2, T3 = 10, 11, 12, 5, 6, 7, 28
HANDLER = RAM_BASE + 0x800


def program(write: Callable[[Assembler], None], handler: Callable[[Assembler], None] | None = None) -> bytes:
    """An image: `write`'s code at the start of RAM, `handler`'s at HANDLER; without one, a jump to itself."""
    asm = Assembler(RAM_BASE)
    write(asm)
    asm.label("end")
    asm("jal", rd=0, imm="end")
    code = asm.assemble()
    assert len(code) <= HANDLER - RAM_BASE
    trap = Assembler(HANDLER)
    if handler is not None:
        handler(trap)
    trap.label("end")
    trap("jal", rd=0, imm="end")
    return code.ljust(HANDLER - RAM_BASE, b"\0") + trap.assemble()


def boot(write: Callable[[Assembler], None], handler: Callable[[Assembler], None] | None = None) -> Machine:
    return Machine(BOARD, program(write, handler))


def run(write: Callable[[Assembler], None], ticks: int = 200) -> Machine:
    """A machine on which the code has run, and then spun for the rest of `ticks`."""
    machine = boot(write)
    machine.run_until(ticks)
    return machine


def register(machine: Machine, number: int) -> int:
    """The unsigned value of x`number`."""
    return word(machine, s.X + number)


def word(machine: Machine, index: int) -> int:
    """A word of the state array, unsigned."""
    return int(machine._memory.state[index]) & (1 << 64) - 1


def set_handler(asm: Assembler) -> None:
    asm.li(T0, HANDLER)
    asm("slli", rd=T0, rs1=T0, imm=32)
    asm("srli", rd=T0, rs1=T0, imm=32)
    asm("csrrw", csr="mtvec", rs1=T0)


def allow_all(asm: Assembler) -> None:
    """A PMP entry without which U and S mode may access nothing."""
    asm("addi", rd=T0, rs1=0, imm=-1)
    asm("csrrw", csr="pmpaddr0", rs1=T0)
    asm("csrrwi", csr="pmpcfg0", imm=s.PMPCFG_ALLOW_ALL)


def load_address(asm: Assembler, rd: int, address: int) -> None:
    """An unsigned 32-bit address: four instructions."""
    asm.li(rd, (address & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000)
    asm("slli", rd=rd, rs1=rd, imm=32)
    asm("srli", rd=rd, rs1=rd, imm=32)


def store(asm: Assembler, address: int, value: int, width: str = "w") -> None:
    load_address(asm, T1, address)
    asm.li(T2, value)
    asm("s" + width, rs1=T1, rs2=T2)


def stops(machine: Machine, tick: int) -> Iterator[Stop]:
    """Run to `tick` and yield each stop on the way; outputs are left to the caller to take."""
    while True:
        stop = machine.run_until(tick)
        yield stop
        if stop.reason is not StopReason.OUTPUT:
            return
