"""What the host or the user's files do not give a guest: one line, and the exit code of that mistake."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.config import DiskFile
from ftvm.demo.guests import BareGuest
from ftvm.demo.stage import prepare
from ftvm.errors import ExitCode
from ftvm.host.disk import open_disk
from ftvm.host.network import slirp_library
from ftvm.host.overlay import open_overlay
from tests.cli.command import COMMAND, TIMEOUT_S, ftvm, guest, one_line
from tests.host.network.test_slirp import needs_library
from tests.host.pair import LOOPBACK, RAM_MIB, image, run_command, the_one_line
from tests.needs import lack, need

WITHOUT_SLIRP = (
    "import sys, ftvm.host.network.slirp_library as library\n"
    "library.NAME = 'libabsent.so.0'\n"
    "sys.argv = ['ftvm', *sys.argv[1:]]\n"
    "from ftvm.cli.main import main; main()\n"
)


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener


def test_a_publish_port_in_use_ends_a_run_and_an_edge_with_a_line_that_names_it(
    taken: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_library()
    publish = f"{taken.getsockname()[1]}:80"
    done = ftvm("run", guest("net-echo"), "--net", "user", "--publish", publish)
    assert done.returncode == ExitCode.USAGE
    assert f"{LOOPBACK}:{publish}/tcp" in one_line(done)
    prepare(tmp_path, BareGuest(image("net-echo"), RAM_MIB, "plain", "net = true\n"))
    monkeypatch.setenv("FTVM_EDGE_PUBLISH", publish)
    returned, said = run_command(tmp_path, "edge", "machine.toml")
    assert returned == ExitCode.USAGE, said
    assert f"{LOOPBACK}:{publish}/tcp" in the_one_line(said)


def test_without_libslirp_a_run_and_an_edge_say_what_to_install(tmp_path: Path) -> None:
    prepare(tmp_path, BareGuest(image("net-echo"), RAM_MIB, "plain", "net = true\n"))
    for words in (("run", guest("net-echo"), "--net", "user"), ("edge", "machine.toml")):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_SLIRP, *words],
            cwd=tmp_path,
            env={**os.environ, "FTVM_EDGE_NET": "user"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert f"install it: apt-get install {slirp_library.PACKAGE}" in the_one_line(done.stderr)


def test_an_interface_without_the_right_to_make_it_is_one_line() -> None:
    prefix = []
    if os.geteuid() == 0:
        prefix = [need("unshare", "util-linux"), "--net", need("setpriv", "util-linux"), "--bounding-set=-net_admin"]
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        lack("/dev/net/tun is missing: modprobe tun")
    done = subprocess.run(
        [*prefix, *COMMAND, "run", guest("net-echo"), "--net", "tap:tap0,bridge=br0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "Operation not permitted; run as root" in one_line(done)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("arm64", bytes(56) + b"ARM\x64" + bytes(4096), "arm64"),
        ("x86", bytes(0x202) + b"HdrS" + bytes(4096), "x86"),
        ("elf", b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(60), "not RISC-V"),
        ("compressed", b"\x1f\x8b\x08" + bytes(4096), "compressed"),
        ("empty", b"", "empty"),
    ],
)
def test_a_kernel_for_another_machine_is_one_line_that_names_it(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    kernel = tmp_path / f"kernel-{name}"
    kernel.write_bytes(content)
    done = ftvm("run", "--kernel", kernel, "--ram", "64M")
    assert done.returncode == ExitCode.USAGE
    assert told in one_line(done)
    assert str(kernel) in one_line(done)


@pytest.mark.parametrize("part", ["kernel", "initrd"])
def test_what_does_not_fit_into_ram_is_one_line(tmp_path: Path, part: str) -> None:
    size = 80 << 20
    # Documentation/arch/riscv/boot-image-header.rst
    header = struct.pack("<8xQQ24x8s4s", 2 << 20, size if part == "kernel" else 4096, b"RISCV", b"RSC\x05")
    (tmp_path / "kernel").write_bytes(header.ljust(4096, b"\0"))
    (tmp_path / "initrd").write_bytes(b"x")
    with (tmp_path / part).open("ab") as file:
        file.truncate(size)
    done = ftvm("run", "--kernel", tmp_path / "kernel", "--initrd", tmp_path / "initrd", "--ram", "64M")
    assert done.returncode == ExitCode.USAGE
    assert "give the machine" in one_line(done)


def test_a_disk_that_another_machine_writes_keeps_a_node_from_starting(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    keys = '[[machine.disks]]\nimage = "disk.img"\n'
    config = prepare(tmp_path, BareGuest(image("devices"), RAM_MIB, "plain", keys))
    disk = open_disk(DiskFile(image=tmp_path / "disk.img"))
    folder = config.node("alpha").disks
    assert folder is not None
    folder.mkdir(parents=True)
    overlay = open_overlay(folder / "disk0.overlay", disk.config, config.machine.name)
    returned, said = run_command(tmp_path, "primary", "machine.toml", "--node", "alpha")
    overlay.close()
    disk.close()
    assert returned == ExitCode.UNAVAILABLE, said
    assert "in use by another machine" in the_one_line(said)


def test_a_disk_that_another_program_writes_is_not_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    locked = [need("flock", "util-linux"), str(disk), *COMMAND, "run", guest("devices"), "--disk", str(disk)]
    done = subprocess.run(locked, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "in use by another program" in one_line(done)
