"""The library's way to a protected machine: nodes and an edge that run in the caller's program.

Nothing here leaves a task behind: what `open_primary` and `open_edge` run ends with the block that opened it, and
`serve_shadow` and `serve_edge` run where they are called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ftvm.config import Config
from ftvm.errors import ClaimLost, DivergenceError, ExitCode, FtvmError, NotProtected, PeerRefused
from ftvm.host.edge import EdgeShell, run_edge
from ftvm.host.node import NodeShell
from ftvm.host.node_statistics import NodeStatistics, Outcome
from ftvm.host.run import run_node
from ftvm.replication.arbitration import ACCEPTING, State

RECEIVE_SIZE = 65536

_ERRORS: dict[ExitCode, type[FtvmError]] = {
    ExitCode.DIVERGENCE: DivergenceError,
    ExitCode.CLAIM_LOST: ClaimLost,
    ExitCode.REFUSED: PeerRefused,
    ExitCode.NOT_PROTECTED: NotProtected,
}


class Node:
    """One replica of a protected machine, in this program. It ends with the block or the task that runs it."""

    def __init__(self, shell: NodeShell) -> None:
        self._shell = shell

    def statistics(self) -> NodeStatistics:
        """What the node is and has done, as of now."""
        return self._shell.statistics()

    async def wait_protected(self) -> None:
        """Until a shadow is in sync: from there on the machine survives the loss of this node.

        Raises `NotProtected` if the node ends first.
        """
        await self._wait(frozenset({State.PROTECTED}))

    async def wait_live(self) -> None:
        """Until this node runs the machine, protected or alone. Raises `NotProtected` if it ends first."""
        await self._wait(ACCEPTING)

    async def wait_ended(self) -> Outcome:
        """Until the node ends by itself: mostly because the machine was powered off."""
        ended = await self._shell.wait_state(frozenset())
        assert ended is not None
        return ended

    def power_off(self) -> None:
        """Cut the machine's power, where this node runs it. It ends once every output is delivered: `wait_ended`."""
        self._shell.ask_power_off()

    def hand_over(self) -> None:
        """Give the machine to the shadow, without a failure. Nothing happens where none is in sync."""
        self._shell.ask_hand_over()

    async def _wait(self, wanted: frozenset[State]) -> None:
        ended = await self._shell.wait_state(wanted)
        if ended is not None:
            raise NotProtected(f"the node has ended: {ended.line}")


class EdgeClient:
    """The guest's console as a stream of bytes, which a failover does not interrupt.

    One task may send while another receives. A cancelled `receive` loses nothing.
    """

    def __init__(self, shell: EdgeShell, stream: trio.SocketStream) -> None:
        self._shell = shell
        self._stream = stream

    @property
    def port(self) -> int:
        """Where others connect. They wait until this client has left, for the guest has one console."""
        return self._shell.port

    async def send(self, data: bytes) -> None:
        """Cancelled, some of `data` may have been sent. Raises `NotProtected` when the edge has ended."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NotProtected("the edge has ended: the machine was powered off, or started anew") from None

    async def receive(self) -> bytes:
        """What the guest said next, at least one byte; b"" when the machine is powered off."""
        try:
            return await self._stream.receive_some(RECEIVE_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""


@dataclass(frozen=True, slots=True)
class _Told:
    """A `trio.TaskStatus` that calls a function."""

    tell: Callable[[Any], None]

    def started(self, value: Any = None) -> None:
        self.tell(value)


@asynccontextmanager
async def open_primary(
    config: Config, node: str, *, force: bool = False, force_restart: bool = False
) -> AsyncIterator[Node]:
    """Start the machine, or go on from this node's log after a loss of all nodes. In the block the machine runs.

    That is waited for: while another node may hold more, or is live itself, this one does not run the machine.
    Leaving the block ends the node as a crash would: a shadow in sync takes over. `force` starts cold and gives up a
    machine that still has a generation at the arbiter; `force_restart` goes on from the log whoever may hold more.

    Raises `FtvmError` before the block for what the user can mend. If the node ends by a fault, the block is cancelled
    and the fault raised (`DivergenceError`, `ClaimLost`, ...). A power-off is none and lets the block go on.
    """
    shells: list[NodeShell] = []
    started = trio.Event()
    failure: Exception | None = None

    def on_start(shell: NodeShell) -> None:
        shells.append(shell)
        started.set()

    async def run() -> None:
        nonlocal failure
        try:
            told = _Told(on_start)
            outcome = await run_node(
                config, node, "primary", force=force, force_restart=force_restart, task_status=told
            )
            failure = _failure(outcome)
        except FtvmError as error:
            failure = error
        if failure is not None:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await started.wait()
        ended = await shells[0].wait_state(ACCEPTING)
        if ended is not None and _failure(ended) is not None:
            await trio.sleep_forever()  # until `run` knows it too, and cancels
        try:
            yield Node(shells[0])
        except Exception as error:  # raised below: it comes out as it is, in no group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def serve_shadow(
    config: Config, node: str, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run `node` as the machine's shadow until the machine is powered off or the call is cancelled.

    `task_status` gets the `Node` once it listens. It joins as soon as there is a live node, and runs the machine
    after that one's death. Raises `FtvmError` for a fault: `DivergenceError`, `PeerRefused`, ...
    """

    status = _Told(lambda shell: task_status.started(Node(shell)))
    failure = _failure(await run_node(config, node, "shadow", task_status=status))
    if failure is not None:
        raise failure


def _failure(outcome: Outcome) -> FtvmError | None:
    if outcome.code in (ExitCode.OK, ExitCode.GUEST_FAILED):
        return None
    return _ERRORS.get(outcome.code, FtvmError)(outcome.line)


@asynccontextmanager
async def open_edge(config: Config) -> AsyncIterator[EdgeClient]:
    """Run the machine's edge for as long as the block lasts, with a client of our own as the first in line.

    The edge listens on `[edge] listen` for other clients too. Raises `FtvmError` if it cannot. Nodes may come and go,
    and need not be there yet: what is sent early is delivered when there is a live one.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            shell: EdgeShell = await nursery.start(_run_edge, config)
            async with await trio.open_tcp_stream(config.edge.listen.host, shell.port) as stream:
                yield EdgeClient(shell, stream)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def serve_edge(config: Config, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the machine's edge until the machine is powered off. `task_status` gets the port that clients connect to."""

    await run_edge(config, task_status=_Told(lambda shell: task_status.started(shell.port)))


async def _run_edge(config: Config, task_status: trio.TaskStatus[EdgeShell]) -> None:
    await run_edge(config, task_status=task_status)
