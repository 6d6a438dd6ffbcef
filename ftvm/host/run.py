"""Putting a node together from its configuration, and running it until it ends."""

from __future__ import annotations

import gc
import ssl
import sys

import trio

from ftvm.arbiter import open_arbiter
from ftvm.config import Config
from ftvm.credentials import contexts_of
from ftvm.errors import FtvmError
from ftvm.host.control import serve_control
from ftvm.host.guest import open_guest
from ftvm.host.links import Links
from ftvm.host.node import NodeShell
from ftvm.host.node_control import handlers
from ftvm.host.node_disks import open_node_disks
from ftvm.host.node_statistics import Outcome
from ftvm.host.settings import datagram_age_max_ns, resume_timeout_s
from transport.errors import ListenFailed
from transport.heartbeat_service import open_heartbeats

SWITCH_INTERVAL_S = 0.0005
"""How long the interpreter lets one thread keep it: the engine and the loop must not wait 5 ms for each other."""

GC_THRESHOLD = 20_000
"""Allocations between two looks of the cyclic collector: messages make no cycles, so there is little to find."""


def _calm_collector() -> None:
    """What is loaded by now stays (a compiler's worth of objects): a full collection of it would stall the guest's
    outputs for longer than a failover takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


async def run_node(
    config: Config,
    name: str,
    role: str,
    *,
    force: bool = False,
    force_restart: bool = False,
    task_status: trio.TaskStatus[NodeShell] = trio.TASK_STATUS_IGNORED,
) -> Outcome:
    """Run node `name` in `role` ("primary" or "shadow") until it ends.

    Starts only after the kernel is compiled, the port is open and the control socket answers; `task_status` gets
    the shell. Raises `FtvmError` for what the user can mend.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config.node(name)
    contexts = contexts_of(config, name)
    guest = await trio.to_thread.run_sync(open_guest, config.machine)
    try:
        disks = open_node_disks(config, name, guest)
        try:
            async with open_arbiter(config, name) as arbiter:
                shell = NodeShell(config, name, arbiter, guest, disks)
                return await _run_shell(shell, config, name, role, contexts, (force, force_restart), task_status)
        finally:
            await disks.aclose(None)
    finally:
        guest.close()


async def _run_shell(
    shell: NodeShell,
    config: Config,
    name: str,
    role: str,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    forced: tuple[bool, bool],
    task_status: trio.TaskStatus[NodeShell],
) -> Outcome:
    node = config.node(name)
    outcome: Outcome | None = None
    failure: FtvmError | None = None
    try:
        async with open_heartbeats(node.listen.host) as heartbeats, trio.open_nursery() as nursery:
            links = Links(
                shell,
                shell.machine_identity,
                config.machine.name,
                name,
                contexts,
                heartbeats,
                config.replication.heartbeat_interval_ms / 1000,
                datagram_age_max_ns(config),
                {peer: config.node(peer).listen for peer in config.nodes if peer != name},
                resume_timeout_s(config),
                nursery,
            )
            try:
                await nursery.start(links.listen, node.listen)
                if node.control is not None:
                    await nursery.start(serve_control, node.control, handlers(shell))
                task_status.started(shell)
                _calm_collector()
                outcome = await shell.run(links, nursery, role, force=forced[0], force_restart=forced[1])
            except (FtvmError, ListenFailed) as error:
                failure = error if isinstance(error, FtvmError) else FtvmError(str(error))
            nursery.cancel_scope.cancel()
    except ListenFailed as error:
        failure = FtvmError(str(error))
    if failure is not None:
        raise failure
    assert outcome is not None
    return outcome
