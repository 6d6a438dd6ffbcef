"""Processes that can be paused and can die, and the one that runs a node: the production core with a toy engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ftvm.replication import effects as fx
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig
from tests.sim.guest import DEVICE, Engine
from tests.sim.network import MS

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

LIFE_BITS = 128


class Process:
    """Something that can be paused and can die. What happens to it while paused, happens when it resumes."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.incarnation = 0
        self.alive = False
        self.paused = False
        self._missed: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []

    def deliver(self, incarnation: int, call: Callable[..., None], *arguments: object) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.paused:
            self._missed.append((incarnation, call, arguments))
        else:
            call(*arguments)

    def resume(self) -> None:
        self.paused = False
        missed, self._missed = self._missed, []
        for incarnation, call, arguments in missed:
            self.cluster.clock.after(0, self.deliver, incarnation, call, *arguments)


class Host(Process):
    def __init__(self, cluster: Cluster, name: str, peers: tuple[str, ...]) -> None:
        super().__init__(cluster, name)
        random = cluster.clock.random
        self._config = ReplicationConfig(name, peers, (DEVICE,), **cluster.bounds)
        self._skew_ns = random.getrandbits(40)
        self._rate_ppm = random.choice((998_000, 1_000_000, 1_002_000))
        self._timer_ns = 0
        self._report_ns = 0
        self.slowness_ns = int(random.choice((1, 1, 1, 5, 30)) * MS)
        self.edge_sessions: set[int] = set()
        self.carried_out = 0
        """Effects, over all lives."""
        self._doom = 0
        self.exit: fx.Exit | None = None
        self.gone_silently = False
        self.seen_live = 0

    # ---- life and death

    def start(self, *, primary: bool, force: bool = False) -> None:
        self.alive = True
        self.gone_silently = False
        self._begin()
        start = self.node.start_primary if primary else self.node.start_shadow
        self.carry_out(start(self.now(), **({"force": force} if primary else {})))
        self.cluster.edge.reconnect(self)

    def _begin(self) -> None:
        cluster = self.cluster
        self.incarnation += 1
        self.life = cluster.clock.random.getrandbits(LIFE_BITS).to_bytes(16, "little")
        self.node = Node(self._config, self.life)
        self.gate = self.node._replica.gate
        self.engine = Engine(self, cluster.clock.random, slowness_ns=self.slowness_ns, digests=cluster.digests)
        self.seen_live = 0
        self.heard_seen = 0
        self.doomed, self._doom = self._doom, 0
        self._timer_ns = 1 << 62
        self._report_ns = 0

    def die(self, *, silently: bool) -> None:
        self.cluster.trace(f"{self.name} dies{' silently' if silently else ''}")
        self.cluster.network.die(self, silently=silently)
        self.alive = False
        self.gone_silently = silently
        self.paused = False
        self._missed.clear()

    def doom(self, effects: int) -> None:
        """It dies once it has carried out so many more, in this life or, not started yet, in its first."""
        if self.alive:
            self.doomed = effects
        else:
            self._doom = effects

    def pause(self) -> None:
        self.cluster.trace(f"{self.name} is paused")
        self.paused = True

    def now(self) -> int:
        """This host's own clock: it began at some time, and drifts."""
        return self.cluster.clock.now_ns * self._rate_ppm // 1_000_000 + self._skew_ns

    # ---- events in

    def event(self, name: str, *arguments: Any) -> None:
        if self.cluster.tracing:
            self.cluster.trace(f"{self.name} {name} {arguments!r}")
        self.carry_out(getattr(self.node, name)(*arguments, self.now()))

    def tell(self, delay_ns: int, name: str, *arguments: Any) -> None:
        """An event for this life, later."""
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, self._told, name, *arguments)

    def _told(self, name: str, *arguments: Any) -> None:
        self.event(name, *arguments)

    def on_message(self, session: int, message: object) -> None:
        self.event("edge_received" if session in self.edge_sessions else "received", session, message)

    def on_lost(self, session: int) -> None:
        self.event("edge_lost" if session in self.edge_sessions else "session_lost", session)

    def _timer(self) -> None:
        due = self.node.next_timer_ns()
        self._timer_ns = 1 << 62
        if due is not None and due <= self.now():
            self.carry_out(self.node.timer(self.now()))
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        due = self.node.next_timer_ns()
        if due is not None and due < self._timer_ns:
            self._timer_ns = due
            at_ns = (due - self._skew_ns) * 1_000_000 // self._rate_ppm + 1
            self.cluster.clock.at(at_ns, self.deliver, self.incarnation, self._timer)

    # ---- the engine's owner

    def later(self, delay_ns: int, action: str, *arguments: object) -> None:
        calls = {"slice": self.engine.slice, "follow": self.engine.follow_on, "copy": self.engine.copy_on}
        self.cluster.clock.after(delay_ns, self.deliver, self.incarnation, calls[action], *arguments)

    def report(self, event: str, *arguments: object) -> None:
        self._report_ns = max(self._report_ns, self.cluster.clock.now_ns + self.cluster.engine_delay())
        self.cluster.clock.at(self._report_ns, self.deliver, self.incarnation, self._told, event, *arguments)

    # ---- effects out

    def carry_out(self, effects: Sequence[fx.Effect]) -> None:
        cluster = self.cluster
        cluster.observer.looked_at(self)
        for effect in effects:
            if cluster.tracing and not isinstance(effect, fx.Note):
                cluster.trace(f"{self.name} [{self.node.state.name}] -> {effect!r}")
            self._effect(effect)
            self.carried_out += 1
            if isinstance(effect, fx.StartOver | fx.Exit):
                return
            if self.doomed:
                self.doomed -= 1
                if not self.doomed:
                    cluster.crash(self)
                    return
        self._set_timer()

    def _effect(self, effect: fx.Effect) -> None:
        cluster, engine = self.cluster, self.engine
        match effect:
            case fx.Send():
                cluster.network.send(effect.session, self, effect.message)
            case fx.SendEdge():
                cluster.observer.released_by(self, effect.message)
                cluster.network.send(effect.edge, self, effect.message)
            case fx.CloseSession():
                cluster.network.close(effect.session, self)
            case fx.CloseEdge():
                cluster.observer.complain(f"{self.name} faults the edge: {effect.reason}")
            case fx.AskArbiter():
                cluster.arbiter.ask(self, effect.request)
            case fx.Probe():
                cluster.probe(self, effect.peer)
            case fx.Join():
                cluster.join(self, effect.peer)
            case fx.TakeInventory():
                self.report("inventory_taken", effect.session, b"")
            case fx.CopyMachine():
                engine.copy(effect.session)
            case fx.CancelCopy():
                engine.cancel_copy(effect.session)
            case fx.CollectSnapshot():
                engine.collect(effect.data)
            case fx.RestoreSnapshot():
                engine.restore(effect.state)
                self.report("restored")
            case fx.BootMachine():
                pass  # a new engine has the machine as it is at power-on
            case fx.WriteStamp():
                if effect.wait:
                    self.tell(int(cluster.clock.random.random() * 20 * MS), "stamped", effect.number, True)
            case fx.Apply():
                engine.follow(effect.pos, effect.entries)
            case fx.GoLive():
                engine.go_live()
                engine.report_halt()
            case fx.InjectInput():
                engine.inject(effect.offset, effect.data, effect.is_break)
            case fx.Throttle():
                engine.throttle(effect.on)
            case fx.Quiesce():
                engine.stands = True
                self.report("quiesced")
            case fx.Frozen():
                cluster.count("frozen")
            case fx.StartOver():
                cluster.network.die(self, silently=False)
                self._missed.clear()
                self.start(primary=False)
            case fx.Exit():
                self.exit = effect
                self.die(silently=False)
                cluster.exited(self, effect)
            case fx.Note():
                if "broke the protocol" in effect.text:
                    cluster.observer.complain(f"{self.name}: {effect.text}")
            case _:
                raise AssertionError(effect)
