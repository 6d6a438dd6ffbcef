"""A bare TCP acknowledgement waits a moment for company.

Who answers a guest over TCP acknowledges the answer and asks the next question a moment later. Each frame that goes to
a protected guest alone costs a run of the machine on every replica, log, and acknowledgements of that; together they
cost one. So a segment that says nothing but "received" is held for up to `LINGER_S`, in front of the next frame and
never behind it. TCP allows 500 ms (RFC 9293, section 3.8.6.3) and asks that every second segment is acknowledged: of
two that wait, none waits on.
"""

import time

from ftvm.host.network.frames import ETHERNET_HEADER_SIZE
from ftvm.host.network.interface import Network, NetworkStatistics

LINGER_S = 0.002

_IPV4_TCP = 6
_ACK = 0x10


def is_bare_acknowledgement(frame: bytes) -> bool:
    """TCP over IPv4 without options or payload, and no flag but ACK."""
    packet = frame[ETHERNET_HEADER_SIZE:]
    if len(packet) < 40 or frame[12:14] != b"\x08\x00" or packet[0] != 0x45 or packet[9] != _IPV4_TCP:
        return False
    header_size = packet[32] >> 4 << 2
    return packet[33] == _ACK and int.from_bytes(packet[2:4], "big") == 20 + header_size


class Lingering:
    """A `Network` in front of another one."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._held: bytes | None = None
        self._next: bytes | None = None
        self._until = 0.0

    def fileno(self) -> int:
        return self._network.fileno()

    def timeout_s(self) -> float | None:
        timeout_s = self._network.timeout_s()
        if self._held is None:
            return timeout_s
        left_s = max(0.0, self._until - time.monotonic())
        return left_s if timeout_s is None else min(left_s, timeout_s)

    def process(self) -> None:
        self._network.process()

    def send(self, frame: bytes) -> None:
        self._network.send(frame)

    def receive(self) -> bytes | None:
        if (waiting := self._next) is not None:
            self._next = None
            return waiting
        frame = self._network.receive()
        if self._held is None:
            if frame is None or not is_bare_acknowledgement(frame):
                return frame
            self._held, self._until = frame, time.monotonic() + LINGER_S
            frame = self._network.receive()
        if frame is None and time.monotonic() < self._until:
            return None
        first, self._held, self._next = self._held, None, frame
        return first

    def statistics(self) -> NetworkStatistics:
        return self._network.statistics()

    def close(self) -> None:
        self._network.close()
