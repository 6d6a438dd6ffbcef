"""What the commands that run a guest by itself have in common."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ftvm.cli.progress import prepared_kernel
from ftvm.errors import ExitCode, ImageError
from ftvm.host.solo import Ending, SoloResult
from ftvm.machine.board import RAM_MIB_MAX, BoardConfig
from ftvm.machine.machine import Machine

RamMib = Annotated[
    int,
    Parameter(name="--ram", env_var="FTVM_MACHINE_RAM_MIB", validator=Number(gte=1, lte=RAM_MIB_MAX)),
]
"""`--ram MIB`."""

TicksMax = Annotated[int | None, Parameter(name="--max-ticks", validator=Number(gte=0, lt=1 << 62))]
"""`--max-ticks N`."""


def power_on(image: Path, ram_mib: int) -> Machine:
    """A machine with the image at `image`. ImageError names the file."""
    try:
        content = image.read_bytes()
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror}; give the path of a guest image") from None
    prepared_kernel()
    try:
        return Machine(BoardConfig(ram_mib=ram_mib), content)
    except ImageError as error:
        raise ImageError(f"{image}: {error}") from None


def exit_code_of(result: SoloResult, stop_signal: int) -> int:
    """What the command ends with, after saying on standard error what there is to say."""
    from ftvm.cli.main import say

    match result.ending:
        case Ending.HALTED:
            assert result.halt is not None
            if not result.halt.ok:
                say(f"the guest failed with code {result.halt.code} ({result.halt.how}) at tick {result.tick}")
                return ExitCode.GUEST_FAILED
        case Ending.TICKS_MAX:
            say(f"stopped at tick {result.tick}, as asked for")
        case Ending.NOTHING_LEFT:
            say(f"the guest waits at tick {result.tick} for input, and the input has ended")
        case Ending.STOP_WANTED:
            return 128 + stop_signal if stop_signal else ExitCode.OK
    return ExitCode.OK
