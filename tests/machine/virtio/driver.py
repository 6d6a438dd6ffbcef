"""A virtio driver in Python, over the bus as the hart sees it: registers, and rings that it writes into guest memory.

Around every array that compiled code gets by pointer lie guards; `Board.check_guards` says whether one was written to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ftvm.machine.board import PLIC_BASE, RAM_BASE, VIRTIO_BASE, VIRTIO_STRIDE, BoardConfig, DiskConfig, NetConfig
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio.slots import configure
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from ftvm.machine.memory import Memory
from tests.machine.devices import Devices
from tests.machine.disks import BytesDisk

RAM_BYTES = 1 << 20
DISK_BYTES = 9 * 512
DISK = DiskConfig(DISK_BYTES, bytes(16))
LOCKED_DISK = DiskConfig(DISK_BYTES, bytes(16), read_only=True)
ALL = BoardConfig(ram_mib=1, disks=(DISK, LOCKED_DISK), net=NetConfig(), console=True, entropy=True)
"""Slots 0 and 1 are disks, 2 the network card, 3 the console, 4 the entropy device."""
DISK_SLOT, LOCKED_SLOT, NET_SLOT, CONSOLE_SLOT, ENTROPY_SLOT, EMPTY_SLOT = range(6)

MAGIC, VERSION, DEVICE_ID, VENDOR = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DEVICE_FEATURES_SEL, DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x010, 0x014, 0x020, 0x024
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x080, 0x090, 0x0A0
CONFIG_GENERATION, CONFIG = 0x0FC, 0x100

NEXT, WRITE, INDIRECT = 1, 2, 4
GUARD_BYTES = 1 << 12
GUARD = 0xA5
VERSION_1, EVENT_INDEX, INDIRECT_DESC = 1 << 32, 1 << 29, 1 << 28


def pattern(first: int, size: int) -> bytes:
    """What the disks hold at first."""
    return (np.arange(first, first + size) % 251).astype(np.uint8).tobytes()


class Board:
    """All devices, and memory between guards."""

    def __init__(self, config: BoardConfig = ALL) -> None:
        self.config = config
        disks = [BytesDisk(pattern(0, disk.size), disk.read_only) for disk in config.disks]
        self.memory = Memory(config.ram_mib << 20, disks)
        self.state, self.control = self.memory.state, self.memory.control
        self._areas: list[NDArray[np.uint8]] = []
        unguarded = self.memory.bytes
        self.memory.bytes = self._guard(c.MEMORY_POINTER, len(unguarded))
        self.memory.bytes[:] = unguarded
        self.memory.flags = self._guard(c.PAGE_FLAGS_POINTER, len(self.memory.flags))
        self._guard(c.CHAIN_POINTER, c.CHAIN_WORDS * 8)
        self.sent_bytes = [
            self._guard(c.STREAM_OUT_POINTER + stream, size) for stream, size in enumerate(c.STREAM_OUT_SIZES)
        ]
        configure(self.state, config, self.memory.ram_bytes)
        self.devices = Devices(self.memory)

    def _guard(self, pointer: int, size: int) -> NDArray[np.uint8]:
        """An array of zeros in place of the one that stands at this word of the control array."""
        area: NDArray[np.uint8] = np.zeros(size + 2 * GUARD_BYTES, np.uint8)
        area[:GUARD_BYTES] = area[-GUARD_BYTES:] = GUARD
        inner = area[GUARD_BYTES:-GUARD_BYTES]
        self.control[pointer] = inner.ctypes.data
        self._areas.append(area)
        return inner

    def check_guards(self) -> None:
        for area in self._areas:
            assert (area[:GUARD_BYTES] == GUARD).all()
            assert (area[-GUARD_BYTES:] == GUARD).all()

    def read(self, address: int, size: int = 4) -> int | None:
        """None for an access fault."""
        ok, value = self.devices.read(address, size)
        return value if ok else None

    def write(self, address: int, value: int, size: int = 4) -> bool:
        return self.devices.write(address, size, value)

    def resize(self, columns: int, rows: int) -> None:
        """As `Machine.apply` does with a Resize."""
        self.devices.call(c.DO_RESIZE, columns, rows)

    def supply(self, data: bytes) -> None:
        """Random bytes, as `Machine.apply` does with an Entropy."""
        at = RAM_BYTES + c.ENTROPY_AT
        self.memory.bytes[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self.devices.call(c.DO_ENTROPY, len(data))

    def load(self, address: int, size: int) -> bytes:
        at = address - RAM_BASE
        return self.memory.bytes[at : at + size].tobytes()

    def store(self, address: int, data: bytes) -> None:
        at = address - RAM_BASE
        assert 0 <= at <= RAM_BYTES - len(data)
        self.memory.bytes[at : at + len(data)] = np.frombuffer(data, np.uint8)

    def number(self, address: int, size: int) -> int:
        return int.from_bytes(self.load(address, size), "little")

    def put(self, address: int, size: int, value: int) -> None:
        self.store(address, value.to_bytes(size, "little"))

    def disk(self, number: int = 0) -> NDArray[np.uint8]:
        at = self.memory.disk_offset(number)
        return self.memory.bytes[at : at + self.config.disks[number].size]

    def take_sent(self, stream: int) -> bytes:
        count = int(self.control[c.STREAM_OUT_COUNT + stream])
        self.control[c.STREAM_OUT_COUNT + stream] = 0
        return self.sent_bytes[stream][:count].tobytes()

    def receive(self, stream: int, data: bytes) -> None:
        """Put bytes into the stream's ring, as `Machine.apply` does with an Input."""
        at = s.STREAM_AT + stream * s.STREAM_WORDS
        begin = RAM_BYTES + c.DEVICE_AT + sum(c.RING_SIZES[:stream])
        ring = self.memory.bytes[begin : begin + c.RING_SIZES[stream]]
        places = (int(self.state[at + s.STREAM_INPUT]) + np.arange(len(data))) % len(ring)
        ring[places] = np.frombuffer(data, np.uint8)
        self.state[at + s.STREAM_INPUT] += len(data)
        self.devices.call(c.DO_RECEIVE_STREAM, stream)

    def waiting(self, stream: int) -> int:
        at = s.STREAM_AT + stream * s.STREAM_WORDS
        return int(self.state[at + s.STREAM_INPUT] - self.state[at + s.STREAM_TAKEN])

    def interrupts(self) -> int:
        """Sources that are pending at the PLIC, all of them enabled for S mode."""
        for source in range(1, 12):
            self.write(PLIC_BASE + 4 * source, 1)
        self.write(PLIC_BASE + 0x2080, 0xFFFE)
        pending = self.read(PLIC_BASE + 0x1000)
        assert pending is not None
        assert bool(self.devices.lines() & s.SEIP) == bool(pending)
        return pending


