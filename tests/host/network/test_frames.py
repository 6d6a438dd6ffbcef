"""Frames in a byte stream."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import ProtocolError
from ftvm.host.network import FRAME_SIZE_MAX, FrameDecoder, FrameQueue, GuestPort, NetworkStatistics, encode_frame

frames = st.lists(st.binary(min_size=1, max_size=300), max_size=10)


@given(frames, st.lists(st.integers(0, 700), max_size=10))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, sent))
    decoder = FrameDecoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = (stream[start:end] for start, end in pairwise(edges))
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == sent


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_frames_or_one_error_and_what_is_kept_is_bounded(pieces: list[bytes]) -> None:
    decoder = FrameDecoder()
    for piece in pieces:
        try:
            assert all(0 < len(frame) <= FRAME_SIZE_MAX for frame in decoder.feed(piece))
        except ProtocolError:
            decoder.reset()
    decoder.reset()
    assert list(decoder.feed(encode_frame(b"after"))) == [b"after"]


@pytest.mark.parametrize("size", [0, FRAME_SIZE_MAX + 1, 0xFFFF_FFFF])
def test_a_length_that_no_frame_has_is_an_error_before_the_frame_is_waited_for(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {size} bytes announced"):
        list(FrameDecoder().feed(size.to_bytes(4, "big")))


def test_the_frames_before_a_broken_one_are_not_lost() -> None:
    came = FrameDecoder().feed(encode_frame(b"whole") + bytes(4))
    assert next(came) == b"whole"
    with pytest.raises(ProtocolError):
        next(came)


def test_a_queue_drops_what_is_too_much_and_counts_it() -> None:
    queue = FrameQueue(FRAME_SIZE_MAX + 100)
    assert queue.put(bytes(FRAME_SIZE_MAX))
    assert not queue.put(bytes(100))
    assert queue.put(bytes(90))
    assert (queue.count, queue.dropped, len(queue)) == (2, 1, 2)
    assert [len(queue.get() or b"") for _ in range(3)] == [FRAME_SIZE_MAX, 90, 0]
    assert queue.size == 0


class Wire:
    """A `Network` that keeps what it is sent and gives what it was given."""

    def __init__(self, waiting: Sequence[bytes] = ()) -> None:
        self.sent: list[bytes] = []
        self.waiting = list(waiting)

    def fileno(self) -> int:
        return -1

    def timeout_s(self) -> float | None:
        return None

    def process(self) -> None:
        """There is nothing to do."""

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def receive(self) -> bytes | None:
        return self.waiting.pop(0) if self.waiting else None

    def statistics(self) -> NetworkStatistics:
        return NetworkStatistics()

    def close(self) -> None:
        """Nothing is open."""


@given(frames, st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_the_guest_gets_a_stream_of_frames_in_parts_of_any_size(waiting: list[bytes], sizes: list[int]) -> None:
    port, stream = GuestPort(Wire(waiting)), b""
    while data := port.for_guest(sizes[len(stream) % len(sizes)]):
        assert len(data) <= max(sizes)
        stream += data
    assert list(FrameDecoder().feed(stream)) == waiting


def test_a_machine_that_starts_anew_gets_no_rest_of_a_frame_and_leaves_none() -> None:
    wire = Wire([b"x" * 100, b"next"])
    port = GuestPort(wire)
    port.for_guest(50)
    port.from_guest(encode_frame(b"y" * 100)[:50])
    port.reset()
    assert port.for_guest(1000) == encode_frame(b"next")
    port.from_guest(encode_frame(b"whole"))
    assert wire.sent == [b"whole"]


def test_a_guest_whose_stream_is_no_frames_is_named_as_the_source() -> None:
    with pytest.raises(ProtocolError, match=r"net0: a frame of 0 bytes"):
        GuestPort(Wire()).from_guest(bytes(4))
