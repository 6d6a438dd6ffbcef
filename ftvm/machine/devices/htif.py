"""HTIF, the host-target interface of Spike and the RISC-V test suites: two words of RAM, `tohost` and `fromhost`.

A command is device << 56 | function << 48 | payload. Known are the end of the test (device 0, function 0, odd
payload: 1 for a pass, else code << 1 | 1) and console output (device 1, function 1), which joins the UART's stream.
"""

from ftvm.machine.devices.uart import emit
from ftvm.machine.hart import state as s
from ftvm.machine.hart.jit import Words, compiled

ANSWERED = 1
PAYLOAD = (1 << 48) - 1
CONSOLE_WRITE = 1 << 8 | 1
CONSOLE_DONE = 0x100


@compiled
def htif_command(state: Words, outputs: Words, command: int) -> int:
    """Handle what stands in tohost: ANSWERED when tohost is to be cleared and `htif_answer` put in fromhost."""
    function = (command >> 48) & 0xFFFF
    if function == 0 and command & 1:
        state[s.HALT_HOW] = s.HALT_HTIF
        state[s.HALT_CODE] = (command & PAYLOAD) >> 1
    elif function == CONSOLE_WRITE:
        emit(state, outputs, command & 0xFF)
        return ANSWERED
    return 0


@compiled
def htif_answer(command: int) -> int:
    return (command & ~PAYLOAD) | CONSOLE_DONE | (command & 0xFF)
