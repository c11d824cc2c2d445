"""The three disjoint sets of images of a run: fit, selection and scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import overload

import torch

from invsuite._system.spill import TensorLike, allocate, memory_budget
from invsuite._system.validation import Positive
from invsuite.data.base import Dataset, Sample, Source, from_unit_range, to_unit_range
from invsuite.data.geometry import Resampling
from invsuite.errors import UsageError
from invsuite.registry import register


@dataclass(frozen=True)
class Split:
    """Some rows of a dataset, whose images are decoded once where their pixels have room (`allocate`)."""

    dataset: Dataset
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        """Return sample ``index`` with its instances."""
        return self.dataset[self.rows[index]]

    def samples(self) -> Samples:
        """Return every sample with its instances."""
        return Samples(self)

    @cached_property
    def _pixels(self) -> TensorLike | None:
        """Return all images as 8-bit pixels; None where they have no room, and are decoded at every use."""
        pixels = allocate((len(self), *self.sample(0).image.shape), torch.empty(0, dtype=torch.uint8))
        if pixels is not None:
            for index in range(len(self)):
                pixels[index : index + 1] = from_unit_range(self.sample(index).image)[None]
        return pixels

    def images(self, indices: Sequence[int] | slice) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1]."""
        chosen = list(range(len(self))[indices] if isinstance(indices, slice) else indices)
        if self._pixels is not None:
            return to_unit_range(self._pixels[chosen])
        return torch.stack([self.sample(index).image for index in chosen])

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all images once, in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images(slice(start, start + size))

    def identities(self) -> set[str]:
        """Return the content identity of every image."""
        return {self.dataset.identity(row) for row in self.rows}

    def digest(self) -> str:
        """Return a SHA-256 over the dataset's digest and the rows."""
        return hashlib.sha256(f"{self.dataset.digest()}-{self.rows}".encode()).hexdigest()


class Samples(Sequence[Sample]):
    """The samples of a split, in order.

    The first ones are decoded once and kept, as far as `memory_budget` goes; the others are decoded at every use, so
    that memory does not grow with their number.
    """

    def __init__(self, split: Split) -> None:
        self._split, self._kept, self._room = split, dict[int, Sample](), memory_budget()

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        sample = self._kept.get(index)
        if sample is None:
            sample = self._split.sample(index)
            self._room -= sample.image.nbytes + sum(instance.mask.nbytes for instance in sample.instances)
            if self._room >= 0:
                self._kept[index] = sample
        return sample


def sample_batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Yield all samples once, in order, ``size`` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@dataclass(frozen=True)
class Splits:
    """Fit, selection and scored images of one model.

    Raises:
        UsageError: if two of them share images, naming how many and which.
    """

    fit: Split
    select: Split
    score: Split

    def __post_init__(self) -> None:
        named = {"fit": self.fit, "select": self.select, "score": self.score}
        for (first, a), (second, b) in combinations(named.items(), 2):
            shared = a.identities() & b.identities()
            if shared:
                keys = [b.sample(i).key for i in range(len(b)) if b.dataset.identity(b.rows[i]) in shared][:3]
                raise UsageError(
                    f"{len(shared)} images are in both the {first} and the {second} split (first: {', '.join(keys)}); "
                    "remove them from one of the two"
                )

    @property
    def unreadable(self) -> dict[str, str]:
        """Return ``{path: reason}`` of the photos that were left out of any split."""
        return {path: why for split in self._all for path, why in split.dataset.unreadable.items()}

    @property
    def converted(self) -> dict[str, int]:
        """Return how many photos were rotated, grey, CMYK, had alpha ... (`invsuite.data.geometry.kinds_of`)."""
        kinds = (kind for split in self._all for row in split.rows for kind in split.dataset.conversions(row))
        return dict(sorted(Counter(kinds).items()))

    @property
    def _all(self) -> tuple[Split, Split, Split]:
        return (self.fit, self.select, self.score)


def hold_back(split: Split, count: int) -> tuple[Split, Split]:
    """Return the rest of ``split`` and ``count`` of its images, chosen by content, not by order.

    Raises:
        UsageError: if fewer than ``count`` + 1 images are there.
    """
    dataset = split.dataset
    if not 0 < count < len(split):
        raise UsageError(f"cannot hold back {count} of the {len(split)} images of '{dataset.name}'")
    ranked = sorted(split.rows, key=lambda row: hashlib.sha256(dataset.identity(row).encode()).hexdigest())
    held = sorted(ranked[:count])
    return Split(dataset, tuple(row for row in split.rows if row not in set(held))), Split(dataset, tuple(held))


@register.dataset("held-back")
@dataclass(frozen=True)
class HeldBackSource(Source):
    """``count`` images held back from the fit source, chosen by content (`hold_back`)."""

    count: Positive

    def open(self, size: tuple[int, int], resampling: Resampling) -> Dataset:
        """Raise `UsageError`: only the selection images can be held back, and the fit source opens them."""
        raise UsageError("a held-back source has no images of its own")
