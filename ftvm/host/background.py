"""Long work that nobody waits for: in a thread of its own, which gets what the machine and the loop leave of the CPU.

A worker of `trio.to_thread` will not do: a thread cannot raise its priority again, and the pool keeps it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

import trio

NICENESS = 5
"""A quarter of a core where busy guests take all of them. With the most that there is, seconds become minutes."""

T = TypeVar("T")


async def run_in_background(work: Callable[[], T]) -> T:
    """What `work()` returns or raises. It must end soon when it is not wanted: a cancellation waits for it."""
    result: Future[T] = Future()
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def body() -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    threading.Thread(target=body, name="ftvm-background", daemon=True).start()
    with trio.CancelScope(shield=True):
        await done.wait()
    return result.result()
