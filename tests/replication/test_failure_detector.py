from hypothesis import given
from hypothesis import strategies as st

from ftvm.replication.failure_detector import FailureDetector

TIMEOUT_NS = 200


@given(st.lists(st.integers(0, TIMEOUT_NS - 1), max_size=30), st.integers(0, 1000))
def test_a_peer_heard_in_time_is_never_suspected_and_a_dead_one_after_exactly_the_timeout(
    gaps: list[int], start_ns: int
) -> None:
    """No suspicion while delays stay under T; noticed at T after the last word, not earlier."""
    detector = FailureDetector(TIMEOUT_NS, start_ns)
    now_ns = start_ns
    for gap in gaps:
        now_ns += gap
        assert not detector.tardy(now_ns)
        detector.heard(now_ns)
    assert not detector.tardy(now_ns + TIMEOUT_NS - 1)
    assert detector.tardy(now_ns + TIMEOUT_NS)
    assert detector.deadline_ns == now_ns + TIMEOUT_NS


def test_time_in_which_we_stood_still_is_excused() -> None:
    detector = FailureDetector(TIMEOUT_NS, 0)
    detector.excuse(10_000)
    assert not detector.tardy(10_000 + TIMEOUT_NS - 1)
    assert detector.tardy(10_000 + TIMEOUT_NS)


def test_old_news_do_not_make_a_peer_look_older() -> None:
    detector = FailureDetector(TIMEOUT_NS, 100)
    detector.heard(50)
    assert detector.deadline_ns == 100 + TIMEOUT_NS
