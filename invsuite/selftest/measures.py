"""Faults of measures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from invsuite._system.torch_hub import TorchFile
from invsuite.metrics import make_metric, perceptual
from invsuite.metrics.base import Values
from invsuite.metrics.checks import check_measures
from invsuite.selftest.base import Fault, Trial, after, plant, swapped

GUARD = "invsuite.metrics.checks.check_measures"
ALEXNET = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def _check(name: str) -> Trial:
    return lambda: check_measures([make_metric(name)])


def _pooled(values: Values) -> Values:
    """Return what a PSNR of the whole batch gives: one number for all images, of their mean squared error."""
    errors = [10 ** (-v / 10) for v in values.per_image if v is not None]
    return Values([-10 * float(torch.tensor(errors).mean().log10())] * len(values.per_image))


def _with_range(data_range: float) -> Any:
    return lambda original: lambda *args, **kwargs: original(*args, **(kwargs | {"data_range": data_range}))


def _in_255(original: Any) -> Any:
    """Return a measure with a data range of 1 that gets pixels in [0, 255]."""

    def compute(self: Any, scoring: Any) -> Any:
        subject = replace(scoring.subject, images=255 * scoring.images)
        return original(self, replace(scoring, subject=subject, reconstructions=255 * scoring.reconstructions))

    return compute


def _in_degrees(turn_hue: Any) -> Any:
    return lambda image, mask, turns: turn_hue(image, mask, 360 * turns)


@contextmanager
def _stand_in() -> Iterator[Path]:
    """Stand in for LPIPS by a backbone of random weights under its own digest: all is right but its values."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer, (outputs, inputs, side) in ALEXNET.items():
        weights[f"features.{layer}.weight"] = 0.05 * torch.randn(outputs, inputs, side, side, generator=generator)
        weights[f"features.{layer}.bias"] = torch.zeros(outputs)
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "checkpoints" / "weights"
        kept.parent.mkdir()
        torch.save(weights, kept)
        digest = hashlib.sha256(kept.read_bytes()).hexdigest()
        path = kept.rename(kept.with_name(f"alexnet-{digest[:8]}.pth"))
        published = {"alex": TorchFile(f"https://example.org/{path.name}", path.stat().st_size)}
        with (
            swapped("torch.hub:get_dir", lambda _: lambda: folder),
            swapped("invsuite.metrics.perceptual:BACKBONES", lambda known: known | published),
        ):
            _forget_networks()
            yield path
        _forget_networks()


def _forget_networks() -> None:
    """Drop the loaded backbones, which outlive a trial: the stand-in must not."""
    for kept in vars(perceptual).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


def _lpips_range() -> None:
    with _stand_in():
        check_measures([make_metric("lpips")])


def backbone(path: Path) -> Path:
    """Return the backbone file of the cache; the fault puts other weights there."""
    return path


def _lpips_backbone() -> None:
    with _stand_in() as path:
        backbone(path)
        make_metric("lpips").prepare(torch.device("cpu"))


def _other_weights(path: Path) -> Path:
    weights = torch.load(path, weights_only=True)
    torch.save({key: torch.randn_like(value) for key, value in weights.items()}, path)
    return path


FAULTS = (
    Fault(
        "batch-averaged PSNR",
        "Psnr.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Psnr.compute", after(_pooled)),
        _check("psnr"),
        "measure 'psnr' gives",
    ),
    Fault(
        "PSNR with a data range of 255",
        "torchmetrics' PSNR",
        GUARD,
        plant("torchmetrics.functional.image:peak_signal_noise_ratio", _with_range(255.0)),
        _check("psnr"),
        "measure 'psnr' gives",
    ),
    Fault(
        "SSIM of pixels in [0, 255] with a data range of 1",
        "Ssim.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Ssim.compute", _in_255),
        _check("ssim"),
        "measure 'ssim' gives",
    ),
    Fault(
        "a measure that is a constant",
        "Ssim.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Ssim.compute", after(lambda found: Values([0.9] * len(found.per_image)))),
        _check("ssim"),
        "measure 'ssim' gives 0.9000",
    ),
    Fault(
        "a measure that gives NaN",
        "Psnr.compute",
        "invsuite.metrics.base.Values",
        plant(
            "invsuite.metrics.fidelity:Psnr.compute",
            after(lambda found: Values([float("nan")] * len(found.per_image))),
        ),
        _check("psnr"),
        "its value must be None",
    ),
    Fault(
        "hue in degrees instead of turns",
        "the edit of HueGain",
        GUARD,
        plant("invsuite.metrics.colour:turn_hue", _in_degrees),
        _check("hue_gain"),
        "measure 'hue_gain' gives",
    ),
    Fault(
        "LPIPS fed [0, 1] instead of [-1, 1]",
        "lpips.LPIPS.forward",
        GUARD,
        plant(
            "lpips:LPIPS.forward",
            lambda original: lambda self, a, b, **kwargs: original(self, a, b, **(kwargs | {"normalize": False})),
        ),
        _lpips_range,
        "black and white as 0 and 1",
    ),
    Fault(
        "LPIPS with a random backbone",
        "the backbone in the hub cache",
        "invsuite.metrics.perceptual.backbone_file",
        plant(f"{__name__}:backbone", lambda _: _other_weights),
        _lpips_backbone,
        "delete and fetch",
    ),
)
