"""The best and the worst images of a cell by each of its measures: which they are, and their pictures in one file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch.nn.functional import interpolate

from invsuite.data.base import from_unit_range
from invsuite.results.record import Measurement
from invsuite.results.statistics import distance_from_best

EACH = 3  # best and worst images kept of each measure
MOST = 48  # images kept of a cell, however many measures there are
SIDE = 160  # pixels of the longer side; larger pictures are made smaller
QUALITY, EFFORT = 90, 1  # of WebP; twice the time makes it 4 % smaller


def ranking(measurement: Measurement) -> list[int]:
    """Return the rows of the images on which a measure is defined, best first; ties in the images' order."""
    values, direction = measurement.values, measurement.direction
    rows = [row for row, value in enumerate(values) if value is not None]
    return sorted(rows, key=lambda row: float(distance_from_best(direction, values[row])))


def best_and_worst(measurements: Mapping[str, Measurement]) -> list[int]:
    """Rows of the `EACH` best and worst images by every measure of a record, the very best and worst first, at most
    `MOST`."""
    ranked = [ranking(measurement) for measurement in measurements.values()]
    picked = (
        order[place] for depth in range(EACH) for order in ranked if depth < len(order) for place in (-1 - depth, depth)
    )
    return list(dict.fromkeys(picked))[:MOST]


def sheet(images: torch.Tensor, reconstructions: torch.Tensor) -> bytes:
    """WebP bytes: images (n, 3, H, W) in [0, 1] side by side, their reconstructions below."""
    both = torch.cat([torch.cat(list(part), dim=2) for part in (_fit(images), _fit(reconstructions))], dim=1)
    buffer = io.BytesIO()
    Image.fromarray(from_unit_range(both).permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=QUALITY, method=EFFORT)
    return buffer.getvalue()


def _fit(images: torch.Tensor) -> torch.Tensor:
    """Images no larger than `SIDE` on the longer side, on the CPU."""
    images = images.cpu()
    scale = SIDE / max(images.shape[-2:])
    if scale >= 1:
        return images
    return interpolate(images, scale_factor=scale, mode="bilinear", antialias=True).clamp(0, 1)
