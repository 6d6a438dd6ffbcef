"""Bare acknowledgements wait for company, never behind what came after them, and never for long."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.host.network.lingering import Lingering, is_bare_acknowledgement
from tests.host.network.test_frames import Wire

ACK, PSH, SYN, FIN, RST = 0x10, 0x08, 0x02, 0x01, 0x04


def segment(flags: int = ACK, payload: bytes = b"", options: bytes = b"", *, kind: bytes = b"\x08\x00") -> bytes:
    tcp = struct.pack("!HHIIBBHHH", 4000, 6379, 1, 2, (20 + len(options)) << 2, flags, 1024, 0, 0) + options + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0, b"\n\0\2\2", b"\n\0\2\x0f")
    return bytes(12) + kind + ip + tcp


BARE = segment()
BARE_WITH_TIMESTAMP = segment(options=bytes(12))
OTHERS = {
    "data": segment(ACK | PSH, b"x"),
    "data without PSH": segment(ACK, b"x"),
    "SYN": segment(SYN | ACK),
    "FIN": segment(FIN | ACK),
    "RST": segment(RST | ACK),
    "IPv6": segment(kind=b"\x86\xdd"),
    "cut off": BARE[:50],
    "empty": b"\0",
}


@pytest.mark.parametrize("frame", [BARE, BARE_WITH_TIMESTAMP, BARE + bytes(6)], ids=["plain", "options", "padded"])
def test_a_bare_acknowledgement_is_known(frame: bytes) -> None:
    assert is_bare_acknowledgement(frame)


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS)
def test_whatever_says_more_goes_at_once(frame: bytes) -> None:
    network = Lingering(Wire([frame]))
    assert network.receive() == frame


def test_an_acknowledgement_goes_before_what_comes_next() -> None:
    wire = Wire([BARE])
    network = Lingering(wire)
    assert network.receive() is None
    wire.waiting.append(OTHERS["data"])
    assert [network.receive(), network.receive(), network.receive()] == [BARE, OTHERS["data"], None]


def test_of_two_acknowledgements_none_waits_on() -> None:
    network = Lingering(Wire([BARE, BARE_WITH_TIMESTAMP]))
    assert [network.receive(), network.receive(), network.receive()] == [BARE, BARE_WITH_TIMESTAMP, None]


def test_an_acknowledgement_alone_goes_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("ftvm.host.network.lingering.time.monotonic", lambda: now_s)
    network = Lingering(Wire([BARE]))
    assert network.receive() is None
    due_s = network.timeout_s()
    assert due_s is not None
    assert 0 < due_s < 0.1
    now_s += due_s / 2
    assert network.receive() is None
    now_s += due_s / 2
    assert network.timeout_s() == 0
    assert network.receive() == BARE
    assert network.timeout_s() is None


@given(st.lists(st.sampled_from([None, BARE, BARE_WITH_TIMESTAMP, *OTHERS.values()])))
def test_frames_keep_their_order_and_none_is_lost(arrivals: list[bytes | None]) -> None:
    """Whenever they arrive and are asked for: what comes out is what went in."""
    wire = Wire([])
    network = Lingering(wire)
    got: list[bytes] = []
    for frame in [*arrivals, OTHERS["data"]]:
        if frame is not None:
            wire.waiting.append(frame)
        while (out := network.receive()) is not None:
            got.append(out)
    assert got == [frame for frame in arrivals if frame is not None] + [OTHERS["data"]]
