"""A TAP interface, in network namespaces that the test makes."""

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest

from ftvm.errors import FtvmError
from ftvm.host.network import Network, open_network
from ftvm.networks import TapNetwork
from tests.host.network.station import MAC, WAIT_S, Station
from tests.namespaces import Host, require_namespaces
from tests.namespaces import Network as Hosts
from tests.namespaces import open_network as open_hosts
from tests.needs import lack

HOST, GUEST, FAR = "10.77.0.1", "10.77.0.2", "10.77.0.3"
CAPABILITY_VERSION_3, CAP_NET_ADMIN = 0x20080522, 12


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    require_namespaces()
    with open_hosts({"one": HOST, "two": FAR}) as network:
        if not os.path.exists("/dev/net/tun"):
            lack("/dev/net/tun is missing: modprobe tun")
        yield network


def ip(host: Host, *words: str) -> None:
    done = host.run("ip", *words)
    assert done.returncode == 0, done.stderr


def open_tap(host: Host, name: str = "tap0", bridge: str = "", mtu: int = 1500) -> Network:
    return host.call(partial(open_network, TapNetwork(name, bridge), mtu=mtu))


def exchange(host: Host, station: Station, size: int = 100) -> None:
    """Asserts that a datagram of `size` bytes gets from `host` to the station, and one back."""
    with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(WAIT_S)
        client.connect((socket.inet_ntoa(station.ip), 7))
        client.send(b"?" * size)
        station.wait(lambda: station.datagrams)
        address, from_port, _, data = station.datagrams.popleft()
        assert data == b"?" * size
        station.send_udp(address, from_port, 7, b"!" * size)
        assert client.recv(65536) == b"!" * size


def without_rights(function: Callable[[], Network]) -> Network:
    """On this thread: without CAP_NET_ADMIN. (capabilities(7).)"""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    assert libc.capget(header, data) == 0
    effective, *others = struct.unpack("=6I", data.raw)
    assert libc.capset(header, struct.pack("=6I", effective & ~(1 << CAP_NET_ADMIN), *others)) == 0
    return function()


def test_the_host_and_the_guest_reach_each_other_over_an_interface_that_was_made_before(hosts: Hosts) -> None:
    host = hosts["one"]
    ip(host, "tuntap", "add", "dev", "tap0", "mode", "tap")
    ip(host, "addr", "add", "10.79.0.1/24", "dev", "tap0")
    with closing(open_tap(host)) as network:
        station = Station(network, "10.79.0.2", "10.79.0.1")
        exchange(host, station)
        station.arp.clear()
        assert station.ask_link_address("10.79.0.1")
    ip(host, "link", "show", "tap0")


def test_in_a_bridge_the_guest_is_one_more_host_of_the_network(hosts: Hosts) -> None:
    host = hosts["one"]
    ip(host, "link", "add", "br0", "type", "bridge")
    ip(host, "link", "set", "eth0", "master", "br0")
    ip(host, "link", "set", "br0", "up")
    with closing(open_tap(host, bridge="br0")) as network:
        station = Station(network, GUEST, FAR)
        exchange(hosts["two"], station)
        assert "master br0" in host.run("ip", "link", "show", "tap0").stdout
    assert "does not exist" in host.run("ip", "link", "show", "tap0").stderr


def test_an_interface_that_is_in_the_bridge_already_is_taken_as_it_is(hosts: Hosts) -> None:
    host = hosts["one"]
    ip(host, "link", "add", "br0", "type", "bridge")
    ip(host, "tuntap", "add", "dev", "tap0", "mode", "tap", "user", "0")
    ip(host, "link", "set", "tap0", "master", "br0", "up")
    with closing(host.call(partial(without_rights, partial(open_network, TapNetwork("tap0", "br0"))))) as network:
        network.process()


def test_frames_as_large_as_the_cards_mtu_pass(hosts: Hosts) -> None:
    host = hosts["one"]
    ip(host, "tuntap", "add", "dev", "tap0", "mode", "tap")
    ip(host, "addr", "add", "10.79.0.1/24", "dev", "tap0")
    with closing(open_tap(host, mtu=9000)) as network:
        station = Station(network, "10.79.0.2", "10.79.0.1")
        exchange(host, station, size=8900)
        assert max(len(frame) for frame in station.frames) > 8900


def test_what_keeps_an_interface_from_being_used_is_one_line(hosts: Hosts) -> None:
    host = hosts["one"]
    with pytest.raises(FtvmError, match=r"no interface tap0; make it: ip tuntap add dev tap0 mode tap"):
        open_tap(host)
    with pytest.raises(FtvmError, match=r"no bridge br7; make it: ip link add br7 type bridge"):
        open_tap(host, bridge="br7")
    with pytest.raises(FtvmError, match=r"--net tap:eth0: .*no TAP interface"):
        open_tap(host, "eth0")
    ip(host, "tuntap", "add", "dev", "tap0", "mode", "tap", "user", "65534")
    with pytest.raises(FtvmError, match=r"--net tap:tap0: .*not permitted; run as root, or give it"):
        host.call(partial(without_rights, partial(open_network, TapNetwork("tap0"))))
    with closing(open_tap(host)), pytest.raises(FtvmError, match=r"--net tap:tap0: .*busy; another process has it"):
        open_tap(host)


def test_an_interface_that_is_removed_is_said_and_one_that_is_down_is_waited_for(hosts: Hosts) -> None:
    host = hosts["one"]
    ip(host, "tuntap", "add", "dev", "tap0", "mode", "tap")
    network = open_tap(host)
    ip(host, "link", "set", "tap0", "down")
    network.process()
    network.send(bytes(12) + MAC)
    assert network.statistics().dropped_from_guest == 1
    ip(host, "link", "del", "tap0")
    with pytest.raises(FtvmError, match=r"tap:tap0: .*was the interface removed"):
        network.process()
    network.close()
