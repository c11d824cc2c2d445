"""COCO photos with instance masks, official layout: ``ROOT/SPLIT/*.jpg`` and ``annotations/instances_SPLIT.json``."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from invsuite._system.files import expand_path
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Log, Need
from invsuite._system.torch_hub import download
from invsuite._system.validation import Natural
from invsuite.data.annotations import CocoAnnotations
from invsuite.data.base import BoxedObject, Instance, Sample, bounding_box
from invsuite.data.folder import PathSource, PhotoFolder
from invsuite.data.geometry import FitMode, Geometry, Resampling
from invsuite.data.photo import Colour, open_photo, quiet
from invsuite.data.photo_files import PhotoFile, take
from invsuite.errors import DataError, MissingPath, Unavailable
from invsuite.registry import register


def annotation_file(root: Path, split: str) -> Path:
    """Return where the official layout has the instances of a split."""
    return root / "annotations" / f"instances_{split}.json"


class CocoInstances(PhotoFolder):
    """One split of a COCO root, photos in the order of their image id; crowd regions are left out.

    Masks belong to the pixels as they are stored, so that a photo's EXIF rotation is applied only where the annotations
    are later than it, as their size tells. Annotations that cannot be read are left out and named.

    Args:
        root: of the official layout.
        split: whose photos and instances are taken.
        geometry: how photos take the size of the model's input.
        count: only the first ones by id that can be read, and no others are opened; 0 takes all.
        colour: what becomes of ICC profiles (`invsuite.data.photo.open_photo`).

    Raises:
        Unavailable: if the root, the split or the annotations are not there, or no photo can be read.
        DataError: if the annotation file is not COCO JSON or contradicts itself, or fits none of the photos.
    """

    def __init__(self, root: Path, split: str, geometry: Geometry, count: int = 0, colour: Colour = "sRGB") -> None:
        path = annotation_file(root, split)
        if not path.is_file():
            raise MissingPath(f"COCO annotations '{path}' do not exist")
        annotations = CocoAnnotations(path)
        self.name, self.root, self.geometry, self.colour = f"{root.name}/{split}", root / split, geometry, colour
        self.classes, self._annotations_sha256 = annotations.classes, annotations.sha256
        ids = list(annotations.images)
        images = [annotations.images[i] for i in ids]
        paths = [self.root / image.file_name for image in images]
        self.missing = tuple(path.name for path in paths if not os.path.isfile(path))
        others: list[str] = []

        def refuse(number: int, file: PhotoFile) -> str:
            size = images[number].size
            if size is None or size in (file.stored, file.upright):
                return ""
            others.append(
                f"{file.path.name}: its annotations are for {size[0]} x {size[1]} pixels, the photo is "
                f"{file.upright[0]} x {file.upright[1]}; the annotations belong to another version of the photo"
            )
            return others[-1]

        files, self.unreadable = take(paths, count, colour, refuse)
        self.files = list(files.values())
        if not self.files and others:
            raise DataError(f"{path}: {others[0]}")
        if not self.files:
            first = f" (first: {', '.join(self.missing[:3])})" if self.missing else ""
            raise Unavailable(
                f"COCO split '{self.root}': none of its {len(paths)} photos can be read; "
                f"{len(self.missing)} are missing{first}"
            )
        # where the size of a rotated photo does not say which pixels were annotated, those that people see were
        self._upright = [images[number].size != file.stored for number, file in files.items()]
        sizes = [file.upright if up else file.stored for file, up in zip(self.files, self._upright, strict=True)]
        self._objects = [annotations.objects(ids[n], size) for n, size in zip(files, sizes, strict=True)]
        self.left_out, self._read_anew = annotations.left_out, annotations.unlike_pycocotools

    def __getitem__(self, index: int) -> Sample:
        photo, instances, boxed = self.photo(index), [], []
        for item in self._objects[index]:
            if item.outline is None:
                box = self.geometry.box(item.box, photo.width, photo.height)
                boxed += [] if box is None else [BoxedObject(item.label, box)]
                continue
            mask = self.geometry.mask(item.mask(photo.height, photo.width))
            if mask.any():  # else it is cropped away
                instances.append(Instance(mask, item.label, bounding_box(mask)))
        return Sample(self.key(index), self.geometry.tensor(photo), tuple(instances), tuple(boxed))

    def photo(self, index: int) -> Image.Image:
        """Return photo ``index`` as RGB, in its own size, turned as its annotations are."""
        with quiet():
            return open_photo(self.files[index].path, self._upright[index], self.colour)

    def digest(self) -> str:
        """Return a SHA-256 over photos, annotations, how they are read, and geometry."""
        text = super().digest() + self._annotations_sha256 + ("-by id" if self._read_anew else "")
        return hashlib.sha256(text.encode()).hexdigest()


SITE = "http://images.cocodataset.org/"


@dataclass(frozen=True)
class Archive:
    """A file of the COCO site: bytes and SHA-1 as GluonCV publishes them."""

    path: str
    size: int
    sha1: str

    def bring(self, root: Path, log: Log) -> str:
        """Fetch the archive, unpack it into ``root`` and return its digest.

        Raises:
            DataError: if its digest is not the published one.
        """
        file = root / self.path.rsplit("/", 1)[1]
        download(SITE + self.path, file)
        with file.open("rb") as content:
            sha1 = hashlib.file_digest(content, "sha1").hexdigest()
        if sha1 != self.sha1:
            raise DataError(f"{file}: SHA-1 {sha1} is not the published {self.sha1}; delete it and fetch again")
        log(f"unpacking {file.name}")
        shutil.unpack_archive(file, root)
        file.unlink()
        return f"sha1:{sha1}"


ARCHIVES = {
    "train2017": Archive("zips/train2017.zip", 19_336_861_798, "10ad623668ab00c62c096f0ed636d6aff41faca5"),
    "val2017": Archive("zips/val2017.zip", 815_585_330, "4950dc9d00dbe1c933ee0170f5797584351d2a41"),
    "annotations": Archive(
        "annotations/annotations_trainval2017.zip", 252_907_541, "8551ee4bb5860311e79dace7e79cb91e432e78b3"
    ),
}


@register.dataset("coco")
@dataclass(frozen=True)
class CocoSource(PathSource):
    """A split of a COCO root with instance masks; ``count`` limits the photos (0: all)."""

    path: str = field(metadata=NOT_IDENTITY)
    split: str
    count: Natural = 0
    geometry: FitMode = "crop"
    colour: Colour = "sRGB"

    by_hand = "https://cocodataset.org/#download"

    def open(self, size: tuple[int, int], resampling: Resampling) -> CocoInstances:
        """Return the photos in the order of their image id."""
        geometry = Geometry(size, self.geometry, resampling)
        return CocoInstances(expand_path(self.path), self.split, geometry, self.count, self.colour)

    def needs_of(self, path: str) -> tuple[Need, ...]:
        """Return the split's photos and its annotations."""
        root = Path(path)
        photos, annotations = root / self.split, annotation_file(root, self.split)
        return (_need(self.split, root, photos), _need("annotations", root, annotations))


def _need(part: str, root: Path, path: Path) -> Need:
    """Return the need of a part of the COCO site that unpacks to ``path``."""
    what, archive = f"COCO {part} in {root}", ARCHIVES.get(part)
    if path.exists():
        return Need(what, 0, None, str(path))
    if archive is None:
        return Need(what, None, None, CocoSource.by_hand)
    return Need(what, archive.size, partial(archive.bring, root), SITE + archive.path)
