"""kv answers as Redis does, byte for byte, and survives what clients do to it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm import guests
from ftvm.machine.machine import StopReason
from tests.guests.boards import PING, MachineWire, QemuWire, Wire, qemu_kv, redis_server, request
from tests.guests.sessions import SESSIONS

BULK_SIZE_MAX = 512 * 1024
OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


KvWire = QemuWire | MachineWire


@contextmanager
def kv_on(board: str, image: Path) -> Iterator[KvWire]:
    if board == "qemu":
        with qemu_kv(image) as wire:
            yield wire
    else:
        machine = MachineWire(image.read_bytes())
        machine.wait_for_kv()
        yield machine


@pytest.fixture(scope="module", params=["machine", "qemu"])
def kv(request: pytest.FixtureRequest) -> Iterator[KvWire]:
    with kv_on(request.param, guests.path("kv")) as wire:
        yield wire


@pytest.fixture(params=["machine", "qemu"])
def new_kv(request: pytest.FixtureRequest) -> Iterator[KvWire]:
    with kv_on(request.param, guests.path("kv")) as wire:
        yield wire


@pytest.fixture
def machine_kv() -> MachineWire:
    """For tests that move more bytes than QEMU's UART does in a reasonable time."""
    return MachineWire(guests.path("kv").read_bytes())


@pytest.fixture(scope="module")
def redis() -> Iterator[Wire]:
    with redis_server() as wire:
        yield wire


@pytest.mark.parametrize("session", SESSIONS)
def test_replies_are_those_of_redis(session: str, kv: KvWire, redis: Wire) -> None:
    for line in [request("FLUSHALL"), *SESSIONS[session]]:
        assert (line, kv.ask(line)) == (line, redis.ask(line))


@pytest.mark.parametrize("session", SESSIONS)
def test_pipelined_replies_are_those_of_redis(session: str, kv: KvWire, redis: Wire) -> None:
    lines = [request("FLUSHALL"), *SESSIONS[session]]
    assert kv.ask(*lines) == redis.ask(*lines)


keys = st.sampled_from([b"", b"a", b"b", b"\0", b"a-key-of-eight-and-more", b"k" * 200])
values = st.one_of(
    st.binary(max_size=300),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda value: str(value).encode()),
    st.integers(-20, 20).map(lambda value: str(value).encode()),
)
options = st.lists(
    st.sampled_from([b"NX", b"XX", b"GET", b"KEEPTTL", b"EX", b"PX", b"1000000", b"nonsense"]), max_size=3
)
EXCLUDED = {b"time", b"info"}
commands: st.SearchStrategy[tuple[bytes, ...]] = st.one_of(
    st.tuples(st.sampled_from([b"GET", b"DEL", b"INCR", b"DECR", b"STRLEN", b"EXISTS", b"PERSIST", b"TTL"]), keys),
    st.tuples(st.sampled_from([b"SET", b"APPEND", b"INCRBY", b"DECRBY"]), keys, values),
    st.tuples(st.just(b"SET"), keys, values, options).map(lambda call: (*call[:3], *call[3])),
    st.lists(keys, min_size=1, max_size=5).map(lambda some: (b"MGET", *some)),
    st.lists(st.tuples(keys, values), min_size=1, max_size=4).map(lambda some: (b"MSET", *sum(some, ()))),
    st.just((b"DBSIZE",)),
    st.lists(st.binary(max_size=40), min_size=1, max_size=5).map(tuple),
).filter(lambda call: call[0].lower() not in EXCLUDED)


@settings(max_examples=60, deadline=None)
@given(st.lists(commands, min_size=1, max_size=30))
def test_any_commands_are_answered_as_redis_answers(kv: KvWire, redis: Wire, calls: list[tuple[bytes, ...]]) -> None:
    """For any sequence of commands, both servers send the same bytes."""
    lines = [request("FLUSHALL"), *(request(*call) for call in calls)]
    assert kv.ask(*lines) == redis.ask(*lines)


@pytest.mark.parametrize(
    "junk",
    [
        b"*1\r\n:1\r\n",
        b"*1\r\n\r\n",
        b"*x\r\n",
        b"*01\r\n",
        b"*99999999999\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*2\r\n$4\r\nECHO\r\n$99999999999\r\n",
        b'set "a\r\n',
        b'set "a"b\r\n',
        b"*" + b"1" * 70000,
        b"*1\r\n$" + b"1" * 70000,
        b"x" * 70000,
    ],
)
def test_protocol_errors_are_those_of_redis(junk: bytes, kv: KvWire) -> None:
    """Redis hangs up then. kv drops all that the client still says, until the edge sends the BREAK."""
    with redis_server() as redis:
        kv.send(junk)
        redis.send(junk)
        assert kv.reply() == redis.reply()
    kv.send(PING)
    kv.send_break()
    assert kv.ask(PING) == [b"+PONG\r\n"]


