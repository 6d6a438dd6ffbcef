"""`ftvm witness`: the arbiter on a third host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter

from ftvm.cli.nodes import cancel_on_signal
from ftvm.config import Address, Config, load
from ftvm.errors import ConfigError, ExitCode, FtvmError
from transport.background import open_background


def witness(
    machine: Path,
    /,
    *,
    listen: Annotated[str | None, Parameter(env_var="FTVM_WITNESS_LISTEN")] = None,
    store: Annotated[Path | None, Parameter(env_var="FTVM_WITNESS_STORE")] = None,
) -> int:
    """Grant generations to the nodes of a machine, from a third host, until told to stop.

    The host needs this machine.toml with `[arbiter] kind = "witness"`, the certificates' folder `witness` that
    `ftvm certs init` made, and an empty folder for the records on a disk of its own: make that folder once, and
    never put back an older copy of it. The guest's image is not needed. Give each machine a witness of its own.

    Exits with 0 on SIGTERM, with 8 if the records are damaged, missing or another machine's.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    listen
        HOST:PORT to listen on; as a rule [arbiter] address. Port 0: any free one.
    store
        The folder for the records; as a rule [arbiter] path.
    """
    config = load(machine, environment=os.environ)
    address, path = _address(config, machine, listen), _store(config, machine, store)
    from ftvm.arbiter.witness import WitnessServer
    from ftvm.cli.main import say
    from ftvm.credentials import WITNESS, contexts_of
    from ftvm.host.logs import show_on_stderr
    from transport.errors import ListenFailed

    show_on_stderr()
    context, _ = contexts_of(config, WITNESS)

    async def main() -> None:
        async with open_background() as nursery:
            nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
            server = WitnessServer(path, config.machine.name)
            port = await nursery.start(server.serve, address, context)
            say(f"witness of {config.machine.name}: {path} is served on {Address(address.host, port)}")
            await trio.sleep_forever()

    try:
        trio.run(main)
    except ListenFailed as error:
        raise FtvmError(f"{error}; choose another with --listen") from None
    say("the witness was told to stop")
    return ExitCode.OK


def _address(config: Config, file: Path, listen: str | None) -> Address:
    if config.arbiter.kind != "witness":
        raise ConfigError(f'{file}: [arbiter] kind: expected "witness", got "{config.arbiter.kind}"; nobody would ask')
    if listen is None:
        assert config.arbiter.address is not None
        return config.arbiter.address
    try:
        return Address.parse(listen)
    except ValueError:
        raise ConfigError(f'--listen: expected an address as "host:port", got {listen!r}; correct it') from None


def _store(config: Config, file: Path, store: Path | None) -> Path:
    path = store or config.arbiter.path
    if path is None:
        raise ConfigError(f"{file}: [arbiter] path: missing; say where the witness keeps its records, or give --store")
    return path
