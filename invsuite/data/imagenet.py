"""ImageNet photos: a split of an ILSVRC root, or a folder with one folder per class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from invsuite._system.files import expand_path
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.validation import Natural
from invsuite.data.folder import PathSource, PhotoFolder, photos_below
from invsuite.data.geometry import FitMode, Geometry, Resampling
from invsuite.data.photo import Colour
from invsuite.errors import MissingPath
from invsuite.registry import register

LAYOUTS = ("ILSVRC/Data/CLS-LOC/{split}", "Data/CLS-LOC/{split}", "{split}", "ILSVRC2012_img_{split}", "")


class ImageNetFolder(PhotoFolder):
    """``count`` photos of one split (0: all of them, sorted by path), at the geometry of the model that will see them.

    It lies at ``ROOT/ILSVRC/Data/CLS-LOC/SPLIT`` (the download's own layout), ``ROOT/SPLIT``, or in ROOT itself. The
    hash of the path below the split decides which ``count`` are taken, so that they are spread over all classes, and
    only those are decoded.

    Attributes:
        classes: names of the class folders, empty where photos lie flat.

    Raises:
        Unavailable: if the folder is not there or holds too few readable photos.
    """

    def __init__(self, root: Path, split: str, count: int, geometry: Geometry, colour: Colour = "sRGB") -> None:
        places = [root / layout.format(split=split) for layout in LAYOUTS]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise MissingPath(f"ImageNet root '{root}' does not exist")
        self.name, self.root, self.geometry, self.colour = f"{root.name}/{split}", folder, geometry, colour
        self.classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
        listing = photos_below(folder)
        if count:
            listing.photos.sort(key=self._rank)
        self._open(listing, count, f"ImageNet split '{folder}'")
        self.files.sort(key=lambda file: file.path)

    def _rank(self, path: Path) -> str:
        return hashlib.sha256(path.relative_to(self.root).as_posix().encode()).hexdigest()


@register.dataset("imagenet")
@dataclass(frozen=True)
class ImageNetSource(PathSource):
    """A split of an ImageNet root (ILSVRC's own layout, or class folders).

    ``count`` photos are spread over all classes; 0 takes all, which decodes each once.
    """

    path: str = field(metadata=NOT_IDENTITY)
    split: str = "val"
    count: Natural = 0
    geometry: FitMode = "crop"
    colour: Colour = "sRGB"

    by_hand = "needs an account: https://www.image-net.org/download.php"

    def open(self, size: tuple[int, int], resampling: Resampling) -> ImageNetFolder:
        """Return ``count`` photos of the split, spread over its classes."""
        geometry = Geometry(size, self.geometry, resampling)
        return ImageNetFolder(expand_path(self.path), self.split, self.count, geometry, self.colour)
