"""Who goes on from a log after a loss of all nodes: the rule by itself, and a node that follows it."""

import itertools
from dataclasses import replace

import pytest

from ftvm.errors import ExitCode
from ftvm.log.stamp import Held, Stamp
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State, decide, decide_activation
from ftvm.replication.effects import Note
from ftvm.replication.events import Absence, Presence, ProbeAnswer
from ftvm.replication.messages import Claim, Kind, Ledger, Record
from ftvm.replication.node import Node
from ftvm.replication.restart import Judgement, Verdict, judge, worth
from tests.replication.scenes import CONFIG, EDGE, ME, MS, OTHER, PEER, SHADOW, THIRD, only, some

OLD, NEW = b"\x11" * 16, b"\x22" * 16
"""Lives that are over: this node's earlier one, and the peer's."""

BOOTED = Ledger((Record(1, OLD, 0, Kind.BOOT, (), "me"),), 1)
ALONE = Stamp("machine", "me", OLD, 1, OLD, 1, (("me", OLD),))
PAIR = Stamp("machine", "me", OLD, 1, OLD, 1, (("me", OLD), ("peer", NEW)))
THEIRS = Stamp("machine", "peer", NEW, 1, OLD, 1, (("me", OLD), ("peer", NEW)))
SECOND = 1_000 * MS


def waiting(held: Held, life: bytes = PEER) -> Presence:
    return Presence(life, 0, live=False, held=held)


def nothing(life: bytes = PEER) -> Presence:
    return Presence(life, 0, live=False)


# ---- what a log is worth


def test_a_log_is_worth_something_only_with_a_stamp_of_the_last_activated_generation() -> None:
    later = Ledger((*BOOTED.records, Record(2, THIRD, 1, Kind.PROMOTE, (), "peer")), 2)
    assert worth(BOOTED, Held(ALONE)) is not None
    assert worth(later, Held(ALONE)) is None
    assert worth(BOOTED, Held(replace(ALONE, holder_life=THIRD))) is None, "of another machine's generation 1"
    assert worth(BOOTED, Held(replace(ALONE, gen=0, holder_life=b"", members=(), life=THIRD))) is None, "a joiner's"
    assert worth(Ledger(), Held(ALONE)) is None


def test_a_granted_generation_that_was_not_activated_does_not_outdate_a_log() -> None:
    granted = Ledger((*BOOTED.records, Record(2, THIRD, 1, Kind.PROMOTE, (), "peer")), 1)
    found = worth(granted, Held(ALONE))
    assert found is not None
    assert found.base == 1


def test_the_log_of_the_life_that_holds_the_generation_counts_though_its_stamp_was_not_written() -> None:
    promoted = Ledger((Record(1, OLD, 0, Kind.BOOT), Record(2, NEW, 1, Kind.PROMOTE, (), "peer")), 2)
    found = worth(promoted, Held(THEIRS))
    assert found is not None
    assert (found.base, found.holder_life, dict(found.members)) == (2, NEW, {"peer": NEW})
    kept = Ledger((Record(1, OLD, 0, Kind.BOOT), Record(2, OLD, 1, Kind.RECONFIGURE, (NEW,), "me")), 2)
    found = worth(kept, Held(PAIR))
    assert found is not None
    assert dict(found.members) == {"me": OLD, "peer": NEW}, "who stays may hold more"


# ---- the rule


def verdict(held: Held, answers: dict[str, ProbeAnswer], *, ledger: Ledger = BOOTED, forced: bool = False) -> Judgement:
    return judge("me", ledger, held, answers, forced=forced)


def test_alone_nobody_else_is_asked() -> None:
    judgement = verdict(Held(ALONE, 9), {})
    assert (judgement.verdict, judgement.base, judgement.holder_life) == (Verdict.RESTART, 1, OLD)


