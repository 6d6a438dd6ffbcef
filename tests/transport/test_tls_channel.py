"""Real TLS on loopback: who is let in, who is not and what each side hears, and lost connections."""

import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.transport.conftest import MACHINE, NODES, Pki, accept_all, echo, start_server
from transport import certificates
from transport.certificates import client_context
from transport.channel import Channel, Limits, open_channel
from transport.errors import (
    CertificateExpired,
    CertificateProblem,
    ChannelClosed,
    ConnectFailed,
    HandshakeTimeout,
    IdentityMismatch,
    PeerRefused,
    Refuse,
    TransportError,
)
from transport.identity import Expectation, Identity
from transport.testing import open_chaos_proxy

HOST = "127.0.0.1"
HELLO = {"version": b"1"}


def run(main: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """With a nursery for servers, and the real clock: a mock one jumps while sockets are pending."""

    async def bounded() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await main(nursery)
                nursery.cancel_scope.cancel()

    trio.run(bounded)


async def connect(port: int, node: Path, expect: Expectation = NODES) -> None:
    async with open_channel(HOST, port, client_context(node), expect, HELLO) as channel:
        await channel.send(b"am I in?")
        assert await channel.receive() == b"am I in?"


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_both_sides_learn_who_the_other_is(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        seen = []

        async def handler(channel: Channel) -> None:
            seen.append(channel.peer)
            await echo(channel)

        port = await start_server(nursery, pki.a, handler, heartbeat_port=77)
        context = client_context(pki.b)
        async with open_channel(HOST, port, context, NODES, HELLO, heartbeat_port=88) as channel:
            for message in (b"", b"x", bytes(3_000_000)):
                await channel.send(message)
                assert await channel.receive() == message
            there, here = channel.peer, seen[0]
            assert there.identity == Identity(MACHINE, "node", "a")
            assert here.identity == Identity(MACHINE, "node", "b")
            assert (there.parameters, here.parameters) == ({"welcome": b"yes"}, HELLO)
            assert (there.heartbeat_port, here.heartbeat_port) == (77, 88)
            assert there.heartbeat_keys.session_id == here.heartbeat_keys.session_id
            assert there.heartbeat_keys.send_key == here.heartbeat_keys.receive_key
            assert there.heartbeat_keys.receive_key == here.heartbeat_keys.send_key
            assert there.heartbeat_keys.send_key != there.heartbeat_keys.receive_key
            assert "key" not in repr(there).replace("heartbeat_keys", "").replace("Keys", "")
            statistics = channel.statistics()
            assert (statistics.messages_in, statistics.bytes_out) == (3, 3_000_001)
            assert statistics.wire_bytes_out > 3_000_001

    run(main)


def test_traffic_is_tls_13_and_never_in_clear(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        heard = bytearray()

        async def tap(client: trio.SocketStream) -> None:
            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                async for chunk in source:
                    heard.extend(chunk)
                    await sink.send_all(chunk)
                await sink.send_eof()

            async with await trio.open_tcp_stream(HOST, port) as server, trio.open_nursery() as both:
                both.start_soon(copy, client, server)
                both.start_soon(copy, server, client)

        nursery.start_soon(trio.serve_listeners, tap, listeners)
        context = client_context(pki.b)
        tap_port = listeners[0].socket.getsockname()[1]
        async with open_channel(HOST, tap_port, context, NODES, {"secret": b"in HELLO"}) as channel:
            await channel.send(b"a guest's password")
            assert await channel.receive() == b"a guest's password"
        assert len(heard) > 1000
        for secret in (b"password", b"secret", b"in HELLO", b"welcome"):
            assert secret not in heard

    run(main)


def test_tls_12_is_refused_by_both_sides(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.load_cert_chain(pki.b / "node.crt", pki.b / "node.key")
        old.load_verify_locations(pki.b / "ca.crt")
        stream = trio.SSLStream(await trio.open_tcp_stream(HOST, port), old)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
        assert "PROTOCOL_VERSION" in str(caught.value.__cause__)

    run(main)


@pytest.mark.parametrize(
    ("folder", "error", "at_client", "at_server"),
    [
        ("other_machine", PeerRefused, "is for machine 'm2'", "is for machine 'm2'"),
        ("edge", PeerRefused, "has the role 'edge', and node is needed", "has the role 'edge'"),
    ],
)
def test_a_client_for_another_machine_or_role_is_told_why(
    pki: Pki, caplog: pytest.LogCaptureFixture, folder: str, error: type[Exception], at_client: str, at_server: str
) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        with pytest.raises(error, match=at_client):
            await connect(port, getattr(pki, folder))
        await connect(port, pki.b)

    run(main)
    lines = refusals(caplog)
    assert len(lines) == 1
    assert at_server in lines[0]


def context_without_checks(monkeypatch: pytest.MonkeyPatch, node: Path) -> ssl.SSLContext:
    """Of a node that does not look at its own certificate first."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "node_identity", lambda _: None)
        return client_context(node)


@pytest.mark.parametrize(
    ("kind", "error", "at_client", "at_server"),
    [
        ("foreign", CertificateProblem, "not acceptable", "from another authority"),
        ("expired", CertificateExpired, "our certificate has expired", "not valid now: certificate has expired"),
        ("none", CertificateProblem, "we have shown none", "shown no certificate"),
        ("foreign key only", CertificateProblem, "from another authority", "not acceptable"),
    ],
)
def test_a_client_with_a_bad_certificate_fails_at_once_and_costs_one_log_line(
    pki: Pki,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    error: type[Exception],
    at_client: str,
    at_server: str,
) -> None:
    if kind == "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(pki.a / "ca.crt")
    elif kind == "foreign key only":
        # It trusts our authority, and shows a certificate of another one.
        context = client_context(pki.foreign)
        context.load_verify_locations(pki.a / "ca.crt")
    else:
        context = context_without_checks(monkeypatch, getattr(pki, kind))

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        with trio.fail_after(2), pytest.raises(error, match=at_client):
            async with open_channel(HOST, port, context, NODES, HELLO):
                pytest.fail("it got in")
        await connect(port, pki.b)

    run(main)
    lines = refusals(caplog)
    assert len(lines) == 1
    assert at_server in lines[0]


def test_our_own_expired_certificate_is_noticed_before_any_connection(pki: Pki) -> None:
    with pytest.raises(CertificateExpired, match="expired at"):
        client_context(pki.expired)


def test_a_client_refuses_a_server_of_another_machine_or_role_before_it_says_anything(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        hellos: list[Identity] = []

        def accept(identity: Identity, parameters: object) -> dict[str, bytes]:
            hellos.append(identity)
            return {}

        for folder, text in ((pki.other_machine, "machine 'm2'"), (pki.edge, "role 'edge'")):
            port = await start_server(nursery, folder, accept=accept)
            with pytest.raises(IdentityMismatch, match=text):
                await connect(port, pki.b)
        assert hellos == []

    run(main)


def test_a_refusal_by_the_application_reaches_the_client(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    def accept(_: Identity, parameters: object) -> dict[str, bytes]:
        raise Refuse("image 00ff is run here, and yours is 11ee")

    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a, accept=accept)
        with pytest.raises(PeerRefused) as caught:
            await connect(port, pki.b)
        assert caught.value.reason == "image 00ff is run here, and yours is 11ee"

    run(main)
    assert len(refusals(caplog)) == 1


def test_an_absent_peer_and_a_silent_one_are_told_apart(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        listener = (await trio.open_tcp_listeners(0, host=HOST))[0]
        port = listener.socket.getsockname()[1]
        limits = Limits(handshake_timeout_s=0.2)
        with pytest.raises(HandshakeTimeout, match=r"no WELCOME from .* within 0\.2 s"):
            async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO, limits=limits):
                pytest.fail("nobody can have answered")
        await listener.aclose()
        with pytest.raises(ConnectFailed, match="refused"):
            await connect(port, pki.b)

    run(main)


def test_cancelling_one_side_is_a_loss_for_the_other_and_closing_is_not(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        for is_cancelled in (True, False):
            ends: list[ChannelClosed] = []
            ended = trio.Event()

            async def handler(
                channel: Channel, ends: list[ChannelClosed] = ends, ended: trio.Event = ended
            ) -> None:
                assert await channel.receive() == b"hello"
                with pytest.raises(ChannelClosed) as caught:
                    await channel.receive()
                ends.append(caught.value)
                ended.set()

            port = await start_server(nursery, pki.a, handler)
            with trio.CancelScope() as scope:
                async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
                    await channel.send(b"hello")
                    if is_cancelled:
                        scope.cancel()
                        await trio.sleep_forever()
            await ended.wait()
            assert ends[0].clean is not is_cancelled

    run(main)


def test_a_cut_at_any_byte_gives_a_prefix_of_the_messages_and_an_unclean_end(pki: Pki) -> None:
    """Also in the middle of TLS records and frames; in either direction; during the handshake too."""
    messages = [bytes([number]) * 700 for number in range(30)]
    random_cuts = random.Random(4).sample(range(1, 22_000), 24)

    async def main(nursery: trio.Nursery) -> None:
        async def handler(channel: Channel) -> None:
            for message in messages:
                await channel.send(message)
            await channel.receive()

        port = await start_server(nursery, pki.a, handler)
        context = client_context(pki.b)
        outcomes = set()
        for cut in random_cuts:
            received: list[bytes] = []
            async with open_chaos_proxy(HOST, port) as proxy:
                proxy.to_client.cut_after = cut
                try:
                    async with open_channel(HOST, proxy.port, context, NODES, HELLO) as channel:
                        while True:
                            received.append(await channel.receive())
                except ChannelClosed as error:
                    outcomes.add("clean" if error.clean else "session")
                except TransportError:
                    outcomes.add("handshake")
                assert proxy.to_client.passed == cut
            assert received == messages[: len(received)]
            assert len(received) < len(messages)
        assert outcomes == {"session", "handshake"}

    run(main)


def test_delay_and_cut_by_the_proxy_are_seen_by_the_channel(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        port = await start_server(nursery, pki.a)
        context = client_context(pki.b)
        async with open_chaos_proxy(HOST, port) as proxy:  # noqa: SIM117
            async with open_channel(HOST, proxy.port, context, NODES, HELLO) as channel:
                proxy.to_server.delay_s = proxy.to_client.delay_s = 0.05
                began = trio.current_time()
                await channel.send(b"x")
                assert await channel.receive() == b"x"
                assert trio.current_time() - began >= 0.1
                proxy.to_client.is_blackhole = True
                await channel.send(b"into the dark")
                with trio.move_on_after(0.3) as scope:
                    await channel.receive()
                assert scope.cancelled_caught
                proxy.cut()
                with pytest.raises(ChannelClosed) as caught:
                    await channel.receive()
                assert not caught.value.clean

    run(main)


def test_closing_while_the_other_side_sends_is_clean_for_it(pki: Pki) -> None:
    """Also when acknowledgements fall due after the goodbye is on its way."""

    async def main(nursery: trio.Nursery) -> None:
        ends: list[ChannelClosed] = []
        ended = trio.Event()

        async def handler(channel: Channel) -> None:
            try:
                while True:
                    await channel.send(bytes(3_000_000))
            except ChannelClosed as error:
                ends.append(error)
                ended.set()

        port = await start_server(nursery, pki.a, handler)
        async with open_channel(HOST, port, client_context(pki.b), NODES, HELLO) as channel:
            await channel.receive()
            async with trio.open_nursery() as closing:
                closing.start_soon(channel.close, "enough")
                with pytest.raises(ChannelClosed):
                    await take_all(channel)
        await ended.wait()
        assert [(error.reason, error.clean) for error in ends] == [("enough", True)]

    run(main)


async def take_all(channel: Channel) -> None:
    while True:
        await channel.receive()


def test_a_client_that_never_reads_blocks_only_its_own_handler(pki: Pki) -> None:
    async def main(nursery: trio.Nursery) -> None:
        stuck = trio.Event()

        async def handler(channel: Channel) -> None:
            if channel.peer.parameters == {"lazy": b""}:
                try:
                    while True:
                        channel.send_nowait(bytes(100_000))
                except trio.WouldBlock:
                    assert channel.statistics().bytes_out < 20_000_000
                    stuck.set()
                await channel.send(b"waits for ever")
            await echo(channel)

        port = await start_server(nursery, pki.a, handler, accept=accept_all)
        context = client_context(pki.b)
        async with open_channel(HOST, port, context, NODES, {"lazy": b""}) as lazy:
            await stuck.wait()
            await connect(port, pki.b)
            assert lazy.statistics().messages_in > 0

    run(main)
