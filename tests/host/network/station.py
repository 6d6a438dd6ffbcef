"""A guest of a few pages: ARP, DHCP, UDP and TCP, frame by frame, over any `Network`.

In-order TCP without retransmission: what a network between two sockets of this process needs, and no more. Every wait
has a deadline and raises `AssertionError` beyond it.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from ftvm.host.network import Network
from tests.limits import WAIT_S

MAC = bytes.fromhex("525400123456")
BROADCAST = b"\xff" * 6
ARP, IPV4 = 0x0806, 0x0800
TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
WINDOW = 0xFFFF


def checksum(data: bytes) -> int:
    """The Internet checksum. (RFC 1071.)"""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Station:
    """A network card with address `ip` behind `network`."""

    def __init__(self, network: Network, ip: str = "10.0.2.15", gateway: str = "10.0.2.2") -> None:
        self.network = network
        self.ip, self.gateway = socket.inet_aton(ip), socket.inet_aton(gateway)
        self.arp: dict[bytes, bytes] = {}
        self.frames: deque[bytes] = deque(maxlen=1000)
        self.datagrams: deque[tuple[str, int, int, bytes]] = deque()
        """(from address, from port, to port, data)."""
        self.listening: set[int] = set()
        self.accepted: deque[Connection] = deque()
        self.connections: dict[tuple[int, bytes, int], Connection] = {}

    # ---- the loop

    def wait(self, done: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        deadline = time.monotonic() + timeout_s
        self.turn(0.0)
        while not done():
            left_s = deadline - time.monotonic()
            assert left_s > 0, "nothing came in time"
            self.turn(left_s)

    def turn(self, wait_s: float) -> None:
        """Once around the owner's loop of `Network`."""
        due_s = self.network.timeout_s()
        select.select([self.network], [], [], wait_s if due_s is None else min(wait_s, due_s))
        self.network.process()
        while (frame := self.network.receive()) is not None:
            self._take(frame)
            self.network.process()

    # ---- out

    def send_frame(self, kind: int, payload: bytes, to: bytes | None = None) -> None:
        self.network.send((to or self.arp.get(self.gateway, BROADCAST)) + MAC + struct.pack("!H", kind) + payload)

    def ask_link_address(self, ip: str, timeout_s: float = WAIT_S) -> bytes:
        wanted = socket.inet_aton(ip)
        request = struct.pack("!HHBBH6s4s6s4s", 1, IPV4, 6, 4, 1, MAC, self.ip, bytes(6), wanted)
        self.send_frame(ARP, request, BROADCAST)
        self.wait(lambda: wanted in self.arp, timeout_s)
        return self.arp[wanted]

    def send_ip(self, to: str, protocol: int, payload: bytes, source: bytes | None = None) -> None:
        address = socket.inet_aton(to)
        self.send_frame(IPV4, ip_packet(source or self.ip, address, protocol, payload), self.arp.get(address))

    def send_udp(self, to: str, port: int, own_port: int, data: bytes, source: bytes | None = None) -> None:
        self.send_ip(to, UDP, struct.pack("!HHHH", own_port, port, 8 + len(data), 0) + data, source)

    def connect(self, to: str, port: int, own_port: int) -> "Connection":
        connection = Connection(self, own_port, socket.inet_aton(to), port)
        self.connections[own_port, connection.peer, port] = connection
        connection.transmit(SYN)
        return connection

    # ---- in

    def _take(self, frame: bytes) -> None:
        self.frames.append(frame)
        kind, payload = int.from_bytes(frame[12:14], "big"), frame[14:]
        if kind == ARP:
            operation, mac, ip, target = (
                int.from_bytes(payload[6:8], "big"),
                payload[8:14],
                payload[14:18],
                payload[24:28],
            )
            self.arp[ip] = mac
            if operation == 1 and target == self.ip:
                self.send_frame(ARP, struct.pack("!HHBBH6s4s6s4s", 1, IPV4, 6, 4, 2, MAC, self.ip, mac, ip), mac)
        elif kind == IPV4 and payload[16:20] in (self.ip, b"\xff" * 4):
            header_size, size = (payload[0] & 15) * 4, int.from_bytes(payload[2:4], "big")
            self._take_ip(payload[9], payload[12:16], payload[header_size:size])

    def _take_ip(self, protocol: int, source: bytes, payload: bytes) -> None:
        ports = struct.unpack_from("!HH", payload)
        if protocol == UDP:
            self.datagrams.append((socket.inet_ntoa(source), *ports, payload[8:]))
        elif protocol == TCP:
            key = (ports[1], source, ports[0])
            if key not in self.connections and ports[1] in self.listening and payload[13] & SYN:
                self.connections[key] = Connection(self, ports[1], source, ports[0])
                self.accepted.append(self.connections[key])
            if key in self.connections:
                self.connections[key].take(payload)

    # ---- DHCP (RFC 2131)

    def obtain_address(self) -> dict[int, bytes]:
        """DISCOVER, OFFER, REQUEST, ACK; the options of the last one. Sets `ip`."""
        offer, options = self._dhcp(bytes([53, 1, 1]))
        assert options[53] == b"\x02"
        request = bytes([53, 1, 3, 50, 4]) + offer + bytes([54, 4]) + options[54]
        self.ip, options = self._dhcp(request)
        assert options[53] == b"\x05"
        return options

    def _dhcp(self, options: bytes) -> tuple[bytes, dict[int, bytes]]:
        fixed = struct.pack("!BBBBIHH16x6s202x", 1, 1, 6, 0, 0x1234, 0, 0x8000, MAC)
        message = fixed + bytes.fromhex("63825363") + options + b"\xff"
        self.send_udp("255.255.255.255", 67, 68, message, source=bytes(4))
        self.wait(lambda: any(one[2] == 68 for one in self.datagrams))
        answer = self.datagrams.pop()[3]
        found, at = {}, 240
        while answer[at] != 255:
            found[answer[at]] = answer[at + 2 : at + 2 + answer[at + 1]]
            at += 2 + answer[at + 1]
        return answer[16:20], found


