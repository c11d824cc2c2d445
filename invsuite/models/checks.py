"""Canaries of a model: is it normalised as its checkpoint says, and is its chain the library's own forward pass?"""

from __future__ import annotations

import torch

from invsuite.errors import WeightsError
from invsuite.models.base import Model, Normalise, Prediction

TOLERANCE = 1e-3  # of predictions, absolute and relative: other kernels round otherwise, a fault is far beyond


def check_normalisation(model: Model) -> None:
    """Compare the mean and standard deviation in the chain with those of the checkpoint's own configuration.

    Models whose loader does not say what the configuration wants (``origin.normalisation`` None) are not compared.

    Raises:
        WeightsError: if they differ, or the chain does not normalise.
    """
    wanted = model.origin.normalisation
    if wanted is None:
        return
    found = [part for c in model.components for part in c.module.modules() if isinstance(part, Normalise)]
    if not found:
        raise WeightsError(f"model '{model.name}': its chain does not normalise images, its checkpoint wants {wanted}")
    for part in found:
        for label, values, expected in zip(("mean", "std"), (part.mean, part.std), wanted, strict=True):
            shown = torch.tensor(expected, dtype=torch.float32)
            if not torch.allclose(values.detach().flatten().cpu(), shown, atol=1e-4):
                raise WeightsError(
                    f"model '{model.name}': images are normalised with {label} "
                    f"{[round(v, 4) for v in values.flatten().tolist()]}, its checkpoint's configuration says "
                    f"{list(expected)}"
                )


@torch.no_grad()
def check_chain(model: Model, images: torch.Tensor) -> None:
    """Compare the chain's predictions for images (B, 3, H, W) in [0, 1] with the network's own forward pass.

    Raises:
        WeightsError: if they differ by more than rounding.
    """
    chain, own = model.predict(images), model.reference(images)
    for label, a, b in _pairs(chain, own):
        # torch.allclose counts NaN as different, as it should
        if a.shape != b.shape or not torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE):
            off = float((a - b).abs().max()) if a.shape == b.shape else float("nan")
            raise WeightsError(
                f"model '{model.name}': the {label} of its chain differ from the network's own by up to {off:.3g}: "
                "the adapter does not run the model as its library does"
            )


def _pairs(a: Prediction, b: Prediction) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    pairs = [("logits", a.logits, b.logits)]
    if a.boxes is not None and b.boxes is not None:
        pairs.append(("boxes", a.boxes, b.boxes))
    return pairs
