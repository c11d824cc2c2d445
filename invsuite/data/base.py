"""Samples (images in [0, 1] with exact object masks where they are known), datasets, and sources of datasets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite._system.needs import Need
from invsuite.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from invsuite.data.geometry import Geometry, Resampling

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Instance:
    """An object in an image: boolean ``mask`` (H, W), class index ``label``, ``box`` (x0, y0, x1, y1) in pixels.

    Examples:
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1:3, 2:5] = True
        >>> Instance(mask, label=0, box=bounding_box(mask)).box
        (2.0, 1.0, 5.0, 3.0)
    """

    mask: Mask
    label: int
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """Return the area of the mask in pixels."""
        return float(self.mask.sum())


@dataclass(frozen=True)
class BoxedObject:
    """An object of which only the ``box`` (x0, y0, x1, y1) in pixels and the class index ``label`` are known."""

    label: int
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """Return the area of the box in pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True)
class Sample:
    """An image with its objects.

    Attributes:
        key: its name in records.
        image: float32 RGB (3, H, W) in [0, 1].
        instances: its objects as far as they are known; may be empty.
        boxed: objects that have no mask: measures of boxes count them, measures of masks do not see them.

    Raises:
        DataError: if the image is not float in [0, 1] or a mask has another size than the image.

    Examples:
        >>> Sample("grey", torch.full((3, 8, 8), 0.5)).instances
        ()
    """

    key: str
    image: torch.Tensor
    instances: tuple[Instance, ...] = ()
    boxed: tuple[BoxedObject, ...] = ()

    def __post_init__(self) -> None:
        check_images(self.image[None], what=f"image {self.key}")
        size = tuple(self.image.shape[-2:])
        for number, instance in enumerate(self.instances):
            if instance.mask.shape != size:
                raise DataError(
                    f"mask {number} of {self.key} is {instance.mask.shape}, its image is {size}: "
                    "resize both with the same transform"
                )


class Dataset(ABC):
    """An ordered, finite collection of samples.

    Attributes:
        name: how tables and messages call it.
        classes: names of the instances' labels, by label; empty where nothing is labelled.
        geometry: how its photos take the size of the model's input; None where nothing is resized.
        unreadable: ``{path: reason}`` of the files that were left out.
        missing: names of the files that its annotations name and that are not there.
        passed_over: how many files beside its photos are no photos that are read here, by suffix.
        left_out: ``{annotation: reason}`` of the annotations that were left out.
        is_photos: whether its images are decoded from files: by all processors, and kept between runs.

    Examples:
        >>> from invsuite.data.scenes import Scenes
        >>> scenes = Scenes(seed=1, count=3)
        >>> len(scenes), scenes[2].key, scenes.classes[:2]
        (3, 'scene-1-000002', ('disc', 'ring'))
    """

    name: str
    classes: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = MappingProxyType({})
    missing: tuple[str, ...] = ()
    geometry: Geometry | None = None
    passed_over: Mapping[str, int] = MappingProxyType({})
    left_out: Mapping[str, str] = MappingProxyType({})
    is_photos: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sample: ...

    def pixels(self, index: int) -> torch.Tensor:
        """Return image ``index`` alone as 8-bit pixels (3, H, W), without its objects."""
        return from_unit_range(self[index].image)

    def photo(self, index: int) -> Image.Image | None:
        """Return the RGB photo that image ``index`` is made of, in its own size; None where there is none."""
        return None

    @abstractmethod
    def identity(self, index: int) -> str:
        """Return a text that only images of the same content as image ``index`` have, without decoding it if possible.

        It recognises a photo that lies in two folders.
        """

    @abstractmethod
    def digest(self) -> str:
        """Return a SHA-256 over everything that changes the pixels or masks."""

    def key(self, index: int) -> str:
        """Return the name of image ``index`` in records."""
        return self[index].key

    def conversions(self, index: int) -> tuple[str, ...]:
        """Return what had to be changed of photo ``index`` to make it RGB (`invsuite.data.photo.kinds_of`)."""
        return ()


class Source(ABC):
    """Where a dataset comes from: a frozen dataclass whose fields are the keys of ``[data.*]`` with this ``kind``.

    All fields are part of a cell's identity but those marked `invsuite._system.identity.NOT_IDENTITY`: the place where
    images lie is not, for their content is.

    Attributes:
        count: how many images, the first ones of the dataset; 0 takes all.

    Examples:
        >>> from invsuite import Resampling
        >>> from invsuite.data.scenes import ScenesSource
        >>> len(ScenesSource(seed=1, count=8).open((96, 96), Resampling()))
        8
    """

    count: int

    @abstractmethod
    def open(self, size: tuple[int, int], resampling: Resampling) -> Dataset:
        """Return the dataset at image ``size`` (H, W), photos resized as the model's checkpoint says.

        Raises:
            Unavailable: if a folder, a file or a package is not there.
        """

    def check(self, size: tuple[int, int]) -> None:
        """Send known pictures of ``size`` (H, W) the way that this source's images go.

        Raises:
            DataError: if they do not come out as they should.
        """
        return

    def needs(self) -> tuple[Need, ...]:
        """Return what must be on this machine before the dataset can be opened."""
        return ()


def bounding_box(mask: Mask) -> tuple[float, float, float, float]:
    """Return the smallest box (x0, y0, x1, y1) in pixels around a mask with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def check_images(images: torch.Tensor, what: str = "images") -> torch.Tensor:
    """Return ``images`` unchanged if they are float RGB (B, 3, H, W) in [0, 1]; the suite's one range check.

    Raises:
        DataError: naming what is wrong (dtype, shape, NaN, range) and the fix.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"{what}: shape {tuple(images.shape)} is not (B, 3, H, W) RGB")
    if not images.is_floating_point():
        raise DataError(f"{what}: dtype {images.dtype} is not float; divide 8-bit images by 255")
    if images.numel() == 0:
        return images
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{what}: NaN or infinity among the pixels")
    if low < 0.0 or high > 1.0:
        hint = "divide by 255" if high > 8 else "undo the model's normalisation, or clamp"
        raise DataError(f"{what}: values in [{low:.3g}, {high:.3g}], expected [0, 1]; {hint}")
    return images


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """Return 8-bit pixels as float32 in [0, 1]."""
    return pixels.float() / 255


def from_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Return images in [0, 1] as 8-bit pixels, rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
