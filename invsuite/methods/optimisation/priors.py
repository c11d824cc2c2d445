"""What optimisation inversion adds to the feature loss: priors on images, and random views that stand in for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Return the isotropic total variation with exponent beta = 2, mean per pixel, of each image (B,).

    Mahendran & Vedaldi 2015, eq. 5, divided by the number of values so that one weight fits every image size.
    """
    dx = (images[..., :, 1:] - images[..., :, :-1]).square()
    dy = (images[..., 1:, :] - images[..., :-1, :]).square()
    return dx.mean((1, 2, 3)) + dy.mean((1, 2, 3))


def alpha_norm(images: torch.Tensor, centre: torch.Tensor, exponent: int = 6) -> torch.Tensor:
    """Return the mean over pixels of (colour distance from ``centre`` / B) ** exponent, of each image (B,).

    Mahendran & Vedaldi 2016 (arXiv 1512.02017), eq. 3, with their B = 80 of 255: a soft bound on colours.

    Args:
        images: (B, 3, H, W) in [0, 1].
        centre: (1, 3, 1, 1), the colour that the papers subtract.
        exponent: of the distance.
    """
    bound = 80 / 255
    return (((images - centre) / bound).square().sum(1) ** (exponent / 2)).mean((1, 2))


class Views:
    """Random views of the images, drawn anew at every step: jitter, zoom, colour shift and noise.

    All images of a batch get the same view and the draws depend on the generator alone, so an image descends alike
    whatever stands beside it.

    Args:
        jitter: largest cyclic shift in pixels (Mahendran & Vedaldi 2016, sec. 4.4).
        zoom: largest relative enlargement about a random point.
        colour_shift: deviation of a random gain (log-uniform) and offset per channel (Ghiasi et al. 2022, sec. 3.3;
            there for class labels at full strength, here small, because a representation knows its colours).
        generator: seeded, on the CPU.
        noise: deviation of Gaussian noise on every pixel, which may be set anew before each view.
    """

    def __init__(
        self, jitter: int, zoom: float, colour_shift: float, generator: torch.Generator, noise: float = 0.0
    ) -> None:
        self.jitter, self.zoom, self.colour_shift, self.noise = jitter, zoom, colour_shift, noise
        self.generator = generator

    @property
    def still(self) -> bool:
        """Tell whether views are the images themselves."""
        return not (self.jitter or self.zoom or self.colour_shift or self.noise)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return one random view (B, 3, H, W); values may leave [0, 1] by the colour shift and noise."""
        if self.jitter:
            dy, dx = torch.randint(-self.jitter, self.jitter + 1, (2,), generator=self.generator).tolist()
            images = images.roll((dy, dx), (2, 3))
        if self.zoom:
            images = self._zoomed(images)
        if self.colour_shift:
            draw = (2 * torch.rand(2, 1, 3, 1, 1, generator=self.generator) - 1) * self.colour_shift
            gain, offset = draw.to(images.device)
            images = images * gain.exp() + offset
        if self.noise:
            images = images + self.noise * torch.randn(1, *images.shape[1:], generator=self.generator).to(images.device)
        return images

    def _zoomed(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        share, top, left = torch.rand(3, generator=self.generator).tolist()
        factor = 1 / (1 + self.zoom * share)
        rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
        y, x = round(top * (height - rows)), round(left * (width - columns))
        part = images[..., y : y + rows, x : x + columns]
        return F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
