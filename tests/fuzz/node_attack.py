"""A node among wrong and hostile peers, edges and delays: whatever they say, the core must neither fail nor lie.

The node's own side is true: the arbiter follows its rule, and the engine does what the effects say and reports it.
Everything else is drawn. An exception that leaves the core is our bug, also (and most of all) an AssertionError.
What is checked beside that: effects for the engine come only when there is one that can carry them out, every
message that is sent can be encoded, and nothing is said to an edge in a generation that is not this life's.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ftvm.log.entry import Control, Entry, Horizon, Input
from ftvm.replication import codec
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State, decide, decide_activation
from ftvm.replication.events import Absence, Presence
from ftvm.replication.node import Node
from ftvm.replication.replica import MILLISECOND_NS, ReplicationConfig
from tests.fuzz.messages import DEVICE, EDGE_KINDS, LIVES, PEER_KINDS, Draw, DrawnChance, Focus, draw_message

ME, *THEM = LIVES
PEERS = ("beta", "gamma")
CONFIG = ReplicationConfig("alpha", PEERS)
STEPS_NS = [step_ms * MILLISECOND_NS for step_ms in (0, 1, 60, 250, 3000, 40_000)]
STEALS_MAX = 2
SCENES = ("protected", "in sync", "solo", "primary", "shadow")


@dataclass(slots=True)
class Engine:
    """What the shell's engine would be at: a machine, the log it was given, and whether it may run."""

    tick: int = 0
    pos: int = 0
    said: int = 0
    heard: int = 0
    live: bool = False
    throttled: bool = True
    halted: bool = False
    backlog: deque[Entry] = field(default_factory=deque)
    inputs: deque[fx.InjectInput] = field(default_factory=deque)
    queued: int = 0
    """The end of the input stream as the core has numbered it."""