class Connection:
    """One TCP connection of a station. `data` is what came in."""

    def __init__(self, station: Station, own_port: int, peer: bytes, port: int) -> None:
        self.station, self.own_port, self.peer, self.port = station, own_port, peer, port
        self.sent, self.acked, self.received = 1000, 1000, 0
        self.window = 0
        self.mss = 1460
        self.data = bytearray()
        self.is_open = self.is_ended = self.is_reset = False

    def send(self, data: bytes) -> None:
        """All of `data`, as the peer's window allows."""
        while data:
            self.station.wait(lambda: self.sent - self.acked < self.window)
            size = min(self.mss, self.window - (self.sent - self.acked))
            self.transmit(ACK | PSH, data[:size])
            data = data[size:]

    def finish(self) -> None:
        self.transmit(FIN | ACK)

    def wait_open(self) -> None:
        self.station.wait(lambda: self.is_open)

    def wait_data(self, size: int) -> bytes:
        self.station.wait(lambda: len(self.data) >= size)
        data = bytes(self.data[:size])
        del self.data[:size]
        return data

    def transmit(self, flags: int, data: bytes = b"") -> None:
        fixed = (self.own_port, self.port, self.sent, self.received, 5 << 4, flags, WINDOW)
        pseudo = self.station.ip + self.peer + struct.pack("!BBH", 0, TCP, 20 + len(data))
        check = checksum(pseudo + struct.pack("!HHIIBBHHH", *fixed, 0, 0) + data)
        self.sent += len(data) + bool(flags & SYN) + bool(flags & FIN)
        self.station.send_ip(socket.inet_ntoa(self.peer), TCP, struct.pack("!HHIIBBHHH", *fixed, check, 0) + data)

    def take(self, segment: bytes) -> None:
        sequence, acked, offset, flags, self.window = struct.unpack_from("!IIBBH", segment, 4)
        data = segment[(offset >> 4) * 4 :]
        if flags & ACK:
            self.acked = max(self.acked, acked)
        if flags & RST:
            self.is_reset = self.is_ended = True
        elif flags & SYN:
            self.received = sequence + 1
            self.is_open = bool(flags & ACK)
            self.transmit(ACK if flags & ACK else SYN | ACK)
        elif sequence == self.received and (data or flags & FIN):
            self.data += data
            self.is_ended = bool(flags & FIN)
            self.received += len(data) + self.is_ended
            self.transmit(ACK)
        else:
            self.is_open = True


def ip_packet(source: bytes, to: bytes, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0, source, to)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload
