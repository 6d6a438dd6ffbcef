"""Channels over memory whose connections are lost: what their users see of it. The clock is a mock."""

import math
from collections.abc import Awaitable, Callable
from itertools import repeat

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.transport.test_channel import run, wire_of
from transport.channel import Channel, Limits
from transport.errors import ChannelClosed, ResumeFailed
from transport.frame import FrameEncoder, FrameType
from transport.path import Path, PathLost
from transport.resume import decode_resume
from transport.session import FRUITLESS_RESUMES_MAX
from transport.testing import NODE_A, NODE_B, PlainCipher, memory_channel_pair, memory_wire_pair

PATIENT = Limits(resume_timeout_s=2.0)
NEVER_AGAIN = (1.0, 1.0)
"""Allowances of a connection that carries no handshake."""


async def drain(channel: Channel, count: int) -> list[bytes]:
    return [await channel.receive() for _ in range(count)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 64, 5000, 300_000]), max_size=12),
    st.lists(st.sampled_from([0, 1, 64, 5000, 2_000_000]), max_size=6),
    st.lists(
        st.tuples(st.integers(1, 600_000) | st.integers(1, 400), st.integers(1, 600_000) | st.integers(1, 400)),
        max_size=FRUITLESS_RESUMES_MAX,
    ),
)
def test_cut_connections_lose_double_and_reorder_nothing(
    to_b: list[int], to_a: list[int], cuts: list[tuple[int, int]]
) -> None:
    """Any messages both ways at once, any cuts in bytes of either direction; and both ends are clean."""

    async def main() -> None:
        async def send(channel: Channel, sizes: list[int]) -> None:
            for number, size in enumerate(sizes):
                await channel.send(bytes([number]) * size)

        async def receive(channel: Channel, sizes: list[int]) -> None:
            assert await drain(channel, len(sizes)) == [bytes([n]) * size for n, size in enumerate(sizes)]

        async with memory_channel_pair(PATIENT, cuts=iter(cuts)) as (a, b):
            async with trio.open_nursery() as nursery:
                for channel, out, into in ((a, to_b, to_a), (b, to_a, to_b)):
                    nursery.start_soon(send, channel, out)
                    nursery.start_soon(receive, channel, into)
            assert a.statistics().messages_out == b.statistics().messages_in == len(to_b)
            await a.close("all said")
            with pytest.raises(ChannelClosed, match="all said") as caught:
                await b.receive()
            assert caught.value.clean

    run(main)


def test_a_lost_connection_is_dialled_again_and_counted() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT) as (a, b):
            for number in range(1, 20):
                await a.send(b"before")
                wire_of(a).cut()
                await b.send(b"meanwhile")
                assert await b.receive() == b"before"
                assert await a.receive() == b"meanwhile"
                assert a.statistics().resumes == b.statistics().resumes == number
            assert a.statistics().wire_bytes_out > 20 * 6
            assert not a.is_interrupted

    run(main)


def test_the_server_may_be_the_last_to_hear_of_it() -> None:
    """Its connection looks well while the client is back on another one: what it had sent is sent again."""

    async def main() -> None:
        async with memory_channel_pair(PATIENT) as (a, b):
            wire_of(a).fail()
            for number in range(50):
                b.send_nowait(bytes([number]) * 1000)
            await wait_all_tasks_blocked()
            assert b.statistics().resumes == 1
            assert await drain(a, 50) == [bytes([number]) * 1000 for number in range(50)]
            a.send_nowait(b"and back")
            assert await b.receive() == b"and back"

    run(main)


def test_late_bytes_of_the_old_connection_are_not_looked_at() -> None:
    """A segment is on its way when the client gives the connection up, and arrives after the same segment was sent
    again on the new one."""

    async def main() -> None:
        async with memory_channel_pair(PATIENT) as (a, b):
            await wait_all_tasks_blocked()
            old = wire_of(b)
            late = FrameEncoder().encode(FrameType.SEGMENT_LAST, bytes(8), b"once")

            async def redial(request: bytes) -> tuple[Path, bytes]:
                near, far = memory_wire_pair()
                old._buffer += late
                assert b.resume(Path(far, PlainCipher(NODE_A)), NODE_A, decode_resume(request))
                path = Path(near, PlainCipher(NODE_B))
                return path, (await path.read_frame()).payload

            a._carrier._redial = redial
            wire_of(a).fail()
            a.send_nowait(b"once")
            a.send_nowait(b"twice")
            with trio.fail_after(1):
                assert await drain(b, 2) == [b"once", b"twice"]
            await wait_all_tasks_blocked()
            assert not b.statistics().messages_waiting
            assert a.statistics().resumes == b.statistics().resumes == 1

    run(main)


