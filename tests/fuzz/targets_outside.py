"""What users, their files and clients give: configuration, images, the control socket, RESP, bytes for the guest."""

import contextlib
import gzip
import json
import random
import socket
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from ftvm import config
from ftvm.config.machine import RAM_MIB_MAX
from ftvm.demo.resp import RespClient, RespError, encode_command
from ftvm.errors import ConfigError, ImageError
from ftvm.guests import path as guest_path
from ftvm.host.control import LINE_SIZE_MAX, Answer, serve_control
from ftvm.machine.board import RAM_BASE, BoardConfig
from ftvm.machine.boot import LINUX_OFFSET, BootBundle
from ftvm.machine.image import load_image
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutate import mutate_json, mutate_lines, mutate_parts
from tests.machine.test_boot import linux

# ---- machine.toml

_TOML = b"""\
[machine]
name = "kv"
image = "kv.elf"
ram_mib = 64
[replication]
detector_timeout_ms = 200
heartbeat_interval_ms = 50
[arbiter]
kind = "directory"
path = "arbiter"
[nodes.alpha]
listen = "127.0.0.1:7001"
log = "alpha.ftlog"
[nodes.beta]
listen = "[::1]:7002"
control = "b.sock"
[edge]
listen = "127.0.0.1:6390"
sessions = "break"
[security]
certificates = "certs"
"""


def _tomls(_chance: random.Random) -> list[bytes]:
    etcd = b'kind = "etcd"\nendpoints = ["http://127.0.0.1:2379"]'
    witness = b'kind = "witness"\naddress = "127.0.0.1:7009"'
    directory = b'kind = "directory"\npath = "arbiter"'
    return [_TOML, _TOML.replace(directory, etcd), _TOML.replace(directory, witness)]


class _Toml:
    def __init__(self) -> None:
        self._path = Path()

    @contextlib.contextmanager
    def folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="ftvm-fuzz-") as folder:
            self._path = Path(folder) / "machine.toml"
            yield

    def run(self, data: bytes) -> None:
        self._path.write_bytes(data)
        loaded = config.load(self._path)
        assert 1 <= loaded.machine.ram_mib <= RAM_MIB_MAX
        assert len(loaded.nodes) >= 2
        assert config.load(self._path) == loaded


# ---- images

BOARD = BoardConfig(ram_mib=16)
RAM_BYTES = BOARD.ram_mib * MIB


def _images(_chance: random.Random) -> list[bytes]:
    """Small: headers and symbols are what a loader reads. The rest of a real image is cut away where it can be."""
    return [guest_path("hello").read_bytes(), guest_path("hello").read_bytes()[:4096], b"\x13\0\0\0" * 4]


def _mutate_head(chance: random.Random, data: bytes) -> bytes:
    """Fields of the ELF header, the program headers and the section headers, eight bytes at a time."""
    changed = bytearray(data)
    sections = int.from_bytes(data[40:48], "little")
    start = chance.choice((0, 64, 64 + 56, sections, sections + 64))
    at = start + 4 * chance.randrange(16)
    width = chance.choice((1, 2, 4, 8))
    if at + width <= len(changed):
        number = chance.choice((0, 1, 0xFF, len(data), RAM_BASE, RAM_BASE + RAM_BYTES, (1 << 64) - 1, 1 << 63))
        changed[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(changed)


def _bundles(_chance: random.Random) -> list[bytes]:
    """A kernel by its header, one as ELF and one gzipped, with firmware and without."""
    kernel = linux(200, image_size=8192)
    elf = guest_path("hello").read_bytes()[:8192]
    bundles = (
        BootBundle(b"\x73" * 40, kernel, b"initrd", "quiet"),
        BootBundle(kernel=gzip.compress(kernel), initrd=bytes(5000)),
        BootBundle(bios=elf),
        BootBundle(kernel=elf, append="console=ttyS0"),
    )
    return [bundle.encode() for bundle in bundles]


def _mutate_bundle(chance: random.Random, data: bytes) -> bytes:
    """Sizes of the parts, and the fields of the headers that they start with."""
    changed = bytearray(data)
    sizes = [int.from_bytes(data[at : at + 8], "little") for at in range(16, 48, 8)]
    part = 48 + sum(sizes[: chance.randrange(4)])
    at = chance.choice((16, part)) + 8 * chance.randrange(8)
    number = chance.choice((*sizes, 0, 1, len(data), LINUX_OFFSET, RAM_BYTES, RAM_BASE, (1 << 64) - 1, 1 << 63))
    if at + 8 <= len(changed):
        changed[at : at + 8] = number.to_bytes(8, "little")
    return bytes(changed)


def _run_image(data: bytes) -> None:
    image = load_image(data, BOARD)
    assert RAM_BASE <= image.entry < RAM_BASE + RAM_BYTES
    for segment in image.segments:
        assert segment.offset >= 0
        assert len(segment.data) <= segment.size
        assert segment.offset + segment.size <= RAM_BYTES


# ---- the control socket: a real server in a thread of its own


class _Control:
    """One connection an input; after each a good request must still be answered."""

    def __init__(self) -> None:
        self._path = ""
        self._raised: list[BaseException] = []

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        async def status(request: Answer) -> Answer:
            return {"echo": request.get("text")}

        async def serve() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, Path(self._path), {"status": status})
                tokens.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
                ready.set()
                await trio.sleep_forever()

        def run() -> None:
            try:
                trio.run(serve)
            except BaseException as error:
                self._raised.append(error)
            finally:
                ready.set()

        tokens: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
        ready = threading.Event()
        self._raised = []
        with tempfile.TemporaryDirectory(prefix="ftvm-fuzz-") as folder:
            self._path = str(Path(folder) / "control.sock")
            thread = threading.Thread(target=run)
            thread.start()
            ready.wait()
            try:
                yield
            finally:
                for token, scope in tokens:
                    with contextlib.suppress(trio.RunFinishedError):
                        token.run_sync_soon(scope.cancel)
                thread.join()

    def run(self, data: bytes) -> None:
        for line in self._talk(data):
            answer = json.loads(line)
            assert isinstance(answer["ok"], bool)
            assert answer["ok"] or answer["error"]
        (line,) = self._talk(b'{"op": "status", "text": "here"}\n')
        assert json.loads(line) == {"ok": True, "echo": "here"}
        assert not self._raised, f"the server ended: {self._raised[0]!r}"

    def _talk(self, data: bytes) -> list[bytes]:
        answers = b""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self._path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while more := client.recv(65536):
                    answers += more
        return answers.splitlines()


