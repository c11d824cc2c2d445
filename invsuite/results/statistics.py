"""Intervals and comparisons by bootstrap over images and, where a row has several seeds, over seeds and images.

Images are resampled jointly for every row that is compared, so that differences are paired: what makes an image hard
for one row makes it hard for the other, and cancels. A row is an array (seeds, images), NaN where the measure is not
defined; a row counts at an image only where every one of its seeds is defined there. Statistics of all images together,
such as average precision, are computed anew for each resample (`pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
POOLED_RESAMPLES = 1000
LEVEL = 0.95
MOST_VALUES = 2**22  # of resampled images, held at once
BLOCK = 16  # pairs of rows at a time: their resamples fit in a cache, and memory stays flat

Array = NDArray[np.float64]
#: a statistic of images that count as often as their weights say: weights (R, n) -> values (R,)
Statistic = Callable[[Array], Array]


@dataclass(frozen=True)
class Summary:
    """The mean of the defined values, with a 95 % percentile bootstrap interval.

    Attributes:
        n: images on which the measure is defined.
        mean: over them, None if there are none.
        low: end of the interval, None for fewer than two images.
        high: other end.
        seeds: runs that each image was measured in.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    seeds: int = 1


@dataclass(frozen=True)
class Difference:
    """The mean paired difference over ``n`` common images, with a 95 % interval (None where n is less than two)."""

    n: int
    mean: float | None
    low: float | None
    high: float | None

    @property
    def distinguishable(self) -> bool:
        """Tell whether the two rows can be told apart: the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def summary_text(mean: float | None, low: float | None, high: float | None, n: int, digits: int) -> str:
    """Return a mean with its interval, where it has one, and n, as tables of pages show it; "-" without a mean."""
    if mean is None:
        return "-"
    interval = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f}{interval} (n={n})"


def distance_from_best(direction: str, value: Any) -> Any:
    """Return a number (or array) that is smaller for a better ``value``, whatever the measure's direction."""
    return {"higher": -value, "lower": value, "one": abs(value - 1), "zero": abs(value)}[direction]


