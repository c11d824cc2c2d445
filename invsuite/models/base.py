"""The chain that every method works on: a frozen model as components with named stages between them.

    image --embed--> tokens --block01--> tokens ... --head--> predictions

A *stage* is the place behind a component; its *representation* is what the model holds there. Components take and
give plain tensors; `Layout` says what a tensor's axes mean. Images enter in [0, 1]: normalisation is inside the
first component and comes from the checkpoint's own configuration.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from invsuite._system.flops import count_flops
from invsuite.data.base import check_images
from invsuite.data.geometry import BICUBIC, Resampling
from invsuite.errors import DataError, NotApplicable, UsageError, unknown_name
from invsuite.models.randomise import randomise
from invsuite.models.stage_words import RANGE, Words, is_joined

if TYPE_CHECKING:
    from invsuite.models.joined import Joined

LayoutKind = Literal["map", "tokens", "queries", "predictions"]
TaskKind = Literal["classification", "detection", "embedding"]

EVERY = "every"  # the word for all stages of a model
IMAGE = "image"  # what a component reads that starts from the images again
#: what names of stages are made of where a person chooses them
STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
#: mean and deviation of a model that is fed with images in [0, 1] as they are
UNNORMALISED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Layout:
    """The meaning of a representation's axes.

    ============  =====================  ==================================================
    kind          tensor shape           meaning
    ============  =====================  ==================================================
    map           (B, channels, h, w)    a feature map (an RGB image is one)
    tokens        (B, count, channels)   ``prefix`` tokens without a place (class, registers),
                                         then h * w tokens in row-major order
    queries       (B, count, channels)   object queries, no spatial order; a pooled embedding is one
    predictions   (B, count, channels)   class logits and then, where ``boxes`` is 4, a box
                                         (cx, cy, w, h) per query; an image classifier has one
    ============  =====================  ==================================================

    ``repeats`` of a map's values only repeat others: the coarse levels of a pyramid stand on the grid of the finest
    (`invsuite.models.pyramid`).

    Examples:
        >>> tokens = Layout("tokens", channels=96, grid=(12, 12), count=145, prefix=1)
        >>> tokens.shape, tokens.values, tokens.spatial
        ((145, 96), 13920, True)
    """

    kind: LayoutKind
    channels: int
    grid: tuple[int, int] | None = None
    count: int = 0
    prefix: int = 0
    boxes: int = 0
    repeats: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of its tensor without the batch axis."""
        if self.kind == "map":
            assert self.grid is not None
            return (self.channels, *self.grid)
        return (self.count, self.channels)

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """Return the shape of one value per channel that broadcasts against a tensor of this layout."""
        return (self.channels, 1, 1) if self.kind == "map" else (1, self.channels)

    @property
    def pooled_axes(self) -> tuple[int, ...]:
        """Return the axes of a batch that what is measured of a channel goes over: images and places."""
        return (0, 2, 3) if self.kind == "map" else (0, 1)

    @property
    def values(self) -> int:
        """Return how many numbers the representation of one image has."""
        total = 1
        for length in self.shape:
            total *= length
        return total

    @property
    def distinct(self) -> int:
        """Return how many of the values do not repeat another."""
        return self.values - self.repeats

    @property
    def spatial(self) -> bool:
        """Tell whether values have a place in the image (maps, tokens)."""
        return self.grid is not None

    def to_map(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the spatial part of ``tensor`` as a map (B, channels, h, w); prefix tokens are left out.

        Raises:
            DataError: for layouts without a grid.
        """
        if self.grid is None:
            raise DataError(f"a {self.kind} representation has no spatial grid")
        if self.kind == "map":
            return tensor
        return tensor[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


def image_layout(size: tuple[int, int]) -> Layout:
    """Return the layout of RGB images of ``size`` (H, W)."""
    return Layout("map", 3, size)


@dataclass(frozen=True)
class Representation:
    """A model's values for a batch of images at one stage: a tensor with a batch axis.

    Attributes:
        tensor: (B, ...).
        layout: what the axes after the first mean.
        stage: of the model.

    Raises:
        DataError: if the tensor's shape is not the layout's.

    Examples:
        >>> queries = Representation(torch.zeros(8, 12, 128), Layout("queries", 128, count=12), "decoder")
        >>> len(queries), queries[:2].tensor.shape
        (8, torch.Size([2, 12, 128]))
    """

    tensor: torch.Tensor
    layout: Layout
    stage: str

    def __post_init__(self) -> None:
        if tuple(self.tensor.shape[1:]) != self.layout.shape:
            raise DataError(f"representation {tuple(self.tensor.shape)} does not fit layout {self.layout}")

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, rows: slice) -> Representation:
        return Representation(self.tensor[rows], self.layout, self.stage)


@dataclass(frozen=True)
class Component:
    """One part of the chain, which maps the tensor of the stage before to that of its own stage.

    Attributes:
        stage: the name of the place behind it.
        module: a module of one tensor.
        layout: of the representation at ``stage``.
        blocks: how many transformer blocks it has, so that an inverse can mirror them: 0 for an embedding, a CNN or a
            head.
        reads: an earlier stage (``"image"``: the images) where the stage before alone does not determine this one: a
            decoder layer also looks at the encoder's memory, so that its stage is run from ``encoder``.

    Examples:
        >>> Component("embed", nn.Conv2d(3, 48, 8, stride=8), Layout("map", channels=48, grid=(12, 12))).layout.values
        6912
    """

    stage: str
    module: nn.Module
    layout: Layout
    blocks: int = 0
    reads: str | None = None


@dataclass(frozen=True)
class Prediction:
    """A model's answer for images.

    Attributes:
        logits: of classes (B, classes), a detector's per query (B, queries, classes).
        boxes: of a detector, (B, queries, 4) as (cx, cy, w, h) in [0, 1].
        no_object: whether a detector's last class is "no object"; else its classes are independent, each with the
            sigmoid of its logit (Deformable DETR, RT-DETR, D-FINE).

    Examples:
        >>> Prediction(torch.tensor([[0.1, 2.0, -1.0]])).logits.argmax(1)
        tensor([1])
    """

    logits: torch.Tensor
    boxes: torch.Tensor | None = None
    no_object: bool = True


@dataclass(frozen=True)
class WeightsOrigin:
    """The origin of weights, for every record of the model.

    Attributes:
        source: where they come from, as a person would name it.
        sha256: of their file.
        licence: of their file.
        normalisation: (mean, std) per channel as the checkpoint's own configuration says, for images in [0, 1]; None
            where it says nothing. The chain is held against it before a run (`invsuite.models.checks`).
        random: whether nobody trained them.

    Examples:
        >>> WeightsOrigin("timm vit_tiny_patch16_224", "5d0c...", "apache-2.0").random
        False
    """

    source: str
    sha256: str
    licence: str = "unknown"
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    random: bool = False


def random_origin(seed: int, of: WeightsOrigin, digest: str) -> WeightsOrigin:
    """Return the origin of random weights in the place of those ``of`` a model, whose fingerprint is ``digest``."""
    return WeightsOrigin(
        f"random weights, seed {seed} (architecture of {of.source})", digest, of.licence, of.normalisation, random=True
    )


def means_stage(word: str, stage: str) -> bool:
    """Tell whether ``word``, as a person types it, means ``stage``.

    A word is the stage's name or a shell pattern of it, its name with other zeros (``block3`` for ``block03``), its
    number (``3``; ``0`` is the embedding), or ``every``. Several stages read together are meant by words for each of
    them, in any order: ``6+3`` is ``block03+block06``.
    """
    if word == EVERY or fnmatchcase(stage, word):
        return True
    if is_joined(word) or is_joined(stage):
        return is_joined(word) and is_joined(stage) and _mean_the_same(Words.of(word), Words.of(stage))
    if word.isdigit():
        number = re.search(r"\d+$", stage)
        return int(word) == (int(number[0]) if number else 0 if stage == "embed" else -1)
    word, stage = (re.sub(r"(?<!\d)0+(?=\d)", "", name) for name in (word, stage))
    return word == stage


def _mean_the_same(words: Words, others: Words) -> bool:
    """Tell whether each item of ``words`` means one of ``others``, all of which are meant."""

    def alike(item: tuple[str, ...], other: tuple[str, ...]) -> bool:
        return len(item) == len(other) and all(map(means_stage, item, other))

    return (
        words.summed == others.summed
        and len(words.items) == len(others.items)
        and all(any(alike(item, other) for other in others.items) for item in words.items)
        and all(any(alike(item, other) for item in words.items) for other in others.items)
    )


class Model:
    """A frozen vision model as a chain of components.

    Args:
        name: what tables call it.
        network: the library's own module, put in eval mode and frozen here.
        components: the chain, in order; running all of them equals the network's own forward.
        image_size: (H, W) the checkpoint expects.
        task: what the last component predicts.
        origin: provenance of the weights.
        split: a function that turns the last component's tensor into a `Prediction`.
        reference: the network's own forward on images in [0, 1], for the test that the chain equals it.
        rebuild: a function that returns the same chain over another instance of the network; without it the model
            cannot be randomised.
        classes: name of each class it predicts, by index ("no object" left out); empty where nobody names them.
        uncut: why the network could not be cut into components that run alone, each of which then reads the images;
            "" where it was.

    Attributes:
        resampling: how the checkpoint's own preprocessing resizes photos; the adapter sets it where it knows.
        rebuild: as it was given.
        source: by which `invsuite.load_model` loads it again; "" where Python code made it.
        remarks: what its adapter took to be so, in lines for the user.

    Examples:
        >>> from invsuite import load_model
        >>> model = load_model("bundled:vit")
        >>> model.usual_stages(2)
        ('embed', 'block03', 'block06')
        >>> tokens = model.represent(torch.zeros(1, 3, 96, 96), ["block03"])["block03"]
        >>> model.run(tokens.tensor, "block03", "head").shape
        torch.Size([1, 1, 8])
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        components: Sequence[Component],
        image_size: tuple[int, int],
        task: TaskKind,
        origin: WeightsOrigin,
        split: Callable[[torch.Tensor], Prediction],
        reference: Callable[[torch.Tensor], Prediction],
        rebuild: Callable[[nn.Module], Model] | None = None,
        classes: Sequence[str] = (),
        uncut: str = "",
    ) -> None:
        self.name = name
        self.network = network
        self.components = tuple(components)
        self.image_size = image_size
        self.task = task
        self.origin = origin
        self.reference = reference
        self.classes = tuple(classes)
        self.resampling = BICUBIC
        self.source = ""
        self._split = split
        self._flops: dict[tuple[str, ...], int] = {}  # by stages, counted once
        self.rebuild = rebuild
        self.uncut = uncut
        self.remarks: tuple[str, ...] = ()
        self._joined: dict[str, Joined] = {}
        for stage in self.stages:
            if is_joined(stage):
                raise UsageError(f"stage '{stage}' of model '{name}' cannot have this name: + and .. join stages")
        for module in (network, *(component.module for component in components)):
            module.eval().requires_grad_(False)
        # for every component the position of the stage that it reads; -1 is the images
        self._sources = tuple(
            index - 1 if c.reads is None else -1 if c.reads == IMAGE else self.position(c.reads)
            for index, c in enumerate(self.components)
        )

    @classmethod
    def from_module(
        cls,
        network: nn.Module,
        stages: Mapping[str, str],
        *,
        size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "",
        layouts: Mapping[str, str] | None = None,
        task: TaskKind | Literal[""] = "",
        answer: Callable[[Any], torch.Tensor] | None = None,
        no_object: bool | None = None,
        classes: Sequence[str] = (),
        resampling: Resampling = BICUBIC,
        source: str = "",
        code: str = "",
        licence: str = "unknown",
    ) -> Model:
        """Return the model of any network, with stages at the modules that you name.

        The network's own code is run: nothing is known of it. What the axes of each stage mean is inferred, and said in
        ``remarks``; where it is not clear, the error says how ``layouts`` states it. Between stages where the network
        runs on from the first alone, the chain does; a stage that needs more is computed from the images (``uncut``).
        The chain is compared with the network's own forward on random images.

        Args:
            network: takes images (B, 3, H, W), or (B, 1, H, W) where ``mean`` has one value; it is put in eval mode
                and frozen.
            stages: path of a module by the stage's name: the representation is what the module gives. ``PATH[1]`` is
                the second tensor of a module that gives several.
            size: of every image in pixels, (height, width) or one for both.
            mean: of the normalisation of images in [0, 1]: a value per channel; 0 if the network does it itself.
            std: likewise; 1 if the network does it itself.
            name: what tables call the model; the class's name by default.
            layouts: by stage, what the axes mean: ``vector``, ``queries`` (rows without a place), ``tokens 14x14+1``
                (with one row in front that has no place) or ``map 14x14``, maybe with `` channels-first`` or
                `` channels-last``. The grid may be left out where it is inferred.
            task: ``classification``, ``embedding`` or ``detection``. By default a vector from a linear layer, and
                nothing behind it, is the logits of classes, and any other tensor an embedding.
            answer: picks the answer, a tensor, from what the network returns; not needed where that is one tensor, or
                ``logits`` or ``pred_logits``, alone or with ``pred_boxes``.
            no_object: of a detector, whether its last class is "no object" (DETR), or each class is on its own.
            classes: their names, by index.
            resampling: how photos are brought to the size.
            source: where the network comes from, for records.
            code: SHA-256 over the file and function that define the network, for records.
            licence: of the weights, for records.

        Raises:
            UsageError: for a module that is not there or is not called exactly once, a layout that is not clear, or
                an answer that is not a tensor; each says what to change.

        Examples:
            >>> from torch import nn
            >>> stem, features = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 2, stride=2)
            >>> network = nn.Sequential(stem, nn.GELU(), features, nn.Flatten(), nn.Linear(256, 5))
            >>> model = Model.from_module(
            ...     network, {"stem": "1", "features": "2"}, size=32, mean=[0.5] * 3, std=[0.25] * 3, name="small"
            ... )
            >>> print(model.remarks[0])
            'small' is read as: stem map 8x8, 8 channels; features map 4x4, 16 channels; head 5 classes
            >>> model.run(torch.zeros(1, 8, 8, 8), "stem", "head").shape
            torch.Size([1, 1, 5])
        """
        from invsuite.models.module_chain import Description, module_chain

        description = Description(
            name=name or type(network).__name__,
            stages=stages,
            size=size,  # type: ignore[arg-type]
            mean=mean,  # type: ignore[arg-type]
            std=std,  # type: ignore[arg-type]
            layouts=layouts or {},
            task=task,
            answer=answer,
            no_object=no_object,
            classes=tuple(classes),
            resampling=resampling,
            source=source,
            code=code,
            licence=licence,
        )
        return module_chain(network, description)

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages that can be inverted, in order; the last is the predictions."""
        return tuple(c.stage for c in self.components)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Model:
        """Move every component to ``device``."""
        self.network.to(device)
        for component in self.components:
            component.module.to(device)
        return self

    def position(self, stage: str) -> int:
        """Return the index of ``stage`` in the chain.

        Raises:
            UsageError: listing the stages, if there is none of that name.
        """
        for index, component in enumerate(self.components):
            if component.stage == stage:
                return index
        raise unknown_name(f"stage of model '{self.name}'", stage, self.stages)

    def layout(self, stage: str) -> Layout:
        """Return the layout of the representation at ``stage``."""
        if is_joined(stage):
            return self.joined(stage).layout
        return self.components[self.position(stage)].layout

    def blocks(self, start: str | None, stop: str) -> int:
        """Return the number of transformer blocks after stage ``start`` (``None``: the image) up to ``stop``."""
        if is_joined(stop):
            stop = self.order(self.joined(stop).parts)[-1]
        first = 0 if start is None else self.position(start) + 1
        return sum(component.blocks for component in self.components[first : self.position(stop) + 1])

    def order(self, stages: Sequence[str]) -> tuple[str, ...]:
        """Return ``stages`` without repeats, in chain order, with every name checked.

        Several that are read together stand in front of the first of them.
        """

        def place(stage: str) -> tuple[int, bool]:
            if is_joined(stage):
                return min(map(self.position, self.joined(stage).parts)), False
            return self.position(stage), True

        return tuple(sorted(dict.fromkeys(stages), key=place))

    def joined(self, word: str) -> Joined:
        """Return the several stages read together that ``word`` means: ``block03+block06``, ``sum(1..12)``.

        Raises:
            UsageError: for a stage that is not there, or stages whose layouts do not go together.
        """
        from invsuite.models.joined import Joined

        if word not in self._joined:
            words = Words.of(word)
            items = [tuple(map(self._stage_of, item)) for item in words.items]
            items.sort(key=lambda item: self.position(item[0]))
            parts: list[str] = []
            for first, *last in items:
                begin, end = self.position(first), self.position(last[0] if last else first)
                if end < begin:
                    raise UsageError(f"'{first}{RANGE}{last[0]}' goes backwards in the chain of '{self.name}'")
                parts += self.stages[begin : end + 1]
            words = Words(words.summed, tuple(dict.fromkeys(items)))
            self._joined[word] = Joined.of(words, {part: self.layout(part) for part in self.order(parts)})
        return self._joined[word]

    def _stage_of(self, word: str) -> str:
        """Return the one stage that ``word`` means.

        Raises:
            UsageError: if it means none, or several.
        """
        stages = self.find_stages([word])
        if len(stages) > 1:
            raise UsageError(f"'{word}' means {len(stages)} stages of model '{self.name}': name one")
        return stages[0]

    def find_stages(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the stages that any of ``words`` means (`means_stage`), in chain order (`order`).

        Raises:
            UsageError: listing the stages, for a word that means none.
        """
        single = [word for word in words if not is_joined(word)]
        for word in single:
            if not any(means_stage(word, stage) for stage in self.stages):
                raise unknown_name(f"stage of model '{self.name}'", word, self.stages)
        stages = [stage for stage in self.stages if any(means_stage(word, stage) for word in single)]
        return self.order([*stages, *(self.joined(word).name for word in words if is_joined(word))])

    def has_stage(self, word: str) -> bool:
        """Tell whether ``word`` means any of its stages, or several that can be read together."""
        try:
            return bool(self.find_stages([word]))
        except UsageError:
            return False

    def usual_stages(self, count: int = 4) -> tuple[str, ...]:
        """Return the first stage and ``count`` of the rest, spread evenly; the predictions are left out."""
        first, *inner = self.stages[:-1]
        count = min(count, len(inner))
        return (first, *(inner[round((i + 1) * len(inner) / count) - 1] for i in range(count)))

    def _path(self, sources: Collection[int], stop: int) -> list[int]:
        """Return the positions of the components that lead to ``stop`` from the nearest of ``sources``.

        That comes first, or the images, -1, where none leads there.
        """
        path = [stop]
        while path[-1] not in sources and path[-1] != -1:
            path.append(self._sources[path[-1]])
        return path[::-1]

    def run(self, tensor: torch.Tensor, start: str | None, stop: str) -> torch.Tensor:
        """Run the components after stage ``start`` (``None``: from images in [0, 1]) up to stage ``stop``.

        Differentiable; gradients flow to ``tensor``, never to the frozen weights.

        Raises:
            UsageError: if ``stop`` lies before ``start``.
            NotApplicable: if ``start`` alone does not determine ``stop``, with the stage that does.
        """
        if start is not None and is_joined(start):
            raise NotApplicable(f"nothing follows from '{start}', which is several stages read together")
        first = -1 if start is None else self.position(start)
        if is_joined(stop):
            joined = self.joined(stop)
            for part in joined.parts:
                self._path_from(first, start, self.position(part))
            tensors = self._tensors({first: tensor}, [self.position(part) for part in joined.parts])
            return joined.read([tensors[self.position(part)] for part in joined.parts])
        for index in self._path_from(first, start, self.position(stop))[1:]:
            tensor = self.components[index].module(tensor)
        return tensor

    def _path_from(self, first: int, start: str | None, last: int) -> list[int]:
        """Return the positions of the components that lead from ``first``, that of stage ``start``, to ``last``.

        Raises:
            UsageError: if that lies before.
            NotApplicable: if the one alone does not determine the other, with the stage that does.
        """
        stop = self.components[last].stage
        if last < first:
            raise UsageError(f"stage '{stop}' lies before '{start}' in the chain of '{self.name}'")
        path = self._path({first}, last)
        if path[0] != first:
            earlier = max(i for i in self._path({-1}, last) if i < first)
            source = IMAGE if earlier < 0 else self.components[earlier].stage
            raise NotApplicable(
                f"stage '{stop}' of model '{self.name}' does not follow from '{start}' alone: run it from '{source}'"
                + (f" ({self.uncut})" if self.uncut else "")
            )
        return path

    @torch.no_grad()
    def represent(self, images: torch.Tensor, stages: Sequence[str]) -> dict[str, Representation]:
        """Return the representations of images (B, 3, H, W) in [0, 1] at ``stages``, by stage.

        They come from one forward pass, where the components run alone.
        """
        check_images(images)
        self.check_frozen()
        ordered = self.order(stages)
        tensors = self.forward_stages(images, ordered)
        return {s: Representation(t, self.layout(s), s) for s, t in zip(ordered, tensors, strict=True)}

    def forward_stages(self, images: torch.Tensor, stages: Sequence[str]) -> list[torch.Tensor]:
        """Return the tensors behind ``stages``, in their order, of images that are known to be right.

        `represent` without its checks, which look at every pixel.
        """
        joined = {stage: self.joined(stage) for stage in stages if is_joined(stage)}
        parts = [part for one in joined.values() for part in one.parts]
        positions = map(self.position, self.order([*(stage for stage in stages if stage not in joined), *parts]))
        tensors = self._tensors({-1: images}, list(positions))

        def tensor_of(stage: str) -> torch.Tensor:
            if stage in joined:
                return joined[stage].read([tensors[self.position(part)] for part in joined[stage].parts])
            return tensors[self.position(stage)]

        return [tensor_of(stage) for stage in stages]

    def flops(self, stages: Sequence[str]) -> int:
        """Return the operations of the forward pass of one image to ``stages``: each image takes as many."""
        key = tuple(self.order(stages))
        if key not in self._flops:
            blank = torch.zeros(1, 3, *self.image_size, device=self.device)
            self._flops[key] = count_flops(partial(self.represent, blank, key))
        return self._flops[key]

    def _tensors(self, known: Mapping[int, torch.Tensor], positions: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return the tensors behind the components at ``positions``, in chain order, from ``known`` ones; -1: images.

        What several of them need is computed once.
        """
        tensors = dict(known)
        shared = {i for i in self._sources if self._sources.count(i) > 1}  # read by several: computed once
        for position in positions:
            path = self._path(tensors, position)
            tensor = tensors[path[0]]
            for index in path[1:]:
                tensor = self.components[index].module(tensor)
                if index in shared or index == path[-1]:
                    tensors[index] = tensor
        return tensors

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> Prediction:
        """Return the model's own answer for images (B, 3, H, W) in [0, 1]."""
        check_images(images)
        return self._split(self.run(images, None, self.components[-1].stage))

    @torch.no_grad()
    def predict_from(self, tensor: torch.Tensor, stage: str) -> Prediction:
        """Return the model's answer from its representation ``tensor`` (B, ...) at ``stage``.

        Raises:
            NotApplicable: if the answer does not follow from that stage alone.
        """
        return self._split(self.run(tensor, stage, self.components[-1].stage))

    def randomised(self, seed: int) -> Model:
        """Return the same chain with fresh random weights (`invsuite.models.randomise`); this model is untouched.

        Raises:
            NotApplicable: if the adapter gave no ``rebuild``.
        """
        if self.rebuild is None:
            raise NotApplicable(f"the adapter of model '{self.name}' cannot rebuild its chain with random weights")
        network = copy.deepcopy(self.network).cpu()
        network.train()  # drops what some attention layers keep of their weights while in eval mode
        randomise(network, seed)
        model = self.rebuild(network)
        model.origin = random_origin(seed, self.origin, model.fingerprint())
        return model.to(self.device)

    def check_frozen(self) -> None:
        """Raise `DataError` if any part of the model is in train mode or trainable."""
        for module in (self.network, *(c.module for c in self.components)):
            for name, part in module.named_modules():
                if part.training:
                    raise DataError(f"model '{self.name}' is in train mode at '{name or 'root'}': call eval()")
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    raise DataError(f"model '{self.name}': weight '{name}' is trainable, expected frozen")

    def fingerprint(self) -> str:
        """Return the SHA-256 over every weight and buffer, to prove that nothing changed them."""
        return weights_digest(self.network)


def weights_digest(network: nn.Module) -> str:
    """Return the SHA-256 over every weight and buffer of a network."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Normalise(nn.Module):
    """The normalisation (x - mean) / std per channel of images x in [0, 1].

    The constants are buffers, so that they move with the module.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images`` (B, 3, H, W) normalised."""
        return (images - self.mean) / self.std


class Lambda(nn.Module):
    """A function as a module; the modules that it uses are named, so that freezing and moving reach them."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(modules)
        self.function = function

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the function's value."""
        return self.function(tensor)
