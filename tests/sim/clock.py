"""The simulator's time and chance: one queue of events, one seeded source of randomness."""

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

MS = 1_000_000


class Clockwork:
    """`events` counts what happened, `now_ns` is the world's own time, which no host knows."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ns = 0
        self.events = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, due_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        now_ns = self.now_ns
        heapq.heappush(self._queue, (due_ns if due_ns > now_ns else now_ns, self._count, call, arguments))

    def after(self, delay_ns: int, call: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self._count, call, arguments))

    def run(self, end_ns: int, events_max: int, done: Callable[[], bool] | None = None) -> bool:
        """Until the time, or until `done` (looked at every 32 events). Returns whether it is done.

        Raises OverflowError if that needs more than `events_max` events, counted from the beginning.
        """
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] < end_ns:
            if done is not None and not self.events & 31 and done():
                return True
            self.now_ns, _, call, arguments = pop(queue)
            self.events += 1
            if self.events > events_max:
                raise OverflowError
            call(*arguments)
        if done is not None and done():
            return True
        self.now_ns = max(self.now_ns, end_ns)
        return False
