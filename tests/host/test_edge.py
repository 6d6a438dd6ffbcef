"""Clients that misbehave, on a machine that runs alone in this process behind its edge."""

import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import ftvm
from ftvm.demo.resp import encode_command, open_resp
from ftvm.demo.stage import prepare
from ftvm.host import edge as edge_module
from ftvm.host import edge_client
from tests.host.pair import LOOPBACK, RAM_MIB, image, run
from transport.background import open_background

BIG = 200_000
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@asynccontextmanager
async def open_machine(folder: Path, guest: str = "kv", **options: Any) -> AsyncIterator[int]:
    """A machine without a shadow, and an edge; yields the port for clients."""
    config = prepare(folder, image(guest), ram_mib=RAM_MIB, **options)
    async with open_background() as nursery, ftvm.open_primary(config, "alpha"):
        yield await nursery.start(ftvm.serve_edge, config)


async def connect(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream(LOOPBACK, port)


async def ping(stream: trio.SocketStream) -> bytes:
    await stream.send_all(b"PING\r\n")
    return await stream.receive_some()


async def everything(stream: trio.SocketStream) -> bytes:
    return b"".join([data async for data in stream])


def test_a_client_that_leaves_in_mid_request_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_machine(tmp_path) as port:
            async with open_resp(LOOPBACK, port) as client:
                await client.call("SET", "big", "x" * BIG)
            async with await connect(port) as stream:
                await stream.send_all(b"GET big\r\n" * 20 + b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$90000\r\nyyy")
                await stream.receive_some(1000)
            async with await connect(port) as stream:
                assert await ping(stream) == b"+PONG\r\n"
            async with open_resp(LOOPBACK, port) as client:
                assert await client.call("STRLEN", "big") == BIG

    run(main)


def test_a_half_closed_client_gets_all_its_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_machine(tmp_path) as port:
            for _ in range(3):
                async with await connect(port) as stream:
                    await stream.send_all(b"SET a 1\r\n" + b"INCR a\r\n" * 200 + b"GET a\r\n")
                    await stream.send_eof()
                    said = await everything(stream)
                assert said == b"+OK\r\n" + b"".join(b":%d\r\n" % n for n in range(2, 202)) + b"$3\r\n201\r\n"

    run(main)


def test_a_client_that_never_reads_is_disconnected_and_the_next_one_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_client, "CLIENT_BUFFER_MAX", 256 * 1024)

    async def main() -> None:
        async with open_machine(tmp_path) as port:
            async with open_resp(LOOPBACK, port) as client:
                await client.call("SET", "big", "x" * BIG)
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with deaf:
                deaf.connect((LOOPBACK, port))
                deaf.sendall(b"GET big\r\n" * 100)
                async with open_resp(LOOPBACK, port) as client:
                    assert await client.call("STRLEN", "big") == BIG

    run(main)


def test_many_clients_wait_for_their_turn_and_all_are_served(tmp_path: Path) -> None:
    async def main() -> None:
        answers: list[object] = []

        async def one(port: int) -> None:
            async with open_resp(LOOPBACK, port) as client:
                answers.append(await client.call("INCR", "turns"))

        async with open_machine(tmp_path) as port, trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(one, port)
        assert sorted(answers, key=repr) == sorted(range(1, 41), key=repr)

    run(main)


def test_more_clients_than_may_wait_are_turned_away_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_module, "CLIENTS_WAITING_MAX", 2)

    async def main() -> None:
        async with open_machine(tmp_path) as port, await connect(port) as console:
            assert await ping(console) == b"+PONG\r\n"  # so it has the console
            async with open_resp(LOOPBACK, port) as waiting:
                async with await connect(port) as refused:
                    assert await refused.receive_some() == b""
                assert await ping(console) == b"+PONG\r\n"
                await console.aclose()
                assert await waiting.call("PING") == "PONG"

    run(main)


def test_clients_that_reset_their_connection_at_once_harm_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_machine(tmp_path) as port:
            for _ in range(50):
                with socket.socket() as rude:
                    rude.connect((LOOPBACK, port))
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            async with open_resp(LOOPBACK, port) as client:
                assert await client.call("PING") == "PONG"

    run(main)


def test_plain_sessions_share_the_console_and_show_what_was_said_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_machine(tmp_path, "wfi-off", sessions="plain") as port, await connect(port) as stream:
            assert await stream.receive_some() == b"asleep for ever\n"

    run(main)


def test_input_larger_than_every_window_arrives_whole(tmp_path: Path) -> None:
    value = bytes(range(256)) * 1500

    async def main() -> None:
        async with open_machine(tmp_path) as port, await connect(port) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, encode_command("SET", "v", value) + encode_command("GET", "v"))
            expected = b"+OK\r\n$%d\r\n%b\r\n" % (len(value), value)
            got = b""
            while len(got) < len(expected):
                got += await stream.receive_some()
            assert got == expected

    run(main)


def test_the_edges_control_socket_says_who_is_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_machine(tmp_path) as port, open_resp(LOOPBACK, port) as client:
            await client.call("PING")
            stream = await trio.open_unix_socket(str(tmp_path / "run" / "edge.sock"))
            async with stream:
                await stream.send_all(b'{"op": "status"}\n')
                answer = json.loads(await stream.receive_some())
            assert (answer["ok"], answer["port"], answer["clients"], answer["nodes"]) == (True, port, 1, ["alpha"])

    run(main)


@pytest.mark.parametrize("node_port_of", ["node", "edge"])
def test_a_port_in_use_is_one_error_that_names_it(tmp_path: Path, node_port_of: str) -> None:
    config = prepare(tmp_path, image(), ram_mib=RAM_MIB)
    address = config.node("alpha").listen if node_port_of == "node" else config.edge.listen
    serve = partial(ftvm.serve_shadow, config, "alpha") if node_port_of == "node" else partial(ftvm.serve_edge, config)
    with socket.socket() as taken:
        taken.bind((address.host, address.port))
        taken.listen()
        with pytest.raises(ftvm.FtvmError, match=f"{address.port}.*in use"):
            trio.run(serve)
