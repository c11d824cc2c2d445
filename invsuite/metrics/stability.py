"""Stability: of an image that is hardly changed, is the reconstruction hardly changed?

Rathjens et al. 2024 (arXiv 2412.06534) note that similar inputs can be reconstructed inconsistently. A change that
nobody sees is made to the whole image; a perfect inverse returns it as it is, ratio 1, an inverse that smooths returns
less of it, and an unstable one more.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from invsuite.data.base import Mask, from_unit_range, to_unit_range
from invsuite.metrics.base import SEED, Edits, Metric, Scoring, Values, mean_defined, per_image, random_order
from invsuite.registry import register

UNCHANGED = "the disturbance changes nothing in the image"


def change_ratio(
    images: torch.Tensor, disturbed: torch.Tensor, before: torch.Tensor, after: torch.Tensor
) -> torch.Tensor:
    """Return by how much the reconstructions change, over how much the images did, as Euclidean lengths (n,).

    NaN where an image is not changed.

    Args:
        images: before the disturbance (n, 3, H, W).
        disturbed: after it.
        before: reconstructions of ``images``.
        after: reconstructions of ``disturbed``.

    Examples:
        >>> images = torch.zeros(1, 3, 4, 4)
        >>> change_ratio(images, images + 0.1, images, images + 0.05)
        tensor([0.5000])
    """
    shown, returned = (disturbed - images).flatten(1).norm(dim=1), (after - before).flatten(1).norm(dim=1)
    return torch.where(shown > 0, returned / shown, torch.nan)


def followed(images: torch.Tensor, disturbed: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the share of the images' change that is in the reconstructions' (n,): its projection on it.

    Arguments as for `change_ratio`. 1 returns the change whole, 0 nothing of it; what a ratio has beyond it is change
    of another kind.
    """
    shown, returned = (disturbed - images).flatten(1), (after - before).flatten(1)
    return (shown * returned).sum(1) / shown.square().sum(1)


@dataclass(frozen=True)
class Stability(Metric):
    r"""The change of a reconstruction over that of the image, where the whole image is hardly changed.

    Formula:
        $$ \frac{\lVert g(f_s(x')) - g(f_s(x)) \rVert}{\lVert x' - x \rVert} $$

        over all pixels and channels; $x'$ is the disturbed image.
    Range:
        0 upwards. Above 1 the reconstruction changes more than the image.
    Ceiling:
        1: the image itself.
    Floor:
        The distance of the reconstructions of two different images in place of the upper length, measured: what an
        inverse does to which similar images are as different as any two.
    Undefined:
        Where the disturbance does not change the image, and for all images where the suite's ``edits`` are 0.
    Pitfalls:
        Below 1 is no virtue by itself: a reconstruction that is always the same is perfectly stable. Read it with PSNR,
        and with the record's ``followed``, the part of the change shown that is in the change returned. The model may
        be what is unstable; another method at the same stage tells.
    Source:
        This suite, for a question that Rathjens et al. 2024 (arXiv 2412.06534) leave open.
    """

    group = "Consistency"
    direction = "one"
    digits = 2
    tolerance = 0.15
    uses_edits = True

    @property
    @abstractmethod
    def disturbance(self) -> str:
        """Return the name of the disturbance with its parameters."""

    @abstractmethod
    def disturb(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image (3, H, W) in [0, 1], hardly changed."""

    def compute(self, scoring: Scoring) -> Values:
        def edit(image: torch.Tensor, mask: Mask) -> torch.Tensor:
            return self.disturb(image)

        edits = scoring.edits(self.disturbance, edit, "image")
        if not edits.rows:
            return scoring.undefined()
        stacks = (edits.images, edits.edited, edits.before, edits.after)
        values, share = change_ratio(*stacks), mean_defined(followed(*stacks))
        listed = per_image(values, edits.rows, len(scoring.images))
        reason = UNCHANGED if bool(values.isnan().any()) else ""
        facts = {"disturbance": self.disturbance} | ({} if share is None else {"followed": share})
        return Values(listed, reason, ceiling=1.0, floor=_floor(edits), facts=facts)


def _floor(edits: Edits) -> float | None:
    """Return the ratio that reconstructions of other images would give; None for a single image."""
    if len(edits.rows) < 2:
        return None
    order = random_order(len(edits.rows), edits.before.device)
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one cycle: nobody is paired with itself
    return mean_defined(change_ratio(edits.images, edits.edited, edits.before, edits.before[other]))


@register.metric
@dataclass(frozen=True)
class StabilityNoise(Stability):
    """Noise that nobody sees is added to the image: the change of the reconstruction over that of the image.

    The noise is normal with a deviation of ``levels`` of 255, the same for every image; results are clipped to [0, 1].

    Args:
        levels: deviation of the noise in levels of 255.
    """

    levels: float = 2.0

    name = "stability_noise"
    label = "Change x, noise"

    @property
    def disturbance(self) -> str:
        return f"noise {self.levels}"

    def disturb(self, image: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(SEED))
        return (image + self.levels / 255 * noise.to(image)).clamp(0, 1)


@register.metric
@dataclass(frozen=True)
class StabilityShift(Stability):
    """The image is shifted to the right: the change of the reconstruction over that of the image.

    By one pixel, unless ``pixels`` says otherwise; columns at the left are repeated.

    Args:
        pixels: by how many.
    """

    pixels: int = 1

    name = "stability_shift"
    label = "Change x, shift"

    @property
    def disturbance(self) -> str:
        return f"shift {self.pixels}"

    def disturb(self, image: torch.Tensor) -> torch.Tensor:
        edge = image[..., :1].expand(-1, -1, self.pixels)
        return torch.cat([edge, image[..., : -self.pixels]], -1)


@register.metric
@dataclass(frozen=True)
class StabilityJpeg(Stability):
    """The image is saved as JPEG and read again: the change of the reconstruction over that of the image.

    Pillow's encoder at a quality of 90, unless ``quality`` says otherwise, with its usual subsampling of colours.

    Args:
        quality: of the JPEG, 1 to 95.
    """

    quality: int = 90

    name = "stability_jpeg"
    label = "Change x, JPEG"

    @property
    def disturbance(self) -> str:
        return f"JPEG {self.quality}"

    def disturb(self, image: torch.Tensor) -> torch.Tensor:
        file = io.BytesIO()
        pixels = from_unit_range(image).permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        read = torch.from_numpy(np.array(Image.open(file)))
        return to_unit_range(read.permute(2, 0, 1)).to(image)
