"""Runs the command line as a user does: another process, its exit code, what it prints."""

import subprocess
import sys
from pathlib import Path

from ftvm import guests

COMMAND = [sys.executable, "-m", "ftvm.cli.main"]
TIMEOUT_S = 120
"""The first command of a test run may have to compile the interpreter."""


def guest(name: str) -> str:
    return str(guests.path(name))


def ftvm(*arguments: str | Path, typed: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Runs `ftvm ARGUMENTS` to its end, with `typed` on its standard input."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=typed, capture_output=True, timeout=TIMEOUT_S, check=False
    )


def one_line(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Standard error, which must be exactly one line that begins as all our messages do."""
    text = done.stderr.decode()
    assert text.startswith("ftvm: ")
    assert text.count("\n") == 1, text
    return text
