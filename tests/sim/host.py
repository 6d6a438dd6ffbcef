"""The process that runs a node: the production core with a toy engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ftvm.errors import ExitCode
from ftvm.log.entry import Input
from ftvm.replication import effects as fx
from ftvm.replication.arbitration import State
from ftvm.replication.messages import Ack, HandOver, Log, Message
from ftvm.replication.node import Node
from ftvm.replication.output_gate import PIECE_BYTES
from ftvm.replication.primary import ENTRY_BYTES
from ftvm.replication.replica import ReplicationConfig
from tests.sim.clock import MS
from tests.sim.disk import Disk
from tests.sim.guest import DEVICE, Engine, Guest
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

LIFE_BITS = 128
PPM = 1_000_000
TIMERS_MAX = 500
"""Calls of a node's timer within a second of its own clock: more is a busy loop."""


class Host(Process):
    def __init__(self, cluster: Cluster, name: str, peers: tuple[str, ...]) -> None:
        super().__init__(cluster, name)
        random = cluster.clock.random
        self.config = ReplicationConfig(name, peers, (DEVICE,), **cluster.bounds)
        # This host's own clock: it began at some time, and drifts.
        self._clock_ns = random.getrandbits(40)
        self._clock_since_ns = 0
        self._clock_ppm = random.choice((998_000, PPM, 1_002_000))
        self.disk = Disk(random, present=cluster.disks or random.random() < 0.5)
        self.slowness_ns = int(random.choice((1, 1, 1, 5, 10)) * MS)
        self.edge_sessions: set[int] = set()
        self.exit: fx.Exit | None = None
        self.gone_silently = False

    # ---- life and death

    def start(self, *, primary: bool, force: bool = False, force_restart: bool = False) -> None:
        """With what its disk has of an earlier life."""
        self.alive = True
        self.gone_silently = False
        self._begin()
        held = self.disk.inspect()
        self.cluster.trace(f"{self.name} starts{' as primary' if primary else ''} with {held}")
        now_ns = self.now()
        if primary:
            self.carry_out(self.node.start_primary(now_ns, force=force, held=held, force_restart=force_restart))
        else:
            self.carry_out(self.node.start_shadow(now_ns, held=held))
        self.cluster.edge.reconnect(self)

    def _begin(self) -> None:
        cluster = self.cluster
        self.incarnation += 1
        self.life = cluster.clock.random.getrandbits(LIFE_BITS).to_bytes(16, "little")
        self.node = Node(self.config, self.life)
        cluster.by_life[self.life] = self
        self.gate = self.node._replica.gate
        self.engine = Engine(
            self, cluster.clock.random, slowness_ns=self.slowness_ns, rest_ns=cluster.rest_ns, digests=cluster.digests
        )
        self.state_seen = State.STARTING
        self.before_state = State.STARTING
        self.seen_live = 0
        self.heard_seen = 0
        self.confirmed_seen = 0
        self.inherited_bytes = 0
        self.heard_primary_ns = 0
        self.silence_known = False
        """Whether this host ran, with its clock in order, since it last heard its primary."""
        self.may_claim = False
        self.pending_bytes = self.pending_bytes_max = 0
        self.pending_ticks_max = 0
        self._timer_ns = 1 << 62
        self._timers = 0
        self._timers_since_ns = 0
        self._report_ns = self._reports = 0

    def die(self, *, silently: bool) -> None:
        self.cluster.trace(f"{self.name} dies{' silently' if silently else ''}")
        self.cluster.network.die(self, silently=silently)
        self.disk.power_lost() if silently else self.disk.process_died()
        self.alive = False
        self.gone_silently = silently
        self.paused = False
        self._missed.clear()

    def pause(self) -> None:
        self.silence_known = False
        super().pause()

    def resume(self) -> None:
        super().resume()
        if self.alive and not self.paused:
            self._set_timer()

    def now(self) -> int:
        return self._clock_ns + (self.cluster.clock.now_ns - self._clock_since_ns) * self._clock_ppm // PPM

    def set_clock(self, *, jump_ns: int = 0, rate_ppm: int = 0) -> None:
        """It stays monotonic, whatever happens to it."""
        self._clock_ns = self.now() + jump_ns
        self._clock_since_ns = self.cluster.clock.now_ns
        self._clock_ppm = rate_ppm or self._clock_ppm
        self.silence_known = False
        self._timer_ns = 1 << 62
        self._set_timer()

    # ---- events in

    def event(self, name: str, *arguments: Any) -> None:
        if self.cluster.tracing:
            self.cluster.trace(f"{self.name} {name} {arguments!r}")
        self.carry_out(getattr(self.node, name)(*arguments, self.now()), name not in _HOT_EVENTS)

    def tell(self, delay_ns: int, name: str, *arguments: Any) -> None:
        """An event for this life, later."""
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, self.event, name, *arguments)

    def on_message(self, session: int, message: Message) -> None:
        node = self.node
        if self.cluster.tracing:
            self.cluster.trace(f"{self.name} receives {session} {message!r}")
        now_ns = self.now()
        if session in self.edge_sessions:
            self.carry_out(node.edge_received(session, message, now_ns))  # type: ignore[arg-type]
        else:
            if session == node._shadow.session:
                self.heard_primary_ns = now_ns
                self.silence_known = True
                self.may_claim |= type(message) is HandOver
            self.carry_out(node.received(session, message, now_ns), type(message) not in _HOT)  # type: ignore[arg-type]

    def on_lost(self, session: int) -> None:
        self.event("edge_lost" if session in self.edge_sessions else "session_lost", session)

    def operator_asks(self, event: str) -> bool:
        """Returns whether the node does anything about it."""
        self.cluster.trace(f"{self.name} {event}")
        self.may_claim = True
        effects = getattr(self.node, event)(self.now())
        self.carry_out(effects)
        return bool(effects)

    def _timer(self, incarnation: int, due_ns: int) -> None:
        if not self.alive or incarnation != self.incarnation or due_ns != self._timer_ns:
            return
        if self.paused:
            self._missed.append((incarnation, self._timer, (incarnation, due_ns)))
            return
        self._timer_ns = 1 << 62
        now_ns, due = self.now(), self.node.next_timer_ns()
        if due is None or due > now_ns:
            self._set_timer()
            return
        if now_ns - self._timers_since_ns >= 1000 * MS:
            self._timers, self._timers_since_ns = 0, now_ns
        self._timers += 1
        assert self._timers <= TIMERS_MAX, f"{self.name} keeps its timer busy"
        self.carry_out(self.node.timer(now_ns))
        if self.alive and incarnation == self.incarnation:
            self.cluster.observer.detects(self)

    def _set_timer(self) -> None:
        due = self.node.next_timer_ns()
        if due is not None and due < self._timer_ns:
            self._timer_ns = due
            at_ns = self._clock_since_ns + (due - self._clock_ns) * PPM // self._clock_ppm + 1
            self.cluster.clock.at(at_ns, self._timer, self.incarnation, due)

    # ---- the engine's owner

    def later(self, delay_ns: int, action: str, *arguments: object) -> None:
        call = _ENGINE[action]
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, call, self.engine, *arguments)

    def report(self, event: str, *arguments: Any, now: bool = False) -> None:
        clock = self.cluster.clock
        delay_ns = self.cluster.engine_delay()
        self._report_ns = max(self._report_ns, clock.now_ns + delay_ns)
        weight, point = 0, None
        if event == "executed":
            weight, point = self._weigh(*arguments), self.engine.guest.point()
        elif event == "applied":
            author = self.node._shadow.primary_life
            self.cluster.observer.executed_to(author, arguments[0], self.engine.guest.point())
        if now and not delay_ns and not self._reports:
            self._reported(self.incarnation, event, arguments, weight, point, 0)
        else:
            self._reports += 1
            clock.at(self._report_ns, self._reported, self.incarnation, event, arguments, weight, point, 1)

    def _weigh(self, tick: int, entries: Sequence[Any], outputs: Sequence[Any]) -> int:
        """What is reported and not yet known to the node: by so much it may pass its bounds."""
        weight = ENTRY_BYTES * len(entries)
        for piece in outputs:
            weight += PIECE_BYTES + len(piece.data)
        for entry in entries:
            if type(entry) is Input:
                weight += len(entry.data)
        self.pending_bytes += weight
        if self.pending_bytes > self.pending_bytes_max:
            self.pending_bytes_max = self.pending_bytes
        ticks = tick - self.node._replica.tick
        if ticks > self.pending_ticks_max:
            self.pending_ticks_max = ticks
        return weight

    def _reported(
        self,
        incarnation: int,
        event: str,
        arguments: tuple[Any, ...],
        weight: int,
        point: tuple[int, ...] | None,
        queued: int,
    ) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.paused:
            self._missed.append((incarnation, self._reported, (incarnation, event, arguments, weight, point, queued)))
            return
        self._reports -= queued
        self.pending_bytes -= weight
        if point is not None and self.node._executing:
            self.disk.append(arguments[1])
            self.cluster.observer.executed_to(self.life, self.gate.end + len(arguments[1]), point)
            if self.cluster.tracing:
                self.cluster.trace(f"{self.name} executed {arguments!r}")
            self.carry_out(self.node.executed(*arguments, self.now()), timer=False)
            self.cluster.observer.lags(self)
            return
        self.event(event, *arguments)

    # ---- effects out

    def carry_out(self, effects: Sequence[fx.Effect], timer: bool = True) -> None:
        """`timer`: the event may have brought its time forward."""
        cluster, node, incarnation = self.cluster, self.node, self.incarnation
        state = node._state
        if state is not self.state_seen:
            self.before_state, self.state_seen = self.state_seen, state
            timer = True
            if cluster.faults.armed:
                cluster.faults.entered(self)
                if not self.alive or incarnation != self.incarnation:
                    return
        cluster.observer.looked_at(self)
        if effects:
            self._carry_out(incarnation, effects, 0)
            if not self.alive or incarnation != self.incarnation or self.paused:
                return
        disk = self.disk
        if disk.waiting and cluster.clock.now_ns >= disk.due_ns:
            disk.write(self._committed(), cluster.clock.now_ns)
        if timer:
            self._set_timer()

    def _committed(self) -> int:
        return self.gate.committed if self.node._executing else self.gate.end

    def _carry_out(self, incarnation: int, effects: Sequence[fx.Effect], start: int) -> None:
        tracing = self.cluster.tracing
        for index in range(start, len(effects)):
            if self.paused:
                self._missed.appendleft((incarnation, self._carry_out, (incarnation, effects, index)))
                return
            effect = effects[index]
            if tracing:
                self.cluster.trace(f"{self.name} [{self.node.state.name}] -> {effect!r}")
            _HANDLERS[type(effect)](self, effect)
            self.carried_out += 1
            if incarnation != self.incarnation or not self.alive:
                return
            if self.carried_out == self._doom_at:
                self._meet_doom()
                if not self.alive or incarnation != self.incarnation:
                    return

    def _send(self, effect: fx.Send) -> None:
        self.cluster.network.send(effect.session, self, effect.message)

    def _send_edge(self, effect: fx.SendEdge) -> None:
        self.cluster.observer.released_by(self, effect.message)
        self.cluster.network.send(effect.edge, self, effect.message)

    def _close_session(self, effect: fx.CloseSession) -> None:
        self.cluster.network.close(effect.session, self)

    def _close_edge(self, effect: fx.CloseEdge) -> None:
        if self.cluster.edge.knows(effect.edge):
            self.cluster.observer.complain(f"{self.name} faults the edge: {effect.reason}")

    def _ask_arbiter(self, effect: fx.AskArbiter) -> None:
        self.cluster.observer.asked(self, effect.request)
        self.cluster.arbiter.ask(self, effect.request)

    def _probe(self, effect: fx.Probe) -> None:
        self.cluster.probe(self, effect.peer)

    def _join(self, effect: fx.Join) -> None:
        self.cluster.join(self, effect.peer)

    def _take_inventory(self, effect: fx.TakeInventory) -> None:
        self.report("inventory_taken", effect.session, b"")

    def _copy_machine(self, effect: fx.CopyMachine) -> None:
        self.engine.copy(effect.session)

    def _cancel_copy(self, effect: fx.CancelCopy) -> None:
        self.engine.cancel_copy(effect.session)

    def _collect_snapshot(self, effect: fx.CollectSnapshot) -> None:
        self.engine.collect(effect.data)

    def _restore_snapshot(self, effect: fx.RestoreSnapshot) -> None:
        self.engine.restore(effect.state)
        self.disk.begin(effect.pos, self.engine.guest.save())
        self.report("restored")

    def _boot_machine(self, effect: fx.BootMachine) -> None:
        self.engine.install(Guest())
        self.disk.begin(0, self.engine.guest.save())

    def _replay_log(self, effect: fx.ReplayLog) -> None:
        guest, pos, written = self.disk.replay(effect.stamp)
        if not written:
            self.report("replay_failed", "the disk is full", ExitCode.BAD_LOG)
            return
        self.engine.install(guest)
        said, heard = {DEVICE: len(guest.said)}, {DEVICE: len(guest.heard)}
        self.report("replayed", pos, guest.tick, said, heard)

    def _write_stamp(self, effect: fx.WriteStamp) -> None:
        self.disk.stamp(effect.stamp, self._committed(), sync=effect.wait)
        if effect.wait:
            self.tell(int(self.cluster.clock.random.random() * MS), "stamped", effect.number, True)

    def _apply(self, effect: fx.Apply) -> None:
        self.disk.append(effect.entries)
        self.engine.follow(effect.pos, effect.entries)

    def _go_live(self, effect: fx.GoLive) -> None:
        self.engine.go_live()
        self.engine.report_halt()

    def _inject_input(self, effect: fx.InjectInput) -> None:
        self.engine.inject(effect.offset, effect.data, effect.is_break)

    def _throttle(self, effect: fx.Throttle) -> None:
        self.engine.throttle(effect.on)

    def _quiesce(self, effect: fx.Quiesce) -> None:
        self.engine.stands = True
        self.report("quiesced")

    def _frozen(self, effect: fx.Frozen) -> None:
        self.cluster.count("frozen")

    def _start_over(self, effect: fx.StartOver) -> None:
        self.cluster.observer.gives_up(self)
        self.cluster.network.die(self, silently=False)
        self._missed.clear()
        self.start(primary=False)

    def _exit(self, effect: fx.Exit) -> None:
        self.exit = effect
        self.die(silently=False)
        self.cluster.exited(self, effect)

    def _note(self, effect: fx.Note) -> None:
        if "broke the protocol" in effect.text:
            self.cluster.observer.complain(f"{self.name}: {effect.text}")


