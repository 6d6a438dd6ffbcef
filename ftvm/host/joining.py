"""A machine that arrives: what this node has of an older one, what comes of the new one, and whether it is whole.

What is here already need not come: the memory of the machine that ran in this process before (a node that was frozen
and starts over, a copy that broke off), or, in a process that has just started, that of the snapshot at the start of
its own log. Whatever it is, its pages are overwritten with those that differ, in place; nothing else of it is used, and
what results is run only if its digest is the primary's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from ftvm.errors import LogError, SnapshotError
from ftvm.host.guest import Guest
from ftvm.host.node_statistics import Reprotection
from ftvm.host.welcome import MachineIdentity
from ftvm.log.file import LogReader
from ftvm.machine.machine import Machine
from ftvm.machine.transfer import CopyDiffers, Incoming, page_hashes

NS_PER_S = 1_000_000_000

Frozen = Callable[[Callable[[], bool]], bytes]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A whole machine. `frozen`, if it was asked for, makes its snapshot (see `Machine.freeze`)."""

    machine: Machine
    frozen: Frozen | None
    reprotection: Reprotection


class Joining:
    """Joins of one node, one after the other. `log` is its own, of an earlier process, if there is one."""

    def __init__(self, guest: Guest, identity: MachineIdentity, log: Path | None) -> None:
        self._guest = guest
        self._identity = identity
        self._log = log
        self._older: Machine | None = None
        self._incoming: Incoming | None = None
        self._busy = trio.Lock()
        self._began_ns = 0
        self.distrusts_itself = False
        """What this node had was not what it said: from here on all of a machine is to come."""

    def keep(self, machine: Machine) -> None:
        """This machine is not run any more: its memory may spare the sending of the next one's."""
        self._older = machine

    async def inventory(self) -> bytes:
        """For the primary: hashes of what is here. What `collect` takes comes after."""
        self._began_ns = time.monotonic_ns()
        async with self._busy:
            machine, hashes = await trio.to_thread.run_sync(self._prepare)
            self._older = machine
            self._incoming = Incoming(machine)
        return hashes

    def _prepare(self) -> tuple[Machine, bytes]:
        machine = None if self.distrusts_itself else self._older or self._of_log()
        if machine is None:
            machine = self._guest.power_on()
            machine.wipe()
        return machine, page_hashes(machine)

    def _of_log(self) -> Machine | None:
        if self._log is None or not self._log.exists():
            return None
        try:
            with LogReader(self._log) as reader:
                machine = Machine.restore(reader.snapshot(), self._guest.disks)
        except (LogError, SnapshotError):
            return None
        fits = MachineIdentity(machine.config_hash, machine.image_hash) == self._identity
        return machine if fits else None

    def collect(self, chunk: bytes) -> None:
        """Raises SnapshotError."""
        if self._incoming is None:
            raise SnapshotError("a part of a machine that nobody asked for")
        self._incoming.collect(chunk)

    async def complete(self, record: bytes, *, freeze: bool) -> Arrival:
        """The machine that all that was collected and `record` make. Raises SnapshotError."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            raise SnapshotError("the end of a machine that nobody asked for")
        async with self._busy:
            try:
                return await trio.to_thread.run_sync(self._complete, incoming, record, freeze)
            except CopyDiffers:
                self.distrusts_itself = True
                raise

    def _complete(self, incoming: Incoming, record: bytes, freeze: bool) -> Arrival:
        statistics = incoming.finish(record)
        frozen = incoming.machine.freeze() if freeze else None
        seconds = (time.monotonic_ns() - self._began_ns) / NS_PER_S
        return Arrival(incoming.machine, frozen, Reprotection.of(statistics, sent=False, seconds=seconds))

    def installed(self) -> None:
        """The machine that arrived is run now: it is no older one any more."""
        self._older = None
        self.distrusts_itself = False
