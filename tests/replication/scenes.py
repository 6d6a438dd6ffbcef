"""Nodes brought to a state that a test begins with, and what to look for in their effects."""

from typing import TypeVar

from ftvm.log.entry import Entry, Horizon
from ftvm.replication import effects as fx
from ftvm.replication import messages as m
from ftvm.replication.arbitration import State
from ftvm.replication.events import Presence
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


def copying(node: Node, session: int = SHADOW, life: bytes = PEER, now: int = 3, *, name: str = "peer") -> None:
    """The machine is on its way to a joiner."""
    node.session_opened(session, name, life, now)
    effects = node.received(session, m.Inventory(life, b"", True), now)
    assert only(effects, fx.CopyMachine) == fx.CopyMachine(session, b"")


def joined(node: Node, session: int = SHADOW, life: bytes = PEER, now: int = 3) -> None:
    name = f"peer of {session}"
    copying(node, session, life, now, name=name)
    effects = node.copy_finished(session, b"state", now)
    assert isinstance(only(effects, fx.Send).message, m.Snapshot)
    stamp = only(node.received(session, m.Ready(node.generation, life), now), fx.WriteStamp)
    assert stamp.wait
    assert (name, life) in stamp.stamp.members
    effects = node.stamped(stamp.number, True, now)
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
    assert fx.TakeInventory(SHADOW) in node.session_opened(SHADOW, "peer", PEER, 2)
    assert node.inventory_taken(SHADOW, b"", 2) == [fx.Send(SHADOW, m.Inventory(ME, b"", True))]
    snapshot = m.Snapshot(1, 7, 3, 1, b"state", (m.Piece("uart0", 2, b"cd"),), {"uart0": 2}, {"uart0": 0})
    restore = only(node.received(SHADOW, snapshot, 3), fx.RestoreSnapshot)
    assert restore == fx.RestoreSnapshot(b"state", 7, 3)
    assert fx.Send(SHADOW, m.Ready(1, ME, 3)) in node.restored(4)
    if log:
        effects = node.received(SHADOW, m.Log(1, 7, log, {"uart0": 2}), 5)
        assert effects == [fx.Apply(7, log)], "a joiner acknowledges nothing"
    effects = node.received(SHADOW, m.Mark(1, 7 + len(log), (ME,)), 6)
    acked, stamped = effects
    assert acked == fx.Send(SHADOW, m.Ack(1, ME, 7 + len(log), 7 + len(log), 3))
    assert isinstance(stamped, fx.WriteStamp)
    assert (stamped.stamp.gen, stamped.stamp.holder_life, stamped.stamp.names) == (1, PEER, {"me", "peer"})
    assert node.state is State.IN_SYNC
    return node
