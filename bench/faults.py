"""One closed-loop writer, one fault, and the books afterwards: the same for every system that is measured.

The writer has one operation under way at a time, each with a token that occurs nowhere else. A system answers (then
the operation is *acknowledged*) or its client gives up (then nobody knows, and the writer goes on with another
token). At the end all tokens are read back. An acknowledged token that is not there is *lost*; any token that is
there more than once is *doubled*.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import trio

from bench.hosts import Loopback, Network
from ftvm.errors import FtvmError

VALUE_SIZE = 64
"""Bytes that one operation writes, token included."""

RETRY_S = 0.005
SURVIVAL_TIMEOUT_S = 60.0
ISOLATED_S = 3.0
"""So long a leader stays cut off: a client that it still serves must have time to notice, or not to."""

NS_PER_MS = 1_000_000

CUTS = ("partition", "isolation")
KINDS = ("sigkill", "sigstop", "hand-over", *CUTS)
"""How the leader is lost: killed; stopped (silent, not dead); asked to hand over; cut off from everybody; cut off
from its peers, while clients still reach it."""


class NotWritten(Exception):
    """No acknowledgement: nobody knows whether the operation took place."""


class Service(Protocol):
    """A client of the system."""

    async def write(self, number: int, value: bytes) -> None:
        """Raises `NotWritten`."""

    async def tokens(self) -> Counter[bytes]:
        """How often each value of this run is there."""

    async def clear(self) -> None: ...


class Cluster(Protocol):
    """A running system. After `heal` it is as redundant as it was before `strike`."""

    service: Service

    async def strike(self, kind: str) -> int:
        """Take the leader away; returns when (monotonic ns)."""

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        """What the system itself says of the failover, in ms."""

    async def heal(self, kind: str) -> dict[str, float | None]:
        """Bring back what was lost, and wait until all is redundant. Returns further details."""


class System(Protocol):
    """How a cluster is set up, and what it can be struck with."""

    name: str
    kinds: Sequence[str]
    hosts: Sequence[str]

    def obstacle(self) -> str:
        """Why it cannot be measured here; "" if it can."""

    def settings(self) -> dict[str, Any]:
        """Versions, timeouts: what a figure of it depends on."""

    def open(self, where: Network | Loopback) -> AbstractAsyncContextManager[Cluster]: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and what the client saw of it. Times in ms."""

    system: str
    kind: str
    gap_ms: float
    """The longest silence after the fault: counted from the fault, or from the last answer if that came later."""
    pause_ms: float
    """The same from the last answer in any case."""
    healed_ms: float
    """From the begin of healing (the lost process is started, woken, connected) until all is redundant again."""
    heal_pause_ms: float
    """The longest time between two answers meanwhile."""
    acknowledged: int
    unknown: int
    lost: int
    doubled: int
    details: dict[str, float | None]


@dataclass(slots=True)
class Writer:
    service: Service
    run_id: str
    values: dict[int, bytes] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    answered_ns: list[int] = field(default_factory=list)
    _progress: trio.Event = field(default_factory=trio.Event)

    async def run(self, stop: trio.Event) -> None:
        while not stop.is_set():
            number = len(self.values)
            value = f"{self.run_id}.{number}.".encode().ljust(VALUE_SIZE - 1, b"x") + b";"
            self.values[number] = value
            try:
                await self.service.write(number, value)
            except NotWritten:
                await trio.sleep(RETRY_S)
                continue
            self.answered_ns.append(time.monotonic_ns())
            self.acknowledged.append(number)
            self._progress.set()

    async def more(self, count: int, what: str) -> None:
        """Wait for so many more acknowledgements."""
        wanted = len(self.acknowledged) + count
        with trio.move_on_after(SURVIVAL_TIMEOUT_S):
            while len(self.acknowledged) < wanted:
                self._progress = trio.Event()
                await self._progress.wait()
            return
        raise FtvmError(f"no {count} answers within {SURVIVAL_TIMEOUT_S:g} s {what}")

    def longest_silence(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """(its start, its end): the longest time between two answers, of those that end in the interval."""
        pairs = [(one, two) for one, two in pairwise(self.answered_ns) if start_ns < two <= end_ns]
        return max(pairs, key=lambda pair: pair[1] - pair[0], default=(0, 0))


async def measure(system: str, cluster: Cluster, kind: str, run_id: str, operations: int) -> Fault:
    """Load, strike, load on, heal, audit."""
    await cluster.service.clear()
    writer = Writer(cluster.service, run_id)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run, stop)
        await writer.more(operations, "before the fault")
        struck_ns = await cluster.strike(kind)
        if kind == "isolation":
            await trio.sleep(ISOLATED_S)
        await writer.more(operations, f"after {kind}")
        details = await cluster.details(struck_ns, writer.answered_ns)
        healing_ns = time.monotonic_ns()
        details |= await cluster.heal(kind)
        healed_ns = time.monotonic_ns()
        await writer.more(operations // 2, "after healing")
        stop.set()
    tokens = await cluster.service.tokens()
    silence = writer.longest_silence(struck_ns, healing_ns)
    heal_silence = writer.longest_silence(healing_ns, healed_ns)
    return Fault(
        system=system,
        kind=kind,
        gap_ms=(silence[1] - max(silence[0], struck_ns)) / NS_PER_MS,
        pause_ms=(silence[1] - silence[0]) / NS_PER_MS,
        healed_ms=(healed_ns - healing_ns) / NS_PER_MS,
        heal_pause_ms=(heal_silence[1] - heal_silence[0]) / NS_PER_MS,
        acknowledged=len(writer.acknowledged),
        unknown=len(writer.values) - len(writer.acknowledged),
        lost=sum(not tokens[writer.values[number]] for number in writer.acknowledged),
        doubled=sum(max(0, tokens[value] - 1) for value in writer.values.values()),
        details=details,
    )
