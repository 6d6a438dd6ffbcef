"""What is where when the machine is switched on: an image laid out in the RAM of a board.

An image is an ELF64 RISC-V executable, a raw binary, or a boot bundle (`boot.py`). The first two are entered in M mode,
as QEMU does without firmware. A bundle's kernel is entered in S mode, by the built-in firmware or by the bundle's own:

    0x8000_0000  +---------------------------+
                 |  firmware, if any         |  entered in M mode with a2 = OpenSBI's fw_dynamic_info, in the reset ROM
    0x8020_0000  +---------------------------+
                 |  kernel                   |  a0 = hart 0, a1 = the device tree
                 +---------------------------+
                 |  initrd                   |  from the kernel + 128 MiB (half of a smaller RAM), if it fits there
                 +---------------------------+
                 |  device tree              |  on the last 2 MiB boundary that leaves room for it, in the first GiB
                 +---------------------------+

An image is hostile input: whatever is wrong with it ends in an `ImageError` that says what, where, what next.
"""

from dataclasses import dataclass, replace
from itertools import combinations

from ftvm.errors import ImageError
from ftvm.machine.board import RAM_BASE, RAM_MIB_MAX, BoardConfig
from ftvm.machine.boot import LINUX_OFFSET, BootBundle, is_bundle, linux_size, unpack_kernel
from ftvm.machine.device_tree import device_tree
from ftvm.machine.elf import Program, Segment, load_elf
from ftvm.machine.hart import state as s

MIB = 1 << 20
TREE_ALIGNMENT = 2 * MIB
TREE_DISTANCE = 2 * MIB
"""Between the end of an image for M mode and a device tree: a program with less RAM above it gets none."""
TREE_END_MAX = 1024 * MIB
INITRD_DISTANCE_MAX = 128 * MIB
PAGE = 4096

_PMP_NAPOT_RWX = 0x1F
_PMP_ALL = (1 << 54) - 1


@dataclass(frozen=True, slots=True)
class Image:
    """`entry` is where the reset ROM jumps to, or where the hart starts when `words` say so."""

    entry: int
    segments: tuple[Segment, ...]
    tohost: int = 0
    fromhost: int = 0
    device_tree: int = 0
    """Its address, 0 without one."""
    next_entry: int = 0
    """Where a firmware is to go on, in S mode; 0 without a kernel."""
    words: tuple[tuple[int, int], ...] = ()
    """Words of the state array that start as something else than a reset leaves them."""


def load_image(data: bytes, board: BoardConfig) -> Image:
    """What `data` puts where. ImageError when it cannot run on this board."""
    if not data:
        raise ImageError("the image is empty: give an ELF64 RISC-V executable or a raw binary")
    if is_bundle(data):
        return _load_bundle(BootBundle.decode(data), board)
    ram_bytes = board.ram_mib * MIB
    program = _load_program(data, ram_bytes, 0)
    image = Image(program.entry, program.segments, program.tohost, program.fromhost)
    tree = device_tree(board)
    at = _tree_offset(ram_bytes, len(tree))
    if at < program.end + TREE_DISTANCE:
        return image
    return replace(image, segments=(*image.segments, _segment(at, tree)), device_tree=RAM_BASE + at)


def _segment(offset: int, data: bytes) -> Segment:
    return Segment(offset, data, len(data))


def _load_program(data: bytes, ram_bytes: int, offset: int) -> Program:
    if data[:4] == b"\x7fELF":
        return load_elf(data, ram_bytes)
    if len(data) > ram_bytes - offset:
        raise ImageError(
            f"the raw image has {len(data)} bytes, RAM only {ram_bytes}: "
            "give the machine more memory (--ram or ram_mib)"
        )
    return Program(RAM_BASE + offset, (_segment(offset, data),))


def _tree_offset(ram_bytes: int, size: int) -> int:
    return (min(ram_bytes, TREE_END_MAX) - size) // TREE_ALIGNMENT * TREE_ALIGNMENT


def _load_bundle(bundle: BootBundle, board: BoardConfig) -> Image:
    ram_bytes = board.ram_mib * MIB
    parts: list[tuple[str, Program]] = []
    if bundle.bios is not None:
        parts.append(("firmware", _load_part("firmware", bundle.bios, ram_bytes, 0)))
    if bundle.kernel is not None:
        parts.append(("kernel", _load_kernel(bundle.kernel, ram_bytes, len(bundle.initrd or b""))))
    end = max(program.end for _, program in parts)
    firmware = (RAM_BASE, LINUX_OFFSET) if bundle.bios is not None and bundle.kernel is not None else None

    # The addresses in it have a fixed size, so the tree's own size does not depend on them.
    size = len(device_tree(board, append=bundle.append, initrd=(0, 0) if bundle.initrd else None, firmware=firmware))
    tree_at = _tree_offset(ram_bytes, size)
    initrd = None
    if bundle.initrd is not None:
        at = _initrd_offset(end, len(bundle.initrd), tree_at, ram_bytes)
        initrd = (RAM_BASE + at, RAM_BASE + at + len(bundle.initrd))
        parts.append(("initrd", Program(0, (_segment(at, bundle.initrd),))))
    elif end > tree_at:
        raise _too_small(f"{parts[-1][0]} and device tree do", end, ram_bytes)
    tree = device_tree(board, append=bundle.append, initrd=initrd, firmware=firmware)
    parts.append(("device tree", Program(0, (_segment(tree_at, tree),))))
    _check_apart(parts)
    return _image(bundle, parts, RAM_BASE + tree_at)


