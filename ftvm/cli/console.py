"""`ftvm console`: a terminal on the machine's console, through the edge."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import trio

from ftvm.config import Config, load
from ftvm.errors import NotProtected

READ_SIZE = 4096
TYPING_WAIT_S = 0.2
QUIET_S = 0.5
"""After the end of input: how long the guest may be silent before we leave."""


def console(machine: Path, /) -> int:
    """Talk to the guest's console until the end of input, or Ctrl-] on a terminal. Survives a failover.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    """
    config = load(machine, environment=os.environ)
    trio.run(_converse, config)
    return 0


async def _converse(config: Config) -> None:
    from ftvm.host.terminal import Terminal

    address = config.edge.listen
    try:
        stream = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        raise NotProtected(f"no edge at {address} ({error}); start it with `ftvm edge`") from None
    quiet = trio.CancelScope()
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(_show, stream, quiet, nursery.cancel_scope)
        with Terminal() as terminal:
            while not terminal.stop_wanted and not terminal.at_end:
                typed = await trio.to_thread.run_sync(terminal.read, READ_SIZE, TYPING_WAIT_S)
                if typed:
                    await stream.send_all(typed)
            # Input that ends is no wish to miss the answers to it.
            if not terminal.stop_wanted:
                quiet.deadline = trio.current_time() + QUIET_S
                with quiet:
                    await trio.sleep_forever()
        nursery.cancel_scope.cancel()


async def _show(stream: trio.SocketStream, quiet: trio.CancelScope, scope: trio.CancelScope) -> None:
    async for data in stream:
        if quiet.deadline < math.inf:
            quiet.deadline = trio.current_time() + QUIET_S
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    scope.cancel()
