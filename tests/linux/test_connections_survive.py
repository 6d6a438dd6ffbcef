"""One TCP connection into Debian, which is never opened anew, through SIGKILLs of the primary and re-protections.

By TAP the nodes, the client and the witness are on hosts of their own: network namespaces, which need root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import survival
from bench.guest_ways import WAYS, obstacle
from tests.guests.debian import DebianGuest
from tests.needs import lack

KILLS = 2


@pytest.mark.parametrize("way", WAYS)
def test_a_connection_into_debian_survives_sigkill(way: str, debian_guest: DebianGuest, tmp_path: Path) -> None:
    """Every answer is the right one, and every token is read back over the same connection. (`bench.survival`)"""
    if why := obstacle(way):
        lack(why)
    path = tmp_path / "out.json"
    words = ["--way", way, "--kills", str(KILLS), "--operations", "100"]
    assert survival.main([*words, "--guest", str(debian_guest.kernel.parent), "--json", str(path)]) == 0
    results = json.loads(path.read_text())["results"]
    summary = results["summary"][way]
    assert (summary["survived"], summary["lost"], summary["doubled"], summary["unknown"]) == (KILLS, 0, 0, 0)
    for fault in results["faults"][way]:
        assert fault["acknowledged"] >= 200
        assert fault["gap_ms"] < 10_000
        assert fault["details"]["detection_ms"] > 0
