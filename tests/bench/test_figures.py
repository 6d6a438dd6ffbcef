"""The statistics of the benchmarks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Spread, distribution, geomean, percentile

SAMPLES = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=200)


def test_spread_names_the_median_and_how_far_repetitions_lie_apart() -> None:
    spread = Spread.of([3.0, 1.0, 2.0])
    assert spread == Spread(median=2.0, low=1.0, high=3.0, count=3)
    assert spread.spread == 1.0
    assert spread.fields() == {"median": 2.0, "low": 1.0, "high": 3.0, "count": 3, "spread": 1.0}


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError):
        Spread.of([])
    with pytest.raises(ValueError):
        percentile([], 0.5)
    with pytest.raises(ValueError):
        geomean([])


def test_percentiles_of_a_hundred_values() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]


def test_p99_of_fifty_values_is_the_largest() -> None:
    assert percentile([float(number) for number in range(50)], 0.99) == 49.0


@given(SAMPLES, st.floats(0.001, 1.0))
def test_percentile_is_the_smallest_value_that_covers_the_share(values: list[float], share: float) -> None:
    """At least `share` of the values are no larger, and no smaller value of the sample has that property."""
    found = percentile(values, share)
    needed = math.ceil(share * len(values))
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


@given(SAMPLES)
def test_a_distribution_is_in_order(values: list[float]) -> None:
    """min <= p50 <= p90 <= p99 <= max, whatever the order of the sample."""
    figures = distribution(values)
    assert figures["count"] == len(values)
    steps = [figures[key] for key in ("min", "p50", "p90", "p99", "max")]
    assert steps == sorted(steps)
    assert distribution(list(reversed(values))) == figures


def test_geomean_of_ratios() -> None:
    assert geomean([0.5, 2.0]) == pytest.approx(1.0)
