"""A machine of ours with `kv` in it, protected by a shadow: what the peers stand beside.

On loopback, as `ftvm demo` sets it up: alpha, beta, an edge, a folder as the arbiter. On hosts that can be cut off:
alpha and beta each on one, a witness on a third, and the edge where the clients are. The client keeps one connection
through everything; it never connects anew, and has no timeout.

A stopped primary is woken, and one that was cut off is connected again, after the survivor went on: it has to see by
itself that it is stale, and come back as a shadow. A killed one is started again.
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

from bench.faults import KINDS, NS_PER_MS
from bench.hosts import Host, Loopback, Network
from ftvm.cli.progress import prepared_kernel
from ftvm.config import Config, load
from ftvm.demo.arbiters import ARBITER, start_arbiter
from ftvm.demo.guests import Guest
from ftvm.demo.resp import RespClient, open_resp
from ftvm.demo.stage import EDGE, NODES, Stage, prepare
from ftvm.errors import FtvmError
from ftvm.guests import path as guest_path

LISTS = 64
STEPS = ("detection_ms", "claim_ms", "catch_up_ms", "first_output_ms", "lost_session_ms")
"""What a gap is made of: from the fault to the survivor's claim; until the arbiter has granted and activated the
generation; until the log is executed and the machine is live; until the client has an answer. `lost_session_ms`: from
the fault to the end of the session, which is a hint, not a proof. None: that did not happen."""


class KvClient:
    """`Service` on one connection to the edge. `kv` answers an APPEND with the new length: it must be the right one."""

    def __init__(self, client: RespClient) -> None:
        self._client = client
        self._sizes: Counter[str] = Counter()

    async def write(self, number: int, value: bytes) -> None:
        """Raises `FtvmError` for a wrong answer, and for a lost connection: neither may happen."""
        key = f"log:{number % LISTS}"
        self._sizes[key] += len(value)
        try:
            reply = await self._client.call("APPEND", key, value)
        except trio.BrokenResourceError as error:
            raise FtvmError(f"the client lost its connection: {error}") from None
        if reply != self._sizes[key]:
            raise FtvmError(f"APPEND {key} answered {reply!r}, expected {self._sizes[key]}")

    async def tokens(self) -> Counter[bytes]:
        found: Counter[bytes] = Counter()
        for number in range(LISTS):
            reply = await self._client.call("GET", f"log:{number}")
            if isinstance(reply, bytes):
                found.update(part + b";" for part in reply.split(b";")[:-1])
        return found

    async def clear(self) -> None:
        await self._client.call("FLUSHALL")
        self._sizes.clear()


class HostedStage(Stage):
    """A stage whose processes stand on hosts; the edge, which has none, stands with the clients."""

    def __init__(self, folder: Path, config: Config, hosts: dict[str, Host]) -> None:
        super().__init__(folder, config)
        self._hosts = hosts

    def run(self, name: str, command: Sequence[str]) -> None:
        prefix = self._hosts[name].prefix if name in self._hosts else ()
        super().run(name, [*prefix, *command])


def prepare_hosted(folder: Path, guest: bytes | Guest, hosts: dict[str, Host]) -> Config:
    """As `prepare`, with the nodes at their hosts' addresses, and a witness."""
    config = prepare(folder, guest, arbiter="witness")
    text = (folder / "machine.toml").read_text()
    for name in (*NODES, ARBITER):
        address = config.arbiter.address if name == ARBITER else config.node(name).listen
        text = text.replace(f'"{address}"', f'"{hosts[name].address}:{address.port}"')
    (folder / "machine.toml").write_text(text)
    return load(folder / "machine.toml")


class PairCluster:
    """`Cluster`. Which node is live alternates."""

    def __init__(self, stage: Stage, where: Network | Loopback, service: KvClient) -> None:
        self._stage = stage
        self._where = where
        self._live, self._shadow = NODES
        self.service = service

    async def strike(self, kind: str) -> int:
        stage, victim = self._stage, self._live
        now_ns = time.monotonic_ns()
        match kind:
            case "sigkill":
                stage.signal(victim, signal.SIGKILL)
            case "sigstop":
                stage.signal(victim, signal.SIGSTOP)
            case "hand-over":
                await stage.ask(victim, "hand-over")
            case _:
                assert isinstance(self._where, Network)
                (self._where.cut_off if kind == "partition" else self._where.isolate)(victim)
        return now_ns

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        status = await self._stage.wait_live(self._shadow)
        return steps_of(status["failover_ns"], answered_ns, struck_ns)

    async def heal(self, kind: str) -> dict[str, float | None]:
        stage, lost, live = self._stage, self._live, self._shadow
        if isinstance(self._where, Network):
            self._where.mend()
        stage.signal(lost, signal.SIGCONT)
        if kind == "sigkill":
            await stage.wait_exit(lost)
            stage.start_node(lost, "shadow")
        await stage.wait_status(lost, lambda status: status["core"]["state"] == "IN_SYNC", "following in lockstep")
        await stage.wait_status(live, lambda status: status["core"]["state"] == "PROTECTED", "a new shadow")
        self._live, self._shadow = live, lost
        return {}


def steps_of(times: dict[str, int], answered_ns: Sequence[int], struck_ns: int) -> dict[str, float | None]:
    """The STEPS of one failover in ms, from the survivor's own times and the client's."""
    live_ns = times["live_ns"]
    if live_ns <= struck_ns:
        raise FtvmError(f"the survivor does not say when it went live: {times}")
    answer_ns = next(at_ns for at_ns in answered_ns if at_ns >= live_ns)

    def between(start_ns: int, end_ns: int) -> float | None:
        return round((end_ns - start_ns) / NS_PER_MS, 3) if start_ns and end_ns else None

    return {
        "detection_ms": between(struck_ns, times["claimed_ns"]),
        "claim_ms": between(times["claimed_ns"], times["activated_ns"]),
        "catch_up_ms": between(times["activated_ns"], live_ns),
        "first_output_ms": between(live_ns, answer_ns),
        "lost_session_ms": between(struck_ns, times["session_lost_ns"]),
    }


class ProtectedPair:
    name = "ftvm"
    kinds = KINDS
    hosts = (*NODES, ARBITER)

    def obstacle(self) -> str:
        return ""

    def settings(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="ftvm-bench-") as folder:
            replication = prepare(Path(folder), b"").replication
        return {
            "detector_timeout_ms": replication.detector_timeout_ms,
            "heartbeat_interval_ms": replication.heartbeat_interval_ms,
            "durability": "in the memory of both nodes; each node's log on disk some 50 ms later",
        }

    @asynccontextmanager
    async def open(self, where: Network | Loopback) -> AsyncIterator[PairCluster]:
        prepared_kernel()
        image = guest_path("kv").read_bytes()
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftvm-bench-")))
            stage = _stage(folder, image, where)
            stack.push_async_callback(trio.to_thread.run_sync, stage.stop)
            await start_arbiter(stage)
            stage.start_node(NODES[0], "primary")
            stage.start_node(NODES[1], "shadow")
            stage.start(EDGE, "edge", str(stage.toml))
            await stage.wait_protected()
            client = await stack.enter_async_context(open_resp("127.0.0.1", stage.port))
            yield PairCluster(stage, where, KvClient(client))


def _stage(folder: Path, image: bytes, where: Network | Loopback) -> Stage:
    if isinstance(where, Loopback):
        return Stage(folder, prepare(folder, image))
    hosts = {name: where.host(name) for name in ProtectedPair.hosts}
    return HostedStage(folder, prepare_hosted(folder, image, hosts), hosts)
