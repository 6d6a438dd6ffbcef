"""Each check of the observer, and a planted fault that makes just that one speak."""

import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from ftvm.log.entry import Clock, Horizon
from ftvm.replication import arbitration, restart
from ftvm.replication.arbitration import State
from ftvm.replication.edge import EdgeCore
from ftvm.replication.edge_sessions import EdgeSessions
from ftvm.replication.effects import StartOver
from ftvm.replication.failure_detector import FailureDetector
from ftvm.replication.messages import Attach, Kind
from ftvm.replication.node import Node
from ftvm.replication.primary import Primary
from ftvm.replication.shadow import Shadow
from tests.sim.clock import MS
from tests.sim.disk import Disk
from tests.sim.plan import Plan, Round, restarted_edge
from tests.sim.run import Run, run_seed

SEEDS_MAX = 900
WORLDS = 150

Patch = pytest.MonkeyPatch


def _blind_to(why: str) -> Callable[[Patch], None]:
    """A primary that does not look at one of its bounds."""

    def mutant(patch: Patch) -> None:
        original = Primary._bound_reached

        def bound_reached(self: Any, *, resume: bool) -> str:
            reached = original(self, resume=resume)
            return "" if reached.startswith(why) else reached

        patch.setattr(Primary, "_bound_reached", bound_reached)

    return mutant


def never_releases_the_throttle(patch: Patch) -> None:
    original = Primary._bound_reached

    def bound_reached(self: Any, *, resume: bool) -> str:
        return "mutant" if self._throttled and self.edges.live else original(self, resume=resume)

    patch.setattr(Primary, "_bound_reached", bound_reached)


def shadow_is_deaf_to_silence(patch: Patch) -> None:
    patch.setattr(Node, "_watch", lambda self: None)
    patch.setattr(FailureDetector, "deadline_ns", property(lambda self: 1 << 62))


def detector_is_hasty(patch: Patch) -> None:
    patch.setattr(FailureDetector, "deadline_ns", property(lambda self: self.heard_at_ns + self.timeout_ns // 2))


def timer_never_moves_on(patch: Patch) -> None:
    original = Node.timer

    def timer(self: Any, now_ns: int) -> Any:
        effects = original(self, now_ns)
        self._beat_at_ns = now_ns
        return effects

    patch.setattr(Node, "timer", timer)


def edge_counts_one_byte_less(patch: Patch) -> None:
    original = EdgeCore._output

    def output(self: Any, message: Any) -> None:
        original(self, message)
        stream = self._streams["uart0"]
        if stream is not None and stream.have is not None and stream.have > 40:
            stream.have -= 1

    patch.setattr(EdgeCore, "_output", output)


def shadow_skips_a_clock(patch: Patch) -> None:
    original = Shadow._log

    def log(self: Any, message: Any) -> None:
        entries = tuple(Horizon(entry.tick) if isinstance(entry, Clock) else entry for entry in message.entries)
        original(self, dataclasses.replace(message, entries=entries))

    patch.setattr(Shadow, "_log", log)


def gives_up_what_counts(patch: Patch) -> None:
    patch.setattr(Node, "_bide_frozen", lambda self, probing: self._end(StartOver("mutant")))


def two_may_go_live_in_one_generation(patch: Patch) -> None:
    original = Node._freeze

    def freeze(self: Any) -> None:
        if self._state is State.CLAIMING and self._shadow.consumed and not self._executing:
            self._step(arbitration.Cause.GRANTED)
            self._keep = ()
            self._activated(self._replica.generation + 1)
        else:
            original(self)

    patch.setattr(Node, "_freeze", freeze)


def restarts_without_hearing_the_members(patch: Patch) -> None:
    patch.setattr(restart, "_doubt", lambda other, answer: "")
    patch.setattr(restart, "_waiting", lambda answers: iter(()))


def restarts_from_any_log(patch: Patch) -> None:
    def worth(ledger: Any, held: Any, *, gen: int | None = None) -> Any:
        stamp = held.stamp
        record = ledger.record(stamp.gen) if stamp is not None else None
        return None if record is None else restart.Worth(stamp.gen, record.life, ((stamp.node, stamp.life),))

    original = arbitration._entitled

    def entitled(ledger: Any, claim: Any) -> bool:
        return (claim.kind is Kind.RESTART and not ledger.off) or original(ledger, claim)

    patch.setattr(restart, "worth", worth)
    patch.setattr(arbitration, "_entitled", entitled)


def writes_nothing_but_stamps(patch: Patch) -> None:
    patch.setattr(Disk, "_write", lambda self, committed: None)


def leaves_no_log(patch: Patch) -> None:
    patch.setattr(Disk, "inspect", lambda self: None)


def a_superseded_primary_tells_a_restarted_edge(patch: Patch) -> None:
    original = EdgeSessions._received

    def received(self: Any, edge: int, message: Any) -> bool:
        if isinstance(message, Attach) and self.live and message.gen == self._replica.generation:
            self._attach(edge, message)
            return False
        return original(self, edge, message)

    patch.setattr(EdgeSessions, "_received", received)


MUTANTS: list[tuple[str, Callable[[Patch], None], str]] = [
    ("lags", _blind_to("a member"), "lags by"),
    ("retained", _blind_to("the edge"), "outputs are retained beyond the bound"),
    ("unacknowledged", _blind_to("members"), "unacknowledged beyond the bound"),
    ("throttle", never_releases_the_throttle, "not healed"),
    ("detects", shadow_is_deaf_to_silence, "did not notice"),
    ("hasty", detector_is_hasty, "ms of silence"),
    ("timer", timer_never_moves_on, "keeps its timer busy"),
    ("delivered twice", edge_counts_one_byte_less, "the edge delivered twice or left out"),
    ("digest", shadow_skips_a_clock, "two nodes differ"),
    ("gives up", gives_up_what_counts, "gave up the only machine that counts"),
    ("two live", two_may_go_live_in_one_generation, "live without a grant"),
    ("restart", restarts_without_hearing_the_members, "which holds more in memory"),
    ("older log", restarts_from_any_log, "restarted another history"),
    ("written", writes_nothing_but_stamps, "without what must have been on its disk"),
    ("lost", leaves_no_log, "lost, with all disks whole"),
]


@pytest.mark.parametrize(("mutant", "said"), [case[1:] for case in MUTANTS], ids=[case[0] for case in MUTANTS])
def test_the_check_speaks(mutant: Callable[[Patch], None], said: str, monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    assert any(said in run_seed(seed).failure for seed in range(SEEDS_MAX)), f"no seed was told: {said}"


def _told_a_restarted_edge() -> set[str]:
    """What goes wrong where an edge without a memory meets a superseded primary, in many worlds."""
    wrong = set()
    for seed in range(WORLDS):
        faults = tuple(restarted_edge(Random(seed)))
        wrong.add(Run(Plan(seed, faults), rounds=(Round(faults, 900 * MS),)).execute().failure)
    return wrong - {""}


def test_a_restarted_edge_learns_nothing_from_a_superseded_primary(monkeypatch: Patch) -> None:
    assert not _told_a_restarted_edge()
    a_superseded_primary_tells_a_restarted_edge(monkeypatch)
    assert any("the edge is told to go on" in failure for failure in _told_a_restarted_edge())
