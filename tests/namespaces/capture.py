"""Counting what really passes a host's wire, by the kernel's own view of every frame."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from tests.namespaces.network import Host

ETH_P_ALL = 3
ETH_P_IP = 0x0800
ETHERNET_SIZE = 14
SNAP_SIZE = 128
"""Enough for the headers of Ethernet, IPv4 and TCP with options."""

RECEIVE_BUFFER = 8 << 20
SOL_PACKET, PACKET_STATISTICS = 263, 6
IPPROTO_TCP = 6
PACKET_HOST = 0
"""Meant for this host; a switch also sends others' frames here until it knows where they live."""


@dataclass(slots=True)
class Payload:
    """TCP payload by who sent it: bytes (with what was sent again) and segments."""

    sent: dict[str, int]
    dropped: int
    """Frames that this capture missed: then its figures are lower bounds."""


class Capture:
    """TCP payload that arrives at a host, per source address, since the capture was opened.

    Frames wait in the kernel until `read` counts them; what does not fit is counted as dropped.
    """

    def __init__(self, host: Host) -> None:
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind(("eth0", ETH_P_ALL))
        self._socket.setblocking(False)
        self._sent: dict[str, int] = {}
        self._dropped = 0

    def read(self) -> Payload:
        """What was counted so far."""
        while True:
            try:
                frame, address = self._socket.recvfrom(SNAP_SIZE)
            except BlockingIOError:
                break
            if address[1] == ETH_P_IP and address[2] == PACKET_HOST:
                self._count(frame)
        _, dropped = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._dropped += dropped
        return Payload(dict(self._sent), self._dropped)

    def close(self) -> None:
        self._socket.close()

    def _count(self, frame: bytes) -> None:
        packet = frame[ETHERNET_SIZE:]
        header_size = (packet[0] & 15) * 4
        if packet[9] != IPPROTO_TCP:
            return
        data_offset = (packet[header_size + 12] >> 4) * 4
        size = int.from_bytes(packet[2:4], "big") - header_size - data_offset
        if size > 0:
            source = socket.inet_ntoa(packet[12:16])
            self._sent[source] = self._sent.get(source, 0) + size
