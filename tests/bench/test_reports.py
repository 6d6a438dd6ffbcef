"""What the benchmarks write, and what they make of what others write."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bench.common import Report, parser
from bench.failover import summarise
from bench.faults import Fault, NotWritten, Writer, measure
from bench.protected_pair import STEPS, steps_of
from bench.service import parse_redis_benchmark
from ftvm.errors import FtvmError
from tests.needs import lack

REDIS_BENCHMARK = """\
WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","86956.52","0.013","0.000","0.015","0.016","0.017","3.799"
"GET","51282.05","0.019","0.000","0.015","0.015","0.023","3.879"
"""
MS = 1_000_000
KILLED_NS = 1_000 * MS


def test_a_report_has_versions_and_the_computer_and_is_written_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    report = Report("example", parser("example", "Example.").parse_args(["--json", str(path)]))
    report.add("speed", {"median": 1.0})
    document = json.loads(path.read_text())
    assert set(document) == {"bench", "when", "options", "facts", "results"}
    assert document["bench"] == "example"
    assert document["results"] == {"speed": {"median": 1.0}}
    facts = document["facts"]
    assert {"cpu", "cores", "kernel", "system", "python", "packages", "tools", "commit", "load_average"} == set(facts)
    assert facts["packages"]["numba"]


def test_a_plot_goes_beside_the_json(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        lack("matplotlib is missing: make setup")
    report = Report("example", parser("example", None).parse_args(["--json", str(tmp_path / "out.json")]))
    report.add("heights", [1, 2])

    def draw(figure: Any, results: dict[str, Any]) -> None:
        figure.subplots().bar([0, 1], results["heights"])

    report.finish(draw)
    assert (tmp_path / "out.svg").stat().st_size > 0


def test_redis_benchmark_is_read_by_its_headings() -> None:
    figures = parse_redis_benchmark(REDIS_BENCHMARK.splitlines())
    assert list(figures) == ["SET", "GET"]
    assert figures["SET"]["per_s"] == 86956.52
    assert figures["SET"]["ms"] == {"avg": 0.013, "min": 0.0, "p50": 0.015, "p95": 0.016, "p99": 0.017, "max": 3.799}


def test_a_redis_benchmark_that_measured_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="Connection refused"):
        parse_redis_benchmark(["Could not connect: Connection refused"])


def _steps(**given_ms: int) -> dict[str, int]:
    names = ("session_lost", "claimed", "granted", "activated", "live", "first_output")
    return {f"{name}_ns": (KILLED_NS + given_ms[name] * MS) if name in given_ms else 0 for name in names}


def test_the_parts_end_with_the_survivors_first_answer_not_with_a_late_one_of_the_dead() -> None:
    steps = _steps(session_lost=10, claimed=12, granted=15, activated=20, live=21, first_output=22)
    answered_ns = [KILLED_NS + at * MS for at in (-2, -1, 1, 24, 25)]
    times = steps_of(steps, answered_ns, KILLED_NS)
    assert times["lost_session_ms"] == 10
    assert [times[step] for step in ("detection_ms", "claim_ms", "catch_up_ms", "first_output_ms")] == [12, 8, 1, 3]


def test_a_step_that_did_not_happen_has_no_figure() -> None:
    times = steps_of(_steps(claimed=200, activated=205, live=206), [KILLED_NS - MS, KILLED_NS + 207 * MS], KILLED_NS)
    assert times["lost_session_ms"] is None


def test_a_survivor_that_was_live_before_the_kill_measures_nothing() -> None:
    with pytest.raises(FtvmError):
        steps_of(_steps(live=-5), [KILLED_NS + MS], KILLED_NS)


def _fault(system: str, kind: str, gap_ms: float, lost: int = 0, **details: float | None) -> Fault:
    return Fault(system, kind, gap_ms, gap_ms, 1.0, 1.0, 100, 2, lost, 0, details)


def test_the_summary_keeps_systems_and_kinds_apart() -> None:
    steps: dict[str, float | None] = dict.fromkeys(STEPS, 1.0) | {"lost_session_ms": None}
    faults = [
        _fault("ftvm", "sigkill", 30.0, **steps),
        _fault("ftvm", "sigstop", 230.0, **steps),
        _fault("ftvm", "sigkill", 10.0, **steps),
        _fault("Redis Sentinel", "sigkill", 900.0, lost=3),
    ]
    summary = summarise(faults)
    assert summary["ftvm"]["sigkill"]["gap_ms"]["max"] == 30.0
    assert summary["ftvm"]["sigkill"]["gap_ms"]["p50"] == 10.0
    assert summary["ftvm"]["sigkill"]["acknowledged"] == 200
    assert summary["ftvm"]["sigstop"]["gap_ms"]["count"] == 1
    assert summary["ftvm"]["sigstop"]["lost_session_ms"] is None
    assert (summary["ftvm"]["sigkill"]["lost"], summary["Redis Sentinel"]["sigkill"]["lost"]) == (0, 3)


# ---- the books: a service that is known to lose and to double


class _Forgetful:
    """Keeps every operation but those before a fault; may double one, and answers nothing for a while."""

    def __init__(self, forgets: int, doubles: int, silence: int) -> None:
        self.held: list[bytes] = []
        self._forgets, self._doubles, self._silence = forgets, doubles, silence
        self._silent = 0
        self.service = self

    async def write(self, number: int, value: bytes) -> None:
        await trio.sleep(0.001)
        if self._silent:
            self._silent -= 1
            raise NotWritten("the leader is away")
        self.held.append(value)

    async def tokens(self) -> Counter[bytes]:
        return Counter(self.held)

    async def clear(self) -> None:
        self.held = []

    async def strike(self, kind: str) -> int:
        self.held = self.held[: len(self.held) - self._forgets] + self.held[: self._doubles]
        self._silent = self._silence
        return time.monotonic_ns()

    async def details(self, struck_ns: int, answered_ns: Sequence[int]) -> dict[str, float | None]:
        return {}

    async def heal(self, kind: str) -> dict[str, float | None]:
        return {"healed by": 1.0}


def _measured(forgets: int, doubles: int, silence: int) -> Fault:
    cluster = _Forgetful(forgets, doubles, silence)
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(measure, "forgetful", cluster, "sigkill", "run", 20, clock=clock)


def test_what_was_acknowledged_and_is_not_there_is_lost() -> None:
    fault = _measured(forgets=5, doubles=0, silence=0)
    assert (fault.lost, fault.doubled, fault.unknown) == (5, 0, 0)
    assert fault.acknowledged >= 40


def test_what_is_there_twice_is_doubled() -> None:
    fault = _measured(forgets=0, doubles=3, silence=0)
    assert (fault.lost, fault.doubled) == (0, 3)


def test_what_nobody_answered_is_unknown_and_neither_lost_nor_acknowledged() -> None:
    fault = _measured(forgets=0, doubles=0, silence=7)
    assert (fault.lost, fault.doubled, fault.unknown) == (0, 0, 7)
    assert fault.details == {"healed by": 1.0}


def test_the_silence_is_the_longest_that_ends_after_the_fault() -> None:
    writer = Writer(_Forgetful(0, 0, 0), "run")
    writer.answered_ns = [0, 50, 60, 70, 200, 210, 240]
    assert writer.longest_silence(65, 220) == (70, 200)
    assert writer.longest_silence(205, 300) == (210, 240)
    assert writer.longest_silence(240, 300) == (0, 0)
