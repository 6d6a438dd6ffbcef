"""Load with an audit: unique tokens, so that one lost or doubled operation cannot hide.

Each operation is either an APPEND of a token that occurs nowhere else, or an INCR. Redis answers an APPEND with the
new length and an INCR with the new value, so the client knows at once what each reply must be; at the end every
list is read back and every token counted.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import trio

from ftvm.demo.resp import RespClient

KEYS = 64
TOKENS_PER_KEY_MAX = 4096
NS_PER_MS = 1_000_000


@dataclass(slots=True)
class Ledger:
    """What the server acknowledged, as the client remembers it."""

    tokens: dict[str, list[str]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    surprises: list[str] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    answered_ns: list[int] = field(default_factory=list)

    def longest_gap(self) -> tuple[int, int]:
        """(gap, when it ended), both ns: the longest time between two answers."""
        times = self.answered_ns
        return max(((later - earlier, later) for earlier, later in pairwise(times)), default=(0, 0))


@dataclass(frozen=True, slots=True)
class Audit:
    """The books compared: how many acknowledged operations are missing, and how many are there twice."""

    acknowledged: int
    lost: int
    duplicated: int
    surprises: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.surprises)


class Loader:
    """Drives one client. Other tasks may look at `ledger`, and one may wait for `acknowledged`."""

    def __init__(self, client: RespClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._sequence = 0
        self._progress = trio.Event()
        self.ledger = Ledger()

    async def run(self, stop: trio.Event) -> None:
        """Operate until `stop` is set; the operation under way is finished first."""
        while not stop.is_set():
            await self.operate()

    async def acknowledged(self, count: int) -> None:
        """Wait until so many operations are acknowledged."""
        while self.ledger.acknowledged < count:
            self._progress = trio.Event()
            await self._progress.wait()

    async def operate(self) -> None:
        number = self._sequence
        self._sequence += 1
        started_ns = time.monotonic_ns()
        if number % 2:
            await self._increment(f"{self._run_id}:n{number % KEYS}")
        else:
            await self._append(f"{self._run_id}:s{number % KEYS}", f"{self._run_id}.{number};")
        now_ns = time.monotonic_ns()
        self.ledger.acknowledged += 1
        self.ledger.latencies_ns.append(now_ns - started_ns)
        self.ledger.answered_ns.append(now_ns)
        self._progress.set()

    async def _append(self, key: str, token: str) -> None:
        ledger = self.ledger
        if len(ledger.tokens.get(key, ())) >= TOKENS_PER_KEY_MAX:
            await self._verify_key(key)
        expected = ledger.lengths.get(key, 0) + len(token)
        reply = await self._client.call("APPEND", key, token)
        ledger.tokens.setdefault(key, []).append(token)
        ledger.lengths[key] = expected
        if reply != expected:
            ledger.surprises.append(f"APPEND {key} answered {reply!r}, expected {expected}")

    async def _verify_key(self, key: str) -> None:
        """Read a full list back, compare it, and start it anew, so that no value grows without bound."""
        value = await self._client.call("GET", key)
        expected = "".join(self.ledger.tokens[key])
        if value != expected.encode():
            self.ledger.surprises.append(f"GET {key} differs from what was acknowledged")
        await self._client.call("DEL", key)
        self.ledger.tokens[key] = []
        self.ledger.lengths[key] = 0

    async def _increment(self, key: str) -> None:
        expected = self.ledger.counters.get(key, 0) + 1
        reply = await self._client.call("INCR", key)
        self.ledger.counters[key] = expected
        if reply != expected:
            self.ledger.surprises.append(f"INCR {key} answered {reply!r}, expected {expected}")

    async def audit(self) -> Audit:
        """Read everything back and compare it with the ledger."""
        lost = duplicated = 0
        for key, tokens in self.ledger.tokens.items():
            value = await self._client.call("GET", key)
            found = Counter((value.decode() if isinstance(value, bytes) else "").split(";")[:-1])
            for token in tokens:
                count = found[token.rstrip(";")]
                lost += count == 0
                duplicated += max(0, count - 1)
            known = {token.rstrip(";") for token in tokens}
            duplicated += sum(count for token, count in found.items() if token not in known)
        for key, expected in self.ledger.counters.items():
            value = await self._client.call("GET", key)
            actual = int(value) if isinstance(value, bytes) else 0
            lost += max(0, expected - actual)
            duplicated += max(0, actual - expected)
        return Audit(self.ledger.acknowledged, lost, duplicated, tuple(self.ledger.surprises))