@pytest.mark.parametrize(
    ("answers", "expected", "forced"),
    [
        ({}, Verdict.WAIT, Verdict.WAIT),
        ({"peer": Absence.REFUSED}, Verdict.WAIT, Verdict.RESTART),
        ({"peer": Absence.NO_ANSWER}, Verdict.WAIT, Verdict.RESTART),
        ({"peer": Presence(PEER, 1, live=False, busy=True)}, Verdict.WAIT, Verdict.WAIT),
        ({"peer": waiting(Held(None, trouble="damaged"))}, Verdict.WAIT, Verdict.RESTART),
        ({"peer": nothing()}, Verdict.RESTART, Verdict.RESTART),
        ({"peer": waiting(Held(THEIRS, 8))}, Verdict.RESTART, Verdict.RESTART),
        ({"peer": waiting(Held(THEIRS, 9))}, Verdict.RESTART, Verdict.RESTART),
        ({"peer": waiting(Held(THEIRS, 10))}, Verdict.WAIT, Verdict.WAIT),
        ({"peer": waiting(Held(replace(THEIRS, holder_life=THIRD), 10))}, Verdict.RESTART, Verdict.RESTART),
    ],
)
def test_a_member_must_be_heard_and_hold_no_more(
    answers: dict[str, ProbeAnswer], expected: Verdict, forced: Verdict
) -> None:
    assert verdict(Held(PAIR, 9), answers).verdict is expected
    assert verdict(Held(PAIR, 9), answers, forced=True).verdict is forced


def test_a_member_that_only_another_log_names_must_be_heard_too() -> None:
    three = replace(THEIRS, members=(*THEIRS.members, ("third", THIRD)))
    answers: dict[str, ProbeAnswer] = {"peer": waiting(Held(three, 5)), "third": Absence.REFUSED}
    assert verdict(Held(PAIR, 9), answers).verdict is Verdict.WAIT
    assert verdict(Held(PAIR, 9), {**answers, "third": nothing()}).verdict is Verdict.RESTART


@pytest.mark.parametrize("lengths", list(itertools.product((3, 4), repeat=3)))
def test_of_all_members_that_wait_exactly_one_goes_first_and_none_has_more(lengths: tuple[int, ...]) -> None:
    lives = {"a": OLD, "b": NEW, "c": THIRD}
    members = tuple(lives.items())
    logs = {
        name: Held(Stamp("machine", name, life, 1, OLD, 1, members), length)
        for (name, life), length in zip(members, lengths, strict=True)
    }
    first = []
    for name, held in logs.items():
        answers: dict[str, ProbeAnswer] = {other: waiting(log) for other, log in logs.items() if other != name}
        if judge(name, BOOTED, held, answers).verdict is Verdict.RESTART:
            first.append(name)
    assert len(first) == 1
    assert logs[first[0]].pos == max(lengths)


def test_an_outdated_log_is_refused_in_words_and_may_be_forced() -> None:
    later = Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.PROMOTE, (), "peer")), 2)
    held = Held(PAIR, 9, 777, "2026-01-02 03:04:05 UTC")
    refused = verdict(held, {"peer": Absence.REFUSED}, ledger=later)
    assert refused.verdict is Verdict.REFUSE
    for word in ("generation 1 up to position 9, tick 777", "03:04:05", "generation 2, held by peer", "--force-rest"):
        assert word in refused.line
    forced = verdict(held, {"peer": Absence.REFUSED}, ledger=later, forced=True)
    assert (forced.verdict, forced.base, forced.holder_life) == (Verdict.RESTART, 1, OLD)
    assert "generation 2, held by peer, is the newest: what came after this log is given up" in forced.line
    # But not beside the node that has it, and without force that one is waited for.
    newest: dict[str, ProbeAnswer] = {"peer": waiting(Held(replace(THEIRS, gen=2, holder_life=NEW), 20))}
    assert verdict(held, newest, ledger=later, forced=True).verdict is Verdict.REFUSE
    assert verdict(held, newest, ledger=later).verdict is Verdict.WAIT


