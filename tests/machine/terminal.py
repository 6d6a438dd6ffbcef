"""Somebody at a machine's serial console, who also keeps its clock: a host in few lines, and repeatable."""

import xxhash

from ftvm.log.entry import Clock, Entropy, Input
from ftvm.machine.board import TIMEBASE_HZ
from ftvm.machine.machine import Machine, StopReason
from ftvm.machine.output import UART

MIPS = 500
RATE = (TIMEBASE_HZ << 32) // (MIPS * 1_000_000)
"""mtime units per tick: the guest lives on a computer of so many million instructions a second."""
CAP = 1 << 50
PROMPT = b"# "


class Terminal:
    """Time passes with the ticks, and jumps to the next timer when the guest has nothing to do."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.printed = b""
        """What came and was not taken yet."""
        machine.apply(Clock(machine.tick, machine.mtime, RATE, CAP))

    def run(self, until_tick: int, mark: bytes = b"") -> StopReason:
        """To that tick; or until `mark` was printed, the machine is off, or nothing but an input can wake it."""
        machine = self.machine
        while True:
            reason = machine.run_until(until_tick).reason
            self.printed += b"".join(output.data for output in machine.take_outputs() if output.device == UART)
            if mark and mark in self.printed:
                return reason
            if reason is StopReason.WANTS:
                self._attend()
            elif reason is StopReason.IDLE and (deadline := machine.deadline()) is not None:
                machine.apply(Clock(machine.tick, max(deadline, machine.mtime), RATE, CAP))
            elif reason is not StopReason.OUTPUT:
                return reason

    def _attend(self) -> None:
        """What devices want of their host: random bytes, which here are not, and flushes, which cost nothing."""
        machine = self.machine
        machine.take_flush()
        if wanted := machine.entropy_wanted():
            machine.apply(Entropy(machine.tick, xxhash.xxh3_128_digest(str(machine.tick).encode())[:wanted]))

    def until(self, mark: bytes, ticks_max: int) -> str:
        """What the guest prints up to and with `mark`, in so many ticks at most."""
        reason = self.run(self.machine.tick + ticks_max, mark)
        assert mark in self.printed, f"{reason}, and no {mark!r}: ...{self.printed[-2000:].decode()}"
        at = self.printed.index(mark) + len(mark)
        text, self.printed = self.printed[:at], self.printed[at:]
        return text.decode(errors="replace").replace("\r", "")

    def type(self, text: str) -> None:
        machine = self.machine
        machine.apply(Input(machine.tick, UART, machine.input_offset(UART), text.encode(), False))

    def say(self, command: str, ticks_max: int = 500_000_000) -> str:
        """What a shell at its prompt prints for `command`."""
        self.type(f"{command}; echo d''one\n")
        self.until(b"d''one\r\n", ticks_max)
        printed = self.until(b"done\r\n", ticks_max)
        self.until(PROMPT, ticks_max)
        return printed.removesuffix("done\n")
