"""The frozen model's representations of fit images, computed once and kept where that is faster.

Every trained method asks for batches of fit images, some of them mirrored, in an order of its own. The first batches
are computed as they are drawn and timed; then a policy decides from the measured rate whether representations are kept
in memory, in files, or computed at every use (`FeatureCache.decide`). What is kept serves all methods fitted on the
same model, and each is charged what its images cost to compute, whoever computed them.

The frozen forward always runs on whole batches of one size, looking ahead in the order where some images of a batch
are there already, so that on a CPU the policy never changes a value: an image's representation depends there on the
size of its batch at most, not on its neighbours (tested).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from invsuite._system.replay import Replay
from invsuite._system.spill import SpilledTensor, TensorLike, disk_budget, memory_budget
from invsuite._system.validation import convert
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.methods.training.draws import Draw, Loaded, batch_images, loaded
from invsuite.models.base import Model

CachePolicy = Literal["auto", "memory", "disk", "off"]
TIMED_BATCHES = 2  # computed before deciding; the fastest one counts, the first warms up
REPLAYED_BATCHES = 5  # the same where the forward is captured: the fourth is the first that is replayed
LOOK_AHEAD = 64  # batches of the order that may be looked at to fill one forward pass
#: bytes per second that representations are reckoned to be written or read at; a wrong one costs time, no value
BYTES_PER_SECOND = {"memory": 2**31, "disk": 2**28}

Log = Callable[[str], None]


def expected_distinct(draws: float, items: int) -> float:
    """Return how many of ``items`` equally likely images are expected among so many ``draws``."""
    return items * (1 - (1 - 1 / items) ** draws) if items else 0.0


@dataclass
class FeatureCache:
    """The kept representations of one split by one model.

    Args:
        policy: ``auto`` decides from the measured rate of the forward pass; ``memory``, ``disk`` and ``off`` are
            orders.
        users: how many fits will ask for about as many images as the first.
        log: a function that is called with the decision in words.

    Attributes:
        place: "memory", "disk" or "off" once it is decided, else None.
        selection: the selection images' representations, kept for all evaluations.

    Raises:
        UsageError: for another policy.
    """

    policy: CachePolicy = "auto"
    users: int = 1
    log: Log = lambda text: None
    place: str | None = None
    selection: SelectionFeatures | None = None
    forward_seconds: float = 0.0
    forward_images: int = 0
    _tensors: dict[str, TensorLike] = field(default_factory=dict)
    _there: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        convert(self.policy, CachePolicy, "cache policy")

    @property
    def keeps(self) -> bool:
        """Tell whether representations are kept from now on."""
        return self.place in ("memory", "disk")

    @property
    def seconds_per_image(self) -> float:
        """Return the mean measured cost of the frozen forward."""
        return self.forward_seconds / max(1, self.forward_images)

    def missing(self, items: Sequence[int], stages: Sequence[str]) -> list[int]:
        """Return those ``items`` that lack one of ``stages``, without repeats."""
        if not all(stage in self._there for stage in stages):
            return list(dict.fromkeys(items))
        return [i for i in dict.fromkeys(items) if not all(bool(self._there[s][i]) for s in stages)]

    def keep(self, items: Sequence[int], tensors: dict[str, torch.Tensor], count: int) -> None:
        """Keep representations of ``items`` out of ``count`` that the split can give."""
        for stage, tensor in tensors.items():
            if stage not in self._tensors:
                shape = (count, *tensor.shape[1:])
                self._tensors[stage] = SpilledTensor(shape) if self.place == "disk" else torch.empty(shape)
                self._there[stage] = torch.zeros(count, dtype=torch.bool)
            self._tensors[stage][items] = tensor.cpu()
            self._there[stage][items] = True

    def read(self, items: Sequence[int], stages: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Return kept representations of ``items`` on ``device``."""
        return {stage: self._tensors[stage][items].to(device, non_blocking=True) for stage in stages}

    def close(self) -> None:
        """Forget everything, which removes the files."""
        self._tensors.clear()
        self._there.clear()
        self.selection = None

    def decide(
        self, sample: dict[str, torch.Tensor], forward: float, draws: float, items: int, repeats: float = 0.0
    ) -> None:
        """Choose where to keep representations, or not to, and log why.

        Args:
            sample: the representations of one batch.
            forward: seconds per image that they took.
            draws: how many images one user will ask for.
            items: how many different ones there are, mirrored ones too.
            repeats: how many of the draws certainly ask for an image a second time.
        """
        per_image = sum(tensor[0].numel() * tensor.element_size() for tensor in sample.values())
        size = per_image * items
        reason = (
            f"{size / 2**30:.2f} GiB for {items} images and mirrored ones, forward {1e3 * forward:.2f} ms per image"
        )
        if self.policy != "auto":
            self.place, reason = self.policy, f"as ordered; {reason}"
        elif size > (memory := memory_budget()) and size > disk_budget():
            self.place, reason = "off", f"too large for memory and disk; {reason}"
        else:
            self.place = "memory" if size <= memory else "disk"
            move = per_image / BYTES_PER_SECOND[self.place]
            draws *= self.users
            distinct = expected_distinct(draws - repeats * self.users, items)
            saved = (draws - distinct) * (forward - move) - distinct * move
            reason += f"; {draws:.0f} images drawn, {distinct:.0f} different: {self.place} saves about {saved:.0f} s"
            self.place = self.place if saved > 0 else "off"
        self.log(f"representations are kept in: {self.place} ({reason})")


