"""What the demonstration needs of the machine that it runs on."""

from __future__ import annotations

import os
import shutil
import socket


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def find_tool(name: str) -> str | None:
    """A program of the user's machine, such as `redis-cli`."""
    return shutil.which(name, path=os.environ.get("PATH"))