def test_an_arbiter_that_knows_less_than_the_log_is_not_believed() -> None:
    judgement = verdict(Held(replace(ALONE, gen=4)), {}, forced=True)
    assert judgement.verdict is Verdict.REFUSE
    assert "records were lost" in judgement.line


def test_a_machine_that_never_ran_is_started_by_force_and_nothing_is_lost() -> None:
    granted = Ledger(BOOTED.records, 0)
    judgement = verdict(Held(replace(ALONE, gen=0, holder_life=b"", members=())), {}, ledger=granted)
    assert judgement.verdict is Verdict.REFUSE
    assert "`--force` starts it, and nothing is lost" in judgement.line


# ---- the arbiter


@pytest.mark.parametrize(
    ("ledger", "claim", "granted"),
    [
        (BOOTED, Claim(2, 1, OLD, ME, Kind.RESTART), True),
        (BOOTED, Claim(2, 1, NEW, ME, Kind.RESTART), False),
        (BOOTED, Claim(3, 1, OLD, ME, Kind.RESTART), False),
        (Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 1), Claim(3, 1, OLD, ME, Kind.RESTART), True),
        (Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 2), Claim(3, 1, OLD, ME, Kind.RESTART), False),
        (Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 2), Claim(3, 2, NEW, ME, Kind.RESTART), True),
        (
            Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 2),
            Claim(3, 1, OLD, ME, Kind.RESTART, force=True),
            True,
        ),
        (
            Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 2),
            Claim(3, 1, ME, ME, Kind.RESTART, force=True),
            False,
        ),
        (Ledger((*BOOTED.records, Record(2, OLD, 1, Kind.OFF)), 1), Claim(3, 1, OLD, ME, Kind.RESTART), False),
        (Ledger(), Claim(1, 0, b"", ME, Kind.RESTART), False),
    ],
)
def test_a_restart_is_granted_on_the_last_activated_generation_alone(
    ledger: Ledger, claim: Claim, granted: bool
) -> None:
    answer, record = decide(ledger, claim)
    assert isinstance(answer, m.Granted) is granted
    assert (record is not None) is granted


def test_a_restart_voids_a_grant_that_was_not_activated() -> None:
    granted = Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.SOLO)), 1)
    _, record = decide(granted, Claim(3, 1, OLD, ME, Kind.RESTART))
    assert record is not None
    after = Ledger((*granted.records, record), 1)
    assert isinstance(decide_activation(after, m.Activate(2, NEW))[0], m.Refused)
    assert isinstance(decide_activation(after, m.Activate(3, ME))[0], m.Activated)


# ---- a node


def started(held: Held, *, primary: bool, ledger: Ledger = BOOTED, force_restart: bool = False) -> Node:
    node = Node(CONFIG, ME)
    if primary:
        effects = node.start_primary(0, held=held, force_restart=force_restart)
    else:
        effects = node.start_shadow(0, held=held)
    assert only(effects, fx.AskArbiter).request == m.Read()
    assert only(effects, fx.Probe) == fx.Probe("peer")
    assert node.presence() == Presence(ME, 0, live=False, busy=False, held=held)
    return node


def test_a_node_that_has_not_looked_into_its_log_yet_does_not_say_that_it_holds_nothing() -> None:
    """Whoever asks in the moment between the opening of its port and the reading of its log has to wait for it."""
    node = Node(CONFIG, ME)
    assert node.presence().busy
    assert verdict(Held(PAIR, 9, 777), {"peer": node.presence()}).verdict is Verdict.WAIT
    node.start_shadow(0, held=Held(ALONE, 9, 777))
    assert node.presence() == Presence(ME, 0, live=False, busy=False, held=Held(ALONE, 9, 777))


def restarting(node: Node, effects: list[fx.Effect]) -> m.Claim:
    """From the verdict to the claim."""
    stamp = only(effects, fx.ReplayLog).stamp
    assert (stamp.life, stamp.gen, stamp.holder_life) == (ME, 1, OLD)
    assert node.state is State.REPLAYING
    effects = node.replayed(9, 777, {"uart0": 30}, {"uart0": 12}, 2)
    request = only(effects, fx.AskArbiter).request
    assert isinstance(request, m.Claim)
    return request