def _requests(_chance: random.Random) -> list[bytes]:
    requests: tuple[dict[str, object], ...] = ({"op": "status"}, {"op": "status", "text": "é"}, {"op": "x"}, {})
    lines = [json.dumps(request).encode() + b"\n" for request in requests]
    long = b'{"op": "status", "text": "' + b"a" * LINE_SIZE_MAX + b'"}\n'
    return [*lines, b"".join(lines), b"[" * 3000 + b"\n", long, b'{"op": "\xff"}\n', b"NaN\n1e999\n"]


# ---- RESP


class _Bytes(trio.abc.Stream):
    """A stream that has everything at once, and never waits."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data = data
        self._step = step

    async def send_all(self, data: object) -> None:
        pass

    async def wait_send_all_might_not_block(self) -> None:
        pass

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        part, self.data = self.data[: self._step], self.data[self._step :]
        return part

    async def aclose(self) -> None:
        pass


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits, and there is nothing to wait for")


def _run_resp(data: bytes) -> None:
    """Replies until there are no bytes left."""
    stream = _Bytes(data, 1 + len(data) % 13)
    client = RespClient(stream)
    while stream.data or client._buffer:
        _finish(client.call("GET", "key"))


def _replies(_chance: random.Random) -> list[bytes]:
    replies = [b"+OK\r\n", b"-ERR no\r\n", b":42\r\n", b":-1\r\n", b"$3\r\nabc\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]
    nested = b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n"
    return [*replies, b"".join(replies), nested, b"*1\r\n" * 2000, b"*1000000000\r\n" + b":1\r\n" * 20]


# ---- clients: what a guest is given, as the edge gives it


class _Guest:
    """kv on a machine of its own. Whatever a client says: after a break, the next one is served."""

    @contextlib.contextmanager
    def machine(self) -> Iterator[None]:
        from tests.guests.boards import MachineWire

        self._new = lambda: MachineWire(guest_path("kv").read_bytes())
        self._wire = self._new()
        self._wire.wait_for_kv()
        yield

    def run(self, data: bytes) -> None:
        wire = self._wire
        breaks = wire.breaks
        wire.send(data)
        wire.send_break()
        while wire.breaks == breaks and wire.machine.halt is None:
            wire.run()
        halt = wire.machine.halt
        if halt is not None:
            assert halt.ok, f"a client made the guest fail: {halt}"
            assert b"SHUTDOWN" in data.upper(), f"a client made the guest halt: {halt}"
            self._wire = self._new()
        wire.pending.clear()
        self._wire.wait_for_kv()


def _commands(chance: random.Random) -> list[bytes]:
    words = [b"SET", b"GET", b"APPEND", b"INCR", b"DEL", b"PING", b"ECHO", b"FLUSHALL", b"CONFIG", b"EXISTS"]
    made = []
    for word in words:
        arguments = [chance.randbytes(chance.choice((0, 1, 40))) for _ in range(chance.randrange(4))]
        made.append(encode_command(word, *arguments))
    inline = (b"PING\r\nGET a\r\n", b"SET k " + b"9" * 300 + b"\r\n")
    return [*made, b"".join(made), *inline, b"*3\r\n$3\r\nSET\r\n$-5\r\n"]


_TOML_FILE, _CONTROL, _GUEST = _Toml(), _Control(), _Guest()

TARGETS: Sequence[Target] = (
    Target("toml", _TOML_FILE.run, (ConfigError,), _tomls, (mutate_lines,), surroundings=_TOML_FILE.folder, weight=5),
    Target("images", _run_image, (ImageError,), _images, (_mutate_head,), size_max=200_000, weight=5),
    Target("bundles", _run_image, (ImageError,), _bundles, (_mutate_bundle,), size_max=50_000, weight=5),
    Target(
        "control",
        _CONTROL.run,
        (),
        _requests,
        (mutate_json,),
        surroundings=_CONTROL.serving,
        size_max=100_000,
        weight=40,
    ),
    Target("resp", _run_resp, (RespError, trio.BrokenResourceError), _replies),
    Target("clients", _GUEST.run, (), _commands, (mutate_parts,), surroundings=_GUEST.machine, weight=100),
)
