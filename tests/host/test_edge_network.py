"""The network of an edge, with nodes that come and go, and a guest made of frames."""

import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from ftvm.demo.system import free_ports
from ftvm.errors import FtvmError
from ftvm.host.edge_network import EdgeNetwork
from ftvm.host.network import DEVICE, FrameDecoder, NetworkStatistics, encode_frame, slirp_library
from ftvm.networks import Publish, UserNetwork
from ftvm.replication.edge import Deliver as DeliverEffect
from ftvm.replication.edge import EdgeCore, EdgeEffect, SendNode, StreamReset
from ftvm.replication.edge_sessions import INPUT_WINDOW
from ftvm.replication.messages import EdgeMessage, Input, InputAck, Live, Output
from tests.host.network.station import ARP, BROADCAST, MAC, Connection, Station
from tests.limits import WAIT_S
from tests.needs import lack

LOOPBACK = "127.0.0.1"
HOST = "10.0.2.2"
PORT_INSIDE = 7


class Nodes:
    """The live node and its guest's card, as a `Network` that a `Station` can use; `fail_over` is another node."""

    def __init__(self, port: int) -> None:
        self.core = EdgeCore(("uart0", DEVICE))
        self.network = EdgeNetwork(UserNetwork((Publish(LOOPBACK, port, PORT_INSIDE),)), 1500, self.core, self.perform)
        self.boot, self.gen = 1, 0
        self.said = self.heard = self.acked = 0
        self.acknowledging = True
        self.frames: deque[bytes] = deque()
        self.decoder = FrameDecoder()
        self.resets = 0
        self.heard_of = trio.Event()
        self._nothing = select.epoll()

    # ---- the edge's shell

    def tell(self, message: EdgeMessage) -> None:
        self.perform(self.core.received(self.gen, message))
        self.network.step()

    def perform(self, effects: list[EdgeEffect]) -> None:
        for effect in effects:
            match effect:
                case DeliverEffect(device, _, data, _):
                    assert device == DEVICE
                    self.network.deliver(data)
                case StreamReset(device):
                    self.resets += device == DEVICE
                    if device == DEVICE:
                        self.network.reset()
                case SendNode(session, Input(data=data, offset=offset)) if session == self.gen and data:
                    assert offset <= self.heard, "a gap in what the edge gives"
                    self.frames.extend(self.decoder.feed(data[self.heard - offset :]))
                    self.heard = max(self.heard, offset + len(data))
                    self.heard_of.set()

    # ---- the node

    def go_live(self, *, cold: bool = False) -> None:
        """Another node; `cold`: with another machine."""
        self.gen += 1
        if cold:
            self.boot = self.gen
            self.said = self.heard = self.acked = 0
            self.decoder = FrameDecoder()
            self.frames.clear()
        self.tell(Live(self.gen, (f"uart0@{self.boot}", f"{DEVICE}@{self.boot}")))
        self.tell(InputAck(self.gen, f"{DEVICE}@{self.boot}", self.acked))

    def acknowledge(self) -> None:
        if self.acknowledging and self.heard > self.acked:
            self.acked = self.heard
            self.tell(InputAck(self.gen, f"{DEVICE}@{self.boot}", self.acked))

    def say(self, data: bytes) -> None:
        self.said += len(data)
        self.tell(Output(self.gen, f"{DEVICE}@{self.boot}", self.said - len(data), data))

    # ---- a network, for the guest

    def fileno(self) -> int:
        return self._nothing.fileno()

    def timeout_s(self) -> float | None:
        return 0.002  # the edge's own task watches the sockets

    def process(self) -> None:
        self.network.step()
        self.acknowledge()

    def send(self, frame: bytes) -> None:
        self.say(encode_frame(frame))

    def receive(self) -> bytes | None:
        return self.frames.popleft() if self.frames else None

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics()

    def close(self) -> None:
        """The edge closes its own."""


