"""A joiner is given the machine while it runs: one at a time, and never so that it counts before its Mark."""

from __future__ import annotations

import pytest

from ftvm.log.entry import Horizon
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Presence
from ftvm.replication.node import Node
from ftvm.replication.replica import ReplicationConfig
from ftvm.replication.shadow import INVENTORY_PART_SIZE
from tests.replication.scenes import (
    CONFIG,
    EDGE,
    ME,
    MS,
    OTHER,
    PEER,
    SECOND,
    SHADOW,
    copying,
    joined,
    only,
    outputs,
    protected,
    say,
    solo,
    some,
)

SMALL = ReplicationConfig("me", ("peer",), inventory_bytes_max=64, copy_bytes_max=100, lag_ticks_max=1000)


def joining(config: ReplicationConfig = CONFIG) -> Node:
    """A joiner that has said what it has."""
    node = Node(config, ME)
    node.start_shadow(0)
    node.probed("peer", Presence(PEER, 1, True), 1)
    assert fx.TakeInventory(SHADOW) in node.session_opened(SHADOW, "peer", PEER, 2)
    node.inventory_taken(SHADOW, b"", 2)
    return node


def snapshot(pos: int = 7, tick: int = 3) -> m.Snapshot:
    return m.Snapshot(1, pos, tick, 1, b"end", (), {"uart0": 0}, {"uart0": 0})


# ---- the primary


def test_a_joiner_gets_parts_then_the_end_and_only_then_the_log() -> None:
    node = solo()
    copying(node)
    assert node.copied(SHADOW, b"part", 4) == [fx.Send(SHADOW, m.SnapshotChunk(1, b"part"))]
    assert some(say(node, b"x", 5), fx.Send) == [], "what happens before the end is in the copy"
    end = only(node.copy_finished(SHADOW, b"end", 5), fx.Send).message
    assert isinstance(end, m.Snapshot)
    assert (end.state, end.pos, end.tick) == (b"end", node.status().pos, 5)
    assert isinstance(only(say(node, b"y", 6), fx.Send).message, m.Log)
    assert node.state is State.SOLO


def test_the_gate_is_open_until_the_mark_and_closed_with_it() -> None:
    node = solo()
    copying(node)
    node.copy_finished(SHADOW, b"end", 3)
    assert outputs(say(node, b"open", 4)) == b"open"
    stamp = only(node.received(SHADOW, m.Ready(1, PEER, 4), 5), fx.WriteStamp)
    effects = node.stamped(stamp.number, True, 5)
    assert isinstance(some(effects, fx.Send)[-1].message, m.Mark)
    assert outputs(say(node, b"held", 6)) == b""


def test_a_joiner_that_is_ready_before_the_copy_is_finished_breaks_the_protocol() -> None:
    node = solo()
    copying(node)
    effects = node.received(SHADOW, m.Ready(1, PEER), 4)
    assert [type(effect) for effect in effects] == [fx.Note, fx.CancelCopy, fx.CloseSession]
    assert node.state is State.SOLO


def test_one_copy_at_a_time_and_the_others_wait_without_a_deadline() -> None:
    node = solo()
    copying(node)
    node.session_opened(SECOND, "second", OTHER, 3)
    assert node.received(SECOND, m.Inventory(OTHER, b"h" * 16, True), 3) == []
    for now in range(0, CONFIG.join_wait_ns * 2, 1000 * MS):
        node.received(SECOND, m.Heartbeat(0, OTHER, 0, 0), now)
        node.received(SHADOW, m.Heartbeat(0, PEER, 0, 0), now)
        effects = node.timer(now)
        if some(effects, fx.CloseSession):
            break
    else:
        pytest.fail("a copy that does not come to an end is waited for without an end")
    assert only(effects, fx.CloseSession).session == SHADOW
    assert "took too long" in only(effects, fx.Note).text
    assert only(effects, fx.CancelCopy) == fx.CancelCopy(SHADOW)
    assert only(effects, fx.CopyMachine) == fx.CopyMachine(SECOND, b"h" * 16)
    assert effects.index(fx.CancelCopy(SHADOW)) < effects.index(fx.CopyMachine(SECOND, b"h" * 16))
    assert now >= CONFIG.join_wait_ns


