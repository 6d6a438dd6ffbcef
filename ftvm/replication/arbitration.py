"""Who may go live: the arbiter's rule, and the states a node passes on its way.

The arbiter grants each generation once, to the life that asks first and can prove (by naming the newest generation
and who holds it) that it was in sync with the newest one. It compares and creates; it never measures time, and a
claim never expires. Both functions are pure: an adapter makes them durable before it answers.

A granted generation counts only once activated. A claimant that dies in between would take the machine with it;
so whoever was in sync with the last *activated* generation may void the grant by claiming the next one. That is safe,
for nothing is released in a generation before its activation, and activation is refused once a newer one is granted.

After a loss of all nodes a machine goes on from a log on disk by a `RESTART` on the last activated generation, which
likewise voids whatever was granted since. The arbiter sees to it that nobody goes on from an older one (but by the
operator's force) and that only one does. That no other node holds *more* of that generation it cannot know: that is
found out before the claim, see `ftvm.replication.restart`.
"""

from dataclasses import dataclass
from enum import Enum, auto

from ftvm.replication.messages import (
    Activate,
    Activated,
    ArbiterAnswer,
    Claim,
    Granted,
    Kind,
    Ledger,
    Life,
    Record,
    Refused,
)

RECORDS_TOLD_MAX = 64
"""Records in one `Refused`: a claimant looks at the newest few only."""


def decide(ledger: Ledger, claim: Claim) -> tuple[Granted | Refused, Record | None]:
    """The answer to `claim`, and the record that must be durable before that answer is given (None: nothing new)."""
    held = ledger.record(claim.want)
    if held is not None and held.life == claim.life:
        return Granted(claim.want, claim.life), None
    if claim.want == ledger.current + 1 and _entitled(ledger, claim):
        record = Record(claim.want, claim.life, claim.base, claim.kind, claim.keep, claim.holder)
        return Granted(claim.want, claim.life), record
    return _refused(ledger, claim.want, claim.life), None


def decide_activation(ledger: Ledger, activate: Activate) -> tuple[Activated | Refused, bool]:
    """The answer, and whether `last_activated` must durably become `activate.gen` before it is given."""
    current = ledger.records[-1] if ledger.records else None
    if current is not None and (current.gen, current.life) == (activate.gen, activate.life) and not ledger.off:
        return Activated(activate.gen, activate.life), ledger.last_activated != activate.gen
    return _refused(ledger, activate.gen, activate.life), False


def _entitled(ledger: Ledger, claim: Claim) -> bool:
    if claim.kind is Kind.BOOT:
        return not ledger.records or ledger.off or claim.force
    if ledger.off:
        return False
    base = ledger.record(claim.base)
    if base is None or base.life != claim.base_holder_life:
        return False
    if claim.kind in (Kind.VOID, Kind.RESTART):
        return ledger.last_activated == claim.base or (claim.kind is Kind.RESTART and claim.force)
    return claim.base == ledger.current


def _refused(ledger: Ledger, want: int, life: Life) -> Refused:
    return Refused(want, life, ledger.records[-RECORDS_TOLD_MAX:], ledger.last_activated, ledger.off)


class State(Enum):
    """What a node is, in the protocol's words."""

    # A member is one object; Enum's own hash is Python code, and states are looked up with every event.
    __hash__ = object.__hash__

    STARTING = auto()
    BOOTING = auto()
    """Claims a generation for a machine that starts cold."""
    WAITING = auto()
    """Has a log of an earlier life, and finds out who else holds what."""
    REPLAYING = auto()
    """Nobody holds more: the engine goes through the log to its end."""
    RESTARTING = auto()
    """Claims a generation for a machine that goes on from a log."""
    JOINING = auto()
    IN_SYNC = auto()
    SUSPECT = auto()
    """The session to the primary ended, its death is not yet sure. Sealed."""
    CLAIMING = auto()
    """Sealed, and claims the generation after its base."""
    ACTIVATING = auto()
    CONSUMING = auto()
    """Holds an activated generation, and still executes the log that it holds."""
    SOLO = auto()
    PROTECTED = auto()
    CEDING = auto()
    """Handed over: its log has ended, the shadow claims."""
    RECLAIMING = auto()
    """Was live with members, lost one, and claims the next generation. Releases nothing more until then."""
    POWERING_OFF = auto()
    FROZEN = auto()
    VOIDING = auto()
    OVER = auto()
    """This object is of no more use: the process exits, or starts over under a new life."""


class Cause(Enum):
    __hash__ = object.__hash__

    BOOT = auto()
    JOIN = auto()
    HOLDS = auto()
    """Started with a log of an earlier life."""
    ENTITLED = auto()
    """Nobody else may hold more than that log."""
    REPLAYED = auto()
    SUPERSEDED = auto()
    """A restart was granted, and another generation before it was activated."""
    MARKED = auto()
    SESSION_LOST = auto()
    PRIMARY_DEAD = auto()
    HANDED_OVER = auto()
    GRANTED = auto()
    REFUSED = auto()
    KEPT = auto()
    """Refused, but by a record of my own primary that names me: my base is newer than I knew."""
    BEHIND = auto()
    """Activated, with log still to execute."""
    ALONE = auto()
    """Activated (and nothing left to execute), with no member."""
    ACCOMPANIED = auto()
    """Activated, with members who stay."""
    ADMITTED = auto()
    MEMBER_LOST = auto()
    QUIESCED = auto()
    FINAL = auto()
    HOLDER_SILENT = auto()
    ENDED = auto()


