"""The edge: where clients meet the machine, and stay connected while replicas come and go.

Theory of operation. The guest's console is one byte stream each way; clients are TCP connections. One client at a
time has the stream, the others queue in order of arrival. When a client leaves, the next one must not see the rest
of its answers, and the guest must forget the half request: so the edge sends a *break*, which is logged like any
input; the guest resets its parser and answers with a break of its own, and everything before that is thrown away.
(`[edge] sessions = "plain"` leaves breaks out, for guests that know nothing of them: then clients share a console.)

The guest's network card is another stream, whose other end is `edge_network`. Of a machine with two consoles clients
have the one that it was configured with; what is said on the other one, or by a card without a network, ends here.

Offsets, de-duplication, resending and the fence against old generations are in `ftvm.replication.edge.EdgeCore`.
This file carries bytes. A client's socket is written in the same step in which the output arrives.
"""

from __future__ import annotations

import ipaddress
import itertools
import ssl
from collections import Counter, deque
from typing import cast

import trio

from ftvm.config import Address, Config
from ftvm.config.machine import MTU_DEFAULT
from ftvm.credentials import EDGE, ROLE_NODE, contexts_of
from ftvm.errors import FtvmError, ProtocolError
from ftvm.host import logs, welcome
from ftvm.host.control import Answer, ControlError, serve_control
from ftvm.host.edge_client import Client
from ftvm.host.edge_network import EdgeNetwork
from ftvm.host.network import DEVICE as NETWORK
from ftvm.log.codec import CELLS_MAX
from ftvm.replication.codec import EDGE_MESSAGES, decode, encode
from ftvm.replication.edge import (
    Deliver,
    EdgeCore,
    EdgeEffect,
    Fault,
    InputAcked,
    MachineHalted,
    SendNode,
    StreamReset,
)
from ftvm.replication.edge_sessions import INPUT_WINDOW
from ftvm.replication.messages import EdgeMessage
from transport.background import open_background
from transport.channel import Channel, Limits, open_channel
from transport.errors import CertificateProblem, ChannelClosed, PeerRefused, TransportError
from transport.identity import Expectation

DEVICES = ("uart0", "console0", NETWORK)
"""All that a machine may have: whichever a node names is heard."""

RECONNECT_S = 0.05
REFUSED_S = 1.0
"""Every refusal is a line in the node's log."""

FLUSH_S = 0.02
BREAK_AGAIN_S = 1.0
CLIENTS_WAITING_MAX = 256
HEAR_OUT_MAX_S = 5.0
FIRST_ANSWER_S = 0.5
QUIET_S = 0.05
QUIET_ANSWERED_S = 0.01
"""A client that has closed its side only is heard out: it gets what the guest says until that is quiet. Sooner where
its last words had an answer, for most clients that close are gone, and another one waits."""

SCROLLBACK_MAX = 65536
"""Plain sessions: bytes of console output that the next client gets to see first."""

_log = logs.get_logger("edge")


