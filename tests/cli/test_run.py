import os
import pty
import select
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from ftvm.errors import ExitCode
from tests.cli.command import COMMAND, TIMEOUT_S, ftvm, guest, one_line


def test_a_guest_that_passes_exits_with_0_and_its_words_are_ours() -> None:
    done = ftvm("run", guest("hello"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello from the guest\n", b"")


@pytest.mark.parametrize(("name", "how", "code"), [("htif-fail", "htif", 7), ("finisher-fail", "finisher", 42)])
def test_a_guest_that_fails_exits_with_1(name: str, how: str, code: int) -> None:
    done = ftvm("run", guest(name))
    assert done.returncode == ExitCode.GUEST_FAILED
    assert f"failed with code {code} ({how})" in one_line(done)


def test_a_guest_that_passes_through_htif_exits_with_0() -> None:
    done = ftvm("run", guest("htif-pass"))
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_typed_reaches_the_guest_and_the_end_of_input_ends_a_guest_that_waits_for_more() -> None:
    done = ftvm("run", guest("kv"), typed=b"PING\r\nSET a 1\r\nGET a\r\n")
    assert (done.returncode, done.stdout) == (0, b"+PONG\r\n+OK\r\n$1\r\n1\r\n")
    assert "waits at tick" in one_line(done)


def test_more_input_than_the_device_holds_is_not_lost() -> None:
    commands = b"".join(b"ECHO %06d\r\n" % number for number in range(2000))
    done = ftvm("run", guest("kv"), typed=commands)
    assert done.stdout == b"".join(b"$6\r\n%06d\r\n" % number for number in range(2000))


def test_max_ticks_stops_at_exactly_that_tick() -> None:
    done = ftvm("run", guest("traploop"), "--max-ticks", "1234567")
    assert done.returncode == 0
    assert "stopped at tick 1234567" in one_line(done)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.elf", None, "No such file"),
        ("empty.elf", b"", "empty"),
        ("cut.elf", b"\x7fELF\x02\x01\x01", "cut off"),
        ("other.elf", b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(60), "not RISC-V"),
        ("large.bin", b"x" * (1024 * 1024 + 1), "RAM"),
    ],
)
def test_a_bad_image_is_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = ftvm("run", path, "--ram", "1")
    assert done.returncode == ExitCode.USAGE
    line = one_line(done)
    assert str(path) in line
    assert told in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("frobnicate", "--help"),
        ("run x --frob", "--help"),
        ("run", "give IMAGE, or --kernel or --bios"),
        ("run x --ram 0", "--ram: expected an integer from 1"),
        ("run x --ram much", "'much'"),
        ("run x --kernel y", "IMAGE: a bare image runs by itself, without --kernel"),
        ("run x --bios y", "without --bios"),
        ("run x --initrd y", "--initrd: is for a kernel"),
        ("run --bios x --append y", "--append: is for a kernel"),
        ("run x --mac 52:54:00:12:34:56", "--mac: there is no network card; give --net with it"),
        ("run x --net user --mac 01:00:00:00:00:01", "the address of a single network card"),
        ("run x --net user --mtu 10", "--mtu: expected an integer from 576"),
        ("run x --net cable", "cable"),
        ("run x --net none --publish 1:2", "--publish"),
        ("run x --console tv", "--console: expected"),
        ("run x --escape q", "--escape 'q': expected a key with Ctrl"),
        ("run x --disk ,ro", "--disk"),
        ("run x --disk a --disk b --disk c --disk d --disk e", "at most 4"),
        ("run x --disk a --disk ./a,ro", "a is given twice"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(arguments: str, told: str) -> None:
    done = ftvm(*arguments.split())
    assert done.returncode == ExitCode.USAGE
    assert told in one_line(done)


def test_the_environment_sets_what_no_flag_does() -> None:
    environment = {**os.environ, "FTVM_MACHINE_RAM_MIB": "0"}
    done = subprocess.run(
        [*COMMAND, "run", guest("hello")], env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == ExitCode.USAGE
    done = subprocess.run(
        [*COMMAND, "run", guest("hello"), "--ram", "8"],
        env=environment,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0


def test_version_and_help_exit_with_0() -> None:
    done = ftvm("--version")
    assert done.returncode == 0
    assert b"log version" in done.stdout
    for command in ("run", "record", "replay", "log", "certs", "check"):
        assert command.encode() in ftvm("--help").stdout
        assert ftvm(command, "--help").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_sleeping_guest_cleanly(number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "run", guest("wfi-off")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asleep for ever\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (128 + number, b"")


def test_a_reader_that_has_seen_enough_ends_a_guest_that_never_stops_talking() -> None:
    with subprocess.Popen(
        [*COMMAND, "run", guest("flood")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(100_000)
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (0, b"")


def read_until(fd: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], TIMEOUT_S)
        assert ready, seen
        seen += os.read(fd, 4096)
    return seen


def test_on_a_terminal_every_key_goes_to_the_guest_and_the_escape_key_leaves() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen([*COMMAND, "run", guest("kv")], stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        os.write(ours, b"PI")
        while termios.tcgetattr(theirs)[3] & termios.ICANON:
            assert process.poll() is None
            select.select([], [], [], 0.01)
        os.write(ours, b"NG\r\nECHO \x03\r\n")
        assert b"+PONG" in read_until(ours, b"\x03\r")
        os.write(ours, b"\x1d")
        assert process.wait(timeout=TIMEOUT_S) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
