"""`ftvm run` with Debian's kernel, as a user starts it: on a terminal, to a shell, and off again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.command import ftvm, one_line
from tests.cli.terminals import OnTerminal, on_terminal
from tests.guests.debian import BOOT_TIMEOUT_S, IN_MEMORY, ON_DISK, READY, DebianGuest

PROMPT = b"# "


def booted(terminal: OnTerminal) -> None:
    terminal.until(READY, BOOT_TIMEOUT_S)
    terminal.until(PROMPT)


def asked(terminal: OnTerminal, command: str) -> str:
    """What the shell says to a command. The marks differ from the typed line, which is echoed."""
    terminal.type(f"echo '<'; {command}; echo '>'\r")
    terminal.until(b"\n<\r\r\n")
    said = terminal.until(b">\r\r\n").removesuffix(b">\r\r\n")
    terminal.until(PROMPT)
    return said.decode(errors="replace").replace("\r", "").rstrip("\n")


def test_linux_boots_to_a_shell_on_a_terminal_and_powers_off_with_0(debian_guest: DebianGuest) -> None:
    files = ["--kernel", str(debian_guest.kernel), "--initrd", str(debian_guest.initrd)]
    with on_terminal("run", *files, "--ram", "256M", "--append", IN_MEMORY) as terminal:
        booted(terminal)
        assert asked(terminal, "uname -sm") == "Linux riscv64"
        long = "x" * 300
        assert asked(terminal, f"echo {long}") == long
        terminal.type("poweroff -f\r")
        assert terminal.process.wait(BOOT_TIMEOUT_S) == 0
        assert terminal.is_as_before()


def test_linux_on_the_virtio_console_knows_the_terminals_size(debian_guest: DebianGuest) -> None:
    files = ["--kernel", str(debian_guest.kernel), "--initrd", str(debian_guest.initrd)]
    with on_terminal("run", *files, "--ram", "256M", "--console", "virtio", columns=132, rows=43) as terminal:
        booted(terminal)
        assert asked(terminal, "stty size") == "43 132"
        terminal.resize(100, 30)
        assert asked(terminal, "sleep 1; stty size") == "30 100"
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(BOOT_TIMEOUT_S) == 128 + signal.SIGTERM
        assert terminal.is_as_before()


def test_what_linux_wrote_to_its_disk_is_there_after_a_power_cut(debian_guest: DebianGuest, tmp_path: Path) -> None:
    disk = tmp_path / "root.img"
    disk.symlink_to(debian_guest.disk)
    files = ["--kernel", str(debian_guest.kernel), "--initrd", str(debian_guest.initrd), "--disk", str(disk)]
    arguments = ["run", *files, "--ram", "256M", "--append", ON_DISK]
    with on_terminal(*arguments) as terminal:
        booted(terminal)
        asked(terminal, "echo kept > /root/note; sync")
        terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait(BOOT_TIMEOUT_S)
    with on_terminal(*arguments) as terminal:
        booted(terminal)
        assert asked(terminal, "cat /root/note") == "kept"
        assert asked(terminal, "head -c 16 /dev/hwrng | wc -c") == "16"
        terminal.type("poweroff -f\r")
        assert terminal.process.wait(BOOT_TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--kernel {disk} --ram 64", "kernel"),
        ("--kernel {kernel} --initrd {initrd} --ram 40", "give the machine"),
        ("--kernel {kernel} --initrd absent", "absent: No such file"),
        ("--bios {disk} --ram 64", "RAM"),
    ],
)
def test_what_cannot_boot_is_one_line(debian_guest: DebianGuest, flags: str, told: str) -> None:
    names = {"kernel": debian_guest.kernel, "initrd": debian_guest.initrd, "disk": debian_guest.disk}
    done = ftvm("run", *flags.format(**names).split())
    assert done.returncode == 2
    assert told in one_line(done)
