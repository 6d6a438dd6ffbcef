"""The user network: what a guest's frames come to on this computer's loopback, and back."""

import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from ftvm.demo.system import free_ports
from ftvm.errors import FtvmError
from ftvm.host.network import open_network, slirp_library
from ftvm.host.network.slirp import FLOWS_MAX, QUEUE_MAX, UserStack
from ftvm.networks import Publish, UserNetwork
from tests.host.network.station import IPV4, MAC, UDP, Station, checksum, ip_packet
from tests.needs import lack

LOOPBACK = "127.0.0.1"
HOST = "10.0.2.2"


def needs_library() -> None:
    try:
        slirp_library.load()
    except FtvmError:
        lack("libslirp is missing: apt-get install libslirp0")


@pytest.fixture(autouse=True)
def _library() -> None:
    needs_library()


def free_port() -> int:
    (port,) = free_ports(1)
    return port


@contextmanager
def open_station(*publish: Publish, mtu: int = 1500) -> Iterator[Station]:
    with closing(open_network(UserNetwork(publish), mtu=mtu)) as network:
        station = Station(network)
        station.ask_link_address(HOST)
        yield station


@contextmanager
def echo_server() -> Iterator[int]:
    """Echoes one connection's bytes until its end."""
    with socket.create_server((LOOPBACK, 0)) as server:

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                while data := stream.recv(65536):
                    stream.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_dhcp_gives_the_guest_the_address_gateway_and_name_server_that_qemu_gives() -> None:
    with open_station() as station:
        options = station.obtain_address()
        assert socket.inet_ntoa(station.ip) == "10.0.2.15"
        assert (options[3], options[6]) == (socket.inet_aton(HOST), socket.inet_aton("10.0.2.3"))


@pytest.mark.parametrize("mtu", [1500, 65521])
def test_a_connection_of_the_guest_carries_data_both_ways_to_its_end(mtu: int) -> None:
    data = random.Random(1).randbytes(300_000)
    with echo_server() as port, open_station(mtu=mtu) as station:
        connection = station.connect(HOST, port, 40_000)
        connection.mss = mtu - 40
        connection.wait_open()
        got = bytearray()
        for start in range(0, len(data), 30_000):
            connection.send(data[start : start + 30_000])
            got += connection.wait_data(30_000)
        assert got == data
        assert station.network.statistics().flows == 1
        connection.finish()
        station.wait(lambda: connection.is_ended)
        assert max(len(frame) for frame in station.frames) <= mtu + 14


def test_a_published_port_leads_to_the_guest_and_the_flow_outlives_a_silence() -> None:
    port = free_port()
    with open_station(Publish(LOOPBACK, port, 7)) as station:
        station.listening.add(7)
        with socket.create_connection((LOOPBACK, port)) as client:
            station.wait(lambda: station.accepted and station.accepted[0].is_open)
            inside = station.accepted[0]
            client.sendall(b"from outside")
            assert inside.wait_data(12) == b"from outside"
            inside.send(b"from inside")
            station.turn(0.0)
            assert client.recv(100) == b"from inside"
            client.shutdown(socket.SHUT_WR)
            station.wait(lambda: inside.is_ended)
            inside.send(b"the last word")
            station.turn(0.0)
            assert client.recv(100) == b"the last word"


def test_many_clients_may_come_at_once() -> None:
    """None of them waits for the time in which TCP tries again, a second."""
    port = free_port()
    with open_station(Publish(LOOPBACK, port, 7)) as station, ExitStack() as stack:
        station.listening.add(7)
        for _ in range(50):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.5)
            client.connect((LOOPBACK, port))  # nobody accepts meanwhile
        station.wait(lambda: len(station.accepted) == 50)


def test_datagrams_go_out_and_come_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, open_station() as station:
        server.bind((LOOPBACK, 0))
        station.send_udp(HOST, server.getsockname()[1], 5000, b"question")
        station.turn(0.0)
        data, address = server.recvfrom(100)
        server.sendto(b"answer to " + data, address)
        station.wait(lambda: station.datagrams)
        assert station.datagrams[0] == (HOST, server.getsockname()[1], 5000, b"answer to question")


def test_datagrams_to_a_published_port_reach_the_guest() -> None:
    port = free_port()
    published = Publish(LOOPBACK, port, 53, "udp")
    with open_station(published) as station, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((LOOPBACK, port))
        client.send(b"question")
        station.wait(lambda: station.datagrams)
        address, from_port, to_port, data = station.datagrams[0]
        assert (to_port, data) == (53, b"question")
        station.send_udp(address, from_port, 53, b"answer")
        station.turn(0.0)
        assert client.recv(100) == b"answer"


def test_a_published_port_in_use_is_one_line_that_names_it() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FtvmError, match=rf"--publish 127.0.0.1:{port}:80/tcp: .*in use; choose another"):
            open_network(UserNetwork((Publish(LOOPBACK, free_port(), 7), Publish(LOOPBACK, port, 80))))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_network_leaves_no_socket_open() -> None:
    port = free_port()
    before = len(os.listdir("/proc/self/fd"))
    with echo_server() as server_port, open_station(Publish(LOOPBACK, port, 7)) as station:
        connection = station.connect(HOST, server_port, 40_000)
        connection.wait_open()
    assert len(os.listdir("/proc/self/fd")) == before
    with socket.create_server((LOOPBACK, port)):
        pass


