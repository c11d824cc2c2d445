"""Parametrisations of a batch of images for optimisation inversion: what the descent moves.

Every one of them maps its parameters to images (B, 3, H, W) in [0, 1], by a sigmoid or by clamping, never by rescaling
to the image's own range. No parameter is shared between images, so that the images of a batch descend independently.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

#: Olah et al. 2017: square root of the colour covariance of ImageNet, as published in the lucid library
COLOUR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
NOISE = 0.01  # deviation of a noisy start, in logits
MARGIN = 0.02  # a start is kept this far from black and white, where a sigmoid has no slope


class Pixels(ABC):
    """Parameters of a batch of images.

    Attributes:
        parameters: what an optimiser moves; axis 0 is the image.
    """

    parameters: list[torch.Tensor]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the images ``rows`` alone."""
        self.parameters = [parameter.detach()[rows].requires_grad_(True) for parameter in self.parameters]

    @abstractmethod
    def images(self) -> torch.Tensor:
        """Return the images (B, 3, H, W), in [0, 1] or near it, differentiable in the parameters."""

    def penalty(self) -> torch.Tensor:
        """Return what a prior on the parameters themselves adds to the objective of each image (B,); 0 without one."""
        return self.parameters[0].new_zeros(len(self.parameters[0]))

    def project(self) -> None:  # noqa: B027 - most parametrisations need none
        """Bring the parameters back to their domain after a step."""


def noise_like(shape: tuple[int, ...], count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Return the same normal noise for every image (count, *shape): a start does not depend on the batch."""
    return torch.randn(1, *shape, generator=generator).expand(count, *(-1 for _ in shape)).to(device).clone()


class SigmoidPixels(Pixels):
    """Logits of pixels; a sigmoid gives the images."""

    def __init__(self, start: torch.Tensor, noise: torch.Tensor | None) -> None:
        logits = torch.logit(start.clamp(MARGIN, 1 - MARGIN)).clone()
        self.parameters = [(logits if noise is None else logits + NOISE * noise).requires_grad_(True)]

    def images(self) -> torch.Tensor:
        """Return the sigmoid of the logits."""
        return torch.sigmoid(self.parameters[0])


class ClampedPixels(Pixels):
    """Pixels themselves, clamped to [0, 1] after each step (projected gradient)."""

    def __init__(self, start: torch.Tensor, noise: torch.Tensor | None) -> None:
        values = start.clone() if noise is None else start + NOISE * noise
        self.parameters = [values.clamp(0, 1).requires_grad_(True)]

    def images(self) -> torch.Tensor:
        """Return the pixels."""
        return self.parameters[0]

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the pixels to [0, 1]."""
        self.parameters[0].clamp_(0, 1)


class FourierPixels(Pixels):
    """Fourier coefficients scaled by 1 / frequency, in decorrelated colours, through a sigmoid.

    Olah, Mordvintsev & Schubert 2017, "Feature Visualization", sec. "Preconditioning and parameterization". The
    coefficients are of the departure from the start.

    Args:
        start: images (B, 3, H, W) in [0, 1].
        noise: added to the coefficients.
        decay: power of the frequency by which coefficients are divided.
    """

    def __init__(self, start: torch.Tensor, noise: torch.Tensor | None, decay: float = 1.0) -> None:
        count, _, self.height, self.width = start.shape
        self.base = torch.logit(start.clamp(MARGIN, 1 - MARGIN))
        rows = torch.fft.fftfreq(self.height, device=start.device)[:, None]
        columns = torch.fft.rfftfreq(self.width, device=start.device)[None]
        frequency = (rows.square() + columns.square()).sqrt()
        scale = frequency.clamp(min=1 / max(self.height, self.width)) ** -decay
        self.scale = (scale / scale.square().mean().sqrt())[..., None]
        root = torch.tensor(COLOUR_ROOT, device=start.device)
        self.colours = root / root.norm(dim=0).max()
        shape = (count, 3, self.height, self.width // 2 + 1, 2)
        values = torch.zeros(shape, device=start.device) if noise is None else NOISE * noise
        self.parameters = [values.clone().requires_grad_(True)]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the images ``rows`` alone."""
        super().keep(rows)
        self.base = self.base[rows]

    @staticmethod
    def noise_shape(size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the noise of one image of ``size`` (H, W)."""
        return (3, size[0], size[1] // 2 + 1, 2)

    def images(self) -> torch.Tensor:
        """Return the images of the spectrum, through a sigmoid."""
        spectrum = torch.view_as_complex((self.parameters[0] * self.scale).contiguous())
        waves = torch.fft.irfft2(spectrum, s=(self.height, self.width), norm="ortho")
        return torch.sigmoid(self.base + torch.einsum("kc,bchw->bkhw", self.colours, waves))


class Hourglass(nn.Module):
    """A small encoder-decoder without skips for deep image prior: strided convolutions down, bilinear up.

    Ulyanov, Vedaldi & Lempitsky 2018 (arXiv 1711.10925), sec. 2, with fewer channels; normalisation is per image.

    Args:
        width: channels of every layer.
        depth: how often the resolution is halved.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.down_norm = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
        self.up_norm = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
        self.leave = nn.Conv2d(width, 3, 1)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) in [0, 1] from noise (B, width, H, W)."""
        sizes, x = [], code
        for convolution, norm in zip(self.down, self.down_norm, strict=True):
            sizes.append((x.shape[-2], x.shape[-1]))
            x = F.leaky_relu(norm(convolution(x)), 0.2)
        for convolution, norm, size in zip(self.up, self.up_norm, reversed(sizes), strict=True):
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
            x = F.leaky_relu(norm(convolution(x)), 0.2)
        return torch.sigmoid(self.leave(x))


class ImagePrior(Pixels):
    """Deep image prior: each image is the output of its own hourglass network for a fixed noise input.

    The networks of a batch have separate weights, stacked and run together (`torch.func.vmap`); all begin with the
    same weights and the same input.

    Args:
        count: number of images.
        size: (H, W).
        width: channels of each network.
        depth: how often each halves the resolution.
        generator: seeded, on the CPU.
        device: where the networks run.
    """

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        width: int,
        depth: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Hourglass(width, depth).to(device)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.code = 0.1 * torch.rand(1, width, *size, generator=generator).to(device)
        self.parameters = [
            value.detach().expand(count, *value.shape).clone().requires_grad_(True)
            for value in self.network.parameters()
        ]

    def images(self) -> torch.Tensor:
        """Return the output of every image's own network."""

        def output(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            batch: torch.Tensor = torch.func.functional_call(self.network, weights, (self.code,))
            return batch[0]

        images: torch.Tensor = torch.func.vmap(output)(dict(zip(self.names, self.parameters, strict=True)))
        return images
