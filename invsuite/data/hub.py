"""Images of a Hugging Face dataset by name, through the package ``datasets`` and its cache."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Need
from invsuite._system.validation import Natural
from invsuite.data.base import Dataset, Sample
from invsuite.data.folder import PhotoSource
from invsuite.data.geometry import FitMode, Geometry, Resampling
from invsuite.data.photo import Colour, kinds_of, quiet, to_rgb
from invsuite.errors import DataError, Unavailable, UsageError, reason_of
from invsuite.registry import register


class HubPhotos(Dataset):
    """The first ``count`` readable images of a split, at the geometry of the model that will see them; 0 takes all.

    A split that is streamed is read row by row until there are ``count``, and their files wait on this machine's disk
    (``TMPDIR``) for as long as the process runs; nothing else of it is fetched.

    Args:
        name: what the hub calls it, ``owner/name``, with ``:config`` behind it where the dataset has several.
        split: of the dataset.
        column: the column that holds images.
        count: of images.
        geometry: how they take the size of the model's input.
        colour: what becomes of ICC profiles (`invsuite.data.photo.to_rgb`).
        stream: whether the split is streamed.

    Raises:
        Unavailable: if ``datasets`` is not installed or the dataset cannot be had, with the reason, or none of its
            images can be read.
        UsageError: for a column that is not there or holds no images.
    """

    geometry: Geometry

    def __init__(
        self,
        name: str,
        split: str,
        column: str,
        count: int,
        geometry: Geometry,
        colour: Colour = "sRGB",
        stream: bool = False,
    ) -> None:
        if stream and not count:
            raise UsageError(f"dataset '{name}' is to be streamed whole: say how many images with 'count'")
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise Unavailable(
                f"dataset '{name}' needs the package datasets; install it with: pip install 'invsuite[datasets]'"
            ) from error
        repository, _, config = name.partition(":")
        try:
            how = {"streaming": True} if stream else {}
            self._rows: Any = load_dataset(repository, config or None, split=split, **how)
            if stream:
                self._rows = StreamedRows(self._rows, column, f"dataset '{name}' ({split})")
        except Unavailable:
            raise
        except Exception as error:  # datasets raises what its network, its parsers and its builders raise
            raise Unavailable(f"dataset '{name}' ({split}) cannot be had: {reason_of(error)}") from error
        if column not in self._rows.column_names:
            raise UsageError(f"dataset '{name}' has no column '{column}': {', '.join(self._rows.column_names)}")
        self.name, self.column, self.geometry, self.colour = f"{name}/{split}", column, geometry, colour
        self._images: list[tuple[int, str, tuple[str, ...]]] = []  # row, identity, kinds
        unreadable: dict[str, str] = {}
        for row in self._rows.numbers() if stream else range(len(self._rows)):
            if count and len(self._images) == count:
                break
            try:
                photo, kinds = self._photo(row)
            except DataError as error:
                unreadable[f"{self.name}/{row}"] = f"{self.name}/{row}: {error}"
                continue
            content = f"{photo.size}".encode() + photo.tobytes()
            self._images.append((row, hashlib.sha256(content).hexdigest(), kinds))
        self.unreadable = unreadable
        if not self._images:
            raise Unavailable(f"dataset '{self.name}': none of its {len(unreadable)} images can be read")

    def __len__(self) -> int:
        return len(self._images)

    def _photo(self, row: int) -> tuple[Image.Image, tuple[str, ...]]:
        """Return the image of a row as RGB, and what was changed of it.

        Raises:
            DataError: if it cannot be read.
            UsageError: if the column holds no images.
        """
        try:
            photo = self._rows[row][self.column]
        except Exception as error:  # datasets decodes here
            raise DataError(f"cannot be decoded ({reason_of(error)})") from error
        if photo is None:
            raise DataError("the row has no image")
        if not isinstance(photo, Image.Image):
            raise UsageError(f"column '{self.column}' of dataset '{self.name}' holds {type(photo).__name__}, no images")
        with quiet():
            return to_rgb(photo, colour=self.colour), kinds_of(photo, self.colour)

    def identity(self, index: int) -> str:
        """Return the SHA-256 of the decoded pixels: the hub hands out no file."""
        return self._images[index][1]

    def conversions(self, index: int) -> tuple[str, ...]:
        """Return what had to be changed of image ``index`` to make it RGB."""
        return self._images[index][2]

    def key(self, index: int) -> str:
        """Return dataset, split and row of an image."""
        return f"{self.name}/{self._images[index][0]}"

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=self.key(index), image=self.geometry.tensor(self.photo(index)))

    def photo(self, index: int) -> Image.Image:
        """Return image ``index`` as RGB, in its own size."""
        return self._photo(self._images[index][0])[0]

    def digest(self) -> str:
        """Return a SHA-256 over every image's pixels and the geometry."""
        digest = hashlib.sha256(repr(self.geometry).encode())
        for index in range(len(self)):
            digest.update(self.identity(index).encode())
        return digest.hexdigest()


