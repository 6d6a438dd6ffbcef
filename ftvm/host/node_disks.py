"""A node's disks: overlays in a folder of its own, each with a stamp that says up to which generation it was kept.

A machine that arrives from elsewhere, or from the log, brings its disks along. Only a cold start begins with what lies
in the folder, and that has to be what the machine left when it was powered off: a node that was dead or a shadow of old
at that moment has an older state, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from ftvm.config import Config
from ftvm.errors import FtvmError
from ftvm.host import logs
from ftvm.host.disk import DiskError
from ftvm.host.disk_keeping import Overlays, OverlayWriter, open_overlays
from ftvm.host.guest import Guest
from ftvm.machine.machine import Machine
from ftvm.replication.messages import Ledger

_log = logs.get_logger("disks")


class NodeDisks:
    """For the trio thread. `writer` is for the engine's; None: the board has no disk that is written."""

    def __init__(self, overlays: Overlays | None, disks: int) -> None:
        self._overlays = overlays
        self._disks = disks
        self._loaded: Machine | None = None
        self._told = ""
        self._closed = False
        self.writer = None if overlays is None else OverlayWriter(overlays)

    async def load(self, machine: Machine, ledger: Ledger, *, force: bool) -> None:
        """Give a machine that may be started cold what the last run left on its disks. Raises `DiskError` when that is
        not what the machine was powered off with."""
        is_cold = force or ledger.off or ledger.last_activated == 0
        if self._overlays is None or not is_cold:
            return
        if not force:
            self._check(self._overlays, ledger)
        await trio.to_thread.run_sync(self._overlays.preload, machine)
        self._loaded = machine

    @staticmethod
    def _check(overlays: Overlays, ledger: Ledger) -> None:
        for overlay in overlays.written:
            stamp = None if overlay.is_new else overlay.stamp
            if ledger.last_activated == 0 or (stamp and stamp.generation >= ledger.last_activated and stamp.is_clean):
                continue
            if stamp is None:
                what = "there is none, and the machine has run before"
            elif stamp.generation < ledger.last_activated:
                what = f"stale: it was kept up to generation {stamp.generation} of {ledger.last_activated}"
            else:
                what = f"kept up to tick {stamp.tick} only: this node was not there when the machine was powered off"
            raise DiskError(
                f"{overlay.path}: {what}; start a node that was live or a shadow then, or `--force` begins with it"
            )

    def booted(self, machine: Machine) -> None:
        """This machine is started cold. Raises `DiskError` if it lacks what is on its disks."""
        if self.writer is None:
            return
        if self._loaded is not machine:
            raise DiskError("the machine was powered off while this node started: start it again")
        self.writer.begin_with(machine)

    def tend(self, generation: int) -> None:
        """From time to time."""
        if self.writer is None:
            return
        self.writer.generation = generation
        if self.writer.trouble != self._told:
            self._told = self.writer.trouble
            _log.error("the overlays end here, the machine goes on", why=self._told)

    def on_written(self, tell: Callable[[], None]) -> None:
        """`tell` is called, from any thread, when the overlays are up to date with what was taken last."""
        if self.writer is not None:
            self.writer.done = tell

    async def aclose(self, machine: Machine | None) -> None:
        """All that the guest of `machine` has written is written out first, and then the overlays are closed. For that
        to be everything, nobody may run it any more."""
        writer = self.writer
        if writer is None or self._closed:
            return
        self._closed = True

        def finish() -> None:
            writer.wait_idle()
            if machine is not None:
                writer.put(machine, is_clean=machine.halt is not None)
            writer.close()

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(finish)
        self.tend(writer.generation)

    def describe(self) -> dict[str, Any]:
        """For `ftvm status`. `blocks`: how many each overlay holds, as of `written_tick`."""
        writer = self.writer
        return {
            "count": self._disks,
            "blocks": [] if self._overlays is None else self._overlays.blocks,
            "written_tick": None if writer is None else writer.written_tick,
            "trouble": "" if writer is None else writer.trouble,
        }


def open_node_disks(config: Config, node: str, guest: Guest) -> NodeDisks:
    """Opens and locks the overlays in the node's folder, and makes what is lacking. Raises `DiskError`."""
    if all(disk.read_only for disk in config.machine.disks):
        return NodeDisks(None, len(guest.disks))
    folder = config.node(node).disks
    if folder is None:
        raise FtvmError(f"[nodes.{node}] disks: missing; give a folder for what the guest writes to its disks")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: {error.strerror}; set [nodes.{node}] disks to a folder of its own") from None
    paths: list[Path | None] = [
        None if disk.read_only else folder / f"disk{number}.overlay" for number, disk in enumerate(config.machine.disks)
    ]
    return NodeDisks(open_overlays(paths, guest.disks, config.machine.name), len(guest.disks))
