"""Checks of a model: it runs, its normalisation is its checkpoint's, its chain the library's forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from invsuite.errors import UsageError, WeightsError, boundary
from invsuite.models.base import Model, Normalise, Prediction

TOLERANCE = 1e-3  # of predictions, absolute and relative: other kernels round otherwise, a fault is far beyond


def running_on(name: str, size: tuple[int, int]) -> AbstractContextManager[None]:
    """Return the boundary around a library that builds a chain: what it raises is a `UsageError` of one line.

    Args:
        name: of the model.
        size: (H, W) of its images.
    """
    return boundary(f"model '{name}' does not run on images of {size[0]}x{size[1]}", UsageError)


def check_normalisation(model: Model) -> None:
    """Compare the mean and standard deviation in the chain with those of the checkpoint's own configuration.

    Models whose loader does not say what the configuration demands (``origin.normalisation`` None) are not compared.

    Raises:
        WeightsError: if they differ, or the chain does not normalise.
    """
    stated = model.origin.normalisation
    if stated is None:
        return
    parts = [part for c in model.components for part in c.module.modules() if isinstance(part, Normalise)]
    if not parts:
        raise WeightsError(f"model '{model.name}': its chain does not normalise images, its checkpoint wants {stated}")
    for part in parts:
        for label, values, expected in zip(("mean", "std"), (part.mean, part.std), stated, strict=True):
            if not torch.allclose(values.flatten().cpu(), torch.tensor(expected, dtype=torch.float32), atol=1e-4):
                raise WeightsError(
                    f"model '{model.name}': images are normalised with {label} "
                    f"{[round(v, 4) for v in values.flatten().tolist()]}, its checkpoint's configuration says "
                    f"{list(expected)}"
                )


@torch.no_grad()
def check_chain(model: Model, images: torch.Tensor) -> None:
    """Compare the chain's predictions for images (B, 3, H, W) in [0, 1] with the network's own forward pass.

    Object queries have no order: a detector that ranks them by score may rank two that are level the other way round
    in another library, so that each is compared with the one that is nearest.

    Raises:
        WeightsError: if they differ by more than rounding.
    """
    chain, own = _rows(model.predict(images)), _rows(model.reference(images))
    if chain.shape != own.shape or not (_are_among(chain, own) and _are_among(own, chain)):
        off = float((chain - own).abs().max()) if chain.shape == own.shape else float("nan")
        raise WeightsError(
            f"model '{model.name}': the predictions of its chain differ from the network's own by up to {off:.3g}: "
            "the adapter does not run the model as its library does"
        )


def _rows(prediction: Prediction) -> torch.Tensor:
    """Return logits and boxes side by side (B, queries, values); an image classifier has one row."""
    if prediction.boxes is None:
        return prediction.logits.unsqueeze(1)
    return torch.cat([prediction.logits, prediction.boxes], -1)


def _are_among(rows: torch.Tensor, others: torch.Tensor) -> bool:
    """Tell whether each of ``rows`` (B, N, values) is one of ``others``, but for rounding."""
    nearest = torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
    # torch.allclose counts NaN as different, as it should
    matches = others.gather(1, nearest.unsqueeze(2).expand_as(rows))
    return torch.allclose(rows, matches, atol=TOLERANCE, rtol=TOLERANCE)
