"""Clients under load from a host of their own. Every operation is written down, also the one that was cut off."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import trio

from ftvm.demo.resp import RespClient, RespError, encode_command
from tests.campaign.history import Op, Operation
from tests.namespaces import Host

CLIENTS = 4
TURN_MAX = 40
"""Operations of one connection: the edge serves one client at a time, the others queue, each with its first operation
already sent; so operations of different clients overlap."""

CUT_SHARE = 0.1
"""Of the turns end with an operation whose client goes away without waiting for its answer."""

RECONNECT_S = 0.02
REGISTERS, LISTS, COUNTERS = ("r0", "r1", "r2"), ("l0", "l1"), ("n0", "n1")
REGISTER_OPS = (Op.SET, Op.GET, Op.GET, Op.APPEND, Op.DEL)
AUDITOR = CLIENTS


class Connection(RespClient):
    """A client that can also speak without listening."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.send = stream.send_all


class Load:
    """One round's clients. `prefix` makes the round's keys its own."""

    def __init__(self, host: Host, address: tuple[str, int], prefix: str, chance: random.Random) -> None:
        self._host = host
        self._address = address
        self._prefix = prefix
        self._chance = chance
        self._sequence = 0
        self._progress = trio.Event()
        self.history: list[Operation] = []
        self.answered_ns: list[int] = []
        self.surprises: list[str] = []
        self.ended = trio.Event()
        self._may_speak = trio.Event()
        self._may_speak.set()
        self._under_way = 0
        self.steady = False
        """While set nobody leaves by itself: what a change of clients costs is no part of what a fault costs."""

    async def run(self, stop: trio.Event) -> None:
        """Until `stop` is set; operations under way are finished first."""
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self._client, client, stop)
        self.ended.set()

    async def hush(self) -> None:
        """No new operations until `speak`, and nobody connected; returns when none is under way any more."""
        self._may_speak = trio.Event()
        self.steady = False
        while self._under_way:
            self._progress = trio.Event()
            await self._progress.wait()

    def speak(self) -> None:
        self._may_speak.set()

    async def answers(self, count: int, since: int | None = None) -> None:
        """Wait for so many more answers, from now on or from the `since`-th."""
        target = (len(self.answered_ns) if since is None else since) + count
        while len(self.answered_ns) < target:
            self._progress = trio.Event()
            await self._progress.wait()

    async def audit(self) -> dict[str, bytes | None]:
        """Read every key of the round once more, as part of the history, and then remove it."""
        values: dict[str, bytes | None] = {}
        async with self._connected() as client:
            for name in (*REGISTERS, *LISTS, *COUNTERS):
                key = self.key(name)
                await self._operate(client, AUDITOR, Op.GET, key, b"")
                answer = self.history[-1].answer
                values[name] = answer if isinstance(answer, bytes) else None
                await self._operate(client, AUDITOR, Op.DEL, key, b"")
        return values

    async def count_round(self) -> int:
        """INCR of the one key that lives through all rounds: its value."""
        async with self._connected() as client:
            answer = await client.call("INCR", "rounds")
        assert isinstance(answer, int)
        return answer

    def key(self, name: str) -> str:
        return f"{self._prefix}:{name}"

    async def _client(self, number: int, stop: trio.Event) -> None:
        while not stop.is_set():
            await self._may_speak.wait()
            try:
                async with self._connected() as client:
                    await self._turn(client, number, stop)
            except (OSError, trio.BrokenResourceError):
                await trio.sleep(RECONNECT_S)

    async def _turn(self, client: Connection, number: int, stop: trio.Event) -> None:
        left = self._chance.randint(1, TURN_MAX)
        while left > 0 or self.steady:
            op, name, value = self._choose()
            await self._operate(client, number, op, self.key(name), value)
            left -= 1
            if stop.is_set() or not self._may_speak.is_set():
                return
        if self._chance.random() < CUT_SHARE:
            op, name, value = self._choose()
            await self._cut(number, op, self.key(name), value, client)

    def _choose(self) -> tuple[Op, str, bytes]:
        kind = self._chance.random()
        token = self._sequence = self._sequence + 1
        if kind < 0.3:
            return Op.APPEND, self._chance.choice(LISTS), b"%d;" % token
        if kind < 0.6:
            return Op.INCR, self._chance.choice(COUNTERS), b""
        op = self._chance.choice(REGISTER_OPS)
        return op, self._chance.choice(REGISTERS), b"%d." % token if op in (Op.SET, Op.APPEND) else b""

    async def _operate(self, client: Connection, number: int, op: Op, key: str, value: bytes) -> None:
        operation = Operation(number, op, key, value, time.monotonic_ns())
        self._under_way += 1
        try:
            answer = await client.call(*_words(operation))
            operation = operation.answered(answer if not isinstance(answer, list) else None, time.monotonic_ns())
            self.answered_ns.append(operation.returned_ns or 0)
        except RespError as error:
            self.surprises.append(f"{operation}: {error}")
        finally:
            self._under_way -= 1
            self.history.append(operation)
            self._progress.set()

    async def _cut(self, number: int, op: Op, key: str, value: bytes, client: Connection) -> None:
        """Send it, and be gone: nobody knows whether it takes effect."""
        operation = Operation(number, op, key, value, time.monotonic_ns())
        self.history.append(operation)
        await client.send(encode_command(*_words(operation)))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        raw = trio.socket.from_stdlib_socket(self._host.socket(socket.AF_INET, socket.SOCK_STREAM))
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Leaving is a reset: what was sent and not answered is cut off.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await raw.connect(self._address)
            yield Connection(trio.SocketStream(raw))
        finally:
            raw.close()


def _words(operation: Operation) -> tuple[str | bytes, ...]:
    words: tuple[str | bytes, ...] = (operation.op.name, operation.key)
    return (*words, operation.value) if operation.value else words


def longest_gap_ns(answered_ns: list[int], begin_ns: int, end_ns: int) -> int:
    """The longest time without an answer between the last one before `begin_ns` and the first one after `end_ns`."""
    before = max((time_ns for time_ns in answered_ns if time_ns <= begin_ns), default=begin_ns)
    within = [time_ns for time_ns in answered_ns if begin_ns < time_ns <= end_ns]
    after = min((time_ns for time_ns in answered_ns if time_ns > end_ns), default=None)
    moments = [before, *within] if after is None else [before, *within, after]
    return max((later - earlier for earlier, later in pairwise(moments)), default=0)
