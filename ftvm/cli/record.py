"""`ftvm record`: one unprotected machine, and the execution log of its run."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ftvm.cli.guest import RamMib, TicksMax, exit_code_of, power_on
from ftvm.host.solo import run_solo
from ftvm.host.terminal import Terminal
from ftvm.log.file import LogWriter


def record(
    image: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    input_files: Annotated[list[Path] | None, Parameter(name="--input", consume_multiple=True)] = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    ram_mib: RamMib = 64,
    ticks_max: TicksMax = None,
) -> int:
    """Run a guest image as `ftvm run` does, and write a log that `ftvm replay` repeats it from.

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
    ram_mib
        The machine's memory in MiB.
    ticks_max
        Stop after so many ticks.
    """
    from ftvm.cli.main import say

    machine = power_on(image, ram_mib)
    with LogWriter.create(
        output,
        config_hash=machine.config_hash,
        image_hash=machine.image_hash,
        snapshot=machine.save(),
        replace=force,
    ) as writer:
        start_size = writer.size
        with Terminal(input_files or ()) as console:
            result = run_solo(machine, console, append=writer.append, ticks_max=ticks_max)
        say(
            f"{output}: {writer.position} entries in {writer.size - start_size} bytes,"
            f" up to tick {result.tick}, digest {machine.digest().hex()}"
        )
    return exit_code_of(result, console.stop_signal)
