"""What runs a guest under test (QEMU), what kv is compared with (redis-server), and how replies are read."""

import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ftvm.log.entry import Clock, Input
from ftvm.machine.board import BoardConfig
from ftvm.machine.machine import Machine, StopReason
from ftvm.machine.output import UART
from tests.needs import need

PACKAGES = {
    "qemu-system-riscv64": "qemu-system-misc",
    "redis-server": "redis-server",
    "redis-cli": "redis-tools",
    "redis-benchmark": "redis-tools",
}
REPLY_TIMEOUT_S = 60
START_TIMEOUT_S = 30
QEMU = ("-m", "64", "-bios", "none", "-display", "none", "-monitor", "none")


def tool(name: str) -> str:
    """The path of program `name`; skips the test without it, or fails it where everything must run (CI)."""
    return need(name, PACKAGES[name])


def qemu_command(image: Path, machine: str = "virt") -> list[str]:
    return [tool("qemu-system-riscv64"), "-M", machine, *QEMU, "-kernel", str(image)]


class Wire:
    """A byte stream of RESP replies, read one whole reply at a time, as raw bytes."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(REPLY_TIMEOUT_S)
        self.stream = stream
        self.pending = bytearray()

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def more(self) -> None:
        data = self.stream.recv(65536)
        assert data, "the other side hung up"
        self.pending += data

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.pending:
            self.more()
        return self.take(self.pending.index(mark) + len(mark))

    def take(self, size: int) -> bytes:
        while len(self.pending) < size:
            self.more()
        taken = bytes(self.pending[:size])
        del self.pending[:size]
        return taken

    def reply(self) -> bytes:
        """One reply, with the elements of an array."""
        line = self.until(b"\r\n")
        if line[:1] == b"$" and line != b"$-1\r\n":
            return line + self.take(int(line[1:]) + 2)
        if line[:1] == b"*":
            return line + b"".join(self.reply() for _ in range(max(int(line[1:]), 0)))
        return line

    def ask(self, *requests: bytes) -> list[bytes]:
        """Sends all requests at once; one reply for each."""
        self.send(b"".join(requests))
        return [self.reply() for _ in requests]


class QemuWire(Wire):
    """The telnet side of QEMU's UART: IAC is doubled, IAC BRK is a BREAK. What the guest says comes as it is."""

    def send(self, data: bytes) -> None:
        super().send(data.replace(b"\xff", b"\xff\xff"))

    def send_break(self) -> None:
        super().send(b"\xff\xf3")

    def wait_for_kv(self) -> None:
        """kv answers. QEMU loses bytes that come just when the guest turns its FIFO on, so this is repeated."""
        self.stream.settimeout(1)
        for _ in range(START_TIMEOUT_S):
            self.send(b"\r\nECHO up\r\n")
            with suppress(TimeoutError):
                self.until(b"$2\r\nup\r\n")
                break
        self.stream.settimeout(REPLY_TIMEOUT_S)
        self.send(b"\r\nECHO ready\r\n")
        self.until(b"$5\r\nready\r\n")


class MachineWire(Wire):
    """A guest on our own machine, run whenever a reply is waited for. Drops what a BREAK from the guest ends."""

    def __init__(self, image: bytes) -> None:
        self.machine = Machine(BoardConfig(), image)
        self.machine.apply(Clock(0, 0, CLOCK_RATE, 1 << 60))
        self.pending = bytearray()
        self.inputs: deque[tuple[bytes, bool]] = deque()
        self.breaks = 0
        self.stop = StopReason.LIMIT

    def send(self, data: bytes) -> None:
        self.inputs.extend((data[at : at + INPUT_SIZE], False) for at in range(0, len(data), INPUT_SIZE))

    def send_break(self) -> None:
        self.inputs.append((b"\0", True))

    def wait_for_kv(self) -> None:
        assert self.ask(PING) == [b"+PONG\r\n"]

    def asleep(self) -> bool:
        """Whether only an input can make the guest go on."""
        return self.stop is StopReason.IDLE

    def run(self) -> None:
        """One slice of the guest, with as much input as it takes."""
        machine = self.machine
        while self.inputs and len(self.inputs[0][0]) <= machine.input_room(UART):
            data, is_break = self.inputs.popleft()
            machine.apply(Input(machine.tick, UART, machine.input_offset(UART), data, is_break))
        self.stop = machine.run_until(machine.tick + SLICE_TICKS).reason
        for output in machine.take_outputs():
            if output.is_break:
                self.breaks += 1
                self.pending.clear()
            else:
                self.pending += output.data

    def more(self) -> None:
        before = self.machine.output_offset(UART)
        while self.machine.output_offset(UART) == before:
            self.run()
            if self.machine.output_offset(UART) == before:
                assert self.stop is not StopReason.HALTED, self.machine.halt
                assert self.inputs or not self.asleep(), "the guest sleeps and says nothing"


CLOCK_RATE = (1 << 32) // 50  # 10 MHz at 500 million ticks a second
INPUT_SIZE = 256
SLICE_TICKS = 10_000_000


def request(*arguments: bytes | str | int) -> bytes:
    """A request as clients send it: an array of bulk strings."""
    parts = [item if isinstance(item, bytes) else str(item).encode() for item in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


PING = request("PING")


@contextmanager
def _serving(command: Sequence[str], path: Path) -> Iterator[socket.socket]:
    """`command` listens on `path`: it says so by the file, and the connection is retried until it is there."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            _connect(stream, process, path)
            yield stream
    finally:
        process.kill()
        process.wait()


def _connect(stream: socket.socket, process: subprocess.Popen[bytes], path: Path) -> None:
    for _ in range(START_TIMEOUT_S * 50):
        try:
            stream.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            try:
                code = process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"{process.args!r} ended with {code}")
        else:
            return
    pytest.fail(f"{process.args!r} does not listen")


@contextmanager
def qemu_guest(image: Path) -> Iterator[Wire]:
    """A guest under QEMU with its UART on the wire; it starts when the wire is there."""
    with _qemu(image, "") as stream:
        yield Wire(stream)


@contextmanager
def qemu_kv(image: Path) -> Iterator[QemuWire]:
    """The same with BREAK, for a guest whose first output is not needed: QEMU's telnet loses that."""
    with _qemu(image, ",telnet=on") as stream:
        wire = QemuWire(stream)
        wire.wait_for_kv()
        yield wire


@contextmanager
def _qemu(image: Path, options: str) -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "uart"
        chardev = f"socket,id=uart,path={path},server=on,wait=on{options}"
        with _serving([*qemu_command(image), "-chardev", chardev, "-serial", "chardev:uart"], path) as stream:
            yield stream


@contextmanager
def redis_server() -> Iterator[Wire]:
    """The real thing, on a socket of its own, without any file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis"
        command = [tool("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with _serving(command, path) as stream:
            yield Wire(stream)
