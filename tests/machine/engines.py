"""User-level programs on whole machines: on the kernel, and on the reference hart behind a board."""

from ftvm.machine.board import BoardConfig
from ftvm.machine.hart import state as s
from ftvm.machine.hart.encodings import BY_NAME
from ftvm.machine.hart.reference_machine import ReferenceMachine
from ftvm.machine.machine import Machine, StopReason
from tests.machine.oracles import STEPS_MAX, Astray, Outcome
from tests.machine.programs import BASE, IMAGE_SIZE, Program

SMALL_BOARD = BoardConfig(ram_mib=1)


def outcome_of(machine: Machine) -> Outcome:
    """What the guest sees of a machine that waits in the WFI after a user-level program."""
    state, ram = machine._state, machine._memory.bytes
    registers = tuple(int(word) & (1 << 64) - 1 for word in state[s.X : s.X + 32])
    pc = int(state[s.PC]) & (1 << 64) - 1
    return Outcome(registers, pc - BY_NAME["wfi"].size, bytes(ram[:IMAGE_SIZE]))


def run_on(machine_type: type[Machine], program: Program) -> Outcome:
    machine = machine_type(SMALL_BOARD, program.image())
    stop = machine.run_until(STEPS_MAX)
    if machine._state[s.NOT_RETIRED]:
        raise Astray(f"trap {machine._state[s.MCAUSE]} at {int(machine._state[s.MEPC]):#x}")
    if stop.reason is not StopReason.IDLE:
        raise Astray("does not end")
    assert BASE <= machine._state[s.PC] < BASE + IMAGE_SIZE
    return outcome_of(machine)


def on_kernel(program: Program) -> Outcome:
    return run_on(Machine, program)


def on_reference(program: Program) -> Outcome:
    return run_on(ReferenceMachine, program)
