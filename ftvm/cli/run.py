"""`ftvm run`: one unprotected machine."""

from pathlib import Path

from ftvm.cli.guest import RamMib, TicksMax, exit_code_of, power_on
from ftvm.host.solo import run_solo
from ftvm.host.terminal import Terminal


def run(image: Path, /, *, ram_mib: RamMib = 64, ticks_max: TicksMax = None) -> int:
    """Run a guest image, its console on this one. Exits with 0 when the guest passed, with 1 when it failed.

    On a terminal Ctrl-] leaves; otherwise Ctrl-C does.

    Parameters
    ----------
    image
        An ELF64 RISC-V executable or a raw binary.
    ram_mib
        The machine's memory in MiB.
    ticks_max
        Stop after so many ticks.
    """
    machine = power_on(image, ram_mib)
    with Terminal() as console:
        result = run_solo(machine, console, ticks_max=ticks_max)
    return exit_code_of(result, console.stop_signal)
