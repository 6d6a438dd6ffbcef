import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ftvm.errors import ExitCode
from ftvm.log.entry import Digest, Entry
from ftvm.log.file import LogReader, LogWriter
from tests.cli.command import COMMAND, ftvm, guest, one_line

TYPED = b"SET a 1\r\nINCR a\r\nTIME\r\nAPPEND a xyz\r\nGET a\r\n"


def replayed(log: Path, *arguments: str) -> dict[str, Any]:
    done = ftvm("replay", log, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def test_a_recorded_run_replays_to_the_same_digest(tmp_path: Path) -> None:
    log = tmp_path / "kv.log"
    done = ftvm("record", guest("kv"), "-o", log, typed=TYPED)
    assert done.returncode == 0
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    with LogReader(log) as reader:
        last = list(reader.entries())[-1]
    assert isinstance(last, Digest)
    assert last.digest.hex() in done.stderr.decode()
    report = replayed(log)
    assert (report["tick"], report["digest"]) == (last.tick, last.digest.hex())
    assert report["digests_compared"] >= 1


def test_a_computing_guest_replays_with_clocks_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "sieve.log"
    done = ftvm("record", guest("traploop"), "-o", log, "--max-ticks", "30000000")
    assert done.returncode == 0
    report = replayed(log)
    assert report["tick"] == 30_000_000
    assert report["entries"] > 2
    assert report["halt"] is None


def test_replay_until_a_tick_gives_one_digest_however_often(tmp_path: Path) -> None:
    log = tmp_path / "kv.log"
    ftvm("record", guest("kv"), "-o", log, typed=TYPED)
    end = replayed(log)["tick"]
    middle = replayed(log, "--until", str(end // 2))
    assert middle["tick"] == end // 2
    assert middle == replayed(log, "--until", str(end // 2))
    assert middle["digest"] != replayed(log)["digest"]
    done = ftvm("replay", log, "--until", str(end + 1))
    assert done.returncode == ExitCode.BAD_LOG
    assert f"ends at tick {end}" in one_line(done)


def test_input_files_are_typed_in_order(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"SET a 1\r\n")
    (tmp_path / "two").write_bytes(b"GET a\r\n")
    log = tmp_path / "kv.log"
    done = ftvm("record", guest("kv"), "-o", log, "--input", tmp_path / "one", tmp_path / "two", typed=b"FLUSHALL\r\n")
    assert (done.returncode, done.stdout) == (0, b"+OK\r\n$1\r\n1\r\n")
    done = ftvm("record", guest("kv"), "-o", log, "--force", "--input", tmp_path / "absent")
    assert done.returncode == ExitCode.USAGE
    assert "absent" in done.stderr.decode()


def test_a_log_is_not_overwritten_without_force(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("precious")
    done = ftvm("record", guest("hello"), "-o", log)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "exists already" in one_line(done)
    assert log.read_text() == "precious"
    assert ftvm("record", guest("hello"), "-o", log, "--force").returncode == 0
    assert replayed(log)["halt"] == {"ok": True, "code": 0, "how": "finisher"}


def test_a_log_whose_recorder_was_killed_replays_to_its_last_whole_batch(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with subprocess.Popen(
        [*COMMAND, "record", guest("traploop"), "-o", str(log)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not log.exists() or log.stat().st_size < 4500:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    size = log.stat().st_size
    os.truncate(log, size - 3)
    done = ftvm("replay", log, "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["torn_bytes"] > 0
    assert f"from offset {size - 3 - report['torn_bytes']} on" in one_line(done)
    assert report["tick"] > 0


@pytest.mark.parametrize("name", ["absent", "foreign", "cut", "damaged"])
def test_a_bad_log_is_one_line_and_exits_with_7(tmp_path: Path, name: str) -> None:
    log = tmp_path / f"{name}.log"
    ftvm("record", guest("kv"), "-o", tmp_path / "good.log", typed=TYPED)
    good = (tmp_path / "good.log").read_bytes()
    if name == "foreign":
        log.write_bytes(b"MThd" + bytes(100))
    elif name == "cut":
        log.write_bytes(good[:500])
    elif name == "damaged":
        log.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    for command in (["replay"], ["log", "dump"]):
        done = ftvm(*command, log)
        assert done.returncode == ExitCode.BAD_LOG
        assert str(log) in one_line(done)


def rewritten(log: Path, out: Path, change: Any) -> None:
    """Copies a log entry by entry: well-formed, but of a run that never was."""
    with LogReader(log) as reader:
        entries: list[Entry] = [change(entry) for entry in reader.entries()]
        with LogWriter.create(
            out,
            config_hash=reader.header.config_hash,
            image_hash=reader.header.image_hash,
            snapshot=reader.snapshot(),
        ) as writer:
            writer.append(entries)


def test_a_digest_that_differs_exits_with_3_and_names_the_tick(tmp_path: Path) -> None:
    ftvm("record", guest("kv"), "-o", tmp_path / "good.log", typed=TYPED)
    end = replayed(tmp_path / "good.log")["tick"]
    rewritten(
        tmp_path / "good.log",
        tmp_path / "bad.log",
        lambda entry: Digest(entry.tick, bytes(16)) if isinstance(entry, Digest) else entry,
    )
    done = ftvm("replay", tmp_path / "bad.log")
    assert (done.returncode, done.stdout) == (ExitCode.DIVERGENCE, b"")
    assert f"tick {end}" in one_line(done)


def test_log_dump_shows_every_entry_and_no_raw_control_characters(tmp_path: Path) -> None:
    log = tmp_path / "kv.log"
    ftvm("record", guest("kv"), "-o", log, typed=b"PING\r\n\x1b[2J\r\n")
    with LogReader(log) as reader:
        entries = list(reader.entries())
    done = ftvm("log", "dump", log)
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 1 + len(entries)
    assert b"\x1b" not in done.stdout
    assert r"'PING\r\n\x1b[2J\r\n'" in done.stdout.decode()
    objects = [json.loads(line) for line in ftvm("log", "dump", log, "--json").stdout.splitlines()]
    assert [one["tick"] for one in objects[1:]] == [entry.tick for entry in entries]
    assert [one["entry"] for one in objects[1:]] == [type(entry).__name__ for entry in entries]
    assert [one["position"] for one in objects[1:]] == list(range(len(entries)))
