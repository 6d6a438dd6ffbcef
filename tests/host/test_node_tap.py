"""A node's interface: when it writes, what it takes in, and how it announces itself. With a core that does as told."""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
import trio
import trio.testing

from ftvm.host import node_tap
from ftvm.host.network import NetworkStatistics, encode_frame
from ftvm.host.node_tap import ANNOUNCE_AFTER_S, NodeTap
from ftvm.log.entry import INPUT_SIZE_MAX
from ftvm.replication.node import Node
from tests.limits import WAIT_S

MAC = "52:54:00:12:34:56"
LATER_NS = 1 << 62


class Core:
    """The part of `Node` that an interface sees."""

    def __init__(self) -> None:
        self.lease_until_ns = LATER_NS
        self.room = 1 << 16

    def local_room(self, _device: str) -> int:
        return self.room


class Wire:
    """A `Network`; readable once there are frames."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.frames: deque[bytes] = deque()
        self._ends = trio.socket.socketpair()
        self.closed = False

    def arrive(self, *frames: bytes) -> None:
        self.frames.extend(frames)
        self._ends[1]._sock.send(b"!")  # type: ignore[attr-defined]

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def timeout_s(self) -> float | None:
        return None

    def process(self) -> None:
        try:
            self._ends[0]._sock.recv(100)  # type: ignore[attr-defined]
        except BlockingIOError:
            return

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def receive(self) -> bytes | None:
        return self.frames.popleft() if self.frames else None

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics(from_guest=len(self.sent))

    def close(self) -> None:
        self.closed = True
        for end in self._ends:
            end.close()


def run(test: Callable[[Wire, NodeTap, Core, list[bytes]], Awaitable[None]]) -> None:
    async def main() -> None:
        wire, core = Wire(), Core()
        given: list[bytes] = []

        def give(data: bytes) -> None:
            given.append(data)
            core.room -= len(data)

        tap = NodeTap(wire, MAC, lambda: cast(Node, core), give)
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tap.run)
                await trio.testing.wait_all_tasks_blocked()
                await test(wire, tap, core, given)
                nursery.cancel_scope.cancel()
        assert wire.closed

    trio.run(main)


def test_frames_are_written_while_the_lease_lasts_and_not_after_it() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, _given: list[bytes]) -> None:
        tap.emit(encode_frame(b"one") + encode_frame(b"two"))
        core.lease_until_ns = time.monotonic_ns()
        tap.emit(encode_frame(b"three"))
        assert wire.sent == [b"one", b"two"]
        assert tap.describe()["fenced"] == 1

    run(main)


def test_who_goes_live_says_several_times_where_the_guests_address_is_from_now_on() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, _given: list[bytes]) -> None:
        tap.go_live()
        assert len(wire.sent) == 1
        while tap.announced < len(ANNOUNCE_AFTER_S):
            await trio.testing.wait_all_tasks_blocked(0.01)
        own = bytes.fromhex(MAC.replace(":", ""))
        assert len(set(wire.sent)) == 1
        frame = wire.sent[0]
        assert (frame[:6], frame[6:12], frame[12:14], len(frame)) == (b"\xff" * 6, own, b"\x80\x35", 60)

    run(main)


def test_an_announcement_that_is_due_after_the_lease_is_not_made() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, _given: list[bytes]) -> None:
        tap.go_live()
        core.lease_until_ns = 1
        while tap.fenced < len(ANNOUNCE_AFTER_S) - 1:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(wire.sent) == 1

    run(main)


def test_a_frame_waits_for_room_and_keeps_its_place() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, given: list[bytes]) -> None:
        core.room = 20
        wire.arrive(b"a" * 10, b"b" * 10, b"c" * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert given == [encode_frame(b"a" * 10)]
        core.room = 40
        tap.kick()
        await trio.testing.wait_all_tasks_blocked()
        assert given == [encode_frame(letter * 10) for letter in (b"a", b"b", b"c")]

    run(main)


def test_a_frame_that_fits_into_no_entry_is_left_out() -> None:
    async def main(wire: Wire, _tap: NodeTap, core: Core, given: list[bytes]) -> None:
        wire.arrive(bytes(INPUT_SIZE_MAX - 3), b"next", bytes(INPUT_SIZE_MAX - 4))
        await trio.testing.wait_all_tasks_blocked()
        assert given == [encode_frame(b"next"), encode_frame(bytes(INPUT_SIZE_MAX - 4))]

    run(main)


def test_what_came_while_this_node_was_not_live_does_not_come_late() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, given: list[bytes]) -> None:
        core.lease_until_ns = 0
        wire.arrive(b"early")
        await trio.testing.wait_all_tasks_blocked()
        core.lease_until_ns = LATER_NS
        wire.arrive(b"now")
        await trio.testing.wait_all_tasks_blocked()
        assert given == [encode_frame(b"now")]

    run(main)


def test_what_comes_while_a_node_expects_to_go_live_is_kept_until_it_is() -> None:
    async def main(wire: Wire, tap: NodeTap, core: Core, given: list[bytes]) -> None:
        core.lease_until_ns = 0
        wire.arrive(b"early")
        await trio.testing.wait_all_tasks_blocked()
        tap.expect()
        assert wire.sent == [tap._announcement]
        wire.arrive(b"kept")
        await trio.testing.wait_all_tasks_blocked()
        core.lease_until_ns = LATER_NS
        tap.go_live()
        await trio.testing.wait_all_tasks_blocked()
        assert given == [encode_frame(b"kept")]

    run(main)


def test_what_was_kept_for_a_takeover_that_does_not_come_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_tap, "EXPECT_S", 0.05)

    async def main(wire: Wire, tap: NodeTap, core: Core, given: list[bytes]) -> None:
        core.lease_until_ns = 0
        tap.expect()
        wire.arrive(b"kept")
        while wire.frames:
            await trio.testing.wait_all_tasks_blocked(0.01)
        core.lease_until_ns = LATER_NS
        tap.go_live()
        await trio.testing.wait_all_tasks_blocked()
        assert given == []

    run(main)


def test_a_live_node_expects_nothing() -> None:
    async def main(wire: Wire, tap: NodeTap, _core: Core, _given: list[bytes]) -> None:
        tap.expect()
        assert wire.sent == []

    run(main)