def test_a_bulk_over_the_bound_is_a_protocol_error(new_kv: KvWire) -> None:
    new_kv.send(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % (BULK_SIZE_MAX + 1))
    assert new_kv.reply() == b"-ERR Protocol error: invalid bulk length\r\n"


@pytest.mark.parametrize(
    "half", [b"*2\r\n$3\r\nGET\r\n$5\r\nab", b"*2\r\n$3", b"*", b"get a", b"*1\r\n$524288\r\n" + b"x" * 1000]
)
def test_a_break_drops_the_half_request(half: bytes, kv: KvWire) -> None:
    kv.send(half)
    kv.send_break()
    assert kv.ask(PING) == [b"+PONG\r\n"]


def test_a_break_forgets_the_session_and_keeps_the_data(kv: KvWire) -> None:
    kv.ask(request("CLIENT", "SETNAME", "me"), request("SET", "a", "1"))
    kv.send_break()
    assert kv.ask(request("CLIENT", "GETNAME"), request("GET", "a")) == [b"$-1\r\n", b"$1\r\n1\r\n"]


def test_a_break_drops_the_rest_of_a_reply(new_kv: KvWire) -> None:
    """The client asks for far more than it reads, and leaves."""
    new_kv.ask(request("SET", "big", "x" * 100_000))
    new_kv.send(request("MGET", *["big"] * 200))
    new_kv.take(1000)
    new_kv.send_break()
    new_kv.send(request("ECHO", "next client"))
    assert len(new_kv.until(b"$11\r\nnext client\r\n")) < 15_000_000


def test_every_break_is_answered_by_one(machine_kv: MachineWire) -> None:
    for count in range(1, 6):
        machine_kv.send(request("GET", "a")[: 3 * count])
        machine_kv.send_break()
        assert machine_kv.ask(PING) == [b"+PONG\r\n"]
        assert machine_kv.breaks == count


def test_breaks_in_a_row_are_all_answered(machine_kv: MachineWire) -> None:
    machine_kv.ask(request("SET", "big", "x" * 100_000))
    machine_kv.send(request("MGET", *["big"] * 20))
    for _ in range(3):
        machine_kv.send_break()
    machine_kv.send(request("ECHO", "next client"))
    machine_kv.until(b"$11\r\nnext client\r\n")
    assert machine_kv.breaks == 3


def test_input_before_the_server_is_up_is_not_lost(machine_kv: MachineWire) -> None:
    assert machine_kv.ask(*[PING] * 50) == [b"+PONG\r\n"] * 50


def test_an_idle_server_sleeps_without_a_deadline(machine_kv: MachineWire) -> None:
    machine_kv.ask(PING)
    machine = machine_kv.machine
    assert machine.run_until(machine.tick + 10_000_000).reason is StopReason.IDLE
    assert machine.run_until(machine.tick + 10_000_000).reason is StopReason.IDLE
    assert machine.deadline() is None


def test_values_up_to_the_bound(machine_kv: MachineWire) -> None:
    value = random.Random(1).randbytes(BULK_SIZE_MAX)
    key = random.Random(2).randbytes(10_000)
    assert machine_kv.ask(request("SET", key, value)) == [b"+OK\r\n"]
    assert machine_kv.ask(request("APPEND", key, "x")) == [
        b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
    ]
    assert machine_kv.ask(request("GET", key)) == [b"$%d\r\n%s\r\n" % (len(value), value)]
    assert machine_kv.ask(request("DEL", key)) == [b":1\r\n"]


def test_a_request_over_the_buffer_is_refused_and_the_stream_stays_in_step(machine_kv: MachineWire) -> None:
    assert machine_kv.ask(request("MSET", *["x" * 300_000] * 4), PING) == [OOM, b"+PONG\r\n"]


@pytest.fixture(params=["machine", "qemu"])
def small_kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KvWire]:
    """A kv with 256 KiB for its data."""
    image = tmp_path / "kv.elf"
    image.write_bytes(guests.with_word(guests.path("kv").read_bytes(), "heap_size", 256 * 1024))
    with kv_on(request.param, image) as wire:
        yield wire


def used_memory(wire: Wire) -> int:
    info = wire.ask(request("INFO", "memory"))[0].decode()
    return int(info.split("used_memory:")[1].split()[0])


