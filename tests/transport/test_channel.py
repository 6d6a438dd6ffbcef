"""Channels over memory: order, back-pressure, cancellation and ends. The clock is a mock."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from transport.channel import Channel, Limits, Peer, run_channel
from transport.errors import ChannelClosed, FrameTruncated, SessionViolation
from transport.frame import FrameDecoder, FrameEncoder, FrameType
from transport.heartbeat import HeartbeatKeys
from transport.path import UNSENT_SIZE_MAX, Path, PathLost
from transport.session import SEGMENT_OVERHEAD, WINDOW_SIZE
from transport.testing import NODE_B, MemoryWire, PlainCipher, memory_channel_pair, memory_wire_pair


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(bounded, clock=MockClock(autojump_threshold=0))


def wire_of(channel: Channel) -> MemoryWire:
    wire = channel._carrier.path.wire
    assert isinstance(wire, MemoryWire)
    return wire


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 64, 5000, 300_000]), max_size=20),
    st.lists(st.sampled_from([0, 1, 64, 5000, 6_000_000]), max_size=6),
)
def test_messages_arrive_whole_and_in_order_both_ways(to_b: list[int], to_a: list[int]) -> None:
    """Both sides send everything before anybody's application takes the first message of the other."""

    async def main() -> None:
        async def send(channel: Channel, sizes: list[int]) -> None:
            for number, size in enumerate(sizes):
                await channel.send(bytes([number]) * size)

        async def receive(channel: Channel, sizes: list[int]) -> None:
            for number, size in enumerate(sizes):
                assert await channel.receive() == bytes([number]) * size

        async with memory_channel_pair() as (a, b), trio.open_nursery() as nursery:
            for channel, out, into in ((a, to_b, to_a), (b, to_a, to_b)):
                nursery.start_soon(send, channel, out)
                await wait_all_tasks_blocked()
                nursery.start_soon(receive, channel, into)

    run(main)


def test_a_peer_that_never_receives_stops_the_sender_and_nothing_else() -> None:
    async def main() -> None:
        async with memory_channel_pair(Limits(queue_size_max=100_000)) as (a, b):
            sent = 0
            with trio.move_on_after(1):
                while True:
                    await a.send(bytes(10_000))
                    sent += 1
            accepted = sent * (10_000 + SEGMENT_OVERHEAD)
            assert accepted <= WINDOW_SIZE + 100_000 + 2 * 10_128
            with pytest.raises(trio.WouldBlock):
                a.send_nowait(b"one too many")
            await b.send(b"the other way is free")
            assert await a.receive() == b"the other way is free"
            for _ in range(sent):
                assert await b.receive() == bytes(10_000)
            await wait_all_tasks_blocked()
            a.send_nowait(b"room again")
            assert await b.receive() == b"room again"
            assert a.statistics().messages_out == b.statistics().messages_in == sent + 1

    run(main)


def test_two_sides_that_only_send_do_not_deadlock_each_other() -> None:
    """Both queues are full. As soon as one application takes messages, everything moves again."""

    async def main() -> None:
        async def send(channel: Channel) -> None:
            for _ in range(1000):
                await channel.send(bytes(20_000))

        async with memory_channel_pair() as (a, b), trio.open_nursery() as nursery:
            nursery.start_soon(send, a)
            nursery.start_soon(send, b)
            await wait_all_tasks_blocked()
            assert a.statistics().messages_out < 1000
            for channel in (a, b):
                for _ in range(1000):
                    await channel.receive()

    run(main)


def test_a_cancelled_send_sends_nothing_and_harms_nothing() -> None:
    async def main() -> None:
        async with memory_channel_pair(Limits(queue_size_max=1)) as (a, b):
            accepted = []
            for number in range(2000):
                with trio.move_on_after(0.001):
                    await a.send(number.to_bytes(2, "big") * 3000)
                    accepted.append(number)
            assert 0 < len(accepted) < 2000
            for number in accepted:
                assert await b.receive() == number.to_bytes(2, "big") * 3000
            with pytest.raises(trio.WouldBlock):
                b.receive_nowait()

    run(main)


def test_a_cancelled_receive_loses_nothing() -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            for number in range(100):
                with trio.move_on_after(0):
                    await b.receive()
                await a.send(bytes([number]))
                assert await b.receive() == bytes([number])

    run(main)


def test_close_delivers_everything_then_its_reason() -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            for number in range(50):
                await a.send(bytes([number]) * 50_000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.close, "powered off")
                for number in range(50):
                    assert await b.receive() == bytes([number]) * 50_000
                with pytest.raises(ChannelClosed, match="powered off") as caught:
                    await b.receive()
            assert caught.value.clean
            assert caught.value.reason == "powered off"
            for call in (b.receive, a.receive):
                with pytest.raises(ChannelClosed):
                    await call()
            for channel in (a, b):
                with pytest.raises(ChannelClosed):
                    await channel.send(b"late")
                await channel.close("again")

    run(main)


