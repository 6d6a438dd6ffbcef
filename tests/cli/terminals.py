"""Runs the command line on a terminal of its own, as a person does."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.limits import WAIT_S


class OnTerminal:
    """`ftvm ARGUMENTS` on a terminal of its own."""

    def __init__(self, *arguments: str, columns: int, rows: int) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, rows, tell=False)
        self._before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ftvm", *arguments], stdin=theirs, stdout=theirs, stderr=theirs
        )
        self._seen = b""

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, wanted: bytes, timeout_s: float = WAIT_S) -> bytes:
        """All that was shown since the last call, up to and with `wanted`."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self._seen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._ours], [], [], max(0, left))
            assert ready, (wanted, self._seen)
            self._seen += os.read(self._ours, 4096)
        before, _, self._seen = self._seen.partition(wanted)
        return before + wanted

    def skim(self) -> None:
        """Look at what is shown by now, and forget it; waits a moment for it."""
        if select.select([self._ours], [], [], 0.05)[0]:
            os.read(self._ours, 65536)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._theirs) == self._before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def on_terminal(*arguments: str, columns: int = 80, rows: int = 24) -> Iterator[OnTerminal]:
    terminal = OnTerminal(*arguments, columns=columns, rows=rows)
    try:
        yield terminal
    finally:
        terminal.close()
