"""`ftvm edge`: where clients meet the machine."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from ftvm.cli.nodes import cancel_on_signal
from ftvm.config import Config, load
from ftvm.host.edge import EdgeShell, run_edge


def edge(machine: Path, /) -> int:
    """Serve the machine's console to clients on [edge] listen, through failovers, until the machine is powered off.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    """
    config = load(machine, environment=os.environ)
    from ftvm.cli.main import say
    from ftvm.host.logs import show_on_stderr

    show_on_stderr()

    async def main() -> bool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
            shell: EdgeShell = await nursery.start(_start, config)
            say(f"clients are served on {config.edge.listen.host}:{shell.port}")
            await shell.halted.wait()
            nursery.cancel_scope.cancel()
        return shell.halted.is_set()

    say("the machine was powered off" if trio.run(main) else "the edge was told to stop")
    return 0


async def _start(config: Config, task_status: trio.TaskStatus[EdgeShell] = trio.TASK_STATUS_IGNORED) -> None:
    await run_edge(config, task_status=task_status)
