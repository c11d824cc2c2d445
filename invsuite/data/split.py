"""The three disjoint sets of images of a run: fit, selection and scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, islice
from typing import Any, overload

import torch

from invsuite._system.spill import TensorLike, memory_budget
from invsuite._system.validation import Positive
from invsuite.data.base import Dataset, Sample, Source, from_unit_range, to_unit_range
from invsuite.data.decoding import decode, images_of
from invsuite.data.folder import describe_others
from invsuite.data.geometry import Resampling
from invsuite.errors import UsageError
from invsuite.registry import register

CONTENT_DIGITS = 16  # hexadecimal, by which an image is told by its content
NAMED = 3  # of things that are left out, so many are named on the screen; a record names all


@dataclass(frozen=True)
class Split:
    """Some rows of a dataset, whose images are decoded once where their pixels have room (`decode`)."""

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
        return decode(self.dataset, self.rows, self.digest())

    def images(self, indices: Sequence[int] | slice) -> torch.Tensor:
        """Return images (B, 3, H, W), float32 in [0, 1]."""
        chosen = list(range(len(self))[indices] if isinstance(indices, slice) else indices)
        if self._pixels is not None:
            return to_unit_range(self._pixels[chosen])
        return images_of(self.dataset, [self.rows[index] for index in chosen])

    def pixels(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the same images as 8-bit pixels (B, 3, H, W), a fourth of the bytes."""
        if self._pixels is not None:
            return self._pixels[list(indices)]
        return from_unit_range(self.images(indices))

    @property
    def in_memory(self) -> bool:
        """Tell whether the pixels of all images lie in memory."""
        return isinstance(self._pixels, torch.Tensor)

    def prepare(self) -> None:
        """Decode all images now, so that what asks for them first is not charged for it."""
        if len(self):
            _ = self._pixels

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """Yield all images once, in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.images(slice(start, start + size))

    def identities(self) -> set[str]:
        """Return the content identity of every image."""
        return {self.dataset.identity(row) for row in self.rows}

    def content(self) -> tuple[str, ...]:
        """Return digits for each image that tell it by its content, in order, and say nothing else of it."""
        identities = (self.dataset.identity(row) for row in self.rows)
        return tuple(hashlib.sha256(identity.encode()).hexdigest()[:CONTENT_DIGITS] for identity in identities)

    def digest(self) -> str:
        """Return a SHA-256 over the dataset's digest and the rows."""
        return hashlib.sha256(f"{self.dataset.digest()}-{self.rows}".encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return what a record says of these images: data set, digest, how many, and how they were resized."""
        geometry = self.dataset.geometry
        facts = {"name": self.dataset.name, "digest": self.digest(), "count": len(self)}
        return facts if geometry is None else facts | {"geometry": asdict(geometry)}

    def listing(self) -> list[tuple[str, str]]:
        """Return name and content identity (of a photo its SHA-256) of every image, in order."""
        return [(self.dataset.key(row), self.dataset.identity(row)) for row in self.rows]

    def copies(self) -> list[str]:
        """Return the names of the images that are copies of an earlier one, by content."""
        first: dict[str, int] = {}
        return [self.dataset.key(row) for row in self.rows if first.setdefault(self.dataset.identity(row), row) != row]


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
        for (first, a), (second, b) in combinations(self.parts.items(), 2):
            shared = a.identities() & b.identities()
            if shared:
                keys = [b.dataset.key(row) for row in b.rows if b.dataset.identity(row) in shared][:3]
                raise UsageError(
                    f"{len(shared)} images are in both the {first} and the {second} split (first: {', '.join(keys)}); "
                    "remove them from one of the two"
                )

    @property
    def parts(self) -> dict[str, Split]:
        """Return the three by name."""
        return {"fit": self.fit, "select": self.select, "score": self.score}

    @property
    def datasets(self) -> list[Dataset]:
        """Return the data sets that the images are of, each once."""
        return list({id(split.dataset): split.dataset for split in self.parts.values()}.values())

    @property
    def unreadable(self) -> dict[str, str]:
        """Return ``{path: reason}`` of the photos that were left out of any split."""
        return {path: why for dataset in self.datasets for path, why in dataset.unreadable.items()}

    @property
    def left_out(self) -> dict[str, str]:
        """Return ``{annotation: reason}`` of the annotations that were left out of any split."""
        return {name: why for dataset in self.datasets for name, why in dataset.left_out.items()}

    @property
    def passed_over(self) -> dict[str, int]:
        """Return how many files beside the photos are no photos that are read here, by suffix."""
        counts: Counter[str] = sum((Counter(dataset.passed_over) for dataset in self.datasets), Counter())
        return dict(sorted(counts.items()))

    @property
    def copies(self) -> list[str]:
        """Return the names of the images that are copies of another one of their split, by content."""
        return [name for split in self.parts.values() for name in split.copies()]

    @property
    def converted(self) -> dict[str, int]:
        """Return how many photos were rotated, grey, CMYK, had alpha ... (`invsuite.data.photo.kinds_of`)."""
        kinds = (kind for split in self.parts.values() for row in split.rows for kind in split.dataset.conversions(row))
        return dict(sorted(Counter(kinds).items()))

    def remarks(self) -> Iterator[str]:
        """Yield a line for each thing that happened to files on the way here."""
        for dataset in self.datasets:
            if dataset.passed_over:
                yield f"'{dataset.name}': {len(dataset)} photos; {describe_others(dataset.passed_over)}"
        for reasons, one, many in (
            (self.unreadable, "unreadable photo left out", "unreadable photos left out in all"),
            (self.left_out, "left out", "annotations left out in all"),
        ):
            yield from (f"{one}: {reason or name}" for name, reason in islice(reasons.items(), NAMED))
            if reasons:
                yield f"{len(reasons)} {many}"
        if copies := self.copies:
            named = ", ".join(copies[:NAMED])
            yield f"{len(copies)} photos are copies of others ({named}); copies are held back together"
        profiles = [f"{number} {kind}" for kind, number in self.converted.items() if kind.startswith("profile")]
        if profiles:
            yield f"ICC profiles that are not sRGB: {', '.join(profiles)}"


def hold_back(split: Split, count: int) -> tuple[Split, Split]:
    """Return the rest of ``split`` and ``count`` of its images, chosen by content, not by order.

    Copies of an image stay together; more than ``count`` are held back only where no other images make it up.

    Raises:
        UsageError: if fewer than ``count`` + 1 images are there.
    """
    dataset = split.dataset
    copies: dict[str, list[int]] = {}
    for row in split.rows:
        copies.setdefault(dataset.identity(row), []).append(row)
    ranked = [copies[name] for name in sorted(copies, key=lambda name: hashlib.sha256(name.encode()).hexdigest())]
    held: list[int] = []
    for rows in ranked:
        held += rows if len(held) + len(rows) <= count else []
    if len(held) < count:
        spare = [rows for rows in ranked if rows[0] not in held]
        spare.sort(key=len)
        held += spare[0] if spare else []
    if not 0 < count <= len(held) < len(split):
        raise UsageError(f"cannot hold back {count} of the {len(split)} images of '{dataset.name}'")
    out = set(held)
    return Split(dataset, tuple(row for row in split.rows if row not in out)), Split(dataset, tuple(sorted(held)))


@register.dataset("held-back")
@dataclass(frozen=True)
class HeldBackSource(Source):
    """``count`` images held back from the fit source, chosen by content (`hold_back`): to select by, or to score."""

    count: Positive

    def open(self, size: tuple[int, int], resampling: Resampling) -> Dataset:
        """Raise `UsageError`: the fit source opens what is held back of it."""
        raise UsageError("a held-back source has no images of its own")
