"""From the sources a suite names to the three disjoint splits a model of a given input size sees."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from invsuite.data.base import Dataset
from invsuite.data.checks import check_geometry, check_scenes
from invsuite.data.coco import CocoInstances
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import BICUBIC, FitMode, Geometry, Resampling
from invsuite.data.hub import HubPhotos
from invsuite.data.imagenet import ImageNetFolder
from invsuite.data.scenes import Scenes
from invsuite.data.split import Split, Splits, hold_back
from invsuite.errors import Unavailable, UsageError


@dataclass(frozen=True)
class ScenesSource:
    """Procedural scenes of the model's input size."""

    seed: int
    count: int
    max_objects: int = 4


@dataclass(frozen=True)
class FolderSource:
    """A folder of photos; ``count`` limits them (0: all); ``$NAME`` in the path is an environment variable."""

    path: str
    count: int = 0
    geometry: FitMode = "crop"


@dataclass(frozen=True)
class CocoSource:
    """A split of a COCO root with instance masks; ``count`` limits the photos (0: all)."""

    path: str
    split: str
    count: int = 0
    geometry: FitMode = "crop"


@dataclass(frozen=True)
class ImageNetSource:
    """A split of an ImageNet root (ILSVRC's own layout, or class folders); ``count`` photos spread over all of them
    (0: all, which decodes each once)."""

    path: str
    split: str = "val"
    count: int = 0
    geometry: FitMode = "crop"


@dataclass(frozen=True)
class HubSource:
    """The first ``count`` images of a split of a Hugging Face dataset (``datasets``); ``column`` holds the images."""

    name: str
    count: int
    split: str = "train"
    column: str = "image"
    geometry: FitMode = "crop"


@dataclass(frozen=True)
class HeldBackSource:
    """``count`` images held back from the fit source, chosen by content."""

    count: int


@runtime_checkable
class OwnSource(Protocol):
    """A source that opens its dataset itself, as those of plug-ins do; ``count`` limits the images (0: all)."""

    count: int

    def open(self, size: tuple[int, int]) -> Dataset:
        """The dataset at image ``size`` (H, W)."""


Source = OwnSource | ScenesSource | FolderSource | CocoSource | ImageNetSource | HubSource | HeldBackSource
SOURCES: dict[str, type[Source]] = {
    "scenes": ScenesSource,
    "folder": FolderSource,
    "coco": CocoSource,
    "imagenet": ImageNetSource,
    "datasets": HubSource,
    "held-back": HeldBackSource,
}


@dataclass(frozen=True)
class DataSpec:
    """Where fit, selection and scored images come from; ``others`` by name, for models that are not given these."""

    fit: Source
    select: Source
    score: Source
    others: Mapping[str, DataSpec] = field(default_factory=dict)


def expand_path(path: str) -> Path:
    """A path with ``~`` and ``$NAME`` expanded.

    Raises:
        Unavailable: naming the environment variable that is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise Unavailable(f"path '{path}': set {missing[1]} first, e.g. export {missing[1]}=/path/to/it")
    return Path(expanded)


def open_source(source: Source, size: tuple[int, int], resampling: Resampling = BICUBIC) -> Dataset:
    """The dataset a source describes, at image ``size`` (H, W), photos resized as the model's checkpoint says.

    Raises:
        Unavailable: if a folder or file is not there.
        UsageError: if scenes are asked for in a shape that is not square.
    """
    if isinstance(source, ScenesSource):
        if size[0] != size[1]:
            raise UsageError(f"scenes are square, the model's input is {size[0]} x {size[1]}")
        return Scenes(source.seed, source.count, size[0], source.max_objects)
    if isinstance(source, HeldBackSource):
        raise UsageError("a held-back source has no images of its own")
    if isinstance(source, OwnSource):
        return source.open(size)
    geometry = Geometry(size, source.geometry, resampling)
    if isinstance(source, FolderSource):
        return PhotoFolder(expand_path(source.path), geometry)
    if isinstance(source, CocoSource):
        return CocoInstances(expand_path(source.path), source.split, geometry)
    if isinstance(source, ImageNetSource):
        return ImageNetFolder(expand_path(source.path), source.split, source.count, geometry)
    return HubPhotos(source.name, source.split, source.column, source.count, geometry)


def open_splits(spec: DataSpec, size: tuple[int, int], resampling: Resampling = BICUBIC) -> Splits:
    """Fit, selection and scored images for a model of input ``size`` (H, W), checked to be disjoint.

    Raises:
        DataError: if known pictures do not come out of the same code as they should.
    """
    kinds = {(type(s), getattr(s, "geometry", None)): s for s in (spec.fit, spec.select, spec.score)}
    for source in kinds.values():
        _check(source, size)
    fit_data = open_source(spec.fit, size, resampling)
    if isinstance(spec.select, HeldBackSource):
        fit, select = hold_back(fit_data, spec.select.count, len(_take(fit_data, spec.fit)))
    else:
        fit, select = _take(fit_data, spec.fit), _take(open_source(spec.select, size, resampling), spec.select)
    return Splits(fit, select, _take(open_source(spec.score, size, resampling), spec.score))


def _check(source: Source, size: tuple[int, int]) -> None:
    """Send known pictures the way this kind of source goes (`invsuite.data.checks`)."""
    if isinstance(source, FolderSource | CocoSource):
        check_geometry(Geometry(size, source.geometry))
    elif isinstance(source, ScenesSource) and size[0] == size[1]:
        check_scenes(size[0])


def _take(dataset: Dataset, source: Source) -> Split:
    wanted = source.count or len(dataset)
    if wanted > len(dataset):
        missing = getattr(dataset, "missing", ())
        hint = f"; its annotations name {len(missing)} that are missing, first {', '.join(missing[:3])}"
        raise UsageError(
            f"'{dataset.name}' has {len(dataset)} readable images, the suite asks for {wanted}{hint if missing else ''}"
        )
    return Split(dataset, tuple(range(wanted)))
