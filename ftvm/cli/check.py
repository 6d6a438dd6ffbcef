"""`ftvm check`: says what is wrong with a `machine.toml` and what it needs, before a node is started with it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ftvm.config import Config, load
from ftvm.credentials import EDGE, WITNESS
from ftvm.errors import CertificateError, ExitCode, FtvmError, ImageError

Check = Callable[[Config], str]


def check(machine_toml: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Check a machine.toml, its image, its arbiter and the certificates that are on this host.

    Exits with 0 if all is well, otherwise with the code of the first thing that is not.

    Parameters
    ----------
    machine_toml
        The file to check.
    as_json
        Report as one JSON object.
    """
    config = load(machine_toml, environment=os.environ)
    checks: list[tuple[str, Check]] = [
        ("image", _check_image),
        ("arbiter", _check_arbiter),
        *((f"certificates of {name}", _certificates_of(name)) for name in _certified(config)),
    ]
    code: int = ExitCode.OK
    report = {"machine.toml": f"machine {config.machine.name}, nodes {' and '.join(config.nodes)}"}
    for name, one in checks:
        try:
            report[name] = one(config)
        except FtvmError as error:
            report[name] = f"WRONG: {error}"
            code = code or error.exit_code
    if as_json:
        print(json.dumps({"ok": code == ExitCode.OK, **report}))
    else:
        for name, text in report.items():
            print(f"{name}: {text}")
    return code


def _certified(config: Config) -> list[str]:
    """Whose certificates are needed on some host."""
    return [*config.nodes, EDGE, *([WITNESS] if config.arbiter.kind == "witness" else [])]


def _check_image(config: Config) -> str:
    from ftvm.host.disk import close_disks, open_disks
    from ftvm.host.guest import board_of, read_image
    from ftvm.machine.image import load_image

    content = read_image(config.machine)
    path = config.machine.program
    disks = open_disks(config.machine.disks)
    try:
        load_image(content, board_of(config.machine, disks))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    finally:
        close_disks(disks)
    return f"{path}: {len(content)} bytes, fits into {config.machine.ram_mib} MiB"


def _check_arbiter(config: Config) -> str:
    import trio

    from ftvm.arbiter import open_arbiter

    # A witness must be asked as a node: as one whose certificate is on this host.
    here = [name for name in config.nodes if config.security.folder(name).exists()]
    if config.arbiter.kind == "witness" and not here:
        return f"witness {config.arbiter.address}: not asked, for no node's certificate is on this host"

    async def ask() -> str:
        async with open_arbiter(config, next(iter(here or config.nodes))) as arbiter:
            ledger = await arbiter.check()
            return f"{arbiter.name}: " + ("powered off" if ledger.off else f"generation {ledger.current}")

    return trio.run(ask)


def _certificates_of(name: str) -> Check:
    def checked(config: Config) -> str:
        from transport.certificates import node_identity, server_context
        from transport.errors import TransportError

        folder = config.security.folder(name)
        if not folder.exists():
            return f"{folder}: not on this host"
        try:
            server_context(folder)
            identity = node_identity(folder)
        except (TransportError, OSError) as error:
            raise CertificateError(str(error)) from None
        if (identity.machine_id, identity.name) != (config.machine.name, name):
            raise CertificateError(
                f"{folder}: for {identity.name} of machine {identity.machine_id}, not for {name} of"
                f" {config.machine.name}; use the folder that `ftvm certs init` made for it"
            )
        return f"{folder}: valid"

    return checked