_HOT = frozenset({Ack, Log})
"""All that they do to a timer is to put it off."""
_HOT_EVENTS = frozenset({"executed", "applied"})
_ENGINE: dict[str, Callable[..., None]] = {
    "slice": Engine.slice,
    "follow": Engine.follow_on,
    "copy": Engine.copy_on,
}
_HANDLERS: dict[type, Callable[[Host, Any], None]] = {
    fx.Send: Host._send,
    fx.SendEdge: Host._send_edge,
    fx.CloseSession: Host._close_session,
    fx.CloseEdge: Host._close_edge,
    fx.AskArbiter: Host._ask_arbiter,
    fx.Probe: Host._probe,
    fx.Join: Host._join,
    fx.TakeInventory: Host._take_inventory,
    fx.CopyMachine: Host._copy_machine,
    fx.CancelCopy: Host._cancel_copy,
    fx.CollectSnapshot: Host._collect_snapshot,
    fx.RestoreSnapshot: Host._restore_snapshot,
    fx.BootMachine: Host._boot_machine,
    fx.ReplayLog: Host._replay_log,
    fx.WriteStamp: Host._write_stamp,
    fx.Apply: Host._apply,
    fx.GoLive: Host._go_live,
    fx.InjectInput: Host._inject_input,
    fx.Throttle: Host._throttle,
    fx.Quiesce: Host._quiesce,
    fx.Frozen: Host._frozen,
    fx.StartOver: Host._start_over,
    fx.Exit: Host._exit,
    fx.Note: Host._note,
}
