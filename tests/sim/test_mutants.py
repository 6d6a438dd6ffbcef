"""Planted faults: each breaks one rule of the protocol, and the simulator must notice within a few hundred seeds."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from ftvm.replication import arbitration, edge, primary, shadow, succession
from ftvm.replication.arbitration import Cause, State
from ftvm.replication.edge import EdgeCore
from ftvm.replication.edge_sessions import EdgeSessions
from ftvm.replication.messages import Granted, Kind, Ledger, Record
from ftvm.replication.node import Node
from ftvm.replication.output_gate import OutputGate
from ftvm.replication.primary import Primary
from ftvm.replication.shadow import Shadow
from tests.sim import surroundings
from tests.sim.guest import Engine
from tests.sim.run import run_seed

SEEDS_MAX = 1200

Patch = pytest.MonkeyPatch


def releases_before_acknowledgement(patch: Patch) -> None:
    def commit(self: Any) -> None:
        gate = self._replica.gate
        if self.committing and gate.commit(gate.end):
            self.edges.release()

    patch.setattr(Primary, "commit", commit)


def acknowledges_inputs_at_once(patch: Patch) -> None:
    patch.setattr(OutputGate, "acked", lambda self, device: self._streams[device].logged)


def goes_on_alone_without_a_claim(patch: Patch) -> None:
    def lose(self: Any) -> None:
        self._primary.committing = True
        self._primary.commit()

    patch.setattr(Node, "_lose_member", lose)


def commits_while_claiming(patch: Patch) -> None:
    original = Node._lose_member

    def lose(self: Any) -> None:
        original(self)
        self._primary.committing = True
        self._primary.commit()

    patch.setattr(Node, "_lose_member", lose)


def counts_a_joiner_as_safe(patch: Patch) -> None:
    """A joiner whose session is lost claims, though it was never marked."""
    patch.setitem(arbitration.TRANSITIONS[State.JOINING], Cause.PRIMARY_DEAD, State.CLAIMING)
    original = Node._lost_primary

    def lost(self: Any) -> None:
        if self._state is State.JOINING and self._shadow.restored:
            self._presume_dead("mutant")
        else:
            original(self)

    patch.setattr(Node, "_lost_primary", lost)


def marks_without_closing_the_gate(patch: Patch) -> None:
    original = Primary.mark

    def mark(self: Any, follower: Any, now_ns: int) -> None:
        original(self, follower, now_ns)
        follower.acked = 1 << 60

    patch.setattr(Primary, "mark", mark)
    patch.setattr(OutputGate, "commit", _bounded(OutputGate.commit), raising=True)


def _bounded(commit: Callable[[Any, int], bool]) -> Callable[[Any, int], bool]:
    return lambda self, pos: commit(self, min(pos, self.end))


def arbiter_grants_everything(patch: Patch) -> None:
    def decide(ledger: Ledger, claim: Any) -> Any:
        if claim.want <= ledger.current:
            return Granted(claim.want, claim.life), None
        record = Record(claim.want, claim.life, claim.base, claim.kind, claim.keep)
        return Granted(claim.want, claim.life), record

    patch.setattr(surroundings, "decide", decide)
    patch.setattr(
        surroundings, "decide_activation", lambda ledger, ask: (arbitration.Activated(ask.gen, ask.life), True)
    )


def arbiter_voids_activated_generations(patch: Patch) -> None:
    original = arbitration._entitled

    def entitled(ledger: Ledger, claim: Any) -> bool:
        return (claim.kind is Kind.VOID and not ledger.off) or original(ledger, claim)

    patch.setattr(arbitration, "_entitled", entitled)

    def bide(self: Any, probing: bool) -> None:
        self._step(Cause.HOLDER_SILENT)
        self._claim(Kind.VOID, want=self._ledger.current + 1)

    patch.setattr(Node, "_bide_frozen", bide)


def base_follows_the_arbiter(patch: Patch) -> None:
    """A refused shadow takes what the arbiter says is current for what it holds."""
    original = Node._refused

    def refused(self: Any, request: Any) -> None:
        newest = self._ledger.records[-1]
        if self._state is State.CLAIMING and not self._ledger.off:
            self._step(Cause.KEPT)
            self._replica.generation = newest.gen
            self._shadow.primary_life = newest.life
            self._claim(Kind.PROMOTE)
        else:
            original(self, request)

    patch.setattr(Node, "_refused", refused)


def activation_is_not_waited_for(patch: Patch) -> None:
    original = Node._ask

    def ask(self: Any, request: Any) -> None:
        original(self, request)
        if isinstance(request, arbitration.Activate):
            self._claimant.drop()
            self._activated(request.gen)

    patch.setattr(Node, "_ask", ask)


def goes_live_before_the_horizon(patch: Patch) -> None:
    patch.setattr(Shadow, "consumed", property(lambda self: self.restored))
    patch.setattr(Engine, "go_live", lambda self: setattr(self, "live", True))


def trims_what_was_released(patch: Patch) -> None:
    original = OutputGate.release

    def release(self: Any) -> Any:
        for piece in list(original(self)):
            self.confirm(piece.device, piece.offset + len(piece.data))
            yield piece

    patch.setattr(OutputGate, "release", release)


def snapshot_forgets_retained_outputs(patch: Patch) -> None:
    original = shadow.Shadow._begin

    def begin(self: Any, message: Any) -> None:
        ends = dict(message.confirmed)
        for piece in message.outputs:
            ends[piece.device] = piece.offset + len(piece.data)
        original(self, dataclasses.replace(message, outputs=(), confirmed=ends))

    patch.setattr(shadow.Shadow, "_begin", begin)


def edge_takes_every_generation(patch: Patch) -> None:
    original = EdgeCore._received

    def received(self: Any, session: int, message: Any) -> None:
        if message.gen < self._generation and isinstance(message, edge.Output):
            self._output(message)
        else:
            original(self, session, message)

    patch.setattr(EdgeCore, "_received", received)


def node_takes_repeated_input(patch: Patch) -> None:
    original = EdgeSessions._input

    def take(self: Any, message: Any) -> None:
        expected = self._injected["uart0"]
        if message.data and message.offset < expected and self.takes_input:
            message = dataclasses.replace(message, offset=expected)
        original(self, message)

    patch.setattr(EdgeSessions, "_input", take)


def edge_forgets_unacknowledged_input(patch: Patch) -> None:
    original = EdgeCore._attach

    def attach(self: Any, session: int, message: Any) -> None:
        for stream in self._streams.values():
            if stream is not None and stream.acked is not None:
                stream.pending.clear()
        original(self, session, message)

    patch.setattr(EdgeCore, "_attach", attach)


def refused_primary_goes_on(patch: Patch) -> None:
    original = Node._freeze

    def freeze(self: Any) -> None:
        if self._executing and self._state is State.RECLAIMING:
            self._step(Cause.GRANTED)
            self._keep = ()
            self._activated(self._replica.generation + 1)
        else:
            original(self)

    patch.setattr(Node, "_freeze", freeze)


def acknowledges_a_position_not_held(patch: Patch) -> None:
    original = primary.Primary.received

    def received(self: Any, follower: Any, message: Any) -> bool:
        if isinstance(message, primary.Ack):
            message = dataclasses.replace(message, pos=min(message.pos + 2, self._replica.gate.end))
        return original(self, follower, message)

    patch.setattr(primary.Primary, "received", received)


def power_off_before_final(patch: Patch) -> None:
    original = Node.halted

    def halted(self: Any, *arguments: Any) -> Any:
        effects = original(self, *arguments)
        if self._state in (State.SOLO, State.PROTECTED):
            self._power_off()
            effects += self._leave()
        return effects

    patch.setattr(Node, "halted", halted)


def never_gives_up_a_frozen_life(patch: Patch) -> None:
    """A liveness mutant: who lost a claim neither joins again nor voids."""
    patch.setattr(Node, "_bide_frozen", lambda self, probing: None)
    patch.setattr(Node, "probed", lambda self, peer, answer, now_ns: [])


def never_repeats_a_claim(patch: Patch) -> None:
    patch.setattr(succession.Claimant, "due", lambda self, now_ns: None)


MUTANTS = [
    releases_before_acknowledgement,
    acknowledges_inputs_at_once,
    goes_on_alone_without_a_claim,
    commits_while_claiming,
    counts_a_joiner_as_safe,
    marks_without_closing_the_gate,
    arbiter_grants_everything,
    arbiter_voids_activated_generations,
    base_follows_the_arbiter,
    activation_is_not_waited_for,
    goes_live_before_the_horizon,
    trims_what_was_released,
    snapshot_forgets_retained_outputs,
    edge_takes_every_generation,
    node_takes_repeated_input,
    edge_forgets_unacknowledged_input,
    refused_primary_goes_on,
    acknowledges_a_position_not_held,
    power_off_before_final,
    never_gives_up_a_frozen_life,
    never_repeats_a_claim,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_simulator_notices(mutant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    assert any(run_seed(seed).failure for seed in range(SEEDS_MAX)), "no seed noticed"
