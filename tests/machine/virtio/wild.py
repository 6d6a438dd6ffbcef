"""A driver that does anything at all: bytes, read as what it does one after the other, and what must hold throughout.

Half of what it does is near to what is right, so that the devices get to work: rings where a queue may be, chains of a
few buffers, sizes about which there is something to know.
"""

from collections.abc import Callable

import numpy as np

from ftvm.machine.board import RAM_BASE, ROM_BASE, UART_BASE, VIRTIO_SLOTS, VIRTIO_STRIDE
from ftvm.machine.devices.plic import LEVEL
from ftvm.machine.devices.virtio import block
from ftvm.machine.devices.virtio import device as d
from ftvm.machine.devices.virtio.slots import check_slots
from ftvm.machine.hart import control as c
from ftvm.machine.hart import state as s
from tests.machine.virtio import driver
from tests.machine.virtio.driver import RAM_BYTES, Board, Device, Queue, descriptor

STEPS_MAX = 300
END = RAM_BASE + RAM_BYTES
REGISTERS = (0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4, 0xFC, 0x100)
VALUES = (0, 1, 2, 3, 4, 8, 15, 16, 24, 32, 64, 255, 256, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0x8002_0000, 0xFFFF_FFFF)
LENGTHS = (0, 1, 4, 11, 12, 16, 20, 512, 513, 1024, 4096, 8192, 65536, 1 << 20, 0xFFFF_FFFF)
ADDRESSES = (
    0,
    ROM_BASE,
    UART_BASE,
    RAM_BASE,
    END - 512,
    END - 1,
    END,
    END + c.DEVICE_AT,
    (1 << 63) + 1,
    (1 << 64) - 256,
)
FRAMES = (0, 1, 14, 60, 100, 600, 1500, 1518, 1519, 9000, 65539, 65540)


