"""Photos at scale, as ratios in one run: ``pytest benchmarks/test_speed_photos.py -s``.

- A second start on the same photos, which decodes none, against the first.
- Photos decoded per second by the suite, by one and two threads and by two processes, against torch's ``DataLoader``
  over the same files with as many worker processes. The aim is at least 0.9 of its rate.
- Random resized crops of photos per second, decoded anew, against whole photos that are kept decoded, and against
  torch's ``DataLoader`` with torchvision's ``RandomResizedCrop`` over the same files.

Seconds are those of the wall: run it on an idle machine. INVSUITE_PHOTOS sets the number of photos (5,000 by default);
they are JPEG of 640x480.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from invsuite.data import decoding, photo_files, workers
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry
from invsuite.data.split import Split
from invsuite.methods.training.draws import draws, loaded

COUNT = int(os.environ.get("INVSUITE_PHOTOS", "5000"))
SIZE = (224, 224)
BATCH = 64
CROP = 0.25  # of a photo's area, at least


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of smooth colours and some noise, as large as those of COCO."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = generator.integers(0, 256, (12, 16, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (smooth + generator.integers(-12, 13, smooth.shape, np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:06d}.jpg", quality=90)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVSUITE_CACHE", str(tmp_path / "cache"))


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def opened(photos: Path) -> PhotoFolder:
    """Open the photos as a new process does."""
    photo_files._looked_at.clear()
    return PhotoFolder(photos, Geometry(SIZE))


def test_a_second_start(benchmark: BenchmarkFixture, photos: Path) -> None:
    def start() -> None:
        folder = opened(photos)
        decoding.decode(folder, range(len(folder)), folder.digest())

    first = seconds(start)
    second = benchmark.pedantic(lambda: seconds(start), rounds=1)
    benchmark.extra_info["ratio to the first"] = second / first
    print(f"\n{COUNT} photos: first start {first:.1f} s, second {second:.2f} s ({second / first:.3f} of it)")


class Loaded(TorchDataset[torch.Tensor]):
    """The same photos for torch's own loader.

    Args:
        folder: of the photos.
        crop: torchvision's, in place of the model's own preprocessing.
    """

    def __init__(self, folder: PhotoFolder, crop: v2.RandomResizedCrop | None = None) -> None:
        self.folder, self.crop = folder, crop

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.crop is None:
            return self.folder.pixels(index)
        return v2.functional.pil_to_tensor(self.crop(self.folder.photo(index)))


@pytest.fixture(params=[(1, "threads"), (2, "threads"), (2, "processes")], ids=lambda param: f"{param[0]}-{param[1]}")
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """How many threads or processes decode, and which of the two."""
    number, kind = request.param
    monkeypatch.setattr(workers, "processors", lambda: number)
    monkeypatch.setattr(workers, "_by_processes", lambda *facts: kind == "processes")
    return number, kind


def test_decoding(benchmark: BenchmarkFixture, photos: Path, decoders: tuple[int, str]) -> None:
    number, kind = decoders
    folder = opened(photos)
    loader = DataLoader(Loaded(folder), batch_size=BATCH, num_workers=number)
    theirs = seconds(lambda: [len(batch) for batch in loader])
    ours = benchmark.pedantic(lambda: seconds(lambda: list(decoding._decoded(folder, range(COUNT)))), rounds=1)
    benchmark.extra_info["ratio to DataLoader"] = theirs / ours
    print(f"\n{number} {kind}: {COUNT / ours:.0f} photos/s, DataLoader {COUNT / theirs:.0f}: {theirs / ours:.2f} of it")


def test_random_crops(benchmark: BenchmarkFixture, photos: Path, decoders: tuple[int, str]) -> None:
    (number, kind), cpu = decoders, torch.device("cpu")
    folder = opened(photos)
    split = Split(folder, tuple(range(COUNT)))
    split.prepare()

    def batches(crop: float) -> int:
        drawn = islice(draws(split, BATCH, seed=0, flip=True, crop=crop), COUNT // BATCH)
        return sum(len(load()) for _, load in loaded(split, drawn, cpu, COUNT))

    loader = DataLoader(
        Loaded(folder, v2.RandomResizedCrop(SIZE, scale=(CROP, 1), interpolation=v2.InterpolationMode.BICUBIC)),
        batch_size=BATCH,
        num_workers=number,
    )
    theirs = COUNT / seconds(lambda: [len(batch) for batch in loader])
    images = COUNT // BATCH * BATCH
    kept = images / seconds(lambda: batches(1.0))
    ours = images / benchmark.pedantic(lambda: seconds(lambda: batches(CROP)), rounds=1)
    benchmark.extra_info |= {"ratio to DataLoader": ours / theirs, "ratio to kept photos": ours / kept}
    told = f"{number} {kind}: {ours:.0f} random crops/s, DataLoader {theirs:.0f} ({ours / theirs:.2f} of it)"
    print(f"\n{told}, whole photos that are kept {kept:.0f}")
