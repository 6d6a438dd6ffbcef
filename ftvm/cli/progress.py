"""What a user sees while something takes long. On standard error, and quiet where that is no terminal."""

import sys


def prepared_kernel() -> None:
    """Loads the interpreter's machine code, or has it compiled where that was not done yet, and says so."""
    from ftvm.machine.hart.kernel import is_cached, prepare

    if is_cached() or not sys.stderr.isatty():
        prepare(lambda step: print(f"ftvm: {step}", file=sys.stderr, flush=True))
        return
    from rich.console import Console

    with Console(stderr=True).status("…") as status:
        prepare(status.update)


def told(line: str) -> None:
    """One line about what takes long."""
    if sys.stderr.isatty():
        print(f"ftvm: {line}", file=sys.stderr, flush=True)
