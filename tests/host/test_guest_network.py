"""Connections into a guest, by a port of the edge and by the nodes' own interfaces, while nodes are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ftvm.demo.guests import BareGuest
from ftvm.demo.stage import NODES, Stage, open_stage, prepare
from ftvm.demo.system import free_ports
from ftvm.errors import FtvmError
from tests.host.network.test_slirp import needs_library
from tests.host.pair import LOOPBACK, RAM_MIB, SETTINGS, core_state, ended, image, kill, run, stays_responsive
from tests.limits import WAIT_S
from tests.namespaces import Network, open_network, require_namespaces

KILLS = STOPS = 3
TALKERS = 24
CHECKED_BEFORE = 1
"""The frame whose turn it is when the process is stopped: its lease held when it was looked at."""
FLOOD_ROUNDS, FLOOD_ROUND = 5, 2000
GUEST = BareGuest(image("net-echo"), RAM_MIB, "plain", "net = true")
ADDRESSES = {"alpha": "10.80.0.1", "beta": "10.80.0.2", "client": "10.80.0.3"}
INSIDE, ECHO_PORT = "10.80.0.15", 7
TAP = "tap0,bridge=br0"


async def echo(stream: trio.SocketStream, what: bytes) -> None:
    await stream.send_all(what)
    said = b""
    while len(said) < len(what):
        said += (part := await stream.receive_some())
        assert part, "the guest ended the connection"
    assert said == what


async def talk(stream: trio.SocketStream, rounds: int, counter: list[int]) -> None:
    for _ in range(rounds):
        counter[0] += 1
        await echo(stream, b"round %d" % counter[0])


async def states(stage: Stage) -> dict[str, str]:
    """Which node is the primary, and which the shadow, once one is protected by the other."""
    while True:
        found = {}
        for name in NODES:
            try:
                found[(await stage.status(name))["core"]["state"]] = name
            except FtvmError:
                continue
        if set(found) == {"PROTECTED", "IN_SYNC"}:
            return found
        await trio.sleep(0.02)


async def survive_kills(stage: Stage, stream: trio.SocketStream) -> None:
    """`KILLS` times: the connection goes on when the primary is killed, and when it has come back as a shadow."""
    counter = [0]
    await talk(stream, 20, counter)
    for _ in range(KILLS):
        primary = (await states(stage))["PROTECTED"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, stream, 100, counter)
            kill(stage, primary)
        await ended(stage, primary)
        stage.start_node(primary, "shadow")
        await talk(stream, 20, counter)
    await states(stage)
    await talk(stream, 20, counter)


def test_a_connection_by_a_published_port_survives_every_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_library()
    (port,) = free_ports(1)
    monkeypatch.setenv("FTVM_EDGE_PUBLISH", f"{port}:{ECHO_PORT}")

    async def main() -> None:
        async with (
            open_stage(tmp_path, GUEST, replication=SETTINGS) as stage,
            await trio.open_tcp_stream(LOOPBACK, port) as stream,
        ):
            await survive_kills(stage, stream)
            network = (await stage.status("edge"))["network"]
            assert network["kind"] == "user"
            assert network["flows"] == 1
            assert network["dropped_to_guest"] == 0
            command = [sys.executable, "-m", "ftvm", "status", str(stage.toml)]
            shown = await trio.run_process(command, capture_stdout=True, env={**os.environ, "COLUMNS": "250"})
            said = f"network user: 1 flows, {network['from_guest']} frames from the guest"
            assert said in shown.stdout.decode()

    run(main)


# ---- the nodes' own interfaces


class Hosts(Stage):
    """Each node in a namespace, with a bridge in which the guest's interface is beside the host's."""

    network: Network

    def run(self, name: str, command: Any) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = self.network[name].start(
                *command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder
            )

    def bridge(self, name: str) -> None:
        host = self.network[name]
        steps = f"""link add br0 address {host.link_address} type bridge
            link set dev eth0 master br0
            addr flush dev eth0
            addr add {host.address}/24 dev br0
            link set dev br0 up"""
        for step in steps.splitlines():
            done = host.run("ip", *step.split())
            assert done.returncode == 0, done.stderr

    def written(self, name: str) -> int:
        """Frames that a node has written to its interface: to the kernel it is the other end that receives them."""
        (link,) = json.loads(self.network[name].run("ip", "-json", "-statistics", "link", "show", "tap0").stdout)
        return int(link["stats64"]["rx"]["packets"])

    def connect(self) -> socket.socket:
        """To the guest, from the third host."""
        client = self.network["client"].socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(WAIT_S)
        client.connect((INSIDE, ECHO_PORT))
        client.setblocking(False)
        return client


@asynccontextmanager
async def open_hosts(folder: Path) -> AsyncIterator[Hosts]:
    require_namespaces()
    with open_network(ADDRESSES) as network:
        config = prepare(folder, GUEST, replication=SETTINGS)
        text = (folder / "machine.toml").read_text()
        for name in NODES:
            listen = f'listen = "{config.node(name).listen}"'
            text = text.replace(listen, f'listen = "{ADDRESSES[name]}:7001"\ntap = "{TAP}"')
        (folder / "machine.toml").write_text(text)
        stage = Hosts(folder, config)
        stage.network = network
        try:
            for name in NODES:
                stage.bridge(name)
            stage.start_node("alpha", "primary")
            stage.start_node("beta", "shadow")
            await states(stage)
            yield stage
        finally:
            await trio.to_thread.run_sync(stage.stop)


def test_a_connection_by_the_nodes_own_interfaces_survives_every_kill(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_hosts(tmp_path) as stage:
            client = await trio.to_thread.run_sync(stage.connect)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
                await survive_kills(stage, stream)
            primary = (await states(stage))["PROTECTED"]
            assert (await stage.status(primary))["tap"]["announced"] > 0

    run(main)


async def chatter(stage: Hosts) -> None:
    """Until cancelled."""
    client = await trio.to_thread.run_sync(stage.connect)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
        counter = [0]
        while True:
            await talk(stream, 50, counter)


async def stopped(stage: Stage, name: str) -> None:
    """Stop it, and wait until none of its threads runs."""
    stage.signal(name, signal.SIGSTOP)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, stage.pid(name), os.WSTOPPED | os.WNOWAIT)


def test_a_primary_that_was_stopped_and_goes_on_writes_nothing_to_its_interface(tmp_path: Path) -> None:
    """With so many that wait for an answer, some frames are committed and not yet written when it stops. What is
    written the kernel counts, not the node."""

    async def main() -> None:
        async with open_hosts(tmp_path) as stage, trio.open_nursery() as nursery:
            for _ in range(TALKERS):
                nursery.start_soon(chatter, stage)
            client = await trio.to_thread.run_sync(stage.connect)
            async with trio.SocketStream(trio.socket.from_stdlib_socket(client)) as stream:
                counter = [0]
                for _ in range(STOPS):
                    await talk(stream, 50, counter)
                    found = await states(stage)
                    primary, shadow = found["PROTECTED"], found["IN_SYNC"]
                    await stopped(stage, primary)
                    written = stage.written(primary)
                    await core_state(stage, shadow, "SOLO")
                    await talk(stream, 50, counter)
                    stage.signal(primary, signal.SIGCONT)
                    assert await states(stage) == {"PROTECTED": shadow, "IN_SYNC": primary}
                    assert stage.written(primary) <= written + CHECKED_BEFORE
            nursery.cancel_scope.cancel()

    run(main)


def test_an_interface_that_cannot_be_had_ends_the_node_with_a_line(tmp_path: Path) -> None:
    require_namespaces()
    prepare(tmp_path, GUEST)
    text = (tmp_path / "machine.toml").read_text().replace('log = "', 'tap = "none-such"\nlog = "')
    (tmp_path / "machine.toml").write_text(text)
    command = [sys.executable, "-m", "ftvm", "primary", str(tmp_path / "machine.toml"), "--node", "alpha"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "there is no interface none-such; make it: ip tuntap add" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_flood_from_outside_leaves_the_machine_responsive_and_its_memory_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More datagrams than the guest ever takes, and no pause between them; a connection goes on beside them."""
    needs_library()
    (port,) = free_ports(1)
    monkeypatch.setenv("FTVM_EDGE_PUBLISH", f"{port}:{ECHO_PORT},{port}:{ECHO_PORT}/udp")

    async def main() -> None:
        async with (
            open_stage(tmp_path, GUEST, replication=SETTINGS) as stage,
            await trio.open_tcp_stream(LOOPBACK, port) as stream,
        ):
            counter = [0]
            await talk(stream, 5, counter)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
                flood.connect((LOOPBACK, port))
                for _ in range(FLOOD_ROUNDS):
                    for _ in range(FLOOD_ROUND):
                        flood.send(bytes(1400))
                    await stays_responsive(stage, "alpha")
            await talk(stream, 5, counter)
            kill(stage, "alpha")
            await talk(stream, 20, counter)

    run(main)
