"""Keeping overlays up to date with a machine: at once for a machine that runs alone, in the background for a node's.

A machine that runs alone is all that has its disks: a flush is done before the guest goes on. A node's machine runs
elsewhere, too, so its guest waits for no disk: at a flush all that it has written is taken at once, as of that tick,
and a thread of its own writes it. What is taken next comes after, so the file is always some flushed state and a part
of what was written after it, as a disk with a write cache leaves it. While the thread is busy, what the guest writes
stays with the machine, whose memory it is in anyhow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ftvm.host.disk import DiskError, DiskImage
from ftvm.host.overlay import Overlay, Write, open_overlay
from ftvm.machine.machine import Machine

KEEP_INTERVAL_NS = 5_000_000_000
"""A guest that asks for no flush has its overlays brought up to date as often as this."""

Taken = list[list[Write]]
"""What was written, for each disk of the board."""


class Overlays:
    """Of all disks of one machine; None for a disk that keeps nothing: it is read-only, or what is written to it is
    thrown away. Every method raises `DiskError`."""

    def __init__(self, overlays: Sequence[Overlay | None]) -> None:
        self._overlays = tuple(overlays)

    def preload(self, machine: Machine) -> None:
        """The disks are as an earlier run left them. Before the first tick."""
        for number, overlay in enumerate(self._overlays):
            for offset, data in () if overlay is None else overlay.read():
                machine.preload_disk(number, offset, data)

    def take(self, machine: Machine) -> Taken:
        """What the guest has written since the last call."""
        return [
            [] if overlay is None else machine.take_disk_writes(number) for number, overlay in enumerate(self._overlays)
        ]

    def begin(self) -> None:
        """What is put next is all that another machine has written."""
        for overlay in self._overlays:
            if overlay is not None:
                overlay.begin()

    def put(self, taken: Taken, *, generation: int, tick: int, is_clean: bool) -> None:
        """All of it lasts when this returns."""
        for overlay, writes in zip(self._overlays, taken, strict=True):
            if overlay is not None:
                overlay.write(writes)
                overlay.flush(replace(overlay.stamp, generation=generation, tick=tick, is_clean=is_clean))

    def keep(self, machine: Machine) -> None:
        """All that the guest has written lasts when this returns."""
        self.put(self.take(machine), generation=0, tick=machine.tick, is_clean=machine.halt is not None)

    @property
    def written(self) -> list[Overlay]:
        return [overlay for overlay in self._overlays if overlay is not None]

    @property
    def blocks(self) -> list[int]:
        """How many blocks each holds."""
        return [overlay.blocks for overlay in self.written]

    def close(self) -> None:
        for overlay in self._overlays:
            if overlay is not None:
                overlay.close()


def open_overlays(paths: Sequence[Path | None], images: Sequence[DiskImage], machine: str) -> Overlays:
    """All or none. None for a disk that shall have none."""
    opened: list[Overlay | None] = []
    try:
        for path, image in zip(paths, images, strict=True):
            opened.append(None if path is None else open_overlay(path, image.config, machine))
    except BaseException:
        Overlays(opened).close()
        raise
    return Overlays(opened)


class OverlayWriter:
    """Writes overlays in a thread of its own. `put` is for who owns the machine. Trouble is kept, and ends the writing:
    the machine goes on."""

    def __init__(self, overlays: Overlays) -> None:
        self._overlays = overlays
        self.done: Callable[[], None] = lambda: None
        """Called from the thread when it has nothing left to do."""
        self._machine: Machine | None = None
        self._given: tuple[Taken, bool, int, int, bool] | None = None
        self._condition = threading.Condition()
        self._busy = False
        self._closing = False
        self.generation = 0
        """For the stamps of what is put from now on."""
        self.trouble = ""
        self.written_tick = 0
        """The overlays are as the machine was at this tick."""
        self._thread = threading.Thread(target=self._run, name="ftvm-overlays", daemon=True)
        self._thread.start()

    def begin_with(self, machine: Machine) -> None:
        """This one has the overlays' contents: they go on. Any other machine's come anew."""
        self._machine = machine

    @property
    def is_busy(self) -> bool:
        return self._busy

    def put(self, machine: Machine, *, is_clean: bool = False) -> None:
        """Have written what this machine's guest has written to its disks. Only while it is not busy."""
        if self.trouble:
            return
        assert not self._busy
        is_other, self._machine = machine is not self._machine, machine
        taken = self._overlays.take(machine)
        if not (is_other or is_clean or any(taken)):
            return
        with self._condition:
            self._busy = True
            self._given = (taken, is_other, self.generation, machine.tick, is_clean)
            self._condition.notify_all()

    def wait_idle(self) -> None:
        """Blocks until everything that was put is written, or has failed."""
        with self._condition:
            self._condition.wait_for(lambda: not self._busy)

    def close(self) -> None:
        """Blocks as `wait_idle`; then the overlays are closed."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join()
        self._overlays.close()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._busy or self._closing)
                given, self._given = self._given, None
            if given is None:
                return
            try:
                self._write(*given)
            except DiskError as error:
                self.trouble = str(error)
            except Exception as error:  # whatever it is, nobody must wait for this thread for ever
                self.trouble = f"the overlays cannot be written: {error!r}"
            with self._condition:
                self._busy = False
                self._condition.notify_all()
            self.done()

    def _write(self, taken: Taken, is_other: bool, generation: int, tick: int, is_clean: bool) -> None:
        if is_other:
            self._overlays.begin()
        self._overlays.put(taken, generation=generation, tick=tick, is_clean=is_clean)
        self.written_tick = tick


class DiskDuty:
    """When a machine that is run hands over what its guest wrote to its disks. For who owns the machine."""

    def __init__(self, machine: Machine, writer: OverlayWriter | None) -> None:
        self._machine = machine
        self._writer = writer
        self._flush_wanted = False
        self._keep_ns = time.monotonic_ns() + KEEP_INTERVAL_NS
        self.is_due = False
        """`keep` should be called by somebody who has the time for it."""

    def look(self, *, lent: bool) -> None:
        """After each slice. `lent`: there is no time for more than a look."""
        if self._writer is None:
            return
        self._flush_wanted = self._machine.take_flush() or self._flush_wanted
        self.is_due = self._flush_wanted or time.monotonic_ns() >= self._keep_ns
        if self.is_due and not lent:
            self.keep()

    def keep(self) -> None:
        """Hand over what was written, if that is due. While the last is still being written, it stays due."""
        if self._writer is not None and self.is_due and not self._writer.is_busy:
            self.is_due = self._flush_wanted = False
            self._keep_ns = time.monotonic_ns() + KEEP_INTERVAL_NS
            self._writer.put(self._machine)
