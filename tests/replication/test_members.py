"""Members: what all of them hold counts, who stays is said by name, each hears the whole log. And what nobody takes."""

import pytest

from ftvm.log.entry import Entry, Horizon
from ftvm.log.stamp import Held, Stamp
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State, decide
from ftvm.replication.output_gate import OutputGate
from ftvm.replication.primary import LOG_ENTRIES_MAX
from ftvm.replication.restart import worth
from tests.replication.scenes import (
    EDGE,
    ME,
    MS,
    OTHER,
    PEER,
    SECOND,
    SHADOW,
    UART,
    claim_in,
    in_sync,
    joined,
    only,
    outputs,
    protected,
    say,
    solo,
    some,
)


def test_the_slowest_member_holds_the_gate() -> None:
    node = protected()
    joined(node, SECOND, OTHER)
    assert outputs(say(node, b"x", 100)) == b""
    end = node.status().pos
    assert outputs(node.received(SHADOW, m.Ack(1, PEER, end, 0, 0), 11)) == b""
    assert outputs(node.received(SECOND, m.Ack(1, OTHER, end, 0, 0), 12)) == b"x"


def test_only_who_is_named_stays_in_a_new_generation() -> None:
    node = protected()
    joined(node, SECOND, OTHER)
    node._primary.new_generation((PEER,))
    effects = node._leave()
    assert only(effects, fx.CloseSession).session == SECOND
    sent = [effect for effect in some(effects, fx.Send) if isinstance(effect.message, m.NewGeneration)]
    assert [effect.session for effect in sent] == [SHADOW]


def test_every_member_hears_every_entry_however_many_there_are() -> None:
    node = protected()
    start = node.status().pos
    entries: tuple[Entry, ...] = tuple(Horizon(100 + k) for k in range(2 * LOG_ENTRIES_MAX + 3))
    effects = node.executed(entries[-1].tick, entries, (), 10)
    logs = [effect.message for effect in some(effects, fx.Send) if isinstance(effect.message, m.Log)]
    assert len(logs) > 1
    heard: list[Entry] = []
    for log in logs:
        assert log.pos == start + len(heard)
        heard += log.entries
    assert tuple(heard) == entries


def test_retained_output_with_a_gap_is_no_snapshot() -> None:
    gate = OutputGate(["uart0"])
    with pytest.raises(ValueError, match="not contiguous"):
        gate.restore(7, (m.Piece("uart0", 3, b"d"),), {"uart0": 2}, {"uart0": 0})


def test_a_member_kept_for_a_generation_that_never_counted_can_void_what_came_after() -> None:
    """The primary named it, and died before it activated; so did who voided that. This is the last copy."""
    node = in_sync()
    node.ask_promote(10)
    boot, kept = m.Record(1, PEER, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.RECONFIGURE, (ME,))
    assert claim_in(node.arbiter_answered(m.Refused(2, ME, (boot, kept), 1, False), 11)).want == 3
    voided = m.Record(3, OTHER, 1, m.Kind.VOID)
    node.arbiter_answered(m.Refused(3, ME, (boot, kept, voided), 1, False), 12)
    assert node.state is State.FROZEN
    asked = [one.request for now in range(50 * MS, 5_000 * MS, 50 * MS) for one in some(node.timer(now), fx.AskArbiter)]
    claims = [request for request in asked if isinstance(request, m.Claim)]
    assert claims[0] == m.Claim(4, 1, PEER, ME, m.Kind.VOID, (), "me")
    ledger = m.Ledger((boot, kept, voided), 1)
    assert decide(ledger, claims[0])[0] == m.Granted(4, ME)


