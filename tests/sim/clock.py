"""The simulator's time and chance: one queue of events, one seeded source of randomness."""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any


class Clockwork:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ns = 0
        self.events = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, due_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (max(due_ns, self.now_ns), self._count, call, arguments))

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_ns + delay_ns, call, *arguments)

    def step(self) -> bool:
        if not self._queue:
            return False
        self.now_ns, _, call, arguments = heapq.heappop(self._queue)
        self.events += 1
        call(*arguments)
        return True
