"""Servers of other systems as child processes, each on a host, and what is needed to drive them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from bench.hosts import Host
from ftvm.errors import FtvmError

START_TIMEOUT_S = 60.0
POLL_S = 0.02
TERMINATE_S = 3.0


class PeerFailed(FtvmError):
    """A server of a peer did not do what it should: no figure may come of it."""


class Processes:
    """By name. What a process says goes to NAME.out in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, host: Host, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                [*host.prefix, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def signal(self, name: str, number: signal.Signals) -> int:
        """Returns when (monotonic ns)."""
        now_ns = time.monotonic_ns()
        self._running[name].send_signal(number)
        return now_ns

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end; nothing if it has ended."""
        process = self._running[name]
        process.kill()
        await trio.to_thread.run_sync(process.wait)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(errors="replace")[-400:]

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def wait_until(is_so: Callable[[], Awaitable[bool]], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll. Raises `PeerFailed`."""
    with trio.move_on_after(timeout_s):
        while True:
            if await is_so():
                return
            await trio.sleep(POLL_S)
    raise PeerFailed(f"{what}: not within {timeout_s:g} s")


def missing(*tools: tuple[str, str]) -> str:
    """What to install, by (tool, Debian package); "" if all are there."""
    absent = [f"{tool} (Debian: apt install {package})" for tool, package in tools if shutil.which(tool) is None]
    return f"{', '.join(absent)} is not installed" if absent else ""
