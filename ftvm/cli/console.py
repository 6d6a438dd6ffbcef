"""`ftvm console`: a terminal on the machine's console, through the edge."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from ftvm.cli.escape import Escape
from ftvm.config import Config, load
from ftvm.host.terminal import ESCAPE


def console(machine: Path, /, *, escape: Escape = ESCAPE) -> int:
    """Talk to the guest's console until the end of input, or Ctrl-] on a terminal. Survives a failover.

    Parameters
    ----------
    machine
        The machine.toml that the nodes share.
    escape
        The key that leaves, with Ctrl: ^] or ^A; or none.
    """
    config = load(machine, environment=os.environ)
    trio.run(_converse, config, escape)
    return 0


async def _converse(config: Config, escape: str) -> None:
    from ftvm.host.console_client import ConsoleClient, connect
    from ftvm.host.terminal import Terminal

    terminal = Terminal(escape=escape)
    stream = await connect(config.edge.listen)
    control = config.edge.control if config.machine.console == "virtio" else None

    def note(text: str) -> None:
        # A raw terminal does not return at a new line.
        print(f"\r\nftvm: {text}\r", file=sys.stderr, flush=True)

    with terminal:
        if terminal.is_raw:
            leave = "" if escape == "none" else f"; {escape.replace('^', 'Ctrl-')} leaves"
            note(f"connected to the console of {config.machine.name}{leave}")
        await ConsoleClient(config.edge.listen, control, terminal, note).run(stream)
