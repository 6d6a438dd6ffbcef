"""The arbiter of a stage: a folder, ftvm's own witness, or one member of the etcd that is installed here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ftvm.arbiter import open_arbiter
from ftvm.demo.system import find_tool, free_ports
from ftvm.errors import ArbiterError, FtvmError

if TYPE_CHECKING:
    from ftvm.demo.stage import Stage

ARBITER = "arbiter"
"""The name of its process, and of the folder with its store."""

START_TIMEOUT_S = 30.0
POLL_S = 0.05

_SECTIONS = {
    "directory": f'path = "{ARBITER}"',
    "witness": f'kind = "witness"\naddress = "127.0.0.1:{{port}}"\npath = "{ARBITER}"',
    "etcd": 'kind = "etcd"\nendpoints = ["http://127.0.0.1:{port}"]',
}


def section_of(kind: str, port: int) -> str:
    """What stands under `[arbiter]`."""
    return _SECTIONS[kind].format(port=port)


def etcd_words(program: str, store: Path, port: int, peer_port: int) -> list[str]:
    """The command of a cluster with a single member, on loopback."""
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        *(program, "--data-dir", str(store), "--logger", "zap"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}"),
    ]


async def start_arbiter(stage: Stage) -> None:
    """Start the process that the stage's machine.toml names as its arbiter, if there is one, and wait until it answers.

    Raises `FtvmError` when it is not installed or does not answer.
    """
    arbiter = stage.config.arbiter
    match arbiter.kind:
        case "directory":
            return
        case "witness":
            stage.start(ARBITER, "witness", str(stage.toml))
        case "etcd":
            program = find_tool("etcd")
            if program is None:
                raise FtvmError("etcd is not installed; install it (Debian: etcd-server) or take another --arbiter")
            port, (peer_port,) = int(arbiter.endpoints[0].rpartition(":")[2]), free_ports(1)
            stage.run(ARBITER, etcd_words(program, stage.folder / ARBITER, port, peer_port))
    await _wait_answer(stage)


async def _wait_answer(stage: Stage) -> None:
    async with open_arbiter(stage.config, next(iter(stage.config.nodes))) as asked:
        with trio.move_on_after(START_TIMEOUT_S):
            while stage.exit_code(ARBITER) is None:
                with suppress(ArbiterError):
                    await asked.read()
                    return
                await trio.sleep(POLL_S)
    raise FtvmError(f"the arbiter does not answer: {stage.said(ARBITER)[-400:]}")