def summarise(values: Sequence[float | None]) -> Summary:
    """Return the summary of per-image values; those that are None (not defined) are left out and lower ``n``."""
    defined = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(defined) == 0:
        return Summary(0, None, None, None)
    mean = float(defined.mean())
    if len(defined) == 1:
        return Summary(1, mean, None, None)
    if np.ptp(defined) == 0.0:
        return Summary(len(defined), mean, mean, mean)
    from scipy.stats import bootstrap

    resampled = bootstrap(
        (defined,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_at_once(len(defined)),
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = resampled.confidence_interval
    return Summary(len(defined), mean, float(low), float(high))


def summarise_seeds(row: Array) -> Summary:
    """Return the summary of a row (seeds, images): mean and hierarchical bootstrap interval over both."""
    seeds = len(row)
    if seeds == 1:
        return summarise([None if np.isnan(v) else float(v) for v in row[0]])
    means, draws, n = resampled_means([row])
    if n == 0:
        return Summary(0, None, None, None, seeds)
    low, high = percentile_interval(draws[:, 0])
    return Summary(n, float(means[0]), low, high, seeds)


def resampled_means(rows: Sequence[Array]) -> tuple[Array, Array, int]:
    """Return means (rows,) over the images that all rows share, those of every resample (RESAMPLES, rows), and n.

    With no image in common all means are NaN.
    """
    common = np.logical_and.reduce([_defined(row) for row in rows])
    means, draws = _resample(rows, range(len(rows)), common)
    return means, draws.T, int(common.sum())


def percentile_interval(draws: Array, n: int | None = None) -> tuple[float, float]:
    """Return the central 95 % of draws (RESAMPLES,).

    Args:
        draws: of a statistic.
        n: how many images they are of: the interval is as much wider as few images need (expanded percentile interval,
            Hesterberg 2015, arXiv 1411.5279). None leaves it as it is.
    """
    tail = (1 - LEVEL) / 2
    if n is not None:
        from scipy.special import ndtr, ndtri

        tail = float(ndtr(-_small_sample(-float(ndtri(tail)), np.array([n])))[0])
    between = "linear" if np.isfinite(draws).all() else "inverted_cdf"  # nothing lies between a number and infinity
    low, high = np.quantile(draws, [tail, 1 - tail], method=between)  # type: ignore[call-overload]
    return float(low), float(high)


def differences(rows: Sequence[Array], pairs: Sequence[tuple[int, int]]) -> list[Difference]:
    """Return differences of pairs of rows with intervals that hold for all of them at once.

    Each pair (i, j) is compared over the images where both are defined: mean of row i minus mean of row j. The
    intervals are simultaneous ("sup-t" bootstrap bands, Montiel Olea & Plagborg-Moller 2019, doi 10.1002/jae.2656):
    as wide, in standard errors of each pair, as 95 % of the resamples need for their worst pair. That corrects for
    the number of comparisons, and for picking the best row by the same images. They are corrected for small n as
    Student's are (Hesterberg 2015, arXiv 1411.5279).
    """
    count, mean, half = _bands(rows, pairs)
    return [
        Difference(n, float(value) if n else None, *((float(value - h), float(value + h)) if n >= 2 else (None, None)))
        for n, value, h in zip(count.tolist(), mean, half, strict=True)
    ]


def places(losses: Sequence[Array], partial: Collection[int] = ()) -> list[int | None]:
    """Return the place of each row: one more than the number of rows that are better beyond doubt.

    That is by `differences` of all pairs; rows that cannot be told apart from the best share place 1.

    Args:
        losses: rows (seeds, images) that are better when lower.
        partial: numbers of rows that lack images of the others. As few images tell little apart, they share no place
            with the others: one that cannot be told apart from each of those has none.
    """
    pairs = list(combinations(range(len(losses)), 2))
    count, mean, half = _bands(losses, pairs)
    distinguishable = (count >= 2) & ~((mean - half <= 0) & (mean + half >= 0))
    ranked, undecided = [1] * len(losses), set()
    for number, (i, j) in enumerate(pairs):
        if distinguishable[number]:
            ranked[i if mean[number] > 0 else j] += 1
        elif (i in partial) != (j in partial):
            undecided.add(i if i in partial else j)
    return [None if row in undecided else place for row, place in enumerate(ranked)]


def _bands(rows: Sequence[Array], pairs: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int_], Array, Array]:
    """Return what `differences` are made of, as arrays (pairs,): images, mean, and half the width of the interval."""
    first, second = np.array(pairs, dtype=np.int_).reshape(-1, 2).T
    defined = np.stack([_defined(row) for row in rows])
    common = defined[first] & defined[second]
    count = np.asarray(common.sum(axis=1))
    mean, error, worst = np.empty(len(pairs)), np.empty(len(pairs)), np.zeros(RESAMPLES)
    for images, own in _by_images(common):
        needed = np.union1d(first[own], second[own])
        means, draws = _resample(rows, needed, images)
        left, right = np.searchsorted(needed, first[own]), np.searchsorted(needed, second[own])
        mean[own] = means[left] - means[right]
        for start in range(0, len(own), BLOCK):
            part = slice(start, start + BLOCK)
            block = own[part]
            drawn = draws[left[part]]
            drawn -= draws[right[part]]
            error[block] = drawn.std(axis=1)
            # two images at least, and more than rounding between them: other pairs differ alike in every image
            spread = (count[block] >= 2) & (error[block] > 1e-9 * (1 + np.abs(mean[block])))
            error[block[~spread]] = 0.0
            drawn -= np.where(spread, mean[block], 0.0)[:, None]
            drawn /= np.where(spread, error[block], np.inf)[:, None]
            np.maximum(worst, np.abs(drawn, out=drawn).max(axis=0), out=worst)
    half = np.zeros(len(pairs))
    if (spread := error > 0).any():
        half[spread] = error[spread] * _small_sample(float(np.quantile(worst, LEVEL)), count[spread])
    return count, mean, half


def _defined(row: Array) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(row).any(axis=0))


def _small_sample(reach: float, n: NDArray[np.int_]) -> Array:
    """Return how many standard errors n values need where normal ones need ``reach``.

    It is Student's quantile of the same tail, with the bootstrap's own bias of (n - 1) / n in the variance undone.
    """
    from scipy.special import ndtr, stdtrit

    return np.asarray(np.sqrt(n / (n - 1)) * stdtrit(n - 1, ndtr(reach)))


