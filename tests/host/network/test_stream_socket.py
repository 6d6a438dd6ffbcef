"""Frames on a stream socket: between two of ours, and with QEMU."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from ftvm.demo.system import free_ports
from ftvm.errors import FtvmError
from ftvm.host.network import FRAME_SIZE_MAX, Network, encode_frame, open_network
from ftvm.host.network.stream_socket import QUEUE_MAX, UNSENT_MAX
from ftvm.networks import StreamNetwork
from tests.host.network.station import Station
from tests.limits import WAIT_S
from tests.needs import lack, need

LOOPBACK = "127.0.0.1"


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool], StreamNetwork]:
    """The same address, for a server or a client."""
    (port,) = free_ports(1)
    if request.param == "unix":
        return lambda is_server: StreamNetwork(path=str(tmp_path / "net"), is_server=is_server)
    return lambda is_server: StreamNetwork(LOOPBACK, port, is_server=is_server)


def wait(done: Callable[[], object], *networks: Network) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, "nothing came in time"
        for network in networks:
            network.process()


def meet(one: Network, other: Network) -> None:
    """Until frames pass both ways."""
    for a, b in ((one, other), (other, one)):

        def arrived(sender: Network = a, receiver: Network = b) -> bool:
            sender.send(b"are you there?")
            return receiver.receive() is not None

        wait(arrived, one, other)
    wait(lambda: not any((one.receive(), other.receive())), one, other)


@contextmanager
def open_pair(address: Callable[[bool], StreamNetwork]) -> Iterator[tuple[Network, Network]]:
    with closing(open_network(address(True))) as server, closing(open_network(address(False))) as client:
        meet(server, client)
        yield server, client


def test_frames_pass_both_ways_whole_and_in_order(address: Callable[[bool], StreamNetwork]) -> None:
    frames = [bytes([size % 256]) * size for size in (1, 60, 1514, FRAME_SIZE_MAX, 14)]
    with open_pair(address) as (server, client):
        assert carried(frames, server, client) == frames
        assert carried(frames, client, server) == frames


def carried(frames: list[bytes], sender: Network, receiver: Network) -> list[bytes]:
    got: list[bytes] = []

    def all_came() -> bool:
        got.extend(iter(receiver.receive, None))
        return len(got) >= len(frames)

    for frame in frames:
        sender.send(frame)
    wait(all_came, sender, receiver)
    return got


def test_a_client_finds_a_server_that_comes_later_and_one_that_comes_back(
    address: Callable[[bool], StreamNetwork],
) -> None:
    with closing(open_network(address(False))) as client:
        for _ in range(2):
            with closing(open_network(address(True))) as server:
                meet(client, server)


def test_the_newest_client_is_served(address: Callable[[bool], StreamNetwork]) -> None:
    with open_pair(address) as (server, _), closing(open_network(address(False))) as newest:
        meet(server, newest)


def test_what_a_peer_does_not_take_is_dropped_within_bounds(address: Callable[[bool], StreamNetwork]) -> None:
    with open_pair(address) as (server, client):
        for _ in range(200):
            client.send(bytes(FRAME_SIZE_MAX))
        assert client.statistics().dropped_from_guest > 200 - 2 * UNSENT_MAX // FRAME_SIZE_MAX - 50
        for _ in range(100):
            server.process()
            client.process()
        waiting = 0
        while (frame := server.receive()) is not None:
            waiting += len(frame)
        assert 0 < waiting <= QUEUE_MAX
        assert server.statistics().dropped_to_guest == 0


def test_a_peer_that_sends_no_frames_is_left_and_another_one_served(tmp_path: Path) -> None:
    path = str(tmp_path / "net")
    with closing(open_network(StreamNetwork(path=path, is_server=True))) as server:
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(path)
            rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
            rude.settimeout(0.0)

            def is_left() -> bool:
                try:
                    return rude.recv(1) == b""
                except BlockingIOError:
                    return False
                except ConnectionResetError:
                    return True

            wait(is_left, server)
        with closing(open_network(StreamNetwork(path=path))) as client:
            meet(server, client)


def test_half_a_frame_of_a_peer_that_went_is_not_joined_to_the_next_ones(tmp_path: Path) -> None:
    path = str(tmp_path / "net")
    with closing(open_network(StreamNetwork(path=path, is_server=True))) as server:
        for sent in (encode_frame(b"x" * 100)[:50], encode_frame(b"whole")):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(path)
                peer.sendall(sent)
                for _ in range(10):
                    server.process()
        assert server.receive() == b"whole"


def test_an_address_in_use_is_one_line_and_a_dead_processes_socket_is_not(tmp_path: Path) -> None:
    path = tmp_path / "net"
    said = rf"--net stream:unix:{path},server: .*in use; choose another"
    with closing(open_network(StreamNetwork(path=str(path), is_server=True))), pytest.raises(FtvmError, match=said):
        open_network(StreamNetwork(path=str(path), is_server=True))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with closing(open_network(StreamNetwork(path=str(path), is_server=True))):
        pass
    path.write_text("mine")
    with pytest.raises(FtvmError, match="in use"):
        open_network(StreamNetwork(path=str(path), is_server=True))
    assert path.read_text() == "mine"
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FtvmError, match=rf"stream:127.0.0.1:{port},server: .*in use"):
            open_network(StreamNetwork(LOOPBACK, port, is_server=True))


def is_joined(station: Station) -> bool:
    """Asks for its gateway's address, once in a while."""
    with suppress(AssertionError):
        station.ask_link_address("10.0.2.2", timeout_s=0.2)
    return bool(station.arp)


@pytest.mark.parametrize("is_server", [True, False])
def test_qemu_at_the_other_end_understands_us_and_we_it(tmp_path: Path, is_server: bool) -> None:
    """Its own user network, on a hub with our socket, gives a guest of ours an address."""
    qemu = need("qemu-system-riscv64", "qemu-system-misc")
    path = tmp_path / "net"
    server = "off" if is_server else "on"
    command = [qemu, "-M", "none", "-display", "none", "-nodefaults", "-no-user-config"]
    command += ["-netdev", "user,id=u", "-netdev", "hubport,id=a,hubid=0,netdev=u"]
    command += ["-netdev", f"stream,id=n,server={server},addr.type=unix,addr.path={path}"]
    command += ["-netdev", "hubport,id=b,hubid=0,netdev=n"]
    with ExitStack() as stack:
        ours = StreamNetwork(path=str(path), is_server=is_server)
        network = stack.enter_context(closing(open_network(ours))) if is_server else None
        process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        network = network or stack.enter_context(closing(open_network(ours)))
        station = Station(network)
        wait(lambda: process.poll() is not None or is_joined(station), network)
        if process.poll() is not None:
            assert process.stderr is not None
            lack(f"this QEMU has no stream sockets, 7.2 has: {process.stderr.read()}")
        options = station.obtain_address()
        assert (station.ip, options[3]) == (socket.inet_aton("10.0.2.15"), socket.inet_aton("10.0.2.2"))
