from hypothesis import given
from hypothesis import strategies as st

from ftvm.host.pacing import CLOCK_CAP, HEARD_WINDOW_NS, MTIME_NS, RATE_MAX, TICKS_PER_S_INITIAL, HeardClock, Pacer
from ftvm.log.codec import decode_entries, encode_entries

MS = 1_000_000
times = st.integers(0, 10**15)


@given(st.integers(0, 10**12), times, st.integers(0, 10**12))
def test_a_sample_at_the_wake_time_is_past_the_deadline(mtime: int, anchor_ns: int, ahead: int) -> None:
    """sample(wake_ns(d)).mtime >= d, and a unit of time earlier it is not."""
    pacer = Pacer(mtime, anchor_ns)
    wake_ns = pacer.wake_ns(mtime + ahead)
    assert pacer.sample(wake_ns, 0).mtime >= mtime + ahead
    if ahead:
        assert pacer.sample(wake_ns - 1, 0).mtime < mtime + ahead


@given(times, st.lists(st.integers(-5 * MS, 50 * MS), max_size=20))
def test_samples_never_fall_when_time_does_not(anchor_ns: int, steps: list[int]) -> None:
    """Host time that moves on gives mtime that moves on; a host clock before the anchor gives the anchor."""
    pacer = Pacer(7, anchor_ns)
    now_ns = anchor_ns - 3 * MS
    before = pacer.sample(now_ns, 0).mtime
    assert before == 7
    for step in steps:
        now_ns += max(0, step)
        mtime = pacer.sample(now_ns, 0).mtime
        assert mtime >= before
        before = mtime


@given(st.integers(1, 3_000), st.integers(1, 100))
def test_the_rate_is_that_of_the_hart(mips: int, slices: int) -> None:
    """After a few slices at a steady speed a computed second is a second, to one in a thousand."""
    pacer = Pacer(0, 0)
    for _ in range(slices + 150):
        pacer.ran(mips * 1000 * 8, 8 * MS)
    clock = pacer.sample(0, 0)
    assert clock.cap == CLOCK_CAP
    if clock.rate < RATE_MAX:
        second = mips * 1_000_000 * clock.rate >> 32
        assert abs(second - 1_000_000_000 // MTIME_NS) <= 1_000_000_000 // MTIME_NS // 1000
    assert abs(pacer.ticks_in(MS) - mips * 1000) <= max(1, mips)


def test_one_slow_slice_brings_the_estimate_down_at_once() -> None:
    """A guest that turns from computing to trapping must not get a second slice of half a second."""
    pacer = Pacer(0, 0)
    for _ in range(50):
        pacer.ran(3_200_000, 8 * MS)
    long_slice = pacer.ticks_in(8 * MS)
    pacer.ran(long_slice, 320 * MS)
    assert pacer.ticks_in(8 * MS) <= 10_000_000 * 8 // 1000 * 2


def test_the_first_slice_is_short() -> None:
    assert Pacer(0, 0).ticks_in(10 * MS) == TICKS_PER_S_INITIAL // 100


@given(st.integers(0, 10**9), st.integers(0, 10**10), times)
def test_every_sample_can_be_logged(ticks: int, elapsed_ns: int, now_ns: int) -> None:
    """Whatever was measured, the entry is one that the codec takes."""
    pacer = Pacer(0, 0)
    pacer.ran(ticks, elapsed_ns)
    clock = pacer.sample(now_ns, 5)
    assert decode_entries(encode_entries([clock])) == [clock]


def test_an_anchor_moves_the_clock() -> None:
    pacer = Pacer(0, 0)
    pacer.anchor(1_000, 5 * MS)
    assert pacer.sample(6 * MS, 0).mtime == 1_000 + MS // MTIME_NS


def anchored(samples: list[tuple[int, int]], now_ns: int) -> int:
    """What the guest's clock is at `now_ns` for who heard these samples (taken, heard; ns of one clock): ns."""
    heard = HeardClock()
    for taken_ns, heard_ns in samples:
        heard.hear(taken_ns // MTIME_NS, heard_ns)
    anchor = heard.anchor()
    assert anchor is not None
    pacer = Pacer(0, 0)
    pacer.anchor(*anchor)
    return pacer.sample(now_ns, 0).mtime * MTIME_NS


@given(st.lists(st.integers(0, 50 * MS // MTIME_NS), min_size=1, max_size=50))
def test_who_goes_on_is_as_far_behind_as_the_quickest_sample_came_late(delays: list[int]) -> None:
    """However late the last ones were heard."""
    samples = [(number * 8 * MS, number * 8 * MS + delay * MTIME_NS) for number, delay in enumerate(delays)]
    samples.sort(key=lambda sample: sample[1])
    now_ns = samples[-1][1] + 400 * MS
    assert anchored(samples, now_ns) == now_ns - min(delays) * MTIME_NS


@given(st.integers(-100, 100))
def test_a_sample_of_long_ago_does_not_count_for_two_clocks_part(millionths: int) -> None:
    """With so many millionths between the clocks of two hosts, who goes on after an hour is off by a millisecond."""
    hour_ns = 3600 * 1000 * MS
    times = range(0, hour_ns, HEARD_WINDOW_NS // 10)
    samples = [(heard_ns + heard_ns * millionths // 1_000_000, heard_ns) for heard_ns in times]
    true_ns = hour_ns + hour_ns * millionths // 1_000_000
    assert abs(anchored(samples, hour_ns) - true_ns) <= MS


def test_who_heard_nothing_has_no_anchor() -> None:
    assert HeardClock().anchor() is None
