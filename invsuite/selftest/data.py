"""Faults of photos, scenes and masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from invsuite.data.folder import FolderSource
from invsuite.data.scenes import Scenes, ScenesSource
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import HeldBackSource
from invsuite.selftest.base import Fault, after, plant
from invsuite.selftest.bench import bench_trial

CHECKS = "invsuite.data.checks"


def _open_folder() -> None:
    """Open a folder of a few photos the way a suite does."""
    with TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for index in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{index}.png")
        spec = DataSpec(FolderSource(folder), HeldBackSource(1), ScenesSource(73, 2))
        open_splits(spec, (32, 32)).fit.images(slice(None))


def _no_filter(original: Any) -> Any:
    """Resize by picking pixels."""

    def pixels(self: Any, photo: Image.Image) -> Any:
        canvas = (self.size[1], self.size[0])
        picked = photo.resize(canvas, Image.Resampling.NEAREST, box=self.source_box(*photo.size))
        return torch.tensor(np.asarray(picked)).permute(2, 0, 1)

    return pixels


def _normalised(image: torch.Tensor) -> torch.Tensor:
    return (image - 0.45) / 0.22


def _masks(change: Any) -> Any:
    """Return a change of every mask of a sample, by (mask, sample)."""

    def of_sample(sample: Any) -> Any:
        moved = tuple(replace(item, mask=change(item.mask)) for item in sample.instances)
        return replace(sample, instances=moved)

    return of_sample


def _of_another_photo(original: Any) -> Any:
    """Scenes whose masks are those of the scene after."""

    def item(self: Scenes, index: int) -> Any:
        other = original(self, (index + 1) % len(self))
        return replace(original(self, index), instances=other.instances)

    return item


FAULTS = (
    Fault(
        "pixels in [0, 255]",
        "invsuite.data.scenes.to_unit_range",
        "invsuite.data.base.check_images",
        plant("invsuite.data.scenes:to_unit_range", lambda _: lambda pixels: pixels.float()),
        bench_trial(),
        "divide by 255",
    ),
    Fault(
        "pixels left as 8-bit integers",
        "invsuite.data.scenes.to_unit_range",
        "invsuite.data.base.check_images",
        plant("invsuite.data.scenes:to_unit_range", lambda _: lambda pixels: pixels),
        bench_trial(),
        "is not float",
    ),
    Fault(
        "normalised photos",
        "Geometry.tensor",
        "invsuite.data.base.check_images",
        plant("invsuite.data.geometry:Geometry.tensor", after(_normalised)),
        _open_folder,
        "undo the model's normalisation",
    ),
    Fault(
        "photos decoded as BGR",
        "invsuite.data.photo.to_rgb",
        f"{CHECKS}.check_geometry",
        plant(
            "invsuite.data.photo:to_rgb",
            after(lambda photo: Image.merge("RGB", photo.split()[::-1])),
        ),
        _open_folder,
        "channels are swapped, mixed or lost",
    ),
    Fault(
        "photos decoded as grey",
        "invsuite.data.photo.to_rgb",
        f"{CHECKS}.check_geometry",
        plant("invsuite.data.photo:to_rgb", after(lambda photo: photo.convert("L").convert("RGB"))),
        _open_folder,
        "channels are swapped, mixed or lost",
    ),
    Fault(
        "resize without antialiasing",
        "Geometry.pixels",
        f"{CHECKS}.check_geometry",
        plant("invsuite.data.geometry:Geometry.pixels", _no_filter),
        _open_folder,
        "without antialiasing",
    ),
    Fault(
        "masks of photos a row off",
        "Geometry.mask",
        f"{CHECKS}.check_geometry",
        plant("invsuite.data.geometry:Geometry.mask", after(lambda mask: np.roll(mask, 1, axis=0))),
        _open_folder,
        "the mask of a resized photo lies +1.0 rows",
    ),
    Fault(
        "masks of scenes a row off",
        "invsuite.data.scenes.render",
        "invsuite.data.scenes.check_scenes",
        plant("invsuite.data.scenes:render", after(_masks(lambda mask: np.roll(mask, 1, axis=0)))),
        bench_trial(),
        "the mask of a scene's object lies +1.0 rows",
    ),
    Fault(
        "masks of another size",
        "Scenes.__getitem__",
        "invsuite.data.base.Sample",
        plant("invsuite.data.scenes:Scenes.__getitem__", after(_masks(lambda mask: mask[::2, ::2]))),
        bench_trial(),
        "resize both with the same transform",
    ),
    Fault(
        "masks of another photo",
        "Scenes.__getitem__",
        f"{CHECKS}.check_masks",
        plant("invsuite.data.scenes:Scenes.__getitem__", _of_another_photo),
        bench_trial(),
        "the masks belong to other photos",
    ),
    Fault(
        "fit photos scored",
        "ScenesSource.open",
        "invsuite.data.split.Splits",
        plant(
            "invsuite.data.scenes:ScenesSource.open",
            lambda original: lambda self, *rest: original(replace(self, seed=71), *rest),
        ),
        bench_trial(),
        "images are in both the fit and the",
    ),
)
