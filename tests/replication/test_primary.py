"""Single rules for a live node, by name; the test plays its surroundings."""

from ftvm.errors import ExitCode
from ftvm.log.entry import Action, Horizon, Input
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Presence
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig
from tests.replication.scenes import (
    CONFIG,
    EDGE,
    ME,
    MS,
    OTHER,
    PEER,
    SECOND,
    SHADOW,
    UART,
    claim_in,
    copying,
    in_sync,
    joined,
    only,
    outputs,
    protected,
    say,
    solo,
    some,
)


def test_alone_the_gate_is_open_and_protected_it_waits_for_the_acknowledgement() -> None:
    node = solo()
    assert outputs(say(node, b"alone", 1)) == b"alone"
    joined(node)
    assert outputs(say(node, b"held", 2)) == b""
    end = node.status().pos
    assert outputs(node.received(SHADOW, m.Ack(1, PEER, end - 1, 0, 2), 11)) == b""
    assert outputs(node.received(SHADOW, m.Ack(9, PEER, end, 0, 2), 11)) == b"", "another generation's"
    assert outputs(node.received(SHADOW, m.Ack(1, PEER, end, 0, 2), 12)) == b"held"


def test_acknowledgements_of_a_joiner_do_not_count_and_its_loss_needs_no_claim() -> None:
    node = solo()
    copying(node)
    node.copy_finished(SHADOW, b"state", 3)
    node.received(SHADOW, m.Ack(1, PEER, 0, 0, 0), 4)
    assert outputs(say(node, b"x", 1)) == b"x"
    assert some(node.session_lost(SHADOW, 5), fx.AskArbiter) == []
    assert node.state is State.SOLO


def test_input_is_acknowledged_once_its_position_is_committed() -> None:
    node = protected()
    effects = node.edge_received(EDGE, m.Input(1, UART, 0, b"abc", 0), 4)
    assert only(effects, fx.InjectInput) == fx.InjectInput("uart0", 0, b"abc", False)
    again = node.edge_received(EDGE, m.Input(1, UART, 1, b"bcd", 0), 4)
    assert only(again, fx.InjectInput) == fx.InjectInput("uart0", 3, b"d", False)
    entries = (Input(0, "uart0", 0, b"abc"), Horizon(1))
    assert some(node.executed(1, entries, (), 5), fx.SendEdge) == []
    effects = node.received(SHADOW, m.Ack(1, PEER, 2, 0, 1), 6)
    assert only(effects, fx.SendEdge) == fx.SendEdge(EDGE, m.InputAck(1, UART, 3))


def test_a_primary_that_loses_its_shadow_claims_before_it_lets_go_of_anything() -> None:
    node = protected()
    say(node, b"waits", 1)
    effects = node.session_lost(SHADOW, 10)
    assert claim_in(effects) == m.Claim(2, 1, ME, ME, m.Kind.SOLO, (), "me")
    assert outputs(effects) == b""
    assert outputs(say(node, b" too", 2)) == b""
    effects = node.arbiter_answered(m.Granted(2, ME), 20)
    assert only(effects, fx.AskArbiter).request == m.Activate(2, ME)
    assert outputs(effects) == b""
    effects = node.arbiter_answered(m.Activated(2, ME), 30)
    assert only(effects, fx.SendEdge) == fx.SendEdge(EDGE, m.Live(2, (UART,)))
    assert some(effects, fx.GoLive) == [], "its engine never stopped"
    assert outputs(node.edge_received(EDGE, m.Attach(2, {UART: 0}, {UART: 0}), 31)) == b"waits too"


def test_a_primary_that_loses_the_claim_falls_silent_and_starts_over_when_the_winner_answers() -> None:
    node = protected()
    say(node, b"never", 1)
    node.session_lost(SHADOW, 10)
    boot, won = m.Record(1, ME, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.PROMOTE)
    effects = node.arbiter_answered(m.Refused(2, ME, (boot, won), 1, False), 20)
    assert node.state is State.FROZEN
    assert fx.Throttle(True, "not live") in effects
    assert some(node.edge_received(EDGE, m.Attach(1, {UART: 0}, {UART: 0}), 21), fx.SendEdge) == []
    assert node.probed("peer", Presence(PEER, 2, False), 22) == []
    last = node.probed("peer", Presence(PEER, 2, True), 23)[-1]
    assert isinstance(last, fx.StartOver)
    assert node.timer(10**12) == []


