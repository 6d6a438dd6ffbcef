"""A protected machine on hosts of its own: two nodes, an edge, clients, and an arbiter; what a fault may do to each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.directory import DirectoryStore
from ftvm.config import Config, load
from ftvm.credentials import WITNESS, role_of
from ftvm.demo.stage import EDGE, NODES, START_TIMEOUT_S, Stage
from ftvm.errors import FtvmError
from ftvm.guests import path as guest_path
from ftvm.replication.messages import Ledger
from tests.namespaces import Network, open_network
from tests.namespaces.network import is_leftover, own_name
from transport.certificates import create_authority, issue

MACHINE = "campaign"
CLIENTS = "clients"
ADDRESSES = {
    "alpha": "10.203.1.1",
    "beta": "10.203.1.2",
    EDGE: "10.203.1.3",
    CLIENTS: "10.203.1.4",
    WITNESS: "10.203.1.5",
}
EDGE_PORT = 6390
RAM_MIB = 16
DISK_MIB = 64
POLL_S = 0.02

_TEMPLATE = """\
[machine]
name = "{machine}"
image = "guest.elf"
ram_mib = {ram_mib}
[replication]
detector_timeout_ms = {timeout_ms}
heartbeat_interval_ms = {beat_ms}
digest_interval_ms = 200
[arbiter]
kind = "witness"
address = "{witness}:7010"
path = "disks/witness/arbiter"
[nodes.alpha]
listen = "{alpha}:7001"
log = "disks/alpha/log"
[nodes.beta]
listen = "{beta}:7001"
log = "disks/beta/log"
[edge]
listen = "{edge}:{edge_port}"
[security]
certificates = "certs"
"""


class Cluster(Stage):
    """The processes, each in the network of its host. Made by `open_cluster`."""

    def __init__(self, folder: Path, config: Config, network: Network) -> None:
        super().__init__(folder, config)
        self.network = network
        self._environment: dict[str, Mapping[str, str]] = {}
        self.lives: dict[str, str] = {}
        """Of the nodes, when they were last seen protected."""
        self.rounds = 0
        """Of this machine, by its clients' count."""
        self._records = self.folder / "disks" / WITNESS / "arbiter"

    # ---- processes

    def start(self, name: str, *words: str) -> None:
        environment = {**os.environ, **self._environment.get(name, {})}
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = self.network[name].start(
                sys.executable,
                "-m",
                "ftvm",
                *words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def set_environment(self, name: str, **values: str) -> None:
        """For the next start of a process, and those after it."""
        self._environment[name] = values

    def has_loaded(self, name: str, library: str) -> bool:
        return library in Path(f"/proc/{self.pid(name)}/maps").read_text()

    async def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        await self.wait_exit(name)

    def join(self, name: str) -> None:
        """Start a node again, as a shadow."""
        self.start_node(name, "shadow")

    async def start_all(self) -> None:
        await self.start_witness()
        self.start_node("alpha", "primary")
        self.start_node("beta", "shadow")
        self.start(EDGE, EDGE, str(self.toml))
        await self.wait_protected()

    # ---- who is what

    async def protected(self) -> tuple[str, str]:
        """Wait until one node is live with the other in sync: (primary, shadow)."""
        while True:
            states = {}
            for name in NODES:
                with suppress(FtvmError):
                    states[name] = (await self.status(name))["core"]
            by_state = {core["state"]: name for name, core in states.items()}
            if set(by_state) == {"PROTECTED", "IN_SYNC"}:
                primary, shadow = by_state["PROTECTED"], by_state["IN_SYNC"]
                if states[primary]["generation"] == states[shadow]["generation"]:
                    self.lives = {name: core["life"] for name, core in states.items()}
                    return primary, shadow
            for name in NODES:
                if self.exit_code(name) is not None:
                    raise FtvmError(f"{name} ended with code {self.exit_code(name)}: {self.said(name)[-300:]}")
            await trio.sleep(POLL_S)

    async def generation(self) -> int:
        """What the edge knows of."""
        return int((await self.status(EDGE))["generation"])

    async def edge_at(self, generation: int) -> None:
        """Wait until the edge is attached to a machine of this generation or a newer one."""
        await self.wait_status(EDGE, lambda status: status["generation"] >= generation, f"generation {generation}")

    # ---- the arbiter

    async def start_witness(self) -> None:
        said = len(self.said(WITNESS))
        self.start(WITNESS, WITNESS, str(self.toml))
        with trio.fail_after(START_TIMEOUT_S):
            while "is served on" not in self.said(WITNESS)[said:]:
                if self.exit_code(WITNESS) is not None:
                    raise FtvmError(f"the witness ended with code {self.exit_code(WITNESS)}: {self.said(WITNESS)}")
                await trio.sleep(POLL_S)

    async def ledger(self) -> Ledger:
        """Every generation that was ever granted, as it stands on the witness's disk."""
        return await Arbiter(DirectoryStore(self._records), MACHINE).read()

    # ---- disks

    def fill_disk(self, name: str) -> None:
        """Until not a byte more fits onto the disk of a host."""
        with (self.folder / "disks" / name / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free_disk(self, name: str) -> None:
        (self.folder / "disks" / name / "filler").unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove the logs of earlier lives, of which a node keeps many."""
        for name in NODES:
            for path in (self.folder / "disks" / name).glob("log.*"):
                path.unlink(missing_ok=True)


def prepare(folder: Path, timeout_ms: int) -> Config:
    """Certificates, image and machine.toml."""
    (folder / "guest.elf").write_bytes(guest_path("kv").read_bytes())
    create_authority(folder / "authority", MACHINE)
    for name in (*NODES, EDGE, WITNESS):
        issue(folder / "authority", folder / "certs" / name, role_of(name), name)
    (folder / "disks" / WITNESS / "arbiter").mkdir(mode=0o700)
    text = _TEMPLATE.format(
        machine=MACHINE,
        ram_mib=RAM_MIB,
        timeout_ms=timeout_ms,
        beat_ms=timeout_ms // 4,
        edge_port=EDGE_PORT,
        **ADDRESSES,
    )
    (folder / "machine.toml").write_text(text)
    return load(folder / "machine.toml")


@contextmanager
def open_disks(folder: Path) -> Iterator[None]:
    """A small file system for each host that writes: full disks are real ones. Those of killed runs are removed."""
    for line in Path("/proc/mounts").read_text().splitlines():
        source, target = line.split()[:2]
        if is_leftover(source):
            _mount("umount", "-l", target)
    mounted: list[Path] = []
    try:
        for name in (*NODES, WITNESS):
            path = folder / "disks" / name
            path.mkdir(parents=True)
            _mount("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", own_name(name), str(path))
            mounted.append(path)
        yield
    finally:
        for path in mounted:
            _mount("umount", "-l", str(path))


def _mount(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise FtvmError(f"{' '.join(words)}: {done.stderr.strip()}")


@asynccontextmanager
async def open_cluster(folder: Path, *, timeout_ms: int) -> AsyncIterator[Cluster]:
    """A protected machine in namespaces and on small disks; all is removed on leaving."""
    with open_network(ADDRESSES) as network, open_disks(folder):
        cluster = Cluster(folder, prepare(folder, timeout_ms), network)
        try:
            await cluster.start_all()
            yield cluster
        finally:
            network.heal()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(cluster.stop)