def _at_once(n: int) -> int:
    """Return how many resamples of ``n`` images are held at the same time."""
    return max(1, MOST_VALUES // n)


def _blocks(count: int, n: int) -> list[range]:
    """Return the numbers of ``count`` resamples of ``n`` images, as many together as are held at the same time."""
    every, size = range(count), _at_once(n)
    return [every[start : start + size] for start in range(0, count, size)]


@lru_cache(maxsize=32)
def _image_counts(n: int) -> NDArray[np.uint8]:
    """Return how often each of n images is in every resample (RESAMPLES, n), the same for all rows."""
    generator, even = np.random.default_rng(0), np.full(n, 1 / n)
    # a byte is enough: counts per image are Poisson of mean 1, above 10 in one of 10^8
    return np.concatenate([generator.multinomial(n, even, len(b)).astype(np.uint8) for b in _blocks(RESAMPLES, n)])


def _image_weights(n: int, common: NDArray[np.bool_]) -> Iterator[Array]:
    """Yield weights of the ``common`` ones of n images, some resamples at a time; those of a resample add up to 1."""
    for block in _blocks(RESAMPLES, n):
        weights = _image_counts(n)[block.start : block.stop] / n
        if not common.all():  # a resample that drew none of the common images weighs them evenly
            weights = weights[:, common]
            total = weights.sum(axis=1, keepdims=True)
            even = 1 / max(1, weights.shape[1])
            weights = np.where(total > 0, weights / np.where(total > 0, total, 1), even)
        yield weights


@lru_cache(maxsize=256)
def _seed_weights(seeds: int, stream: int) -> Array:
    """Return weights (RESAMPLES, seeds) of a row's own seeds, drawn apart for each ``stream``.

    They are stretched about even weights so that the variance over few seeds is not underestimated by (s - 1) / s.
    """
    drawn = np.random.default_rng([1, stream]).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    return 1 / seeds + sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)


def _by_images(common: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int_]]]:
    """Yield the distinct sets of images among those (pairs, n) of pairs, each with the numbers of its pairs."""
    sets: dict[bytes, list[int]] = {}
    for number, images in enumerate(common):
        sets.setdefault(images.tobytes(), []).append(number)
    for own in sets.values():
        yield common[own[0]], np.array(own)


def _resample(rows: Sequence[Array], which: Iterable[int], common: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the means of some rows over the ``common`` images: in the data, and in every resample.

    Args:
        rows: arrays (seeds, images).
        which: numbers of the rows that are needed.
        common: which images count (images,).

    Returns:
        Arrays (len(which),), NaN without an image, and (len(which), RESAMPLES).
    """
    values = {index: rows[index][:, common] for index in which}
    means = [float(row.mean()) if row.size else float("nan") for row in values.values()]
    parts = [[weights @ row.T for row in values.values()] for weights in _image_weights(len(common), common)]
    draws = []
    for index, *pieces in zip(values, *parts, strict=True):
        each = np.concatenate(pieces)
        draws.append(each[:, 0] if each.shape[1] == 1 else (each * _seed_weights(each.shape[1], index)).sum(axis=1))
    return np.array(means), np.stack(draws)


@dataclass(frozen=True)
class Pooled:
    """A statistic of all images together.

    Attributes:
        value: the statistic.
        contributions: one per image, whose mean is ``value``: the statistic linearised by the jackknife (Efron &
            Tibshirani 1993, section 11.5), so that rows can be compared image by image.
        interval: 95 % bootstrap interval over images, the statistic computed anew for each resample, corrected for bias
            and acceleration (BCa, section 14.3): average precision of a resample is biased, and plain percentiles would
            cover too little. None for fewer than two images.
    """

    value: float
    contributions: list[float]
    interval: tuple[float, float] | None


def pool(statistic: Statistic, n: int) -> Pooled:
    """Return a ``statistic`` of ``n`` images, with each image's contribution and an interval."""
    value = float(statistic(np.ones((1, n)))[0])
    if n < 2:
        return Pooled(value, [value] * n, None)
    left_out = np.concatenate([statistic(1.0 - np.eye(len(block), n, block.start)) for block in _blocks(n, n)])
    left_out = np.where(np.isnan(left_out), value, left_out)  # without this image there is nothing to measure
    contributions = value + (n - 1) * (left_out.mean() - left_out)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=POOLED_RESAMPLES).astype(np.float64)
    return Pooled(value, contributions.tolist(), _bca(value, statistic(draws), left_out))


def _bca(value: float, resampled: NDArray[np.float64], left_out: NDArray[np.float64]) -> tuple[float, float]:
    """Return the BCa interval from the statistic of resamples (NaN where not defined) and of all but one image each."""
    from scipy.stats import norm

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
