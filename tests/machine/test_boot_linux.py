"""Real firmware and a real kernel: Debian's, as they are."""

import hashlib
from pathlib import Path

import pytest

from ftvm.machine.board import RAM_BASE, BoardConfig, NetConfig
from ftvm.machine.boot import LINUX_OFFSET, BootBundle
from ftvm.machine.machine import Halt, Machine, StopReason
from ftvm.machine.sbi import SPECIFICATION
from tests.guests.debian import IN_MEMORY, READY, DebianGuest
from tests.machine.assembler import Assembler
from tests.machine.disks import BytesDisk
from tests.machine.guest import A0
from tests.machine.terminal import PROMPT, Terminal
from tests.needs import lack

BOARD = BoardConfig(ram_mib=256)
DISK = BytesDisk(b"".join(number.to_bytes(8, "little") for number in range(1 << 16)))
FULL = BoardConfig(256, disks=(DISK.config,), net=NetConfig(), console=True, entropy=True)
OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
SHELL_TICKS_MAX = 6_000_000_000
HALT_TICKS_MAX = 1_000_000_000
A6, A7 = 16, 17


def opensbi(name: str) -> bytes:
    path = OPENSBI / name
    return path.read_bytes() if path.exists() else lack(f"{path} is missing: apt-get install opensbi")


def bundle(guest: DebianGuest, *, bios: bytes | None = None, append: str = IN_MEMORY) -> bytes:
    return BootBundle(bios, guest.kernel.read_bytes(), guest.initrd.read_bytes(), append).encode()


def at_shell(machine: Machine) -> Terminal:
    terminal = Terminal(machine)
    terminal.until(READY, SHELL_TICKS_MAX)
    terminal.until(PROMPT, HALT_TICKS_MAX)
    return terminal


@pytest.fixture(scope="module")
def shell(debian_guest: DebianGuest) -> bytes:
    """A snapshot of the guest at its prompt, under the built-in firmware and with every device there is."""
    return at_shell(Machine(FULL, bundle(debian_guest), (DISK,))).machine.save()


def restore(snapshot: bytes) -> Terminal:
    return Terminal(Machine.restore(snapshot, (DISK,)))


def test_the_built_in_firmware_boots_linux_to_a_shell(shell: bytes) -> None:
    terminal = restore(shell)
    assert terminal.say("uname -m") == "riscv64\n"
    assert "mmu\t\t: sv39" in terminal.say("cat /proc/cpuinfo")
    assert terminal.say("cat /proc/cmdline") == f"{IN_MEMORY}\n"
    kernel = terminal.say("dmesg")
    assert f"SBI specification v{SPECIFICATION >> 24}.0 detected" in kernel
    assert "SBI SRST extension detected" in kernel
    assert not [line for line in kernel.splitlines() if "Oops" in line or "BUG" in line or "WARNING" in line]


def test_linux_finds_every_device_of_the_tree(shell: bytes) -> None:
    terminal = restore(shell)
    assert terminal.say("md5sum /dev/vda").split()[0] == hashlib.md5(DISK.image).hexdigest()
    assert "link/ether 52:54:00:12:34:56" in terminal.say("ip link show eth0")
    assert terminal.say("head -c 16 /dev/hwrng | wc -c") == "16\n"
    assert terminal.say("ls /dev/hvc0") == "/dev/hvc0\n"
    assert "goldfish" in terminal.say("cat /sys/class/rtc/rtc0/name")


def test_sleep_takes_as_long_as_the_timer_says(shell: bytes) -> None:
    terminal = restore(shell)
    before = terminal.machine.mtime
    terminal.say("sleep 3")
    assert 3 <= (terminal.machine.mtime - before) / 10_000_000 < 3.5


def test_power_off_ends_well(shell: bytes) -> None:
    terminal = restore(shell)
    terminal.type("poweroff -f\n")
    assert terminal.run(terminal.machine.tick + HALT_TICKS_MAX) is StopReason.HALTED
    assert terminal.machine.halt is not None
    assert terminal.machine.halt.ok


def test_a_reboot_starts_the_same_kernel_again(shell: bytes) -> None:
    terminal = restore(shell)
    terminal.type("reboot -f\n")
    terminal.until(READY, SHELL_TICKS_MAX)
    assert terminal.machine.halt is None


def test_opensbi_starts_a_kernel_in_s_mode() -> None:
    """The smallest kernel there is: it prints a letter, and switches off."""
    asm = Assembler(RAM_BASE + LINUX_OFFSET)
    for extension, function, argument in ((1, 0, ord("K")), (0x53525354, 0, 0)):
        asm.li(A7, extension)
        asm.li(A6, function)
        asm.li(A0, argument)
        asm.li(A0 + 1, 0)
        asm("ecall")
    for name in ("fw_dynamic.bin", "fw_dynamic.elf"):
        terminal = Terminal(Machine(BOARD, BootBundle(opensbi(name), asm.assemble()).encode()))
        assert terminal.run(100_000_000) is StopReason.HALTED
        printed = terminal.printed.decode()
        assert "Platform Name             : riscv-virtio,qemu" in printed
        assert "Domain0 Next Mode         : S-mode" in printed
        assert printed.endswith("K")
        assert terminal.machine.halt == Halt(True, 0, "finisher")


def test_opensbi_boots_linux_to_a_shell(debian_guest: DebianGuest) -> None:
    terminal = at_shell(Machine(BOARD, bundle(debian_guest, bios=opensbi("fw_dynamic.bin"))))
    assert "SBI implementation ID=0x1 " in terminal.say("dmesg")
    assert terminal.say("ls /proc/device-tree/reserved-memory | grep -c @") == "1\n"


@pytest.mark.parametrize("bios", [None, "fw_dynamic.bin"])
def test_neither_slices_nor_caches_show_while_linux_boots(debian_guest: DebianGuest, bios: str | None) -> None:
    def digest(slice_ticks: int, flush: bool) -> bytes:
        image = bundle(debian_guest, bios=bios and opensbi(bios), append="console=ttyS0 earlycon")
        machine = Machine(BOARD, image)
        terminal = Terminal(machine)
        while machine.tick < 300_000_000:
            terminal.run(min(machine.tick + slice_ticks, 300_000_000))
            if flush:
                machine.flush_caches()
        return machine.digest()

    assert digest(300_000_000, False) == digest(77_777, False) == digest(1_234_567, True)


def test_a_kernel_goes_on_from_a_snapshot_as_if_nothing_had_been(debian_guest: DebianGuest) -> None:
    machine = Machine(BOARD, bundle(debian_guest))
    Terminal(machine).run(200_000_000)
    restored = Machine.restore(machine.save())
    for one in (machine, restored):
        one.run_until(250_000_000)
        one.take_outputs()
    assert machine.tick == restored.tick
    assert machine.digest() == restored.digest()
