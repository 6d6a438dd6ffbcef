"""Real TLS on loopback through a proxy that cuts: who may bring a session back, and who may not."""

import contextlib
import random
from itertools import count

import pytest
import trio

from tests.transport.conftest import NODES, Pki, echo, start_server
from tests.transport.test_listener import tls_stream
from tests.transport.test_processes import start_process
from tests.transport.test_tls_channel import HELLO, HOST, connect, refusals, run
from transport import listener as listener_module
from transport.certificates import client_context
from transport.channel import Channel, Limits, open_channel
from transport.errors import ChannelClosed
from transport.frame import FrameDecoder, FrameEncoder, FrameType
from transport.handshake import decode_reason
from transport.testing import ChaosProxy, open_chaos_proxy

PATIENT = Limits(resume_timeout_s=10.0)


def test_a_conversation_whose_connection_is_cut_again_and_again_is_exact(pki: Pki) -> None:
    """Cuts at random bytes of either direction: in TLS records, in frames, and while the client comes back."""
    random_cuts = random.Random(8)

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a, limits=PATIENT)
        messages = [random_cuts.randbytes(random_cuts.choice((0, 10, 3000, 70_000, 600_000))) for _ in range(60)]
        async with open_chaos_proxy(HOST, port) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO, limits=PATIENT) as channel:
                for message in messages:
                    direction = random_cuts.choice((proxy.to_server, proxy.to_client))
                    direction.cut_after = direction.passed + random_cuts.choice((1, 500, 3000, 4000, 50_000))
                    await channel.send(message)
                    with trio.move_on_after(0.01):
                        await channel.wait_interrupted()
                    proxy.to_server.cut_after = proxy.to_client.cut_after = float("inf")
                    assert await channel.receive() == message
                assert channel.statistics().resumes > 20

    run(main)


def test_a_connection_that_is_cut_all_the_time_still_carries(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a, limits=PATIENT)
        async with open_chaos_proxy(HOST, port) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO, limits=PATIENT) as channel:
                nursery.start_soon(cut_often, proxy, 0.02)
                sent = 0
                while channel.statistics().resumes < 20:
                    for number in range(sent, sent + 50):
                        await channel.send(number.to_bytes(4, "big") * 500)
                    for number in range(sent, sent + 50):
                        assert await channel.receive() == number.to_bytes(4, "big") * 500
                    sent += 50

    run(main)


async def cut_often(proxy: ChaosProxy, interval_s: float) -> None:
    while True:
        await trio.sleep(interval_s)
        proxy.cut()


def test_a_killed_peer_is_over_at_once_and_not_waited_for(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        process, port = await start_process(nursery, pki, resume_timeout_s=60.0)
        limits = Limits(resume_timeout_s=60.0)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO, limits=limits) as channel:
            await channel.send(b"x")
            assert await channel.receive() == b"x"
            process.kill()
            with trio.fail_after(2), pytest.raises(ChannelClosed, match="refused") as caught:
                await channel.receive()
            assert not caught.value.clean

    run(main)


def test_another_life_at_the_same_address_does_not_know_the_session(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        first, second = [await start_server(nursery, pki.a, limits=PATIENT) for _ in range(2)]
        async with open_chaos_proxy(HOST, first) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO, limits=PATIENT) as channel:
                proxy.target = (HOST, second)
                proxy.cut()
                with trio.fail_after(2), pytest.raises(ChannelClosed, match="the process started again") as caught:
                    await channel.receive()
                assert not caught.value.clean

    run(main)


def test_another_node_at_the_same_address_is_not_taken_for_the_peer(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        first = await start_server(nursery, pki.a, limits=PATIENT)
        other = await start_server(nursery, pki.b, limits=PATIENT)
        async with open_chaos_proxy(HOST, first) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO, limits=PATIENT) as channel:
                proxy.target = (HOST, other)
                proxy.cut()
                with trio.fail_after(2), pytest.raises(ChannelClosed, match="answers where"):
                    await channel.receive()

    run(main)


