import os
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm.demo.system import free_ports
from ftvm.errors import ExitCode
from ftvm.image import tools
from ftvm.image.debian import FILES
from tests.cli.command import COMMAND, ftvm, one_line
from tests.guests.boards import Wire
from tests.guests.debian import (
    BOOT_TIMEOUT_S,
    IN_MEMORY,
    ON_DISK,
    REDIS_PORT,
    DebianGuest,
    at_prompt,
    in_qemu,
    say,
)


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def test_a_made_guest_is_copied_and_never_replaces_another(debian_guest: DebianGuest, tmp_path: Path) -> None:
    """The fixture has filled the cache, so this is a second call."""
    output = tmp_path / "guest"
    done = ftvm("image", "debian", "-o", output, "--with", "redis-server")
    assert done.returncode == 0, done.stderr
    assert b"ftvm: " not in done.stderr, "no step of making one was made"
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES)
    for name, original in zip(FILES, (debian_guest.kernel, debian_guest.initrd, debian_guest.disk), strict=True):
        assert (output / name).read_bytes() == original.read_bytes()
    assert f"--disk {output}/disk.img".encode() in done.stdout

    (output / "disk.img").write_bytes(b"written by a guest")
    refused = ftvm("image", "debian", "-o", output, "--with", "redis-server")
    assert refused.returncode == ExitCode.USAGE
    assert "--force" in one_line(refused)
    assert (output / "disk.img").read_bytes() == b"written by a guest"
    assert ftvm("image", "debian", "-o", output, "--with", "redis-server", "--force").returncode == 0
    assert (output / "disk.img").read_bytes() == debian_guest.disk.read_bytes()


def test_the_guest_boots_to_a_shell_serves_redis_and_leaves_its_disk_clean(
    debian_guest: DebianGuest, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    shutil.copyfile(debian_guest.disk, disk)
    port = free_port()
    net = (
        "-netdev",
        f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{REDIS_PORT}",
        "-device",
        "virtio-net-device,netdev=net",
    )
    with in_qemu(replace(debian_guest, disk=disk), ON_DISK, net, keeps=True) as console:
        at_prompt(console)
        assert say(console, "tty; hostname; whoami") == "/dev/ttyS0\nftvm\nroot"
        assert say(console, "ps -o comm | grep -c '^bash$'") == "1"
        assert "inet addr:10.0.2.15" in say(console, "ifconfig eth0")
        assert say(console, "cat /etc/resolv.conf") == "nameserver 10.0.2.3"
        assert "Running" in say(console, "sleep 1000 & jobs")
        assert say(console, "touch /root/kept; mount | grep -c '/dev/vda on / type ext4 (rw'") == "1"
        with redis(port) as client:
            assert client.ask(b"PING\r\n", b"SET a 1\r\n", b"GET a\r\n") == [b"+PONG\r\n", b"+OK\r\n", b"$1\r\n1\r\n"]
        assert say(console, "ps -o user,comm | grep redis-server").split() == ["redis", "redis-server"]
        console.send(b"poweroff\n")
        console.until(b"Power down")
    checked = subprocess.run(
        ["e2fsck", "-n", disk], capture_output=True, text=True, check=True, env=tools.environment()
    )
    assert "clean" in checked.stdout
    kept = ["debugfs", "-R", "stat /root/kept", str(disk)]
    assert (
        "Type: regular"
        in subprocess.run(kept, capture_output=True, text=True, check=True, env=tools.environment()).stdout
    )


def redis(port: int) -> "Session":
    """A connection to the guest's redis, which starts beside the shell."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while True:
        session = Session(socket.create_connection(("127.0.0.1", port), BOOT_TIMEOUT_S))
        try:
            if session.wire.ask(b"PING\r\n") == [b"+PONG\r\n"]:
                return session
        except (AssertionError, ConnectionError):
            assert time.monotonic() < deadline
        session.close()


class Session:
    def __init__(self, stream: socket.socket) -> None:
        self.wire = Wire(stream)

    def __enter__(self) -> Wire:
        return self.wire

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.wire.stream.close()


def test_the_initramfs_alone_is_a_system_with_a_shell(debian_guest: DebianGuest) -> None:
    with in_qemu(debian_guest, f"{IN_MEMORY} ip=192.0.2.7::192.0.2.1:255.255.255.0:box:lo:off:192.0.2.53") as console:
        at_prompt(console)
        assert say(console, "hostname; cat /etc/resolv.conf") == "box\nnameserver 192.0.2.53"
        assert say(console, "ls /dev/vda /dev/hwrng").split() == ["/dev/hwrng", "/dev/vda"]
        console.send(b"poweroff -f\n")
        console.until(b"Power down")


def test_a_disk_that_is_not_there_leaves_a_shell_that_says_so(debian_guest: DebianGuest) -> None:
    with in_qemu(debian_guest, "console=ttyS0 root=/dev/vdz quiet") as console:
        assert b"cannot mount root=/dev/vdz" in console.until(b"SHELL-READY")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "much"], "'much' is no size"),
        (["--size", "0M"], "'0M' is no size"),
        (["--size", "1000000G"], "16G at most"),
        (["--size", "16M"], "too small"),
        (["--with", "Re dis"], "'Re dis' is no name of a package"),
        (["--with", "redis-server-"], "is no name of a package"),
        (["--with", "../x"], "is no name of a package"),
        (["--suite", "tr ixie"], "'tr ixie' is no name of a suite"),
        (["--mirror", "debian"], "'debian' is no mirror"),
        (["--with", "no-package-of-this-name"], "Unable to locate package no-package-of-this-name"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    debian_guest: DebianGuest, tmp_path: Path, arguments: list[str], told: str
) -> None:
    done = ftvm("image", "debian", "-o", tmp_path / "out", *arguments)
    assert done.returncode == ExitCode.USAGE
    lines = done.stderr.decode().splitlines()
    assert told in lines[-1]
    assert lines[-1].startswith("ftvm: ")
    assert b"Traceback" not in done.stderr


def test_a_place_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ftvm("image", "debian", "-o", tmp_path / "file" / "guest")
    assert done.returncode == ExitCode.USAGE
    assert str(tmp_path / "file") in one_line(done)


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="apt-get install apt dpkg e2fsprogs"):
        tools.check()


def test_a_cache_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "image", "debian", "-o", str(tmp_path / "out")],
        env={**os.environ, "FTVM_CACHE_DIR": "/dev/null/cache"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert "FTVM_CACHE_DIR" in one_line(done)
