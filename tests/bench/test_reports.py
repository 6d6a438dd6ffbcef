"""What the benchmarks write, and what they make of what others write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.common import Report, parser
from bench.failover import STEPS, Kill, summarise, times_of
from bench.service import parse_redis_benchmark
from ftvm.errors import FtvmError

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
    pytest.importorskip("matplotlib")
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


def test_the_gap_ends_with_the_survivors_first_answer_not_with_a_late_one_of_the_dead() -> None:
    steps = _steps(session_lost=10, claimed=12, granted=15, activated=20, live=21, first_output=22)
    answered_ns = [KILLED_NS + at * MS for at in (-2, -1, 1, 24, 25)]
    times = times_of(steps, answered_ns, KILLED_NS)
    assert times["gap_ms"] == 24
    assert times["pause_ms"] == 23
    assert times["lost_session_ms"] == 10
    parts = [times[step] for step in ("detection_ms", "claim_ms", "catch_up_ms", "first_output_ms")]
    assert parts == [12, 8, 1, 3]
    assert sum(parts) == times["gap_ms"]


def test_a_step_that_did_not_happen_has_no_figure() -> None:
    times = times_of(_steps(claimed=200, activated=205, live=206), [KILLED_NS - MS, KILLED_NS + 207 * MS], KILLED_NS)
    assert times["lost_session_ms"] is None


def test_a_survivor_that_was_live_before_the_kill_measures_nothing() -> None:
    with pytest.raises(FtvmError):
        times_of(_steps(live=-5), [KILLED_NS + MS], KILLED_NS)


def test_the_summary_keeps_the_kinds_apart() -> None:
    def kill(kind: str, gap_ms: float) -> Kill:
        times: dict[str, Any] = dict.fromkeys(STEPS, 1.0) | {"gap_ms": gap_ms, "lost_session_ms": None}
        return Kill(
            kind=kind, survivor="beta", generation=2, acknowledged=1, lost=0, duplicated=0, surprises=(), **times
        )

    summary = summarise([kill("sigkill", 30.0), kill("sigstop", 230.0), kill("sigkill", 10.0)])
    assert summary["sigkill"]["gap_ms"]["max"] == 30.0
    assert summary["sigkill"]["gap_ms"]["p50"] == 10.0
    assert summary["sigstop"]["gap_ms"]["count"] == 1
    assert summary["sigstop"]["lost_session_ms"] is None
