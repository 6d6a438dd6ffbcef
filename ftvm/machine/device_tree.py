"""The device tree that tells firmware and kernel what is on the board (Devicetree Specification 0.4; bindings: Linux).

Nodes, names and values are those of QEMU's riscv64 `virt`, without what this board lacks and with the virtio slots that
are in use. There is no `rng-seed`: all machines of an image would share it, a guest gets its entropy from the device.

The bytes lie in RAM, so they are guest-visible state: what changes them is a matter for LOG_VERSION, a release of the
library that encodes otherwise too; hence its exact version in the dependencies.
"""

from fdt import FDT, Node, PropBytes, Property, PropStrings, PropWords

from ftvm.errors import ImageError
from ftvm.machine import board as b

EXTENSIONS = ("i", "m", "a", "f", "d", "c", "zicntr", "zicond", "zicsr", "zifencei", "zba", "zbb", "zbs", "sstc")
ISA = "rv64" + "".join(EXTENSIONS[:6]) + "_" + "_".join(EXTENSIONS[6:])
UART_CLOCK_HZ = 3_686_400
PLIC_SOURCES = 95
POWEROFF, REBOOT = 0x5555, 0x7777
"""What the test finisher takes for them."""
APPEND_SIZE_MAX = 1024
"""Linux's COMMAND_LINE_SIZE on RISC-V, with the zero at the end."""

CPU, CPU_INTC, PLIC, TEST = range(1, 5)
"""Phandles."""
SOFTWARE_M, TIMER_M, EXTERNAL_S, EXTERNAL_M = 3, 7, 9, 11
"""Interrupts of the hart, by their bit in mip."""

Properties = dict[str, int | str | tuple[int, ...] | tuple[str, ...] | None]


def device_tree(
    board: b.BoardConfig,
    *,
    append: str = "",
    initrd: tuple[int, int] | None = None,
    firmware: tuple[int, int] | None = None,
) -> bytes:
    """The flattened tree. `initrd`: its first address and the one after its end; `firmware`: address and size of the
    RAM that is its own, which a kernel must leave alone. ImageError for an `append` that no kernel could take."""
    tree = FDT()
    board_is: Properties = {"compatible": "riscv-virtio", "model": "riscv-virtio,qemu"}
    _fill(tree.root, {"#address-cells": 2, "#size-cells": 2, **board_is})
    tree.root.append(_chosen(append, initrd))
    if firmware is not None:
        tree.root.append(_reserved(*firmware))
    memory: Properties = {"device_type": "memory", "reg": _reg(b.RAM_BASE, board.ram_mib << 20)}
    tree.root.append(_node(f"memory@{b.RAM_BASE:x}", memory))
    tree.root.append(_cpus())
    for name, value in (("poweroff", POWEROFF), ("reboot", REBOOT)):
        command: Properties = {"value": value, "offset": 0, "regmap": TEST, "compatible": f"syscon-{name}"}
        tree.root.append(_node(name, command))
    tree.root.append(_soc(board))
    encoded: bytes = tree.to_dtb(version=17, last_comp_version=16, boot_cpuid_phys=0)
    return encoded


def _node(name: str, properties: Properties, *children: Node) -> Node:
    node = Node(name)
    _fill(node, properties)
    for child in children:
        node.append(child)
    return node


def _fill(node: Node, properties: Properties) -> None:
    for name, value in properties.items():
        match value:
            case None:
                node.append(Property(name))
            case str():
                node.append(PropStrings(name, value))
            case int():
                node.append(PropWords(name, value))
            case (str(), *_):
                node.append(PropStrings(name, *value))
            case _:
                node.append(PropWords(name, *value))


def _cell_pair(number: int) -> tuple[int, int]:
    return number >> 32, number & 0xFFFF_FFFF


def _reg(address: int, size: int) -> tuple[int, ...]:
    return *_cell_pair(address), *_cell_pair(size)