def test_memory_full_is_an_error_and_nothing_is_lost(small_kv: KvWire) -> None:
    model: dict[str, str] = {}
    for value in ("v" * 100, ""):
        while (reply := small_kv.ask(request("SET", key := f"key:{len(model)}", value))[0]) != OOM:
            assert reply == b"+OK\r\n"
            model[key] = value
    assert len(model) > 1000
    assert small_kv.ask(request("MSET", "key:0", "x", "new", "y" * 1000), request("INCR", "new")) == [OOM, OOM]
    assert small_kv.ask(request("SET", "new", "z", "GET"), request("APPEND", "key:1", "x" * 100)) == [OOM, OOM]
    assert small_kv.ask(request("MGET", *model))[0].count(b"v" * 100) == [*model.values()].count("v" * 100)
    assert small_kv.ask(request("DEL", "key:0"), request("SET", "new", "x" * 100)) == [b":1\r\n", b"+OK\r\n"]
    assert small_kv.ask(*(request("DEL", key) for key in [*model, "new"]))[-1] == b":1\r\n"
    assert small_kv.ask(request("SET", "all", "x" * 200_000)) == [b"+OK\r\n"]


def test_random_workload_never_fragments(small_kv: KvWire) -> None:
    """Whatever was stored and removed before, memory that is free again can hold one large value."""
    rng = random.Random(4711)
    model: dict[bytes, bytes] = {}
    for _ in range(60):
        lines, wanted = [], []
        for _ in range(40):
            key = b"k%d" % rng.randrange(120)
            if rng.random() < 0.3:
                lines.append(request("DEL", key))
                wanted.append(b":%d\r\n" % (model.pop(key, None) is not None))
            elif rng.random() < 0.3 and len(model.get(key, b"")) < 4000:
                data = rng.randbytes(rng.randrange(90))
                model[key] = model.get(key, b"") + data
                lines.append(request("APPEND", key, data))
                wanted.append(b":%d\r\n" % len(model[key]))
            else:
                model[key] = rng.randbytes(int(2 ** rng.uniform(0, 11)))
                lines.append(request("SET", key, model[key]))
                wanted.append(b"+OK\r\n")
        assert small_kv.ask(*lines) == wanted
    assert small_kv.ask(request("DBSIZE")) == [b":%d\r\n" % len(model)]
    for key, value in model.items():
        assert small_kv.ask(request("GET", key)) == [b"$%d\r\n%s\r\n" % (len(value), value)]
    small_kv.ask(*(request("DEL", key) for key in model))
    assert used_memory(small_kv) < 1024
    assert small_kv.ask(request("SET", "all", "x" * 220_000)) == [b"+OK\r\n"]


def test_expired_keys_are_gone_and_their_memory_comes_back(small_kv: KvWire) -> None:
    for start in range(0, 1000, 100):
        small_kv.ask(*(request("SET", f"k{at}", "v" * 100, "PX", "1") for at in range(start, start + 100)))
    for _ in range(50):
        if small_kv.ask(*[PING] * 200, request("DBSIZE"))[-1] == b":0\r\n":
            break
    assert small_kv.ask(request("DBSIZE"), request("GET", "k1")) == [b":0\r\n", b"$-1\r\n"]
    assert used_memory(small_kv) < 1024


def test_time_counts_from_the_start_of_the_board(kv: KvWire) -> None:
    readings = [kv.ask(request("TIME"))[0].split(b"\r\n") for _ in range(3)]
    microseconds = [int(reading[2]) * 1_000_000 + int(reading[4]) for reading in readings]
    assert microseconds == sorted(microseconds)
    assert 0 < microseconds[0] < 3600 * 1_000_000
    assert b"time_epoch:0" in kv.ask(request("INFO", "server"))[0]


def test_what_clients_ask_for_at_their_start(kv: KvWire) -> None:
    count = int(kv.ask(request("COMMAND", "COUNT"))[0][1:])
    assert kv.ask(request("COMMAND"))[0].startswith(b"*%d\r\n" % count)
    assert kv.ask(request("COMMAND", "DOCS")) == [b"*0\r\n"]
    assert kv.ask(request("COMMAND", "INFO", "get", "nope"))[0].endswith(b"*-1\r\n")
    assert kv.ask(request("HELLO", "3")) == [b"-NOPROTO unsupported protocol version\r\n"]
    assert b"proto\r\n:2\r\n" in kv.ask(request("HELLO", "2", "SETNAME", "x"))[0]
    assert kv.ask(request("CLIENT", "SETINFO", "LIB-NAME", "x"), request("QUIT")) == [b"+OK\r\n", b"+OK\r\n"]


def test_shutdown_powers_off(machine_kv: MachineWire) -> None:
    machine_kv.send(PING + request("SHUTDOWN", "NOSAVE"))
    assert machine_kv.reply() == b"+PONG\r\n"
    machine = machine_kv.machine
    assert machine.run_until(machine.tick + 10_000_000).reason is StopReason.HALTED
    assert machine.halt is not None
    assert machine.halt.ok


def test_shutdown_powers_qemu_off() -> None:
    with qemu_kv(guests.path("kv")) as wire:
        wire.send(request("SHUTDOWN"))
        assert wire.stream.recv(1) == b""
