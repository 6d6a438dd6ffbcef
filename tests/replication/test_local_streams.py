"""A device whose world each node reaches by itself: what is emitted, by whom, and until when."""

from dataclasses import replace

from ftvm.log.entry import Horizon, Input
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Absence, Presence
from ftvm.replication.local_streams import LOCAL_WINDOW
from ftvm.replication.node import Node
from tests.replication.scenes import CONFIG, ME, MS, PEER, SHADOW, UART, joined, only, protected, solo, some

NET = "net0"
LOCAL = replace(CONFIG, devices=("uart0", NET), local_devices=(NET,))
T_NS = LOCAL.timeout_ns


def say(node: Node, data: bytes, tick: int, now: int = 10) -> list[fx.Effect]:
    offset = node._replica.gate.output_end(NET)
    return node.executed(tick, (Horizon(tick),), (m.Piece(NET, offset, data),), now)


def ack(node: Node, pos: int, now: int) -> list[fx.Effect]:
    return node.received(SHADOW, m.Ack(node.generation, PEER, pos, 0, node._replica.tick), now)


def emitted(effects: list[fx.Effect]) -> bytes:
    return b"".join(effect.data for effect in some(effects, fx.EmitLocal))


def test_a_frame_is_emitted_when_its_log_is_acknowledged_and_counts_as_had_at_once() -> None:
    node = protected(LOCAL)
    pos = node._replica.gate.end
    assert emitted(say(node, b"frame", 100)) == b""
    assert emitted(ack(node, pos + 1, 20)) == b"frame"
    assert node._replica.gate.retained() == ()
    log = only(say(node, b"next", 200, 30), fx.Send).message
    assert isinstance(log, m.Log)
    assert log.confirmed == {"uart0": 0, NET: 5}


def test_an_edge_hears_nothing_of_a_local_device_and_may_not_speak_to_it() -> None:
    node = solo(LOCAL)
    effects = say(node, b"frame", 100)
    assert emitted(effects) == b"frame"
    assert some(effects, fx.SendEdge) == []
    announced = some(node.edge_opened(21, 30), fx.SendEdge)
    assert [one.message for one in announced] == [m.Live(1, (UART,))]
    assert some(node.edge_received(21, m.Attach(1, {}, {UART: 0}), 31), fx.CloseEdge) == []
    told = only(node.halted(100, True, 0, "power off", 33), fx.SendEdge).message
    assert told == m.Halted(1, {UART: 0}, {UART: 0})
    refused = only(node.edge_received(21, m.Input(1, f"{NET}@1", 0, b"x", 0), 32), fx.CloseEdge)
    assert "no stream net0@1" in refused.reason


def test_inputs_are_numbered_here_and_bounded_by_what_is_not_committed() -> None:
    node = protected(LOCAL)
    pos = node._replica.gate.end
    assert only(node.local_input(NET, b"abc", 20), fx.InjectInput) == fx.InjectInput(NET, 0, b"abc", False)
    assert only(node.local_input(NET, b"de", 21), fx.InjectInput) == fx.InjectInput(NET, 3, b"de", False)
    assert node.local_room(NET) == LOCAL_WINDOW - 5
    assert node.local_input(NET, bytes(LOCAL_WINDOW), 22) == []
    node.executed(100, (Input(90, NET, 0, b"abcde"), Horizon(100)), (), 23)
    assert node.local_room(NET) == LOCAL_WINDOW - 5
    ack(node, pos + 2, 24)
    assert node.local_room(NET) == LOCAL_WINDOW


def test_the_lease_begins_when_what_was_acknowledged_last_had_been_sent_and_is_shorter_than_t() -> None:
    node = protected(LOCAL)
    pos = node._replica.gate.end
    say(node, b"one", 100, now=100 * MS)
    say(node, b"two", 200, now=110 * MS)
    ack(node, pos + 1, 150 * MS)
    assert 100 * MS < node.lease_until_ns < 100 * MS + T_NS
    first = node.lease_until_ns
    ack(node, pos + 2, 160 * MS)
    assert node.lease_until_ns == first + 10 * MS


