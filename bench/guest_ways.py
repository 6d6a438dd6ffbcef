"""Debian with redis-server, protected, and one client's connection into it: by a port of the edge, or by the nodes'
own TAP interfaces on hosts of their own."""

from __future__ import annotations

import signal
import socket
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from bench import hosts
from bench.guest_redis import ASK_S, POLL_S, REDIS_TIMEOUT_S
from bench.hosts import BRIDGE, SUBNET, open_network
from bench.linux_guest import ON_DISK, LinuxGuest
from bench.processes import GuestFailed
from bench.protected_pair import HostedStage, KvClient, prepare_hosted, steps_of
from ftvm.config import load
from ftvm.demo.arbiters import ARBITER, start_arbiter
from ftvm.demo.guests import REDIS_PORT, DebianGuest
from ftvm.demo.resp import RespClient, RespError
from ftvm.demo.stage import NODES, Stage, open_stage
from ftvm.errors import FtvmError
from ftvm.host.network import slirp_library

WAYS = ("publish", "tap")
CLIENT = "client"
GUEST_ADDRESS = f"{SUBNET}.15"
ON_TAP = f"{ON_DISK} ip={GUEST_ADDRESS}:::255.255.255.0::eth0:off"
TCP_TOTAL_RETRANS_AT = 100
"""In `struct tcp_info`, linux/tcp.h."""

SURVIVAL_TIMEOUT_S = 60.0

Connect = Callable[[], Awaitable[trio.SocketStream]]


@dataclass(frozen=True, slots=True)
class TapGuest(DebianGuest):
    """Reached without an edge."""

    append: str = ON_TAP

    def doors(self) -> str:
        return 'sessions = "plain"\n'


def obstacle(way: str) -> str:
    """Why this way cannot be measured here; "" if it can."""
    if way == "tap":
        return hosts.obstacle() or ("" if Path("/dev/net/tun").exists() else "/dev/net/tun is missing: modprobe tun")
    try:
        slirp_library.load()
    except FtvmError as error:
        return str(error)
    return ""


@asynccontextmanager
async def open_way(way: str, guest: LinuxGuest) -> AsyncIterator[GuestCluster]:
    """The machine, protected, and the client's connection into it. Raises `FtvmError`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ftvm-bench-")))
        if way == "publish":
            published = await stack.enter_async_context(open_stage(folder, DebianGuest(guest.folder, append=ON_DISK)))

            async def connect() -> trio.SocketStream:
                return await trio.open_tcp_stream("127.0.0.1", published.port)

            stage: Stage = published
        else:
            stage, connect = await _open_hosts(stack, folder, guest)
        await _wait_redis(connect)
        stream = await stack.enter_async_context(await connect())
        yield GuestCluster(stage, stream)


async def _open_hosts(stack: AsyncExitStack, folder: Path, guest: LinuxGuest) -> tuple[Stage, Connect]:
    network = stack.enter_context(open_network((*NODES, ARBITER, CLIENT)))
    where = {name: network.host(name) for name in (*NODES, ARBITER)}
    prepare_hosted(folder, TapGuest(guest.folder), where)
    toml = folder / "machine.toml"
    text = toml.read_text()
    for name in NODES:
        where[name].bridge()
        text = text.replace(f"[nodes.{name}]\n", f'[nodes.{name}]\ntap = "tap0,bridge={BRIDGE}"\n')
    toml.write_text(text)
    stage = HostedStage(folder, load(toml), where)
    stack.push_async_callback(trio.to_thread.run_sync, stage.stop)
    await start_arbiter(stage)
    stage.start_node(NODES[0], "primary")
    stage.start_node(NODES[1], "shadow")
    await stage.wait_status(NODES[0], _is_protected, "a protected machine")

    async def connect() -> trio.SocketStream:
        client = trio.socket.from_stdlib_socket(network.host(CLIENT).socket(socket.AF_INET, socket.SOCK_STREAM))
        try:
            await client.connect((GUEST_ADDRESS, REDIS_PORT))
        except BaseException:
            client.close()
            raise
        return trio.SocketStream(client)

    return stage, connect


def _is_protected(status: dict[str, object]) -> bool:
    core = status["core"]
    return isinstance(core, dict) and core["state"] == "PROTECTED"


async def _wait_redis(connect: Connect) -> None:
    """Until the guest has booted, and its redis answers."""
    with trio.move_on_after(REDIS_TIMEOUT_S):
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError, RespError), trio.fail_after(ASK_S):
                async with await connect() as stream:
                    if await RespClient(stream).call("PING") == "PONG":
                        return
            await trio.sleep(POLL_S)
    raise GuestFailed(f"the guest's redis did not answer within {REDIS_TIMEOUT_S:g} s")


class GuestCluster:
    """A `bench.faults.Cluster`."""

    def __init__(self, stage: Stage, stream: trio.SocketStream) -> None:
        self._stage = stage
        self._stream = stream
        self._victim, self._survivor = NODES
        self._retransmitted = 0
        self.service = KvClient(RespClient(stream))

    async def strike(self, kind: str) -> int:
        assert kind == "sigkill"
        await self._find_roles()
        self._retransmitted = self._count_retransmitted()
        now_ns = time.monotonic_ns()
        self._stage.signal(self._victim, signal.SIGKILL)
        return now_ns

    async def _find_roles(self) -> None:
        """A host that is starved may have changed them without us."""
        with trio.move_on_after(SURVIVAL_TIMEOUT_S):
            while True:
                for live, other in (NODES, NODES[::-1]):
                    with suppress(FtvmError):
                        if _is_protected(await self._stage.status(live)):
                            self._victim, self._survivor = live, other
                            return
                await trio.sleep(POLL_S)
        raise FtvmError(f"the machine was not protected within {SURVIVAL_TIMEOUT_S:g} s")

    def _count_retransmitted(self) -> int:
        info = self._stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (count,) = struct.unpack_from("=I", info, TCP_TOTAL_RETRANS_AT)
        return int(count)

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        status = await self._stage.wait_live(self._survivor)
        steps = steps_of(status["failover_ns"], answered_ns, struck_ns)
        return {**steps, "retransmitted": self._count_retransmitted() - self._retransmitted}

    async def heal(self, kind: str) -> dict[str, float | None]:
        assert kind == "sigkill"
        stage = self._stage
        await stage.wait_exit(self._victim)
        stage.start_node(self._victim, "shadow")
        await self._find_roles()
        return {}
