"""Processes that can be paused and can die."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.faults import Strike


class Process:
    """Something that can be paused and can die. What happens to it while paused, happens when it resumes."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.incarnation = 0
        self.alive = False
        self.paused = False
        self.resumed_ns = -(1 << 62)
        """When it was last resumed."""
        self.carried_out = 0
        """Effects, over all lives."""
        self._doom_at = -1
        self._doom: tuple[Callable[[], None], Strike | None] | None = None
        self._missed: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque()

    def deliver(self, incarnation: int, call: Callable[..., None], *arguments: object) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.paused:
            self._missed.append((incarnation, call, arguments))
        else:
            call(*arguments)

    def doom(self, effects: int, action: Callable[[], None] | None, strike: Strike | None = None) -> None:
        """`action` befalls it once it has carried out so many effects more, whatever event they belong to."""
        self._doom_at = self.carried_out + effects if action else -1
        self._doom = (action, strike) if action else None

    def _meet_doom(self) -> None:
        assert self._doom is not None
        action, strike = self._doom
        self.doom(0, None)
        if strike is not None:
            strike.felt()
        action()

    def pause(self) -> None:
        self.cluster.trace(f"{self.name} is paused")
        self.paused = True

    def resume(self) -> None:
        self.cluster.trace(f"{self.name} resumes")
        self.paused = False
        self.resumed_ns = self.cluster.clock.now_ns
        while self._missed and not self.paused:
            incarnation, call, arguments = self._missed.popleft()
            self.deliver(incarnation, call, *arguments)
