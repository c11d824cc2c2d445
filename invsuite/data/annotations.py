"""COCO JSON as exporters write it: what is meant is read, the rest is left out by name, contradictions are refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from invsuite.data.base import Mask
from invsuite.errors import DataError

Id = int | str
Outline = list[list[float]] | NDArray[np.int64]  # polygons, or lengths of runs column by column, the first one outside

TRIANGLE = 6  # coordinates of the smallest polygon


class _LeftOut(Exception):
    """Why an annotation is left out: the key and what is wrong with it."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as the annotations name it: its file, and (width, height), None where they do not say."""

    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class AnnotatedObject:
    """An object in a photo.

    Attributes:
        label: position of its class.
        outline: of its mask; None where it has a box alone.
        box: (x0, y0, x1, y1) in pixels of the photo, as annotated, where there is no outline.
    """

    label: int
    outline: Outline | None
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def mask(self, height: int, width: int) -> Mask:
        """Return the mask in a photo of this size."""
        if isinstance(self.outline, np.ndarray):
            inside = np.arange(len(self.outline)) % 2 == 1
            return np.repeat(inside, self.outline).reshape(width, height).T
        runs = coco_masks.merge(coco_masks.frPyObjects(self.outline, height, width))
        return np.asarray(coco_masks.decode(runs), dtype=bool)


