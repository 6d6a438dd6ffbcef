"""Test finisher (SiFive test device, `sifive,test1`): a 32-bit register at offset 0 ends or resets the machine."""

from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

FAIL = 0x3333
PASS = 0x5555
RESET = 0x7777

RESET_ASKED = 2
"""What `finisher_write` returns for a reset, which only the board can do."""


@compiled
def finisher_write(state: Words, offset: int, size: int, value: int) -> int:
    """1, 0 for a fault, RESET_ASKED. The low 16 bits are the command, the next 16 a failure's code."""
    if size < 2 or size > 4:
        return 0
    if offset == 0:
        command = value & 0xFFFF
        if command == PASS:
            state[s.HALT_HOW] = s.HALT_FINISHER
            state[s.HALT_CODE] = 0
        elif command == FAIL:
            state[s.HALT_HOW] = s.HALT_FINISHER
            # A failure whose code is 0 is still a failure.
            state[s.HALT_CODE] = max((value >> 16) & 0xFFFF, 1) if size == 4 else 1
        elif command == RESET:
            return RESET_ASKED
    return 1
