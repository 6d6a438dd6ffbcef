"""What an operator may ask: who takes over, why it cannot be done now, and how the old live node ends."""

from ftvm.errors import ExitCode
from ftvm.log.entry import Action
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Presence
from ftvm.replication.node import Node
from tests.replication.scenes import (
    ME,
    OTHER,
    PEER,
    SECOND,
    SHADOW,
    copying,
    in_sync,
    joined,
    only,
    protected,
    say,
    solo,
    some,
)


def ceding(*, to: str = "", leave: bool = False) -> tuple[Node, list[fx.Effect]]:
    node = protected()
    joined(node, SECOND, OTHER)
    assert fx.Quiesce() in node.ask_hand_over(10, to=to, leave=leave)
    effects = node.quiesced(11)
    assert node.state is State.CEDING
    return node, effects


def handed_to(effects: list[fx.Effect]) -> list[int]:
    return [one.session for one in some(effects, fx.Send) if isinstance(one.message, m.HandOver)]


def test_a_hand_over_may_name_who_takes_over() -> None:
    assert handed_to(ceding()[1]) == [SHADOW, SECOND]
    assert handed_to(ceding(to=f"peer of {SECOND}")[1]) == [SECOND]


def test_every_obstacle_has_its_words_and_nothing_is_begun() -> None:
    alone = solo()
    assert "no shadow is in sync" in alone.hand_over_obstacle()
    copying(alone)
    assert "peer is joining and not in sync yet" in alone.hand_over_obstacle()
    assert "does not run the machine live" in in_sync().hand_over_obstacle()

    node = protected()
    assert node.hand_over_obstacle() == ""
    assert node.hand_over_obstacle(f"peer of {SHADOW}") == ""
    assert "third is not in sync: start it" in node.hand_over_obstacle("third")
    say(node, b"x", 50_000_000)
    assert "50000000 ticks behind" in node.hand_over_obstacle()
    assert not some(node.ask_hand_over(11), fx.Quiesce)
    node.received(SHADOW, m.Ack(1, PEER, 1, 0, 50_000_000), 12)
    node.ask_hand_over(13)
    assert "under way" in node.hand_over_obstacle()
    node.quiesced(14)
    assert "under way" in node.hand_over_obstacle()
    assert not some(node.ask_hand_over(15), fx.Quiesce)

    halted = protected()
    say(halted, b"", 1)
    halted.halted(1, True, 0, "finisher", 11)
    assert "the guest has halted (finisher, code 0)" in halted.hand_over_obstacle()


def frozen_by_successor(node: Node) -> None:
    """The shadow went live: this node's session ends, it asks, and is refused."""
    for session in (SHADOW, SECOND):
        node.session_lost(session, 20)
    records = (m.Record(1, ME, 0, m.Kind.BOOT, (), "me"), m.Record(2, PEER, 1, m.Kind.PROMOTE, (), "peer"))
    node.arbiter_answered(m.Refused(2, ME, records, 2, False), 21)
    assert node.state is State.FROZEN


def test_after_a_hand_over_the_old_live_node_joins_the_new_one() -> None:
    node, _ = ceding()
    frozen_by_successor(node)
    assert node.hands_over
    effects = node.probed("peer", Presence(PEER, 2, live=True), 22)
    assert isinstance(effects[-1], fx.StartOver)
    assert not node.hands_over


def test_after_a_migration_it_stamps_its_log_as_left_and_ends_in_peace() -> None:
    node, _ = ceding(leave=True)
    frozen_by_successor(node)
    effects = node.probed("peer", Presence(PEER, 2, live=True), 22)
    stamp = only(effects, fx.WriteStamp).stamp
    assert (stamp.gen, stamp.holder_life, stamp.members) == (2, PEER, ())
    line = "the machine runs on peer in generation 2: this node has left it"
    assert effects[-1] == fx.Exit(ExitCode.OK, line)


def test_a_migration_that_nobody_took_is_forgotten() -> None:
    node, _ = ceding(leave=True)
    for session in (SHADOW, SECOND):
        node.session_lost(session, 20)
    for gen in (2, 3):  # one member after the other is given up
        node.arbiter_answered(m.Granted(gen, ME), 21)
        node.arbiter_answered(m.Activated(gen, ME), 22)
    assert node.state is State.SOLO
    assert not node.hands_over
    # Later it loses the machine for another reason: it stays, as a shadow.
    joined(node, SHADOW, PEER, 23)
    node.session_lost(SHADOW, 24)
    records = (m.Record(3, ME, 2, m.Kind.SOLO, (), "me"), m.Record(4, PEER, 3, m.Kind.PROMOTE, (), "peer"))
    node.arbiter_answered(m.Refused(4, ME, records, 4, False), 25)
    assert isinstance(node.probed("peer", Presence(PEER, 4, live=True), 26)[-1], fx.StartOver)


def test_the_reset_button_is_pressed_on_the_live_machine_alone() -> None:
    assert only(protected().ask_reset(10), fx.InjectControl) == fx.InjectControl(Action.RESET)
    assert in_sync().ask_reset(10) == []
