"""One program of the official ISA tests on a machine of its own.

Such a program ends by a store to HTIF's `tohost`: 1 when it passed, else twice the number of the case that failed,
plus 1. Environment p runs in M mode on bare memory; environment v brings a small kernel, and runs the same code in U
mode under Sv39.
"""

import re
from dataclasses import dataclass
from enum import Enum

from ftvm.errors import ImageError
from ftvm.host.solo import Ending, run_solo
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine

TICKS_MAX = 20_000_000
"""What comes here hangs: they take some 20,000 under Sv39, and a few hundred on bare memory."""
TEXT_MAX = 200
"""Bytes of what a failing program said that are shown."""

OTHERS = (
    (r"rv32", "a program for RV32"),
    (r"rv64mi-p-ma_addr", "wants misaligned accesses to trap: here they are performed"),
    (r"rv64si-p-spmp", "wants SPMP"),
    (r"rv64ssvnapot", "wants Svnapot"),
    (r"rv64mzicbo|rv64uzicbo", "wants Zicbom, Zicbop or Zicboz"),
    (r"rv64ua-.-amocas|rv64uzacas", "wants Zacas"),
    (r"rv64ua-.-amo\w+_[bh]$|rv64uzabha", "wants Zabha"),
    (r"rv64ua-.-zalasr|rv64uzalasr", "wants Zalasr"),
    (r"rv64uzfh", "wants Zfh"),
    (r"rv64uzbc|rv64uzbk|rv64uzk", "wants carry-less multiplication or cryptography"),
    (r"rv64uv|rv64uzv", "wants vectors"),
    (r"hypervisor|rv64h", "wants the hypervisor extension"),
)
"""What names of programs for another hart begin with, and what those want."""


class Verdict(Enum):
    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    verdict: Verdict
    reason: str = ""
    ticks: int = 0

    def __str__(self) -> str:
        return f"{self.name:32} {self.verdict.value}{f': {self.reason}' if self.reason else ''}"


class Silent:
    """A console at which nobody sits; it keeps what was said."""

    size = None
    at_end = True
    stop_wanted = False

    def __init__(self) -> None:
        self.said = bytearray()

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        self.said += data


def wanted_elsewhere(name: str) -> str | None:
    """Why a program of this name is not for this hart; None where it is."""
    return next((why for pattern, why in OTHERS if re.match(pattern, name)), None)


def run_one(name: str, image: bytes, machine_type: type[Machine] = Machine, ticks_max: int = TICKS_MAX) -> Report:
    """Runs the ELF `image` to its end, or for `ticks_max`."""
    why = wanted_elsewhere(name)
    if why is not None:
        return Report(name, Verdict.SKIPPED, why)
    try:
        machine = machine_type(BoardConfig(), image)
    except ImageError as error:
        return Report(name, Verdict.FAILED, str(error))
    console = Silent()
    result = run_solo(machine, console, ticks_max=ticks_max)
    reason = _what_went_wrong(result.ending, machine)
    if not reason:
        return Report(name, Verdict.PASSED, ticks=result.tick)
    if console.said:
        reason += f"; it said {bytes(console.said[-TEXT_MAX:])!r}"
    return Report(name, Verdict.FAILED, reason, result.tick)


def _what_went_wrong(ending: Ending, machine: Machine) -> str:
    """Empty when nothing did."""
    halt = machine.halt
    if halt is not None:
        if halt.how != "htif":
            return f"it ended by {halt.how}, not through tohost"
        return "" if halt.ok else f"case {halt.code}"
    if ending is Ending.NOTHING_LEFT:
        return f"it waits for an interrupt that never comes, at tick {machine.tick}"
    return f"it did not end within {machine.tick} ticks"
