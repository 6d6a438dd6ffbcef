"""What an earlier process left in its log, cut anywhere, and how the next one goes on with it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import LogError
from ftvm.log.codec import decode_stamp, encode_stamp
from ftvm.log.entry import LOG_VERSION, Entry, Horizon
from ftvm.log.file import LogReader, LogWriter
from ftvm.log.resume import inspect, resume
from ftvm.log.stamp import MEMBERS_MAX, Held, Stamp

LIFE, OTHER, NEXT = b"l" * 16, b"o" * 16, b"n" * 16
JOINED = Stamp("m", "alpha", LIFE, 0, b"", 0, ())
MARKED = Stamp("m", "alpha", LIFE, 3, OTHER, 1, (("beta", OTHER), ("alpha", LIFE)))
ALONE = Stamp("m", "alpha", LIFE, 4, LIFE, 1, (("alpha", LIFE),))
SNAPSHOT = b"the machine at its start"
POSITION = 7

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
lives = st.binary(min_size=16, max_size=16)
stamps = st.builds(
    Stamp,
    names,
    names,
    lives,
    st.integers(0, (1 << 62) - 1),
    st.one_of(lives, st.just(b"")),
    st.integers(0, (1 << 62) - 1),
    st.lists(st.tuples(names, lives), max_size=MEMBERS_MAX).map(tuple),
)


def fits(_log: LogReader) -> str:
    return ""


def write(path: Path) -> list[tuple[int, Held | None]]:
    """A log, and what it holds once it has been written so far."""
    writer = LogWriter.create(
        path, config_hash=bytes(16), image_hash=bytes(16), snapshot=SNAPSHOT, position=POSITION, stamp=JOINED
    )
    with writer:
        ends: list[tuple[int, Held | None]] = [(writer.size, Held(JOINED, POSITION))]
        for step in (MARKED, [Horizon(10)], [Horizon(20), Horizon(30)], ALONE, [Horizon(40)]):
            held = ends[-1][1]
            assert held is not None
            if isinstance(step, Stamp):
                writer.stamp(step)
                ends.append((writer.size, Held(step, held.pos, held.tick)))
            else:
                entries: list[Entry] = list(step)
                writer.append(entries)
                ends.append((writer.size, Held(held.stamp, held.pos + len(step), step[-1].tick)))
    return ends


def look(path: Path) -> Held | None:
    held = inspect(path, "m", fits)
    return held and Held(held.stamp, held.pos, held.tick, "", held.trouble)


def test_a_log_cut_anywhere_holds_what_its_whole_records_say(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    ends = write(path)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        before = [held for end, held in ends if end <= size]
        if before:
            assert look(path) == before[-1]
            continue
        held = look(path)
        # Without its first stamp it is no node's log; without its whole snapshot nobody knows what it was.
        assert held is None or (held.stamp is None and held.trouble), (size, held)


@pytest.mark.parametrize("lost", [0, 1, 17, None])
def test_whoever_goes_on_cuts_the_tail_off_and_stamps_before_anything_else(tmp_path: Path, lost: int | None) -> None:
    """However much of the last batch was lost; None: all of it."""
    path = tmp_path / "a.ftlog"
    ends = write(path)
    with path.open("r+b") as file:
        file.truncate(ends[-2][0] if lost is None else ends[-1][0] - lost)
    was = look(path)
    assert was is not None
    assert was.stamp == ALONE
    again = Stamp("m", "alpha", NEXT, 4, LIFE, 1, (("alpha", NEXT),))
    began: list[tuple[bytes, int]] = []
    seen: list[Entry] = []
    writer, start_size = resume(path, again, lambda *start: began.append(start), seen.append)
    assert began == [(SNAPSHOT, POSITION)]
    assert (writer.position, len(seen)) == (was.pos, was.pos - POSITION)
    assert look(path) == Held(again, was.pos, was.tick)
    with writer:
        writer.append([Horizon(50)])
        assert start_size < writer.size == path.stat().st_size
    assert look(path) == Held(again, was.pos + 1, 50)
    with LogReader(path) as reader:
        assert list(reader.entries()) == [*seen, Horizon(50)]
        assert (reader.torn, reader.stamp) == (None, again)


def test_a_log_that_cannot_be_used_is_trouble_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ftlog"
    assert inspect(path, "m", fits) is None
    ends = write(path)
    assert "is of machine 'm', this one is 'other'" in (inspect(path, "other", fits) or Held(None)).trouble
    assert "differs" in (inspect(path, "m", lambda _log: "its image differs") or Held(None)).trouble

    damaged = bytearray(path.read_bytes())
    damaged[ends[1][0] + 3] ^= 1
    path.write_bytes(damaged)
    assert f"damaged at offset {ends[1][0]}" in (look(path) or Held(None)).trouble

    monkeypatch.setattr("ftvm.log.file.LOG_VERSION", LOG_VERSION + 1)
    held = look(path)
    assert held is not None
    assert held.stamp is None
    assert f"version {LOG_VERSION}, and this ftvm reads version {LOG_VERSION + 1}" in held.trouble


def test_a_recorded_log_is_no_nodes_log(tmp_path: Path) -> None:
    path = tmp_path / "a.ftlog"
    LogWriter.create(path, config_hash=bytes(16), image_hash=bytes(16), snapshot=SNAPSHOT).close()
    assert inspect(path, "m", fits) is None


@given(stamps)
def test_stamps_round_trip(stamp: Stamp) -> None:
    """decode(encode(x)) == x."""
    assert decode_stamp(encode_stamp(stamp)) == stamp


@given(st.binary(max_size=200) | stamps.map(lambda stamp: encode_stamp(stamp)[:-1]))
def test_what_is_no_stamp_is_a_log_error_and_nothing_else(encoded: bytes) -> None:
    """No input makes another exception, and nothing but a stamp's own bytes is one."""
    with suppress(LogError):
        assert encode_stamp(decode_stamp(encoded)) == encoded
