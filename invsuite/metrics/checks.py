"""Golden values: measures of known reconstructions against independent implementations and answers known in advance.

They run before any cell is scored and take a fraction of a second. A measure without an entry in `GOLDEN` is not
checked here, only by its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from invsuite.data.scenes import Scenes
from invsuite.data.split import Split
from invsuite.errors import DataError, Unavailable
from invsuite.metrics.base import Metric, Scoring
from invsuite.models.base import Model
from invsuite.models.load import load_model

Reconstruct = Callable[[torch.Tensor], torch.Tensor]
SCENES = Split(Scenes(seed=990_001, count=6), tuple(range(6)))


def check_measures(metrics: Sequence[Metric]) -> None:
    """Hold every measure that has golden values against them.

    Raises:
        DataError: naming the measure, what was expected and what it gave.
    """
    for metric in metrics:
        for check in GOLDEN.get(metric.name, ()):
            check(metric)


def degrade(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) with an error that depends on nothing but the image, and differs between images."""
    amount = 0.02 + 0.2 * images.mean((1, 2, 3), keepdim=True)
    return (images + amount * torch.sin(images * 300)).clamp(0, 1)


def _copy(images: torch.Tensor) -> torch.Tensor:
    return images.clone()


def _as_shown_first(images: torch.Tensor) -> torch.Tensor:
    """The scene that is nearest to each image: a copy that takes no notice of an edit."""
    known = SCENES.images(slice(None))
    return known[torch.cdist(images.flatten(1), known.flatten(1)).argmin(1)]


@lru_cache(maxsize=1)
def _model() -> Model:
    return load_model("golden", "bundled:vit")


def _scoring(reconstruct: Reconstruct) -> Scoring:
    samples = SCENES.samples()
    images = torch.stack([sample.image for sample in samples])
    model = _model()
    stages = model.stages[:-1]
    made = reconstruct(images)
    return Scoring(
        samples,
        images,
        made,
        reconstruct,
        len(samples),
        model=model,
        stage=stages[-1],
        stages=stages,
        fit=SCENES,
        invert=lambda tensor: made[:1].expand(len(tensor), -1, -1, -1),
    )


def _expect(metric: Metric, found: Sequence[float | None], wanted: Sequence[float], tolerance: float, of: str) -> None:
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if a is None or not abs(a - b) <= tolerance:
            raise DataError(
                f"measure '{metric.name}' gives {'none' if a is None else f'{a:.4f}'} for golden scene {index}, "
                f"{of} is {b:.4f}: the measure is not what its name says"
            )


def _psnr(metric: Metric) -> None:
    scoring = _scoring(degrade)
    wanted = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in _pairs(scoring)]
    _expect(metric, metric.compute(scoring).per_image, wanted, 1e-2, "scikit-image's")


def _ssim(metric: Metric) -> None:
    scoring = _scoring(degrade)
    wanted = [
        structural_similarity(
            a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in _pairs(scoring)
    ]
    _expect(metric, metric.compute(scoring).per_image, wanted, 1e-3, "scikit-image's")


def _pairs(scoring: Scoring) -> Iterator[tuple[Any, Any]]:
    return zip(scoring.images[:].numpy(), scoring.reconstructions[:].numpy(), strict=True)


def _correspondence(metric: Metric) -> None:
    """A copy changes where the object was edited and nowhere else: one over the object's share of the image."""
    scoring = _scoring(_copy)
    shares = [1 / max(float(i.mask.mean()) for i in sample.instances) for sample in scoring.samples]
    _expect(metric, metric.compute(scoring).per_image, shares, 0.01, "one over the edited object's share of the image")


def _hue_gain(metric: Metric) -> None:
    for reconstruct, wanted, of in ((_copy, 1.0, "that of a copy"), (_as_shown_first, 0.0, "one that sees no edit's")):
        scoring = _scoring(reconstruct)
        _expect(metric, metric.compute(scoring).per_image, [wanted] * len(scoring.images), 0.02, of)


def _lpips_range(metric: Metric) -> None:
    """Black and white must reach the network as -1 and 1. Without its backbone the measure is skipped anyway."""
    try:
        metric.prepare(torch.device("cpu"))
    except Unavailable:
        return
    from lpips.lpips import ScalingLayer

    with _inputs_of(ScalingLayer) as seen:
        scoring = _scoring(_copy)
        scoring.images = torch.zeros(scoring.images.shape)
        scoring.reconstructions = torch.ones(scoring.images.shape)
        metric.compute(scoring)
    low, high = min(float(x.min()) for x in seen), max(float(x.max()) for x in seen)
    if (low, high) != (-1.0, 1.0):
        raise DataError(
            f"measure '{metric.name}' shows its network black and white as {low:g} and {high:g}, it expects -1 and 1"
        )


@contextmanager
def _inputs_of(kind: type[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collects what every module of ``kind`` is given."""
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, kind):
            seen.append(inputs[0].detach())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


GOLDEN: dict[str, tuple[Callable[[Metric], None], ...]] = {
    "psnr": (_psnr,),
    "ssim": (_ssim,),
    "correspondence": (_correspondence,),
    "hue_gain": (_hue_gain,),
    "lpips": (_lpips_range,),
}