Buffer = bytes | int
"""What the device may read, or how many bytes it may write."""


@dataclass
class Queue:
    """One queue of a device: areas, and where the next descriptors and buffers go."""

    board: Board
    at: int
    """Address of its slot."""
    number: int
    size: int
    base: int
    """Address of 64 KiB for areas and buffers."""
    available: int = 0
    used: int = 0
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Of a chain that is with the device: its writable buffers, (address, size) each."""
    shifts: tuple[int, int, int] = (0, 0, 0)
    """How far behind the start of a page descriptors, driver area and device area begin."""

    @property
    def descriptors(self) -> int:
        return self.base + self.shifts[0]

    @property
    def driver_area(self) -> int:
        return self.base + 0x1000 + self.shifts[1]

    @property
    def device_area(self) -> int:
        return self.base + 0x2000 + self.shifts[2]

    def set_up(self) -> None:
        write = self.board.write
        write(self.at + QUEUE_SEL, self.number)
        write(self.at + QUEUE_NUM, self.size)
        for register, address in (
            (QUEUE_DESC, self.descriptors),
            (QUEUE_DRIVER, self.driver_area),
            (QUEUE_DEVICE, self.device_area),
        ):
            write(self.at + register, address & 0xFFFFFFFF)
            write(self.at + register + 4, address >> 32)
        write(self.at + QUEUE_READY, 1)

    def descriptor(self, index: int, address: int, size: int, flags: int, following: int = 0) -> None:
        self.board.store(self.descriptors + 16 * index, descriptor(address, size, flags, following))

    def offer(self, head: int) -> None:
        """Put a chain into the available ring."""
        self.board.put(self.driver_area + 4 + 2 * (self.available % self.size), 2, head)
        self.available += 1
        self.board.put(self.driver_area + 2, 2, self.available & 0xFFFF)

    def add(self, *buffers: Buffer, indirect: bool = False, head: int | None = None) -> int:
        """Offer a chain whose buffers lie one after the other; its first descriptor."""
        head = 0 if head is None else head
        place = self.base + 0x4000 + 0x800 * head
        entries, writable = [], []
        for number, buffer in enumerate(buffers):
            size = len(buffer) if isinstance(buffer, bytes) else buffer
            flags = NEXT if number < len(buffers) - 1 else 0
            if isinstance(buffer, bytes):
                self.board.store(place, buffer)
            else:
                flags |= WRITE
                writable.append((place, size))
            entries.append(descriptor(place, size, flags, (0 if indirect else head) + number + 1))
            place += size + 1
        if indirect:
            table = self.base + 0x3000 + 0x100 * head
            self.board.store(table, b"".join(entries))
            self.descriptor(head, table, 16 * len(entries), INDIRECT)
        else:
            self.board.store(self.descriptors + 16 * head, b"".join(entries))
        self.places[head] = writable
        self.offer(head)
        return head

    def notify(self) -> None:
        assert self.board.write(self.at + QUEUE_NOTIFY, self.number)

    def done(self) -> list[tuple[int, int, bytes]]:
        """Chains that came back since the last call: (head, bytes written, what is in its writable buffers)."""
        came = []
        while self.used != self.board.number(self.device_area + 2, 2):
            element = self.device_area + 4 + 8 * (self.used % self.size)
            head, written = self.board.number(element, 4), self.board.number(element + 4, 4)
            data = b"".join(self.board.load(place, size) for place, size in self.places.get(head, []))
            came.append((head, written, data))
            self.used = (self.used + 1) & 0xFFFF
        return came

    def run(self, *buffers: Buffer, indirect: bool = False) -> bytes:
        """One chain, and what the device wrote into it."""
        self.add(*buffers, indirect=indirect)
        self.notify()
        (_head, written, data) = self.done()[0]
        assert written <= len(data)
        return data


class Device:
    """A slot, from its driver's side."""

    def __init__(self, board: Board, slot: int) -> None:
        self.board = board
        self.slot = slot
        self.at = VIRTIO_BASE + slot * VIRTIO_STRIDE
        self.words = s.VIRTIO_AT + slot * s.VIRTIO_SLOT_WORDS

    def read(self, register: int, size: int = 4) -> int:
        value = self.board.read(self.at + register, size)
        assert value is not None
        return value

    def write(self, register: int, value: int) -> None:
        assert self.board.write(self.at + register, value)

    @property
    def offered(self) -> int:
        low, high = ((self.write(DEVICE_FEATURES_SEL, half), self.read(DEVICE_FEATURES))[1] for half in (0, 1))
        return low | high << 32

    def negotiate(self, features: int) -> bool:
        self.accept(features, d.ACKNOWLEDGE | d.DRIVER | d.FEATURES_OK)
        return bool(self.read(STATUS) & d.FEATURES_OK)

    def accept(self, features: int, status: int) -> None:
        """Anew; the device has this status then."""
        self.write(STATUS, 0)
        self.write(STATUS, d.ACKNOWLEDGE)
        self.write(STATUS, d.ACKNOWLEDGE | d.DRIVER)
        for half in (0, 1):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, features >> 32 * half & 0xFFFFFFFF)
        self.write(STATUS, status)

    def start(
        self,
        features: int = 0,
        sizes: Sequence[int] = (16, 16),
        *,
        version_1: bool = True,
        features_ok: bool = True,
        shifts: tuple[int, int, int] = (0, 0, 0),
    ) -> list[Queue]:
        """Initialise as section 3.1.1 says, or as drivers of an earlier virtio do; its queues."""
        features = features | VERSION_1 if version_1 else features & ~VERSION_1
        status = d.ACKNOWLEDGE | d.DRIVER | (d.FEATURES_OK if features_ok else 0)
        self.accept(features, status)
        kind = self.read(DEVICE_ID)
        queues = [
            Queue(self.board, self.at, number, sizes[number], RAM_BASE + 0x2_0000 * (number + 1), shifts=shifts)
            for number in range(int(d.QUEUE_COUNT[kind]))
        ]
        for queue in queues:
            self.board.memory.bytes[queue.base - RAM_BASE : queue.base - RAM_BASE + 0x2_0000] = 0
            queue.set_up()
        self.write(STATUS, status | d.DRIVER_OK)
        return queues

    def acknowledge(self) -> int:
        """InterruptStatus as it was."""
        bits = self.read(INTERRUPT_STATUS)
        self.write(INTERRUPT_ACK, bits)
        return bits

    @property
    def needs_reset(self) -> bool:
        return bool(self.read(STATUS) & d.NEEDS_RESET)

    def word(self, index: int) -> int:
        return int(self.board.state[self.words + index])


def descriptor(address: int, size: int, flags: int, following: int = 0) -> bytes:
    return b"".join(
        number.to_bytes(length, "little") for number, length in ((address, 8), (size, 4), (flags, 2), (following, 2))
    )