@pytest.mark.parametrize("primary", [True, False])
def test_whatever_it_was_started_as_a_node_that_was_alone_goes_on_where_its_log_ends(primary: bool) -> None:
    node = started(Held(ALONE, 9, 777), primary=primary)
    claim = restarting(node, node.arbiter_answered(BOOTED, 1))
    assert claim == Claim(2, 1, OLD, ME, Kind.RESTART, (), "me")
    assert only(node.arbiter_answered(m.Granted(2, ME), 3), fx.AskArbiter).request == m.Activate(2, ME)
    node.edge_opened(EDGE, 3)
    effects = node.arbiter_answered(m.Activated(2, ME), 4)
    assert fx.GoLive(2) in effects
    assert fx.SendEdge(EDGE, m.Live(2, ("uart0@2",))) in effects
    stamp = only(effects, fx.WriteStamp).stamp
    assert (stamp.gen, stamp.holder_life, stamp.boot, stamp.alone) == (2, ME, 2, True)
    status = node.status()
    assert (status.state, status.boot, status.pos, status.committed, status.tick) == (State.SOLO, 2, 9, 9, 777)

    # The edge had more than this machine knows of: said, and counted from the log's offsets.
    effects = node.edge_received(EDGE, m.Attach(2, {"uart0@1": 33}, {"uart0@1": 12}), 5)
    assert any("LOST: the edge had 3 units of output and 0 of input" in note.text for note in some(effects, Note))
    assert fx.SendEdge(EDGE, m.InputAck(2, "uart0@2", 12)) in effects
    restart = node.status().restart
    assert restart is not None
    assert (restart.base, restart.pos, restart.lost_outputs, restart.lost_inputs) == (1, 9, 3, 0)
    effects = node.edge_received(EDGE, m.Input(2, "uart0@2", 12, b"x", 30), 6)
    assert only(effects, fx.InjectInput) == fx.InjectInput("uart0", 12, b"x", False)


def test_an_edge_that_had_no_more_hears_that_nothing_is_lost() -> None:
    node = started(Held(ALONE, 9, 777), primary=True)
    restarting(node, node.arbiter_answered(BOOTED, 1))
    node.arbiter_answered(m.Granted(2, ME), 3)
    node.edge_opened(EDGE, 3)
    node.arbiter_answered(m.Activated(2, ME), 4)
    node.edge_received(EDGE, m.Attach(2, {}, {}), 5)
    restart = node.status().restart
    assert restart is not None
    assert restart.lost_outputs is None, "a new edge knows nothing"
    effects = node.edge_received(EDGE, m.Attach(2, {"uart0@1": 30}, {"uart0@1": 11}), 5)
    assert any("nothing that the edge saw is lost" in note.text for note in some(effects, Note))


def test_a_member_that_cannot_be_asked_is_waited_for_and_that_is_said_every_few_seconds() -> None:
    node = started(Held(PAIR, 9, 777), primary=True)
    node.arbiter_answered(BOOTED, 1)
    notes: list[str] = []
    for now in range(50 * MS, 60 * SECOND, 50 * MS):
        effects = [*node.probed("peer", Absence.NO_ANSWER, now), *node.timer(now)]
        assert not some(effects, fx.ReplayLog)
        notes += [note.text for note in some(effects, Note)]
    assert node.state is State.WAITING
    assert "cannot be reached" in node.status().waits_for
    assert 10 <= len(notes) <= 14
    assert any("peer" in text and "position 9" in text and "--force-restart" in text for text in notes)
    restarting(node, node.probed("peer", nothing(), 60 * SECOND))


def test_a_forced_restart_asks_first_and_then_gives_up_what_it_names() -> None:
    node = started(Held(PAIR, 9, 777), primary=True, force_restart=True)
    assert not some(node.arbiter_answered(BOOTED, 1), fx.ReplayLog)
    effects = node.probed("peer", Absence.REFUSED, 2)
    assert any("what peer may hold beyond that is given up" in note.text for note in some(effects, Note))
    assert restarting(node, effects).force