def test_an_acknowledgement_that_is_read_after_a_long_stop_gives_no_lease() -> None:
    """The process was stopped with the acknowledgement in its socket; its shadow has gone live since."""
    node = protected(LOCAL)
    pos = node._replica.gate.end
    say(node, b"frame", 100, now=100 * MS)
    late = 10_000 * MS
    assert emitted(ack(node, pos + 1, late)) == b"frame"
    assert node.lease_until_ns < late


def test_a_primary_that_lost_its_member_emits_nothing_before_it_holds_the_next_generation() -> None:
    node = protected(LOCAL)
    say(node, b"frame", 100, now=100 * MS)
    effects = node.session_lost(SHADOW, 110 * MS)
    assert emitted(effects) == b""
    assert emitted(say(node, b" more", 200, now=120 * MS)) == b""
    request = node._claimant.request
    assert isinstance(request, m.Claim)
    node.arbiter_answered(m.Granted(2, ME), 500 * MS)
    effects = node.arbiter_answered(m.Activated(2, ME), 510 * MS)
    assert emitted(effects) == b"frame more"
    assert fx.LocalLive(NET) in effects
    assert 500 * MS < node.lease_until_ns < 500 * MS + T_NS


def test_who_lost_the_next_generation_has_no_lease_and_takes_no_input() -> None:
    node = protected(LOCAL)
    say(node, b"frame", 100, now=100 * MS)
    node.session_lost(SHADOW, 110 * MS)
    record = m.Record(2, PEER, 1, m.Kind.PROMOTE, (), "peer")
    effects = node.arbiter_answered(m.Refused(2, ME, (m.Record(1, ME, 0, m.Kind.BOOT), record), 2, False), 120 * MS)
    assert emitted(effects) == b""
    assert node.state is State.FROZEN
    assert node.lease_until_ns == 0
    assert node.local_room(NET) == 0
    assert node.local_input(NET, b"x", 130 * MS) == []


def test_a_promoted_shadow_announces_itself_and_emits_what_its_predecessor_may_not_have() -> None:
    node = Node(LOCAL, ME)
    node.start_shadow(0)
    node.probed("peer", Presence(PEER, 1, True), 1)
    node.session_opened(SHADOW, "peer", PEER, 2)
    node.inventory_taken(SHADOW, b"", 2)
    state = m.Snapshot(1, 7, 3, 1, b"", (m.Piece(NET, 2, b"cd"),), {"uart0": 0, NET: 2}, {"uart0": 0, NET: 9})
    node.received(SHADOW, state, 3)
    node.restored(4)
    node.received(SHADOW, m.Mark(1, 7, (ME,)), 6)
    log = (Input(5, NET, 9, b"heard"), Horizon(8))
    node.received(SHADOW, m.Log(1, 7, log, {"uart0": 0, NET: 4}), 7)
    effects = node.applied(9, 8, (m.Piece(NET, 4, b"efgh"),), 8)
    assert emitted(effects) == b""
    assert node.lease_until_ns == 0
    node.session_lost(SHADOW, 9)
    node.probed("peer", Absence.REFUSED, 10)
    node.arbiter_answered(m.Granted(2, ME), 11)
    effects = node.arbiter_answered(m.Activated(2, ME), 12)
    assert emitted(effects) == b"efgh"
    assert effects.index(fx.LocalLive(NET)) < effects.index(fx.EmitLocal(NET, b"efgh"))
    assert only(node.local_input(NET, b"x", 13), fx.InjectInput) == fx.InjectInput(NET, 14, b"x", False)


def test_a_member_that_joins_meanwhile_does_not_lengthen_the_lease() -> None:
    node = protected(LOCAL)
    say(node, b"frame", 100, now=100 * MS)
    joined(node, 11, bytes([9]) * 16, 110 * MS)
    effects = ack(node, node._replica.gate.end, 120 * MS)
    assert emitted(effects) == b"frame"
    assert node.lease_until_ns < 100 * MS + T_NS