async def resume_by_hand(port: int, node: object, payload: bytes) -> str:
    """The answer to a RESUME with this payload, from a client with the certificate of `node`."""
    stream = await tls_stream(port, node)  # type: ignore[arg-type]
    await stream.send_all(FrameEncoder().encode(FrameType.RESUME, payload))
    decoder = FrameDecoder()
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            decoder.feed(bytes(data))
            if (frame := decoder.next_frame()) is not None:
                await trio.aclose_forcefully(stream)
                return f"{frame.type.name} {decode_reason(frame.payload)}"
    return "closed"


def test_strangers_and_replays_do_not_touch_a_session(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Another node of the same machine, which even has the secret; junk; and an old request."""

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a, limits=PATIENT)
        async with open_chaos_proxy(HOST, port) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO, limits=PATIENT) as channel:
                resumption = channel._carrier._resumption
                assert resumption is not None
                stolen = resumption.request()
                assert "not known here" in await resume_by_hand(port, pki.a, stolen)
                proxy.cut()
                await channel.send(b"back")
                assert await channel.receive() == b"back"
                assert "comes after attempt" in await resume_by_hand(port, pki.b, stolen)
                assert "not known here" in await resume_by_hand(port, pki.b, stolen[:-1] + b"?")
                for junk in (b"", b"ftvm", stolen[:-1], bytes(16_000)):
                    assert await resume_by_hand(port, pki.b, junk) == "closed"
                assert "version 2 is spoken here" in await resume_by_hand(port, pki.b, b"ftvm\x00\x09")
                await channel.send(b"still there")
                assert await channel.receive() == b"still there"
                assert channel.statistics().resumes == 1

    run(main)
    assert len(refusals(caplog)) == 8


def test_sessions_of_clients_that_do_not_resume_end_with_their_connection(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        ended = trio.Event()

        async def handler(channel: Channel) -> None:
            with contextlib.suppress(ChannelClosed):
                await echo(channel)
            ended.set()

        port = await start_server(nursery, pki.a, handler, limits=Limits(resume_timeout_s=60.0))
        async with open_chaos_proxy(HOST, port) as proxy:
            context = client_context(pki.b)
            async with open_channel(HOST, proxy.port, context, NODES, HELLO) as channel:
                proxy.cut()
                with trio.fail_after(2), pytest.raises(ChannelClosed, match="lost"):
                    await channel.receive()
                with trio.fail_after(2):
                    await ended.wait()

    run(main)


def test_only_so_many_sessions_wait_for_their_connection(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "INTERRUPTED_MAX", 3)

    async def main(nursery: trio.Nursery) -> None:
        ends: list[str] = []
        numbers, served = count(), []

        async def handler(channel: Channel) -> None:
            number = next(numbers)
            served.append(channel)
            try:
                await echo(channel)
            except ChannelClosed as error:
                ends.append(f"{number}: {error.reason}")

        port = await start_server(nursery, pki.a, handler, limits=Limits(resume_timeout_s=60.0))
        for number in range(5):
            async with trio.open_nursery() as client:

                async def join(task_status: trio.TaskStatus[Channel]) -> None:
                    context = client_context(pki.b)
                    limits = Limits(resume_timeout_s=60.0)
                    async with open_channel(HOST, port, context, NODES, HELLO, limits=limits) as channel:
                        await channel.send(b"x")
                        await channel.receive()
                        task_status.started(channel)
                        await trio.sleep_forever()

                await client.start(join)
                client.cancel_scope.cancel()  # lost, and nobody comes back
            with trio.fail_after(2):
                await served[number].wait_interrupted()
        with trio.fail_after(2):
            while len(ends) < 2:
                await trio.lowlevel.checkpoint()
        assert [channel.is_interrupted for channel in served] == [False, False, True, True, True]
        assert ends == [f"{number}: more than 3 sessions wait for their connection" for number in (0, 1)]
        await connect(port, pki.b)

    run(main)
