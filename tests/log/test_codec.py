from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import LogError
from ftvm.log import codec
from ftvm.log.codec import decode_entries, encode_entries, split_entries
from ftvm.log.entry import INPUT_SIZE_MAX, TICK_MAX, Action, Clock, Control, Digest, Entry, Horizon, Input
from tests.log.strategies import entry_lists

EXAMPLE: list[Entry] = [
    Clock(5_000_000_000, 123_456_789, 107_374_182, 100_000),
    Input(5_000_000_000, "uart0", 70_000, b"SET a 1\r\n"),
    Input(5_000_000_007, "uart0", 70_009, b"\0", is_break=True),
    Control(5_000_000_007, Action.RESET),
    Digest(5_002_000_000, bytes(range(16))),
    Clock(5_002_000_000, 123_506_789, 107_374_182, 100_000),
    Horizon(5_002_000_000),
]


@given(entry_lists())
def test_round_trip(entries: list[Entry]) -> None:
    """decode(encode(x)) == x."""
    assert decode_entries(encode_entries(entries)) == entries


def test_every_truncation_is_rejected() -> None:
    encoded = encode_entries(EXAMPLE)
    for size in range(len(encoded)):
        with pytest.raises(LogError):
            decode_entries(encoded[:size])


def test_trailing_bytes_are_rejected() -> None:
    with pytest.raises(LogError):
        decode_entries(encode_entries(EXAMPLE) + b"\x90")


@given(entry_lists(), st.data())
def test_a_flipped_bit_never_reads_as_the_same_entries(entries: list[Entry], data: st.DataObject) -> None:
    """The encoding is one to one: other bytes are an error or other entries, never the same ones again."""
    encoded = bytearray(encode_entries(entries))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        decoded = decode_entries(bytes(encoded))
    except LogError:
        return
    assert decoded != entries


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_log_error(noise: bytes) -> None:
    """Whatever decodes is canonical; whatever does not is a LogError."""
    try:
        entries = decode_entries(noise)
    except LogError:
        return
    assert encode_entries(entries) == noise


_numbers = st.integers(-(1 << 63), (1 << 64) - 1)
_plain = st.one_of(st.none(), st.booleans(), _numbers, st.binary(max_size=20), st.text(max_size=9))


@given(st.lists(st.one_of(_plain, st.lists(_plain, max_size=7)), max_size=5))
def test_arbitrary_values_raise_nothing_but_log_error(rows: list[Any]) -> None:
    """As above, for well-formed msgpack of a wrong shape."""
    try:
        decode_entries(msgpack.packb(rows))
    except LogError:
        return


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([0, 0], id="tag 0"),
        pytest.param([99, 0], id="tag of a later version"),
        pytest.param([True, 0, "uart0", 0, b"x", False], id="tag of a wrong type"),
        pytest.param([3], id="no tick"),
        pytest.param([3, -1], id="back in time"),
        pytest.param([3, 1.0], id="tick of a wrong type"),
        pytest.param([3, TICK_MAX + 1], id="beyond the last tick"),
        pytest.param([3, 0, 0], id="a field too many"),
        pytest.param([4, 0], id="a field too few"),
        pytest.param([4, 0, bytes(15)], id="digest of a wrong size"),
        pytest.param([5, 0, 77], id="unknown action"),
        pytest.param([5, 0, True], id="action of a wrong type"),
        pytest.param([1, 0, "", 0, b"x", False], id="no device"),
        pytest.param([1, 0, "ü", 0, b"x", False], id="device not ASCII"),
        pytest.param([1, 0, "d" * 33, 0, b"x", False], id="device name too long"),
        pytest.param([1, 0, b"uart0", 0, b"x", False], id="device of a wrong type"),
        pytest.param([1, 0, "uart0", -1, b"x", False], id="negative offset"),
        pytest.param([1, 0, "uart0", 0, b"", False], id="no data"),
        pytest.param([1, 0, "uart0", 0, bytes(INPUT_SIZE_MAX + 1), False], id="too much data"),
        pytest.param([1, 0, "uart0", 0, "x", False], id="data of a wrong type"),
        pytest.param([1, 0, "uart0", 0, b"x", 0], id="break of a wrong type"),
        pytest.param([1, 0, "uart0", 0, b"ab", True], id="break with data"),
        pytest.param([2, 0, -1, 0, 0], id="negative mtime"),
        pytest.param([2, 0, 0, -1, 0], id="negative rate"),
        pytest.param([2, 0, 0, codec.CLOCK_RATE_MAX + 1, 0], id="rate too high"),
        pytest.param([2, 0, 0, 0, codec.CLOCK_CAP_MAX + 1], id="cap too high"),
        pytest.param({}, id="a map"),
        pytest.param(None, id="nothing"),
    ],
)
def test_a_bad_entry_is_rejected(row: Any) -> None:
    with pytest.raises(LogError):
        decode_entries(msgpack.packb([row]))


def test_ticks_beyond_the_last_are_rejected_in_the_middle_too() -> None:
    with pytest.raises(LogError):
        decode_entries(msgpack.packb([[3, TICK_MAX], [3, 1]]))


def test_a_number_in_a_longer_form_than_needed_is_rejected() -> None:
    assert encode_entries([Horizon(1)]) == b"\x91\x92\x03\x01"
    with pytest.raises(LogError, match="canonical"):
        decode_entries(b"\x91\x92\x03\xcc\x01")


def test_hostile_nesting_and_sizes_are_bounded() -> None:
    for hostile in (
        b"\x91" * 2000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\x20\x00" + b"\xc0" * 0x2000,
        bytes(codec.ENCODED_SIZE_MAX + 1),
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x00\x00",
        b"\xc7\x01\x05\x00",
    ):
        with pytest.raises(LogError):
            decode_entries(hostile)


def test_a_slice_costs_few_bytes() -> None:
    """A slice of 2 M instructions may cost 1,000 bytes. A Clock and a Horizon, hours into a run, cost 40."""
    first = Clock(9_000_000_000_000, 90_000_000_000, 107_374_182, 100_000)
    assert len(encode_entries([first, Horizon(first.tick + 2_000_000)])) <= 40
    second = Clock(first.tick + 2_000_000, first.mtime + 50_000, first.rate, first.cap)
    assert len(encode_entries([first, second])) - len(encode_entries([first])) <= 21


def test_encoding_refuses_entries_out_of_order() -> None:
    with pytest.raises(AssertionError):
        encode_entries([Horizon(2), Horizon(1)])


@pytest.mark.parametrize("data_size", [1, INPUT_SIZE_MAX])
def test_split_entries_loses_nothing_and_every_part_fits(data_size: int) -> None:
    entries: list[Entry] = [Input(TICK_MAX, "d" * 32, TICK_MAX - 1, bytes(data_size)) for _ in range(9000)]
    parts = list(split_entries(entries))
    assert [entry for part in parts for entry in part] == entries
    for part in parts:
        assert decode_entries(encode_entries(part)) == list(part)


def test_split_entries_of_nothing_is_nothing() -> None:
    assert list(split_entries([])) == []
