"""The board: QEMU's riscv64 `virt` memory map, single hart, and its configuration.

    0x0000_1000  +----------------------+  reset ROM (one page, read-only): the hart starts here
                 |                      |
    0x0010_0000  +----------------------+  test finisher (SiFive test device)
                 |                      |
    0x0200_0000  +----------------------+  CLINT: msip, mtimecmp, mtime
                 |                      |
    0x0C00_0000  +----------------------+  PLIC: context 0 = hart 0 M mode, context 1 = hart 0 S mode
                 |                      |
    0x1000_0000  +----------------------+  ns16550a UART, PLIC source 10
                 |                      |
    0x8000_0000  +----------------------+  DRAM, `ram_mib` MiB
                 |  image, stack, heap  |
                 +----------------------+

Everything else faults. (QEMU hw/riscv/virt.c.)
"""

from dataclasses import dataclass

from ftvm.errors import ConfigError

ROM_BASE = 0x1000
ROM_SIZE = 0x1000
FINISHER_BASE = 0x10_0000
FINISHER_SIZE = 0x1000
CLINT_BASE = 0x200_0000
CLINT_SIZE = 0x1_0000
PLIC_BASE = 0xC00_0000
PLIC_SIZE = 0x60_0000
UART_BASE = 0x1000_0000
UART_SIZE = 0x100
RAM_BASE = 0x8000_0000

UART_IRQ = 10
TIMEBASE_HZ = 10_000_000
"""What mtime counts in."""

RAM_MIB_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class BoardConfig:
    """What the guest can see of its board; the two sides of a pair must agree on it."""

    ram_mib: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.ram_mib <= RAM_MIB_MAX:
            raise ConfigError(f"the machine's ram_mib is {self.ram_mib}: give a number from 1 to {RAM_MIB_MAX}")


def reset_rom(entry: int) -> bytes:
    """The ROM page: jump to `entry` with a0 = mhartid and a1 = 0 (no device tree), in QEMU's words."""
    code = (
        0x00000297,  # auipc  t0, 0
        0x02028613,  # addi   a2, t0, 32
        0xF1402573,  # csrr   a0, mhartid
        0x0202B583,  # ld     a1, 32(t0)
        0x0182B283,  # ld     t0, 24(t0)
        0x00028067,  # jr     t0
    )
    words = b"".join(word.to_bytes(4, "little") for word in code)
    rom = words + entry.to_bytes(8, "little") + bytes(8)
    return rom.ljust(ROM_SIZE, b"\0")