def test_a_side_that_gives_a_connection_up_tells_the_other() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT, cuts=iter([(math.inf, math.inf), *[NEVER_AGAIN] * 4])) as (a, b):
            wire = wire_of(a)
            wire._is_lost = True  # what came here could not be decrypted, say
            wire._changed.unpark_all()
            with trio.fail_after(1):
                await b.wait_interrupted()
            a.send_nowait(b"back")
            assert await b.receive() == b"back"

    run(main)


def test_nobody_comes_back_and_both_are_told_in_time() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT, cuts=repeat(NEVER_AGAIN)) as (a, b):
            began = trio.current_time()
            a.send_nowait(b"x")

            async def ends(channel: Channel) -> None:
                with pytest.raises(ChannelClosed, match="did not come back within 2 s") as caught:
                    await channel.receive()
                assert not caught.value.clean
                assert isinstance(caught.value.__cause__, ResumeFailed)
                assert trio.current_time() - began == pytest.approx(2.0)
                with pytest.raises(ChannelClosed):
                    channel.send_nowait(b"late")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends, a)
                nursery.start_soon(ends, b)

    run(main)


def test_without_a_bound_a_session_ends_with_its_connection() -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            wire_of(a).cut()
            for channel in (a, b):
                with pytest.raises(ChannelClosed) as caught:
                    await channel.receive()
                assert isinstance(caught.value.__cause__, PathLost)

    run(main)


def test_sends_queue_up_to_the_bound_while_interrupted_and_go_on_after() -> None:
    async def main() -> None:
        limits = Limits(resume_timeout_s=2.0, queue_size_max=50_000)
        cuts = [(math.inf, math.inf), *[NEVER_AGAIN] * 3]
        async with memory_channel_pair(limits, cuts=iter(cuts)) as (a, b):
            wire_of(b).cut()
            await b.wait_interrupted()
            sent = 0
            while b.statistics().queued_bytes < limits.queue_size_max:
                b.send_nowait(bytes([sent]) * 10_000)
                sent += 1
            with pytest.raises(trio.WouldBlock):
                b.send_nowait(b"no room")
            assert sent == 5
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.send, b"waits for room")
                assert (await drain(a, sent + 1))[-1] == b"waits for room"
            assert a.statistics().resumes == 1

    run(main)


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("cut_after", [1, 40, 200, 5000, 70_000])
def test_closing_is_interrupted_and_resumed_like_anything_else(who: str, cut_after: int) -> None:
    """Everything that was sent before arrives, then the reason: clean for both."""

    async def main() -> None:
        limits = Limits(resume_timeout_s=2.0, close_timeout_s=2.0)
        cuts = [(cut_after, math.inf), (math.inf, cut_after)]
        async with memory_channel_pair(limits, cuts=iter(cuts)) as (a, b):
            for channel in (a, b):
                for number in range(30):
                    channel.queue_nowait(bytes([number]) * 3000)
            closing, other = (a, b) if who == "client" else (b, a)
            await closing.close("it ends here")
            assert await drain(other, 30) == [bytes([number]) * 3000 for number in range(30)]
            with pytest.raises(ChannelClosed, match="it ends here") as caught:
                await other.receive()
            assert caught.value.clean

    run(main)


@pytest.mark.parametrize("cut_after", [1, 40, 86, 200, 5000])
def test_two_sides_that_close_at_once_on_a_lost_connection_both_end(cut_after: int) -> None:
    async def main() -> None:
        limits = Limits(resume_timeout_s=2.0, close_timeout_s=1.0)
        async with memory_channel_pair(limits, cuts=iter([(cut_after, cut_after)] * 2)) as (a, b):
            for channel in (a, b):
                for number in range(10):
                    channel.queue_nowait(bytes([number]) * 300)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.close)
                nursery.start_soon(b.close)
            assert trio.current_time() - began <= 1.0
            for channel in (a, b):
                count = channel.statistics().messages_waiting
                assert await drain(channel, count) == [bytes([number]) * 300 for number in range(count)]

    run(main)


