"""Data of your own: `invsuite bench --plugin dataset.py`, with kind = "noise" in [data.fit] of the suite file."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from invsuite import Dataset, Resampling, Sample, Source, register


@dataclass(frozen=True)
class Noise(Dataset):
    seed: int
    count: int
    size: tuple[int, int]
    name = "noise"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:  # image (3, H, W) in [0, 1]; instances where masks are known
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1000 * self.seed + index))
        return Sample(self.identity(index), F.interpolate(coarse, self.size, mode="bilinear")[0])

    def identity(self, index: int) -> str:  # tells this image's content from every other's
        return f"noise-{self.seed}-{index}"

    def digest(self) -> str:  # covers all that changes a pixel
        return repr(self)


@register.dataset("noise")
@dataclass(frozen=True)
class NoiseSource(Source):
    seed: int  # fields are keys in the suite file
    count: int

    def open(self, size: tuple[int, int], resampling: Resampling) -> Dataset:
        return Noise(self.seed, self.count, size)  # size is (H, W); resampling is how the model wants photos resized
