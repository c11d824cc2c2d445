"""ImageNet photos: a split of an ILSVRC root, or a folder with one folder a class."""

from __future__ import annotations

import hashlib
from pathlib import Path

from invsuite.data.folder import PhotoFile, PhotoFolder, photos_below, verify
from invsuite.data.geometry import Geometry
from invsuite.errors import Unavailable

LAYOUTS = ("ILSVRC/Data/CLS-LOC/{split}", "Data/CLS-LOC/{split}", "{split}", "ILSVRC2012_img_{split}", "")


class ImageNetFolder(PhotoFolder):
    """``count`` photos of one split (0: all of them, sorted by path), at the geometry of the model that will see them.

    Found at ``ROOT/ILSVRC/Data/CLS-LOC/SPLIT`` (the download's own layout), ``ROOT/SPLIT``, or in ROOT itself. Which
    ``count`` is decided by the hash of the path below the split, so that they are spread over all classes, and only
    those are decoded.

    Attributes:
        classes: names of the class folders, empty where photos lie flat.
        unreadable: ``{path: reason}`` of the photos left out.

    Raises:
        Unavailable: if the folder is not there or holds too few readable photos.
    """

    def __init__(self, root: Path, split: str, count: int, geometry: Geometry) -> None:
        places = [root / layout.format(split=split) for layout in LAYOUTS]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise Unavailable(f"ImageNet root '{root}' does not exist")
        self.name, self.geometry, self.folder = f"{root.name}/{split}", geometry, folder
        self.classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
        waiting = sorted(photos_below(folder), key=self._rank) if count else photos_below(folder)
        total, wanted = len(waiting), count or len(waiting)
        self.files: list[PhotoFile] = []
        self.unreadable: dict[str, str] = {}
        while waiting and len(self.files) < wanted:
            some = wanted - len(self.files)
            good, bad = verify(waiting[:some])
            waiting = waiting[some:]
            self.files += good
            self.unreadable |= bad
        if not self.files:
            raise Unavailable(f"ImageNet split '{folder}': none of its {total} photos can be read")
        self.files.sort(key=lambda file: file.path)

    def _rank(self, path: Path) -> str:
        return hashlib.sha256(path.relative_to(self.folder).as_posix().encode()).hexdigest()
