"""Arbiters of every kind, each really: a folder, the witness's process, Debian's etcd. And ways to do them harm.

The servers are processes that a test starts, in its own folder and on loopback, and ends itself.
"""

import base64
import functools
import http.client
import json
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ftvm.arbiter import open_arbiter
from ftvm.arbiter.client import Arbiter
from ftvm.config import (
    Address,
    ArbiterConfig,
    Config,
    EdgeConfig,
    MachineConfig,
    NodeConfig,
    SecurityConfig,
)
from ftvm.credentials import EDGE, WITNESS, role_of
from ftvm.demo.system import free_ports
from tests.limits import WAIT_S
from tests.needs import need
from transport.certificates import create_authority, issue

MACHINE = "bank"
LOOPBACK = "127.0.0.1"
POLL_S = 0.01


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    (port,) = free_ports(1)
    return port


@functools.cache
def certificates(machine: str) -> Path:
    """The folders of a machine's nodes, edge and witness; made once."""
    folder = Path(tempfile.mkdtemp(prefix="ftvm-certs-"))
    create_authority(folder / "authority", machine)
    for name in ("alpha", "beta", EDGE, WITNESS):
        issue(folder / "authority", folder / name, role_of(name), name)
    return folder


def make_config(arbiter: ArbiterConfig, machine: str = MACHINE, certs: Path | None = None) -> Config:
    return Config(
        machine=MachineConfig(name=machine, image=Path("none")),
        arbiter=arbiter,
        nodes={name: NodeConfig(listen=Address(LOOPBACK, 0)) for name in ("alpha", "beta")},
        edge=EdgeConfig(listen=Address(LOOPBACK, 0)),
        security=SecurityConfig(certificates=certs or certificates(machine)),
    )


