"""One life of one node: reports of the world in, effects out, and the state between them.

Theory of operation. A node follows (`Shadow`) or is live (`Primary`); this class moves it from state to state as
`arbitration.TRANSITIONS` allows, and nothing else changes the state. It goes live in one way only: the arbiter grants
it the generation after the one it holds in sync, it activates that generation, and it has executed all the log that
it held when it asked. A primary that lost a member passes the same gate, for the member may be asking too. Who is
refused falls silent and keeps its state (`FROZEN`), because the winner may die before it activates; it gives the
state up only to an activated newer generation that answers, by starting over as a new life.

Time is an argument and decides only when to ask, never what is true: every timer may fire early, late or not at all
without harm to what was promised.
"""

from collections.abc import Sequence

from ftvm.errors import ExitCode, ProtocolError
from ftvm.log.entry import Entry
from ftvm.replication.arbitration import ACCEPTING, Cause, State
from ftvm.replication.effects import (
    AskArbiter,
    CloseSession,
    Effect,
    Exit,
    Join,
    Note,
    StartOver,
)
from ftvm.replication.events import Absence, OutputLike, Presence, ProbeAnswer
from ftvm.replication.messages import (
    ArbiterAnswer,
    EdgeMessage,
    Inventory,
    Kind,
    Ledger,
    Life,
    Mark,
    NewGeneration,
    PeerMessage,
    Read,
    Refused,
)
from ftvm.replication.planned import Planned
from ftvm.replication.primary import Stage
from ftvm.replication.replica import ReplicationConfig
from ftvm.replication.succession import Halt

WATCHING = frozenset({State.JOINING, State.IN_SYNC, State.SUSPECT})
"""States in which the silence of the primary means something."""

ASKING = frozenset({State.JOINING, State.SUSPECT, State.WAITING, State.FROZEN})
"""States in which others are asked again and again, however patient the detector is."""


