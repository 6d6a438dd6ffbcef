"""`ftvm edge`: where clients meet the machine."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from ftvm.cli.nodes import cancel_on_signal
from ftvm.config import load
from ftvm.host.edge import EdgeShell, run_edge
from transport.background import open_background


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
        halted = False
        async with open_background() as nursery:

            async def serve(task_status: trio.TaskStatus[EdgeShell]) -> None:
                nonlocal halted
                await run_edge(config, task_status=task_status)
                halted = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
            shell: EdgeShell = await nursery.start(serve)
            say(f"clients are served on {config.edge.listen.host}:{shell.port}")
            await trio.sleep_forever()
        return halted

    say("the machine was powered off" if trio.run(main) else "the edge was told to stop")
    return 0
