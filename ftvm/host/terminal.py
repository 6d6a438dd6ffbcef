"""Our standard input and output as a guest's console."""

import os
import select
import signal
import sys
import termios
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from ftvm.errors import FtvmError, UsageError

ESCAPE = "^]"
"""Ctrl-] leaves the guest's console, as in telnet."""

READ_SIZE_MAX = 4096
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_escape(text: str) -> int:
    """The key `^X` (with Ctrl) as the byte that a terminal sends for it; -1 for `none`. Raises `UsageError`."""
    if text == "none":
        return -1
    key = text[1:].upper()
    if len(text) == 2 and text[0] == "^" and "@" <= key <= "_":
        return ord(key) ^ 0x40
    raise UsageError(f"--escape {text!r:.20}: expected a key with Ctrl, such as ^] or ^A, or none")


class Terminal:
    """A context manager: while it is open a terminal is raw, and signals that end a program ask to stop instead.

    `files` are typed instead of standard input, one after the other. Only on the main thread.
    """

    def __init__(self, files: Iterable[Path] = (), escape: str = ESCAPE) -> None:
        self._stop = False
        self.stop_signal = 0
        """The signal that asked to stop; 0: none did."""
        self._escape = parse_escape(escape)
        self._files = deque(files)
        self._input = -1 if self._files else sys.stdin.fileno() if sys.stdin else -1
        self._at_end = self._input < 0 and not self._files
        self._saved_mode: list[Any] | None = None
        self._saved_handlers: dict[int, Any] = {}
        self._wake_read = self._wake_write = -1
        self._saved_wakeup = -1
        self._size: tuple[int, int] | None = None

    @property
    def at_end(self) -> bool:
        return self._at_end

    @property
    def stop_wanted(self) -> bool:
        return self._stop

    @property
    def is_raw(self) -> bool:
        return self._saved_mode is not None

    @property
    def size(self) -> tuple[int, int] | None:
        """Columns and rows of the terminal that we write to; None: it is none."""
        return self._size

    def read(self, size_max: int, wait_s: float, wake_fd: int = -1) -> bytes:
        """See `ftvm.host.solo.Console`. A signal ends the wait."""
        if self._input < 0 and self._files:
            self._open_next()
        watched = [fd for fd in (self._wake_read, wake_fd, -1 if self._at_end else self._input) if fd >= 0]
        ready, _, _ = select.select(watched, [], [], wait_s)
        if self._wake_read in ready:
            os.read(self._wake_read, READ_SIZE_MAX)
        if self._at_end or self._input not in ready:
            return b""
        try:
            typed = os.read(self._input, min(size_max, READ_SIZE_MAX))
        except OSError:
            # A terminal that was hung up says EIO: nobody is there to type.
            typed = b""
        if not typed:
            self._end_of_file()
            return b""
        if self.is_raw and self._escape >= 0 and self._escape in typed:
            self._stop = True
            return typed[: typed.index(self._escape)]
        return typed

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._stop:
            try:
                view = view[os.write(1, view) :]
            except BlockingIOError:
                select.select([self._wake_read], [1], [])
            except BrokenPipeError:
                # Whoever read our output has seen enough.
                self._stop = True
            except OSError as error:
                raise FtvmError(f"standard output: {error.strerror}; send it somewhere else") from None

    def _open_next(self) -> None:
        path = self._files.popleft()
        try:
            self._input = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise FtvmError(f"{path}: cannot be read: {error.strerror}; give a file to type from") from None

    def _end_of_file(self) -> None:
        if self._input > 2:
            os.close(self._input)
            self._input = -1
        if not self._files:
            self._at_end = True

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._saved_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            self._saved_handlers[number] = signal.signal(number, self._on_signal)
        self._saved_handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._on_resize)
        self._measure()
        if self._input >= 0 and os.isatty(self._input):
            self._make_raw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saved_mode is not None:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._saved_mode)
            self._saved_mode = None
        for number, handler in self._saved_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._saved_wakeup)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop = True
        self.stop_signal = number

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        self._measure()

    def _measure(self) -> None:
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:
            return
        if columns > 0 and rows > 0:  # a terminal that nobody measured says 0 by 0
            self._size = columns, rows

    def _make_raw(self) -> None:
        """Every key goes to the guest at once. Output is left alone, so that a bare newline still returns."""
        self._saved_mode = termios.tcgetattr(self._input)
        mode = termios.tcgetattr(self._input)
        mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._input, termios.TCSADRAIN, mode)