class Node(Planned):
    """See the module. `life` is 16 random bytes, never used before. Methods are events; each returns its effects,
    to be carried out in order. After `Exit` or `StartOver` events have no effect any more."""

    def __init__(self, config: ReplicationConfig, life: Life) -> None:
        super().__init__(config, life)
        self._beat_at_ns = 0
        self._bide_at_ns = 0

    # ---- the arbiter

    def arbiter_answered(self, answer: ArbiterAnswer, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if isinstance(answer, Ledger):
            self._learn(answer)
        elif isinstance(answer, Refused) and (not answer.records or answer.records[-1].gen < self._replica.generation):
            # Records are for ever: whoever has lost some may not be believed, and is asked again.
            self._replica.emit(Note("the arbiter knows less than this node: its records were lost"))
        else:
            request = self._claimant.take(answer)
            if request is not None:
                self._answered(request, answer)
        return self._leave()

    def arbiter_failed(self, why: str, now_ns: int) -> list[Effect]:
        """No answer is no answer: the request is repeated in its time."""
        self._enter(now_ns)
        self._replica.emit(Note(f"the arbiter cannot be asked: {why}"))
        return self._leave()

    # ---- peers

    def session_opened(self, session: int, peer: str, life: Life, now_ns: int) -> list[Effect]:
        """With a peer that proved its identity; both sides get this. A new session of a peer ends its older one."""
        self._enter(now_ns)
        for follower in list(self._primary.followers.values()):
            if follower.peer == peer:
                self._primary.close(follower, "another session of this peer began")
                self._lost_follower(follower)
        if self._state is State.WAITING and self._is_live(peer):
            self._step(Cause.JOIN)
        if self._state is State.JOINING and self._shadow.session is None and not self._shadow.tainted:
            self._shadow.attach(session, peer, life, now_ns)
        elif self._state in ACCEPTING and self._halt is None:
            self._primary.admit(session, peer, life, now_ns)
        else:
            self._replica.emit(CloseSession(session, f"{self._config.name} takes no joiner now"))
        return self._leave()

    def session_lost(self, session: int, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if session == self._shadow.session:
            self._shadow.session = None
            self._lost_primary()
        elif session in self._primary.followers:
            follower = self._primary.followers[session]
            self._primary.remove(follower)
            self._lost_follower(follower)
        return self._leave()

    def received(self, session: int, message: PeerMessage, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        follower = self._primary.followers.get(session)
        try:
            if session == self._shadow.session:
                self._shadow.detector.heard(now_ns)
                self._follow(message)
            elif follower is not None:
                follower.detector.heard(now_ns)
                if self._primary.received(follower, message) and self._state in ACCEPTING and not self._halt:
                    joiner, members = (follower.peer, follower.life), self._primary.members()
                    self._stamper.announce(session, joiner, ((member.peer, member.life) for member in members))
        except ProtocolError as error:
            self._replica.emit(Note(f"a peer broke the protocol: {error}"))
            if follower is None:
                self._shadow.detach(str(error))
                self._lost_primary()
            else:
                self._primary.close(follower, str(error))
                self._lost_follower(follower)
        return self._leave()

    def probed(self, peer: str, answer: ProbeAnswer, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        newer = isinstance(answer, Presence) and answer.live and answer.gen > self._replica.generation
        match self._state:
            case State.WAITING:
                self._heard_of(peer, answer)
            case State.JOINING if newer and self._shadow.session is None:
                self._replica.emit(Join(peer))
            case State.FROZEN if newer and self._leaves:
                self._leave_for(peer)
            case State.SUSPECT | State.FROZEN if newer:
                self._end(StartOver(f"{peer} is live in a newer generation"))
            case State.SUSPECT if peer == self._shadow.peer:
                if answer is Absence.REFUSED:
                    self._presume_dead(f"{peer} is gone")
                elif isinstance(answer, Presence) and answer.life != self._shadow.primary_life:
                    self._presume_dead(f"{peer} was restarted")
                elif isinstance(answer, Presence):
                    self._shadow.detector.heard(now_ns)
            case State.FROZEN if isinstance(answer, Presence):
                if answer.life == self._ledger.records[-1].life:
                    self._holder_seen_ns = now_ns
        return self._leave()

    def _follow(self, message: PeerMessage) -> None:
        if self._state not in (State.JOINING, State.IN_SYNC):
            return
        if isinstance(message, Inventory) and not self._shadow.tainted:
            # It was live when one of us asked to join, and joins now itself: two joiners could wait for each other.
            self._shadow.detach(f"{self._shadow.peer} joins somebody itself")
            self._lost_primary()
            return
        news = self._shadow.received(message)
        if isinstance(message, Mark | NewGeneration) and self._counts_in(message.gen):
            self._stamper.marked((self._shadow.peer, self._shadow.primary_life), message)
        if not news:
            return
        if self._state is State.JOINING:
            self._step(Cause.MARKED)
            self._shadow.detector.tighten(self._config.timeout_ns, self._now_ns)
        else:
            self._step(Cause.HANDED_OVER)
            self._claim(Kind.PROMOTE)

    def _counts_in(self, gen: int) -> bool:
        return self._shadow.in_sync and gen == self._replica.generation

    def stamped(self, number: int, ok: bool, now_ns: int) -> list[Effect]:
        """A stamp that was waited for is on the disk. Not `ok`: the log there says what it said, and stays."""
        self._enter(now_ns)
        session = self._stamper.announced(number)
        follower = None if session is None else self._primary.followers.get(session)
        if follower is not None and follower.stage is Stage.FOLLOWING and self._state in ACCEPTING and not self._halt:
            if ok:
                self._step(Cause.ADMITTED)
                self._primary.mark(follower, now_ns)
            else:
                self._replica.emit(Note(f"{follower.peer} is not admitted: the log here would go on saying otherwise"))
                self._primary.close(follower, "the log of the primary cannot be written, nor put aside")
        return self._leave()

    # ---- the engine

    def executed(self, tick: int, entries: Sequence[Entry], outputs: Sequence[OutputLike], now_ns: int) -> list[Effect]:
        """The live engine: it logged `entries` and, running to `tick`, said `outputs`. In log order; outputs need
        an entry at or after them (a Horizon) in the same report."""
        self._enter(now_ns)
        if self._executing:
            self._primary.executed(tick, entries, outputs)
        return self._leave()

    def copied(self, session: int, data: bytes, now_ns: int) -> list[Effect]:
        """A part of the live machine's memory, for the joiner of this session."""
        self._enter(now_ns)
        self._primary.copied(session, data)
        return self._leave()

    def copy_finished(self, session: int, state: bytes, now_ns: int) -> list[Effect]:
        """What was copied and `state` are the live machine after exactly what was reported executed."""
        self._enter(now_ns)
        self._primary.copy_finished(session, state)
        return self._leave()

    def copy_failed(self, session: int, why: str, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        follower = self._primary.copying(session)
        if follower is not None:
            self._primary.drop(follower, why)
        return self._leave()

    def inventory_taken(self, session: int, hashes: bytes, now_ns: int) -> list[Effect]:
        """A joiner's: 16 bytes for each page of an older memory; none if there is no such memory."""
        self._enter(now_ns)
        if self._state is State.JOINING:
            self._shadow.inventory_taken(session, hashes)
        return self._leave()

    def quiesced(self, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if self._state is State.PROTECTED and not self._primary.running:
            self._step(Cause.QUIESCED)
            self._primary.hand_over(self._hand_over_to)
        return self._leave()

    def halted(self, tick: int, ok: bool, code: int, how: str, now_ns: int) -> list[Effect]:
        """The live machine has halted, at or before the newest entry's tick: every replica comes to the same end."""
        self._enter(now_ns)
        if self._executing and self._halt is None:
            assert tick <= self._replica.tick, "a halt that no entry covers may not happen on the shadow"
            self._halt = Halt(ok, code, how)
            self._edgeless_since_ns = now_ns
            for follower in list(self._primary.followers.values()):
                if follower.stage is not Stage.MEMBER:
                    self._primary.close(follower, "the guest has halted")
            self._primary.edges.halt()
        return self._leave()

    def restored(self, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if self._state is State.JOINING:
            self._shadow.installed(now_ns)
        return self._leave()

    def restore_failed(self, why: str, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        if self._state is State.JOINING:
            self._shadow.detach(why)
            self._end(StartOver(f"the copy cannot be used: {why}"))
        return self._leave()

    def applied(self, pos: int, tick: int, outputs: Sequence[OutputLike], now_ns: int) -> list[Effect]:
        """The following engine has applied every entry before `pos`, stands at `tick` and said `outputs`."""
        self._enter(now_ns)
        if not self._executing and self._state is not State.OVER:
            try:
                self._shadow.progress(pos, tick, outputs, now_ns)
            except ProtocolError as error:
                self._end(Exit(ExitCode.DIVERGENCE, f"this replica must not go live: {error}"))
            if self._state is State.CONSUMING and self._shadow.consumed:
                self._go_live()
        return self._leave()

    def diverged(self, tick: int, now_ns: int) -> list[Effect]:
        """The following engine's machine differs from the primary's at `tick`. It is never promoted."""
        self._enter(now_ns)
        line = f"this replica differs from its primary at tick {tick}: it must not go live"
        self._end(Exit(ExitCode.DIVERGENCE, line))
        return self._leave()

    # ---- edges

    def edge_opened(self, edge: int, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        self._primary.edges.opened(edge)
        return self._leave()

    def edge_lost(self, edge: int, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        self._primary.edges.lost(edge)
        return self._leave()

    def edge_received(self, edge: int, message: EdgeMessage, now_ns: int) -> list[Effect]:
        self._enter(now_ns)
        final = self._primary.edges.received(edge, message)
        self._primary.vouch()
        if final and self._state in ACCEPTING:
            self._power_off()
        return self._leave()

    # ---- the world of local devices

    @property
    def lease_until_ns(self) -> int:
        """What `EmitLocal` says may be emitted before this time."""
        return self._primary.local.lease_until_ns

    def local_room(self, device: str) -> int:
        """How many units of input this local device takes now."""
        return self._primary.local.room(device) if self._primary.edges.takes_input else 0

    def local_input(self, device: str, data: bytes, now_ns: int) -> list[Effect]:
        """From the world. What there is no room for is lost."""
        self._enter(now_ns)
        if self._state is not State.OVER and len(data) <= self.local_room(device):
            self._primary.local.inject(device, data)
        return self._leave()

    # ---- time

    def next_timer_ns(self) -> int | None:
        """When `timer` is due; None when this node is over."""
        if self._state is State.OVER:
            return None
        due = min(self._beat_at_ns, self._bide_at_ns) if self._state in ASKING else self._beat_at_ns
        for follower in self._primary.followers.values():
            due = min(due, follower.detector.deadline_ns)
        if self._state in WATCHING and (self._state is State.SUSPECT or self._shadow.session is not None):
            due = min(due, self._shadow.detector.deadline_ns)
        if self._claimant.retry_at_ns is not None:
            due = min(due, self._claimant.retry_at_ns)
        return due

    def timer(self, now_ns: int) -> list[Effect]:
        """Early calls are harmless, late ones delay."""
        self._enter(now_ns)
        self._watch()
        request = self._claimant.due(now_ns)
        if request is not None:
            self._replica.emit(AskArbiter(request))
        beats = now_ns >= self._beat_at_ns
        if beats:
            self._beat_at_ns = now_ns + self._config.heartbeat_ns
            self._primary.beat()
            self._shadow.beat(now_ns)
        if beats or (self._state in ASKING and now_ns >= self._bide_at_ns):
            self._bide_at_ns = now_ns + min(self._config.heartbeat_ns, self._config.probe_retry_ns)
            self._bide()
        return self._leave()

    def _watch(self) -> None:
        now_ns = self._now_ns
        for follower in list(self._primary.followers.values()):
            late = self._primary.is_late(follower, now_ns)
            if follower.detector.tardy(now_ns) or late:
                self._primary.drop(follower, f"{follower.peer} is silent" if not late else "joining took too long")
                self._lost_follower(follower)
        if self._state not in WATCHING or not self._shadow.detector.tardy(now_ns):
            return
        if self._state is not State.JOINING:
            self._presume_dead(f"{self._shadow.peer} is silent")
        elif self._shadow.session is not None:
            self._shadow.detach("the primary is silent")
            self._lost_primary()

    def _bide(self) -> None:
        """What waits for nothing in particular: looked at with every beat, and more often by who asks others."""
        config, waited_ns = self._config, self._now_ns - self._since_ns
        probing = self._now_ns >= self._probe_at_ns
        if self._primary.edges.attached is not None:
            self._edgeless_since_ns = self._now_ns
        if self._state in ACCEPTING:
            members = [(member.peer, member.life) for member in self._primary.members()]
            self._stamper.withdraw(members, self._primary.followers)
        if waited_ns >= config.hand_over_wait_ns:
            self._give_up_planned()
        match self._state:
            case State.JOINING if self._shadow.session is None and probing:
                self._probe(*config.peers)
            case State.SUSPECT if waited_ns >= config.suspect_max_ns:
                self._presume_dead(f"{self._shadow.peer} lives, but did not go on without this node")
            case State.SUSPECT if probing:
                self._probe(self._shadow.peer)
            case State.WAITING:
                self._bide_waiting()
            case State.FROZEN:
                self._bide_frozen(probing)
            case State.SOLO | State.PROTECTED if self._halt is not None:
                gate, edgeless_ns = self._replica.gate, self._now_ns - self._edgeless_since_ns
                if gate.committed == gate.end and edgeless_ns >= config.off_wait_ns:
                    self._power_off()

    def _bide_frozen(self, probing: bool) -> None:
        """S6: whoever was in sync with the newest *activated* generation may go on from there, once the holder of
        the one after it stays away."""
        if probing:
            self._probe(*self._config.peers)
            self._replica.emit(AskArbiter(Read()))
        mine = self._ledger.last_activated == self._replica.generation
        if mine and self._now_ns - self._holder_seen_ns >= self._config.void_delay_ns:
            self._step(Cause.HOLDER_SILENT)
            self._claim(Kind.VOID, want=self._ledger.current + 1)
