"""Means, and statistics of all images together, with bootstrap intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, norm

RESAMPLES = 2000
POOLED_RESAMPLES = 1000

#: a statistic of images that count as often as their weights say: weights (R, n) -> values (R,)
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


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


@dataclass(frozen=True)
class Pooled:
    """A statistic of all images together.

    Attributes:
        value: the statistic.
        contributions: an image each, whose mean is ``value``: the statistic linearised by the jackknife (Efron &
            Tibshirani 1993, section 11.5), so that rows can be compared image by image.
        interval: 95 % bootstrap interval over images, the statistic computed anew for each resample, corrected for bias
            and acceleration (BCa, section 14.3): average precision of a resample is biased, and plain percentiles would
            cover too little. None for fewer than two images.
    """

    value: float
    contributions: list[float]
    interval: tuple[float, float] | None


def pool(statistic: Statistic, n: int) -> Pooled:
    """``statistic`` of ``n`` images, with each image's contribution and an interval."""
    value = float(statistic(np.ones((1, n)))[0])
    if n < 2:
        return Pooled(value, [value] * n, None)
    left_out = statistic(1.0 - np.eye(n))
    left_out = np.where(np.isnan(left_out), value, left_out)  # without this image there is nothing to measure
    contributions = value + (n - 1) * (left_out.mean() - left_out)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=POOLED_RESAMPLES).astype(np.float64)
    return Pooled(value, contributions.tolist(), _bca(value, statistic(draws), left_out))


def _bca(value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64]) -> tuple[float, float]:
    """The BCa interval from the statistic of resamples (NaN where it is not defined) and of all but one image each."""
    resampled = resampled[~np.isnan(resampled)]
    influence = left_out.mean() - left_out
    spread = float((influence**2).sum())
    if spread == 0.0 or np.ptp(resampled) == 0.0:
        return value, value
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    below = (np.mean(resampled < value) + np.mean(resampled <= value)) / 2  # ties count half
    bias = norm.ppf(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled)))
    ends = bias + norm.ppf([0.025, 0.975])
    low, high = np.quantile(resampled, norm.cdf(bias + ends / (1 - acceleration * ends)))
    return float(low), float(high)
