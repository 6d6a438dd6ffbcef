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
from ftvm.errors import ExitCode, UsageError
from transport.background import open_background

Node = Annotated[str, Parameter(name=["--node", "-n"], env_var="FTVM_NODE")]


def primary(
    machine: Path,
    /,
    *,
    node: Node,
    force: Annotated[bool, Parameter(negative="")] = False,
    force_restart: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Start a machine, or go on with one: whatever is right after what happened.

    Never started, or powered off: a cold start. Lost on all nodes: this one goes on from its log, once every member
    that may hold more was heard and does not; it waits for those, and says so. Live elsewhere: this node joins it as a
    shadow, if it has a log of the machine (so one command may stand in a service that is always started again).

    Parameters
    ----------
    machine
        The machine.toml that both nodes share.
    node
        Which of its [nodes] this process is.
    force
        The last resort: start cold, and give up a machine that still has a generation at the arbiter, with all it was.
    force_restart
        Go on from this node's log although a node that cannot be asked may hold more, or a newer generation is known
        to be lost: what came after this log is given up.
    """
    if force and force_restart:
        raise UsageError("--force starts cold, --force-restart goes on from the log: give one of them")
    return _run(machine, node, "primary", force=force, force_restart=force_restart)


def shadow(machine: Path, /, *, node: Node) -> int:
    """Join the live node as its shadow: follow it in lockstep, and take over when it dies.

    Where none is live after a loss of all nodes, and this one's log is the longest, it goes on from that.

    Parameters
    ----------
    machine
        The machine.toml that both nodes share.
    node
        Which of its [nodes] this process is.
    """
    return _run(machine, node, "shadow")


def _run(machine: Path, node: str, role: str, *, force: bool = False, force_restart: bool = False) -> int:
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
            return await run_node(config, node, role, force=force, force_restart=force_restart)
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
