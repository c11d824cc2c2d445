"""Checks of measures before any cell is scored: independent implementations, and answers that are known in advance.

They take a fraction of a second. A measure without an entry in `CHECKS` is checked by its tests alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from invsuite.data.scenes import Scenes
from invsuite.data.split import Split
from invsuite.errors import DataError, Unavailable
from invsuite.metrics.backbones import MEAN, STD
from invsuite.metrics.base import Metric, Scoring, Subject
from invsuite.models.base import Component, Layout, Model, Prediction, WeightsOrigin

Reconstruct = Callable[[torch.Tensor], torch.Tensor]
SIDE = 96
ROUNDING = 1e-4  # of what a backbone is shown, in deviations: packages write the normalisation in their own ways
SCENES = Split(Scenes(seed=990_001, count=6, size=SIDE), tuple(range(6)))


def check_measures(metrics: Sequence[Metric]) -> None:
    """Hold every measure that has checks against them.

    Raises:
        DataError: naming the measure, what was expected and what it gave.
    """
    for metric in metrics:
        for check in CHECKS.get(metric.name, ()):
            check(metric)


def degrade(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, 3, H, W) with an error that depends on nothing but the image, and differs between images."""
    amount = 0.02 + 0.2 * images.mean((1, 2, 3), keepdim=True)
    return (images + amount * torch.sin(images * 300)).clamp(0, 1)


def _copy(images: torch.Tensor) -> torch.Tensor:
    return images.clone()


def _unedited(images: torch.Tensor) -> torch.Tensor:
    """Return the scene that is nearest to each image: a copy that takes no notice of an edit."""
    known = SCENES.images(slice(None))
    return known[torch.cdist(images.flatten(1), known.flatten(1)).argmin(1)]


def _pixels() -> Model:
    """Return a model that holds the pixels themselves: no measure that is checked here asks a model."""
    layout = Layout("map", 3, (SIDE, SIDE))
    identity = torch.nn.Identity()
    origin = WeightsOrigin("no weights", "0" * 64)
    chain = [Component("pixels", identity, layout)]
    return Model("pixels", identity, chain, (SIDE, SIDE), "embedding", origin, Prediction, Prediction)


def _scoring(reconstruct: Reconstruct) -> Scoring:
    samples = SCENES.samples()
    images = torch.stack([sample.image for sample in samples])
    subject = Subject(_pixels(), ("pixels",), samples, images, SCENES, len(samples))
    return Scoring(subject, "pixels", reconstruct(images), reconstruct, reconstruct)


def _expect(metric: Metric, scoring: Scoring, expected: Sequence[float], tolerance: float, source: str) -> None:
    values = metric.compute(scoring).per_image
    for index, (value, known) in enumerate(zip(values, expected, strict=True)):
        if value is None or not abs(value - known) <= tolerance:
            raise DataError(
                f"measure '{metric.name}' gives {'none' if value is None else f'{value:.4f}'} for known scene {index}, "
                f"{source} is {known:.4f}: the measure is not what its name says"
            )


def _pairs(scoring: Scoring) -> Iterator[tuple[Any, Any]]:
    return zip(scoring.images[:].numpy(), scoring.reconstructions[:].numpy(), strict=True)


def _psnr(metric: Metric) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    scoring = _scoring(degrade)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in _pairs(scoring)]
    _expect(metric, scoring, expected, 1e-2, "scikit-image's")


def _ssim(metric: Metric) -> None:
    from skimage.metrics import structural_similarity

    scoring = _scoring(degrade)
    expected = [
        structural_similarity(
            a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in _pairs(scoring)
    ]
    _expect(metric, scoring, expected, 1e-3, "scikit-image's")


def _correspondence(metric: Metric) -> None:
    """Check that a copy changes where the object was edited and nowhere else."""
    scoring = _scoring(_copy)
    shares = [1 / max(float(i.mask.mean()) for i in sample.instances) for sample in scoring.samples]
    _expect(metric, scoring, shares, 0.01, "one over the edited object's share of the image")


def _hue_gain(metric: Metric) -> None:
    """Check that a copy keeps the whole turn, and a reconstruction that ignores edits nothing of it."""
    count = len(SCENES)
    _expect(metric, _scoring(_copy), [1.0] * count, 0.02, "that of a copy")
    _expect(metric, _scoring(_unedited), [0.0] * count, 0.02, "one that ignores edits'")


def _backbone_inputs(metric: Metric) -> None:
    """Check that images reach the backbone as those it was trained on: RGB, upright, in its range.

    Without its backbone the measure is skipped anyway.
    """
    try:
        metric.prepare(torch.device("cpu"))
    except Unavailable:
        return
    scoring = _scoring(degrade)
    pairs = (scoring.images[:1], scoring.reconstructions[:1])
    with _first_inputs() as inputs:
        metric.compute(replace(scoring, subject=replace(scoring.subject, images=pairs[0]), reconstructions=pairs[1]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    for images in pairs:
        expected = (images - mean) / std
        nearest = min(inputs, key=lambda tensor: _distance(tensor, expected), default=torch.empty(0))
        if (off := _distance(nearest, expected)) > ROUNDING:
            alike = nearest.shape == expected.shape
            shown = f"values that are off by up to {off:.2f}" if alike else f"images of shape {tuple(nearest.shape)}"
            raise DataError(
                f"measure '{metric.name}' shows its backbone {shown}, where it was trained on RGB images in [0, 1] of "
                f"shape {tuple(expected.shape)}, normalised: range, layout or order of channels are wrong"
            )


def _distance(tensor: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of two tensors; infinity where their shapes differ."""
    return float((tensor - other).abs().max()) if tensor.shape == other.shape else float("inf")


@contextmanager
def _first_inputs() -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of every convolution that takes three channels: of backbones, the first one."""
    collected: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.in_channels == 3:
            collected.append(inputs[0].detach())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield collected
    finally:
        handle.remove()


CHECKS: dict[str, tuple[Callable[[Metric], None], ...]] = {
    "psnr": (_psnr,),
    "ssim": (_ssim,),
    "correspondence": (_correspondence,),
    "hue_gain": (_hue_gain,),
    "lpips": (_backbone_inputs,),
    "lpips_squeeze": (_backbone_inputs,),
    "lpips_vgg": (_backbone_inputs,),
    "dists": (_backbone_inputs,),
}
