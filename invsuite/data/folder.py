"""A folder of photos as a dataset. Photos that cannot be read are named and counted, never fatal."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from invsuite.data.base import Sample
from invsuite.data.geometry import Geometry, kinds_of, to_rgb
from invsuite.errors import DataError, Unavailable

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class PhotoFile:
    """A readable photo: path, SHA-256 of its bytes (what tells two copies of one photo), and what had to be converted
    (`invsuite.data.geometry.kinds_of`)."""

    path: Path
    sha256: str
    kinds: tuple[str, ...] = ()


def open_photo(path: Path, upright: bool = True) -> Image.Image:
    """Decode a photo to RGB, upright unless the pixels are wanted as they are stored.

    Raises:
        DataError: naming the file and the reason.
    """
    try:
        with Image.open(path) as photo:
            return to_rgb(photo, upright)
    except (OSError, SyntaxError, ValueError, DataError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error}") from error


def verify(paths: list[Path]) -> tuple[list[PhotoFile], dict[str, str]]:
    """Decode every photo once; returns the readable ones and ``{path: reason}`` of the others."""

    def check(path: Path) -> PhotoFile | str:
        try:
            open_photo(path)
            with Image.open(path) as photo:
                kinds = kinds_of(photo)
            return PhotoFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), kinds)
        except (DataError, OSError) as error:
            return str(error)

    good: list[PhotoFile] = []
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        for path, found in zip(paths, pool.map(check, paths), strict=True):
            if isinstance(found, PhotoFile):
                good.append(found)
            else:
                bad[str(path)] = found
    return good, bad


def photos_below(root: Path) -> list[Path]:
    """Every photo below a folder, sorted by path."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


class PhotoFolder:
    """Every photo below ``root`` (sorted by path), at the geometry of the model that will see it.

    Attributes:
        files: the readable photos.
        unreadable: ``{path: reason}`` of the photos left out.

    Raises:
        Unavailable: if the folder does not exist or holds no readable photo.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, root: Path, geometry: Geometry) -> None:
        if not root.is_dir():
            raise Unavailable(f"photo folder '{root}' does not exist")
        self.name = root.name
        self.geometry = geometry
        paths = photos_below(root)
        self.files, self.unreadable = verify(paths)
        if not self.files:
            raise Unavailable(f"photo folder '{root}': none of its {len(paths)} photos can be read")

    def __len__(self) -> int:
        return len(self.files)

    def identity(self, index: int) -> str:
        """SHA-256 of the photo's bytes."""
        return self.files[index].sha256

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index].path
        return Sample(key=path.name, image=self.geometry.tensor(open_photo(path)))

    def digest(self) -> str:
        """SHA-256 over every photo's bytes and the geometry."""
        return digest_files(self.files, self.geometry)


def digest_files(files: list[PhotoFile], geometry: Geometry) -> str:
    """SHA-256 over the photos' own digests, in order, and the geometry."""
    digest = hashlib.sha256(repr(geometry).encode())
    for file in files:
        digest.update(file.sha256.encode())
    return digest.hexdigest()