def test_a_live_peer_is_joined_whatever_this_node_holds_and_even_without_the_arbiter() -> None:
    node = started(Held(ALONE, 9, 777), primary=True)
    assert only(node.probed("peer", Presence(PEER, 5, live=True), 1), fx.Join) == fx.Join("peer")
    assert fx.TakeInventory(SHADOW) in node.session_opened(SHADOW, "peer", PEER, 2)
    assert node.state is State.JOINING
    # It ends before anything of a machine was received: the log is still what it was.
    node.session_lost(SHADOW, 3)
    assert node.state is State.WAITING
    assert node.presence().held == Held(ALONE, 9, 777)


def test_an_outdated_primary_gives_up_with_a_line_and_an_outdated_shadow_waits() -> None:
    later = Ledger((*BOOTED.records, Record(2, NEW, 1, Kind.PROMOTE, (), "peer")), 2)
    for primary in (True, False):
        node = started(Held(PAIR, 9, 777), primary=primary)
        exits: list[fx.Exit] = []
        node.arbiter_answered(later, 1)
        for now in range(50 * MS, 4 * SECOND, 50 * MS):
            exits += some([*node.probed("peer", Absence.REFUSED, now), *node.timer(now)], fx.Exit)
        assert [(one.code, "held by peer" in one.line) for one in exits] == [(ExitCode.CLAIM_LOST, True)] * primary
        assert node.state is (State.OVER if primary else State.WAITING)


def test_a_primary_that_waited_long_joins_the_peer_that_goes_on_before_it_instead_of_giving_up() -> None:
    """It hears of the peer's new generation first, and a moment later that the peer is live."""
    node = started(Held(PAIR, 9, 777), primary=True)
    node.arbiter_answered(BOOTED, 1)
    for now in range(50 * MS, 4 * SECOND, 50 * MS):
        node.probed("peer", Absence.REFUSED, now)
        node.timer(now)
    node.probed("peer", waiting(Held(THEIRS, 10)), 4 * SECOND)
    newer = Ledger((*BOOTED.records, Record(2, PEER, 1, Kind.RESTART, (), "peer")), 2)
    for effects in (node.arbiter_answered(newer, 4 * SECOND + 1), node.timer(4 * SECOND + 50 * MS)):
        assert not some(effects, fx.Exit)
    live = node.probed("peer", Presence(PEER, 2, live=True), 4 * SECOND + 200 * MS)
    assert only(live, fx.Join) == fx.Join("peer")


def test_after_a_power_off_a_primary_starts_cold_and_a_shadow_waits() -> None:
    off = Ledger((*BOOTED.records, Record(2, OLD, 1, Kind.OFF, (), "me")), 1)
    node = started(Held(ALONE, 9), primary=True)
    request = only(node.arbiter_answered(off, 1), fx.AskArbiter).request
    assert request == Claim(3, 0, b"", ME, Kind.BOOT, (), "me")
    assert only(node.arbiter_answered(m.Granted(3, ME), 2), fx.BootMachine) == fx.BootMachine()
    node = started(Held(ALONE, 9), primary=False)
    node.arbiter_answered(off, 1)
    assert node.state is State.WAITING


