"""etcd, three members: the peer that replicates before it answers, and must elect a leader.

The client uses the JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/). It stays with the member that
answered last, and goes to the next one when an operation fails or is not answered within `ANSWER_S`. Each operation
puts a key of its own: a version of 2 would be an operation done twice. Members sync to the disk, as they do by default.
"""

from __future__ import annotations

import base64
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from bench.common import first_line
from bench.faults import KINDS, NotWritten
from bench.hosts import Loopback, Network
from bench.peer_processes import Processes, missing, wait_until
from ftvm.demo.system import free_ports

ANSWER_S = 0.2
AUDIT_S = 30.0
PREFIX = b"token/"
HOSTS = ("e0", "e1", "e2")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class EtcdClient:
    """`Service` on whichever member answers."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._client = httpx.AsyncClient(timeout=None, trust_env=False)

    async def ask(self, url: str, method: str, question: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Raises `NotWritten`."""
        try:
            with trio.fail_after(timeout_s):
                response = await self._client.post(f"{url}/v3/{method}", json=question)
                response.raise_for_status()
                answer: dict[str, Any] = response.json()
                return answer
        except (httpx.HTTPError, OSError, ValueError, trio.TooSlowError) as error:
            raise NotWritten(f"{url}: {error}") from None

    async def write(self, number: int, value: bytes) -> None:
        question = {"key": _text(PREFIX + b"%d" % number), "value": _text(value)}
        try:
            await self.ask(self._urls[0], "kv/put", question)
        except NotWritten:
            self._urls.append(self._urls.pop(0))
            raise

    async def tokens(self) -> Counter[bytes]:
        found: Counter[bytes] = Counter()
        answer = await self._audited("kv/range")
        for pair in answer.get("kvs", ()):
            found[base64.b64decode(pair["value"])] += int(pair["version"])
        return found

    async def clear(self) -> None:
        await self._audited("kv/deleterange")

    async def _audited(self, method: str) -> dict[str, Any]:
        """On all keys. The members are tried in turn."""
        question = {"key": _text(PREFIX), "range_end": _text(PREFIX[:-1] + b"0")}
        for url in self._urls[:-1]:
            try:
                return await self.ask(url, method, question, AUDIT_S)
            except NotWritten:
                continue
        return await self.ask(self._urls[-1], method, question, AUDIT_S)

    async def close(self) -> None:
        await self._client.aclose()


class EtcdCluster:
    """`Cluster`. Members etcd-0 to etcd-2, each on its host."""

    def __init__(self, folder: Path, where: Network | Loopback, timing: Sequence[str]) -> None:
        self._where = where
        self._timing = timing
        self._hosts = [where.host(name) for name in HOSTS]
        self._processes = Processes(folder)
        ports = free_ports(6)
        self._urls = [f"http://{host.address}:{port}" for host, port in zip(self._hosts, ports[:3], strict=True)]
        self._peers = [f"http://{host.address}:{port}" for host, port in zip(self._hosts, ports[3:], strict=True)]
        self._leader = 0
        self._client = EtcdClient(self._urls)
        self.service = EtcdClient(self._urls)

    async def start(self) -> None:
        for number in range(3):
            self._start(number)
        await wait_until(self._redundant, "an etcd cluster with a leader")

    def _start(self, number: int) -> None:
        """A member that was there before goes on from its data."""
        url, peer = self._urls[number], self._peers[number]
        words = {
            "name": f"etcd-{number}",
            "data-dir": str(self._processes.folder / f"etcd-{number}.data"),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"etcd-{number}={peer}" for number, peer in enumerate(self._peers)),
            "log-level": "error",
        }
        flags = [f"--{name}={value}" for name, value in words.items()]
        self._processes.start(f"etcd-{number}", self._hosts[number], "etcd", *flags, *self._timing)

    async def _redundant(self) -> bool:
        """All three name the same leader, and have what it has but for what is under way."""
        answers = []
        for url in self._urls:
            try:
                answers.append(await self._client.ask(url, "maintenance/status", {}))
            except NotWritten:
                return False
        leaders = {answer.get("leader", "0") for answer in answers}
        indexes = [int(answer.get("raftIndex", 0)) for answer in answers]
        members = [answer["header"]["member_id"] for answer in answers]
        if len(leaders) != 1 or leaders <= {"0"} or max(indexes) - min(indexes) > 100:
            return False
        self._leader = members.index(leaders.pop())
        return True

    async def strike(self, kind: str) -> int:
        await wait_until(self._redundant, "a leader to strike")
        name = f"etcd-{self._leader}"
        match kind:
            case "sigkill":
                return self._processes.signal(name, signal.SIGKILL)
            case "sigstop":
                return self._processes.signal(name, signal.SIGSTOP)
            case "hand-over":
                return await self._move_leader()
            case _:
                assert isinstance(self._where, Network)
                cut = self._where.cut_off if kind == "partition" else self._where.isolate
                cut(HOSTS[self._leader])
                return time.monotonic_ns()

    async def _move_leader(self) -> int:
        """The gateway of etcd 3.4 has no such call: its own tool asks."""
        heir = (self._leader + 1) % 3
        status = await self._client.ask(self._urls[heir], "maintenance/status", {})
        now_ns = time.monotonic_ns()
        member = f"{int(status['header']['member_id']):x}"
        words = ["etcdctl", f"--endpoints={self._urls[self._leader]}", "move-leader", member]
        await trio.run_process(words, capture_stdout=True, capture_stderr=True, env={**os.environ, "ETCDCTL_API": "3"})
        return now_ns

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        return {}

    async def heal(self, kind: str) -> dict[str, float | None]:
        name = f"etcd-{self._leader}"
        if kind == "sigstop":
            self._processes.signal(name, signal.SIGCONT)
        elif kind == "sigkill":
            await self._processes.kill(name)
            self._start(self._leader)
        if isinstance(self._where, Network):
            self._where.mend()
        await wait_until(self._redundant, "three members after the failover")
        return {}

    async def close(self) -> None:
        await self._client.close()
        await self.service.close()
        await trio.to_thread.run_sync(self._processes.stop)


class Etcd:
    """With the timeouts that it has by default, or with others (ms)."""

    kinds = KINDS
    hosts = HOSTS

    def __init__(self, heartbeat_ms: int = 0, election_ms: int = 0) -> None:
        self._timing = (
            (f"--heartbeat-interval={heartbeat_ms}", f"--election-timeout={election_ms}") if heartbeat_ms else ()
        )
        self.name = f"etcd {heartbeat_ms}/{election_ms} ms" if heartbeat_ms else "etcd"

    def obstacle(self) -> str:
        return missing(("etcd", "etcd-server"), ("etcdctl", "etcd-client"))

    def settings(self) -> dict[str, Any]:
        return {
            "version": first_line(["etcd", "--version"]),
            "timing": " ".join(self._timing) or "default: heartbeat 100 ms, election 1000 ms",
            "client_timeout_ms": ANSWER_S * 1000,
            "durability": "synced to disk by a majority",
        }

    @asynccontextmanager
    async def open(self, where: Network | Loopback) -> AsyncIterator[EtcdCluster]:
        with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
            cluster = EtcdCluster(Path(folder), where, self._timing)
            try:
                await cluster.start()
                yield cluster
            finally:
                with trio.CancelScope(shield=True):
                    await cluster.close()
