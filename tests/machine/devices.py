"""A board's devices without a hart, asked through the kernel that machines run, as it lies in the cache.

Called from Python one by one, each of the functions behind it would be compiled anew: most of a minute.
"""

from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.hart.kernel import prepare
from ftvm.machine.memory import Memory


class Devices:
    """Of a machine whose memory this is."""

    def __init__(self, memory: Memory) -> None:
        self._state, self._control = memory.state, memory.control
        self._serve = prepare().serve
        self.call(c.DO_RESET_DEVICES)

    def call(self, command: int, *arguments: int) -> int:
        self._control[c.COMMAND] = command
        self._control[c.ARGUMENTS : c.ARGUMENTS + len(arguments)] = arguments
        return int(self._serve(self._control.ctypes.data))

    def read(self, address: int, size: int) -> tuple[int, int]:
        """(1, value); (0, 0) for an access fault."""
        value = self.call(c.DO_READ_BUS, address, size)
        ok = int(self._control[c.ARGUMENTS])
        return ok, value & (1 << 8 * size) - 1 if ok else 0

    def write(self, address: int, size: int, value: int) -> bool:
        """False for an access fault."""
        signed = (value & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)
        return self.call(c.DO_WRITE_BUS, address, size, signed) == 1

    def lines(self) -> int:
        """As mip shows them."""
        return int(self._state[s.MIP]) | self.call(c.DO_READ_LINES)
