"""Several members: what all of them hold counts, who stays is said by name, and each hears the whole log."""

import pytest

from ftvm.log.entry import Entry, Horizon
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.output_gate import OutputGate
from ftvm.replication.primary import LOG_ENTRIES_MAX
from tests.replication.scenes import OTHER, PEER, SECOND, SHADOW, joined, only, outputs, protected, say, some


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
