"""How a node passes from state to state: claims, answers, going live, falling silent, ending.

Every change of state goes through `_step`, which follows `arbitration.TRANSITIONS`. `Node` adds the events.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ftvm.errors import ExitCode
from ftvm.log.stamp import Held
from ftvm.replication.arbitration import ACCEPTING, Cause, Claimant, State, successor
from ftvm.replication.edge_sessions import Restarted
from ftvm.replication.effects import AskArbiter, BootMachine, Effect, Exit, Frozen, GoLive, Note, Probe, StartOver
from ftvm.replication.events import Presence, ProbeAnswer
from ftvm.replication.messages import (
    Activate,
    Activated,
    Claim,
    Granted,
    Heartbeat,
    Kind,
    Ledger,
    Life,
    Refused,
)
from ftvm.replication.output_gate import OutputGate
from ftvm.replication.primary import Follower, Primary, Stage
from ftvm.replication.replica import Replica, ReplicationConfig
from ftvm.replication.restart import Judgement
from ftvm.replication.shadow import Shadow
from ftvm.replication.stamper import Stamper

EMPTY_HANDED = frozenset({State.WAITING, State.REPLAYING, State.RESTARTING})
"""States of a node that has no machine in memory with which it would go on by itself, and knows what its log holds.
Before it has looked there, or while it starts over, it must not look like one that holds nothing."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself. `lag_ticks` is that of the slowest member."""

    state: State
    life: Life
    generation: int
    boot: int
    pos: int
    committed: int
    tick: int
    retained_bytes: int
    members: tuple[str, ...]
    joiners: tuple[str, ...]
    primary: str
    lag_ticks: int
    edge_attached: bool
    waits_for: str
    """In `WAITING`: for what."""
    restart: Restarted | None
    """How this node's machine went on from its log, if it did."""


@dataclass(slots=True)
class Halt:
    ok: bool
    code: int
    how: str