def test_a_closed_session_is_not_resumed() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT) as (a, b):
            wire = wire_of(a)
            await b.close("over")
            with pytest.raises(ChannelClosed, match="over"):
                await a.receive()
            wire.cut()
            await wait_all_tasks_blocked()
            assert a.statistics().resumes == b.statistics().resumes == 0

    run(main)


def test_a_peer_that_closed_while_the_connection_was_away_refuses_in_words() -> None:
    async def main() -> None:
        limits = Limits(resume_timeout_s=60.0, close_timeout_s=0.0)
        cuts = [(math.inf, math.inf), *[NEVER_AGAIN] * 3]
        async with memory_channel_pair(limits, cuts=iter(cuts)) as (a, b):
            wire_of(b).cut()
            await b.wait_interrupted()
            await b.close("will not wait")
            b._carrier.close()
            with pytest.raises(ChannelClosed, match="refused the connection: over"):
                await a.receive()
            assert a.statistics().resumes == 0

    run(main)


def test_an_owner_that_knows_better_need_not_wait() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT, cuts=repeat(NEVER_AGAIN)) as (a, b):
            b.abandon("nothing happens: it is not interrupted")
            a.send_nowait(b"x")
            await b.wait_interrupted()
            began = trio.current_time()
            b.abandon("the peer is gone")
            with pytest.raises(ChannelClosed, match="the peer is gone"):
                await b.receive()
            assert trio.current_time() == began

    run(main)


def test_a_session_that_came_back_is_not_abandoned() -> None:
    async def main() -> None:
        async with memory_channel_pair(PATIENT) as (a, b):
            wire_of(a).cut()
            await b.wait_interrupted()
            await a.send(b"back")
            assert await b.receive() == b"back"
            b.abandon("too late")
            await a.send(b"still there")
            assert await b.receive() == b"still there"

    run(main)


def test_a_network_that_passes_handshakes_only_ends_the_session() -> None:
    """RESUME and RESUMED have 114 bytes with their heads; a segment of 10,000 bytes never passes."""

    async def main() -> None:
        limits = Limits(resume_timeout_s=60.0)
        async with memory_channel_pair(limits, cuts=repeat((math.inf, 300.0))) as (a, b):
            b.send_nowait(bytes(10_000))
            with pytest.raises(ChannelClosed, match="in a row were lost"):
                await a.receive()
            with pytest.raises(ChannelClosed, match="in a row were lost"):
                await b.receive()
            assert a.statistics().resumes == FRUITLESS_RESUMES_MAX

    run(main)


@pytest.mark.parametrize("call", ["send", "receive", "wait_interrupted"])
def test_calls_that_are_cancelled_while_interrupted_lose_nothing(call: str) -> None:
    async def main() -> None:
        limits = Limits(resume_timeout_s=2.0, queue_size_max=1)
        cuts = [(math.inf, math.inf), *[NEVER_AGAIN] * 4]
        async with memory_channel_pair(limits, cuts=iter(cuts)) as (a, b):
            wire_of(a).cut()
            await a.wait_interrupted()
            a.send_nowait(b"fills the queue")
            b.send_nowait(b"to a")
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "send": lambda: a.send(b"cancelled"),
                "receive": a.receive,
                "wait_interrupted": a.wait_interrupted,
            }
            with trio.move_on_after(0):
                await calls[call]()
            assert await drain(b, 1) == [b"fills the queue"]
            assert await drain(a, 1) == [b"to a"]
            await a.send(b"next")
            assert await drain(b, 1) == [b"next"]

    run(main)


def test_leaving_the_block_while_interrupted_ends_everything_in_time() -> None:
    async def main() -> None:
        limits = Limits(resume_timeout_s=60.0, close_timeout_s=0.5)
        began = trio.current_time()
        async with memory_channel_pair(limits, cuts=repeat(NEVER_AGAIN)) as (a, _):
            a.send_nowait(b"x")
            await wait_all_tasks_blocked()
        assert trio.current_time() - began <= 1.1

    run(main)
