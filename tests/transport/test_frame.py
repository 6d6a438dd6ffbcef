"""Frames: what goes in comes out, whatever the chunks; and nothing else ever does."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transport.errors import (
    FrameCorrupt,
    FrameDuplicate,
    FrameError,
    FrameGap,
    FrameOversize,
    FrameTruncated,
    FrameUnknownType,
)
from transport.frame import (
    HEADER_SIZE,
    PAYLOAD_SIZE_MAX,
    Frame,
    FrameDecoder,
    FrameEncoder,
    FrameType,
)

contents = st.lists(st.tuples(st.sampled_from(FrameType), st.binary(max_size=40)), min_size=1, max_size=8)


def encode(frames: list[tuple[FrameType, bytes]]) -> list[bytes]:
    encoder = FrameEncoder()
    return [encoder.encode(frame_type, payload) for frame_type, payload in frames]


def decode(data: bytes, decoder: FrameDecoder | None = None) -> tuple[list[Frame], FrameError | None]:
    """All frames of a path that carried these bytes and then ended, and the error that ended it, if any."""
    decoder = decoder or FrameDecoder()
    decoder.feed(data)
    frames = []
    try:
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        decoder.finish()
    except FrameError as error:
        return frames, error
    return frames, None


@given(contents, st.data())
def test_frames_round_trip_in_any_chunks(frames: list[tuple[FrameType, bytes]], data: st.DataObject) -> None:
    """However the bytes are cut, the same frames come out, numbered from 0."""
    stream = b"".join(encode(frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = FrameDecoder()
    decoded: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        while (frame := decoder.next_frame()) is not None:
            decoded.append(frame)
    decoder.finish()
    assert decoded == [Frame(kind, number, payload) for number, (kind, payload) in enumerate(frames)]


def test_payload_parts_are_joined_and_the_largest_frame_passes() -> None:
    encoder = FrameEncoder()
    half = bytes(PAYLOAD_SIZE_MAX // 2)
    frames, error = decode(encoder.encode(FrameType.SEGMENT, half, memoryview(half)))
    assert error is None
    assert frames == [Frame(FrameType.SEGMENT, 0, half + half)]


@given(contents, st.data())
def test_every_truncation_inside_a_frame_is_rejected(
    frames: list[tuple[FrameType, bytes]], data: st.DataObject
) -> None:
    """A path that ends inside a frame gives the whole frames before it, then FrameTruncated."""
    encoded = encode(frames)
    stream = b"".join(encoded)
    length = data.draw(st.integers(0, len(stream) - 1))
    ends = [sum(map(len, encoded[:count])) for count in range(len(encoded))]
    assume(length not in ends)
    decoded, error = decode(stream[:length])
    assert isinstance(error, FrameTruncated)
    assert len(decoded) == sum(end <= length for end in ends) - 1


@settings(max_examples=300)
@given(contents, st.data())
def test_every_bit_flip_is_rejected(frames: list[tuple[FrameType, bytes]], data: st.DataObject) -> None:
    """One flipped bit anywhere: the frames before it are right, and the frame with it is an error."""
    stream = bytearray(b"".join(encode(frames)))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    decoded, error = decode(bytes(stream))
    assert isinstance(error, FrameCorrupt)
    assert decoded == [Frame(kind, n, payload) for n, (kind, payload) in enumerate(frames)][: len(decoded)]
    assert len(decoded) < len(frames)


@given(contents, st.randoms(use_true_random=False))
def test_every_reordering_is_rejected(frames: list[tuple[FrameType, bytes]], random: object) -> None:
    """Whole frames in another order end in FrameGap at the first one that is out of place."""
    encoded = encode(frames)
    shuffled = list(encoded)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assume(shuffled != encoded)
    decoded, error = decode(b"".join(shuffled))
    assert isinstance(error, FrameGap)
    assert len(decoded) == next(i for i, (a, b) in enumerate(zip(encoded, shuffled, strict=True)) if a != b)


@given(contents, st.data())
def test_a_repeated_frame_and_a_missing_frame_are_rejected(
    frames: list[tuple[FrameType, bytes]], data: st.DataObject
) -> None:
    encoded = encode(frames)
    index = data.draw(st.integers(0, len(encoded) - 1))
    repeated = encoded[: index + 1] + encoded[data.draw(st.integers(0, index)) :]
    assert isinstance(decode(b"".join(repeated))[1], FrameDuplicate)
    if index < len(encoded) - 1:
        assert isinstance(decode(b"".join(encoded[:index] + encoded[index + 1 :]))[1], FrameGap)


@given(st.binary(min_size=1, max_size=200))
def test_junk_is_never_a_frame(junk: bytes) -> None:
    decoded, error = decode(junk)
    assert decoded == []
    assert error is not None


def test_an_oversize_frame_is_rejected_from_its_header_alone() -> None:
    frame = FrameEncoder().encode(FrameType.HELLO, bytes(101))
    decoder = FrameDecoder(payload_size_max=100)
    decoder.feed(frame[:HEADER_SIZE])
    with pytest.raises(FrameOversize):
        decoder.next_frame()


def test_an_unknown_type_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = FrameEncoder().encode(200, b"from the future")  # type: ignore[arg-type]
    assert isinstance(decode(frame)[1], FrameUnknownType)


def test_a_broken_decoder_stays_broken() -> None:
    decoder = FrameDecoder()
    assert isinstance(decode(b"?" * HEADER_SIZE, decoder)[1], FrameCorrupt)
    assert decode(b"".join(encode([(FrameType.ACK, b"")])), decoder)[0] == []
    with pytest.raises(FrameCorrupt):
        decoder.finish()
