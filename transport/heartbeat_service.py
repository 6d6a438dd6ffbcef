"""Heartbeats over UDP, apart from the log: TCP stalls for 200 to 450 ms after a loss and would fake a death."""

import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from transport.background import open_background
from transport.errors import ListenFailed
from transport.heartbeat import DATAGRAM_SIZE_MAX, Beat, HeartbeatKeys, HeartbeatRejected, HeartbeatSealer, session_of

_logger = logging.getLogger(__name__)

ANSWER_SLACK = 1.5
SESSIONS_MAX = 1024
DATAGRAMS_PER_TURN = 64


class HeartbeatService:
    """One UDP socket for the heartbeats of all sessions of a node; made by `open_heartbeats`."""

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        self._sessions: dict[int, tuple[HeartbeatSealer, Callable[[Beat], None]]] = {}
        self.port: int = udp.getsockname()[1]
        self.rejected = 0
        """Datagrams that were not a fresh beat of any session."""

    async def run(
        self,
        keys: HeartbeatKeys,
        address: tuple[str, int],
        *,
        interval_s: float,
        payload: Callable[[], bytes],
        on_beat: Callable[[Beat], None],
        answer: bool = False,
    ) -> None:
        """Beat for one session until cancelled; the first beat goes at once.

        `payload()` is asked before every beat (at most heartbeat.PAYLOAD_SIZE_MAX bytes). `on_beat(beat)`
        is called for each fresh beat of the peer and must not wait. A beat that cannot be sent is lost, as
        it may be on the way: silence is for the failure detector to judge. One of two sides may give `answer`: it beats
        when it hears the other, in the same wake-up, and by itself only if it hears nothing for ANSWER_SLACK intervals.
        """
        assert keys.session_id not in self._sessions
        assert len(self._sessions) < SESSIONS_MAX
        sealer = HeartbeatSealer(keys)
        rest = trio.CancelScope()

        def send() -> None:
            try:
                # Not trio's sendto: it costs more than the beat, and a full buffer is a lost beat here.
                self._socket.sendto(sealer.seal(time.monotonic_ns(), payload()), address)
            except OSError as error:
                _logger.debug("heartbeat to %s:%d not sent: %s", *address, error)

        def answer_beat(beat: Beat) -> None:
            on_beat(beat)
            send()
            rest.deadline = trio.current_time() + ANSWER_SLACK * interval_s

        self._sessions[keys.session_id] = (sealer, answer_beat if answer else on_beat)
        try:
            due = trio.current_time()
            while True:
                send()
                # After a stall the missed beats are not sent in a burst.
                due = max(due + interval_s, trio.current_time())
                with trio.CancelScope(deadline=due) as rest:
                    await trio.sleep_forever()
        finally:
            del self._sessions[keys.session_id]

    async def _receive_loop(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            for _ in range(DATAGRAMS_PER_TURN):
                try:
                    datagram = self._socket.recv(DATAGRAM_SIZE_MAX + 1)
                except BlockingIOError:
                    break
                except OSError as error:
                    # An ICMP error of an earlier beat; the socket itself is well.
                    _logger.debug("heartbeat socket: %s", error)
                else:
                    self._take(datagram, time.monotonic_ns())

    def _take(self, datagram: bytes, now_ns: int) -> None:
        session_id = session_of(datagram)
        session = None if session_id is None else self._sessions.get(session_id)
        if session is None:
            self.rejected += 1
            return
        sealer, on_beat = session
        try:
            beat = sealer.open(datagram, now_ns)
        except HeartbeatRejected as error:
            self.rejected += 1
            _logger.debug("heartbeat dropped: %s", error)
        else:
            on_beat(beat)


@asynccontextmanager
async def open_heartbeats(host: str, port: int = 0) -> AsyncIterator[HeartbeatService]:
    """Bind a UDP port (0: any free one) and receive on it inside the block. Raises ListenFailed."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        udp = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenFailed(f"cannot take UDP port {port} of {host}: {error.strerror or error}") from error
    with udp:
        try:
            udp.setblocking(False)
            udp.bind(address)
        except OSError as error:
            raise ListenFailed(f"cannot take UDP port {port} of {host}: {error.strerror}") from error
        service = HeartbeatService(udp)
        async with open_background() as nursery:
            nursery.start_soon(service._receive_loop)
            yield service