def test_the_next_copy_begins_when_one_is_finished() -> None:
    node = solo()
    copying(node)
    node.session_opened(SECOND, "second", OTHER, 3)
    node.received(SECOND, m.Inventory(OTHER, b"", True), 3)
    assert only(node.copy_finished(SHADOW, b"end", 4), fx.CopyMachine).session == SECOND


def test_a_joiner_lost_in_mid_copy_needs_no_claim_and_its_reports_are_ignored() -> None:
    node = solo()
    copying(node)
    assert node.session_lost(SHADOW, 4) == [fx.CancelCopy(SHADOW)]
    assert node.copied(SHADOW, b"x", 5) == []
    assert node.copy_finished(SHADOW, b"x", 5) == []
    assert node.copy_failed(SHADOW, "x", 5) == []
    assert node.state is State.SOLO


def test_a_copy_that_fails_closes_the_session_and_says_why() -> None:
    node = solo()
    copying(node)
    effects = node.copy_failed(SHADOW, "it writes too fast", 4)
    assert "it writes too fast" in only(effects, fx.Note).text
    assert only(effects, fx.CloseSession) == fx.CloseSession(SHADOW, "it writes too fast")
    assert node.state is State.SOLO


def test_a_halt_ends_the_copy() -> None:
    node = solo()
    copying(node)
    say(node, b"bye", 9)
    effects = node.halted(9, True, 0, "finisher", 10)
    assert only(effects, fx.CancelCopy) == fx.CancelCopy(SHADOW)
    node.session_opened(SECOND, "second", OTHER, 11)
    assert some(node.received(SECOND, m.Inventory(OTHER, b"", True), 11), fx.CopyMachine) == []


def test_a_second_failure_in_mid_copy_ends_the_copy_with_the_generation() -> None:
    node = protected()
    copying(node, SECOND, OTHER, 4, name="second")
    node.session_lost(SHADOW, 5)
    node.arbiter_answered(m.Granted(2, ME), 6)
    effects = node.arbiter_answered(m.Activated(2, ME), 7)
    assert fx.CancelCopy(SECOND) in effects
    assert only(effects, fx.CloseSession).session == SECOND
    assert node.copied(SECOND, b"x", 8) == []
    assert node.state is State.SOLO


def test_a_primary_that_is_refused_stops_the_copy() -> None:
    node = protected()
    copying(node, SECOND, OTHER, 4, name="second")
    node.session_lost(SHADOW, 5)
    effects = node.arbiter_answered(m.Refused(2, ME, (m.Record(2, PEER, 1, m.Kind.PROMOTE),), 1, False), 6)
    assert fx.CancelCopy(SECOND) in effects
    assert node.state is State.FROZEN


@pytest.mark.parametrize(
    "said",
    [
        [m.Inventory(OTHER, b"", True)],
        [m.Inventory(PEER, b"", True), m.Inventory(PEER, b"", True)],
        [m.Inventory(PEER, bytes(40), False), m.Inventory(PEER, bytes(40), False)],
    ],
    ids=["of another life", "twice", "of more pages than there are"],
)
def test_an_inventory_that_cannot_be_true_ends_the_session(said: list[m.Inventory]) -> None:
    node = solo(SMALL)
    node.session_opened(SHADOW, "peer", PEER, 3)
    effects = [effect for message in said for effect in node.received(SHADOW, message, 4)]
    assert only(effects, fx.CloseSession).session == SHADOW


def test_who_catches_up_is_waited_for_a_little_and_does_not_throttle() -> None:
    node = solo(SMALL)
    copying(node)
    node.copy_finished(SHADOW, b"end", 3)
    assert some(say(node, b"", 5000), fx.Throttle) == [], "a joiner's lag is no bound"
    assert (node.behind_ticks, node.lag_ticks) == (5000, 0)
    node.received(SHADOW, m.Heartbeat(1, PEER, 0, 4990), 4)
    assert node.behind_ticks == 10
    node.edge_lost(EDGE, 5)
    stamp = only(node.received(SHADOW, m.Ready(1, PEER, 4995), 5), fx.WriteStamp)
    assert some(node.stamped(stamp.number, True, 6), fx.Throttle) == []
    assert node.lag_ticks == 5


