"""`ftvm primary` and `ftvm shadow`: one node of a protected machine, in the foreground until it ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import Parameter

from ftvm.cli.progress import prepared_kernel
from ftvm.config import load
from ftvm.errors import ExitCode
from transport.background import open_background

Node = Annotated[str, Parameter(name=["--node", "-n"], env_var="FTVM_NODE")]


def primary(machine: Path, /, *, node: Node, force: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Start a machine cold, as its first primary.

    Parameters
    ----------
    machine
        The machine.toml that both nodes share.
    node
        Which of its [nodes] this process is.
    force
        Give up a machine that still has a generation at the arbiter, and what it holds.
    """
    return _run(machine, node, "primary", force=force)


def shadow(machine: Path, /, *, node: Node) -> int:
    """Join the live node as its shadow: follow it in lockstep, and take over when it dies.

    Parameters
    ----------
    machine
        The machine.toml that both nodes share.
    node
        Which of its [nodes] this process is.
    """
    return _run(machine, node, "shadow", force=False)


def _run(machine: Path, node: str, role: str, *, force: bool) -> int:
    config = load(machine, environment=os.environ)
    config.node(node)
    prepared_kernel()
    from ftvm.host.logs import show_on_stderr
    from ftvm.host.node_statistics import Outcome
    from ftvm.host.run import run_node

    show_on_stderr()

    async def main() -> Outcome:
        async with open_background() as nursery:
            nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
            return await run_node(config, node, role, force=force)
        return Outcome(ExitCode.OK, f"node {node} was told to stop")

    outcome = trio.run(main)
    print(f"ftvm: {role} {node}: {outcome.line}", file=sys.stderr)
    return int(outcome.code)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """SIGTERM and SIGINT end a node or an edge in order."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