class Source:
    """Numbers from bytes; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def empty(self) -> bool:
        return self.at >= len(self.data)

    def number(self, size: int = 1) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "little")

    def below(self, limit: int) -> int:
        return self.number() % limit

    def pick(self, choices: tuple[int, ...]) -> int:
        """One of them, or, now and then, any number."""
        which = self.below(len(choices) + 1)
        return choices[which] if which < len(choices) else self.number(8)


class Wild:
    """Plays `data` on a board, and keeps what the guest itself did to memory."""

    def __init__(self, data: bytes) -> None:
        self.source = Source(data)
        self.board = Board()
        self.devices = [Device(self.board, slot) for slot in range(VIRTIO_SLOTS)]
        self.queues: dict[int, list[Queue]] = {slot: [] for slot in range(VIRTIO_SLOTS)}
        self.sent = [b"", b""]

    def play(self) -> None:
        deeds: tuple[Callable[[], None], ...] = (
            *(self._start,) * 4,
            *(self._request,) * 6,
            *(self._chain,) * 6,
            *(self._notify,) * 3,
            *(self._frame,) * 3,
            *(self._bytes,) * 2,
            *(self._outside,) * 2,
            *(self._look,) * 2,
            self._descriptor,
            self._offer,
            self._poke,
            self._register,
        )
        for _ in range(STEPS_MAX):
            if self.source.empty:
                break
            deeds[self.source.below(len(deeds))]()
            self.check()
        check_slots(self.board.state, self.board.config, RAM_BYTES)

    def _device(self) -> Device:
        return self.devices[self.source.below(VIRTIO_SLOTS)]

    def _queue(self) -> Queue | None:
        queues = self.queues[self.source.below(5)]
        return queues[self.source.below(len(queues))] if queues else None

    def _start(self) -> None:
        device = self.devices[self.source.below(5)]
        if device.read(driver.STATUS) & (d.DRIVER_OK | d.NEEDS_RESET) == d.DRIVER_OK and self.source.below(8):
            return
        features = device.offered if self.source.below(2) else self.source.number(8) & device.offered
        size_max = 32 if device.slot == driver.CONSOLE_SLOT else 256
        size = 1 << max(self.source.below(9), self.source.below(9))
        how, shifts = self.source.below(8), (0, 0, 0)
        if how == 7:
            shifts = (self.source.number(), self.source.number(), self.source.number(2) % 0x1000)
        self.queues[device.slot] = device.start(
            features,
            (min(size, size_max),) * 2,
            version_1=how > 1,
            features_ok=how != 0,
            shifts=shifts,
        )

    def _register(self) -> None:
        device, register = self._device(), REGISTERS[self.source.below(len(REGISTERS))]
        self.board.write(device.at + register, self.source.pick(VALUES), 4)

    def _look(self) -> None:
        size = 1 << self.source.below(4)
        self.board.read(self._device().at + self.source.number(2) % VIRTIO_STRIDE // size * size, size)

    def _address(self, queue: Queue) -> int:
        if self.source.below(4):
            return queue.base + self.source.number(2)
        return self.source.pick(ADDRESSES) & (1 << 64) - 1

    def _descriptor(self) -> None:
        if queue := self._queue():
            size, flags = self.source.pick(LENGTHS) & 0xFFFF_FFFF, self.source.below(8)
            following = self.source.below(queue.size + 1)
            entry = descriptor(self._address(queue), size, flags, following)
            table = (queue.descriptors, queue.base + 0x3000)[self.source.below(2)]
            self.board.store(table + 16 * self.source.below(queue.size), entry)

    def _offer(self) -> None:
        if queue := self._queue():
            queue.offer(self.source.below(queue.size + 1))

    def _request(self) -> None:
        """One that a disk does, most times."""
        queues = self.queues[self.source.below(2)]
        if queues:
            kind, sector = self.source.pick((0, 1, 4, 8, 13)), self.source.pick((0, 1, 8, 9))
            data: bytes | int = self.source.pick((0, 1, 2, 3)) % 4 * 512 + self.source.pick((0, 0, 0, 1)) % 512
            if kind == block.OUT:
                data = bytes([self.source.number()]) * int(data)
            elif kind == block.WRITE_ZEROES:
                data = self.source.below(10).to_bytes(8, "little") + self.source.below(4).to_bytes(8, "little")
            header = (kind % (1 << 32)).to_bytes(8, "little") + sector.to_bytes(8, "little")
            queues[0].add(header, *((data,) if data else ()), 1, indirect=self.source.below(2) == 0)
            queues[0].notify()

    def _chain(self) -> None:
        """A chain of some sense: what a request of this device might be."""
        queue = self._queue()
        if queue is None:
            return
        buffers: list[bytes | int] = []
        for _ in range(self.source.below(4)):
            buffers.append(self.source.number(16 if self.source.below(2) else 2).to_bytes(16, "little"))
        for _ in range(self.source.below(3) if queue.number else self.source.below(4)):
            buffers.append(1 + self.source.pick((0, 11, 99, 511, 1023)) % 1024)
        if buffers:
            head = self.source.below(8)
            indirect = self.source.below(4) == 0
            queue.add(*buffers, indirect=indirect, head=head if head + len(buffers) <= queue.size else 0)
            if self.source.below(2):
                queue.notify()

    def _notify(self) -> None:
        if queue := self._queue():
            queue.notify()

    def _poke(self) -> None:
        if queue := self._queue():
            self.board.put(queue.base + self.source.number(2) % 0x3000, 2, self.source.pick(VALUES) & 0xFFFF)

    def _frame(self) -> None:
        length = self.source.pick(FRAMES) & 0xFFFF_FFFF
        body = bytes(min(length, 65539 if self.source.below(8) else self.source.number()))
        self._receive(s.STREAM_NET, length.to_bytes(4, "big") + body)

    def _bytes(self) -> None:
        self._receive(self.source.below(2), bytes(self.source.number() for _ in range(self.source.below(40))))

    def _receive(self, stream: int, data: bytes) -> None:
        self.board.receive(stream, data[: c.RING_SIZES[stream] - self.board.waiting(stream)])

    def _outside(self) -> None:
        what = self.source.below(3)
        if what == 0:
            self.board.resize(self.source.number(2), self.source.number(2))
        elif wanted := int(self.board.state[s.ENTROPY_WANTED]):
            self.board.supply(bytes(1 + n % 255 for n in range(1 + self.source.number(2) % wanted)))

    def check(self) -> None:
        """What holds after everything that a driver does."""
        board = self.board
        for stream in range(s.STREAMS):
            self.sent[stream] += board.take_sent(stream)
        board.check_guards()
        for device in self.devices:
            pending = bool(board.state[LEVEL] >> (1 + device.slot) & 1)
            assert pending == bool(device.word(d.INTERRUPT)), "the line follows InterruptStatus"

    def finish(self) -> None:
        """Nothing but RAM, the disk that can be written, and the rings have changed; and pages that did are marked."""
        memory, fresh = self.board.memory, Board().memory
        assert not memory.bytes[RAM_BYTES : RAM_BYTES + c.DEVICE_AT].any()
        assert not memory.bytes[RAM_BYTES + c.ENTROPY_AT : RAM_BYTES + c.DISKS_AT].any()
        locked = memory.disk_offset(1)
        assert (memory.bytes[locked:] == fresh.bytes[locked:]).all()
        first = memory.disk_offset(0)
        assert not memory.bytes[first + driver.DISK_BYTES : locked].any()
        changed = (memory.bytes[first:locked] != fresh.bytes[first:locked]).reshape(-1, 4096).any(axis=1)
        marked = memory.flags[first // 4096 : locked // 4096]
        assert (marked[changed] == c.DIRTY_ALL | c.DIRTY_FILE | c.PAGE_WRITTEN).all()
        assert not (memory.flags[: RAM_BYTES // 4096] & ~np.uint8(c.DIRTY_ALL)).any()


def play(data: bytes) -> Wild:
    wild = Wild(data)
    wild.play()
    wild.finish()
    return wild


def compile_all() -> None:
    """What is measured afterwards is not the compiler."""
    wild = Wild(b"")
    wild.board.read(wild.devices[0].at)
    wild.board.write(wild.devices[0].at, 0)
    wild.board.receive(s.STREAM_NET, b"")
    wild.board.supply(b"")
    wild.board.resize(0, 0)
    wild.check()
