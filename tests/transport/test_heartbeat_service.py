"""Heartbeats over real UDP on loopback, and probes over real TCP."""

import errno
import socket
from functools import partial

import pytest
import trio

from tests.transport.test_tls_channel import HOST, run
from transport.errors import ListenFailed
from transport.heartbeat import Beat, HeartbeatKeys, HeartbeatSealer
from transport.heartbeat_service import HeartbeatService, open_heartbeats
from transport.probe import ProbeResult, probe

KEYS_A = HeartbeatKeys(5, bytes([1]) * 32, bytes([2]) * 32)
KEYS_B = HeartbeatKeys(5, bytes([2]) * 32, bytes([1]) * 32)


class Beating:
    """One side of a session that beats every 10 ms, and what it heard."""

    def __init__(self, service: HeartbeatService, keys: HeartbeatKeys, to_port: int, payload: bytes) -> None:
        self.scope = trio.CancelScope()
        self._send, self.heard = trio.open_memory_channel[Beat](1000)
        self._run = partial(
            service.run,
            keys,
            (HOST, to_port),
            interval_s=0.01,
            payload=lambda: payload,
            on_beat=self._send.send_nowait,
        )

    async def run(self) -> None:
        with self.scope:
            await self._run()

    async def hear(self, count: int) -> list[Beat]:
        return [await self.heard.receive() for _ in range(count)]


def test_two_services_hear_each_other_until_one_stops() -> None:
    async def main(nursery: trio.Nursery) -> None:
        async with open_heartbeats(HOST) as service_a, open_heartbeats(HOST) as service_b:
            a = Beating(service_a, KEYS_A, service_b.port, b"tick 7")
            b = Beating(service_b, KEYS_B, service_a.port, b"tick 6")
            async with trio.open_nursery() as sides:
                sides.start_soon(a.run)
                sides.start_soon(b.run)
                at_a, at_b = await a.hear(5), await b.hear(5)
                b.scope.cancel()
                with trio.move_on_after(0.1) as silence:
                    while True:
                        at_a += await a.hear(1)
                assert silence.cancelled_caught
                assert len(at_a) < 8
                assert service_b.rejected >= 1, "beats for a session that has ended are dropped and counted"
                a.scope.cancel()
        assert {beat.payload for beat in at_a} == {b"tick 6"}
        assert {beat.payload for beat in at_b} == {b"tick 7"}
        assert [beat.counter for beat in at_a] == list(range(1, len(at_a) + 1))
        times = [beat.received_ns for beat in at_a]
        assert times == sorted(times)
        assert at_b[-1].rtt_ns is not None
        assert 0 < at_b[-1].rtt_ns < 1_000_000_000

    run(main)


def test_junk_forged_replayed_and_foreign_datagrams_are_counted_and_dropped() -> None:
    async def main(nursery: trio.Nursery) -> None:
        async with open_heartbeats(HOST) as service, trio.open_nursery() as sides:
            b = Beating(service, KEYS_B, 9, b"")
            sides.start_soon(b.run)
            await trio.testing.wait_all_tasks_blocked()
            peer = HeartbeatSealer(KEYS_A)
            first, second = peer.seal(1, b"first"), peer.seal(2, b"second")
            forged = bytes([*first[:-1], first[-1] ^ 1])
            foreign = HeartbeatSealer(HeartbeatKeys(6, bytes(32), bytes(32))).seal(1, b"")
            with trio.socket.socket(type=socket.SOCK_DGRAM) as udp:
                for datagram in (b"", b"junk", bytes(5000), forged, foreign, first, first, second):
                    await udp.sendto(datagram, (HOST, service.port))
            assert [beat.payload for beat in await b.hear(2)] == [b"first", b"second"]
            assert service.rejected == 6
            sides.cancel_scope.cancel()

    run(main)


def test_an_unreachable_address_is_silence_not_an_error() -> None:
    class Unreachable:
        def sendto(self, *_: object) -> int:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

        def getsockname(self) -> tuple[str, int]:
            return HOST, 1

    async def main(nursery: trio.Nursery) -> None:
        asked = []

        def payload() -> bytes:
            asked.append(1)
            return b""

        service = HeartbeatService(Unreachable())  # type: ignore[arg-type]
        with trio.move_on_after(0.05):
            await service.run(KEYS_A, (HOST, 1), interval_s=0.01, payload=payload, on_beat=print)
        assert len(asked) >= 3

    run(main)


def test_a_udp_port_in_use_is_one_clear_error() -> None:
    async def main(nursery: trio.Nursery) -> None:
        async with open_heartbeats(HOST) as service:
            with pytest.raises(ListenFailed, match=f"cannot take UDP port {service.port}"):
                async with open_heartbeats(HOST, service.port):
                    pytest.fail("two services on one port")

    run(main)


def test_probe_tells_a_listener_from_a_dead_process_from_silence() -> None:
    async def main(nursery: trio.Nursery) -> None:
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
            assert await probe(HOST, port) is ProbeResult.ANSWERED
        assert await probe(HOST, port, timeout_s=5) is ProbeResult.REFUSED
        with socket.socket() as full:
            full.bind((HOST, 0))
            full.listen(0)
            # The queue of a listener that accepts nobody is full after two: what follows gets no answer.
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            began = trio.current_time()
            assert await probe(HOST, full.getsockname()[1], timeout_s=0.1) is ProbeResult.NO_ANSWER
            assert trio.current_time() - began < 1
            for filler in fillers:
                filler.close()
        assert await probe("no-such-host.invalid", 1, timeout_s=5) is ProbeResult.NO_ANSWER

    run(main)