class Service:
    """One arbiter for tests. `port` is where it is reached; 0: no server."""

    kind = "directory"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def config(self, machine: str = MACHINE, port: int = 0) -> Config:
        """For clients; `port` is that of a proxy."""
        return make_config(ArbiterConfig(kind="directory", path=self.store), machine)

    def start(self) -> None:
        """Returns when it can be asked."""

    def step(self, number: int) -> bytes:
        return self._step(number).read_bytes()

    def spoil(self, number: int, content: bytes | None) -> None:
        """Make step `number` something else, or nothing."""
        if content is None:
            self._step(number).unlink()
        else:
            self._step(number).write_bytes(content)

    def _step(self, number: int) -> Path:
        return self.store / f"step-{number:012}"

    @asynccontextmanager
    async def client(self, machine: str = MACHINE, port: int = 0, node: str = "alpha") -> AsyncIterator[Arbiter]:
        async with open_arbiter(self.config(machine, port), node) as arbiter:
            yield arbiter

    @asynccontextmanager
    async def clients(self, count: int) -> AsyncIterator[list[Arbiter]]:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(self.client()) for _ in range(count)]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def save(self) -> Path:
        """A copy of all that it keeps. A server is stopped for it, and started again."""
        return self._stopped(lambda: Path(shutil.copytree(self.store, self.folder / f"copy-{time.monotonic_ns()}")))

    def put_back(self, copy: Path) -> None:
        def replace() -> Path:
            shutil.rmtree(self.store)
            return Path(shutil.copytree(copy, self.store))

        self._stopped(replace)

    def _stopped(self, work: Any) -> Path:
        had_process = self.process is not None
        self.kill()
        result: Path = work()
        if had_process:
            self.start()
        return result

    def _spawn(self, *command: str) -> None:
        with (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def _wait(self, is_ready: Any) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_ready():
            assert self.process is not None
            said = (self.folder / "out").read_text(errors="replace")
            assert self.process.poll() is None, f"{self.kind} ended: {said[-500:]}"
            assert time.monotonic() < deadline, f"{self.kind} does not start: {said[-500:]}"
            time.sleep(POLL_S)


class Witness(Service):
    kind = "witness"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self._starts = 0
        self.toml = folder / "machine.toml"
        self.write_toml(MACHINE)

    def write_toml(self, machine: str) -> None:
        self.toml.write_text(
            f'[machine]\nname = "{machine}"\nimage = "none"\n'
            f'[arbiter]\nkind = "witness"\naddress = "{LOOPBACK}:{self.port}"\npath = "store"\n'
            f'[nodes.alpha]\nlisten = "{LOOPBACK}:1"\n[nodes.beta]\nlisten = "{LOOPBACK}:2"\n'
            f'[edge]\nlisten = "{LOOPBACK}:3"\n[security]\ncertificates = "{certificates(machine)}"\n'
        )

    def config(self, machine: str = MACHINE, port: int = 0) -> Config:
        address = Address(LOOPBACK, port or self.port)
        return make_config(ArbiterConfig(kind="witness", address=address), machine)

    def start(self) -> None:
        self._spawn(sys.executable, "-m", "ftvm", "witness", str(self.toml))
        self._starts += 1
        self._wait(lambda: (self.folder / "out").read_text().count("is served on") == self._starts)


class Etcd(Service):
    """One member, of a cluster of its own or of `Etcd.cluster`. `options` are further flags of etcd."""

    kind = "etcd"

    def __init__(self, folder: Path, *options: str, scheme: str = "http") -> None:
        super().__init__(folder)
        self.port, self._peer_port = free_port(), free_port()
        self._peer = f"http://{LOOPBACK}:{self._peer_port}"
        self._members = f"{folder.name}={self._peer}"
        self._program = need("etcd", "etcd-server")
        self._options = options
        self.tls: ssl.SSLContext | None = None
        self.url = f"{scheme}://{LOOPBACK}:{self.port}"

    def config(self, machine: str = MACHINE, port: int = 0) -> Config:
        return make_config(ArbiterConfig(kind="etcd", endpoints=(f"http://{LOOPBACK}:{port or self.port}",)), machine)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        self._wait(self.is_ready)

    def launch(self) -> None:
        """Like `start`, but for a member that may have to wait for others."""
        self._spawn(
            self._program,
            *("--name", self.folder.name, "--initial-cluster", self._members),
            *("--data-dir", str(self.store), "--logger", "zap", "--log-outputs", "stderr"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--heartbeat-interval", "20", "--election-timeout", "200"),
            *self._options,
        )

    @classmethod
    def cluster(cls, folder: Path, size: int) -> "list[Etcd]":
        """Members of one cluster, not started."""
        members = []
        for number in range(size):
            own = folder / f"member-{number}"
            own.mkdir()
            members.append(cls(own))
        for member in members:
            member._members = ",".join(f"{one.folder.name}={one._peer}" for one in members)
        return members

    def is_ready(self) -> bool:
        try:
            return bool(self.call("kv/range", key=encoded(b"x")).get("header"))
        except (OSError, http.client.HTTPException):
            return False

    def call(self, method: str, **body: Any) -> dict[str, Any]:
        """Straight to the gateway."""
        connection = (
            http.client.HTTPConnection(LOOPBACK, self.port, timeout=5)
            if self.tls is None
            else http.client.HTTPSConnection(LOOPBACK, self.port, timeout=5, context=self.tls)
        )
        try:
            connection.request("POST", f"/v3/{method}", json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def key(self, number: int) -> str:
        return encoded(f"ftvm/{MACHINE}/step-{number:012}".encode())

    def step(self, number: int) -> bytes:
        return base64.b64decode(self.call("kv/range", key=self.key(number))["kvs"][0]["value"])

    def spoil(self, number: int, content: bytes | None) -> None:
        if content is None:
            self.call("kv/deleterange", key=self.key(number))
        else:
            self.call("kv/put", key=self.key(number), value=encoded(content))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


KINDS: dict[str, type[Service]] = {one.kind: one for one in (Service, Witness, Etcd)}
