"""Faults of methods and their reconstructions."""

from __future__ import annotations

from typing import Any

import torch

from invsuite.selftest.base import Fault, after, plant
from invsuite.selftest.bench import bench_trial

INVERT = "invsuite.methods.ridge:LinearInverter.invert"
RANGE, LOOK = "invsuite.data.base.check_images", "invsuite.methods.checks.check_reconstructions"


def _stretched(images: torch.Tensor) -> torch.Tensor:
    """Every image rescaled to its own minimum and maximum."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    # within [0, 1] before, so that each end is reached by few pixels, as the output of a network would
    noise = 1e-4 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    spread = (images - low) / (high - low) + noise
    low, high = spread.amin((1, 2, 3), keepdim=True), spread.amax((1, 2, 3), keepdim=True)
    return (spread - low) / (high - low)


def _one_nan(images: torch.Tensor) -> torch.Tensor:
    images = images.clone()
    images[0, 0, 0, 0] = float("nan")
    return images


def _in_train_mode(fitted: Any) -> Any:
    for chain in fitted.inverter.chains.values():
        chain.train()
    return fitted


FAULTS = (
    Fault(
        "inverse network in train mode",
        "Modular.fit",
        "invsuite.methods.checks.check_inverter",
        plant("invsuite.methods.networks:Modular.fit", after(_in_train_mode)),
        bench_trial("modular"),
        "inverse network in train mode",
    ),
    Fault(
        "reconstructions in [0, 255]",
        "LinearInverter.invert",
        RANGE,
        plant(INVERT, after(lambda images: images * 255)),
        bench_trial(),
        "expected [0, 1]; divide by 255",
    ),
    Fault(
        "normalised reconstructions scored",
        "LinearInverter.invert",
        RANGE,
        plant(INVERT, after(lambda images: (images - 0.5) / 0.25)),
        bench_trial(),
        "undo the model's normalisation",
    ),
    Fault(
        "NaN in a reconstruction",
        "LinearInverter.invert",
        RANGE,
        plant(INVERT, after(_one_nan)),
        bench_trial(),
        "NaN or infinity",
    ),
    Fault(
        "grey reconstructions (one channel)",
        "LinearInverter.invert",
        RANGE,
        plant(INVERT, after(lambda images: images.mean(1, keepdim=True))),
        bench_trial(),
        "made from",
    ),
    Fault(
        "BGR reconstructions",
        "LinearInverter.invert",
        LOOK,
        plant(INVERT, after(lambda images: images.flip(1))),
        bench_trial(),
        "channels are BGR",
    ),
    Fault(
        "min-max rescaled reconstructions",
        "LinearInverter.invert",
        LOOK,
        plant(INVERT, after(_stretched)),
        bench_trial(),
        "rescaled by its own minimum and maximum",
    ),
    Fault(
        "plain grey whatever the representation",
        "LinearInverter.invert",
        LOOK,
        plant(INVERT, after(lambda images: torch.full_like(images, 0.5))),
        bench_trial(),
        "are the same image",
    ),
)
