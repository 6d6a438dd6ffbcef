"""Strangers on the port: each costs one log line, bounded memory and bounded time, and hurts nobody else."""

import contextlib
import gc
import logging
import os
import random
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.transport.conftest import NODES, Pki, accept_all, echo, start_server
from tests.transport.test_tls_channel import HELLO, HOST, connect, refusals, run
from transport import listener as listener_module
from transport.certificates import client_context
from transport.channel import Channel, Limits, open_channel
from transport.errors import ConnectFailed, ListenFailed, PeerRefused, TransportError
from transport.frame import FrameEncoder, FrameType
from transport.handshake import Hello, encode_hello

FAST = Limits(handshake_timeout_s=0.3)


async def until_ended(stream: trio.abc.ReceiveStream) -> None:
    """Read until the server ends the connection, in whatever way."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(65536):
            pass


async def tls_stream(port: int, node: Path) -> trio.SSLStream[trio.SocketStream]:
    """An authentic client that is about to say something else than HELLO."""
    stream = trio.SSLStream(await trio.open_tcp_stream(HOST, port), client_context(node))
    await stream.do_handshake()
    return stream


JUNK = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(100_000),
    "random": random.Random(1).randbytes(100_000),
    "a TLS record that is too long": b"\x16\x03\x01\xff\xff" + bytes(70_000),
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_is_refused_at_once_with_one_log_line(pki: Pki, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        stream = await trio.open_tcp_stream(HOST, port)
        with trio.fail_after(2):
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(JUNK[kind])
            await until_ended(stream)
        await connect(port, pki.b)

    run(main)
    lines = refusals(caplog)
    assert len(lines) == 1
    assert lines[0].startswith("refused 127.0.0.1:")


def test_an_endless_stream_is_cut_off(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """A client that sends for ever before its handshake gets a few megabytes into the kernel, no more."""

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        stream = await trio.open_tcp_stream(HOST, port)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await stream.send_all(bytes(2_000_000_000))

    run(main)
    assert len(refusals(caplog)) == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"?" * 21, "does not match its checksum"),
        (FrameEncoder().encode(FrameType.HELLO, bytes(100_000)), "at most 16384 are allowed"),
        (FrameEncoder().encode(FrameType.SEGMENT, bytes(8)), "SEGMENT frame where HELLO was due"),
        (FrameEncoder().encode(FrameType.HELLO, b"ftvm\x00\x02"), "too short"),
        (FrameEncoder().encode(FrameType.HELLO, b"XXXX\x00\x02"), "magic"),
    ],
)
def test_an_authentic_client_that_says_nonsense_is_refused(
    pki: Pki, caplog: pytest.LogCaptureFixture, said: bytes, why: str
) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        stream = await tls_stream(port, pki.b)
        await stream.send_all(said)
        with trio.fail_after(2):
            await until_ended(stream)
        await connect(port, pki.b)

    run(main)
    lines = refusals(caplog)
    assert len(lines) == 1
    assert why in lines[0]


def test_another_protocol_version_is_told_so(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        monkeypatch.setattr("transport.channel.encode_hello", lambda hello: b"ftvm\x00\x09" + encode_hello(hello)[6:])
        with pytest.raises(PeerRefused, match="version 2 is spoken here, and 9 was offered"):
            await connect(port, pki.b)

    run(main)


@pytest.mark.parametrize("phase", ["silent", "drips junk header", "no HELLO", "half a HELLO"])
def test_who_does_not_finish_the_handshake_is_thrown_out_in_time(
    pki: Pki, caplog: pytest.LogCaptureFixture, phase: str
) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a, limits=FAST)
        if phase in ("silent", "drips junk header"):
            stream: trio.abc.Stream = await trio.open_tcp_stream(HOST, port)
            if phase != "silent":
                await stream.send_all(b"\x16\x03\x01")
        else:
            stream = await tls_stream(port, pki.b)
            if phase == "half a HELLO":
                await stream.send_all(FrameEncoder().encode(FrameType.HELLO, encode_hello(Hello(HELLO, 0)))[:-3])
        began = trio.current_time()
        with trio.fail_after(3):
            await until_ended(stream)
        assert 0.2 < trio.current_time() - began < 2
        await connect(port, pki.b)

    run(main)
    assert [line.split(": ")[1] for line in refusals(caplog)] == ["no handshake in time"]


def test_a_crowd_of_half_open_connections_does_not_keep_a_good_client_out(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, open_files: Callable[[], int]
) -> None:
    """The oldest is thrown out for the newest, so places and files stay bounded."""
    monkeypatch.setattr(listener_module, "HALF_OPEN_MAX", 5)

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        before = open_files()
        crowd = [await trio.open_tcp_stream(HOST, port) for _ in range(40)]
        with trio.fail_after(2):
            await connect(port, pki.b)
            for stream in crowd[:34]:
                await until_ended(stream)
        assert open_files() - before <= len(crowd) + 6
        for stream in crowd:
            await stream.aclose()

    run(main)


def test_only_so_many_channels_are_open_at_a_time(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "CHANNELS_MAX", 2)

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        context = client_context(pki.b)
        async with open_channel(HOST, port, context, NODES, HELLO), open_channel(HOST, port, context, NODES, HELLO):
            with pytest.raises(PeerRefused, match="2 channels are open here"):
                await connect(port, pki.b)
        with trio.fail_after(2):
            while True:
                with contextlib.suppress(PeerRefused):
                    await connect(port, pki.b)
                    break

    run(main)


def test_a_probe_is_no_news(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        for _ in range(5):
            await (await trio.open_tcp_stream(HOST, port)).aclose()
        await connect(port, pki.b)

    with caplog.at_level(logging.DEBUG, "transport"):
        run(main)
    assert refusals(caplog) == []
    assert sum("refused" in record.getMessage() for record in caplog.records) == 5


def test_a_port_in_use_is_one_clear_error(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        with pytest.raises(ListenFailed, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            await listener_module.serve(
                HOST, port, ssl.create_default_context(), NODES, echo, accept=accept_all
            )

    run(main)


def test_a_handler_that_fails_in_a_peers_way_ends_its_connection_only(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(nursery: trio.Nursery) -> None:
        async def handler(channel: Channel) -> None:
            if await channel.receive() == b"am I in?":
                await channel.send(b"am I in?")
                await channel.receive()
            raise TransportError("the message makes no sense")

        port = await start_server(nursery, pki.a, handler)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
            await channel.send(b"nonsense")
            with pytest.raises(TransportError, match="failed: TransportError"):
                await channel.receive()
        await connect(port, pki.b)

    run(main)
    assert ["makes no sense" in line for line in refusals(caplog)] == [True]


def test_out_of_files_is_said_and_survived(
    pki: Pki, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_accept = trio.SocketListener.accept
    failures = [OSError(24, os.strerror(24))]

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await real_accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        await connect(port, pki.b)

    run(main)
    assert refusals(caplog) == ["cannot accept a connection: Too many open files"]


def test_the_listener_and_its_connections_end_when_cancelled(pki: Pki, open_files: Callable[[], int]) -> None:
    async def main(nursery: trio.Nursery) -> None:
        # What earlier tests have left to the collector must not go away in between.
        gc.collect()
        before = open_files()
        async with trio.open_nursery() as servers:
            port = await start_server(servers, pki.a)
            async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
                await channel.send(b"x")
                assert await channel.receive() == b"x"
                servers.cancel_scope.cancel()
        with pytest.raises(ConnectFailed):
            await connect(port, pki.b)
        gc.collect()
        assert open_files() == before

    run(main)


def test_latency_is_not_left_to_nagle(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
            raw = channel._carrier.path.wire._socket  # type: ignore[attr-defined]
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(main)
