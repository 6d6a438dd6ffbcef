"""Who grants generations: a folder, a witness, or an etcd cluster, as `[arbiter]` says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ftvm.arbiter.client import Arbiter
from ftvm.arbiter.directory import DirectoryStore
from ftvm.config import Config


@asynccontextmanager
async def open_arbiter(config: Config, node: str) -> AsyncIterator[Arbiter]:
    """The machine's arbiter, for `node`, whose certificate it uses where one is needed.

    Nothing is asked yet, so a server need not be there. Raises `FtvmError` for files that cannot be used.
    """
    machine, arbiter = config.machine.name, config.arbiter
    match arbiter.kind:
        case "directory":
            assert arbiter.path is not None
            yield Arbiter(DirectoryStore(arbiter.path), machine)
        case "witness":
            from ftvm.arbiter.witness import open_witness

            async with open_witness(config, node) as witness:
                yield witness
        case _:
            from ftvm.arbiter.etcd import open_etcd

            async with open_etcd(config) as etcd:
                yield etcd