class Succession(ABC):
    def __init__(self, config: ReplicationConfig, life: Life) -> None:
        self._config = config
        self._replica = Replica(config, life, OutputGate(config.devices))
        self._shadow = Shadow(self._replica)
        self._primary = Primary(self._replica)
        self._claimant = Claimant(config.claim_retry_ns)
        self._stamper = Stamper(self._replica)
        self._state = State.STARTING
        self._executing = False
        """The engine runs freely, or did when it was last allowed to: the log is this node's own."""
        self._boots = False
        self._force = False
        self._may_boot = False
        self._force_restart = False
        self._held: Held | None = None
        """What this node's log has of an earlier life, until something else takes its place."""
        self._read: Ledger | None = None
        self._answers: dict[str, ProbeAnswer] = {}
        self._judgement: Judgement | None = None
        self._waits_for = self._said = ""
        self._waits_since_ns = self._told_at_ns = self._read_at_ns = 0
        self._refuses_since_ns: int | None = None
        self._leaves = False
        self._hand_over_to = ""
        self._was_over = False
        self._keep: tuple[Life, ...] = ()
        self._ledger = Ledger()
        self._halt: Halt | None = None
        self._now_ns = 0
        self._asked_ns = 0
        self._since_ns = 0
        self._probe_at_ns = 0
        self._holder_seen_ns = 0
        self._edgeless_since_ns = 0

    # ---- what it is

    @property
    def state(self) -> State:
        return self._state

    @property
    def generation(self) -> int:
        return self._replica.generation

    @property
    def life(self) -> Life:
        return self._replica.life

    @property
    def committed(self) -> int:
        """How much of the log every member holds; alone, all of it. A shadow does not know, and says 0."""
        return self._replica.gate.committed

    @property
    def lag_ticks(self) -> int:
        """By how much the slowest member was behind when it last said so; 0 where there is none."""
        return max((self._replica.tick - member.tick for member in self._primary.members()), default=0)

    @property
    def behind_ticks(self) -> int:
        """As `lag_ticks`, but joiners that are catching up with the log count too."""
        return self._primary.behind_ticks()

    def presence(self) -> Presence:
        """For whoever asks who is here: goes into the handshake's answer."""
        live = self._state in ACCEPTING and self._halt is None
        untouched = self._state is State.JOINING and not self._shadow.tainted
        busy = not live and not untouched and self._state not in EMPTY_HANDED
        held = None if live or busy else self._held
        return Presence(self._replica.life, self._replica.generation, live, busy, held)

    def heartbeat(self) -> Heartbeat:
        """For a way apart from the sessions: datagrams do not stall behind a lost segment."""
        return self._replica.heartbeat()

    def status(self) -> NodeStatus:
        replica, followers = self._replica, self._primary.followers.values()
        members = self._primary.members()
        return NodeStatus(
            self._state,
            replica.life,
            replica.generation,
            replica.boot,
            replica.gate.end,
            replica.gate.committed,
            replica.tick,
            replica.gate.retained_bytes,
            tuple(member.peer for member in members),
            tuple(follower.peer for follower in followers if follower.stage is not Stage.MEMBER),
            self._shadow.peer,
            self.lag_ticks,
            self._primary.edges.attached is not None,
            self._waits_for if self._state is State.WAITING else "",
            self._primary.edges.restarted,
        )

    # ---- states

    def _step(self, cause: Cause) -> None:
        self._state = successor(self._state, cause)
        self._since_ns = self._now_ns

    def _end(self, last: Exit | StartOver) -> None:
        self._step(Cause.ENDED)
        self._claimant.drop()
        self._primary.local.fall_silent()
        self._primary.edges.fall_silent()
        self._replica.emit(last)

    # ---- asking

    def _claim(self, kind: Kind, want: int | None = None, keep: tuple[Life, ...] = ()) -> None:
        replica = self._replica
        holder = replica.life if self._executing else self._shadow.primary_life
        claim = Claim(
            want if want is not None else replica.generation + 1,
            replica.generation,
            holder if replica.generation else b"",
            replica.life,
            kind,
            keep,
            self._config.name,
            self._force,
        )
        self._ask(claim)

    def _ask(self, request: Claim | Activate) -> None:
        self._asked_ns = self._now_ns
        self._replica.emit(AskArbiter(self._claimant.ask(request, self._now_ns)))

    def _probe(self, *peers: str) -> None:
        self._probe_at_ns = self._now_ns + self._config.probe_retry_ns
        self._replica.emit(*(Probe(peer) for peer in peers))

    # ---- answers

    def _answered(self, request: Claim | Activate, answer: Granted | Refused | Activated) -> None:
        match answer:
            case Granted() if isinstance(request, Claim) and request.kind is Kind.OFF:
                assert self._halt is not None
                code = ExitCode.OK if self._halt.ok else ExitCode.GUEST_FAILED
                self._end(Exit(code, f"the guest halted: {self._halt.how}, code {self._halt.code}"))
            case Granted():
                assert isinstance(request, Claim)
                self._step(Cause.GRANTED)
                self._keep = request.keep
                self._boots = request.kind in (Kind.BOOT, Kind.RESTART)
                self._executing = self._executing or self._boots
                if request.kind is Kind.BOOT:
                    self._replica.emit(BootMachine())
                self._ask(Activate(answer.gen, self._replica.life))
            case Activated():
                self._activated(answer.gen)
            case Refused():
                self._ledger = Ledger(answer.records, answer.last_activated)
                self._refused(request)

    def _refused(self, request: Claim | Activate) -> None:
        if self._state is State.BOOTING:
            if self._ledger.off or self._force:
                self._claim(Kind.BOOT, want=self._ledger.current + 1)
            else:
                newest = self._ledger.records[-1]
                line = (
                    f"generation {newest.gen} of this machine is held by {newest.holder or newest.life.hex()}, and"
                    f" {self._config.name} has no log of it to go on from: start this node as a shadow, or `--force` a"
                    " cold start and lose what that one holds"
                )
                self._end(Exit(ExitCode.CLAIM_LOST, line))
            return
        if self._state is State.RESTARTING or (self._state is State.ACTIVATING and self._boots and self._held):
            self._step(Cause.REFUSED if self._state is State.RESTARTING else Cause.SUPERSEDED)
            self._boots = self._executing = False
            self._read, self._read_at_ns = None, self._now_ns
            return
        if self._ledger.off:
            self._end(Exit(ExitCode.OK, "the machine was powered off"))
            return
        if self._state is State.CLAIMING:
            record = self._ledger.record(self._replica.generation + 1)
            if record is not None and record.life == self._shadow.primary_life and self._replica.life in record.keep:
                self._step(Cause.KEPT)
                self._replica.generation += 1
                self._stamper.kept((self._shadow.peer, record.life), record.keep)
                self._claim(Kind.PROMOTE)
                return
        counted = self._ledger.record(self._ledger.last_activated)
        if self._executing and counted is not None and counted.life == self._replica.life:
            # This node's own activation was done and its answer lost, until a member that it had kept went on: what it
            # holds is what counts, or that member's silence could never be voided.
            self._replica.generation = counted.gen
        self._freeze()

    def _freeze(self) -> None:
        self._step(Cause.REFUSED)
        # A generation that it was kept for and that was passed over unactivated never counted, and never will: back to
        # the one that did, or the last copy could not void what came after.
        self._replica.generation = min(self._replica.generation, self._ledger.last_activated)
        self._shadow.detach("the next generation was lost")
        for follower in list(self._primary.followers.values()):
            self._primary.close(follower, "the next generation was lost")
        self._primary.local.fall_silent()
        self._primary.edges.fall_silent()
        self._primary.running = False
        self._primary.committing = False
        self._holder_seen_ns = self._now_ns
        newest = self._ledger.records[-1]
        self._replica.emit(
            Frozen(f"generation {newest.gen} went to {newest.holder or newest.life.hex()}"),
        )
        self._probe(*self._config.peers)

    def _learn(self, ledger: Ledger) -> None:
        if self._state is State.WAITING:
            self._read = ledger
            self._judge()
            return
        if self._state is not State.FROZEN or ledger.current < self._ledger.current:
            return
        self._ledger = ledger
        if ledger.off:
            self._end(Exit(ExitCode.OK, "the machine was powered off"))

    def _activated(self, gen: int) -> None:
        self._replica.generation = gen
        self._shadow.detach("this node goes live itself")
        if self._boots:
            self._replica.boot = gen
        if not self._executing and not self._shadow.consumed:
            self._step(Cause.BEHIND)
        else:
            self._go_live()

    def _go_live(self) -> None:
        primary = self._primary
        if self._boots or not self._executing:
            self._replica.emit(GoLive(self._replica.generation))
        self._executing = True
        self._leaves = False
        primary.new_generation(self._keep)
        self._stamper.activated(self._keep)
        self._step(Cause.ACCOMPANIED if self._keep else Cause.ALONE)
        primary.running = True
        primary.edges.go_live()
        primary.local.go_live(self._asked_ns)
        self._edgeless_since_ns = self._now_ns
        if {member.life for member in primary.members()} != set(self._keep):
            # Who stays by the record may claim; that it was lost meanwhile takes another generation.
            self._lose_member()
            return
        primary.committing = True
        primary.commit()

    # ---- losses

    def _lost_primary(self) -> None:
        match self._state:
            case State.JOINING if self._shadow.tainted:
                self._end(StartOver("the session was lost before this node was in sync"))
            case State.JOINING if self._held is not None:
                self._step(Cause.HOLDS)
            case State.IN_SYNC:
                self._step(Cause.SESSION_LOST)
                self._probe(self._shadow.peer)

    def _presume_dead(self, why: str) -> None:
        self._shadow.detach(why)
        self._supersede(why)

    def _supersede(self, why: str) -> None:
        """Sealed from here on, whether the session is still open or not."""
        self._step(Cause.PRIMARY_DEAD)
        self._replica.emit(Note(f"claiming generation {self._replica.generation + 1}: {why}"))
        self._claim(Kind.PROMOTE)

    def _lost_follower(self, follower: Follower) -> None:
        if follower.stage is Stage.MEMBER and self._state in (State.PROTECTED, State.CEDING):
            self._lose_member()

    def _lose_member(self) -> None:
        """P6. The member may believe that we are dead: nothing more is committed until one of us holds the next
        generation."""
        self._step(Cause.MEMBER_LOST)
        self._primary.committing = False
        self._primary.running = True
        keep = tuple(member.life for member in self._primary.members())
        self._claim(Kind.RECONFIGURE if keep else Kind.SOLO, keep=keep)

    def _power_off(self) -> None:
        """P10: with every output and acknowledgement delivered, and the sessions still open."""
        self._step(Cause.FINAL)
        self._claim(Kind.OFF)

    # ---- around every event

    def _enter(self, now_ns: int) -> None:
        """Time in which this process itself stood still says nothing about its peers."""
        absence_ns = now_ns - self._now_ns
        if self._state is not State.STARTING and absence_ns > 2 * self._config.heartbeat_ns:
            excused_ns = absence_ns - self._config.heartbeat_ns
            self._shadow.detector.excuse(excused_ns)
            for follower in self._primary.followers.values():
                follower.detector.excuse(excused_ns)
        self._now_ns = self._replica.now_ns = max(self._now_ns, now_ns)
        self._was_over = self._state is State.OVER

    def _leave(self) -> list[Effect]:
        if self._executing and self._state is not State.OVER:
            if self._state in ACCEPTING and self._halt is None:
                self._primary.copy_next(self._now_ns)
            self._primary.govern()
        effects, self._replica.effects = self._replica.effects, []
        return [] if self._was_over else effects

    @abstractmethod
    def _judge(self) -> None:
        """With a log of an earlier life, and news of the arbiter or of a peer: what follows. See `Waiting`."""