class CocoAnnotations:
    """A COCO instances file.

    Attributes:
        images: by id, in the order of their ids.
        classes: names of the categories, in the order of their ids.
        left_out: ``{annotation or image: reason}``; it grows as `objects` are asked for.
        sha256: of the file.
        unlike_pycocotools: whether pycocotools, by its ids, gives another image's masks or none for this file.

    Args:
        path: of the file.

    Raises:
        DataError: if it is no COCO JSON, or an id names two images or two categories.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.sha256, self.left_out = hashlib.sha256(content).hexdigest(), dict[str, str]()
        try:
            tree = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a COCO instances file ({error!r})") from error
        for part in ("images", "annotations", "categories"):
            if not isinstance(tree, dict) or not isinstance(tree.get(part), list):
                raise DataError(f"{path}: not a COCO instances file (it has no list '{part}')")
        self.unlike_pycocotools = False
        self._read_categories(path, tree["categories"])
        self._read_images(path, tree["images"])
        self._of_image: dict[Id, list[tuple[int, dict[str, Any]]]] = {}
        self._read_annotations(tree["annotations"])

    def _read_categories(self, path: Path, entries: list[Any]) -> None:
        names: dict[Id, str] = {}
        for key, entry in self._identified(entries, "category"):
            name = str(entry.get("name", f"category {key}"))
            if names.setdefault(key, name) != name:
                raise DataError(
                    f"{path}: category id {key} names both '{names[key]}' and '{name}': give one another id"
                )
        ordered = sorted(names, key=_order)
        self.classes = tuple(names[key] for key in ordered)
        self._label = {key: label for label, key in enumerate(ordered)}

    def _read_images(self, path: Path, entries: list[Any]) -> None:
        images: dict[Id, AnnotatedImage] = {}
        for key, entry in self._identified(entries, "image"):
            name, size = entry.get("file_name"), (_natural(entry.get("width")), _natural(entry.get("height")))
            if not _is_file_name(name):
                self.left_out[f"image {key}"] = f"image {key}: file_name is {name!r}, expected the name of its file"
                continue
            image = AnnotatedImage(name, (size[0], size[1]) if size[0] and size[1] else None)
            if images.setdefault(key, image) != image:
                both = f"'{images[key].file_name}' and '{name}'"
                raise DataError(f"{path}: image id {key} names both {both}: give one of them another id")
        self.images = {key: images[key] for key in sorted(images, key=_order)}

    def _read_annotations(self, entries: list[Any]) -> None:
        """Sort annotations by image; what says of no image which it is of is left out."""
        seen: dict[Id, list[Any]] = {}
        for number, entry in enumerate(entries):
            own = _id_of(entry.get("id")) if isinstance(entry, dict) else None
            image = _id_of(entry.get("image_id")) if isinstance(entry, dict) else None
            if not isinstance(entry, dict):
                self._leave_out(number, entry, "", f"it is {_short(entry)}, expected a table")
            elif image not in self.images:
                self._leave_out(number, entry, "", f"image_id {_short(entry.get('image_id'))} is the id of no image")
            elif own is not None and entry in seen.get(own, ()):
                self.unlike_pycocotools = True
                self._leave_out(number, entry, self.images[image].file_name, "id: the same annotation is there twice")
            else:
                if own is not None:
                    self.unlike_pycocotools |= own in seen
                    seen.setdefault(own, []).append(entry)
                self.unlike_pycocotools |= not isinstance(entry["image_id"], int)
                self._of_image.setdefault(image, []).append((number, entry))

    def _identified(self, entries: list[Any], what: str) -> Iterator[tuple[Id, dict[str, Any]]]:
        """Yield the entries that have an id; the others are left out."""
        for number, entry in enumerate(entries):
            key = _id_of(entry.get("id")) if isinstance(entry, dict) else None
            if key is None:
                self.left_out[f"{what} number {number}"] = f"{what} number {number}: id is missing or no id"
                continue
            self.unlike_pycocotools |= not isinstance(entry["id"], int)
            yield key, entry

    def _leave_out(self, number: int, entry: Any, image: str, reason: str) -> None:
        key = entry.get("id") if isinstance(entry, dict) else None
        name = f"annotation {'' if key is None else f'{_short(key)} '}(number {number})" + (
            f" of {image}" if image else ""
        )
        self.left_out[name] = f"{name}: {reason}"

    def objects(self, image: Id, size: tuple[int, int]) -> list[AnnotatedObject]:
        """Return the objects of an image whose photo is of this ``size`` (width, height), crowds left out."""
        objects, name = [], self.images[image].file_name
        for number, entry in self._of_image.get(image, ()):
            try:
                if _crowd(entry.get("iscrowd", 0)):
                    continue
                item = self._object(entry, *size)
                objects.append(item)
                if isinstance(item.outline, list) and len(item.outline) < len(_polygons(entry["segmentation"])):
                    self._leave_out(number, entry, name, "segmentation has polygons of fewer than three points")
            except _LeftOut as reason:
                self._leave_out(number, entry, name, str(reason))
        return objects

    def _object(self, entry: dict[str, Any], width: int, height: int) -> AnnotatedObject:
        label = self._label.get(_id_of(entry.get("category_id")))  # type: ignore[arg-type]
        if label is None:
            raise _LeftOut(f"category_id {_short(entry.get('category_id'))} is the id of no category")
        outline = _outline(entry.get("segmentation"), width, height)
        if outline is not None:
            return AnnotatedObject(label, outline)
        return AnnotatedObject(label, None, _box(entry.get("bbox")))


def _is_file_name(name: Any) -> TypeGuard[str]:
    """Tell whether a file can be called so: lone surrogates and zero bytes are in no name."""
    return isinstance(name, str) and bool(name) and "\0" not in name and name == name.encode(errors="ignore").decode()


def _order(key: Id) -> tuple[bool, Id]:
    """Return what ids are sorted by: numbers first."""
    return isinstance(key, str), key


def _id_of(value: Any) -> Id | None:
    """Return an id as it is meant: ``"7"`` and 7.0 are 7; None for what is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and (value == "0" or value[0] != "0"):
        return int(value) if len(value) < 19 else value
    return value if isinstance(value, int | str) and value != "" else None


def _natural(value: Any) -> int:
    """Return a number of pixels, also one written as text or with a point; 0 for what is none."""
    key = _id_of(value)
    return key if isinstance(key, int) and key > 0 else 0


