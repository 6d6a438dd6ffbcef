"""A pair and its edge as real processes on this machine, in a folder of their own, and everything to look at them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from ftvm.config import Config, load
from ftvm.credentials import WITNESS, role_of
from ftvm.demo.arbiters import ARBITER, section_of, start_arbiter
from ftvm.demo.guests import BareGuest, Guest
from ftvm.demo.system import free_ports
from ftvm.errors import FtvmError, NotProtected
from ftvm.host.control import ask
from ftvm.networks import UserNetwork
from transport.certificates import create_authority, issue

NODES = ("alpha", "beta")
EDGE = "edge"
START_TIMEOUT_S = 60.0
POLL_S = 0.02
TERMINATE_S = 5.0

_TEMPLATE = """\
[machine]
name = "{machine}"
{guest}
[replication]
{replication}
[arbiter]
{arbiter}

[nodes.alpha]
listen = "127.0.0.1:{alpha}"
log = "alpha.ftlog"

[nodes.beta]
listen = "127.0.0.1:{beta}"
log = "beta.ftlog"

[edge]
listen = "127.0.0.1:{edge}"
{doors}
[security]
certificates = "certs"
"""


class Stage:
    """The processes by name: `alpha` and `beta`, `edge`, and `arbiter` where it is one."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.toml = folder / "machine.toml"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def port(self) -> int:
        """Where clients connect: the first port that is published, or the console."""
        network = self.config.edge.network()
        if isinstance(network, UserNetwork) and network.publish:
            return network.publish[0].host_port
        return self.config.edge.listen.port

    def start(self, name: str, *words: str) -> None:
        """Start `ftvm WORDS...` as process `name`; see `run`."""
        self.run(name, [sys.executable, "-m", "ftvm", *words])

    def run(self, name: str, command: Sequence[str]) -> None:
        """Start a program as process `name`; what it says goes to NAME.out in the folder."""
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def start_node(self, name: str, role: str) -> None:
        self.start(name, role, str(self.toml), "--node", name)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def pids(self) -> list[int]:
        """Of all that run."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    def signal(self, name: str, number: signal.Signals) -> None:
        """To one of the processes that this stage started, by its id; nothing if it has ended."""
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(number)

    def exit_code(self, name: str) -> int | None:
        return self._processes[name].poll()

    async def wait_exit(self, name: str) -> int:
        return await trio.to_thread.run_sync(self._processes[name].wait, abandon_on_cancel=True)

    def said(self, name: str) -> str:
        """What the process wrote so far."""
        with suppress(FileNotFoundError):
            return (self.folder / f"{name}.out").read_text(errors="replace")
        return ""

    async def status(self, name: str) -> dict[str, Any]:
        """The process's own status. Raises `NotProtected` if it does not answer."""
        return await ask(self._control(name), "status")

    async def ask(self, name: str, op: str) -> dict[str, Any]:
        return await ask(self._control(name), op)

    def _control(self, name: str) -> Path:
        path = self.config.edge.control if name == EDGE else self.config.node(name).control
        assert path is not None
        return path

    async def wait_status(
        self, name: str, accept: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = START_TIMEOUT_S
    ) -> dict[str, Any]:
        """Poll until `accept(status)`; raises `FtvmError` with the processes' words if it ends or takes too long."""
        state = ""
        with trio.move_on_after(timeout_s):
            while True:
                with suppress(NotProtected):
                    status = await self.status(name)
                    if accept(status):
                        return status
                    state = f" (it is {status['core']['state']})" if "core" in status else ""
                if self.exit_code(name) is not None:
                    raise FtvmError(f"{name} ended with code {self.exit_code(name)}: {_last_line(self.said(name))}")
                await trio.sleep(POLL_S)
        said = "; ".join(f"{who}: {_last_line(self.said(who))}" for who in sorted(self._processes))
        raise FtvmError(f"{name} did not get to {what} within {timeout_s:g} s{state}: {said}")

    async def wait_protected(self) -> None:
        """Until alpha is live with beta in sync, and the edge has found it."""
        await self.wait_status("alpha", lambda status: status["core"]["state"] == "PROTECTED", "a protected machine")
        await self.wait_status(EDGE, lambda status: status["generation"] > 0, "a live machine")

    async def wait_live(self, name: str) -> dict[str, Any]:
        return await self.wait_status(
            name, lambda status: status["core"]["state"] in ("SOLO", "PROTECTED"), "being live"
        )

    def stop(self) -> None:
        """End every process that is still there."""
        for number in (signal.SIGCONT, signal.SIGTERM):
            for name in self._processes:
                self.signal(name, number)
        for process in self._processes.values():
            try:
                process.wait(TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def forget(self) -> None:
        """Leave the processes running when the stage is closed."""
        self._processes.clear()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def prepare(
    folder: Path,
    guest: bytes | Guest,
    *,
    machine: str = "demo",
    ram_mib: int = 64,
    sessions: str = "break",
    replication: dict[str, Any] | None = None,
    arbiter: str = "directory",
    devices: str = "",
) -> Config:
    """Certificates, guest and `machine.toml` for a pair, an edge and an arbiter of this kind, on loopback.

    `guest` may be the image of a bare one; then `ram_mib`, `sessions` and `devices`, more lines of `[machine]`, say the
    rest.
    """
    if isinstance(guest, bytes):
        guest = BareGuest(guest, ram_mib=ram_mib, sessions=sessions, devices=devices)
    create_authority(folder / "authority", machine)
    for name in NODES:
        issue(folder / "authority", folder / "certs" / name, "node", name)
    issue(folder / "authority", folder / "certs" / EDGE, "edge", EDGE)
    issue(folder / "authority", folder / "certs" / WITNESS, role_of(WITNESS), WITNESS)
    (folder / ARBITER).mkdir(mode=0o700)
    alpha, beta, edge, arbiter_port = free_ports(4)
    settings = "".join(f"{key} = {value}\n" for key, value in (replication or {}).items())
    text = _TEMPLATE.format(
        machine=machine,
        guest=guest.install(folder),
        replication=settings,
        arbiter=section_of(arbiter, arbiter_port),
        alpha=alpha,
        beta=beta,
        edge=edge,
        doors=guest.doors(),
    )
    (folder / "machine.toml").write_text(text)
    return load(folder / "machine.toml")


@asynccontextmanager
async def open_stage(folder: Path, guest: bytes | Guest, **options: Any) -> AsyncIterator[Stage]:
    """A protected machine: `alpha` live, `beta` its shadow, and an edge. All are stopped on leaving.

    `options` are those of `prepare`.
    """
    stage = Stage(folder, prepare(folder, guest, **options))
    try:
        await start_arbiter(stage)
        stage.start_node("alpha", "primary")
        stage.start_node("beta", "shadow")
        stage.start(EDGE, "edge", str(stage.toml))
        await stage.wait_protected()
        yield stage
    finally:
        await trio.to_thread.run_sync(stage.stop)