def test_while_the_guest_takes_nothing_the_senders_wait_and_nothing_is_lost() -> None:
    """A sender's bytes wait in its own socket, and come through once the guest takes frames again."""
    port = free_port()
    total = 8 << 20
    with open_station(Publish(LOOPBACK, port, 7)) as station:
        station.listening.add(7)
        with socket.create_connection((LOOPBACK, port)) as client:
            station.wait(lambda: station.accepted and station.accepted[0].is_open)
            client.setblocking(False)
            pattern, sent = bytes(range(256)) * 256, 0
            inside = station.accepted[0]
            received = 0
            while received < total:
                while sent < total:
                    try:
                        sent += client.send(pattern[sent % 256 :][: total - sent])
                    except BlockingIOError:
                        break
                for _ in range(3):  # the guest is not there
                    station.network.process()
                station.turn(1.0)
                assert (
                    inside.data
                    == (pattern * (len(inside.data) // len(pattern) + 2))[received % 256 :][: len(inside.data)]
                )
                received += len(inside.data)
                inside.data.clear()
            assert station.network.statistics().dropped_to_guest == 0


def test_a_full_queue_quiets_the_descriptor_until_the_guest_takes_frames() -> None:
    with open_station() as station:
        network = station.network
        request = station.frames[0][6:12] + MAC + b"\x08\x06" + bytes.fromhex("0001080006040001") + MAC
        request += station.ip + bytes(6) + station.gateway
        for _ in range(2 * QUEUE_MAX // 46):
            network.send(request)
        assert network.statistics().dropped_to_guest > 0
        network.process()
        assert network.timeout_s() is None
        assert select.select([network], [], [], 0) == ([], [], [])
        while network.receive() is not None:
            pass
        assert network.timeout_s() == 0.0


def test_flows_of_the_guest_are_bounded_and_what_is_open_goes_on() -> None:
    with echo_server() as port, open_station() as station:
        connection = station.connect(HOST, port, 39_999)
        connection.wait_open()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind((LOOPBACK, 0))
            for own_port in range(1024, 1024 + FLOWS_MAX + 500):
                station.send_udp(HOST, sink.getsockname()[1], own_port, b"flood")
            station.turn(0.0)
            flows = station.network.statistics().flows
            assert flows is not None
            assert flows <= FLOWS_MAX
            assert station.network.statistics().dropped_from_guest >= 500
            connection.send(b"still here")
            assert connection.wait_data(10) == b"still here"
        connection.finish()
        station.wait(lambda: connection.is_ended)


def test_a_fragment_does_not_reach_the_library() -> None:
    """Two that overlap at the end of what a packet can hold: libslirp 4.7 dies of them."""
    with open_station() as station:
        for fragment in (0x2000, 0x1FFF):
            packet = ip_packet(station.ip, station.gateway, UDP, bytes(64), fragment)
            station.send_frame(IPV4, packet)
        assert station.network.statistics().dropped_from_guest == 2
        station.arp.clear()
        assert station.ask_link_address(HOST)


@pytest.mark.parametrize("seed", range(4))
def test_no_frame_of_the_guest_takes_the_stack_down(seed: int) -> None:
    """Whatever it is sent, the stack answers ARP afterwards and keeps its bounds."""
    dice = random.Random(seed)
    with open_station() as station:
        for number in range(3000):
            station.network.send(hostile_frame(dice, station))
            if number % 50 == 0:
                station.turn(0.0)
        station.arp.clear()
        assert station.ask_link_address(HOST)


def hostile_frame(dice: random.Random, station: Station) -> bytes:
    """Noise in every layer: of any length, with true checksums or not, with lengths that lie."""
    noise = dice.randbytes(dice.choice([0, 1, 7, 8, 19, 20, 40, 100, 300, 1480, 1500, 65535]))
    kind = dice.choice([0x0800, 0x0800, 0x0800, 0x0806, 0x86DD, 0x8100, 0x88F8, dice.randrange(65536)])
    if kind == 0x0800:
        protocol = dice.choice([1, 6, 17, 17, dice.randrange(256)])
        to = socket.inet_aton(dice.choice([HOST, "10.0.2.4", "10.0.2.255", "255.255.255.255"]))
        ports = struct.pack("!HH", dice.choice([0, 68, 1024]), dice.choice([0, 9, 53, 67, 67, 69, 514]))
        payload = ports + noise[:1400]
        if protocol == 17 and dice.random() < 0.8:
            payload = ports + struct.pack("!HH", 8 + len(noise[:1400]), 0) + noise[:1400]
        elif protocol == 6 and len(payload) >= 20:
            segment = bytearray(payload)
            segment[12] = dice.randrange(5, 16) << 4
            segment[16:18] = bytes(2)
            pseudo = station.ip + to + struct.pack("!BBH", 0, 6, len(segment))
            segment[16:18] = checksum(pseudo + segment).to_bytes(2, "big")
            payload = bytes(segment)
        packet = bytearray(
            ip_packet(station.ip, to, protocol, payload, fragment=dice.choice([0, 0, 0, 0x2000, 0x1FFF]))
        )
        if dice.random() < 0.2:
            packet[dice.randrange(20)] = dice.randrange(256)
        noise = bytes(packet)
    return dice.choice([station.arp.get(station.gateway, MAC), b"\xff" * 6]) + MAC + struct.pack("!H", kind) + noise


def test_a_fault_in_a_callback_is_raised_where_the_library_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_station() as station:
        assert isinstance(station.network, UserStack)

        def fail(_frame: bytes) -> bool:
            raise MemoryError

        monkeypatch.setattr(station.network._queue, "put", fail)
        with pytest.raises(MemoryError):
            station.ask_link_address(HOST)
