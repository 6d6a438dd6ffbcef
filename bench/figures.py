"""The statistics of all benchmarks: few, and the same everywhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A repeated measurement. `median` is the figure, `low` and `high` say how far the repetitions lie apart."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """ValueError without values: a figure that was not measured must not look like one."""
        sample = sorted(values)
        if not sample:
            raise ValueError("no values")
        return cls(statistics.median(sample), sample[0], sample[-1], len(sample))

    @property
    def spread(self) -> float:
        """(high - low) / median; 0.1 means that the repetitions lie within a tenth of the figure."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def fields(self) -> dict[str, float]:
        """For JSON."""
        return {**asdict(self), "spread": self.spread}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1] of all values do not exceed (nearest rank)."""
    if not values or not 0 < share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def distribution(values: Sequence[float]) -> dict[str, float]:
    """count, min, p50, p90, p99 and max of a sample, for JSON."""
    return {
        "count": len(values),
        "min": min(values),
        "p50": percentile(values, 0.5),
        "p90": percentile(values, 0.9),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }


def geomean(values: Iterable[float]) -> float:
    """ValueError without values, or when one is not positive."""
    return statistics.geometric_mean(list(values))
