"""What a user sees while something takes long. On standard error, and quiet where that is no terminal."""

import subprocess
import sys


def prepared_kernel() -> None:
    """Loads the interpreter's machine code, or compiles it where that was not done yet, and says so."""
    from ftvm.machine.hart.kernel import is_cached, prepare

    if is_cached():
        prepare()
        return
    with _second_step():
        if sys.stderr.isatty():
            from rich.console import Console

            with Console(stderr=True).status("…") as status:
                prepare(status.update)
        else:
            prepare(lambda step: print(f"ftvm: {step}", file=sys.stderr, flush=True))


def _second_step() -> "subprocess.Popen[bytes]":
    """Beside the first: each keeps one CPU busy for most of a minute. Who comes to the second waits for this process
    at a lock, and does it himself where it has failed."""
    code = "from ftvm.machine.hart.kernel import load_driver; load_driver()"
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code], stdin=quiet, stdout=quiet, stderr=quiet)


def told(line: str) -> None:
    """One line about what takes long."""
    if sys.stderr.isatty():
        print(f"ftvm: {line}", file=sys.stderr, flush=True)