class EdgeShell:
    """The trio shell around `EdgeCore`; made and run by `run_edge`."""

    def __init__(self, config: Config, *, breaks: bool) -> None:
        self._config = config
        self._breaks = breaks
        self._console = config.machine.console_device
        self._core = EdgeCore(DEVICES)
        self._network: EdgeNetwork | None = None
        self._numbers = itertools.count(1)
        self._channels: dict[int, Channel] = {}
        self._nodes: dict[int, str] = {}
        self._delivered: Counter[str] = Counter()
        self._scopes: dict[int, trio.CancelScope] = {}
        self._client: Client | None = None
        self._turn = trio.Lock()
        self._waiting = 0
        self._served = 0
        self._scrollback: deque[bytes] = deque()
        self._scrollback_size = 0
        self._room = trio.Event()
        self._flush_due = trio.Event()
        self._discarding = False
        self._answered = trio.Event()
        self._must_break = breaks
        self._unanswered = False
        self._spoke = trio.lowlevel.ParkingLot()
        self.halted = trio.Event()
        self.port = 0

    async def run(self, task_status: trio.TaskStatus[EdgeShell] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the machine is powered off, or cancelled. Raises `FtvmError` if it cannot listen."""
        address = self._config.edge.listen
        _, context = contexts_of(self._config, EDGE)
        try:
            listeners = await trio.open_tcp_listeners(address.port, host=address.host)
        except OSError as error:
            raise FtvmError(f"[edge] listen = {address}: {error.strerror or error}; choose another port") from None
        self.port = int(listeners[0].socket.getsockname()[1])
        async with open_background() as nursery:
            if (spec := self._config.edge.network()) is not None:
                self._network = EdgeNetwork(spec, self._config.machine.mtu or MTU_DEFAULT, self._core, self._perform)
                nursery.start_soon(self._network.run)
            for name, node in self._config.nodes.items():
                nursery.start_soon(self._follow_node, name, node.listen, context)
            nursery.start_soon(self._flush_loop)
            nursery.start_soon(trio.serve_listeners, self._serve_client, listeners)
            if self._config.edge.control is not None:
                handlers = {"status": self._answer_status, "resize": self._answer_resize}
                await nursery.start(serve_control, self._config.edge.control, handlers)
            task_status.started(self)
            await self.halted.wait()
            if self._client is not None:
                with trio.move_on_after(HEAR_OUT_MAX_S):
                    await self._client.flushed()

    # ---- nodes

    async def _follow_node(self, name: str, address: Address, context: ssl.SSLContext) -> None:
        """Stay connected to one node, for ever; the core decides which node counts."""
        expect = Expectation(self._config.machine.name, frozenset({ROLE_NODE}))
        limits = Limits(handshake_timeout_s=2.0, close_timeout_s=0.2)
        told = ""
        while True:
            try:
                async with open_channel(
                    address.host,
                    address.port,
                    context,
                    expect,
                    welcome.edge_hello(),
                    limits=limits,
                ) as channel:
                    told = ""
                    await self._serve_node(name, channel)
            except TransportError as error:
                if str(error) != told:
                    told = str(error)
                    _log.info("node is not reachable", node=name, why=told)
                if isinstance(error, PeerRefused | CertificateProblem):
                    await trio.sleep(REFUSED_S)
            await trio.sleep(RECONNECT_S)

    async def _serve_node(self, name: str, channel: Channel) -> None:
        session = next(self._numbers)
        self._channels[session], self._nodes[session] = channel, name

        def take(encoded: bytes) -> None:
            message = decode(encoded, allowed=EDGE_MESSAGES)
            effects = self._core.received(session, cast(EdgeMessage, message))
            self._delivered[name] += sum(len(effect.data) for effect in effects if isinstance(effect, Deliver))
            self._perform(effects)
            if self._network is not None:
                self._network.step()

        try:
            with trio.CancelScope() as self._scopes[session]:
                await channel.receive_each(take)
        except (ChannelClosed, ProtocolError) as error:
            _log.info("session with node ended", node=name, why=str(error))
        finally:
            self._scopes.pop(session, None)
            del self._channels[session], self._nodes[session]
            self._perform(self._core.node_lost(session))

    def _perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case SendNode(session, message):
                    self._send(session, message)
                case Deliver(device, _, data, is_break):
                    self._deliver(device, data, is_break)
                case InputAcked():
                    self._room.set()
                case StreamReset(device):
                    self._reset_stream(device)
                case Fault(session, text):
                    _log.error("node broke the protocol", node=self._nodes.get(session, "?"), what=text)
                    self._end_session(session)
                case MachineHalted():
                    _log.info("the machine is powered off")
                    self.halted.set()

    def _send(self, session: int, message: EdgeMessage) -> None:
        channel = self._channels.get(session)
        if channel is None:
            return
        try:
            channel.send_nowait(encode(message))
        except (ChannelClosed, trio.WouldBlock):
            self._end_session(session)

    def _end_session(self, session: int) -> None:
        scope = self._scopes.pop(session, None)
        if scope is not None:
            scope.cancel()

    async def _flush_loop(self) -> None:
        """Confirm outputs in batches: what is confirmed late is only kept longer."""
        while True:
            await self._flush_due.wait()
            await trio.sleep(FLUSH_S)
            self._flush_due = trio.Event()
            self._perform(self._core.flush())

    # ---- the streams

    def _deliver(self, device: str, data: bytes, is_break: bool) -> None:
        self._flush_due.set()
        if device == self._console:
            self._deliver_to_client(data, is_break)
        elif device == NETWORK and self._network is not None:
            self._network.deliver(data)

    def _deliver_to_client(self, data: bytes, is_break: bool) -> None:
        if is_break:
            self._discarding = False
            self._answered.set()
        elif self._discarding:
            return
        elif self._client is not None:
            self._unanswered = False
            self._client.push(data)
            self._spoke.unpark_all()
        elif not self._breaks:
            self._scrollback.append(data)
            self._scrollback_size += len(data)
            while self._scrollback_size > SCROLLBACK_MAX:
                self._scrollback_size -= len(self._scrollback.popleft())

    def _reset_stream(self, device: str) -> None:
        """The machine was started cold: whoever was connected spoke to another one."""
        if device == NETWORK and self._network is not None:
            self._network.reset()
        if device != self._console:
            return
        if self._client is not None:
            self._client.gone.set()
            self._client.close()
        self._must_break = self._breaks
        self._room.set()
        self._answered.set()

    async def _input(self, data: bytes, client: Client | None = None, *, is_break: bool = False) -> None:
        """Give the machine input; waits for room in the window of what it has not acknowledged.

        What a client that is gone had still to say is not given to anybody.
        """
        while data and not (client is not None and client.gone.is_set()):
            room = self._core.input_room(self._console)
            if room <= 0:
                self._room = trio.Event()
                await self._room.wait()
                continue
            self._perform(self._core.client_input(self._console, data[:room], is_break=is_break))
            data = data[room:]

    # ---- clients

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        if self._waiting >= CLIENTS_WAITING_MAX:
            _log.warning("too many clients wait: one turned away", waiting=self._waiting)
            await stream.aclose()
            return
        try:
            client = Client(stream)
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        self._waiting += 1
        try:
            async with self._turn:
                await self._exchange_breaks()
                await self._converse(client)
                client.close()
                await self._exchange_breaks()
        finally:
            self._waiting -= 1
            client.close()

    async def _exchange_breaks(self) -> None:
        """Make the guest forget the client before, and throw away what it still says to it."""
        while self._must_break and not self.halted.is_set():
            self._discarding = True
            self._answered = trio.Event()
            await self._input(b"\0", is_break=True)
            while not self._answered.is_set():
                with trio.move_on_after(BREAK_AGAIN_S):
                    await self._answered.wait()
                    break
                if self._all_logged():
                    await self._input(b"\0", is_break=True)  # a guest that reset itself has forgotten the first
            self._must_break = self._discarding  # still discarding: the machine was started anew meanwhile
        self._discarding = False

    async def _converse(self, client: Client) -> None:
        self._client = client
        self._unanswered = False
        self._served += 1
        for data in self._scrollback:
            client.push(data)
        self._scrollback.clear()
        self._scrollback_size = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.drain)
            nursery.start_soon(self._wait_gone, client, nursery.cancel_scope)
            while data := await client.receive():
                self._must_break = self._breaks
                self._unanswered = True
                await self._input(data, client)
            await self._hear_out(client)
            nursery.cancel_scope.cancel()
        self._client = None

    async def _hear_out(self, client: Client) -> None:
        """The client has said all. It may be gone, or only have closed its side, and wait for answers."""
        with trio.move_on_after(HEAR_OUT_MAX_S):
            wait_s = FIRST_ANSWER_S if self._unanswered else QUIET_ANSWERED_S
            is_quiet = False
            while not is_quiet:
                with trio.move_on_after(wait_s) as quiet:
                    await self._spoke.park()
                # Silence while a failover is under way says nothing about the guest.
                wait_s, is_quiet = QUIET_S, quiet.cancelled_caught and self._all_logged()
            await client.flushed()

    def _all_logged(self) -> bool:
        """A node is live for us, and has every input in the log."""
        return self._core.statistics().attached is not None and self._core.input_room(self._console) == INPUT_WINDOW

    async def _wait_gone(self, client: Client, scope: trio.CancelScope) -> None:
        await client.gone.wait()
        scope.cancel()

    async def _answer_resize(self, request: Answer) -> Answer:
        """The size of the terminal on the console: `{"columns": 80, "rows": 24}`."""
        columns, rows = request.get("columns"), request.get("rows")
        for cells in (columns, rows):
            if type(cells) is not int or not 0 < cells <= CELLS_MAX:
                raise ControlError(f'"columns" and "rows" are integers from 1 to {CELLS_MAX}')
        self._perform(self._core.resize(columns, rows))  # type: ignore[arg-type]
        return {}

    async def _answer_status(self, _request: Answer) -> Answer:
        core = self._core.statistics()
        return {
            "edge": str(self._config.edge.listen),
            "port": self.port,
            "nodes": sorted(self._nodes[session] for session in self._channels),
            "generation": core.generation,
            "live": "" if core.attached is None else self._nodes.get(core.attached, ""),
            "delivered": dict(self._delivered),
            "repeated": core.repeated,
            "refused": core.refused,
            "clients": self._waiting,
            "served": self._served,
            "client": None if self._client is None else self._client.name,
            "network": None if self._network is None else self._network.describe(),
        }


def is_loopback(address: Address) -> bool:
    """Whether only this machine can reach the address. The edge speaks in the clear to its clients."""
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host == "localhost"


async def run_edge(config: Config, *, task_status: trio.TaskStatus[EdgeShell] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the edge of a machine until the machine is powered off."""
    shell = EdgeShell(config, breaks=config.breaks)
    if not is_loopback(config.edge.listen):
        _log.warning("clients are not authenticated here", listen=str(config.edge.listen))
    await shell.run(task_status)
