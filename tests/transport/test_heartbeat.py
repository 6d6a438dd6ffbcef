"""Heartbeats: authentic, fresh, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.heartbeat import (
    DATAGRAM_SIZE_MAX,
    PAYLOAD_SIZE_MAX,
    REPLAY_WINDOW,
    HeartbeatKeys,
    HeartbeatRejected,
    HeartbeatSealer,
    ReplayWindow,
    session_of,
)

TO_SERVER, TO_CLIENT = bytes([1]) * 32, bytes([2]) * 32


def pair(session_id: int = 9) -> tuple[HeartbeatSealer, HeartbeatSealer]:
    return (
        HeartbeatSealer(HeartbeatKeys(session_id, TO_SERVER, TO_CLIENT)),
        HeartbeatSealer(HeartbeatKeys(session_id, TO_CLIENT, TO_SERVER)),
    )


@given(st.lists(st.one_of(st.integers(-3, 200), st.integers(0, 2**64 - 1)), max_size=100))
def test_replay_window_accepts_each_of_the_newest_64_once(counters: list[int]) -> None:
    """Agrees with a window that remembers everything."""
    window = ReplayWindow()
    seen: set[int] = set()
    for counter in counters:
        is_fresh = counter >= 1 and counter not in seen and counter > max(seen, default=0) - REPLAY_WINDOW
        assert window.accept(counter) == is_fresh
        if is_fresh:
            seen.add(counter)


@given(st.binary(max_size=PAYLOAD_SIZE_MAX), st.integers(0, 2**63))
def test_beats_round_trip_once(payload: bytes, now_ns: int) -> None:
    client, server = pair()
    datagram = client.seal(now_ns, payload)
    assert len(datagram) <= DATAGRAM_SIZE_MAX
    assert session_of(datagram) == 9
    beat = server.open(datagram, 77)
    assert (beat.session_id, beat.counter, beat.received_ns, beat.payload) == (9, 1, 77, payload)
    with pytest.raises(HeartbeatRejected, match="replay"):
        server.open(datagram, 78)


def test_every_changed_bit_is_rejected_and_moves_nothing() -> None:
    client, server = pair()
    datagram = client.seal(5, b"tick 12")
    for bit in range(len(datagram) * 8):
        forged = bytearray(datagram)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HeartbeatRejected):
            server.open(bytes(forged), 6)
    assert server.open(datagram, 7).payload == b"tick 12"


@given(st.binary(max_size=DATAGRAM_SIZE_MAX + 5))
def test_junk_is_rejected(junk: bytes) -> None:
    with pytest.raises(HeartbeatRejected):
        pair()[0].open(junk, 1)


def test_a_reflected_beat_and_one_of_another_session_are_rejected() -> None:
    client, server = pair()
    with pytest.raises(HeartbeatRejected, match="not authentic"):
        client.open(client.seal(1, b""), 2)
    with pytest.raises(HeartbeatRejected, match="another session"):
        server.open(pair(10)[0].seal(1, b""), 2)


def test_beats_may_overtake_each_other() -> None:
    client, server = pair()
    datagrams = [client.seal(n, b"%d" % n) for n in range(REPLAY_WINDOW + 1)]
    assert server.open(datagrams[-1], 0).counter == REPLAY_WINDOW + 1
    for datagram in reversed(datagrams[1:-1]):
        server.open(datagram, 0)
    with pytest.raises(HeartbeatRejected, match="too old"):
        server.open(datagrams[0], 0)


def test_round_trip_time_needs_only_our_own_clock() -> None:
    """The peer's clock is 10^15 ns away; it held our beat for 300 ns; the way there and back took 50."""
    client, server = pair()
    far = 10**15
    assert server.open(client.seal(1000, b""), far).rtt_ns is None
    beat = client.open(server.seal(far + 300, b""), 1350)
    assert beat.rtt_ns == 50