# ---- the joiner


def test_an_inventory_goes_in_parts() -> None:
    node = Node(CONFIG, ME)
    node.start_shadow(0)
    node.session_opened(SHADOW, "peer", PEER, 2)
    hashes = bytes(range(256)) * (INVENTORY_PART_SIZE // 256) + b"rest"
    sent = [effect.message for effect in some(node.inventory_taken(SHADOW, hashes, 3), fx.Send)]
    assert [type(message) for message in sent] == [m.Inventory, m.Inventory]
    parts = [message for message in sent if isinstance(message, m.Inventory)]
    assert b"".join(part.hashes for part in parts) == hashes
    assert [part.last for part in parts] == [False, True]
    assert node.inventory_taken(SHADOW + 1, hashes, 4) == [], "of a session that is over"


def test_parts_go_to_the_machine_as_they_come() -> None:
    node = joining()
    assert node.received(SHADOW, m.SnapshotChunk(1, b"a"), 3) == [fx.CollectSnapshot(b"a")]
    assert node.received(SHADOW, m.SnapshotChunk(1, b"b"), 3) == [fx.CollectSnapshot(b"b")]
    assert node.received(SHADOW, snapshot(), 4) == [fx.RestoreSnapshot(b"end", 7, 3)]


def test_a_copy_without_an_end_is_refused() -> None:
    node = joining(SMALL)
    node.received(SHADOW, m.SnapshotChunk(1, bytes(60)), 3)
    effects = node.received(SHADOW, m.SnapshotChunk(1, bytes(60)), 3)
    assert some(effects, fx.CollectSnapshot) == []
    assert isinstance(effects[-1], fx.StartOver)


def test_a_primary_lost_in_mid_copy_is_never_succeeded() -> None:
    node = joining()
    node.received(SHADOW, m.SnapshotChunk(1, b"a"), 3)
    effects = node.session_lost(SHADOW, 4)
    assert some(effects, fx.AskArbiter) == []
    assert isinstance(effects[-1], fx.StartOver)


def test_a_part_that_cannot_be_used_starts_over() -> None:
    node = joining()
    node.received(SHADOW, m.SnapshotChunk(1, b"a"), 3)
    effects = node.restore_failed("it is damaged", 4)
    assert only(effects, fx.CloseSession).reason == "it is damaged"
    assert "it is damaged" in only(effects, fx.StartOver).reason


def ready(effects: list[fx.Effect]) -> list[m.Ready]:
    return [effect.message for effect in some(effects, fx.Send) if isinstance(effect.message, m.Ready)]


def test_a_joiner_asks_for_the_mark_once_it_has_caught_up() -> None:
    node = joining(SMALL)
    node.received(SHADOW, snapshot(), 3)
    node.received(SHADOW, m.Log(1, 7, (Horizon(10_000),)), 4)
    assert ready(node.restored(5)) == []
    assert ready(node.applied(7, 9_000, [], 6)) == []
    assert ready(node.applied(7, 9_800, [], 7)) == [m.Ready(1, ME, 9_800)]
    assert ready(node.applied(8, 10_000, [], 8)) == [], "once"


def test_a_joiner_that_never_catches_up_asks_all_the_same_after_a_while() -> None:
    node = joining(SMALL)
    node.received(SHADOW, snapshot(), 3)
    node.received(SHADOW, m.Log(1, 7, (Horizon(10_000),)), 4)
    node.restored(5)
    asked = []
    now = 5
    while not asked:
        now += 100 * MS
        assert now < 2 * SMALL.catch_up_wait_ns
        node.received(SHADOW, m.Heartbeat(1, PEER, 8, 10_000), now)
        asked = ready(node.timer(now))
    assert now - 5 >= SMALL.catch_up_wait_ns


def test_an_admitted_joiner_makes_the_pair() -> None:
    node = solo()
    joined(node)
    assert node.state is State.PROTECTED
    assert node.status().members == (f"peer of {SHADOW}",)
