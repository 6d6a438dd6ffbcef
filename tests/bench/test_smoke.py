"""The benchmarks run, at sizes at which their figures mean nothing, and write what they say they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import failover, throughput
from bench.common import find_tool

SPREAD = {"median", "low", "high", "count", "spread"}
DISTRIBUTION = {"count", "min", "p50", "p90", "p99", "max"}


def _results(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())["results"]
    return results


def test_kernels_are_measured_beside_qemu(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    words = "--only kernels --kernels crc32 --repeats 1 --seconds 0.05"
    assert throughput.main([*words.split(), "--json", str(path)]) == 0
    results = _results(path)["kernels"]
    assert set(results) == {"kernels", "geomean", "share_of_icount"}
    engines = ("ours", "qemu", "icount") if find_tool("qemu-system-riscv64") else ("ours",)
    figures = results["kernels"]["crc32"]
    for engine in engines:
        assert set(figures[engine]) == SPREAD
        assert figures[engine]["median"] > 0
        assert figures["rounds"][engine] >= 1
    assert set(results["geomean"]) == set(engines)


def test_protection_lag_service_and_idle_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    words = "--only protection lag service idle --kernels crc32 --repeats 1 --window 0.3 --requests 50 --idle 0.3"
    assert throughput.main([*words.split(), "--json", str(path)]) == 0
    results = _results(path)
    protected = results["protection"]["crc32"]
    for key in ("unprotected", "primary", "shadow", "primary_ratio", "shadow_cpu_ratio", "log_bytes_per_1000"):
        assert set(protected[key]) == SPREAD
        assert protected[key]["median"] > 0
    for key in ("executed_ms", "executed_ticks", "acknowledged_ticks"):
        assert set(results["lag"][key]) == DISTRIBUTION
    service = results["service"]
    assert (service["unprotected"]["state"], service["protected"]["state"]) == ("SOLO", "PROTECTED")
    for state in ("unprotected", "protected"):
        assert set(service[state]["ours"]["SET"]["ms"]) == DISTRIBUTION
        assert service[state]["log_bytes_per_request"] > 0
        assert bool(service[state]["redis_benchmark"]) == bool(find_tool("redis-benchmark"))
    assert results["idle"]["heartbeat_bytes_per_s"] > 0
    assert results["idle"]["log_bytes_per_s"] >= 0


@pytest.mark.parametrize("kind", ["sigkill", "sigstop"])
def test_a_failover_is_taken_apart(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.json"
    assert failover.main(["--kills", "2", "--kind", kind, "--operations", "50", "--json", str(path)]) == 0
    results = _results(path)
    assert (results["lost"], results["duplicated"], results["surprises"]) == (0, 0, 0)
    assert [kill["survivor"] for kill in results["kills"]] == ["beta", "alpha"]
    for kill in results["kills"]:
        assert kill["acknowledged"] >= 100
        assert set(failover.STEPS) <= set(kill)
        parts = [kill[step] for step in ("detection_ms", "claim_ms", "catch_up_ms", "first_output_ms")]
        assert sum(parts) == pytest.approx(kill["gap_ms"], abs=0.01)
    assert set(results["summary"][kind]["gap_ms"]) == DISTRIBUTION
