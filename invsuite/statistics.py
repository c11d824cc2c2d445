"""Means with bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """Mean of the defined values, how many there are, and a 95 % percentile bootstrap interval over them
    (None where fewer than two values are defined)."""

    n: int
    mean: float | None
    low: float | None
    high: float | None


def summarise(values: Sequence[float | None]) -> Summary:
    """Summary of per-image values; None values (not defined for that image) are left out and lower ``n``."""
    defined = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(defined) == 0:
        return Summary(0, None, None, None)
    mean = float(defined.mean())
    if len(defined) == 1:
        return Summary(1, mean, None, None)
    if np.ptp(defined) == 0.0:
        return Summary(len(defined), mean, mean, mean)
    found = bootstrap(
        (defined,), np.mean, n_resamples=RESAMPLES, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    )
    return Summary(len(defined), mean, float(found.confidence_interval.low), float(found.confidence_interval.high))
