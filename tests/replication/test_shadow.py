"""Single rules for a following node, by name; the test plays its surroundings."""

from dataclasses import replace

import pytest

from ftvm.errors import ExitCode
from ftvm.log.entry import Horizon, Input
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Absence, Presence
from ftvm.replication.node import Node
from tests.replication.scenes import (
    CONFIG,
    EDGE,
    ME,
    MS,
    OTHER,
    PEER,
    SHADOW,
    THIRD,
    UART,
    claim_in,
    in_sync,
    only,
    outputs,
    some,
)


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


def test_who_has_no_session_yet_asks_again_soon_however_patient_its_detector_is() -> None:
    patient = replace(CONFIG, timeout_ns=60_000 * MS, heartbeat_ns=24_000 * MS)
    node = Node(patient, ME)
    assert fx.Probe("peer") in node.start_shadow(0)
    node.probed("peer", Presence(PEER, 0, False), 1)
    now, asked = 1, 0
    while now < 1000 * MS:
        due = node.next_timer_ns()
        assert due is not None
        now = max(due, now + 1)
        if fx.Probe("peer") in node.timer(now):
            node.probed("peer", Presence(PEER, 0, False), now)
            asked += 1
    assert 9 <= asked <= 10


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


def test_a_promotion_is_no_race_with_the_primary() -> None:
    """Which would claim as well, as soon as it lost the session."""
    node = in_sync()
    effects = node.ask_promote(10)
    assert claim_in(effects).want == 2
    assert some(effects, fx.CloseSession) == []
    assert some(node.arbiter_answered(m.Granted(2, ME), 11), fx.CloseSession) == []
    effects = node.arbiter_answered(m.Activated(2, ME), 12)
    assert only(effects, fx.CloseSession).session == SHADOW


@pytest.mark.parametrize("asked", [True, False], ids=["promote", "hand-over"])
def test_a_shadow_that_the_arbiter_does_not_answer_leaves_its_primary_in_the_end(asked: bool) -> None:
    """The primary releases nothing without it, and hears of it no more than that it beats."""
    node = in_sync()
    node.ask_promote(10) if asked else node.received(SHADOW, m.HandOver(1, 8), 10)
    closed = [now for now in range(50 * MS, 4000 * MS, 50 * MS) if some(node.timer(now), fx.CloseSession)]
    assert len(closed) == 1
    assert CONFIG.hand_over_wait_ns <= closed[0] <= CONFIG.hand_over_wait_ns + 100 * MS
    assert node.state is State.CLAIMING


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
    assert some(effects, fx.Send) == [fx.Send(SHADOW, m.Ack(2, ME, 8, 0, 3))]
    assert only(effects, fx.WriteStamp).stamp.gen == 2
    assert node.generation == 2


def test_a_joiner_that_loses_its_session_starts_over() -> None:
    node = Node(CONFIG, ME)
    node.start_shadow(0)
    node.session_opened(SHADOW, "peer", PEER, 2)
    node.received(SHADOW, m.SnapshotChunk(1, b"half"), 3)
    assert isinstance(node.session_lost(SHADOW, 4)[-1], fx.StartOver)




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


def test_two_joiners_that_meet_do_not_wait_for_each_other() -> None:
    node = Node(CONFIG, ME)
    node.start_shadow(0)
    assert fx.TakeInventory(SHADOW) in node.session_opened(SHADOW, "peer", PEER, 2)
    effects = node.received(SHADOW, m.Inventory(PEER, b"", True), 3)
    assert only(effects, fx.CloseSession).session == SHADOW
    assert node.state is State.JOINING
    assert only(node.probed("peer", Presence(PEER, 1, True), 4), fx.Join) == fx.Join("peer")