def _image(bundle: BootBundle, parts: list[tuple[str, Program]], tree: int) -> Image:
    first = parts[0][1]
    segments = tuple(segment for _, program in parts for segment in program.segments)
    if bundle.bios is None:
        return Image(first.entry, segments, device_tree=tree, words=kernel_words(first.entry, tree))
    next_entry = parts[1][1].entry if bundle.kernel is not None else 0
    return Image(first.entry, segments, first.tohost, first.fromhost, tree, next_entry)


def _load_part(name: str, data: bytes, ram_bytes: int, offset: int) -> Program:
    try:
        return _load_program(data, ram_bytes, offset)
    except ImageError as error:
        raise ImageError(f"the {name}: {error}") from error


def _load_kernel(data: bytes, ram_bytes: int, initrd_size: int) -> Program:
    """Linux by its header; ELF by its addresses; anything else is raw and lies where Linux would."""
    data = unpack_kernel(data)
    size = linux_size(data)
    if size is None:
        return _load_part("kernel", data, ram_bytes, LINUX_OFFSET)
    if LINUX_OFFSET + size > ram_bytes:
        raise _too_small("kernel does", _page_end(LINUX_OFFSET + size) + initrd_size, ram_bytes)
    return Program(RAM_BASE + LINUX_OFFSET, (Segment(LINUX_OFFSET, data, size),))


def _page_end(offset: int) -> int:
    return -(-offset // PAGE) * PAGE


def _initrd_offset(end: int, size: int, limit: int, ram_bytes: int) -> int:
    """As far from the kernel as QEMU puts it, or else right behind what is loaded: from a page's start on."""
    right_behind = _page_end(end)
    wanted = max(LINUX_OFFSET + min(ram_bytes // 2, INITRD_DISTANCE_MAX), right_behind)
    for at in (wanted, right_behind):
        if at + size <= limit:
            return at
    raise _too_small("kernel, initrd and device tree do", right_behind + size, ram_bytes)


def _too_small(what: str, end: int, ram_bytes: int) -> ImageError:
    """`end`: the offset in RAM at which all but the tree would end."""
    ram_mib = -(-(end + TREE_ALIGNMENT) // MIB)
    text = f"the {what} not fit into {ram_bytes // MIB} MiB of RAM"
    if end + TREE_ALIGNMENT > TREE_END_MAX or ram_mib > RAM_MIB_MAX:
        return ImageError(f"{text}, nor into the first GiB of a larger one: make them smaller")
    return ImageError(f"{text}: give the machine {ram_mib} MiB or more (--ram or ram_mib)")


def _check_apart(parts: list[tuple[str, Program]]) -> None:
    """No part may lie over another; what the segments of one ELF file do to each other is its linker's business."""
    places = sorted((segment.offset, segment.end, name) for name, program in parts for segment in program.segments)
    for (low, low_end, one), (high, high_end, other) in combinations(places, 2):
        if low_end > high and one != other:
            raise ImageError(
                f"the {other} at {RAM_BASE + high:#x} to {RAM_BASE + high_end:#x} would overwrite "
                f"the {one} at {RAM_BASE + low:#x} to {RAM_BASE + low_end:#x}: link one of them elsewhere"
            )


def kernel_words(entry: int, tree: int) -> tuple[tuple[int, int], ...]:
    """The hart as the built-in firmware leaves it: S mode, all exceptions and interrupts delegated, all of memory
    open, the timer the kernel's own (Sstc) and far away."""
    return (
        (s.PC, entry),
        (s.PRIV, s.SUPERVISOR),
        (s.X + 10, 0),
        (s.X + 11, tree),
        (s.FIRMWARE, 1),
        (s.MEDELEG, s.MEDELEG_WRITABLE & ~(1 << s.CAUSE_ECALL_U + s.SUPERVISOR)),
        (s.MIDELEG, s.MIDELEG_WRITABLE),
        (s.MENVCFG, s.MENVCFG_STCE),
        (s.STIMECMP, -1),
        (s.PMPCFG, _PMP_NAPOT_RWX),
        (s.PMPADDR, _PMP_ALL),
    )
