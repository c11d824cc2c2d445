"""The frozen model's representations of fit images, computed once and kept where that is faster.

Every trained method asks for batches of fit images, some of them mirrored, in an order of its own. The first batches
are computed as asked and timed; then a policy decides from the measured rates whether representations are kept in
memory, in memory-mapped files, or computed at every use (`Policy`). What is kept serves all methods fitted on the same
model, and each is charged what its images cost to compute, whoever computed them.

The frozen forward always runs on whole batches of one size, looking ahead in the order where some images of a batch
are there already, so that on a CPU the policy never changes a value: an image's representation depends there on the
size of its batch at most, not on its neighbours (tested).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from invsuite._system.spill import disk_room
from invsuite.data.split import Split
from invsuite.errors import UsageError, unknown_name
from invsuite.models.base import Model

POLICIES = ("auto", "memory", "disk", "off")
TIMED_BATCHES = 2  # computed before deciding; the faster one counts, the first warms up
LOOK_AHEAD = 64  # batches of the order that may be looked at to fill one forward pass
MEMORY_SHARE = 0.4  # of the memory that is free

#: fit images of one batch: rows, and which of them are mirrored
Draw = tuple[list[int], list[bool]]
Log = Callable[[str], None]


def batch_images(split: Split, draw: Draw) -> torch.Tensor:
    """The images (B, 3, H, W) of a draw."""
    rows, mirrored = draw
    images = split.images(rows)
    flip = torch.tensor(mirrored)
    if flip.any():
        images[flip] = images[flip].flip(-1)
    return images


@dataclass(frozen=True)
class Rates:
    """Measured seconds an image: the frozen forward, and writing and reading its representations in a place."""

    forward: float
    write: float
    read: float

    def saved(self, asked: float, distinct: float) -> float:
        """Seconds that keeping saves where ``asked`` images are wanted, ``distinct`` of them different."""
        return (asked - distinct) * (self.forward - self.read) - distinct * self.write


@dataclass
class Policy:
    """What was decided, and why: ``kept`` is "memory", "disk" or "off"."""

    kept: str
    reason: str


def expected_distinct(asked: float, items: int) -> float:
    """How many of ``items`` equally likely images are expected among ``asked``."""
    return items * (1 - (1 - 1 / items) ** asked) if items else 0.0


@dataclass
class FeatureCache:
    """What is kept of one model's representations of one split.

    Args:
        policy: ``auto`` decides from measured rates; ``memory``, ``disk`` and ``off`` are orders.
        users: how many fits will ask for about as many images as the first.
        folder: where files go; a temporary folder by default. They are removed by `close`.
        log: told the decision.
        selection: the selection images' representations, kept for all evaluations.

    Raises:
        UsageError: for another policy.
    """

    policy: str = "auto"
    users: int = 1
    folder: Path | None = None
    log: Log = lambda text: None
    decided: Policy | None = None
    selection: SelectionFeatures | None = None
    forward_seconds: float = 0.0
    forward_images: int = 0
    _tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _there: dict[str, torch.Tensor] = field(default_factory=dict)
    _files: Path | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise unknown_name("cache policy", self.policy, POLICIES)

    @property
    def seconds_an_image(self) -> float:
        """Mean measured cost of the frozen forward."""
        return self.forward_seconds / max(1, self.forward_images)

    def missing(self, items: Sequence[int], stages: Sequence[str]) -> list[int]:
        """Those ``items`` that lack one of ``stages``, without repeats."""
        if not all(stage in self._there for stage in stages):
            return list(dict.fromkeys(items))
        return [i for i in dict.fromkeys(items) if not all(bool(self._there[s][i]) for s in stages)]

    def keep(self, items: Sequence[int], found: dict[str, torch.Tensor], count: int) -> None:
        """Keep representations of ``items`` out of ``count`` that the split can give."""
        rows = torch.tensor(items)
        for stage, tensor in found.items():
            if stage not in self._tensors:
                self._tensors[stage] = self._room(stage, (count, *tensor.shape[1:]))
                self._there[stage] = torch.zeros(count, dtype=torch.bool)
            self._tensors[stage][rows] = tensor.cpu()
            self._there[stage][rows] = True

    def read(self, items: Sequence[int], stages: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Kept representations of ``items`` on ``device``."""
        rows = torch.tensor(items)
        return {stage: self._tensors[stage][rows].to(device, non_blocking=True) for stage in stages}

    def close(self) -> None:
        """Forget everything and remove the files."""
        self._tensors.clear()
        self._there.clear()
        self.selection = None
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)
            self._files = None

    def _room(self, stage: str, shape: tuple[int, ...]) -> torch.Tensor:
        if self.decided is None or self.decided.kept != "disk":
            return torch.empty(shape)
        if self._files is None:
            self._files = Path(tempfile.mkdtemp(prefix="invsuite-features-", dir=self.folder))
        size = torch.Size(shape).numel()
        path = self._files / f"{len(self._tensors)}.float32"
        return torch.from_file(str(path), shared=True, size=size, dtype=torch.float32).view(shape)

    def decide(
        self, sample: dict[str, torch.Tensor], forward: float, asked: float, items: int, repeats: float = 0.0
    ) -> None:
        """Choose a place from the representations of one batch, its forward seconds an image and how many images will
        be asked for, ``repeats`` of them certainly a second time."""
        batch = len(next(iter(sample.values())))
        size = sum(t.numel() // len(t) for t in sample.values()) * 4 * items
        told = f"{size / 2**30:.2f} GiB for {items} images and mirrored ones, forward {1e3 * forward:.2f} ms an image"
        if self.policy in ("memory", "disk", "off"):
            self.decided = Policy(self.policy, f"as ordered; {told}")
            return
        asked *= self.users
        distinct = expected_distinct(asked - repeats * self.users, items)
        room = MEMORY_SHARE * psutil.virtual_memory().available
        place = "memory" if size <= room else "disk"
        if place == "disk" and size > disk_room(self.folder):
            self.decided = Policy("off", f"too large for memory and disk; {told}")
            return
        rates = self._measured(sample, batch, forward, place)
        saved = rates.saved(asked, distinct)
        told += (
            f", {place} writes {1e3 * rates.write:.2f} ms and reads {1e3 * rates.read:.2f} ms an image; "
            f"{asked:.0f} images wanted, {distinct:.0f} different: saves about {saved:.0f} s"
        )
        self.decided = Policy(place if saved > 0 else "off", told)

    def _measured(self, sample: dict[str, torch.Tensor], batch: int, forward: float, place: str) -> Rates:
        tensors = [t.cpu() for t in sample.values()]
        if place == "memory":
            start = time.perf_counter()
            kept = [t.clone() for t in tensors]
            written = time.perf_counter()
            rows = torch.arange(batch - 1, -1, -1)
            for tensor in kept:
                tensor[rows]
            return Rates(forward, (written - start) / batch, (time.perf_counter() - written) / batch)
        with tempfile.NamedTemporaryFile(prefix="invsuite-rate-", dir=self.folder) as file:
            start = time.perf_counter()
            for tensor in tensors:
                file.write(tensor.contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter()
            if hasattr(os, "posix_fadvise"):  # read from the disk itself, not from the copy in memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            file.read()
            return Rates(forward, (written - start) / batch, (time.perf_counter() - written) / batch)


class FeatureStream:
    """Batches of fit images with the representations of ``stages``, from a cache where it holds them.

    Args:
        model: frozen.
        split: the fit images.
        stages: whose tensors are wanted.
        batch: images a batch; the frozen forward always runs on as many.
        cache: shared with other fits on the same model and split.
        asked: how many images will be asked for, as far as is known.
        charged: numbers of the images that the fit has computed or been charged for already; they are added to.
        repeats: how many of the images asked for are certainly asked for a second time.
    """

    def __init__(
        self,
        model: Model,
        split: Split,
        stages: Sequence[str],
        batch: int,
        cache: FeatureCache,
        asked: float,
        charged: set[int] | None = None,
        repeats: float = 0.0,
    ) -> None:
        if batch < 1:
            raise UsageError(f"a batch of {batch} images")
        self.model, self.split, self.stages, self.batch = model, split, tuple(stages), batch
        self.cache, self.asked, self.repeats = cache, asked, repeats
        self.borrowed = 0
        self._own = set() if charged is None else charged
        self._timed: list[float] = []
        self._items = 2 * len(split)

    @property
    def borrowed_seconds(self) -> float:
        """What the images that an earlier fit computed would have cost this one."""
        return self.borrowed * self.cache.seconds_an_image

    def batches(self, draws: Iterator[Draw]) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Images (B, 3, H, W) on the model's device and every stage's tensor (B, ...), one pair a draw."""
        ahead: deque[Draw] = deque()
        while True:
            draw = ahead.popleft() if ahead else next(draws, None)
            if draw is None:
                return
            images = batch_images(self.split, draw).to(self.model.device, non_blocking=True)
            items = self._numbers(draw)
            if self.cache.decided is None or self.cache.decided.kept == "off":
                found = self._compute(images)
                if self.cache.decided is not None and self.cache.decided.kept != "off":  # just now
                    self._own |= set(items)
                    self.cache.keep(items, found, self._items)
                yield images, found
                continue
            missing = self.cache.missing(items, self.stages)
            fresh = {i for i in items if i not in self._own}
            self.borrowed += len(fresh.difference(missing))
            self._own |= fresh
            if missing == items:
                found = self._compute(images)
                self.cache.keep(items, found, self._items)
            else:
                if missing:
                    self._fill(missing, draws, ahead)
                found = self.cache.read(items, self.stages, self.model.device)
            yield images, found

    def _numbers(self, draw: Draw) -> list[int]:
        """Each image's number among all that the split can give: plain ones first, then mirrored ones."""
        return [row + len(self.split) * flipped for row, flipped in zip(*draw, strict=True)]

    def _fill(self, missing: list[int], draws: Iterator[Draw], ahead: deque[Draw]) -> None:
        """Compute ``missing`` and, to fill the batch, what the draws to come lack."""
        wanted = dict.fromkeys(missing)
        for draw in ahead:
            wanted |= dict.fromkeys(self.cache.missing(self._numbers(draw), self.stages))
        while len(wanted) < self.batch and len(ahead) < LOOK_AHEAD:
            further = next(draws, None)
            if further is None:
                break
            ahead.append(further)
            wanted |= dict.fromkeys(self.cache.missing(self._numbers(further), self.stages))
        items = list(wanted)[: self.batch]
        self._own |= set(items)
        padded = items + items[:1] * (self.batch - len(items))
        plain = len(self.split)
        images = batch_images(self.split, ([i % plain for i in padded], [i >= plain for i in padded]))
        found = self._compute(images.to(self.model.device))
        self.cache.keep(items, {s: t[: len(items)] for s, t in found.items()}, self._items)

    @torch.no_grad()
    def _compute(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The frozen forward; the first ones are timed, which waits for a GPU, and then the policy is decided."""
        deciding = self.cache.decided is None
        start = time.perf_counter()
        found = {s: r.tensor for s, r in self.model.represent(images, self.stages).items()}
        if deciding and images.is_cuda:
            torch.cuda.synchronize()
        if deciding or not images.is_cuda:
            self.cache.forward_seconds += time.perf_counter() - start
            self.cache.forward_images += len(images)
        if deciding:
            self._timed.append((time.perf_counter() - start) / len(images))
            if len(self._timed) >= TIMED_BATCHES:
                self.cache.decide(found, min(self._timed), self.asked, self._items, self.repeats)
                assert self.cache.decided is not None
                self.cache.log(f"representations are kept in: {self.cache.decided.kept} ({self.cache.decided.reason})")
        return found


class SelectionFeatures:
    """Batches of selection images (B, 3, H, W) with the tensors of ``stages``, computed once where they fit `LIMIT`."""

    LIMIT = 2 * 2**30  # bytes

    def __init__(self, model: Model, split: Split, stages: Sequence[str], batch: int) -> None:
        self.model, self.split, self.stages, self.batch = model, split, tuple(stages), batch
        size = 4 * len(split) * sum(model.layout(s).values for s in stages)
        self.keeps = size <= self.LIMIT
        self.kept: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def serves(self, model: Model, split: Split, stages: Sequence[str], batch: int) -> bool:
        """Whether these are what such a request would compute."""
        mine = (self.model, self.split, self.batch)
        return mine == (model, split, batch) and set(stages) <= set(self.stages)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        if self.kept:
            yield from self.kept
            return
        fresh = []
        for images in self.split.batches(self.batch):
            images = images.to(self.model.device)
            found = {s: r.tensor for s, r in self.model.represent(images, self.stages).items()}
            if self.keeps:
                fresh.append((images, found))
            yield images, found
        self.kept = fresh  # only a whole pass is kept


def selection_features(
    model: Model, split: Split, stages: Sequence[str], batch: int, cache: FeatureCache | None
) -> SelectionFeatures:
    """The selection images' representations, from ``cache`` where it holds them, and kept there."""
    if cache is None:
        return SelectionFeatures(model, split, stages, batch)
    if cache.selection is None or not cache.selection.serves(model, split, stages, batch):
        cache.selection = SelectionFeatures(model, split, stages, batch)
    return cache.selection