def test_a_frozen_node_voids_a_grant_whose_holder_stays_away() -> None:
    node = protected()
    node.session_lost(SHADOW, 10)
    boot, won = m.Record(1, ME, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.PROMOTE)
    node.arbiter_answered(m.Refused(2, ME, (boot, won), 1, False), 20)
    node.probed("peer", Presence(PEER, 1, False), 500 * MS)
    asked = [
        effect.request for now in range(550 * MS, 2500 * MS, 50 * MS) for effect in some(node.timer(now), fx.AskArbiter)
    ]
    assert not [request for request in asked if isinstance(request, m.Claim)]
    effects = node.timer(2550 * MS)
    claims = [effect.request for effect in some(effects, fx.AskArbiter)]
    assert m.Claim(3, 1, ME, ME, m.Kind.VOID, (), "me") in claims
    node.arbiter_answered(m.Granted(3, ME), 2560 * MS)
    effects = node.arbiter_answered(m.Activated(3, ME), 2570 * MS)
    assert node.state is State.SOLO
    assert fx.Throttle(False, "") in effects


def test_a_frozen_node_does_not_void_what_was_activated() -> None:
    node = protected()
    node.session_lost(SHADOW, 10)
    boot, won = m.Record(1, ME, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.PROMOTE)
    node.arbiter_answered(m.Refused(2, ME, (boot, won), 2, False), 20)
    for now in range(50 * MS, 10_000 * MS, 50 * MS):
        for effect in some(node.timer(now), fx.AskArbiter):
            assert effect.request == m.Read()


def test_losing_one_of_two_members_names_who_stays() -> None:
    node = protected()
    joined(node, SECOND, OTHER)
    say(node, b"x", 1)
    node.received(SHADOW, m.Ack(1, PEER, 1, 0, 1), 11)
    effects = node.session_lost(SECOND, 12)
    assert claim_in(effects) == m.Claim(2, 1, ME, ME, m.Kind.RECONFIGURE, (PEER,), "me")
    assert outputs(effects) == b"", "frozen while claiming"
    node.arbiter_answered(m.Granted(2, ME), 13)
    effects = node.arbiter_answered(m.Activated(2, ME), 14)
    assert fx.Send(SHADOW, m.NewGeneration(2, 1, (PEER,), (f"peer of {SHADOW}",))) in effects
    stamp = only(effects, fx.WriteStamp).stamp
    assert (stamp.gen, stamp.members) == (2, (("me", ME), (f"peer of {SHADOW}", PEER)))
    assert node.state is State.PROTECTED
    assert outputs(node.edge_received(EDGE, m.Attach(2, {UART: 0}, {UART: 0}), 15)) == b"x"


def test_who_stays_by_the_record_but_is_lost_meanwhile_takes_another_generation() -> None:
    node = protected()
    joined(node, SECOND, OTHER)
    node.session_lost(SECOND, 12)
    node.session_lost(SHADOW, 13)
    node.arbiter_answered(m.Granted(2, ME), 13)
    effects = node.arbiter_answered(m.Activated(2, ME), 14)
    assert claim_in(effects) == m.Claim(3, 2, ME, ME, m.Kind.SOLO, (), "me")
    assert node.state is State.RECLAIMING


def test_the_engine_waits_while_the_gate_is_full_or_a_member_lags() -> None:
    config = ReplicationConfig("me", ("peer",), retained_bytes_max=1000, lag_ticks_max=100)
    node = protected(config)
    effects = say(node, bytes(2000), 10)
    assert fx.Throttle(True, "the edge does not confirm outputs") in effects
    node.received(SHADOW, m.Ack(1, PEER, 1, 0, 10), 11)
    effects = node.edge_received(EDGE, m.Input(1, UART, 0, b"", 2000), 12)
    assert fx.Throttle(False, "") in effects
    effects = node.executed(200, (Horizon(200),), (), 13)
    assert fx.Throttle(True, "a member executes too slowly") in effects
    assert some(node.received(SHADOW, m.Ack(1, PEER, 2, 0, 110), 14), fx.Throttle) == []
    assert fx.Throttle(False, "") in node.received(SHADOW, m.Ack(1, PEER, 2, 0, 160), 15)