def _crowd(value: Any) -> bool:
    """Tell whether ``iscrowd`` says so.

    Raises:
        _LeftOut: for what is neither 0 nor 1.
    """
    if value in (0, 1, "0", "1") or value is None:
        return value in (1, "1")
    raise _LeftOut(f"iscrowd is {_short(value)}, expected 0 or 1")


def _outline(segmentation: Any, width: int, height: int) -> Outline | None:
    """Return the outline that a segmentation means; None where there is none.

    Raises:
        _LeftOut: for one that cannot be drawn in a photo of this size.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _runs(segmentation, width, height)
    polygons = [_numbers(polygon, (width, height)) for polygon in _polygons(segmentation)]
    drawn = [polygon for polygon in polygons if len(polygon) >= TRIANGLE and len(polygon) % 2 == 0]
    if polygons and not drawn:
        raise _LeftOut(f"segmentation has {len(polygons[0])} coordinates, a polygon needs three points (x, y)")
    return drawn or None


def _polygons(segmentation: Any) -> list[Any]:
    """Return the polygons of a segmentation, empty ones left out: a single one may lack the list around it.

    Raises:
        _LeftOut: for what is no list.
    """
    if not isinstance(segmentation, list):
        raise _LeftOut(f"segmentation is {_short(segmentation)}, expected polygons or runs")
    points = all(isinstance(point, list) and len(point) == 2 for point in segmentation)
    single = points or not isinstance(segmentation[0], list)
    return [polygon for polygon in ([segmentation] if single else segmentation) if polygon != []]


def _numbers(values: Any, limits: tuple[int, int]) -> list[float]:
    """Return coordinates x, y, x, y ... as numbers, also of points (x, y).

    Raises:
        _LeftOut: for what is no finite number, or lies further outside of the photo than the photo is large.
    """
    if isinstance(values, list) and values and all(isinstance(point, list) for point in values):
        values = [value for point in values for value in point]
    if not isinstance(values, list):
        raise _LeftOut(f"segmentation holds {_short(values)}, expected numbers")
    for position, value in enumerate(values):
        limit = limits[position % 2]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _LeftOut(f"segmentation holds {_short(value)}, expected a number")
        if not -limit <= value <= 2 * limit:  # NaN is in no range
            raise _LeftOut(f"segmentation holds the coordinate {_short(value)}, the photo is {limits[0]} x {limits[1]}")
    return [float(value) for value in values]


def _runs(segmentation: dict[str, Any], width: int, height: int) -> NDArray[np.int64]:
    """Return the lengths of runs, plain or compressed.

    Raises:
        _LeftOut: if they are not those of a mask of this size.
    """
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise _LeftOut(f"segmentation.size is {_short(size)}, the photo has {height} rows and {width} columns")
    values = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= width * height for v in values):
        raise _LeftOut("segmentation.counts is no list of lengths of runs")
    if sum(values) != width * height:
        raise _LeftOut(f"segmentation.counts cover {sum(values)} pixels, the photo has {width * height}")
    return np.array(values, dtype=np.int64)


def _decompressed(text: str) -> list[int]:
    """Return the lengths of runs of COCO's compressed form: 5 bits a character, changes to two before after the third.

    Raises:
        _LeftOut: for what is no such text.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise _LeftOut("segmentation.counts is no compressed list of runs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise _LeftOut("segmentation.counts ends within a run")
    return counts


def _box(box: Any) -> tuple[float, float, float, float]:
    """Return the corners of a box (x, y, width, height).

    Raises:
        _LeftOut: for what is no box.
    """
    if box is None:
        raise _LeftOut("it has neither segmentation nor bbox")
    valid = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not valid or not all(abs(v) < 1e9 and math.isfinite(v) for v in box) or min(box[2:]) <= 0:
        raise _LeftOut(f"bbox is {_short(box)}, expected x, y, width and height")
    x, y, width, height = map(float, box)
    return (x, y, x + width, y + height)


def _short(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    text = json.dumps(value) if isinstance(value, Sequence | int | float | dict | None) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
