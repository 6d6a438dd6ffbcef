"""The network that the other tests stand on: its cuts cut, its healing heals, and nothing of it is left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.limits import WAIT_S
from tests.namespaces import Network, open_network, require_namespaces
from tests.namespaces.capture import Capture
from tests.namespaces.network import NAMESPACES, remove_leftovers

ADDRESSES = {"one": "10.203.7.1", "two": "10.203.7.2", "three": "10.203.7.3"}
PORT = 4000
SILENCE_S = 0.15


@pytest.fixture
def network() -> Iterator[Network]:
    require_namespaces()
    with open_network(ADDRESSES) as network:
        yield network


def hears(network: Network, speaker: str, listener: str, wait_s: float = WAIT_S) -> bool:
    """Whether a datagram of `speaker` arrives at `listener`."""
    with (
        closing(network[listener].socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
        closing(network[speaker].socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.bind((ADDRESSES[listener], PORT))
        receiver.settimeout(wait_s)
        sender.sendto(b"x", (ADDRESSES[listener], PORT))
        try:
            return receiver.recvfrom(9) == (b"x", (ADDRESSES[speaker], sender.getsockname()[1]))
        except TimeoutError:
            return False


def connects(network: Network, client: str, server: str, wait_s: float = WAIT_S) -> str:
    with (
        closing(network[server].socket(socket.AF_INET, socket.SOCK_STREAM)) as listener,
        closing(network[client].socket(socket.AF_INET, socket.SOCK_STREAM)) as stream,
    ):
        listener.bind((ADDRESSES[server], PORT))
        listener.listen()
        stream.settimeout(wait_s)
        try:
            stream.connect((ADDRESSES[server], PORT))
        except TimeoutError:
            return "silence"
        except ConnectionRefusedError:
            return "refused"
        return "connected"


def test_a_partition_cuts_both_ways_and_only_these_two(network: Network) -> None:
    network.partition("one", "two")
    assert not hears(network, "one", "two", SILENCE_S)
    assert not hears(network, "two", "one", SILENCE_S)
    assert hears(network, "one", "three")
    network.heal()
    assert hears(network, "one", "two")
    assert hears(network, "two", "one")


def test_a_one_way_partition_lets_the_other_way_pass(network: Network) -> None:
    network.partition("one", "two", one_way=True)
    assert not hears(network, "one", "two", SILENCE_S)
    assert hears(network, "two", "one")


def test_a_cut_is_silent_or_answers_with_a_refusal(network: Network) -> None:
    assert connects(network, "one", "two") == "connected"
    network.partition("one", "two")
    assert connects(network, "one", "two", SILENCE_S) == "silence"
    network.heal()
    network.partition("one", "two", one_way=True, reject=True)
    assert connects(network, "one", "two") == "refused"
    assert connects(network, "one", "three") == "connected"


@pytest.mark.parametrize("reject", [False, True])
def test_an_isolated_host_hears_nobody_and_nobody_hears_it(network: Network, reject: bool) -> None:
    network.isolate("one", reject=reject)
    for other in ("two", "three"):
        assert not hears(network, "one", other, SILENCE_S)
        assert not hears(network, other, "one", SILENCE_S)
    assert hears(network, "two", "three")
    network.heal()
    for other in ("two", "three"):
        assert hears(network, "one", other)
        assert hears(network, other, "one")


def test_a_capture_counts_the_payload_of_each_sender(network: Network) -> None:
    capture = Capture(network["two"])
    with (
        closing(network["two"].socket(socket.AF_INET, socket.SOCK_STREAM)) as listener,
        closing(network["one"].socket(socket.AF_INET, socket.SOCK_STREAM)) as stream,
    ):
        listener.bind((ADDRESSES["two"], PORT))
        listener.listen()
        assert capture.read().sent == {}
        stream.connect((ADDRESSES["two"], PORT))
        stream.sendall(b"x" * 5000)
        accepted, _ = listener.accept()
        with accepted:
            assert len(accepted.recv(5000, socket.MSG_WAITALL)) == 5000
            accepted.sendall(b"y" * 100)
            assert stream.recv(100, socket.MSG_WAITALL) == b"y" * 100
    assert capture.read().sent == {ADDRESSES["one"]: 5000}
    assert capture.read().dropped == 0
    capture.close()


def test_the_hosts_own_interfaces_are_not_touched(network: Network) -> None:
    before = interfaces()
    with open_network(ADDRESSES) as second:
        assert hears(second, "one", "two")
        assert interfaces() == before
    assert interfaces() == before
    assert hears(network, "one", "two")


def interfaces() -> str:
    said = subprocess.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True, timeout=10).stdout
    return said + subprocess.run(["ip", "route"], capture_output=True, text=True, check=True, timeout=10).stdout


def test_a_program_runs_in_its_host_and_ends_with_the_network() -> None:
    require_namespaces()
    with open_network(ADDRESSES) as network:
        said = network["three"].run("ip", "-brief", "address", "show", "eth0").stdout
        assert ADDRESSES["three"] in said
        sleeper = network["three"].start("sleep", "1000")
        namespaces = [host.namespace for host in network.hosts.values()]
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not [name for name in namespaces if (NAMESPACES / name).exists()]


def test_what_a_killed_run_left_behind_is_removed_and_a_living_ones_is_not(network: Network) -> None:
    script = (
        "import time\n"
        "from tests.namespaces import open_network\n"
        f"with open_network({ADDRESSES!r}) as network:\n"
        "    network['one'].start('sleep', '1000')\n"
        "    print(network['one'].namespace, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        inside = network["one"].run("ip", "netns", "pids", name).stdout.split()
        remove_leftovers()
        assert (NAMESPACES / name).exists(), "its maker still lives"
        other.send_signal(signal.SIGKILL)
    remove_leftovers()
    assert not (NAMESPACES / name).exists()
    assert inside
    assert not [pid for pid in inside if os.path.exists(f"/proc/{pid}/fd/0")]
    assert hears(network, "one", "two")


def test_a_network_whose_making_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    require_namespaces()
    before = set(os.listdir(NAMESPACES)) if NAMESPACES.is_dir() else set()

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.namespaces.network._plug_in", interrupted)
    with pytest.raises(KeyboardInterrupt), open_network(ADDRESSES):
        pass
    assert set(os.listdir(NAMESPACES)) - before == set()
