"""Certificates of all kinds, made once, and a server to connect to."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from transport import certificates
from transport.certificates import client_context, create_authority, issue, server_context
from transport.channel import Channel, Limits
from transport.identity import Expectation, Identity
from transport.listener import Accept, Handler, serve

MACHINE = "m1"
EXPIRES_AT_ONCE = 1e-9
NODES = Expectation(MACHINE, frozenset({"node"}))


@dataclass(frozen=True)
class Pki:
    """Folders of nodes, by what is right or wrong with them."""

    authority: Path
    a: Path
    b: Path
    edge: Path
    expired: Path
    other_machine: Path
    """Of the same authority, for another machine."""
    foreign: Path
    """The same names, of an authority that nobody here knows."""


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    root = tmp_path_factory.mktemp("pki")
    create_authority(root / "authority", MACHINE)
    create_authority(root / "foreign-authority", MACHINE)
    made = Pki(
        root / "authority", *(root / name for name in ("a", "b", "edge", "expired", "other-machine", "foreign"))
    )
    issue(made.authority, made.a, "node", "a")
    issue(made.authority, made.b, "node", "b")
    issue(made.authority, made.edge, "edge", "e")
    issue(made.authority, made.expired, "node", "x", lifetime_days=EXPIRES_AT_ONCE)
    issue(root / "foreign-authority", made.foreign, "node", "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "_common_name", lambda _: "m2")
        issue(made.authority, made.other_machine, "node", "b")
    return made


@pytest.fixture
def open_files() -> Callable[[], int]:
    return lambda: len(os.listdir("/proc/self/fd"))


async def echo(channel: Channel) -> None:
    while True:
        await channel.send(await channel.receive())


def accept_all(_identity: Identity, parameters: object) -> dict[str, bytes]:
    return {"welcome": b"yes"}


async def start_server(
    nursery: trio.Nursery,
    node: Path,
    handler: Handler = echo,
    *,
    accept: Accept = accept_all,
    expect: Expectation = NODES,
    heartbeat_port: int = 0,
    limits: Limits | None = None,
) -> int:
    starting = partial(
        serve,
        "127.0.0.1",
        0,
        server_context(node),
        expect,
        handler,
        accept=accept,
        heartbeat_port=heartbeat_port,
        limits=limits,
    )
    port = await nursery.start(starting)
    assert isinstance(port, int)
    return port


__all__ = ["EXPIRES_AT_ONCE", "MACHINE", "NODES", "Pki", "accept_all", "client_context", "echo", "start_server"]
