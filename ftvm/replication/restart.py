"""Who goes on from a log on disk, after a loss of all nodes: a pure rule.

Within one generation all logs are prefixes of one stream, so the longest holds what any of them holds. The arbiter
tells which generation counts: the last that was activated. What a log is worth follows from its newest stamp and the
arbiter's record of that generation; who else may hold as much, or more, from the members that the stamps name, and
from what those members say when they are asked. A member that cannot be asked may hold more, on its disk or, cut off
from us, in a memory that goes on living; only the operator may say that it does not (`forced`).

So of several nodes that are started in any order each comes to the same end: all members are heard, the longest log
goes live, by name where several are equally long, and the others join it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from ftvm.log.stamp import Held, Stamp
from ftvm.replication.events import Absence, Presence, ProbeAnswer
from ftvm.replication.messages import Ledger, Life


class Verdict(Enum):
    WAIT = auto()
    JOIN = auto()
    RESTART = auto()
    REFUSE = auto()


@dataclass(frozen=True, slots=True)
class Judgement:
    """`line` is for people. `peer`: whom to join. `base`, `holder_life`, `members`: what a restart is claimed on."""

    verdict: Verdict
    line: str
    peer: str = ""
    base: int = 0
    holder_life: Life = b""
    members: tuple[tuple[str, Life], ...] = ()


@dataclass(frozen=True, slots=True)
class Worth:
    """A log that may be gone on from: `base` is the generation that it ends in, `members` are all who count in it."""

    base: int
    holder_life: Life
    members: tuple[tuple[str, Life], ...]


def worth(ledger: Ledger, held: Held, *, gen: int | None = None) -> Worth | None:
    """What `held` is worth as a log of generation `gen`, by default the last activated one; None: nothing."""
    stamp = held.stamp
    record = ledger.record(ledger.last_activated if gen is None else gen)
    if stamp is None or record is None:
        return None
    if stamp.gen == record.gen and stamp.holder_life == record.life and stamp.members:
        return Worth(record.gen, record.life, stamp.members)
    reconfigured = ledger.record(stamp.gen)
    if stamp.gen > record.gen and stamp.members and reconfigured is not None:
        # Its primary kept it for a generation that was never activated: it still holds what counts.
        if stamp.holder_life == reconfigured.life == record.life:
            return Worth(record.gen, record.life, stamp.members)
        return None
    if stamp.gen < record.gen and record.life == stamp.life:
        # It went live, and died before its stamp was on the disk. Had it marked a member since, that one would be.
        kept = tuple((name, life) for name, life in stamp.members if life in record.keep and life != stamp.life)
        return Worth(record.gen, record.life, ((stamp.node, stamp.life), *kept))
    return None


def older_worth(ledger: Ledger, held: Held) -> Worth | None:
    """What it is worth to an operator who gives up what came after it: the newest generation that it is a log of."""
    for record in reversed(ledger.records):
        found = worth(ledger, held, gen=record.gen) if record.gen <= ledger.last_activated else None
        if found is not None:
            return found
    return None


def judge(
    name: str, ledger: Ledger, held: Held, answers: Mapping[str, ProbeAnswer], *, forced: bool = False
) -> Judgement:
    """What a node with the log `held` does, given the arbiter's ledger and its peers' newest answers. (If one of them
    is live it is joined; that needs no rule.)"""
    if held.stamp is None:
        return Judgement(Verdict.REFUSE, f"{held.trouble}; {_what_counts(ledger)}{ADVICE}")
    if ledger.current < held.stamp.gen:
        line = f"the arbiter knows no generation after {ledger.current}, and {describe(held)}: records were lost there"
        return Judgement(Verdict.REFUSE, f"{line}; restore them, or `--force` starts cold and gives everything up")
    if ledger.last_activated == 0:
        line = f"{_what_counts(ledger)}: whoever was to start the machine died before it ran"
        return Judgement(Verdict.REFUSE, f"{line}; `--force` starts it, and nothing is lost")
    own = worth(ledger, held)
    outdated = own is None
    if own is None and forced:
        own = older_worth(ledger, held)
    if own is None:
        for peer, answer in answers.items():
            if isinstance(answer, Presence) and (answer.busy or (answer.held and worth(ledger, answer.held))):
                return Judgement(Verdict.WAIT, f"waits for {peer}, which has more than this node's log, to go live")
        line = f"{describe(held)}; {_what_counts(ledger)}, and going on from here would lose what came after"
        return Judgement(Verdict.REFUSE, line + ADVICE)
    return _contest(name, ledger, held, own, answers, forced=forced, outdated=outdated)


ADVICE = (
    ": start that node, or this one as a shadow beside it; or give it up: `--force-restart` goes on from this log,"
    " `--force` starts cold"
)


def _contest(
    name: str,
    ledger: Ledger,
    held: Held,
    own: Worth,
    answers: Mapping[str, ProbeAnswer],
    *,
    forced: bool,
    outdated: bool,
) -> Judgement:
    """It is worth something; may anybody else hold more?"""
    others = {member for member, _ in own.members}
    # A stamp that named a member may be lost with a host that lost its power. Whoever has the machine of this
    # generation, or a newer one, in its memory is waited for even so.
    others |= {
        peer
        for peer, answer in answers.items()
        if isinstance(answer, Presence) and answer.busy and answer.gen >= own.base
    }
    heard: list[str] = []
    for peer, theirs in _waiting(answers):
        value = worth(ledger, theirs)
        if value is None:
            continue
        others |= {member for member, _ in value.members}
        if outdated or (-theirs.pos, peer) < (-held.pos, name):
            verdict = Verdict.REFUSE if outdated else Verdict.WAIT
            return Judgement(verdict, f"{peer} waits with a better log and goes first: {describe(theirs)}")
        heard.append(f"{peer} holds no more: {describe(theirs)}")
    given_up: list[str] = []
    for other in sorted(others - {name}):
        doubt = _doubt(other, answers.get(other))
        if doubt and (not forced or other not in answers or _is_busy(answers[other])):
            return Judgement(Verdict.WAIT, f"waits for {other}: {doubt}; {describe(held)}{WAIT_ADVICE}")
        if doubt:
            given_up.append(f"what {other} may hold beyond that is given up ({doubt})")
    if outdated:
        given_up.insert(0, f"{_what_counts(ledger)}: what came after this log is given up")
    line = "; ".join([f"restarts: {describe(held)}", *heard, *given_up])
    return Judgement(Verdict.RESTART, line, "", own.base, own.holder_life, own.members)


WAIT_ADVICE = ". Start it, as shadow or primary; or, if it is lost for good, start this one with `--force-restart`"


def _waiting(answers: Mapping[str, ProbeAnswer]) -> Iterator[tuple[str, Held]]:
    for peer, answer in answers.items():
        if isinstance(answer, Presence) and answer.held is not None:
            yield peer, answer.held


def _is_busy(answer: ProbeAnswer) -> bool:
    return isinstance(answer, Presence) and answer.busy


def _doubt(other: str, answer: ProbeAnswer | None) -> str:
    """Why this member may hold more than we know; "" if it was heard and does not."""
    match answer:
        case None:
            return "it was not asked yet"
        case Absence.REFUSED:
            return "its process does not run, and its disk may hold more"
        case Absence.NO_ANSWER:
            return "it cannot be reached, and may be alive and hold more"
        case Presence(busy=True):
            return "it has the machine in memory and will go on with it"
        case Presence(held=Held(trouble=trouble)) if trouble:
            return f"it cannot read its log ({trouble})"
    return ""


def describe(held: Held) -> str:
    """What a log has, in words."""
    stamp = held.stamp
    if stamp is None:
        return held.trouble
    what = f"node {stamp.node} has generation {stamp.gen} up to position {held.pos}, tick {held.tick}"
    return f"{what}, written {held.written}" if held.written else what


def _what_counts(ledger: Ledger) -> str:
    record = ledger.record(ledger.last_activated)
    if record is None:
        return "no generation was ever activated"
    return f"generation {record.gen}, held by {record.holder or record.life.hex()}, is the newest"


def reopened(stamp: Stamp, life: Life, judgement: Judgement) -> Stamp:
    """The stamp under which `life` goes on with a log: what it was worth, and who writes from here on."""
    members = tuple((name, life if name == stamp.node else theirs) for name, theirs in judgement.members)
    if stamp.node not in dict(members):
        members = ((stamp.node, life), *members)
    return Stamp(stamp.machine, stamp.node, life, judgement.base, judgement.holder_life, stamp.boot, members)
