"""What a machine room is asked to do, and whom it serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ftvm.errors import ExitCode
from ftvm.replication import effects
from ftvm.replication.node import Node

MachineEffect = (
    effects.RestoreSnapshot
    | effects.BootMachine
    | effects.ReplayLog
    | effects.WriteStamp
    | effects.Apply
    | effects.GoLive
    | effects.Throttle
    | effects.Quiesce
    | effects.TakeInventory
    | effects.CopyMachine
    | effects.CancelCopy
    | effects.CollectSnapshot
    | effects.InjectInput
    | effects.InjectControl
    | effects.InjectResize
)


class RoomOwner(Protocol):
    """The node, as its machine room sees it."""

    @property
    def core(self) -> Node: ...
    def tell(self, core: Node, event: Callable[[int], list[effects.Effect]]) -> None:
        """Pass an event on to `core`, unless that life is over."""

    def note(self, text: str) -> None: ...
    async def wait_queue(self, session: int, size_max: int) -> None:
        """Until no more than that waits to be sent to this peer, or the session is over."""

    def went_live(self) -> None: ...
    def stop(self, line: str, code: ExitCode) -> None: ...
