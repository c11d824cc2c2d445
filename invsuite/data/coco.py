"""COCO photos with instance masks, official layout: ``ROOT/SPLIT/*.jpg`` and ``annotations/instances_SPLIT.json``."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path

from pycocotools.coco import COCO

from invsuite.data.base import Instance, Sample, bounding_box
from invsuite.data.folder import digest_files, open_photo, verify
from invsuite.data.geometry import Geometry
from invsuite.errors import DataError, Unavailable


class CocoInstances:
    """One split of a COCO root, photos in the order of their image id; crowd regions are left out.

    Masks belong to the pixels as they are stored, so that a photo's EXIF rotation is applied only where the annotations
    were made after it, as their size tells.

    Attributes:
        unreadable: ``{path: reason}`` of photos that are missing or cannot be decoded.
        missing: the names of photos that the annotations name and that are not there.

    Raises:
        Unavailable: if the root, the split or the annotations are not there, or no photo can be read.
        DataError: if the annotation file is not COCO JSON.
    """

    def __init__(self, root: Path, split: str, geometry: Geometry) -> None:
        annotations = root / "annotations" / f"instances_{split}.json"
        if not annotations.is_file():
            raise Unavailable(f"COCO annotations '{annotations}' do not exist")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco = COCO(str(annotations))
                self._image_ids = sorted(self._coco.getImgIds())
        except (json.JSONDecodeError, KeyError, TypeError, AssertionError) as error:
            raise DataError(f"{annotations}: not a COCO instances file ({error!r})") from error
        self.name = f"{root.name}/{split}"
        self.geometry = geometry
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

    def __len__(self) -> int:
        return len(self.files)

    def identity(self, index: int) -> str:
        """SHA-256 of the photo's bytes."""
        return self.files[index].sha256

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
        """SHA-256 over photos, annotations and geometry."""
        text = digest_files(self.files, self.geometry) + self._annotations_sha256
        return hashlib.sha256(text.encode()).hexdigest()
