"""Folders of photos. Photos that cannot be read are named and counted, never fatal."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image

from invsuite._system.files import expand, expand_path
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Need, path_need
from invsuite._system.validation import Natural
from invsuite.data.base import Dataset, Sample, Source
from invsuite.data.checks import check_geometry
from invsuite.data.geometry import FitMode, Geometry, Resampling
from invsuite.data.photo import HEIF, Colour, open_photo, quiet, readable_suffixes, shown
from invsuite.data.photo_files import PhotoFile, take
from invsuite.errors import MissingPath, Unavailable
from invsuite.registry import register


@dataclass(frozen=True)
class Listing:
    """What lies below a folder, linked folders included.

    Attributes:
        photos: files with the suffix of a photo, sorted by path.
        passed_over: how many of the other files there are, by suffix.
        unreadable: ``{path: reason}`` of folders and links that lead nowhere.
    """

    photos: list[Path]
    passed_over: dict[str, int]
    unreadable: dict[str, str]


def photos_below(root: Path) -> Listing:
    """Return what lies below a folder: each folder once, however often it is linked; hidden files do not count."""
    photos, others, unreadable, entered = [], Counter[str](), dict[str, str](), {os.path.realpath(root)}

    def refused(error: OSError) -> None:
        unreadable[shown(error.filename)] = f"{shown(error.filename)}: {error.strerror}"

    for folder, below, names in os.walk(root, followlinks=True, onerror=refused):
        fresh = []
        for name in sorted(below):
            real = os.path.realpath(os.path.join(folder, name))
            if real not in entered:
                entered.add(real)
                fresh.append(name)
        below[:] = fresh
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix not in readable_suffixes():
                others[suffix or "no suffix"] += 1
            elif path.is_file():
                photos.append(path)
            else:
                unreadable[shown(path)] = f"{shown(path)}: no file, or a link to none"
    return Listing(sorted(photos), dict(sorted(others.items())), unreadable)


def describe_others(passed_over: Mapping[str, int]) -> str:
    """Return how many files are no photos that are read here, by suffix, and what would read them."""
    count = sum(passed_over.values())
    kinds = ", ".join(f"{suffix} {number}" for suffix, number in passed_over.items())
    hint = " (pip install 'invsuite[heif]' reads HEIC)" if HEIF & set(passed_over) else ""
    return f"{count} {'file is no photo' if count == 1 else 'files are no photos'} the suite reads: {kinds}{hint}"


class PhotoFolder(Dataset):
    """Photos below ``root``, at the geometry of the model that will see them.

    Args:
        root: the folder.
        geometry: how photos take the size of the model's input.
        count: only the first ones by path that can be read, and no others are opened; 0 takes all.
        colour: what becomes of ICC profiles (`open_photo`).

    Attributes:
        files: the readable photos.

    Raises:
        Unavailable: if the folder does not exist or holds no readable photo.
    """

    files: list[PhotoFile]
    geometry: Geometry
    is_photos = True

    def __init__(self, root: Path, geometry: Geometry, count: int = 0, colour: Colour = "sRGB") -> None:
        if not root.is_dir():
            raise MissingPath(f"photo folder '{root}' does not exist")
        self.name = root.name or root.resolve().name
        self.root, self.geometry, self.colour = root, geometry, colour
        self._open(photos_below(root), count, f"photo folder '{root}'")

    def _open(self, listing: Listing, count: int, what: str) -> None:
        """Take the first ``count`` photos of a listing.

        Raises:
            Unavailable: if none of them can be read, naming ``what``.
        """
        self.passed_over = listing.passed_over
        files, unreadable = take(listing.photos, count, self.colour)
        self.files, self.unreadable = list(files.values()), listing.unreadable | unreadable
        if not self.files:
            others = f"; {describe_others(self.passed_over)}" if self.passed_over else ""
            first = f" (first: {next(iter(self.unreadable.values()))})" if self.unreadable else ""
            known = (
                f"none of its {len(listing.photos)} photos can be read{first}" if listing.photos else "no photos in it"
            )
            raise Unavailable(f"{what}: {known}{others}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=self.key(index), image=self.geometry.tensor(self.photo(index)))

    def photo(self, index: int) -> Image.Image:
        """Return photo ``index`` as RGB, in its own size."""
        with quiet():
            return open_photo(self.files[index].path, colour=self.colour)

    def pixels(self, index: int) -> torch.Tensor:
        """Return photo ``index`` as 8-bit pixels (3, H, W)."""
        return self.geometry.pixels(self.photo(index))

    def key(self, index: int) -> str:
        """Return the path of a photo below the folder: two folders may both have a ``01.png``."""
        return Path(shown(os.path.relpath(self.files[index].path, self.root))).as_posix()

    def identity(self, index: int) -> str:
        """Return the SHA-256 of the photo's bytes."""
        return self.files[index].sha256

    def conversions(self, index: int) -> tuple[str, ...]:
        """Return what had to be changed of photo ``index`` to make it RGB."""
        return self.files[index].kinds

    def digest(self) -> str:
        """Return a SHA-256 over every photo's bytes, in order, how they are read, and the geometry."""
        digest = hashlib.sha256(repr(self.geometry).encode())
        for file in self.files:
            digest.update(file.content.encode())
        return digest.hexdigest()


class PhotoSource(Source):
    """A source of photos.

    Attributes:
        geometry: how they take the shape of the model's input.
        colour: whether colours of other ICC profiles are converted to sRGB or taken as they are stored.
    """

    geometry: FitMode
    colour: Colour

    def check(self, size: tuple[int, int]) -> None:
        """Send a red disc, its mask and a chessboard through decoding and resizing (`check_geometry`)."""
        check_geometry(Geometry(size, self.geometry))


class PathSource(PhotoSource):
    """A source of photos below a ``path``, in which ``$NAME`` is an environment variable.

    Attributes:
        by_hand: how to bring the photos where they are not there.
    """

    path: str
    by_hand: ClassVar[str]

    def needs(self) -> tuple[Need, ...]:
        """Return the folder, or the variable that names it."""
        try:
            return self.needs_of(expand(self.path))
        except Unavailable as error:
            return (Need(f"photos {self.path}", None, None, str(error)),)

    def needs_of(self, path: str) -> tuple[Need, ...]:
        """Return what is needed of the expanded ``path``."""
        return (path_need("photos", Path(path), self.by_hand),)


@register.dataset("folder")
@dataclass(frozen=True)
class FolderSource(PathSource):
    """A folder of photos; ``count`` limits them (0: all)."""

    path: str = field(metadata=NOT_IDENTITY)
    count: Natural = 0
    geometry: FitMode = "crop"
    colour: Colour = "sRGB"

    by_hand = "bring your own photos"

    def open(self, size: tuple[int, int], resampling: Resampling) -> PhotoFolder:
        """Return the photos, sorted by path."""
        return PhotoFolder(expand_path(self.path), Geometry(size, self.geometry, resampling), self.count, self.colour)
