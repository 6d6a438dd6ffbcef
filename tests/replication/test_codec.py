import contextlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ProtocolError
from ftvm.log.entry import Action, Clock, Control, Digest, Entry, Horizon, Input
from ftvm.replication import messages as m
from ftvm.replication.codec import EDGE_MESSAGES, MESSAGE_SIZE_MAX, PEER_MESSAGES, decode, encode

numbers = st.integers(0, (1 << 62) - 1)
lives = st.binary(min_size=16, max_size=16)
names = st.text(min_size=1, max_size=12)
members = st.lists(lives, max_size=3).map(tuple)
offsets = st.dictionaries(names, numbers, max_size=3)
data = st.binary(max_size=40)
pieces = st.lists(st.builds(m.Piece, names, numbers, data, st.booleans()), max_size=4).map(tuple)


@st.composite
def entries(draw: st.DrawFn) -> tuple[Entry, ...]:
    ticks = sorted(draw(st.lists(st.integers(0, 1 << 40), max_size=6)))
    made: list[Entry] = []
    for tick in ticks:
        made.append(
            draw(
                st.sampled_from(
                    (
                        Input(tick, "uart0", tick, b"abc"),
                        Input(tick, "uart0", tick, b"\0", True),
                        Clock(tick, tick, 1, 1),
                        Horizon(tick),
                        Digest(tick, bytes(16)),
                        Control(tick, Action.POWER_OFF),
                    )
                )
            )
        )
    return tuple(made)


messages = st.one_of(
    st.builds(m.SnapshotChunk, numbers, data),
    st.builds(m.Snapshot, numbers, numbers, numbers, numbers, data, pieces, offsets, offsets),
    st.builds(m.Log, numbers, numbers, entries(), offsets),
    st.builds(m.Mark, numbers, numbers, members),
    st.builds(m.NewGeneration, numbers, numbers, members),
    st.builds(m.HandOver, numbers, numbers),
    st.builds(m.Heartbeat, numbers, lives, numbers, numbers),
    st.builds(m.Inventory, lives, data, st.booleans()),
    st.builds(m.Ready, numbers, lives, numbers),
    st.builds(m.Ack, numbers, lives, numbers, numbers, numbers),
    st.builds(m.Live, numbers, st.lists(names, max_size=3).map(tuple)),
    st.builds(m.Output, numbers, names, numbers, data, st.booleans()),
    st.builds(m.InputAck, numbers, names, numbers),
    st.builds(m.Halted, numbers, offsets, offsets),
    st.builds(m.Attach, numbers, offsets, offsets),
    st.builds(m.Input, numbers, names, numbers, data, numbers, st.booleans()),
    st.builds(m.Final, numbers),
)


@settings(max_examples=300, deadline=None)
@given(messages)
def test_messages_round_trip_and_no_part_of_one_is_one(message: m.Message) -> None:
    encoded = encode(message)
    assert decode(encoded) == message
    for cut in range(len(encoded)):
        with pytest.raises(ProtocolError):
            decode(encoded[:cut])
    with pytest.raises(ProtocolError):
        decode(encoded + b"\0")


@settings(max_examples=300, deadline=None)
@given(messages, st.data())
def test_a_flipped_bit_is_an_error_or_another_message(message: m.Message, draw: st.DataObject) -> None:
    """The channel's authentication finds every flip; here only: a typed error or a well-formed message, no other."""
    encoded = bytearray(encode(message))
    bit = draw.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        other = decode(bytes(encoded))
    except ProtocolError:
        return
    assert decode(encode(other)) == other


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_junk_raises_protocol_error_only(junk: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(b"\x9f" + junk)
    with contextlib.suppress(ProtocolError):
        decode(junk)


@pytest.mark.parametrize(
    "row",
    [
        [],
        [99],
        [True, 1],
        [16],
        [16, -1],
        [16, 1 << 63],
        [16, 1, 1],
        [16, 1.0],
        [4, 1, 1, [b"short"]],
        [4, 1, 1, [bytes(16)] * 33],
        [14, 1, ["a"], []],
        [14, 1, ["a", 1, "a", 2], []],
        [3, 1, 1, b"not a log", []],
        [11, 1, "x" * 65, 0, b"", False],
        [11, 1, "", 0, b"", False],
        {"a": 1},
        "text",
    ],
)
def test_what_no_sender_makes_is_refused(row: object) -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(row))


def test_size_and_direction_are_bounded() -> None:
    with pytest.raises(ProtocolError, match="larger"):
        decode(bytes(MESSAGE_SIZE_MAX + 1))
    with pytest.raises(ProtocolError, match="does not belong"):
        decode(encode(m.Final(1)), PEER_MESSAGES)
    with pytest.raises(ProtocolError, match="does not belong"):
        decode(encode(m.HandOver(1, 1)), EDGE_MESSAGES)
    nested = b"\x91" * 2000 + b"\x90"
    with pytest.raises(ProtocolError):
        decode(nested)