TRANSITIONS: dict[State, dict[Cause, State]] = {
    State.STARTING: {Cause.BOOT: State.BOOTING, Cause.JOIN: State.JOINING, Cause.HOLDS: State.WAITING},
    State.BOOTING: {Cause.GRANTED: State.ACTIVATING},
    State.WAITING: {Cause.BOOT: State.BOOTING, Cause.JOIN: State.JOINING, Cause.ENTITLED: State.REPLAYING},
    State.REPLAYING: {Cause.REPLAYED: State.RESTARTING},
    State.RESTARTING: {Cause.GRANTED: State.ACTIVATING, Cause.REFUSED: State.WAITING},
    State.JOINING: {Cause.MARKED: State.IN_SYNC, Cause.HOLDS: State.WAITING},
    State.IN_SYNC: {
        Cause.SESSION_LOST: State.SUSPECT,
        Cause.PRIMARY_DEAD: State.CLAIMING,
        Cause.HANDED_OVER: State.CLAIMING,
    },
    State.SUSPECT: {Cause.PRIMARY_DEAD: State.CLAIMING},
    State.CLAIMING: {
        Cause.GRANTED: State.ACTIVATING,
        Cause.KEPT: State.CLAIMING,
        Cause.REFUSED: State.FROZEN,
    },
    State.ACTIVATING: {
        Cause.BEHIND: State.CONSUMING,
        Cause.ALONE: State.SOLO,
        Cause.ACCOMPANIED: State.PROTECTED,
        Cause.REFUSED: State.FROZEN,
        Cause.SUPERSEDED: State.WAITING,
    },
    State.CONSUMING: {Cause.ALONE: State.SOLO},
    State.SOLO: {Cause.ADMITTED: State.PROTECTED, Cause.FINAL: State.POWERING_OFF},
    State.PROTECTED: {
        Cause.ADMITTED: State.PROTECTED,
        Cause.MEMBER_LOST: State.RECLAIMING,
        Cause.QUIESCED: State.CEDING,
        Cause.FINAL: State.POWERING_OFF,
    },
    State.CEDING: {Cause.MEMBER_LOST: State.RECLAIMING},
    State.RECLAIMING: {Cause.GRANTED: State.ACTIVATING, Cause.REFUSED: State.FROZEN},
    State.POWERING_OFF: {Cause.REFUSED: State.FROZEN},
    State.FROZEN: {Cause.HOLDER_SILENT: State.VOIDING},
    State.VOIDING: {Cause.GRANTED: State.ACTIVATING, Cause.REFUSED: State.FROZEN},
    State.OVER: {},
}
"""All there is, but for one rule: from every state `ENDED` leads to `OVER`. What is missing here is a bug of ours."""

ACCEPTING = frozenset({State.SOLO, State.PROTECTED})
"""Takes joiners."""
LIVE = ACCEPTING | {State.CEDING, State.RECLAIMING, State.POWERING_OFF}
"""May release what is committed in its generation."""


def successor(state: State, cause: Cause) -> State:
    if cause is Cause.ENDED:
        return State.OVER
    after = TRANSITIONS[state].get(cause)
    assert after is not None, f"{cause.name} cannot happen in {state.name}"
    return after


@dataclass(slots=True)
class Claimant:
    """One request to the arbiter at a time, repeated unchanged until it is answered."""

    retry_ns: int
    request: Claim | Activate | None = None
    retry_at_ns: int | None = None

    def ask(self, request: Claim | Activate, now_ns: int) -> Claim | Activate:
        self.request = request
        self.retry_at_ns = now_ns + self.retry_ns
        return request

    def due(self, now_ns: int) -> Claim | Activate | None:
        """The request to repeat now, if any."""
        if self.request is None or self.retry_at_ns is None or now_ns < self.retry_at_ns:
            return None
        self.retry_at_ns = now_ns + self.retry_ns
        return self.request

    def take(self, answer: ArbiterAnswer) -> Claim | Activate | None:
        """The request that `answer` settles, which is then no longer open; None if it answers something older.

        A late grant of an older request is no proof of anything.
        """
        request = self.request
        if request is None or _subject(answer, request) != (_gen(request), request.life):
            return None
        self.drop()
        return request

    def drop(self) -> None:
        """Whatever is answered from here on, nobody asked."""
        self.request = None
        self.retry_at_ns = None


def _gen(request: Claim | Activate) -> int:
    return request.want if isinstance(request, Claim) else request.gen


def _subject(answer: ArbiterAnswer, request: Claim | Activate) -> tuple[int, Life] | None:
    if isinstance(answer, Refused):
        return answer.want, answer.life
    if isinstance(answer, Granted) and isinstance(request, Claim):
        return answer.gen, answer.life
    if isinstance(answer, Activated) and isinstance(request, Activate):
        return answer.gen, answer.life
    return None