def test_a_silent_member_is_lost_after_the_timeout() -> None:
    node = protected()
    for now in range(50 * MS, 200 * MS, 50 * MS):
        assert some(node.timer(now), fx.AskArbiter) == []
    effects = node.timer(200 * MS + 3)
    assert some(effects, fx.CloseSession)
    assert claim_in(effects).want == 2


def test_power_off_waits_for_the_edge_and_claims_off() -> None:
    node = protected()
    say(node, b"bye", 9)
    assert some(node.halted(9, True, 0, "finisher", 10), fx.SendEdge) == []
    effects = node.received(SHADOW, m.Ack(1, PEER, 1, 0, 9), 11)
    assert outputs(effects) == b"bye"
    assert some(effects, fx.SendEdge)[-1].message == m.Halted(1, {UART: 3}, {UART: 0})
    effects = node.edge_received(EDGE, m.Final(1), 12)
    assert claim_in(effects) == m.Claim(2, 1, ME, ME, m.Kind.OFF, (), "me")
    assert some(effects, fx.CloseSession) == []
    exited = only(node.arbiter_answered(m.Granted(2, ME), 13), fx.Exit)
    assert exited.code is ExitCode.OK


def test_power_off_without_an_edge_waits_a_bounded_time() -> None:
    node = protected()
    node.edge_lost(EDGE, 5)
    say(node, b"bye", 9)
    node.halted(9, False, 3, "finisher", 10)
    node.received(SHADOW, m.Ack(1, PEER, 1, 0, 9), 11)
    asked: list[fx.AskArbiter] = []
    now = 11
    while not asked:
        now += 50 * MS
        node.received(SHADOW, m.Heartbeat(1, PEER, 1, 9), now)
        asked = some(node.timer(now), fx.AskArbiter)
    assert now - 11 >= CONFIG.off_wait_ns - 50 * MS
    assert isinstance(asked[0].request, m.Claim)
    assert asked[0].request.kind is m.Kind.OFF
    assert only(node.arbiter_answered(m.Granted(2, ME), now), fx.Exit).code is ExitCode.GUEST_FAILED


def test_hand_over_stands_still_first_and_takes_back_what_nobody_claims() -> None:
    node = protected()
    assert fx.Quiesce() in node.ask_hand_over(10)
    assert some(node.edge_received(EDGE, m.Input(1, UART, 0, b"later", 0), 11), fx.InjectInput) == []
    effects = node.quiesced(12)
    assert only(effects, fx.Send).message == m.HandOver(1, 0)
    assert node.state is State.CEDING
    effects = node.session_lost(SHADOW, 20)
    assert claim_in(effects).want == 2
    assert fx.Throttle(False, "") in effects


def test_a_peer_that_breaks_the_protocol_is_dropped_and_the_machine_goes_on() -> None:
    node = protected()
    effects = node.received(SHADOW, m.Ack(1, PEER, 99, 0, 0), 10)
    assert only(effects, fx.CloseSession).session == SHADOW
    assert claim_in(effects).want == 2
    effects = node.edge_received(EDGE, m.Attach(1, {UART: 5}, {UART: 0}), 11)
    assert only(effects, fx.CloseEdge).edge == EDGE


def test_boot_is_refused_beside_another_machine_and_granted_after_its_power_off() -> None:
    boot = m.Record(1, PEER, 0, m.Kind.BOOT, (), "peer")
    node = Node(CONFIG, ME)
    node.start_primary(0)
    exited = only(node.arbiter_answered(m.Refused(1, ME, (boot,), 1, False), 1), fx.Exit)
    assert exited.code is ExitCode.CLAIM_LOST
    assert "peer" in exited.line
    for force, off in ((True, False), (False, True)):
        node = Node(CONFIG, ME)
        node.start_primary(0, force=force)
        records = (boot, m.Record(2, PEER, 1, m.Kind.OFF)) if off else (boot,)
        claim = claim_in(node.arbiter_answered(m.Refused(1, ME, records, 1, off), 1))
        assert (claim.want, claim.kind, claim.force) == (len(records) + 1, m.Kind.BOOT, force)


