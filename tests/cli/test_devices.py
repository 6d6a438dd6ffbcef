"""`ftvm run`, `record` and `replay` with disks, an entropy device and a clock: a guest that uses them as it is told."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from ftvm.config import DiskFile
from ftvm.errors import ExitCode
from ftvm.host.disk import open_disk
from ftvm.host.overlay import open_overlay
from tests.cli.command import ftvm, guest, one_line

BLOCK = 4096
BLOCKS = 64


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK))
    return path


def said(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_what_is_written_is_there_in_the_next_run_and_the_image_is_as_it_was(disk: Path) -> None:
    before = disk.read_bytes()
    done = ftvm("run", guest("devices"), "--disk", disk, typed=b"w 3 65\nf\nr 3\nw 63 7\nr 64\no\n")
    assert (done.returncode, done.stdout) == (0, said("ok", "ok", "65 65", "ok", "error"))
    assert disk.read_bytes() == before
    last = disk.read_bytes()[9 * BLOCK : 10 * BLOCK]
    done = ftvm("run", guest("devices"), "--disk", disk, typed=b"r 3\nr 63\nr 9\no\n")
    assert (done.returncode, done.stdout) == (0, said("65 65", "7 7", f"{last[0]} {last[-1]}"))


def test_a_flush_lasts_when_the_guest_hears_of_it(disk: Path, tmp_path: Path) -> None:
    """At the very tick of its answer the blocks are in the overlay, whatever becomes of the run."""
    done = ftvm("run", guest("devices"), "--disk", disk, typed=b"w 3 65\nf\n")
    assert done.stdout == said("ok", "ok")
    image = open_disk(DiskFile(image=disk))
    overlay = open_overlay(Path(f"{disk}.overlay"), image.config, "ftvm-run")
    assert list(overlay.read()) == [(3 * BLOCK, b"A" * BLOCK)]
    overlay.close()
    image.close()


def test_a_snapshot_throws_writes_away_and_a_read_only_disk_takes_none(disk: Path) -> None:
    done = ftvm("run", guest("devices"), "--disk", f"{disk},snapshot", typed=b"w 3 65\nf\nr 3\no\n")
    assert done.stdout == said("ok", "ok", "65 65")
    first = disk.read_bytes()[3 * BLOCK : 4 * BLOCK]
    done = ftvm("run", guest("devices"), "--disk", f"{disk},ro", typed=b"w 3 65\nr 3\no\n")
    assert done.stdout == said("error", f"{first[0]} {first[-1]}")
    assert os.listdir(disk.parent) == ["disk.img"]


def test_a_recorded_run_with_devices_replays_to_the_same_digest(disk: Path, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    typed = b"w 3 65\nt\nr 3\nf\nr 5\no\n"
    before_ns = time.time_ns()
    done = ftvm("record", guest("devices"), "-o", log, "--disk", disk, typed=typed)
    assert done.returncode == 0
    told_ns = int(done.stdout.splitlines()[1])
    assert before_ns < told_ns < time.time_ns()
    replayed = ftvm("replay", log, "--disk", disk, "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["digest"] in done.stderr.decode()
    without = ftvm("replay", log)
    assert without.returncode == ExitCode.BAD_LOG
    assert "other disks" in one_line(without)


def test_a_run_that_begins_with_an_overlay_replays_without_it(disk: Path, tmp_path: Path) -> None:
    ftvm("run", guest("devices"), "--disk", disk, typed=b"w 3 65\no\n")
    log = tmp_path / "run.log"
    assert ftvm("record", guest("devices"), "-o", log, "--disk", disk, typed=b"r 3\nw 3 66\no\n").stdout == said(
        "65 65", "ok"
    )
    Path(f"{disk}.overlay").unlink()
    assert ftvm("replay", log, "--disk", disk).returncode == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda image: image[:-512], "is shorter now"),
        (lambda image: image + bytes(512), "is longer now"),
        (lambda image: b"x" + image[1:], "lies over another image"),
        (lambda image: image[:-1], "give an image of whole sectors"),
    ],
)
def test_an_image_that_changed_under_its_overlay_is_one_line(disk: Path, change: object, told: str) -> None:
    ftvm("run", guest("devices"), "--disk", disk, typed=b"w 3 65\no\n")
    assert callable(change)
    disk.write_bytes(change(disk.read_bytes()))
    done = ftvm("run", guest("devices"), "--disk", disk, typed=b"o\n")
    assert done.returncode == ExitCode.USAGE
    assert told in one_line(done)
    assert str(disk) in one_line(done)


def test_a_disk_that_another_machine_writes_is_one_line(disk: Path) -> None:
    image = open_disk(DiskFile(image=disk))
    overlay = open_overlay(Path(f"{disk}.overlay"), image.config, "ftvm-run")
    done = ftvm("run", guest("devices"), "--disk", disk, typed=b"o\n")
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "in use by another machine" in one_line(done)
    assert ftvm("run", guest("devices"), "--disk", f"{disk},snapshot", typed=b"o\n").returncode == 0
    overlay.close()
    image.close()
