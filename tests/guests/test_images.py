"""The images in the tree are what their sources say, and QEMU agrees on what they do."""

import re
import subprocess
from pathlib import Path

import pytest

from ftvm import guests
from ftvm.errors import ImageError
from ftvm.guests import build
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Halt, Machine, StopReason
from tests.guests.boards import MachineWire, qemu_command, qemu_guest

TICKS_MAX = 1_000_000_000
IMAGE_SIZE_MAX = 64 * 1024
HTIF = {"htif-pass": 0, "htif-fail": 7}
ENDLESS = {
    "flood": b"flood 0\nflood 1\nflood 2\n",
    "storm": b"storm\n",
    "trapstorm": b"trap storm\n",
    "wfi-off": b"asleep for ever\n",
}
CHECKSUMS = {
    "bytecode": "000000b500020b64",
    "crc32": "00000000da7c8b54",
    "matmul": "0cdf475f05657102",
    "qsort": "badc2e93edca30c6",
    "sha256": "690e355f4ef6a6a0",
    "sieve": "0132a208be2da9e7",
    "traploop": "00000000000f4240",
}


def run(image: Path, machine: str = "virt") -> subprocess.CompletedProcess[bytes]:
    command = [*qemu_command(image, machine), "-serial", "stdio"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)


def run_machine(image: bytes, ticks: int = TICKS_MAX) -> tuple[Halt, bytes]:
    """The whole run on our own machine, which must come to its end within `ticks`."""
    machine = Machine(BoardConfig(), image)
    said = b""
    while machine.halt is None:
        stop = machine.run_until(ticks)
        said += b"".join(output.data for output in machine.take_outputs())
        assert stop.reason in (StopReason.OUTPUT, StopReason.HALTED)
    return machine.halt, said


def test_every_guest_has_an_image() -> None:
    assert guests.names() == sorted(build.GUESTS)


@pytest.mark.parametrize("name", sorted(build.GUESTS))
def test_image_rebuilds_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert build.build(name, tmp_path).read_bytes() == guests.path(name).read_bytes()
    assert guests.path(name).stat().st_size < IMAGE_SIZE_MAX


@pytest.mark.parametrize("name", build.COMPUTE)
def test_compute_guest_ends_with_its_checksum(name: str) -> None:
    """The same line on QEMU and on our own machine."""
    done = run(guests.path(name))
    assert done.returncode == 0
    assert re.fullmatch(rf"{name}: rounds [1-9]\d* checksum {CHECKSUMS[name]}\n", done.stdout.decode())
    halt, said = run_machine(guests.path(name).read_bytes())
    assert (halt.ok, said) == (True, done.stdout)


@pytest.mark.parametrize("name", build.COMPUTE)
def test_rounds_can_be_patched_in(name: str, tmp_path: Path) -> None:
    image = tmp_path / "patched.elf"
    image.write_bytes(guests.with_rounds(guests.path(name).read_bytes(), 2))
    assert run(image).stdout.decode() == f"{name}: rounds 2 checksum {CHECKSUMS[name]}\n"


def test_zero_rounds_run_for_ever(tmp_path: Path) -> None:
    image = tmp_path / "patched.elf"
    image.write_bytes(guests.with_rounds(guests.path("qsort").read_bytes(), 0))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([*qemu_command(image), "-serial", "stdio"], stdin=subprocess.DEVNULL, timeout=2, check=False)


def test_patching_names_what_is_wrong() -> None:
    image = guests.path("hello").read_bytes()
    with pytest.raises(ImageError, match="rounds"):
        guests.with_rounds(image, 1)
    with pytest.raises(ImageError, match="not an ELF"):
        guests.with_rounds(b"junk", 1)
    with pytest.raises(ImageError, match="64 bits"):
        guests.with_rounds(guests.path("sieve").read_bytes(), -1)
    with pytest.raises(ImageError, match="no guest named 'nobody'"):
        guests.path("nobody")


def test_hello_prints_and_passes() -> None:
    done = run(guests.path("hello"))
    assert (done.returncode, done.stdout) == (0, b"hello from the guest\n")
    assert run_machine(guests.path("hello").read_bytes()) == (Halt(True, 0, "finisher"), done.stdout)


def test_finisher_carries_the_failure_code() -> None:
    assert run(guests.path("finisher-fail")).returncode == 42
    assert run_machine(guests.path("finisher-fail").read_bytes()) == (Halt(False, 42, "finisher"), b"")


@pytest.mark.parametrize("name", HTIF)
def test_htif_exit_code(name: str) -> None:
    """QEMU has HTIF on its `spike` board only."""
    assert run(guests.path(name), "spike").returncode == HTIF[name]
    halt, _ = run_machine(guests.path(name).read_bytes())
    assert (halt.code, halt.how) == (HTIF[name], "htif")


@pytest.mark.parametrize("name", ENDLESS)
def test_nasty_guest_begins_as_it_should(name: str) -> None:
    with qemu_guest(guests.path(name)) as wire:
        assert wire.take(len(ENDLESS[name])) == ENDLESS[name]
    machine = MachineWire(guests.path(name).read_bytes())
    assert machine.take(len(ENDLESS[name])) == ENDLESS[name]


def test_a_trap_storm_moves_ticks_on() -> None:
    wire = MachineWire(guests.path("trapstorm").read_bytes())
    wire.until(b"\n")
    stop = wire.machine.run_until(wire.machine.tick + 1_000_003)
    assert stop.reason is StopReason.LIMIT
    assert wire.machine.statistics().traps > 900_000


def test_wfi_without_interrupts_is_idle_for_ever() -> None:
    wire = MachineWire(guests.path("wfi-off").read_bytes())
    wire.until(b"\n")
    wire.machine.run_until(wire.machine.tick + 1000)
    assert wire.machine.run_until(wire.machine.tick + 1000).reason is StopReason.IDLE
    assert wire.machine.deadline() is None


def test_echo_returns_every_byte() -> None:
    data = bytes(range(256)) * 4
    with qemu_guest(guests.path("echo")) as wire:
        wire.send(data)
        assert wire.take(len(data)) == data
    machine = MachineWire(guests.path("echo").read_bytes())
    machine.send(data)
    assert machine.take(len(data)) == data


def test_echo_answers_a_break() -> None:
    machine = MachineWire(guests.path("echo").read_bytes())
    machine.send(b"old")
    machine.send_break()
    machine.send(b"new")
    assert machine.until(b"new").endswith(b"new")
    assert machine.breaks == 1


def test_scribble_fills_memory_with_noise_and_tells_what_it_wrote() -> None:
    machine = MachineWire(guests.path("scribble").read_bytes())
    machine.send(b"f 2\n?\n")
    assert machine.until(b"filled\n") == b"filled\n"
    assert machine.until(b"\n").startswith(b"wrote 0 gap ")
    pages = machine.machine._memory.bytes.reshape(-1, 4096)
    assert 2 * 256 <= int(pages.any(axis=1).sum()) < 2 * 256 + 16
