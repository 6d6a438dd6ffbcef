"""Unmodified Redis clients work on kv through a TCP bridge: one client at a time, a BREAK when it leaves."""

import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from ftvm import guests
from tests.guests.boards import PING, MachineWire, tool


def bridge(listener: socket.socket, wire: MachineWire) -> None:
    """Serves clients in the order they come, until the listener is closed."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            while data := receive(client):
                wire.send(data)
                while wire.inputs or not wire.asleep():
                    wire.run()
                client.sendall(wire.take(len(wire.pending)))
        wire.send_break()
        wire.ask(PING)


def receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionError:
        return b""


@pytest.fixture
def port() -> Iterator[int]:
    wire = MachineWire(guests.path("kv").read_bytes())
    wire.wait_for_kv()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=bridge, args=(listener, wire), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert not thread.is_alive()


def client(name: str, port: int, *arguments: str, said: str | None = None) -> str:
    command = [tool(name), "-h", "127.0.0.1", "-p", str(port), *arguments]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_redis_cli(port: int) -> None:
    assert client("redis-cli", port, "SET", "greeting", "hello") == "OK\n"
    assert client("redis-cli", port, "GET", "greeting") == "hello\n"
    assert client("redis-cli", port, said="SET n 41\nINCR n\nGET none\nNOPE x\n") == (
        "OK\n42\n\nERR unknown command 'NOPE', with args beginning with: 'x' \n\n"
    )


def test_redis_benchmark(port: int) -> None:
    printed = client("redis-benchmark", port, "-c", "1", "-n", "500", "-t", "ping_mbulk,set,get,incr", "--csv")
    rows = [line.split(",")[0] for line in printed.splitlines()]
    assert rows[-4:] == ['"PING_MBULK"', '"SET"', '"GET"', '"INCR"']
    assert client("redis-cli", port, "GET", "counter:__rand_int__") == "500\n"