class StreamedRows:
    """The rows of a streamed split as they come; the images' files are kept, so that a row can be read again.

    Args:
        rows: of ``datasets``, streamed.
        column: the column that holds images.
        what: the split, for messages.

    Raises:
        Unavailable: where the first row cannot be had.
    """

    def __init__(self, rows: Any, column: str, what: str) -> None:
        features = rows.features or {}
        if column in features:
            from datasets import Image as Undecoded

            rows = rows.cast_column(column, Undecoded(decode=False))
        self._column, self._source, self._what = column, iter(rows), what
        self._first = None if features else self._pull()
        self.column_names = list(features or self._first or ())
        self._file = tempfile.TemporaryFile(prefix="invsuite-")  # noqa: SIM115 - open for as long as the rows
        self._places: list[tuple[int, int]] = []
        self._end = 0

    def numbers(self) -> Iterator[int]:
        """Yield the number of every row, once it is there."""
        row = self._first or self._pull()
        try:
            while row is not None:
                self._keep(row[self._column])
                yield len(self._places) - 1
                row = self._pull()
        finally:
            self._source = iter(())  # nobody asks for more: what it holds open is closed

    def _pull(self) -> Any:
        """Return the next row, None behind the last.

        Raises:
            Unavailable: where it cannot be had.
        """
        try:
            return next(self._source, None)
        except Exception as error:  # datasets raises what its network and its parsers raise
            raise Unavailable(f"{self._what} cannot be streamed further: {reason_of(error)}") from error

    def _keep(self, value: Any) -> None:
        """Keep the file of an image; a row without one is empty.

        Raises:
            UsageError: if the column holds no images.
        """
        if value is not None and not (isinstance(value, dict) and {"bytes", "path"} <= value.keys()):
            raise UsageError(f"column '{self._column}' of {self._what} holds {type(value).__name__}, no images")
        content = b""
        if value is not None:
            content = Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
        os.pwrite(self._file.fileno(), content, self._end)
        self._places.append((self._end, len(content)))
        self._end += len(content)

    def __getitem__(self, row: int) -> dict[str, Image.Image | None]:
        begin, size = self._places[row]
        content = os.pread(self._file.fileno(), size, begin)
        return {self._column: Image.open(io.BytesIO(content)) if content else None}


@register.dataset("datasets")
@dataclass(frozen=True)
class HubSource(PhotoSource):
    """The first ``count`` images of a split of a Hugging Face dataset (``datasets``); ``column`` holds the images.

    With ``stream`` they are read one after the other, and the rest of the dataset is not fetched.
    """

    name: str
    count: Natural
    split: str = "train"
    column: str = "image"
    geometry: FitMode = "crop"
    colour: Colour = "sRGB"
    stream: bool = field(default=False, metadata=NOT_IDENTITY)  # the images are the same

    def open(self, size: tuple[int, int], resampling: Resampling) -> HubPhotos:
        """Return the images, each decoded once, from the cache of ``datasets`` or the hub."""
        geometry = Geometry(size, self.geometry, resampling)
        return HubPhotos(self.name, self.split, self.column, self.count, geometry, self.colour, self.stream)

    def needs(self) -> tuple[Need, ...]:
        """Return the dataset, whose size the hub does not say."""
        how = "datasets streams what is asked for" if self.stream else "datasets fetches it into its cache on first use"
        return (Need(f"dataset {self.name}", None, None, how),)
