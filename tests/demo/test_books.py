"""The client's books find what they are there to find: a loss, a double, a wrong answer; and the client is strict."""

from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from ftvm.demo.load import KEYS, Audit, Loader
from ftvm.demo.resp import Reply, RespClient, RespError, encode_command

Fault = Callable[[dict[bytes, bytes]], None]


class Store:
    """A server in memory that answers as Redis does, and can be told to forget."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def answer(self, command: bytes, *words: bytes) -> bytes:
        key = words[0]
        if command == b"APPEND":
            self.values[key] = self.values.get(key, b"") + words[1]
            return b":%d\r\n" % len(self.values[key])
        if command == b"INCR":
            self.values[key] = b"%d" % (int(self.values.get(key, b"0")) + 1)
            return b":%b\r\n" % self.values[key]
        if command == b"GET":
            value = self.values.get(key)
            return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        return b"-ERR unknown command\r\n"

    async def serve(self, stream: trio.abc.Stream) -> None:
        data = b""
        async for received in stream:
            data += received
            while data and (parsed := parse(data)):
                words, data = parsed
                await stream.send_all(self.answer(*words))


def parse(data: bytes) -> tuple[list[bytes], bytes] | None:
    """The first array of bulk strings in `data`, and the rest; None if it is not whole."""
    head, _, rest = data.partition(b"\r\n")
    words = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        if not size or len(rest) < int(size[1:]) + 2:
            return None
        words.append(rest[: int(size[1:])])
        rest = rest[int(size[1:]) + 2 :]
    return words, rest


def audit(fault: Fault, *, before: int = 3 * KEYS, after: int = 0) -> Audit:
    """Load the store, let `fault` happen to it, load it further, and compare the books."""

    async def main() -> Audit:
        ours, theirs = trio.testing.memory_stream_pair()
        store = Store()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.serve, theirs)
            loader = Loader(RespClient(ours), "t")
            for _ in range(before):
                await loader.operate()
            fault(store.values)
            for _ in range(after):
                await loader.operate()
            result = await loader.audit()
            assert loader.ledger.acknowledged == before + after
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main)


def forget_a_token(values: dict[bytes, bytes]) -> None:
    first, _, rest = values[b"t:s0"].partition(b";")
    assert first
    values[b"t:s0"] = rest


def repeat_a_token(values: dict[bytes, bytes]) -> None:
    values[b"t:s0"] += values[b"t:s0"].partition(b";")[0] + b";"


def invent_a_token(values: dict[bytes, bytes]) -> None:
    values[b"t:s0"] += b"t.999999;"


def forget_a_key(values: dict[bytes, bytes]) -> None:
    del values[b"t:s2"]


def count_back(values: dict[bytes, bytes]) -> None:
    values[b"t:n1"] = b"%d" % (int(values[b"t:n1"]) - 1)


def count_twice(values: dict[bytes, bytes]) -> None:
    values[b"t:n1"] = b"%d" % (int(values[b"t:n1"]) + 1)


def nothing(_values: dict[bytes, bytes]) -> None:
    pass


@pytest.mark.parametrize(
    ("fault", "lost", "duplicated"),
    [
        (nothing, 0, 0),
        (forget_a_token, 1, 0),
        (repeat_a_token, 0, 1),
        (invent_a_token, 0, 1),
        (forget_a_key, 3, 0),
        (count_back, 1, 0),
        (count_twice, 0, 1),
    ],
)
def test_the_audit_counts_each_loss_and_each_double(fault: Fault, lost: int, duplicated: int) -> None:
    result = audit(fault)
    assert (result.lost, result.duplicated) == (lost, duplicated)
    assert result.clean is (fault is nothing)


@pytest.mark.parametrize("fault", [forget_a_token, repeat_a_token, forget_a_key, count_back, count_twice])
def test_the_next_answer_already_shows_it(fault: Fault) -> None:
    result = audit(fault, after=2 * KEYS)
    assert result.surprises
    assert not result.clean


replies: st.SearchStrategy[Reply] = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=50) | st.text("abc OK", max_size=10),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


def encode_reply(reply: Reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case str():
            return b"+%b\r\n" % reply.encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode_reply, reply))


def call(answer: bytes, piece: int = 1 << 20) -> Reply:
    """What the client makes of an answer that arrives in pieces."""

    async def main() -> Reply:
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await theirs.receive_some()
            for start in range(0, len(answer), piece):
                await theirs.send_all(answer[start : start + piece])
            await theirs.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                return await RespClient(ours).call("PING")
            except (RespError, trio.BrokenResourceError) as error:
                failure = error
        raise failure

    return trio.run(main)


@given(replies, st.integers(1, 7))
def test_every_reply_is_understood_however_it_is_cut(reply: Reply, piece: int) -> None:
    assert call(encode_reply(reply), piece) == reply


@pytest.mark.parametrize("answer", [b"-ERR no\r\n", b"*1\r\n-ERR no\r\n", b"hello\r\n", b"$99999999999\r\n"])
def test_errors_and_what_is_no_reply_raise(answer: bytes) -> None:
    with pytest.raises(RespError):
        call(answer)


def test_a_connection_that_ends_in_mid_reply_raises() -> None:
    with pytest.raises(trio.BrokenResourceError):
        call(b"$10\r\nabc")


def test_commands_are_arrays_of_bulk_strings() -> None:
    assert encode_command("SET", b"k\0", 12) == b"*3\r\n$3\r\nSET\r\n$2\r\nk\0\r\n$2\r\n12\r\n"
