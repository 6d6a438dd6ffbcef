"""`ftvm record`: one unprotected machine, and the execution log of its run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ftvm.cli.guest import GuestFlags, TicksMax, exit_code_of, powered_on
from ftvm.host.solo import run_solo
from ftvm.host.terminal import Terminal
from ftvm.log.file import LogWriter


def record(
    image: Path | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    input_files: Annotated[list[Path] | None, Parameter(name="--input", consume_multiple=True)] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    guest: GuestFlags | None = None,
    ticks_max: TicksMax = None,
) -> int:
    """Run a guest as `ftvm run` does, and write a log that `ftvm replay` repeats it from.

    Parameters
    ----------
    image
        An ELF64 RISC-V executable or a raw binary.
    output
        The log to write. It holds all that the guest's memory held, so it is readable by you alone.
    input_files
        Files to type into the guest's console, one after the other, instead of standard input.
    force
        Overwrite the log if it exists.
    ticks_max
        Stop after so many ticks.
    """
    from ftvm.cli.main import say

    with powered_on(image, guest or GuestFlags()) as (machine, world), LogWriter.create(
        output,
        config_hash=machine.config_hash,
        image_hash=machine.image_hash,
        snapshot=machine.save(),
        replace=force,
    ) as writer:
        start_size = writer.size
        with Terminal(input_files or ()) as console:
            result = run_solo(machine, console, world, append=writer.append, ticks_max=ticks_max)
        say(
            f"{output}: {writer.position} entries in {writer.size - start_size} bytes,"
            f" up to tick {result.tick}, digest {machine.digest().hex()}"
        )
    return exit_code_of(result, console.stop_signal)