def test_a_restart_that_was_forestalled_looks_around_again() -> None:
    node = started(Held(PAIR, 9, 777), primary=True)
    node.arbiter_answered(BOOTED, 1)
    restarting(node, node.probed("peer", nothing(), 1))
    won = Record(2, NEW, 1, Kind.RESTART, (), "peer")
    node.arbiter_answered(m.Refused(2, ME, (*BOOTED.records, won), 1, False), 3)
    assert node.state is State.WAITING
    assert m.Read() in [effect.request for effect in some(node.timer(100 * MS), fx.AskArbiter)]
    # Granted and never activated: the log is worth what it was, and the next restart voids that one.
    node.probed("peer", nothing(), 101 * MS)
    effects = node.arbiter_answered(Ledger((*BOOTED.records, won), 1), 102 * MS)
    claim = restarting(node, effects)
    assert (claim.want, claim.base) == (3, 1)
    # This time the activation comes too late.
    node.arbiter_answered(m.Granted(3, ME), 103 * MS)
    refused = m.Refused(3, ME, (*BOOTED.records, won, Record(4, OTHER, 1, Kind.RESTART)), 4, False)
    node.arbiter_answered(refused, 104 * MS)
    assert node.state is State.WAITING
    assert not node.presence().busy


def test_a_log_that_does_not_replay_ends_the_node_with_its_reason() -> None:
    node = started(Held(ALONE, 9, 777), primary=True)
    node.arbiter_answered(BOOTED, 1)
    assert node.replay_failed("at tick 5 the digest differs", ExitCode.DIVERGENCE, 2) == [
        fx.Exit(ExitCode.DIVERGENCE, "this node cannot go on from its log: at tick 5 the digest differs")
    ]


# ---- stamps of a live node


def test_no_member_is_marked_before_the_disk_says_that_it_counts() -> None:
    node = started(Held(ALONE, 9, 777), primary=True)
    restarting(node, node.arbiter_answered(BOOTED, 1))
    node.arbiter_answered(m.Granted(2, ME), 3)
    node.arbiter_answered(m.Activated(2, ME), 4)
    node.session_opened(SHADOW, "peer", PEER, 5)
    node.received(SHADOW, m.Inventory(PEER, b"", True), 5)
    node.copy_finished(SHADOW, b"state", 5)
    effects = node.received(SHADOW, m.Ready(2, PEER), 6)
    write = only(effects, fx.WriteStamp)
    assert write.wait
    assert write.stamp.names == {"me", "peer"}
    assert not [one for one in some(effects, fx.Send) if isinstance(one.message, m.Mark)]
    assert node.state is State.SOLO
    assert node.stamped(write.number + 1, True, 7) == [], "another stamp"
    marks = [one.message for one in some(node.stamped(write.number, True, 8), fx.Send)]
    assert [type(one) for one in marks] == [m.Mark]
    assert node.state is State.PROTECTED


def test_a_log_that_cannot_be_stamped_admits_nobody() -> None:
    node = started(Held(ALONE, 9, 777), primary=True)
    restarting(node, node.arbiter_answered(BOOTED, 1))
    node.arbiter_answered(m.Granted(2, ME), 3)
    node.arbiter_answered(m.Activated(2, ME), 4)
    node.session_opened(SHADOW, "peer", PEER, 5)
    node.received(SHADOW, m.Inventory(PEER, b"", True), 5)
    node.copy_finished(SHADOW, b"state", 5)
    write = only(node.received(SHADOW, m.Ready(2, PEER), 6), fx.WriteStamp)
    effects = node.stamped(write.number, False, 7)
    assert only(effects, fx.CloseSession).session == SHADOW
    assert node.state is State.SOLO
    # It never counted: the log may say so again, in its own time.
    later = [stamp.stamp for now in range(8, 300) for stamp in some(node.timer(now * MS), fx.WriteStamp)]
    assert [stamp.alone for stamp in later] == [True]


@pytest.mark.parametrize(("gen", "verdict"), [(0, Verdict.RESTART), (1, Verdict.WAIT), (2, Verdict.WAIT)])
def test_a_node_with_the_machine_in_memory_is_waited_for_though_no_stamp_names_it(gen: int, verdict: Verdict) -> None:
    """The newest stamp may be lost with the power. Who holds an older generation will never go on with it."""
    answers = {"peer": Presence(PEER, gen, live=False, busy=True)}
    assert judge("me", BOOTED, Held(ALONE, 9, 777), answers).verdict is verdict
    assert judge("me", BOOTED, Held(ALONE, 9, 777), answers, forced=True).verdict is verdict