def test_operator_power_off_reaches_the_engine() -> None:
    assert only(solo().ask_power_off(5), fx.InjectControl) == fx.InjectControl(Action.POWER_OFF)
    assert in_sync().ask_power_off(5) == []


def test_a_late_activation_releases_only_what_the_members_hold() -> None:
    """The answer may be so late that a member who stays by the record has gone on alone: the gate does not care."""
    node = protected()
    joined(node, SECOND, OTHER)
    say(node, b"held", 1)
    node.received(SHADOW, m.Ack(1, PEER, 1, 0, 1), 11)
    node.session_lost(SECOND, 12)
    node.arbiter_answered(m.Granted(2, ME), 13)
    say(node, b" unheld", 2)
    node.arbiter_answered(m.Activated(2, ME), 900)
    assert outputs(node.edge_received(EDGE, m.Attach(2, {UART: 0}, {UART: 0}), 901)) == b"held"
    effects = node.session_lost(SHADOW, 902)
    assert claim_in(effects).want == 3
    assert outputs(effects) == b""


def test_the_word_of_a_dead_edge_that_comes_late_is_not_heard() -> None:
    """The connections of an edge and of its successor are in no order."""
    node = solo()
    assert only(node.edge_opened(EDGE + 1, 10), fx.CloseEdge).edge == EDGE
    node.edge_received(EDGE + 1, m.Attach(1, {}, {}), 11)
    assert node.edge_received(EDGE, m.Attach(1, {UART: 0}, {UART: 0}), 12) == []
    assert node.edge_received(EDGE, m.Input(1, UART, 0, b"late", 0), 13) == []
    assert node.edge_lost(EDGE, 14) == []
    assert outputs(say(node, b"heard", 20, 15)) == b"heard"
    given = node.edge_received(EDGE + 1, m.Input(1, UART, 0, b"mine", 0), 16)
    assert only(given, fx.InjectInput).data == b"mine"


def test_a_restarted_edge_is_told_where_it_stands_once_the_members_say_that_they_still_are() -> None:
    """A primary that was superseded and does not know it would tell an old place: inputs would count as repeated."""
    node = protected()
    effects = node.edge_received(EDGE, m.Attach(1, {}, {}), 11)
    assert some(effects, fx.SendEdge) == []
    asked = only(effects, fx.Send).message
    assert isinstance(asked, m.Log)
    assert asked.entries == ()
    assert some(node.received(SHADOW, m.Ack(1, PEER, 0, 0, 0, asked.token - 1), 12), fx.SendEdge) == []
    told = some(node.received(SHADOW, m.Ack(1, PEER, 0, 0, 0, asked.token), 13), fx.SendEdge)
    assert told == [fx.SendEdge(EDGE, m.InputAck(1, UART, 0))]


def test_a_superseded_primary_tells_a_restarted_edge_nothing() -> None:
    node = protected()
    node.session_lost(SHADOW, 11)
    assert some(node.edge_received(EDGE, m.Attach(1, {}, {}), 12), fx.SendEdge) == []
    node.arbiter_answered(m.Granted(2, ME), 13)
    effects = node.arbiter_answered(m.Activated(2, ME), 14)
    assert fx.SendEdge(EDGE, m.Live(2, (UART,))) in effects
    assert some(node.edge_received(EDGE, m.Attach(2, {}, {}), 15), fx.SendEdge) == [
        fx.SendEdge(EDGE, m.InputAck(2, UART, 0))
    ]


def test_only_the_attached_edge_tells_the_terminals_size() -> None:
    node = protected()
    resized = node.edge_received(EDGE, m.Resize(1, 132, 43), 4)
    assert only(resized, fx.InjectResize) == fx.InjectResize(132, 43)
    assert some(node.edge_received(EDGE, m.Resize(7, 1, 1), 5), fx.InjectResize) == []
    assert some(node.edge_received(EDGE + 1, m.Resize(1, 1, 1), 6), fx.InjectResize) == []