def test_nothing_follows_a_goodbye_not_even_an_acknowledgement() -> None:
    async def main() -> None:
        wire, far_wire = memory_wire_pair()
        peer = Peer(NODE_B, {}, "127.0.0.1", 0, HeartbeatKeys(1, bytes(32), bytes(32)), 0)
        encoder = FrameEncoder()
        async with run_channel(Channel(Path(wire, PlainCipher(NODE_B)), peer, Limits())) as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.close)
                await wait_all_tasks_blocked()
                for number in range(20):
                    body = number.to_bytes(8, "big") + bytes(100_000)
                    frame = encoder.encode(FrameType.SEGMENT_LAST, body)
                    assert far_wire.try_send(memoryview(frame)) == len(frame)
                    await wait_all_tasks_blocked()
                for _ in range(20):
                    assert channel.receive_nowait() == bytes(100_000)
                far_wire.send_eof()
            decoder = FrameDecoder()
            decoder.feed(await far_wire.receive_some())
            goodbye = decoder.next_frame()
            assert goodbye is not None
            assert goodbye.type is FrameType.GOODBYE
            decoder.finish()

    run(main)


def test_close_is_bounded_when_the_peer_does_not_take_what_is_queued() -> None:
    async def main() -> None:
        async with memory_channel_pair(Limits(queue_size_max=2 * WINDOW_SIZE, close_timeout_s=3)) as (a, b):
            for _ in range(100):
                await a.send(bytes(60_000))
            began = trio.current_time()
            await a.close()
            assert trio.current_time() - began == 3
            assert b.statistics().messages_in < 100

    run(main)


def test_a_lost_connection_wakes_everybody_after_what_had_arrived() -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            await a.send(b"before")
            outcomes: list[ChannelClosed] = []

            async def fill() -> None:
                try:
                    while True:
                        await b.send(bytes(100_000))
                except ChannelClosed as error:
                    outcomes.append(error)

            async def wait() -> None:
                assert await b.receive() == b"before"
                with pytest.raises(ChannelClosed, match="lost") as caught:
                    await b.receive()
                outcomes.append(caught.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill)
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
                assert not outcomes
                wire_of(a).cut()
            assert len(outcomes) == 2
            for error in outcomes:
                assert not error.clean
                assert isinstance(error.__cause__, PathLost)
            for _ in range(a.statistics().messages_waiting):
                assert await a.receive() == bytes(100_000)
            with pytest.raises(ChannelClosed, match="lost"):
                await a.receive()

    run(main)


def test_an_end_inside_a_frame_is_not_clean() -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            frame = a._carrier.path.encode(FrameType.SEGMENT_LAST, bytes(8), b"whole")
            wire_of(a).try_send(memoryview(frame)[:-1])
            wire_of(a).send_eof()
            with pytest.raises(ChannelClosed) as caught:
                await b.receive()
            assert isinstance(caught.value.__cause__, FrameTruncated)

    run(main)


@pytest.mark.parametrize("frame_type", [FrameType.HELLO, FrameType.WELCOME, FrameType.REFUSED])
def test_a_handshake_frame_inside_a_session_ends_it(frame_type: FrameType) -> None:
    async def main() -> None:
        async with memory_channel_pair() as (a, b):
            a._carrier.path.write(a._carrier.path.encode(frame_type, b""))
            with pytest.raises(ChannelClosed, match="inside a session") as caught:
                await b.receive()
            assert isinstance(caught.value.__cause__, SessionViolation)

    run(main)


def test_an_exception_in_the_block_comes_out_as_it_is_and_the_peer_hears_of_it() -> None:
    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with memory_channel_pair() as (a, _):
                raise KeyError("mine")
        with pytest.raises(ChannelClosed, match="failed: KeyError") as caught:
            a.receive_nowait()
        assert caught.value.clean

    run(main)


class Talkative(PlainCipher):
    """Answers whatever comes with a lot of its own, as TLS answers a peer that asks for new keys without end."""

    def read(self) -> bytes:
        self._outgoing += bytes(100_000)
        return super().read()


def test_a_peer_that_asks_without_reading_the_answers_is_given_up() -> None:
    async def main() -> None:
        wire, far = memory_wire_pair()
        path, encoder = Path(wire, Talkative(NODE_B)), FrameEncoder()

        async def read_all() -> None:
            while True:
                far.try_send(memoryview(encoder.encode(FrameType.ACK, bytes(8))))
                await path.read_frame()

        with pytest.raises(PathLost, match="does not read the answers"):
            await read_all()
        assert len(path._unsent) <= UNSENT_SIZE_MAX + 100_000

    run(main)


def test_a_channel_whose_block_was_cancelled_is_closed() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with memory_channel_pair() as (a, _):
                scope.cancel()
                await trio.sleep_forever()
        for call in (a.receive_nowait, lambda: a.send_nowait(b"late")):
            with pytest.raises(ChannelClosed, match="cancelled") as caught:
                call()
            assert not caught.value.clean

    run(main)
