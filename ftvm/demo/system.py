"""What the demonstration needs of the machine that it runs on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
from contextlib import ExitStack

PORTS = range(16_384, 32_768)
"""Below those that Linux gives to outgoing connections (ip_local_port_range): a node that is killed and started again
would else find, once in a while, that somebody's connection has its port."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, each another one."""
    with ExitStack() as taken:
        found: list[int] = []
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            one = taken.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            found.append(port)
        return found


def find_tool(name: str) -> str | None:
    """A program of the user's machine, such as `redis-cli`."""
    return shutil.which(name, path=os.environ.get("PATH"))
