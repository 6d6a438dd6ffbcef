"""The demonstration as a test: it accounts for every operation and replays both logs itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import TEST_S
from tests.needs import need

pytestmark = pytest.mark.usefixtures("patience")

FIELDS = {"acknowledged", "lost", "duplicated", "gap_ms", "generation", "digest_match", "log_bytes", "ticks"}


def test_the_demo_loses_nothing_and_says_so_in_its_last_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftvm", "demo", "--json", "--operations", "200", "--kills", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() >= FIELDS
    assert (said["lost"], said["duplicated"], said["surprises"]) == (0, 0, [])
    assert said["acknowledged"] >= 800
    assert said["digest_match"] is True
    assert said["digests_compared"] >= 2
    assert said["generation"] == 3
    assert [kill["victim"] for kill in said["kills"]] == ["alpha", "beta"]
    assert [kill["generation"] for kill in said["kills"]] == [2, 3]
    assert all(kill["reprotection_ms"] > 0 for kill in said["kills"])
    assert said["gap_ms"] > 0
    assert said["log_bytes"] > 0
    assert said["ticks"] > 0


@pytest.mark.parametrize("arbiter", ["witness", "etcd"])
def test_the_demo_runs_on_every_kind_of_arbiter(arbiter: str, tmp_path: Path) -> None:
    if arbiter == "etcd":
        need("etcd", "etcd-server")
    done = subprocess.run(
        [sys.executable, "-m", "ftvm", "demo", "--json", "--operations", "100", "--arbiter", arbiter],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"arbiter: {arbiter}" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is True
