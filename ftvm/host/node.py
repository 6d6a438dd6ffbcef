"""A node: the imperative shell around one replica.

Theory of operation. Everything that decides is in `ftvm.replication.Node`, which sees events and answers with
effects. This file only carries: channels, the arbiter's answers and time go in; the effects are carried out, in their
order, synchronously (those on the machine by its `MachineRoom`, where the engine's reports come from). What takes
time (a question to the arbiter, a probe) is started as a task and comes back as another event. Events that arise
while effects are carried out wait their turn in one queue, so the core is never entered twice.

When the core says `StartOver`, the machine and its life are thrown away and a new core joins as a shadow.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from ftvm.config import Config
from ftvm.config.machine import MTU_DEFAULT
from ftvm.errors import ArbiterError, ExitCode, FtvmError, PeerRefused
from ftvm.host import logs, node_statistics, settings
from ftvm.host.control import Answer
from ftvm.host.guest import Guest
from ftvm.host.links import Links
from ftvm.host.machine_room import MachineRoom
from ftvm.host.network import DEVICE as NETWORK
from ftvm.host.network import open_network
from ftvm.host.node_disks import NodeDisks
from ftvm.host.node_statistics import Counters, FailoverTimes, NodeStatistics, Outcome
from ftvm.host.node_tap import NodeTap
from ftvm.log.entry import Digest
from ftvm.replication import codec, effects
from ftvm.replication.arbitration import State
from ftvm.replication.events import Presence
from ftvm.replication.messages import LIFE_SIZE, Activate, Claim, EdgeMessage, Granted, Kind, Life, PeerMessage
from ftvm.replication.node import Node

NS_PER_S = 1_000_000_000
NEVER_NS = 1 << 63
TURNS_BEFORE_JUDGING = 3
"""Turns of the scheduler from bytes that can be read to the message in the core: socket, channel, reader."""

_log = logs.get_logger("node")


class NodeShell:
    """Runs one node until it ends; made by `ftvm.host.run.run_node`."""

    def __init__(self, config: Config, name: str, arbiter: Any, guest: Guest, disks: NodeDisks) -> None:
        self._config = config
        self._name = name
        self._arbiter = arbiter
        self._guest = guest
        self._events: deque[Callable[[], list[effects.Effect]]] = deque()
        self._performing = False
        self._ended = trio.Event()
        self._outcome: Outcome | None = None
        self._timer_scope = trio.CancelScope()
        self._armed_ns = NEVER_NS
        self._times = FailoverTimes()
        self._counters = Counters()
        self._joining = trio.Lock()
        self._failure: Exception | None = None
        self._moved = trio.lowlevel.ParkingLot()
        self._room = MachineRoom(config, name, guest, disks, self, self._counters)
        self.machine_identity = self._room.identity
        self._tap: NodeTap | None = None
        self._links: Links
        self._nursery: trio.Nursery
        self._core = self._new_core()

    # ---- life

    def _new_core(self) -> Node:
        self._life: Life = os.urandom(LIFE_SIZE)
        return Node(settings.of_core(self._config, self._name, self._guest.memory_mib), self._life)

    async def run(
        self, links: Links, nursery: trio.Nursery, role: str, *, force: bool = False, force_restart: bool = False
    ) -> Outcome:
        """Start in `role` ("primary" or "shadow") and return when the core (or a fault) ends the node."""
        self._links, self._nursery = links, nursery
        wake = trio.lowlevel.current_trio_token().run_sync_soon
        self._room.open(nursery, partial(wake, self._collect, idempotent=True))
        nursery.start_soon(self._keep_time)
        if (spec := self._config.node(self._name).tap_network()) is not None:
            machine = self._config.machine
            network = open_network(spec, mtu=machine.mtu or MTU_DEFAULT)
            self._tap = NodeTap(network, machine.mac_address, lambda: self._core, self._hear_frame)
            nursery.start_soon(self._run_tap, self._tap)
        try:
            ledger = await self._arbiter.read()  # better to hear now that it cannot be asked than at the failover
            held = await self._room.inspect_log()
            if role == "primary":
                await self._room.load_disks(ledger, force=force)
                start = partial(self._core.start_primary, force=force, held=held, force_restart=force_restart)
            else:
                start = partial(self._core.start_shadow, held=held)
            self._event(start)
            await self._ended.wait()
        finally:
            links.close_all("the node stops")
            await self._room.aclose()
        if self._failure is not None:
            raise self._failure
        assert self._outcome is not None
        return self._outcome

    async def _run_tap(self, tap: NodeTap) -> None:
        try:
            await tap.run()
        except FtvmError as error:
            self.stop(str(error), error.exit_code)

    def _hear_frame(self, data: bytes) -> None:
        self._event(lambda now: self._core.local_input(NETWORK, data, now))

    def stop(self, line: str, code: ExitCode = ExitCode.OK) -> None:
        """End the run; the first reason counts."""
        if self._outcome is None:
            self._outcome = Outcome(code, line)
        self._ended.set()
        self._moved.unpark_all()

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope() as self._timer_scope:
                self._armed_ns = NEVER_NS
                self._set_timer()
                await trio.sleep_forever()
            # After a stall of our own what the peer said lies unread: hear it before it is judged for silence.
            for _ in range(TURNS_BEFORE_JUDGING):
                await trio.lowlevel.checkpoint()
            self._event(lambda now: self._core.timer(now))

    def _set_timer(self) -> None:
        """Only ever to an earlier time: a timer that comes too early is harmless, and most move later all the time."""
        due_ns = self._core.next_timer_ns()
        if due_ns is not None and due_ns < self._armed_ns:
            self._armed_ns = due_ns
            wait_ns = max(0, due_ns - time.monotonic_ns())
            self._timer_scope.deadline = trio.current_time() + wait_ns / NS_PER_S

    # ---- events in, effects out

    def _event(self, event: Callable[[int], list[effects.Effect]]) -> None:
        """Tell the core something, and carry out what it answers. Never re-enters the core."""
        core = self._core
        checked = lambda: event(time.monotonic_ns()) if core is self._core else []  # noqa: E731
        if self._performing:
            self._events.append(checked)
        else:
            self._run_events(checked)

    def _run_events(self, first: Callable[[], list[effects.Effect]] | None) -> None:
        """Everything the engine did comes before `first`, so that an acknowledgement tells how far it got."""
        self._performing = True
        try:
            self._room.take_reports()
            if first is not None:
                self._events.append(first)
            while self._events and self._outcome is None:
                self._perform_events()
                # What is to be sent goes out before the guest runs: the answer of a peer is waited for longest.
                self._links.flush()
                self._room.proceed(self._core)
        finally:
            self._performing = False
        self._moved.unpark_all()
        if self._outcome is None:
            self._set_timer()
            if self._tap is not None:
                self._tap.kick()

    def _perform_events(self) -> None:
        while self._events and self._outcome is None:
            for effect in self._events.popleft()():
                self._perform(effect)

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send(session, message):
                if not self._links.send(session, message):
                    self._event(lambda now: self._core.session_lost(session, now))
            case effects.SendEdge(edge, message):
                if not self._links.send(edge, message):
                    self._event(lambda now: self._core.edge_lost(edge, now))
                elif self._times.live_ns and not self._times.first_output_ns:
                    self._times.first_output_ns = time.monotonic_ns()
            case effects.CloseSession(session, reason) | effects.CloseEdge(session, reason):
                self._links.close(session, reason)
            case effects.AskArbiter(request):
                self._nursery.start_soon(self._ask_arbiter, self._core, request)
            case effects.Probe(peer):
                self._nursery.start_soon(self._probe, self._core, peer)
            case effects.Join(peer):
                self._nursery.start_soon(self._join, peer, self._life)
            case effects.EmitLocal(_, data):
                assert self._tap is not None
                self._tap.emit(data)
            case effects.LocalLive(_):
                assert self._tap is not None
                self._tap.go_live()
            case effects.StartOver(reason):
                self.note(f"starts over: {reason}")
                self._nursery.start_soon(self._start_over)
            case effects.Frozen(reason):
                self.note(f"frozen: {reason}")
            case effects.Exit(code, line):
                self.stop(line, code)
            case effects.Note(text):
                self.note(text)
            case _:
                self._room.carry_out(effect)

    def note(self, text: str) -> None:
        """For the log and for `status`."""
        if self._counters.notes and self._counters.notes[-1] == text:
            return  # what is tried again and again fails in the same words
        self._counters.notes.append(text)
        _log.info(text, node=self._name, generation=self._core.generation, state=self._core.state.name)

    # ---- the arbiter, probes, snapshots: what takes time

    async def _ask_arbiter(self, core: Node, request: Any) -> None:
        if isinstance(request, Claim) and request.kind is Kind.PROMOTE and not self._times.claimed_ns:
            self._times.claimed_ns = time.monotonic_ns()
        try:
            answer = await self._arbiter.ask(request)
        except ArbiterError as error:
            why = str(error)
            if core is self._core and core.state is State.BOOTING:
                self.stop(why, error.exit_code)  # nothing runs yet, and somebody is looking
            self.tell(core, lambda now: core.arbiter_failed(why, now))
            return
        now_ns = time.monotonic_ns()
        if isinstance(request, Claim):
            self._times.granted_ns = now_ns
            granted = core is self._core and request.kind is Kind.PROMOTE and isinstance(answer, Granted)
            if granted and self._tap is not None:
                self._tap.expect()
        elif isinstance(request, Activate):
            self._times.activated_ns = now_ns
        self.tell(core, lambda now: core.arbiter_answered(answer, now))

    @property
    def core(self) -> Node:
        return self._core

    def tell(self, core: Node, event: Callable[[int], list[effects.Effect]]) -> None:
        """An event for `core`, unless that life is over."""
        if core is self._core:
            self._event(event)

    async def _probe(self, core: Node, peer: str) -> None:
        answer = await self._links.probe(peer, self._config.node(peer).listen, self._life)
        self.tell(core, lambda now: core.probed(peer, answer, now))

    async def _join(self, peer: str, life: Life) -> None:
        """One at a time: the peer takes a second session for the end of the first."""
        if self._joining.locked():
            return
        async with self._joining:
            await self._links.join(peer, self._config.node(peer).listen, life)

    async def _start_over(self) -> None:
        await self._room.stop_engine()
        self._links.close_all("starts over")
        held = await self._room.inspect_log()
        self._core = self._new_core()
        self._times = FailoverTimes()
        self._event(partial(self._core.start_shadow, held=held))

    async def wait_queue(self, session: int, size_max: int) -> None:
        await self._links.wait_queue(session, size_max)

    # ---- what the engine reports

    def went_live(self) -> None:
        self._times.live_ns = time.monotonic_ns()

    def _collect(self) -> None:
        """The engine rang: it has something to report."""
        if self._performing or self._outcome is not None:
            return
        try:
            self._run_events(None)
        except Exception as error:  # this is a callback of trio's loop: it is raised where the node is run
            self._failure = error
            self._ended.set()

    # ---- what the links report

    def presence(self) -> Presence:
        return self._core.presence()

    def peer_opened(self, session: int, name: str, life: Life) -> None:
        self._event(lambda now: self._core.session_opened(session, name, life, now))

    def edge_opened(self, session: int) -> None:
        self._event(lambda now: self._core.edge_opened(session, now))

    def link_lost(self, session: int, is_edge: bool, why: str) -> None:
        if self._outcome is not None:
            return
        if is_edge:
            self._event(lambda now: self._core.edge_lost(session, now))
            return
        self._times = FailoverTimes(session_lost_ns=time.monotonic_ns())
        self.note(f"session lost: {why}")
        self._event(lambda now: self._core.session_lost(session, now))

    def peer_received(self, session: int, message: PeerMessage) -> None:
        self._event(lambda now: self._core.received(session, message, now))

    def edge_received(self, session: int, message: EdgeMessage) -> None:
        self._event(lambda now: self._core.edge_received(session, message, now))

    def refused(self, error: PeerRefused) -> None:
        """A node that has no machine yet cannot get one from such a peer. One that has goes on, and says it."""
        if self._core.state is State.JOINING:
            self.stop(str(error), error.exit_code)
        else:
            self.note(str(error))

    def heartbeat_payload(self) -> bytes:
        return codec.encode(self._core.heartbeat())

    # ---- what the operator asks

    def statistics(self) -> NodeStatistics:
        room = self._room
        return NodeStatistics.of(self._name, self._core.status(), room.statistics(), room.log_bytes)

    async def wait_state(self, wanted: Container[State]) -> Outcome | None:
        """Wait until the node is in a wanted state; earlier, with its outcome, if it ends."""
        while self._outcome is None and self._core.state not in wanted:
            await self._moved.park()
        return self._outcome

    def ask_power_off(self) -> None:
        self._event(lambda now: self._core.ask_power_off(now))

    def ask_reset(self) -> None:
        self._event(lambda now: self._core.ask_reset(now))

    def ask_hand_over(self, *, to: str = "", leave: bool = False) -> None:
        """A planned change of roles: the primary gives the machine to its shadow."""
        self._event(partial(self._core.ask_hand_over, to=to, leave=leave))

    def ask_promote(self) -> None:
        """A shadow in sync claims the machine."""
        self._event(lambda now: self._core.ask_promote(now))

    @property
    def name(self) -> str:
        return self._name

    async def wait_until(self, done: Callable[[], bool]) -> None:
        """Until `done()`, which is looked at after every event; or until the node ends."""
        while not done() and self._outcome is None:
            await self._moved.park()

    def describe(self) -> Answer:
        """Everything `ftvm status` shows of this node, as JSON-ready values."""
        engine = self._room.statistics()
        return {
            "node": self._name,
            **node_statistics.describe(self._core.status(), engine, self._counters, self._times),
            "log": self._room.describe_log(),
            "machine": self._room.describe_machine(),
            "wire": asdict(self._links.statistics()),
            "tap": None if self._tap is None else self._tap.describe(),
        }

    async def log_digest(self) -> Digest:
        """Logs a `Digest` of the live machine now, and waits until it is in the log. Raises `NotProtected`."""
        return await self._room.log_digest()