def _chosen(append: str, initrd: tuple[int, int] | None) -> Node:
    node = _node("chosen", {"stdout-path": f"/soc/serial@{b.UART_BASE:x}"})
    if append:
        if not append.isascii() or not append.isprintable() or len(append) >= APPEND_SIZE_MAX:
            raise ImageError(
                f"the kernel's command line {append!r:.60} cannot be passed on: "
                f"give fewer than {APPEND_SIZE_MAX} printable ASCII characters"
            )
        node.append(PropBytes("bootargs", data=append.encode() + b"\0"))
    if initrd is not None:
        first, end = initrd
        _fill(node, {"linux,initrd-start": _cell_pair(first), "linux,initrd-end": _cell_pair(end)})
    return node


def _reserved(address: int, size: int) -> Node:
    # OpenSBI's own name for it: where the node is there, it does not add a second one for the same RAM.
    firmware = _node(f"mmode_resv0@{address:x}", {"reg": _reg(address, size), "no-map": None})
    return _node("reserved-memory", {"#address-cells": 2, "#size-cells": 2, "ranges": None}, firmware)


def _cpus() -> Node:
    controller: Properties = {
        "#interrupt-cells": 1,
        "interrupt-controller": None,
        "compatible": "riscv,cpu-intc",
        "phandle": CPU_INTC,
    }
    cpu: Properties = {
        "phandle": CPU,
        "device_type": "cpu",
        "reg": 0,
        "status": "okay",
        "compatible": "riscv",
        "riscv,isa": ISA,
        "riscv,isa-base": "rv64i",
        "riscv,isa-extensions": EXTENSIONS,
        "mmu-type": "riscv,sv39",
    }
    return _node(
        "cpus",
        {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": b.TIMEBASE_HZ},
        _node("cpu@0", cpu, _node("interrupt-controller", controller)),
        _node("cpu-map", {}, _node("cluster0", {}, _node("core0", {"cpu": CPU}))),
    )


def _device(name: str, address: int, size: int, properties: Properties) -> Node:
    return _node(f"{name}@{address:x}", {**properties, "reg": _reg(address, size)})


def _interrupting(name: str, address: int, size: int, irq: int, properties: Properties) -> Node:
    return _device(name, address, size, {"interrupts": irq, "interrupt-parent": PLIC, **properties})


def _soc(board: b.BoardConfig) -> Node:
    uart: Properties = {"clock-frequency": UART_CLOCK_HZ, "compatible": "ns16550a"}
    test: Properties = {"phandle": TEST, "compatible": ("sifive,test1", "sifive,test0", "syscon")}
    plic: Properties = {
        "phandle": PLIC,
        "riscv,ndev": PLIC_SOURCES,
        "interrupts-extended": (CPU_INTC, EXTERNAL_M, CPU_INTC, EXTERNAL_S),
        "interrupt-controller": None,
        "compatible": ("sifive,plic-1.0.0", "riscv,plic0"),
        "#address-cells": 0,
        "#interrupt-cells": 1,
    }
    clint: Properties = {
        "interrupts-extended": (CPU_INTC, SOFTWARE_M, CPU_INTC, TIMER_M),
        "compatible": ("sifive,clint0", "riscv,clint0"),
    }
    slots = [
        _interrupting(
            "virtio_mmio",
            b.VIRTIO_BASE + slot * b.VIRTIO_STRIDE,
            b.VIRTIO_STRIDE,
            b.VIRTIO_IRQ + slot,
            {"compatible": "virtio,mmio"},
        )
        for slot in range(board.virtio_slots)
    ]
    return _node(
        "soc",
        {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": None},
        _interrupting("rtc", b.RTC_BASE, b.RTC_SIZE, b.RTC_IRQ, {"compatible": "google,goldfish-rtc"}),
        _interrupting("serial", b.UART_BASE, b.UART_SIZE, b.UART_IRQ, uart),
        _device("test", b.FINISHER_BASE, b.FINISHER_SIZE, test),
        *slots,
        _device("plic", b.PLIC_BASE, b.PLIC_SIZE, plic),
        _device("clint", b.CLINT_BASE, b.CLINT_SIZE, clint),
    )
