"""`ftvm run`: one unprotected machine."""

from pathlib import Path

from ftvm.cli.escape import Escape
from ftvm.cli.guest import GuestFlags, TicksMax, exit_code_of, powered_on
from ftvm.host.solo import run_solo
from ftvm.host.terminal import ESCAPE, Terminal


def run(
    image: Path | None = None,
    /,
    *,
    guest: GuestFlags | None = None,
    escape: Escape = ESCAPE,
    ticks_max: TicksMax = None,
) -> int:
    """Run a guest, its console on this one: a bare image, or a kernel (--kernel), or a firmware (--bios).

    Exits with 0 when the guest powered itself off or passed, with 1 when it failed. On a terminal Ctrl-] leaves;
    otherwise Ctrl-C does.

    Parameters
    ----------
    image
        An ELF64 RISC-V executable or a raw binary, started in M mode.
    escape
        The key that leaves, with Ctrl: ^] or ^A; or none.
    ticks_max
        Stop after so many ticks.
    """
    terminal = Terminal(escape=escape)
    with powered_on(image, guest or GuestFlags()) as (machine, world), terminal as console:
        result = run_solo(machine, console, world, ticks_max=ticks_max)
    return exit_code_of(result, console.stop_signal)
