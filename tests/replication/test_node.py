"""Single rules of the protocol, by name, on one node whose surroundings the test plays."""

from typing import TypeVar

import pytest

from ftvm.errors import ExitCode
from ftvm.log.entry import Action, Entry, Horizon, Input
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Absence, Presence
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig

MS = 1_000_000
ME, PEER, OTHER, THIRD = (bytes([n]) * 16 for n in (1, 2, 3, 4))
SHADOW, EDGE, SECOND = 10, 20, 30
UART = "uart0@1"
CONFIG = ReplicationConfig("me", ("peer",))

E = TypeVar("E")


def only(effects: list[fx.Effect], kind: type[E]) -> E:
    found = [effect for effect in effects if isinstance(effect, kind)]
    assert len(found) == 1, effects
    return found[0]


def some(effects: list[fx.Effect], kind: type[E]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def claim_in(effects: list[fx.Effect]) -> m.Claim:
    request = only(effects, fx.AskArbiter).request
    assert isinstance(request, m.Claim)
    return request


def outputs(effects: list[fx.Effect]) -> bytes:
    sent = [effect.message for effect in effects if isinstance(effect, fx.SendEdge)]
    return b"".join(message.data for message in sent if isinstance(message, m.Output))


def solo(config: ReplicationConfig = CONFIG) -> Node:
    """Live and alone in generation 1, with an edge attached."""
    node = Node(config, ME)
    assert claim_in(node.start_primary(0)) == m.Claim(1, 0, b"", ME, m.Kind.BOOT, (), "me")
    activate = only(node.arbiter_answered(m.Granted(1, ME), 1), fx.AskArbiter).request
    assert activate == m.Activate(1, ME)
    node.edge_opened(EDGE, 1)
    effects = node.arbiter_answered(m.Activated(1, ME), 2)
    assert fx.GoLive(1) in effects
    assert fx.Throttle(False, "") in effects
    assert fx.SendEdge(EDGE, m.Live(1, (UART,))) in effects
    node.edge_received(EDGE, m.Attach(1, {}, {}), 2)
    assert node.state is State.SOLO
    return node


def joined(node: Node, session: int = SHADOW, life: bytes = PEER, now: int = 3) -> None:
    name = f"peer of {session}"
    assert fx.TakeSnapshot() in node.session_opened(session, name, life, now)
    effects = node.snapshot_taken(b"state", now)
    assert isinstance(only(effects, fx.Send).message, m.Snapshot)
    effects = node.received(session, m.Ready(node.generation, life), now)
    assert isinstance(some(effects, fx.Send)[-1].message, m.Mark)


def protected(config: ReplicationConfig = CONFIG) -> Node:
    node = solo(config)
    joined(node)
    assert node.state is State.PROTECTED
    return node


def say(node: Node, data: bytes, tick: int, now: int = 10) -> list[fx.Effect]:
    offset = node._replica.gate.output_end("uart0")
    return node.executed(tick, (Horizon(tick),), (m.Piece("uart0", offset, data),), now)


def in_sync(log: tuple[Entry, ...] = (Horizon(5),)) -> Node:
    """A shadow in generation 1 that has executed its snapshot, and holds `log` unexecuted."""
    node = Node(CONFIG, ME)
    assert only(node.start_shadow(0), fx.Probe) == fx.Probe("peer")
    assert only(node.probed("peer", Presence(PEER, 1, True), 1), fx.Join) == fx.Join("peer")
    node.session_opened(SHADOW, "peer", PEER, 2)
    snapshot = m.Snapshot(1, 7, 3, 1, b"state", (m.Piece("uart0", 2, b"cd"),), {"uart0": 2}, {"uart0": 0})
    restore = only(node.received(SHADOW, snapshot, 3), fx.RestoreSnapshot)
    assert restore == fx.RestoreSnapshot(b"state", 7, 3)
    assert fx.Send(SHADOW, m.Ready(1, ME)) in node.restored(4)
    if log:
        effects = node.received(SHADOW, m.Log(1, 7, log, {"uart0": 2}), 5)
        assert effects == [fx.Apply(7, log)], "a joiner acknowledges nothing"
    effects = node.received(SHADOW, m.Mark(1, 7 + len(log), (ME,)), 6)
    assert effects == [fx.Send(SHADOW, m.Ack(1, ME, 7 + len(log), 7 + len(log), 3))]
    assert node.state is State.IN_SYNC
    return node


# ---- primary


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
    node.session_opened(SHADOW, "peer", PEER, 3)
    node.snapshot_taken(b"state", 3)
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
    assert fx.Send(SHADOW, m.NewGeneration(2, 1, (PEER,))) in effects
    assert node.state is State.PROTECTED
    assert outputs(node.edge_received(EDGE, m.Attach(2, {}, {}), 15)) == b"x"


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
    effects = node.edge_received(EDGE, m.Attach(1, {UART: 5}, {}), 11)
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


# ---- shadow


@pytest.mark.parametrize("answer", [Absence.REFUSED, Presence(OTHER, 0, False)])
def test_the_end_of_the_session_makes_a_shadow_probe_and_proof_of_death_makes_it_claim(
    answer: Absence | Presence,
) -> None:
    node = in_sync()
    effects = node.session_lost(SHADOW, 10)
    assert effects == [fx.Probe("peer")]
    assert claim_in(node.probed("peer", answer, 11)) == m.Claim(2, 1, PEER, ME, m.Kind.PROMOTE, (), "me")


def test_an_unanswered_probe_waits_for_the_timeout_and_a_live_primary_is_waited_for() -> None:
    node = in_sync()
    node.session_lost(SHADOW, 10)
    node.probed("peer", Presence(PEER, 1, True), 100 * MS)
    node.probed("peer", Absence.NO_ANSWER, 150 * MS)
    for now in range(160 * MS, 300 * MS, 20 * MS):
        assert some(node.timer(now), fx.AskArbiter) == []
    assert claim_in(node.timer(300 * MS)).want == 2


def test_a_shadow_notices_silence_within_the_timeout() -> None:
    node = in_sync()
    now = 6
    while now < 150 * MS:
        now += 50 * MS
        assert some(node.timer(now), fx.AskArbiter) == []
    due = node.next_timer_ns()
    assert due is not None
    assert due <= 200 * MS + 6
    assert claim_in(node.timer(200 * MS + 6)).want == 2


def test_a_shadow_never_goes_live_without_a_grant_activation_and_its_whole_log() -> None:
    node = in_sync()
    node.session_lost(SHADOW, 10)
    node.probed("peer", Absence.REFUSED, 11)
    assert some(node.arbiter_answered(m.Activated(2, ME), 12), fx.GoLive) == []
    assert some(node.arbiter_answered(m.Granted(2, OTHER), 12), fx.AskArbiter) == []
    node.arbiter_answered(m.Granted(2, ME), 13)
    assert node.state is State.ACTIVATING
    assert some(node.arbiter_answered(m.Activated(2, ME), 14), fx.GoLive) == []
    assert node.state is State.CONSUMING
    effects = node.applied(8, 5, [m.Piece("uart0", 4, b"ef")], 15)
    assert fx.GoLive(2) in effects
    assert node.state is State.SOLO
    node.edge_opened(EDGE, 16)
    assert outputs(node.edge_received(EDGE, m.Attach(2, {UART: 3}, {UART: 0}), 17)) == b"def"


def test_a_sealed_shadow_takes_no_more_log() -> None:
    node = in_sync()
    node.ask_promote(10)
    late = m.Log(1, 8, (Horizon(6),), {"uart0": 2})
    assert node.received(SHADOW, late, 11) == []
    assert node.status().pos == 8


def test_a_diverged_shadow_exits_and_is_not_promoted() -> None:
    node = in_sync()
    node.session_lost(SHADOW, 10)
    node.probed("peer", Absence.REFUSED, 11)
    assert only(node.diverged(4, 12), fx.Exit).code is ExitCode.DIVERGENCE
    assert node.arbiter_answered(m.Granted(2, ME), 13) == []
    assert node.state is State.OVER


def test_a_refused_shadow_claims_again_if_its_own_primary_named_it() -> None:
    node = in_sync()
    node.ask_promote(10)
    boot = m.Record(1, PEER, 0, m.Kind.BOOT)
    kept = m.Record(2, PEER, 1, m.Kind.RECONFIGURE, (ME,))
    claim = claim_in(node.arbiter_answered(m.Refused(2, ME, (boot, kept), 1, False), 11))
    assert claim == m.Claim(3, 2, PEER, ME, m.Kind.PROMOTE, (), "me")


@pytest.mark.parametrize(
    "record", [m.Record(2, OTHER, 1, m.Kind.PROMOTE, (ME,)), m.Record(2, PEER, 1, m.Kind.RECONFIGURE, (THIRD,))]
)
def test_a_refused_shadow_freezes_otherwise(record: m.Record) -> None:
    node = in_sync()
    node.ask_promote(10)
    node.arbiter_answered(m.Refused(2, ME, (m.Record(1, PEER, 0, m.Kind.BOOT), record), 1, False), 11)
    assert node.state is State.FROZEN


def test_a_shadow_of_a_machine_that_is_off_exits_in_peace() -> None:
    node = in_sync()
    node.session_lost(SHADOW, 10)
    node.probed("peer", Absence.REFUSED, 11)
    off = (m.Record(1, PEER, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.OFF))
    assert only(node.arbiter_answered(m.Refused(2, ME, off, 1, True), 12), fx.Exit).code is ExitCode.OK


def test_hand_over_makes_the_shadow_claim_with_the_session_still_open() -> None:
    node = in_sync()
    effects = node.received(SHADOW, m.HandOver(1, 8), 10)
    assert claim_in(effects).want == 2
    assert some(effects, fx.CloseSession) == []
    node.arbiter_answered(m.Granted(2, ME), 11)
    effects = node.arbiter_answered(m.Activated(2, ME), 12)
    assert only(effects, fx.CloseSession).session == SHADOW


def test_no_answer_is_asked_for_again_unchanged_for_ever() -> None:
    node = in_sync()
    first = claim_in(node.ask_promote(10))
    repeats = [
        effect.request for now in range(50 * MS, 5000 * MS, 50 * MS) for effect in some(node.timer(now), fx.AskArbiter)
    ]
    assert len(repeats) >= 8
    assert set(repeats) == {first}
    assert only(node.arbiter_failed("no route", 5000 * MS), fx.Note)


@pytest.mark.parametrize(
    "message",
    [
        m.Log(1, 9, (Horizon(9),), {}),
        m.Log(1, 8, (Input(9, "uart0", 1, b"gap"),), {}),
        m.Log(1, 8, (Input(9, "disk", 0, b"x"),), {}),
        m.Log(1, 8, (), {"disk": 4}),
        m.Mark(1, 9, (ME,)),
        m.HandOver(1, 9),
        m.NewGeneration(2, 8, (OTHER,)),
    ],
)
def test_a_stream_that_does_not_fit_ends_the_session(message: m.PeerMessage) -> None:
    node = in_sync()
    effects = node.received(SHADOW, message, 10)
    assert only(effects, fx.CloseSession).session == SHADOW
    assert node.state is State.SUSPECT
    assert node.status().pos == 8


def test_messages_of_another_generation_are_ignored() -> None:
    node = in_sync()
    for message in (m.Log(2, 99, (Horizon(9),), {}), m.Mark(7, 99, ()), m.HandOver(2, 8)):
        assert node.received(SHADOW, message, 10) == []
    assert node.state is State.IN_SYNC


def test_a_new_generation_renews_the_acknowledgement() -> None:
    node = in_sync()
    effects = node.received(SHADOW, m.NewGeneration(2, 8, (ME,)), 10)
    assert effects == [fx.Send(SHADOW, m.Ack(2, ME, 8, 0, 3))]
    assert node.generation == 2


def test_a_joiner_that_loses_its_session_starts_over() -> None:
    node = Node(CONFIG, ME)
    node.start_shadow(0)
    node.session_opened(SHADOW, "peer", PEER, 2)
    node.received(SHADOW, m.SnapshotChunk(1, b"half"), 3)
    assert isinstance(node.session_lost(SHADOW, 4)[-1], fx.StartOver)


def test_a_snapshot_larger_than_a_message_comes_in_chunks() -> None:
    state = bytes(range(256)) * 4000
    node = solo()
    node.session_opened(SHADOW, "peer", PEER, 3)
    sent = [effect.message for effect in some(node.snapshot_taken(state, 3), fx.Send)]
    assert len(sent) == 4
    shadow = Node(CONFIG, OTHER)
    shadow.start_shadow(0)
    shadow.session_opened(SHADOW, "peer", PEER, 2)
    effects = [effect for message in sent for effect in shadow.received(SHADOW, message, 3)]
    assert only(effects, fx.RestoreSnapshot).state == state


def test_the_primary_hears_of_progress_it_waits_for() -> None:
    node = in_sync((Horizon(10_000_000),))
    assert node.applied(7, 1_000_000, [], 10) == []
    ack = only(node.applied(7, 2_500_000, [], 11), fx.Send).message
    assert isinstance(ack, m.Ack)
    assert ack.tick == 2_500_000


def test_a_pause_of_our_own_is_not_taken_for_the_silence_of_the_peer() -> None:
    node = in_sync()
    for now in (10_000 * MS, 10_050 * MS, 10_100 * MS):
        assert some(node.timer(now), fx.AskArbiter) == []
    assert claim_in(node.timer(10_200 * MS)).want == 2
