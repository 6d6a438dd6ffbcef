"""A node among wrong and hostile peers, edges and delays: whatever they say, the core must neither fail nor lie.

The node's own side is true: the arbiter follows its rule, and the engine does what the effects say (see `shell`).
Everything else is drawn. An exception that leaves the core is our bug, also (and most of all) an AssertionError.
"""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ftvm.errors import ExitCode
from ftvm.log.entry import Entry, Horizon, Input
from ftvm.log.stamp import Held, Stamp
from ftvm.replication import codec
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State, decide, decide_activation
from ftvm.replication.events import Absence, Presence
from ftvm.replication.replica import MILLISECOND_NS
from tests.fuzz.messages import DEVICE, EDGE_KINDS, PEER_KINDS, Draw, DrawnChance, draw_message
from tests.fuzz.shell import CONFIG, ME, PEERS, THEM, Engine, Shell

STEPS_NS = [step_ms * MILLISECOND_NS for step_ms in (0, 1, 60, 250, 3000, 40_000)]
STEALS_MAX = 2
SCENES = ("protected", "in sync", "ceding", "consuming", "solo", "restart", "primary", "shadow")
OLD_LIFE = b"o" * m.LIFE_SIZE
"""Of this node, when it wrote the log that it restarts from."""


class NodeAttack(Shell, RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.steals = 0

    # ---- our own side

    @initialize(scene=st.sampled_from(SCENES))
    def start(self, scene: str) -> None:
        if scene in ("shadow", "in sync", "consuming"):
            self.ledger = m.Ledger((m.Record(1, THEM[0], 0, m.Kind.BOOT),), 1)
            self.perform(self.node.start_shadow(self.now))
        elif scene == "restart":
            self.ledger = m.Ledger((m.Record(1, OLD_LIFE, 0, m.Kind.BOOT),), 1)
            self.perform(self.node.start_shadow(self.now, held=_held("alpha", OLD_LIFE, 5)))
        else:
            self.engine = Engine()
            self.perform(self.node.start_primary(self.now))
        if scene in ("in sync", "consuming"):
            self.peer_connects(PEERS[0], THEM[0])
            self._say(m.Snapshot(1, 5, 9, 1, b"s", (), {DEVICE: 3}, {DEVICE: 4}))
            self.snapshot_is_restored(True, False)
            self._say(m.Mark(1, 5, (self.life,)))
        if scene == "consuming":
            self._say(m.Log(1, 5, (Horizon(20), Horizon(30)), {DEVICE: 3}))
            self.perform(self.node.ask_promote(self.now))
            self._answer(self.requests[-1])
            self._answer(self.requests[-1])
        if scene in ("solo", "protected", "ceding"):
            self._answer(self.requests[-1])
            self._answer(self.requests[-1])
            self.edge_connects()
        if scene in ("protected", "ceding"):
            self.peer_connects(PEERS[0], THEM[0])
            self._say(m.Inventory(THEM[0], b"", True))
            self.copy("is finished", 1)
            self._say(m.Ready(1, THEM[0]))
            self.stamp_is_on_the_disk(True)
        if scene == "ceding":
            self.perform(self.node.ask_hand_over(self.now))
            self.engine_rests()
        states = {
            "protected": State.PROTECTED,
            "in sync": State.IN_SYNC,
            "solo": State.SOLO,
            "ceding": State.CEDING,
            "consuming": State.CONSUMING,
            "restart": State.WAITING,
        }
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

    @precondition(lambda self: self.replay_due and not self.over)
    @rule(fits=st.booleans())
    def log_is_replayed(self, fits: bool) -> None:
        self.replay_due = False
        if fits:
            self.engine = Engine(tick=9, pos=5, said=3, heard=4)
            self.perform(self.node.replayed(5, 9, {DEVICE: 3}, {DEVICE: 4}, self.now))
        else:
            self.perform(self.node.replay_failed("it is damaged", ExitCode.BAD_LOG, self.now))

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

    @rule(data=st.data(), peer=st.sampled_from(PEERS), busy=st.booleans())
    def waiting_peer_answers(self, data: st.DataObject, peer: str, busy: bool) -> None:
        """With a log of its own, which may be the newer one, or of another generation, or of nothing."""
        life = data.draw(st.sampled_from([OLD_LIFE, *THEM]))
        held = data.draw(st.sampled_from([None, _held(peer, life, 4), _held(peer, life, 9), Held(None, trouble="?")]))
        self.perform(self.node.probed(peer, Presence(THEM[1], 0, False, busy, held), self.now))

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


def _held(node: str, life: m.Life, pos: int) -> Held:
    """A log of generation 1, in which alpha and `node` counted."""
    members = tuple(dict.fromkeys((("alpha", OLD_LIFE), (node, OLD_LIFE if node == "alpha" else life))))
    return Held(Stamp(CONFIG.machine, node, life, 1, OLD_LIFE, 1, members), pos, 9, "today")
