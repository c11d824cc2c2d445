"""Folders of photos. Photos that cannot be read are named and counted, never fatal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from invsuite._system.files import expand_path
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Need, path_need
from invsuite._system.validation import Natural
from invsuite.data.base import Dataset, Sample, Source
from invsuite.data.checks import check_geometry
from invsuite.data.geometry import FitMode, Geometry, Resampling, kinds_of, open_photo
from invsuite.errors import DataError, MissingPath, Unavailable
from invsuite.registry import register

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class PhotoFile:
    """A readable photo.

    Attributes:
        path: where it lies.
        sha256: of its bytes, the same for two copies of one photo.
        kinds: what had to be converted (`invsuite.data.geometry.kinds_of`).
    """

    path: Path
    sha256: str
    kinds: tuple[str, ...] = ()


def verify(paths: Sequence[Path]) -> tuple[list[PhotoFile], dict[str, str]]:
    """Decode every photo once and return the readable ones and ``{path: reason}`` of the others."""

    def check(path: Path) -> PhotoFile | str:
        try:
            open_photo(path)
            with Image.open(path) as photo:
                kinds = kinds_of(photo)
            return PhotoFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), kinds)
        except (DataError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=4) as pool:
        results = dict(zip(paths, pool.map(check, paths), strict=True))
    readable = [file for file in results.values() if isinstance(file, PhotoFile)]
    return readable, {str(path): reason for path, reason in results.items() if isinstance(reason, str)}


def photos_below(root: Path) -> list[Path]:
    """Return every photo below a folder, sorted by path."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


class PhotoFolder(Dataset):
    """Every photo below ``root`` (sorted by path), at the geometry of the model that will see it.

    Attributes:
        files: the readable photos.

    Raises:
        Unavailable: if the folder does not exist or holds no readable photo.
    """

    files: list[PhotoFile]

    def __init__(self, root: Path, geometry: Geometry) -> None:
        if not root.is_dir():
            raise MissingPath(f"photo folder '{root}' does not exist")
        self.name, self.geometry = root.name, geometry
        paths = photos_below(root)
        self.files, self.unreadable = verify(paths)
        if not self.files:
            raise Unavailable(f"photo folder '{root}': none of its {len(paths)} photos can be read")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index].path
        return Sample(key=path.name, image=self.geometry.tensor(open_photo(path)))

    def identity(self, index: int) -> str:
        """Return the SHA-256 of the photo's bytes."""
        return self.files[index].sha256

    def conversions(self, index: int) -> tuple[str, ...]:
        """Return what had to be changed of photo ``index`` to make it RGB."""
        return self.files[index].kinds

    def digest(self) -> str:
        """Return a SHA-256 over every photo's bytes, in order, and the geometry."""
        digest = hashlib.sha256(repr(self.geometry).encode())
        for file in self.files:
            digest.update(file.sha256.encode())
        return digest.hexdigest()


class PhotoSource(Source):
    """A source of photos; ``geometry`` says how they take the shape of the model's input."""

    geometry: FitMode

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
            return self.needs_of(expand_path(self.path))
        except Unavailable as error:
            return (Need(f"photos {self.path}", None, None, str(error)),)

    def needs_of(self, root: Path) -> tuple[Need, ...]:
        """Return what is needed of the folder ``root``."""
        return (path_need("photos", root, self.by_hand),)


@register.dataset("folder")
@dataclass(frozen=True)
class FolderSource(PathSource):
    """A folder of photos; ``count`` limits them (0: all)."""

    path: str = field(metadata=NOT_IDENTITY)
    count: Natural = 0
    geometry: FitMode = "crop"

    by_hand = "bring your own photos"

    def open(self, size: tuple[int, int], resampling: Resampling) -> PhotoFolder:
        """Return the photos, sorted by path."""
        return PhotoFolder(expand_path(self.path), Geometry(size, self.geometry, resampling))