def run(test: Callable[[Nodes, int], Awaitable[None]]) -> None:
    try:
        slirp_library.load()
    except FtvmError:
        lack("libslirp is missing: apt-get install libslirp0")
    (port,) = free_ports(1)

    async def main() -> None:
        nodes = Nodes(port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.network.run)
            with trio.fail_after(WAIT_S):
                await test(nodes, port)
            nursery.cancel_scope.cancel()
        with socket.create_server((LOOPBACK, port)):
            pass  # it is closed

    trio.run(main)


async def connect(nodes: Nodes, station: Station, port: int) -> tuple[socket.socket, Connection]:
    """A client of the published port, and its connection inside."""
    station.listening.add(PORT_INSIDE)
    client = socket.create_connection((LOOPBACK, port))
    client.settimeout(10)
    station.wait(lambda: station.accepted and station.accepted[-1].is_open)
    return client, station.accepted[-1]


def test_a_connection_outlives_the_node_and_nothing_is_lost_or_doubled() -> None:
    async def main(nodes: Nodes, port: int) -> None:
        nodes.go_live()
        station = Station(nodes)
        client, inside = await connect(nodes, station, port)
        with client:
            for number in range(20):
                question = b"question %d" % number
                client.sendall(question)
                nodes.acknowledging = number % 2 == 0
                station.wait(lambda: inside.data)
                if number % 3 == 0:
                    nodes.acknowledging = True
                    nodes.go_live()  # it has all that was given to the one before, acknowledged or not
                assert inside.wait_data(len(question)) == question
                inside.send(b"answer %d" % number)
                station.turn(0.0)
                assert client.recv(100) == b"answer %d" % number
            assert nodes.core.statistics().generation == 8

    run(main)


def test_while_no_node_acknowledges_no_more_than_a_window_is_given_and_then_the_rest_follows() -> None:
    async def main(nodes: Nodes, port: int) -> None:
        nodes.go_live()
        station = Station(nodes)
        client, inside = await connect(nodes, station, port)
        with client:
            nodes.acknowledging = False
            client.setblocking(False)
            sent = 0
            for _ in range(100):
                with suppress(BlockingIOError):
                    sent += client.send(bytes(1 << 16))
                station.turn(0.0)
                assert nodes.heard - nodes.acked <= INPUT_WINDOW
            assert nodes.heard - nodes.acked > INPUT_WINDOW - 2000
            nodes.acknowledging = True
            nodes.go_live()
            assert sent > 10 * INPUT_WINDOW
            station.wait(lambda: len(inside.data) == sent)

    run(main)


def test_another_machine_gets_whole_frames_from_the_first_byte_on() -> None:
    """The one before had a part of a frame, and said a part of one."""

    async def main(nodes: Nodes, port: int) -> None:
        nodes.go_live()
        station = Station(nodes)
        client, _ = await connect(nodes, station, port)
        with client:
            nodes.acknowledging = False
            client.setblocking(False)
            while nodes.heard - nodes.acked < INPUT_WINDOW:
                with suppress(BlockingIOError):
                    client.send(bytes(1 << 16))
                station.turn(0.0)
            nodes.say(encode_frame(bytes(100))[:50])
            nodes.acknowledging = True
            nodes.go_live(cold=True)
            assert nodes.resets == 1
            station = Station(nodes)
            assert station.ask_link_address(HOST)
            for frame in station.frames:
                assert frame[:6] in (MAC, BROADCAST)
            _, inside = await connect(nodes, station, port)
            assert inside.is_open

    run(main)


def test_a_stream_that_is_no_frames_loses_what_is_under_way_and_no_more() -> None:
    async def main(nodes: Nodes, port: int) -> None:
        nodes.go_live()
        station = Station(nodes)
        nodes.say(b"\xff" * 100)
        assert station.ask_link_address(HOST)

    run(main)


def test_what_the_world_sends_wakes_the_task() -> None:
    async def main(nodes: Nodes, port: int) -> None:
        nodes.go_live()
        with socket.create_connection((LOOPBACK, port)):
            await nodes.heard_of.wait()
        kinds = {int.from_bytes(frame[12:14], "big") for frame in nodes.frames}
        assert kinds == {ARP}
        assert nodes.network.describe()["to_guest"] == len(nodes.frames)

    run(main)
