"""Hypothesis strategies for valid lists of entries."""

from hypothesis import strategies as st

from ftvm.log.codec import CLOCK_CAP_MAX, CLOCK_RATE_MAX, MTIME_MAX
from ftvm.log.entry import DIGEST_SIZE, TICK_MAX, Action, Clock, Control, Digest, Entry, Horizon, Input

_rates = st.integers(0, CLOCK_RATE_MAX)
_caps = st.integers(0, CLOCK_CAP_MAX)
_offsets = st.integers(0, TICK_MAX)
_devices = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=32)


def _entries_at(tick: int) -> st.SearchStrategy[Entry]:
    at = st.just(tick)
    return st.one_of(
        st.builds(Input, at, _devices, _offsets, st.binary(min_size=1, max_size=40), st.just(False)),
        st.builds(Input, at, _devices, _offsets, st.just(b"\0"), st.just(True)),
        st.builds(Clock, at, st.integers(0, MTIME_MAX), _rates, _caps),
        st.builds(Horizon, at),
        st.builds(Digest, at, st.binary(min_size=DIGEST_SIZE, max_size=DIGEST_SIZE)),
        st.builds(Control, at, st.sampled_from(Action)),
    )


@st.composite
def entry_lists(draw: st.DrawFn, *, max_size: int = 12) -> list[Entry]:
    """Valid entries with ticks that never fall, often equal, now and then near the last tick."""
    ticks = draw(st.lists(st.one_of(st.integers(0, 300), st.integers(0, TICK_MAX)), max_size=max_size))
    return [draw(_entries_at(tick)) for tick in sorted(ticks)]
