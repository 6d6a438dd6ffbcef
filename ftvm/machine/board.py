"""The board: QEMU's riscv64 `virt` memory map, single hart, and its configuration.

    0x0000_1000  +----------------------+  reset ROM (one page, read-only): the hart starts here
                 |                      |
    0x0010_0000  +----------------------+  test finisher (SiFive test device)
    0x0010_1000  +----------------------+  goldfish real-time clock, PLIC source 11
                 |                      |
    0x0200_0000  +----------------------+  CLINT: msip, mtimecmp, mtime
                 |                      |
    0x0C00_0000  +----------------------+  PLIC: context 0 = hart 0 M mode, context 1 = hart 0 S mode
                 |                      |
    0x1000_0000  +----------------------+  ns16550a UART, PLIC source 10
    0x1000_1000  +----------------------+  eight virtio-mmio slots, a page each, PLIC sources 1 to 8:
                 |                      |  disks, then network, console and entropy, as configured
    0x8000_0000  +----------------------+  DRAM, `ram_mib` MiB
                 |  image, stack, heap  |
                 +----------------------+

Everything else faults. (QEMU hw/riscv/virt.c.)
"""

import re
from dataclasses import dataclass

from ftvm.errors import ConfigError

ROM_BASE = 0x1000
ROM_SIZE = 0x1000
FINISHER_BASE = 0x10_0000
FINISHER_SIZE = 0x1000
RTC_BASE = 0x10_1000
RTC_SIZE = 0x1000
CLINT_BASE = 0x200_0000
CLINT_SIZE = 0x1_0000
PLIC_BASE = 0xC00_0000
PLIC_SIZE = 0x60_0000
UART_BASE = 0x1000_0000
UART_SIZE = 0x100
VIRTIO_BASE = 0x1000_1000
VIRTIO_STRIDE = 0x1000
VIRTIO_SLOTS = 8
RAM_BASE = 0x8000_0000

VIRTIO_IRQ = 1
"""Of slot 0; the next slot has the next one."""
UART_IRQ = 10
RTC_IRQ = 11
TIMEBASE_HZ = 10_000_000
"""What mtime counts in."""

FW_DYNAMIC_MAGIC = 0x4942534F
FW_DYNAMIC_VERSION = 2
FW_DYNAMIC_S_MODE = 1
"""OpenSBI's struct fw_dynamic_info: magic, version, next address, next mode, options, boot hart; 64 bits each."""

RAM_MIB_MAX = 16 * 1024
SECTOR = 512
DISKS_MAX = 4
DISK_SIZE_MAX = 16 << 30
MTU_MIN, MTU_MAX = 576, 65521
MAC_PATTERN = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""Of a single station, in lower case."""


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A virtio disk: `size` in bytes, and the xxh3-128 of the image that lies under its overlay."""

    size: int
    image_hash: bytes
    read_only: bool = False

    def __post_init__(self) -> None:
        if not SECTOR <= self.size <= DISK_SIZE_MAX or self.size % SECTOR:
            raise ConfigError(
                f"a disk has {self.size} bytes: give an image of whole sectors of {SECTOR} bytes,"
                f" at most {DISK_SIZE_MAX >> 30} GiB"
            )


@dataclass(frozen=True, slots=True)
class NetConfig:
    """A virtio network card."""

    mac: str = "52:54:00:12:34:56"
    mtu: int = 1500

    def __post_init__(self) -> None:
        if not MAC_PATTERN.fullmatch(self.mac):
            raise ConfigError(f"{self.mac!r:.40} is not the address of a network card: write it as 52:54:00:12:34:56")
        if not MTU_MIN <= self.mtu <= MTU_MAX:
            raise ConfigError(f"the network card's mtu is {self.mtu}: give a number from {MTU_MIN} to {MTU_MAX}")


@dataclass(frozen=True, slots=True)
class BoardConfig:
    """What the guest can see of its board; the two sides of a pair must agree on it."""

    ram_mib: int = 128
    disks: tuple[DiskConfig, ...] = ()
    net: NetConfig | None = None
    console: bool = False
    """A virtio console beside the UART."""
    entropy: bool = False

    def __post_init__(self) -> None:
        if len(self.disks) > DISKS_MAX:
            raise ConfigError(f"the machine has {len(self.disks)} disks, at most {DISKS_MAX} are possible")
        if not 1 <= self.ram_mib <= RAM_MIB_MAX:
            raise ConfigError(f"the machine's ram_mib is {self.ram_mib}: give a number from 1 to {RAM_MIB_MAX}")

    @property
    def virtio_slots(self) -> int:
        """How many are in use, from the first on."""
        return len(self.disks) + (self.net is not None) + self.console + self.entropy


def reset_rom(entry: int, device_tree: int = 0, next_entry: int = 0) -> bytes:
    """The ROM page, in QEMU's words: jump to `entry` with a0 = mhartid, a1 = address of the device tree (0: none) and
    a2 = address of OpenSBI's fw_dynamic_info, which sends a firmware on to `next_entry` in S mode."""
    code = (
        0x00000297,  # auipc  t0, 0
        0x02828613,  # addi   a2, t0, 40
        0xF1402573,  # csrr   a0, mhartid
        0x0202B583,  # ld     a1, 32(t0)
        0x0182B283,  # ld     t0, 24(t0)
        0x00028067,  # jr     t0
    )
    words = b"".join(word.to_bytes(4, "little") for word in code)
    info = (FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next_entry, FW_DYNAMIC_S_MODE, 0, 0)
    data = b"".join(word.to_bytes(8, "little") for word in (entry, device_tree, *info))
    return (words + data).ljust(ROM_SIZE, b"\0")
