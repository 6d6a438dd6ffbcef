"""Redis with one replica and three Sentinels: the peer whose replication is asynchronous.

Three hosts: master and a Sentinel, replica and a Sentinel, a Sentinel. The client does as the guidelines for Sentinel
clients say (https://redis.io/docs/latest/develop/reference/sentinel-clients/): it asks the Sentinels for the master,
checks its ROLE, keeps the connection, and asks again when an operation fails or is not answered within `ANSWER_S`.

Sentinel's detection timeout is 1.2 s, far below its default of 30 s. Lower ones were tried: it pings once a second at
most, or once in that timeout where that is shorter, beginning one such time after a failover. So with a timeout of up
to a second it takes the new master for dead, now and then, before it has pinged it, and fails over again to one that
knows less. An election is delayed by up to a second at random, which no setting changes.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bench.common import first_line
from bench.faults import KINDS, NotWritten
from bench.hosts import Loopback, Network
from bench.peer_processes import Processes, missing, wait_until
from ftvm.demo.resp import Reply, RespClient, RespError, open_resp
from ftvm.demo.system import free_ports

DOWN_AFTER_MS = 1200
FAILOVER_TIMEOUT_MS = 2000
"""Between two failovers of one master Sentinel lets twice as long pass."""

ANSWER_S = 0.2
ASK_S = 0.1
LISTS = 64
QUORUM = 2
ZOMBIE_S = 0.5
"""So long a stopped master runs again before it is replaced: a client could still be served by it."""

Address = tuple[str, int]
FAILURES = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, RespError)


async def _ask(address: Address, *words: str | int) -> Reply:
    """One command on a connection of its own. Raises one of FAILURES."""
    with trio.fail_after(ASK_S):
        async with open_resp(*address) as client:
            return await client.call(*words)


def _fields(reply: Reply) -> dict[str, str]:
    words = [word.decode() for word in reply if isinstance(word, bytes)] if isinstance(reply, list) else []
    return dict(zip(words[::2], words[1::2], strict=True))


class SentinelClient:
    """`Service` on a master that changes."""

    def __init__(self, sentinels: Sequence[Address]) -> None:
        self._sentinels = list(sentinels)
        self._stack = AsyncExitStack()
        self._client: RespClient | None = None

    async def write(self, number: int, value: bytes) -> None:
        try:
            client = self._client or await self._connect()
            with trio.fail_after(ANSWER_S):
                await client.call("APPEND", f"log:{number % LISTS}", value)
        except FAILURES as error:
            await self.close()
            raise NotWritten(str(error)) from None

    async def tokens(self) -> Counter[bytes]:
        found: Counter[bytes] = Counter()
        for number in range(LISTS):
            reply = await (self._client or await self._connect()).call("GET", f"log:{number}")
            if isinstance(reply, bytes):
                found.update(part + b";" for part in reply.split(b";")[:-1])
        return found

    async def clear(self) -> None:
        await (self._client or await self._connect()).call("FLUSHALL")

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    async def _connect(self) -> RespClient:
        address = await self.master()
        with trio.fail_after(ASK_S):
            client = await self._stack.enter_async_context(open_resp(*address))
            role = await client.call("ROLE")
        if not isinstance(role, list) or role[0] != b"master":
            raise OSError("it is not the master yet")
        self._client = client
        return client

    async def master(self) -> Address:
        """As the first Sentinel says that answers; who does not is asked last the next time."""
        for sentinel in tuple(self._sentinels):
            try:
                reply = await _ask(sentinel, "SENTINEL", "get-master-addr-by-name", "kv")
            except FAILURES:
                self._sentinels.remove(sentinel)
                self._sentinels.append(sentinel)
                continue
            if isinstance(reply, list) and isinstance(reply[0], bytes) and isinstance(reply[1], bytes):
                return reply[0].decode(), int(reply[1])
        raise OSError("no Sentinel knows a master")


class SentinelCluster:
    """`Cluster`. Processes redis-0 and redis-1 on the first two hosts, sentinel-0 to -2 on all three."""

    def __init__(self, folder: Path, where: Network | Loopback) -> None:
        self._where = where
        self._hosts = [where.host(name) for name in HOSTS]
        self._processes = Processes(folder)
        ports = free_ports(5)
        self._redis = [(host.address, port) for host, port in zip(self._hosts[:2], ports[:2], strict=True)]
        self._sentinels = [(host.address, port) for host, port in zip(self._hosts, ports[2:], strict=True)]
        self._leader = 0
        self._failed_over_at = 0.0
        self._epoch = 0
        self.service = SentinelClient(self._sentinels)

    async def start(self) -> None:
        self._start_redis(0)
        self._start_redis(1, follow=0)
        for number, (address, port) in enumerate(self._sentinels):
            path = self._processes.folder / f"sentinel-{number}.conf"
            master, master_port = self._redis[0]
            lines = (
                f"bind {address}",
                f"port {port}",
                f"dir {self._processes.folder}",
                f"sentinel monitor kv {master} {master_port} {QUORUM}",
                f"sentinel down-after-milliseconds kv {DOWN_AFTER_MS}",
                f"sentinel failover-timeout kv {FAILOVER_TIMEOUT_MS}",
            )
            path.write_text("\n".join(lines) + "\n")
            self._processes.start(f"sentinel-{number}", self._hosts[number], "redis-sentinel", str(path))
        await wait_until(self._redundant, "Sentinels that know master, replica and each other")

    def _start_redis(self, number: int, follow: int | None = None) -> None:
        address, port = self._redis[number]
        following = [] if follow is None else ["--replicaof", *map(str, self._redis[follow])]
        words = ["--bind", address, "--port", str(port), "--save", "", "--appendonly", "no", "--protected-mode", "no"]
        self._processes.start(f"redis-{number}", self._hosts[number], "redis-server", *words, *following)

    async def _redundant(self) -> bool:
        """Every Sentinel has the same master, a replica that follows it, and two other Sentinels. Which one is master
        may have changed unasked."""
        masters: set[Address] = set()
        for sentinel in self._sentinels:
            try:
                master = _fields(await _ask(sentinel, "SENTINEL", "master", "kv"))
                replicas = await _ask(sentinel, "SENTINEL", "slaves", "kv")
            except FAILURES:
                return False
            masters.add((master["ip"], int(master["port"])))
            if master["flags"] != "master":
                return False
            healthy = [_fields(one) for one in replicas] if isinstance(replicas, list) else []
            if [one for one in healthy if one["flags"] != "slave" or one["master-link-status"] != "ok"] or not healthy:
                return False
            if int(master["num-other-sentinels"]) != len(self._sentinels) - 1:
                return False
        if len(masters) == 1:
            self._leader = self._redis.index(masters.pop())
            return True
        return False

    async def strike(self, kind: str) -> int:
        await trio.sleep(max(0.0, self._failed_over_at + 2 * FAILOVER_TIMEOUT_MS / 1000 - trio.current_time()))
        self._failed_over_at = trio.current_time()
        name = f"redis-{self._leader}"
        match kind:
            case "sigkill":
                return self._processes.signal(name, signal.SIGKILL)
            case "sigstop":
                return self._processes.signal(name, signal.SIGSTOP)
            case _:
                assert isinstance(self._where, Network)
                cut = self._where.cut_off if kind == "partition" else self._where.isolate
                cut(HOSTS[self._leader])
                return time.monotonic_ns()

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        return {}

    async def heal(self, kind: str) -> dict[str, float | None]:
        """A killed master comes back as a replica, as an operator would start it; one that lived is let be found by
        the Sentinels for a while, and replaced then. Returns how many failovers there were."""
        old = self._leader
        await wait_until(self._failed_over, "a failover")
        if kind == "sigstop":
            self._processes.signal(f"redis-{old}", signal.SIGCONT)
        if isinstance(self._where, Network):
            self._where.mend()
        if kind != "sigkill":
            await trio.sleep(ZOMBIE_S)
        await self._processes.kill(f"redis-{old}")
        self._start_redis(old, follow=1 - old)
        await wait_until(self._redundant, "a replica after the failover")
        epoch, self._epoch = self._epoch, await self._failovers()
        return {"failovers": float(self._epoch - epoch)}

    async def _failovers(self) -> int:
        """How many there were of this master, ever: the number of its configuration."""
        return int(_fields(await _ask(self._sentinels[2], "SENTINEL", "master", "kv"))["config-epoch"])

    async def _failed_over(self) -> bool:
        sentinel = self._sentinels[2]
        try:
            reply = await _ask(sentinel, "SENTINEL", "get-master-addr-by-name", "kv")
        except FAILURES:
            return False
        address, port = self._redis[1 - self._leader]
        return reply == [address.encode(), str(port).encode()]

    def stop(self) -> None:
        self._processes.stop()


HOSTS = ("r0", "r1", "r2")


class RedisSentinel:
    name = "Redis Sentinel"
    kinds = tuple(kind for kind in KINDS if kind != "hand-over")
    hosts = HOSTS

    def obstacle(self) -> str:
        return missing(("redis-server", "redis-server"), ("redis-sentinel", "redis-sentinel"))

    def settings(self) -> dict[str, Any]:
        return {
            "version": first_line(["redis-server", "--version"]),
            "down_after_ms": DOWN_AFTER_MS,
            "failover_timeout_ms": FAILOVER_TIMEOUT_MS,
            "quorum": QUORUM,
            "client_timeout_ms": ANSWER_S * 1000,
            "durability": "memory only (save '', appendonly no), no WAIT, no min-replicas-to-write",
        }

    @asynccontextmanager
    async def open(self, where: Network | Loopback) -> AsyncIterator[SentinelCluster]:
        with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
            cluster = SentinelCluster(Path(folder), where)
            try:
                await cluster.start()
                yield cluster
            finally:
                await cluster.service.close()
                await trio.to_thread.run_sync(cluster.stop)