class NodeAttack(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1
        self.lives = iter(bytes([n]) * 16 for n in range(100, 256))
        self.life = ME
        self.node = Node(CONFIG, ME)
        self.engine: Engine | None = None
        self.restoring: tuple[fx.RestoreSnapshot, list[fx.Apply]] | None = None
        self.copying: int | None = None
        self.inventory_due: int | None = None
        self.quiesce_due = False
        self.stamps: list[int] = []
        self.ledger = m.Ledger()
        self.requests: list[m.ArbiterRequest] = []
        self.over = False
        self.sessions: list[int] = []
        self.edges: list[int] = []
        self.next_session = 1
        self.steals = 0

    # ---- the shell: effects

    def perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: fx.Effect) -> None:
        engine = self.engine
        match effect:
            case fx.Send(_, message):
                codec.encode(message)
            case fx.SendEdge(_, message):
                codec.encode(message)
                self._entitled(message.gen)
            case fx.CloseSession(session, _):
                if session in self.sessions:
                    self.sessions.remove(session)
            case fx.CloseEdge(edge, _):
                if edge in self.edges:
                    self.edges.remove(edge)
            case fx.AskArbiter(request):
                self.requests = [*self.requests[-3:], request]
            case fx.RestoreSnapshot():
                assert self.restoring is None, "a second snapshot into a machine"
                self.restoring = (effect, [])
            case fx.Apply():
                if self.restoring is not None:
                    self.restoring[1].append(effect)
                else:
                    assert engine is not None
                    assert not engine.live, "log for a live engine"
                    assert effect.pos == engine.pos + len(engine.backlog)
                    engine.backlog.extend(effect.entries)
            case fx.GoLive(gen):
                assert engine is not None, "no engine could go live"
                assert not engine.backlog, "log that it held is not executed"
                engine.live = True
                engine.queued = engine.heard
                self._entitled(gen)
            case fx.Throttle(on, _):
                if engine is not None:
                    engine.throttled = on
            case fx.Quiesce():
                assert engine is not None
                engine.throttled = self.quiesce_due = True
            case fx.WriteStamp(number, _, wait):
                if wait:
                    self.stamps.append(number)
            case fx.TakeInventory(session):
                self.inventory_due = session
            case fx.CopyMachine(session, _):
                assert engine is not None
                assert self.copying is None, "two copies at a time"
                self.copying = session
            case fx.CancelCopy(session):
                assert self.copying == session, "a copy that nobody makes is cancelled"
                self.copying = None
            case fx.InjectInput(_, offset, data, is_break):
                assert engine is not None
                assert engine.live
                assert data, "an input of nothing"
                assert offset == engine.queued, "a gap in the input"
                assert not is_break or data == b"\0", "no such break"
                engine.queued += len(data)
                engine.inputs.append(effect)
            case fx.InjectControl(action):
                assert engine is not None
                assert engine.live
                engine.halted = True
                self._executed([Control(engine.tick, action)], 0)
            case fx.StartOver():
                self._anew()
            case fx.Exit():
                self.over = True

    def _entitled(self, gen: int) -> None:
        record = self.ledger.record(gen)
        assert record is not None, f"generation {gen} was never granted"
        assert record.life == self.life, f"generation {gen} is another's"

    def _anew(self) -> None:
        """As the shell does: a new core under a new life, and no machine."""
        self.life = next(self.lives)
        self.node = Node(CONFIG, self.life)
        self.engine = self.restoring = None
        self.copying = self.inventory_due = None
        self.quiesce_due = False
        self.requests, self.sessions, self.edges = [], [], []
        self.perform(self.node.start_shadow(self.now))

    def _executed(self, entries: list[Entry], said: int) -> None:
        engine = self.engine
        assert engine is not None
        outputs = (m.Piece(DEVICE, engine.said, bytes(said)),) if said else ()
        engine.said += said
        engine.pos += len(entries)
        self.perform(self.node.executed(engine.tick, entries, outputs, self.now))
        if engine.halted:
            self.perform(self.node.halted(engine.tick, True, 0, "power off", self.now))

    def focus(self) -> Focus:
        status = self.node.status()
        gate = self.node._replica.gate
        numbers = (status.pos, status.tick, status.committed, gate.output_end(DEVICE), gate.logged()[DEVICE])
        return Focus(status.generation, status.boot, numbers, self.life)

    # ---- our own side

    @initialize(scene=st.sampled_from(SCENES))
    def start(self, scene: str) -> None:
        if scene in ("shadow", "in sync"):
            self.ledger = m.Ledger((m.Record(1, THEM[0], 0, m.Kind.BOOT),), 1)
            self.perform(self.node.start_shadow(self.now))
        else:
            self.engine = Engine()
            self.perform(self.node.start_primary(self.now))
        if scene == "in sync":
            self.peer_connects(PEERS[0], THEM[0])
            self._say(m.Snapshot(1, 5, 9, 1, b"s", (), {DEVICE: 3}, {DEVICE: 4}))
            self.snapshot_is_restored(True, False)
            self._say(m.Mark(1, 5, (self.life,)))
        if scene in ("solo", "protected"):
            self._answer(self.requests[-1])
            self._answer(self.requests[-1])
            self.edge_connects()
        if scene == "protected":
            self.peer_connects(PEERS[0], THEM[0])
            self._say(m.Inventory(THEM[0], b"", True))
            self.copy("is finished", 1)
            self._say(m.Ready(1, THEM[0]))
            self.stamp_is_on_the_disk(True)
        states = {"protected": State.PROTECTED, "in sync": State.IN_SYNC, "solo": State.SOLO}
        assert self.node.state is states.get(scene, self.node.state)

    def _say(self, message: m.PeerMessage) -> None:
        self.perform(self.node.received(self.sessions[-1], message, self.now))

    @precondition(lambda self: not self.over)
    @rule(step_ns=st.sampled_from(STEPS_NS))
    def time_goes_by(self, step_ns: int) -> None:
        self.now += step_ns
        self.perform(self.node.timer(self.now))
        assert self.over or self.node.next_timer_ns() is not None

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def arbiter_answers(self, data: st.DataObject) -> None:
        """Also what is no longer wanted: answers come late, and twice."""
        self._answer(data.draw(st.sampled_from(self.requests[::-1])))

    def _answer(self, request: m.ArbiterRequest) -> None:
        answer: m.ArbiterAnswer
        if isinstance(request, m.Claim):
            answer, record = decide(self.ledger, request)
            if record is not None:
                self.ledger = replace(self.ledger, records=(*self.ledger.records, record))
        elif isinstance(request, m.Activate):
            answer, news = decide_activation(self.ledger, request)
            if news:
                self.ledger = replace(self.ledger, last_activated=request.gen)
        else:
            answer = self.ledger
        self.perform(self.node.arbiter_answered(answer, self.now))

    @precondition(lambda self: self.requests)
    @rule()
    def arbiter_has_lost_its_records(self) -> None:
        request = self.requests[-1]
        if isinstance(request, m.Claim) and request.kind is not m.Kind.BOOT:
            self.perform(self.node.arbiter_answered(m.Refused(request.want, request.life, (), 0, False), self.now))
        self.perform(self.node.arbiter_failed("no answer", self.now))

    @precondition(lambda self: self.steals < STEALS_MAX)
    @rule(life=st.sampled_from(THEM), activated=st.booleans(), off=st.booleans())
    def another_life_wins(self, life: m.Life, activated: bool, off: bool) -> None:
        """The arbiter asks nobody whether a claimant is entitled to what it knows."""
        self.steals += 1
        newest = self.ledger.records[-1] if self.ledger.records else None
        gen = newest.gen + 1 if newest else 1
        off = off and newest is not None
        kind = m.Kind.OFF if off else m.Kind.PROMOTE if newest else m.Kind.BOOT
        record = m.Record(gen, life, gen - 1, kind, (ME,) if activated else ())
        last = gen if activated and not off else self.ledger.last_activated
        self.ledger = m.Ledger((*self.ledger.records, record), last)

    # ---- the engine

    @precondition(lambda self: self.restoring is not None and not self.over)
    @rule(fits=st.booleans(), lies=st.booleans())
    def snapshot_is_restored(self, fits: bool, lies: bool) -> None:
        """The machine in it may be one that has said more or less than the message told."""
        assert self.restoring is not None
        (effect, early), self.restoring = self.restoring, None
        if not fits:
            self.perform(self.node.restore_failed("it is damaged", self.now))
            assert self.over or self.engine is None
            return
        gate = self.node._replica.gate
        said = gate.output_end(DEVICE) + lies
        self.engine = Engine(tick=effect.tick, pos=effect.pos, said=said)
        self.engine.heard = gate.logged()[DEVICE]
        for apply in early:
            self.perform([apply])
        self.perform(self.node.restored(self.now))

    @precondition(lambda self: self.engine is not None and self.engine.backlog and not self.over)
    @rule(said=st.integers(0, 3))
    def follower_executes(self, said: int) -> None:
        engine = self.engine
        assert engine is not None
        if engine.live:
            return
        entry = engine.backlog.popleft()
        assert engine.tick <= entry.tick, "log that goes back in time"
        engine.tick = entry.tick
        engine.pos += 1
        if isinstance(entry, Input):
            engine.heard = entry.offset + len(entry.data)
        outputs = [m.Piece(DEVICE, engine.said, bytes(said))] if said else []
        engine.said += said
        self.perform(self.node.applied(engine.pos, engine.tick, outputs, self.now))

    @precondition(lambda self: self.engine is not None and self.engine.live and not self.over)
    @rule(said=st.integers(0, 3), ticks=st.integers(1, 1000))
    def primary_executes(self, said: int, ticks: int) -> None:
        engine = self.engine
        assert engine is not None
        if engine.throttled or engine.halted:
            return
        entries: list[Entry] = []
        while engine.inputs:
            item = engine.inputs.popleft()
            entries.append(Input(engine.tick, item.device, item.offset, item.data, item.is_break))
        engine.tick += ticks
        self._executed([*entries, Horizon(engine.tick)], said)

    @precondition(lambda self: self.copying is not None and not self.over)
    @rule(end=st.sampled_from(["goes on", "is finished", "failed"]), size=st.sampled_from([1, 300_000]))
    def copy(self, end: str, size: int) -> None:
        session = self.copying
        assert session is not None
        match end:
            case "goes on":
                self.perform(self.node.copied(session, bytes(size), self.now))
            case "is finished":
                self.copying = None
                self.perform(self.node.copy_finished(session, bytes(size), self.now))
            case "failed":
                self.perform(self.node.copy_failed(session, "it does not work", self.now))

    @precondition(lambda self: self.inventory_due is not None and not self.over)
    @rule(size=st.sampled_from([0, 16, 300_000]))
    def inventory_is_taken(self, size: int) -> None:
        session, self.inventory_due = self.inventory_due, None
        assert session is not None
        self.perform(self.node.inventory_taken(session, bytes(size), self.now))

    @precondition(lambda self: self.stamps and not self.over)
    @rule(ok=st.booleans())
    def stamp_is_on_the_disk(self, ok: bool) -> None:
        self.perform(self.node.stamped(self.stamps.pop(), ok, self.now))

    @precondition(lambda self: self.quiesce_due and not self.over)
    @rule()
    def engine_rests(self) -> None:
        self.quiesce_due = False
        self.perform(self.node.quiesced(self.now))

    @precondition(lambda self: not self.over)
    @rule(which=st.sampled_from(["hand over", "promote", "power off", "diverged"]))
    def operator_or_digest(self, which: str) -> None:
        match which:
            case "hand over":
                self.perform(self.node.ask_hand_over(self.now))
            case "promote":
                self.perform(self.node.ask_promote(self.now))
            case "power off":
                self.perform(self.node.ask_power_off(self.now))
            case _ if self.engine is not None and not self.engine.live:
                self.perform(self.node.diverged(self.engine.tick, self.now))

    # ---- the others' side

    @precondition(lambda self: not self.over)
    @rule(peer=st.sampled_from(PEERS), life=st.sampled_from(THEM))
    def peer_connects(self, peer: str, life: m.Life) -> None:
        session, self.next_session = self.next_session, self.next_session + 1
        self.sessions.append(session)
        self.perform(self.node.session_opened(session, peer, life, self.now))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), kind=st.sampled_from(PEER_KINDS))
    def peer_says(self, data: st.DataObject, kind: type[m.Message]) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        message = draw_message(Draw(DrawnChance(data), self.focus()), kind)
        assert codec.decode(codec.encode(message), codec.PEER_MESSAGES) == message
        self.perform(self.node.received(session, message, self.now))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def peer_says_what_is_due(self, data: st.DataObject) -> None:
        """The message that carries a true protocol on: without it no state lies deep enough to be tried."""
        session, focus = self.sessions[-1], self.focus()
        gen, pos = max(focus.gen, 1), focus.numbers[0]
        life = next((f.life for f in self.node._primary.followers.values() if f.session == session), ME)
        match self.node.state:
            case State.JOINING if not self.node._shadow.tainted:
                message: m.PeerMessage = m.Snapshot(gen, 5, 9, 1, b"s", (), {DEVICE: 3}, {DEVICE: 4})
            case State.JOINING:
                message = m.Mark(gen, pos, (self.life,))
            case State.IN_SYNC:
                tick = focus.numbers[1] + 10
                message = m.Log(gen, pos, (Horizon(tick),), {DEVICE: 3})
            case _ if data.draw(st.booleans()):
                message = m.Inventory(life, b"", True) if data.draw(st.booleans()) else m.Ready(gen, life)
            case _:
                message = m.Ack(gen, life, pos, pos, focus.numbers[1])
        self._say(message)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def peer_is_lost(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(session)
        self.perform(self.node.session_lost(session, self.now))

    @rule(peer=st.sampled_from(PEERS), life=st.sampled_from(THEM), gen=st.integers(0, 4), live=st.booleans())
    def probe_is_answered(self, peer: str, life: m.Life, gen: int, live: bool) -> None:
        self.perform(self.node.probed(peer, Presence(life, gen, live), self.now))

    @rule(peer=st.sampled_from(PEERS), how=st.sampled_from(Absence))
    def probe_is_not_answered(self, peer: str, how: Absence) -> None:
        self.perform(self.node.probed(peer, how, self.now))

    @rule()
    def edge_connects(self) -> None:
        edge, self.next_session = self.next_session, self.next_session + 1
        self.edges.append(edge)
        self.perform(self.node.edge_opened(edge, self.now))
        self.perform(self.node.edge_received(edge, m.Attach(self.node.generation, {}, {}), self.now))

    @precondition(lambda self: self.edges)
    @rule(data=st.data(), kind=st.sampled_from(EDGE_KINDS))
    def edge_says(self, data: st.DataObject, kind: type[m.Message]) -> None:
        edge = data.draw(st.sampled_from(self.edges))
        message = draw_message(Draw(DrawnChance(data), self.focus()), kind)
        assert codec.decode(codec.encode(message), codec.EDGE_MESSAGES) == message
        self.perform(self.node.edge_received(edge, message, self.now))

    @precondition(lambda self: self.edges)
    @rule(data=st.data())
    def edge_is_lost(self, data: st.DataObject) -> None:
        edge = data.draw(st.sampled_from(self.edges))
        self.edges.remove(edge)
        self.perform(self.node.edge_lost(edge, self.now))
