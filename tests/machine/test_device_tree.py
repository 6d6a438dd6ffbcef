"""The device tree: what QEMU's `virt` says of the same hardware, this board says too, word for word."""

import subprocess
from pathlib import Path

import fdt
import pytest
import xxhash

from ftvm.errors import ImageError
from ftvm.machine.board import BoardConfig, DiskConfig, NetConfig
from ftvm.machine.device_tree import APPEND_SIZE_MAX, EXTENSIONS, ISA, PLIC_SOURCES, POWEROFF, REBOOT, device_tree
from ftvm.machine.devices import finisher, plic
from tests.needs import need

FULL = BoardConfig(
    256,
    disks=tuple(DiskConfig(512, bytes(16)) for _ in range(4)),
    net=NetConfig(),
    console=True,
    entropy=True,
)
DIFFERENT = {
    "/cpus/cpu@0": {"riscv,isa", "riscv,isa-base", "riscv,isa-extensions", "mmu-type"},
    "/soc/plic@c000000": {"riscv,ndev"},
    "/chosen": {"rng-seed"},
}
"""Properties that differ from those of QEMU 7.2: it has more extensions and Sv48, and says 96 for 95 PLIC sources."""
ABSENT = ("/pmu", "/fw-cfg@", "/flash@", "/platform-bus@", "/soc/pci@", "/soc/virtio_mmio@10008000")
"""Nodes of QEMU's for devices that this board has not got."""


def nodes(tree: bytes) -> dict[str, dict[str, object]]:
    """path -> property -> value."""
    walk = fdt.parse_dtb(tree).walk()
    return {path: {one.name: list(getattr(one, "data", ())) for one in properties} for path, _, properties in walk}


def test_it_says_what_qemu_says(tmp_path: Path) -> None:
    qemu = need("qemu-system-riscv64", "qemu-system-misc")
    dump = tmp_path / "virt.dtb"
    command = [qemu, "-M", f"virt,dumpdtb={dump}", "-m", "256", "-display", "none"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    theirs, ours = nodes(dump.read_bytes()), nodes(device_tree(FULL))
    for path, properties in ours.items():
        skipped = DIFFERENT.get(path, set())
        for name, value in properties.items():
            if name not in skipped:
                assert theirs[path][name] == value, (path, name)
        assert theirs[path].keys() - properties.keys() <= skipped, path
    assert all(path.startswith(ABSENT) for path in theirs.keys() - ours.keys())


def test_only_the_slots_in_use_are_there() -> None:
    def slots(board: BoardConfig) -> list[str]:
        return sorted(path[-8:] for path in nodes(device_tree(board)) if "virtio" in path)

    assert slots(BoardConfig()) == []
    assert slots(BoardConfig(console=True, entropy=True)) == ["10001000", "10002000"]
    assert len(slots(FULL)) == 7


def test_chosen_carries_the_command_line_and_the_initrd() -> None:
    append = 'console=ttyS0 init="/bin/sh -c x"'
    tree = nodes(device_tree(BoardConfig(), append=append, initrd=(0x1_8800_0000, 0x1_8800_1234)))
    chosen = tree["/chosen"]
    assert chosen["bootargs"] == [append]
    assert (chosen["linux,initrd-start"], chosen["linux,initrd-end"]) == ([1, 0x8800_0000], [1, 0x8800_1234])
    assert "rng-seed" not in chosen
    assert "/reserved-memory" not in tree


def test_the_size_of_ram_may_need_both_cells() -> None:
    assert nodes(device_tree(BoardConfig(ram_mib=16 * 1024)))["/memory@80000000"]["reg"] == [0, 0x8000_0000, 4, 0]


def test_firmware_is_reserved() -> None:
    tree = nodes(device_tree(BoardConfig(), firmware=(0x8000_0000, 0x20_0000)))
    (firmware,) = (properties for path, properties in tree.items() if path.startswith("/reserved-memory/"))
    assert firmware == {"reg": [0, 0x8000_0000, 0, 0x20_0000], "no-map": []}


@pytest.mark.parametrize("append", ["x" * APPEND_SIZE_MAX, "naïve", "a\nb", "a\0b"])
def test_a_command_line_that_no_kernel_could_take_is_refused(append: str) -> None:
    with pytest.raises(ImageError, match="command line"):
        device_tree(BoardConfig(), append=append)


def test_its_numbers_are_those_of_the_devices() -> None:
    assert (POWEROFF, REBOOT, PLIC_SOURCES) == (finisher.PASS, finisher.RESET, plic.SOURCES - 1)
    assert ISA == "rv64imafdc_zicntr_zicond_zicsr_zifencei_zba_zbb_zbs_sstc"
    assert set(EXTENSIONS) == {*"imafdc", *ISA.split("_")[1:]}


def test_the_bytes_are_the_same_everywhere() -> None:
    """They are guest-visible state. If this fails, the change is one for LOG_VERSION."""
    tree = device_tree(FULL, append="console=ttyS0", initrd=(0x8800_0000, 0x8900_0000))
    assert xxhash.xxh3_64_hexdigest(tree) == "8c694a12104fe351"
