"""Photos at scale, as ratios in one run: ``pytest benchmarks/test_speed_photos.py -s``.

- A second start on the same photos, which decodes none, against the first.
- Photos decoded per second by the suite, by one and two threads and by two processes, against torch's ``DataLoader``
  over the same files with as many worker processes. The aim is at least 0.9 of its rate.

Seconds are those of the wall: run it on an idle machine. INVSUITE_PHOTOS sets the number of photos (5,000 by default);
they are JPEG of 640x480.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from invsuite.data import decoding, photo_files, workers
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry

COUNT = int(os.environ.get("INVSUITE_PHOTOS", "5000"))
SIZE = (224, 224)


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
    """The same photos for torch's own loader."""

    def __init__(self, folder: PhotoFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.folder.pixels(index)


@pytest.mark.parametrize(("number", "kind"), [(1, "threads"), (2, "threads"), (2, "processes")])
def test_decoding(
    benchmark: BenchmarkFixture, photos: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    monkeypatch.setattr(workers, "processors", lambda: number)
    monkeypatch.setattr(workers, "_by_processes", lambda *facts: kind == "processes")
    folder = opened(photos)
    loader = DataLoader(Loaded(folder), batch_size=64, num_workers=number)
    theirs = seconds(lambda: [len(batch) for batch in loader])
    ours = benchmark.pedantic(lambda: seconds(lambda: list(decoding._decoded(folder, range(COUNT)))), rounds=1)
    benchmark.extra_info["ratio to DataLoader"] = theirs / ours
    print(f"\n{number} {kind}: {COUNT / ours:.0f} photos/s, DataLoader {COUNT / theirs:.0f}: {theirs / ours:.2f} of it")
