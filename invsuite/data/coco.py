"""COCO photos with instance masks, official layout: ``ROOT/SPLIT/*.jpg`` and ``annotations/instances_SPLIT.json``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from pycocotools.coco import COCO

from invsuite._system.files import expand_path
from invsuite._system.identity import NOT_IDENTITY
from invsuite._system.needs import Log, Need
from invsuite._system.validation import Natural
from invsuite.data.base import Instance, Sample, bounding_box
from invsuite.data.folder import PathSource, PhotoFolder, verify
from invsuite.data.geometry import FitMode, Geometry, Resampling, open_photo
from invsuite.errors import DataError, MissingPath, Unavailable
from invsuite.registry import register


def annotation_file(root: Path, split: str) -> Path:
    """Return where the official layout has the instances of a split."""
    return root / "annotations" / f"instances_{split}.json"


class CocoInstances(PhotoFolder):
    """One split of a COCO root, photos in the order of their image id; crowd regions are left out.

    Masks belong to the pixels as they are stored, so that a photo's EXIF rotation is applied only where the annotations
    are later than it, as their size tells.

    Raises:
        Unavailable: if the root, the split or the annotations are not there, or no photo can be read.
        DataError: if the annotation file is not COCO JSON.
    """

    def __init__(self, root: Path, split: str, geometry: Geometry) -> None:
        annotations = annotation_file(root, split)
        if not annotations.is_file():
            raise MissingPath(f"COCO annotations '{annotations}' do not exist")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco = COCO(str(annotations))
                self._image_ids = sorted(self._coco.getImgIds())
        except (json.JSONDecodeError, KeyError, TypeError, AssertionError) as error:
            raise DataError(f"{annotations}: not a COCO instances file ({error!r})") from error
        self.name, self.geometry = f"{root.name}/{split}", geometry
        categories = sorted(self._coco.cats)
        self._label = {category: index for index, category in enumerate(categories)}
        self.classes = tuple(self._coco.cats[c]["name"] for c in categories)
        self._annotations_sha256 = hashlib.sha256(annotations.read_bytes()).hexdigest()
        paths = {i: root / split / self._coco.imgs[i]["file_name"] for i in self._image_ids}
        self.missing = tuple(path.name for path in paths.values() if not path.is_file())
        self.files, self.unreadable = verify(list(paths.values()))
        if not self.files:
            first = f" (first: {', '.join(self.missing[:3])})" if self.missing else ""
            raise Unavailable(
                f"COCO split '{root / split}': none of its {len(paths)} photos can be read; "
                f"{len(self.missing)} are missing{first}"
            )
        by_path = {path: image_id for image_id, path in paths.items()}
        self._image_ids = [by_path[file.path] for file in self.files]

    def __getitem__(self, index: int) -> Sample:
        path, image_id = self.files[index].path, self._image_ids[index]
        facts = self._coco.imgs[image_id]
        photo = open_photo(path, upright=False)
        if photo.size != (facts.get("width"), facts.get("height")):
            photo = open_photo(path)
        instances = []
        for annotation in self._coco.loadAnns(self._coco.getAnnIds(imgIds=[image_id], iscrowd=False)):
            full = self._coco.annToMask(annotation).astype(bool)
            if full.shape != (photo.height, photo.width):
                raise DataError(
                    f"{path.name}: a mask is {full.shape}, the photo is {(photo.height, photo.width)}; "
                    "the annotations belong to another version of the photo"
                )
            mask = self.geometry.mask(full)
            if not mask.any():  # cropped away
                continue
            instances.append(Instance(mask, self._label[annotation["category_id"]], bounding_box(mask)))
        return Sample(key=path.name, image=self.geometry.tensor(photo), instances=tuple(instances))

    def digest(self) -> str:
        """Return a SHA-256 over photos, annotations and geometry."""
        text = super().digest() + self._annotations_sha256
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
        root.mkdir(parents=True, exist_ok=True)
        file = root / self.path.rsplit("/", 1)[1]
        torch.hub.download_url_to_file(SITE + self.path, str(file), progress=False)
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

    by_hand = "https://cocodataset.org/#download"

    def open(self, size: tuple[int, int], resampling: Resampling) -> CocoInstances:
        """Return the photos in the order of their image id."""
        return CocoInstances(expand_path(self.path), self.split, Geometry(size, self.geometry, resampling))

    def needs_of(self, root: Path) -> tuple[Need, ...]:
        """Return the split's photos and its annotations."""
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