def test_so_can_one_whose_own_grant_was_voided_before_it_was_activated() -> None:
    """It was kept, was granted what came after that, and a void was faster than its activation."""
    node = in_sync()
    node.ask_promote(10)
    boot, kept = m.Record(1, PEER, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.RECONFIGURE, (ME,))
    node.arbiter_answered(m.Refused(2, ME, (boot, kept), 1, False), 11)
    assert only(node.arbiter_answered(m.Granted(3, ME), 12), fx.AskArbiter).request == m.Activate(3, ME)
    records = (boot, kept, m.Record(3, ME, 2, m.Kind.PROMOTE), m.Record(4, OTHER, 1, m.Kind.VOID))
    node.arbiter_answered(m.Refused(3, ME, records, 1, False), 13)
    assert (node.state, node.generation) == (State.FROZEN, 1)


def test_a_log_kept_for_a_generation_that_never_counted_is_worth_what_its_base_is() -> None:
    """Else a shorter log of a member that was dropped would go first, and what this one holds be lost."""
    boot, kept = m.Record(1, PEER, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.RECONFIGURE, (ME,))
    stamp = Stamp("machine", "me", ME, 2, PEER, 1, (("peer", PEER), ("me", ME)))
    found = worth(m.Ledger((boot, kept), 1), Held(stamp))
    assert found is not None
    assert (found.base, found.holder_life, dict(found.members)) == (1, PEER, {"peer": PEER, "me": ME})
    other = m.Record(2, OTHER, 1, m.Kind.PROMOTE)
    assert worth(m.Ledger((boot, other), 1), Held(stamp)) is None, "generation 2 was another's"


def test_a_frozen_node_owes_its_edges_nothing_any_more() -> None:
    """Also to one that connects now: a `Live` of a generation that was lost would only mislead it."""
    node = protected()
    node.session_lost(SHADOW, 10)
    boot, won = m.Record(1, ME, 0, m.Kind.BOOT), m.Record(2, PEER, 1, m.Kind.PROMOTE)
    node.arbiter_answered(m.Refused(2, ME, (boot, won), 1, False), 20)
    assert some(node.edge_opened(EDGE + 1, 21), fx.SendEdge) == []


def test_an_edge_that_has_less_than_was_confirmed_is_sent_away() -> None:
    """What it lacks was trimmed: going on would leave a hole."""
    node = solo()
    say(node, b"abc", 5)
    node.edge_received(EDGE, m.Input(1, UART, 0, b"", 3), 11)
    effects = node.edge_received(EDGE, m.Attach(1, {UART: 2}, {UART: 0}), 12)
    assert only(effects, fx.CloseEdge).edge == EDGE
    assert outputs(effects) == b""


def test_input_for_another_generation_is_not_taken() -> None:
    node = solo()
    assert some(node.edge_received(EDGE, m.Input(2, UART, 0, b"x", 0), 11), fx.InjectInput) == []
    assert only(node.edge_received(EDGE, m.Input(1, UART, 0, b"x", 0), 12), fx.InjectInput).data == b"x"


def test_a_primary_whose_activation_was_done_but_not_answered_can_void_what_came_after() -> None:
    """A member that it kept was granted the next generation, and died: else nobody could ever go on."""
    node = protected()
    joined(node, SECOND, OTHER)
    node.session_lost(SECOND, 10)
    node.arbiter_answered(m.Granted(2, ME), 11)
    boot = m.Record(1, ME, 0, m.Kind.BOOT)
    mine, theirs = m.Record(2, ME, 1, m.Kind.RECONFIGURE, (PEER,)), m.Record(3, PEER, 2, m.Kind.PROMOTE)
    node.arbiter_answered(m.Refused(2, ME, (boot, mine, theirs), 2, False), 20)
    assert node.state is State.FROZEN
    asked = [effect.request for now in range(50, 5000, 50) for effect in some(node.timer(now * MS), fx.AskArbiter)]
    claims = [request for request in asked if isinstance(request, m.Claim)]
    assert claims[0] == m.Claim(4, 2, ME, ME, m.Kind.VOID, (), "me")
    assert decide(m.Ledger((boot, mine, theirs), 2), claims[0])[0] == m.Granted(4, ME)
