"""Images of a Hugging Face dataset by name, through the package ``datasets`` and its cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from PIL import Image

from invsuite._system.needs import Need
from invsuite._system.validation import Natural
from invsuite.data.base import Dataset, Sample
from invsuite.data.folder import PhotoSource
from invsuite.data.geometry import FitMode, Geometry, Resampling, to_rgb
from invsuite.errors import Unavailable, UsageError, reason_of
from invsuite.registry import register


class HubPhotos(Dataset):
    """The first ``count`` images of a split, at the geometry of the model that will see them.

    Args:
        name: what the hub calls it, ``owner/name``, with ``:config`` behind it where the dataset has several.
        column: the column that holds images.

    Raises:
        Unavailable: if ``datasets`` is not installed or the dataset cannot be had, with the reason.
        UsageError: for a column that is not there or holds no images.
    """

    def __init__(self, name: str, split: str, column: str, count: int, geometry: Geometry) -> None:
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise Unavailable(
                f"dataset '{name}' needs the package datasets; install it with: pip install 'invsuite[datasets]'"
            ) from error
        repository, _, config = name.partition(":")
        part = f"{split}[:{count}]" if count else split
        try:
            self._rows: Any = load_dataset(repository, config or None, split=part)
        except Exception as error:  # datasets raises what its network, its parsers and its builders raise
            raise Unavailable(f"dataset '{name}' ({part}) cannot be had: {reason_of(error)}") from error
        if column not in self._rows.column_names:
            raise UsageError(f"dataset '{name}' has no column '{column}': {', '.join(self._rows.column_names)}")
        self.name, self.column, self.geometry = f"{name}/{split}", column, geometry
        self._identities: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def _photo(self, index: int) -> Image.Image:
        photo = self._rows[index][self.column]
        if not isinstance(photo, Image.Image):
            raise UsageError(f"column '{self.column}' of dataset '{self.name}' holds {type(photo).__name__}, no images")
        return to_rgb(photo)

    def identity(self, index: int) -> str:
        """Return the SHA-256 of the decoded pixels: the hub hands out no file."""
        if index not in self._identities:
            photo = self._photo(index)
            self._identities[index] = hashlib.sha256(f"{photo.size}".encode() + photo.tobytes()).hexdigest()
        return self._identities[index]

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"{self.name}/{index}", image=self.geometry.tensor(self._photo(index)))

    def digest(self) -> str:
        """Return a SHA-256 over every image's pixels and the geometry."""
        digest = hashlib.sha256(repr(self.geometry).encode())
        for index in range(len(self)):
            digest.update(self.identity(index).encode())
        return digest.hexdigest()


@register.dataset("datasets")
@dataclass(frozen=True)
class HubSource(PhotoSource):
    """The first ``count`` images of a split of a Hugging Face dataset (``datasets``); ``column`` holds the images."""

    name: str
    count: Natural
    split: str = "train"
    column: str = "image"
    geometry: FitMode = "crop"

    def open(self, size: tuple[int, int], resampling: Resampling) -> HubPhotos:
        """Return the images, from the cache of ``datasets`` or the hub."""
        return HubPhotos(self.name, self.split, self.column, self.count, Geometry(size, self.geometry, resampling))

    def needs(self) -> tuple[Need, ...]:
        """Return the dataset, whose size the hub does not say."""
        return (Need(f"dataset {self.name}", None, None, "datasets fetches it into its cache on first use"),)
