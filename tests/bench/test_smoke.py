"""The benchmarks run, at sizes at which their figures mean nothing, and write what they say they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import boot, failover, idle, linux, reprotection, throughput
from bench.common import find_tool
from bench.hosts import obstacle
from tests.guests.debian import DebianGuest
from tests.limits import TIMEOUT_MS
from tests.needs import lack

pytestmark = pytest.mark.usefixtures("patience")

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


def test_a_linux_guest_is_booted_asked_and_left_alone_beside_qemu(
    debian_guest: DebianGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "IDLE", {"shell": linux.IDLE["shell"]})
    monkeypatch.setattr(boot, "SCENES", {"disk": boot.SCENES["disk"]})
    path = tmp_path / "out.json"
    words = [
        "--idle",
        "1",
        "--guest",
        str(debian_guest.kernel.parent),
        "--repeats",
        "1",
        "--requests",
        "20",
        "--engines",
        "alone",
        "record",
    ]
    if find_tool("redis-benchmark") is None:
        lack("redis-benchmark is missing: apt-get install redis-tools")
    assert linux.main([*words, "--json", str(path)]) == 0
    results = _results(path)
    peers = ("qemu", "icount") if find_tool("qemu-system-riscv64") else ()
    assert results["boot"]["disk"]["instructions"] > 300e6
    for engine in ("ours", *peers):
        assert set(results["boot"]["disk"][engine]) == {"cpu_s", "wall_s", "mips"}
        assert results["boot"]["disk"][engine]["mips"]["median"] > 0
    for engine in ("alone", "record") if peers else ("alone",):
        assert results["redis"][engine]["SET"]["per_s"]["median"] > 0
        assert (results["redis"][engine]["log_bytes_per_request"] is None) == (engine == "alone")
    assert 0 < results["idle"]["shell"]["ticks_per_s"] < idle.BUSY_TICKS_PER_S


def test_a_failover_is_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    words = "--system ftvm --kind sigkill sigstop hand-over --kills 1 --operations 50"
    assert failover.main([*words.split(), "--json", str(path)]) == 0
    results = _results(path)
    assert [fault["kind"] for fault in results["faults"]] == ["sigkill", "sigstop", "hand-over"]
    for fault in results["faults"]:
        assert (fault["lost"], fault["doubled"], fault["unknown"]) == (0, 0, 0)
        assert fault["acknowledged"] >= 100
        parts = [fault["details"][step] for step in ("detection_ms", "claim_ms", "catch_up_ms", "first_output_ms")]
        assert min(parts) >= 0
        # Silence begins with the last sign of life, which may be a heartbeat older than the stop.
        assert fault["kind"] != "sigstop" or min(parts[0], fault["gap_ms"]) > TIMEOUT_MS / 2
    assert set(results["summary"]["ftvm"]["sigstop"]["gap_ms"]) == DISTRIBUTION
    assert results["systems"]["ftvm"]["detector_timeout_ms"] > 0


def test_peers_are_measured_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    systems = ("Redis Sentinel", "etcd 10/100 ms")
    for system in failover.SYSTEMS:
        if system.name in systems and system.obstacle():
            lack(system.obstacle())
    words = "--kind sigkill --kills 1 --operations 50"
    assert failover.main(["--system", *systems, *words.split(), "--json", str(path)]) == 0
    results = _results(path)
    for system, fault in zip(systems, results["faults"], strict=True):
        assert fault["system"] == system
        assert fault["acknowledged"] >= 100
        assert fault["gap_ms"] > 20
        assert results["systems"][system]["version"]


def test_a_leader_that_is_cut_off_is_survived(tmp_path: Path) -> None:
    if obstacle():
        lack(obstacle())
    path = tmp_path / "out.json"
    words = "--system ftvm --kind isolation --kills 1 --operations 50"
    assert failover.main([*words.split(), "--json", str(path)]) == 0
    (fault,) = _results(path)["faults"]
    assert (fault["lost"], fault["doubled"]) == (0, 0)
    assert fault["gap_ms"] > TIMEOUT_MS / 2


def test_a_peer_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "out.json"
    assert failover.main(["--system", "Redis Sentinel", "--kind", "sigkill", "--json", str(path)]) == 1
    assert "redis-server" in _results(path)["left_out"]["Redis Sentinel"]


def test_a_join_is_measured_fresh_resumed_and_restarted(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert reprotection.main(["--size", "24", "--rate", "5", "--watch", "0.2", "--json", str(path)]) == 0
    results = _results(path)
    assert results["alone"]["written_mb_s"] > 0
    fresh, *returning = results["joins"]
    assert [join["kind"] for join in results["joins"]] == ["fresh", "resumed", "restarted"]
    for join in results["joins"]:
        assert 0 < join["pause_ms"] <= join["gap_ms"]
        assert join["copy_s"] <= join["join_s"]
        assert join["written_mb_s"] > 0
    for join in returning:
        assert join["sent_mib"] < fresh["sent_mib"]
        assert join["kept_mib"] > fresh["kept_mib"]