class FeatureStream:
    """Batches of fit images with the representations of ``stages``, from a cache where it holds them.

    Args:
        model: frozen.
        split: the fit images.
        stages: whose tensors the batches hold.
        batch: images per batch; the frozen forward always runs on as many.
        cache: shared with other fits on the same model and split.
        expected: how many images will be drawn, as far as is known.
        charged: numbers of the images that the fit has computed or been charged for already; they are added to.
        repeats: how many of the draws certainly ask for an image a second time.
        graphs: whether a GPU may repeat the forward as a captured graph; tensors of a batch then last until the next.

    Raises:
        UsageError: for a batch of no images.
    """

    def __init__(
        self,
        model: Model,
        split: Split,
        stages: Sequence[str],
        batch: int,
        cache: FeatureCache,
        expected: float,
        charged: set[int] | None = None,
        repeats: float = 0.0,
        graphs: bool = False,
    ) -> None:
        if batch < 1:
            raise UsageError(f"a batch of {batch} images")
        self.model, self.split, self.stages, self.batch = model, split, tuple(stages), batch
        self.cache, self.expected, self.repeats = cache, expected, repeats
        self.borrowed = 0
        self._own = set() if charged is None else charged
        self._timed: list[float] = []
        self._items = 2 * len(split)
        self._forward = Replay(self._represent, model.device, graphs)

    @property
    def borrowed_seconds(self) -> float:
        """Return what the images that an earlier fit computed would have cost this one."""
        return self.borrowed * self.cache.seconds_per_image

    def batches(self, draws: Iterator[Draw]) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Yield images (B, 3, H, W) on the model's device and every stage's tensor (B, ...), one pair per draw."""
        following, ahead = loaded(self.split, draws, self.model.device, self.expected), deque[Loaded]()
        while True:
            next_one = ahead.popleft() if ahead else next(following, None)
            if next_one is None:
                return
            draw, load = next_one
            images = load()
            if draw.crops:  # no two are alike: nothing of them is worth keeping
                yield images, self._compute(images, decides=False)
                continue
            items = self._numbers(draw)
            if not self.cache.keeps:
                tensors = self._compute(images)
                if self.cache.keeps:  # it was decided just now
                    self._own |= set(items)
                    self.cache.keep(items, tensors, self._items)
                yield images, tensors
                continue
            missing = self.cache.missing(items, self.stages)
            fresh = {i for i in items if i not in self._own}
            self.borrowed += len(fresh.difference(missing))
            self._own |= fresh
            if missing == items:
                tensors = self._compute(images)
                self.cache.keep(items, tensors, self._items)
            else:
                if missing:
                    self._fill(missing, following, ahead)
                tensors = self.cache.read(items, self.stages, self.model.device)
            yield images, tensors

    def _numbers(self, draw: Draw) -> list[int]:
        """Return each image's number among all that the split can give: plain ones first, then mirrored ones."""
        return [row + len(self.split) * flipped for row, flipped in zip(draw.rows, draw.mirrored, strict=True)]

    def _fill(self, missing: list[int], following: Iterator[Loaded], ahead: deque[Loaded]) -> None:
        """Compute ``missing`` and, to fill the batch, what the draws to come lack."""
        lacking = dict.fromkeys(missing)
        for draw, _ in ahead:
            lacking |= dict.fromkeys(self.cache.missing(self._numbers(draw), self.stages))
        while len(lacking) < self.batch and len(ahead) < LOOK_AHEAD:
            further = next(following, None)
            if further is None:
                break
            ahead.append(further)
            lacking |= dict.fromkeys(self.cache.missing(self._numbers(further[0]), self.stages))
        items = list(lacking)[: self.batch]
        self._own |= set(items)
        padded = items + items[:1] * (self.batch - len(items))
        plain = len(self.split)
        images = batch_images(self.split, Draw([i % plain for i in padded], [i >= plain for i in padded]))
        tensors = self._compute(images.to(self.model.device))
        self.cache.keep(items, {s: t[: len(items)] for s, t in tensors.items()}, self._items)

    def _represent(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.model.check_frozen()
        return self.model.forward_stages(images, self.stages)

    @torch.no_grad()
    def _compute(self, images: torch.Tensor, decides: bool = True) -> dict[str, torch.Tensor]:
        """Run the frozen forward; the first ones are timed, which waits for a GPU, and then the policy is decided."""
        deciding = decides and self.cache.place is None
        if deciding and images.is_cuda:
            torch.cuda.synchronize(images.device)
        start = time.perf_counter()
        tensors = dict(zip(self.stages, self._forward(images), strict=True))
        if deciding and images.is_cuda:
            torch.cuda.synchronize(images.device)
        if deciding or not images.is_cuda:
            self.cache.forward_seconds += time.perf_counter() - start
            self.cache.forward_images += len(images)
        if deciding:
            self._timed.append((time.perf_counter() - start) / len(images))
            if len(self._timed) >= (REPLAYED_BATCHES if self._forward.captures else TIMED_BATCHES):
                self.cache.decide(tensors, min(self._timed), self.expected, self._items, self.repeats)
        return tensors


class SelectionFeatures:
    """Batches of a ``part`` of the selection images (B, 3, H, W) with the tensors of ``stages``.

    They are computed once where memory allows.
    """

    def __init__(self, model: Model, split: Split, stages: Sequence[str], batch: int, part: slice) -> None:
        self.model, self.split, self.stages, self.batch, self.part = model, split, tuple(stages), batch, part
        size = 4 * (part.stop - part.start) * sum(model.layout(s).values for s in stages)
        self.keeps = size <= memory_budget(model.device)
        self.kept: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def serves(self, model: Model, split: Split, stages: Sequence[str], batch: int, part: slice) -> bool:
        """Tell whether these are what such a request would compute."""
        mine = (self.model, self.split, self.batch, self.part)
        return mine == (model, split, batch, part) and set(stages) <= set(self.stages)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        if self.kept:
            yield from self.kept
            return
        fresh = []
        for start in range(self.part.start, self.part.stop, self.batch):
            images = self.split.images(slice(start, min(start + self.batch, self.part.stop))).to(self.model.device)
            tensors = {s: r.tensor for s, r in self.model.represent(images, self.stages).items()}
            if self.keeps:
                fresh.append((images, tensors))
            yield images, tensors
        self.kept = fresh  # only a whole pass is kept


def selection_features(
    model: Model, split: Split, stages: Sequence[str], batch: int, cache: FeatureCache | None, part: slice
) -> SelectionFeatures:
    """Return a part of the selection images' representations, from ``cache`` where it holds them, and kept there."""
    if cache is None:
        return SelectionFeatures(model, split, stages, batch, part)
    if cache.selection is None or not cache.selection.serves(model, split, stages, batch, part):
        cache.selection = SelectionFeatures(model, split, stages, batch, part)
    return cache.selection
