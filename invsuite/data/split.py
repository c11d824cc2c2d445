"""The three disjoint sets of a run - fit, selection, scored - and the images they hold in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch

from invsuite.data.base import Dataset, Sample, from_unit_range, to_unit_range
from invsuite.data.pixels import Pixels, keep
from invsuite.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Some rows of a dataset, whose images are decoded once (`invsuite.data.pixels`)."""

    dataset: Dataset
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> Sample:
        """Sample ``index`` with its instances."""
        return self.dataset[self.rows[index]]

    def samples(self) -> list[Sample]:
        """Every sample, decoded now."""
        return [self.sample(i) for i in range(len(self))]

    @cached_property
    def _pixels(self) -> Pixels | None:
        images = (from_unit_range(self.sample(i).image) for i in range(len(self)))
        return keep(images, len(self), self.sample(0).image.shape)

    def images(self, indices: Sequence[int] | slice) -> torch.Tensor:
        """Images (B, 3, H, W), float32 in [0, 1]."""
        chosen = range(len(self))[indices] if isinstance(indices, slice) else indices
        if self._pixels is not None:
            return to_unit_range(self._pixels.read(chosen))
        return torch.stack([self.sample(i).image for i in chosen])

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All images once, in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images(slice(start, start + size))

    def identities(self) -> set[str]:
        """Content identity of every image."""
        return {self.dataset.identity(row) for row in self.rows}

    def digest(self) -> str:
        """SHA-256 over the dataset's digest and the rows."""
        return hashlib.sha256(f"{self.dataset.digest()}-{self.rows}".encode()).hexdigest()


@dataclass(frozen=True)
class Splits:
    """Fit, selection and scored images of one model.

    Raises:
        UsageError: if an image is in two of them, naming how many and which.
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
        """``{path: reason}`` of photos that were left out of any split."""
        found: dict[str, str] = {}
        for split in (self.fit, self.select, self.score):
            found |= getattr(split.dataset, "unreadable", {})
        return found

    @property
    def converted(self) -> dict[str, int]:
        """How many photos of the splits were rotated, grey, CMYK, had alpha ... (`invsuite.data.geometry.kinds_of`)."""
        counts: Counter[str] = Counter()
        for split in (self.fit, self.select, self.score):
            found = getattr(split.dataset, "files", ())
            counts.update(kind for row in split.rows if row < len(found) for kind in found[row].kinds)
        return dict(sorted(counts.items()))


def hold_back(dataset: Dataset, count: int, first: int = 0) -> tuple[Split, Split]:
    """Split the ``first`` images of ``dataset`` (0: all) into the rest and ``count`` held-back ones, chosen by content,
    not by order.

    Raises:
        UsageError: if fewer than ``count`` + 1 images are there.
    """
    total = first or len(dataset)
    if not 0 < count < total:
        raise UsageError(f"cannot hold back {count} of the {total} images of '{dataset.name}'")
    rank = sorted(range(total), key=lambda i: hashlib.sha256(dataset.identity(i).encode()).hexdigest())
    held = set(rank[:count])
    rest = tuple(i for i in range(total) if i not in held)
    return Split(dataset, rest), Split(dataset, tuple(sorted(held)))
