"""The chain of any ``nn.Module``, with stages at modules that its owner names.

The network's own code is run, nothing is known of it. One forward with few images and one with more show where the
named modules stand, along which axis images lie, and what the axes mean (`invsuite.models.layout_inference`). Between
each two stages it is then tried whether the network runs on from the first alone (`invsuite.models.boundaries`): where
it does not, the later stage is computed from the images.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from invsuite.data.geometry import Resampling
from invsuite.errors import UsageError, WeightsError, one_line, unknown_name
from invsuite.models.arrangement import Turned
from invsuite.models.base import (
    IMAGE,
    STAGE,
    Component,
    Lambda,
    Layout,
    Model,
    Normalise,
    Prediction,
    TaskKind,
    WeightsOrigin,
    weights_digest,
)
from invsuite.models.boundaries import fault_of_piece, tensors_at, with_blocks, with_other_weights
from invsuite.models.checkpoint import marked
from invsuite.models.checks import check_chain, running_on
from invsuite.models.layout_inference import Evidence, arrangement_of_shape, batch_axis, words_of
from invsuite.models.partial_forward import Border, Call, Cut, PartialForward, tensors_of, watch_calls

BOX = 4  # values of a box
HEAD = "head"  # the stage of the network's own answer
COUNTS = (2, 3)  # images of the two forwards that are compared
MEASURED = 6  # stages of rows, spread evenly, of which that is measured
NEAR = 1.5  # how much more, at least, rows of a grid depend on the pixels around their place than on others
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: Rec. 601, as Pillow's mode L
PATH = re.compile(r"(?P<path>.*?)(?:\[(?P<leaf>\d+)\])?")

Statistics = Sequence[float]
Answer = Callable[[Any], torch.Tensor]


class Grey(nn.Module):
    """Colour images (B, 3, H, W) as grey ones (B, 1, H, W), for networks of one input channel."""

    weights: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(LUMA).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return their luma."""
        return (images * self.weights).sum(1, keepdim=True)


@dataclass(frozen=True)
class Description:
    """All that is said of a network beside itself: the arguments of `Model.from_module`, checked.

    Attributes:
        name: what tables call the model.
        stages: module path by stage.
        size: (H, W) of images.
        mean: of the normalisation, for images in [0, 1]: three values, or one of a network of grey images.
        std: likewise.
        layouts: by stage, in the words of `invsuite.models.layout_inference`, where they are stated.
        task: what the network answers; "" infers it.
        answer: picks a tensor from the network's output; None where it is one.
        no_object: of a detector, whether its last class is "no object".
        classes: names by index.
        resampling: of photos.
        source: where the network comes from, as a person would name it.
        code: SHA-256 over the file and function that define it; "" where there are none.
        licence: of the weights.
    """

    name: str
    stages: Mapping[str, str]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layouts: Mapping[str, str]
    task: TaskKind | Literal[""]
    answer: Answer | None
    no_object: bool | None
    classes: tuple[str, ...]
    resampling: Resampling
    source: str
    code: str
    licence: str

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            values = getattr(self, key)
            try:
                object.__setattr__(self, key, tuple(map(float, values)))
            except (TypeError, ValueError) as error:
                raise UsageError(f"{key} is {values!r}, expected a value per channel, as in [0.5, 0.5, 0.5]") from error
        if not isinstance(self.stages, Mapping) or not self.stages:
            raise UsageError("no stage is named: stages={'block3': 'blocks.2'} names one by its module")
        for stage in self.stages:
            if not isinstance(stage, str) or not STAGE.fullmatch(stage):
                raise UsageError(
                    f"stage name {stage!r}: letters, digits and . _ - are expected, beginning with a letter"
                )
            if stage == HEAD:
                raise UsageError(f"the stage '{HEAD}' is the network's own answer, which every model has: leave it out")
        for stage in self.layouts:
            if stage not in (*self.stages, HEAD):
                raise unknown_name("stage of 'layouts'", stage, (*self.stages, HEAD))
        sides = (self.size, self.size) if isinstance(self.size, int) else self.size
        if (
            not isinstance(sides, tuple | list)
            or len(sides) != 2
            or not all(isinstance(side, int) and side > 0 for side in sides)
        ):
            raise UsageError(f"size is {self.size}, expected (height, width) in pixels, or one number for both")
        object.__setattr__(self, "size", tuple(sides))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise UsageError(
                f"mean has {len(self.mean)} values and std {len(self.std)}: expected three each, or one of a network "
                "of grey images"
            )
        if not all(value > 0 for value in self.std):
            raise UsageError(f"std is {self.std}, expected more than 0")

    def digest(self, network: nn.Module) -> str:
        """Return the SHA-256 over the weights, and over all that makes them give other representations."""
        marks = [self.code, dict(self.stages), dict(self.layouts), self.mean, self.std, self.resampling]
        return marked(weights_digest(network), marks)


@dataclass(frozen=True)
class _Place:
    """Where a tensor is found in a forward: the module, its first call, and the tensor in its answer."""

    path: str
    leaf: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class _Forward:
    """What one forward shows: the calls of all modules in order, the shapes that they answered, and the output."""

    calls: list[Call]
    shapes: dict[str, list[tuple[int, ...]]]
    times: dict[str, int]
    output: Any
    linear: bool  # whether the output is the answer of a linear layer


def module_chain(network: nn.Module, description: Description) -> Model:
    """Return the model of a network.

    Args:
        network: answers normalised images; it is put in eval mode and frozen.
        description: what its owner says of it.

    Raises:
        UsageError: for a module that is not there or is not called once, a layout that is not clear, or an answer that
            is not; each says what to change.
    """
    name, size = description.name, description.size
    _check_weights(network, name)
    network.eval().requires_grad_(False)
    normalise = Normalise(description.mean, description.std)
    entry: nn.Module = normalise if len(description.mean) == 3 else nn.Sequential(Grey(), normalise)
    device = next(network.parameters()).device
    entry.to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(sum(COUNTS), 3, *size, generator=generator).to(device)
    with _explaining(description, network), running_on(name, size), torch.no_grad():
        few, many = entry(images[: COUNTS[0]]), entry(images[COUNTS[0] :])
        forwards = tuple(_watch(network, batch) for batch in (few, many))
    finish, task, head = _answers(description, *forwards)
    _check_steady(network, many, finish, forwards[1].output, name)
    places = [_place(network, stage, path, *forwards) for stage, path in description.stages.items()]
    arrangements = [
        _arrangement(stage, place, forwards[1], network, description)
        for stage, place in zip(description.stages, places, strict=True)
    ]
    _keep_calls(network, [place.path for place in places])
    ended = {call.path: call.ended for call in forwards[0].calls}
    read = dict(zip(description.stages, arrangements, strict=True))
    cuts = {
        stage: Cut(Border(place.path, leaves=(place.leaf,)), read[stage])
        for stage, place in zip(description.stages, places, strict=True)
    }
    cuts = dict(sorted(cuts.items(), key=lambda item: ended[item[1].border.path]))
    _check_places(network, many[:1], cuts, description)
    counted = with_blocks(network, forwards[0].calls, list(cuts.values()))
    cuts = dict(zip(cuts, counted, strict=True))
    pieces = PartialForward(network, few, forwards[0].calls, [cut.border for cut in cuts.values()], answer=finish)
    faults = _faults(network, few, many, forwards[0].calls, cuts, finish)

    def chain(faults: Mapping[str, str]) -> Model:
        reasons = "; ".join(dict.fromkeys(faults.values()))
        uncut = f"{', '.join(faults)} from the images: {reasons}" if faults else ""
        origin = WeightsOrigin(
            description.source or f"module {type(network).__qualname__}",
            description.digest(network),
            description.licence,
            (description.mean, description.std),
        )

        def split(tensor: torch.Tensor) -> Prediction:
            return _prediction(tensor, task, description.no_object)

        def reference(images: torch.Tensor) -> Prediction:
            return split(head.read([finish(network(entry(images)))]))

        def rebuild(other: nn.Module) -> Model:
            # random weights may not show what these showed
            stated = {stage: arrangement.words for stage, arrangement in read.items()} | {HEAD: head.words}
            return module_chain(other, replace(description, layouts={s: words for s, words in stated.items() if words}))

        components = _components(pieces, cuts, faults, entry, head)
        model = Model(
            name, network, components, size, task, origin, split, reference, rebuild, description.classes, uncut
        )
        model.resampling = description.resampling
        model.remarks = _remarks(cuts, head, task, name)
        return model

    model = chain(faults)
    try:
        check_chain(model, images)
    except WeightsError as error:
        model = chain(dict.fromkeys((*list(cuts)[1:], HEAD), str(error)))
        check_chain(model, images)
    return model


def _check_weights(network: nn.Module, name: str) -> None:
    """Raise `UsageError` for a network without weights, or with weights that are not float32."""
    weights = list(network.parameters())
    if not weights:
        raise UsageError(f"model '{name}' has no weights")
    for key, value in network.named_parameters():
        if value.dtype != torch.float32:
            raise UsageError(f"model '{name}': weight '{key}' is {value.dtype}, expected float32: call network.float()")


@contextmanager
def _explaining(description: Description, network: nn.Module) -> Iterator[None]:
    """Add what to do to the error of a network that takes another number of channels than it was shown."""
    try:
        yield
    except UsageError as error:
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        expected = 1 if first is not None and first.in_channels == 1 else 3
        if first is None or expected == len(description.mean):
            raise
        raise UsageError(
            f"{error}; its first convolution takes {first.in_channels} channels: give mean and std of {expected} "
            f"value{'s' * (expected > 1)}"
        ) from error


@torch.no_grad()
def _check_steady(network: nn.Module, images: torch.Tensor, finish: Answer, output: Any, name: str) -> None:
    """Raise `UsageError` if the network answers the same images (B, C, H, W) in another way than before."""
    first, again = finish(output), finish(network(images))
    if not torch.allclose(first, again, atol=1e-4, rtol=1e-3):
        raise UsageError(f"model '{name}' answers the same images differently each time: switch its randomness off")


def _watch(network: nn.Module, images: torch.Tensor) -> _Forward:
    """Return what one forward over ``images`` (B, C, H, W), as the network takes them, shows."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    times: Counter[str] = Counter()
    outputs: list[Any] = []
    last: list[torch.Tensor] = []

    def see(path: str, answer: Any) -> None:
        shapes[path] = [tuple(tensor.shape) for tensor in tensors_of(answer)]
        if isinstance(network.get_submodule(path), nn.Linear | nn.Conv2d):
            last[:] = [answer]

    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: times.update([path]))
        for path, module in network.named_modules()
    ]
    handles.append(network.register_forward_hook(lambda module, args, output: outputs.append(output)))
    try:
        calls = watch_calls(network, images, see)
    finally:
        for handle in handles:
            handle.remove()
    tensors = tensors_of(outputs[-1])
    ends = bool(last) and len(tensors) == 1 and _same_values(tensors[0], last[0])
    return _Forward(calls, shapes, times, outputs[-1], ends)


def _same_values(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return tensor.numel() == other.numel() and torch.equal(tensor.flatten(), other.flatten())


def _place(network: nn.Module, stage: str, words: str, few: _Forward, many: _Forward) -> _Place:
    """Return where the tensor of a stage is found.

    Raises:
        UsageError: if there is no such module, it is called never or more than once, or it gives several tensors.
    """
    match = PATH.fullmatch(str(words))
    assert match is not None
    path, leaf = match["path"], match["leaf"]
    known = [name for name, _ in network.named_modules() if name]
    if path not in known:
        raise unknown_name(f"module of stage '{stage}'", path, known)
    if path not in many.shapes:
        raise UsageError(f"module '{path}' of stage '{stage}' is never called in a forward: name another")
    if many.times[path] > 1:
        raise UsageError(
            f"module '{path}' of stage '{stage}' is called {many.times[path]} times in a forward: name one that is "
            "called once"
        )
    shapes = many.shapes[path]
    if not shapes:
        raise UsageError(f"module '{path}' of stage '{stage}' gives no tensor: name another")
    if leaf is None and len(shapes) > 1:
        listed = ", ".join(f"{path}[{number}] {shape}" for number, shape in enumerate(shapes))
        raise UsageError(f"module '{path}' of stage '{stage}' gives {len(shapes)} tensors: name one of {listed}")
    number = int(leaf or 0)
    if number >= len(shapes):
        raise UsageError(f"module '{path}' of stage '{stage}' gives {len(shapes)} tensors, there is no [{number}]")
    return _Place(path, number, (few.shapes[path][number], shapes[number]))


def _keep_calls(network: nn.Module, paths: Collection[str]) -> None:
    """Have the modules ``paths`` called at all times.

    PyTorch's own transformer layer has a faster way past its parts, which it leaves alone where one of them has a hook.
    """
    for path in paths:
        parents = [path[: match.start()] for match in re.finditer(r"\.", path)]
        if any(isinstance(network.get_submodule(parent), nn.TransformerEncoderLayer) for parent in parents):
            network.get_submodule(path).register_forward_hook(_hook)


def _hook(module: nn.Module, args: Any, answer: Any) -> None:
    """Change nothing."""


def _arrangement(stage: str, place: _Place, forward: _Forward, network: nn.Module, description: Description) -> Turned:
    name = f"stage '{stage}' (module '{place.path}')"
    batch = batch_axis(name, *place.shapes, COUNTS)
    evidence = _evidence(network, forward, place.path, description.size)
    return arrangement_of_shape(name, place.shapes[1], batch, evidence, description.layouts.get(stage, ""))


def _evidence(network: nn.Module, forward: _Forward, path: str, size: tuple[int, int]) -> Evidence:
    """Return what the modules that were called show: the widths of all, the maps of those before module ``path``."""
    grids: list[tuple[int, int]] = []
    widths, filters = set[int](), set[int]()
    end = next(call.ended for call in forward.calls if call.path == path)
    for call in forward.calls:
        module = network.get_submodule(call.path)
        if isinstance(module, nn.Linear):
            widths.add(module.out_features)
        elif isinstance(module, nn.LayerNorm):
            widths.add(module.normalized_shape[-1])
        elif isinstance(module, _ConvNd):
            filters.add(module.out_channels)
        elif isinstance(module, _BatchNorm):
            filters.add(module.num_features)
        if call.ended <= end and isinstance(module, nn.Conv2d | _MaxPoolNd | _AvgPoolNd):
            grids += [(shape[2], shape[3]) for shape in forward.shapes[call.path] if len(shape) == 4]
    return Evidence(size, tuple(dict.fromkeys(grids)), frozenset(widths), frozenset(filters))


def _answers(description: Description, few: _Forward, many: _Forward) -> tuple[Answer, TaskKind, Turned]:
    """Return the function of the network's output that gives one tensor, what it answers, and how it holds it.

    Raises:
        UsageError: if the output is none or several tensors, and nobody says which.
    """
    finish = description.answer or _usual_answer(description.name, many.output)
    with running_on(description.name, description.size):
        tensors = [finish(forward.output) for forward in (few, many)]
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise UsageError(f"'answer' of model '{description.name}' gives {type(tensors[0]).__name__}, expected a tensor")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise UsageError(f"model '{description.name}' answers random images with NaN or infinity")
    boxes = BOX if description.answer is None and _detector_keys(many.output) else 0
    shape = tuple(tensors[1].shape)
    batch = batch_axis("the network's answer", tuple(tensors[0].shape), shape, COUNTS)
    if boxes:
        if description.no_object is None:
            raise UsageError(
                f"model '{description.name}' answers classes and boxes: say no_object=True if its last class is "
                "'no object' (DETR), False if classes are independent (Deformable DETR, DINO, RT-DETR)"
            )
        head = Turned(Layout("predictions", shape[2], None, shape[1], boxes=boxes), (0, 1, 2), shape[1:])
        return finish, "detection", head
    evidence = Evidence(description.size)
    head = arrangement_of_shape("the network's answer", shape, batch, evidence, description.layouts.get(HEAD, ""))
    vector = head.layout.kind == "queries" and head.layout.count == 1
    task: TaskKind = description.task or ("classification" if vector and many.linear else "embedding")
    if task == "classification":
        if not vector:
            raise UsageError(f"a classifier answers (B, classes), model '{description.name}' answers {shape}")
        head = replace(head, layout=Layout("predictions", head.layout.channels, None, 1))
        if description.classes and len(description.classes) != head.layout.channels:
            raise UsageError(
                f"{len(description.classes)} classes are named, the network answers {head.layout.channels}"
            )
    elif task == "detection":
        raise UsageError(
            f"a detector answers a dictionary with 'logits' or 'pred_logits' and 'pred_boxes', model "
            f"'{description.name}' answers {shape}"
        )
    return finish, task, head


def _detector_keys(output: Any) -> tuple[str, str] | None:
    """Return the names under which an output holds class logits and boxes; None where it holds none."""
    for keys in (("logits", "pred_boxes"), ("pred_logits", "pred_boxes")):
        if isinstance(output, Mapping) and all(isinstance(output.get(key), torch.Tensor) for key in keys):
            return keys
    return None


def _usual_answer(name: str, output: Any) -> Answer:
    """Return the function that takes the answer from an output of this kind.

    Raises:
        UsageError: if it holds several tensors, and none is called the logits.
    """
    if isinstance(output, torch.Tensor):
        return lambda output: output
    keys = _detector_keys(output)
    if keys is not None:
        return lambda output: torch.cat([output[key] for key in keys], -1)
    for key in ("logits", "pred_logits"):
        if isinstance(output, Mapping) and isinstance(output.get(key), torch.Tensor):
            return lambda output: output[key]
    tensors = tensors_of(output)
    if len(tensors) == 1:
        return lambda output: tensors_of(output)[0]
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:8])
    raise UsageError(
        f"model '{name}' returns {type(output).__name__} with {len(tensors)} tensors ({shapes}): say which is its "
        "answer, as in answer=lambda output: output[-1]"
    )


def _check_places(network: nn.Module, image: torch.Tensor, cuts: Mapping[str, Cut], description: Description) -> None:
    """Measure whether rows that were taken to lie on a grid depend most on the pixels around their place.

    Args:
        network: frozen.
        image: one (1, C, H, W), as it takes it.
        cuts: by stage.
        description: a layout that it states is not measured, nor is a grid on which everything is near.

    Raises:
        UsageError: for rows that do not: they lie in another order, or have no place.
    """
    rows = {
        stage: cut
        for stage, cut in cuts.items()
        if cut.arrangement.layout.kind == "tokens"
        and stage not in description.layouts
        and min(cut.arrangement.layout.grid or (0,)) > 3
    }
    if not rows:
        return
    step = max(1, -(-len(rows) // MEASURED))
    some = dict(list(rows.items())[::-1][::step])  # the last one is farthest from the pixels
    for stage, nearness in _nearness(network, image, some).items():
        if nearness < NEAR:
            layout = rows[stage].arrangement.layout
            grid = "x".join(map(str, layout.grid or ()))
            raise UsageError(
                f"stage '{stage}' has {layout.count} rows, as many as a grid of {grid} and {layout.prefix} more, but "
                "they depend no more on the pixels around their place than on others: they lie in another order, or "
                f"have no place; say layouts={{'{stage}': 'queries'}}, or 'tokens {grid}+{layout.prefix}' if you know"
            )


def _nearness(network: nn.Module, image: torch.Tensor, rows: Mapping[str, Cut]) -> dict[str, float]:
    """Return how much more rows depend on the pixels around their place than on others, by stage.

    That is the squared gradient per pixel of a random sum of a row's channels, in the 3 x 3 cells around its place over
    the whole image: the median of four places. Stages through which no gradient flows are left out.
    """
    tensors: dict[str, torch.Tensor] = {}

    def keep(stage: str, leaf: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, answer: Any) -> None:
            tensors[stage] = tensors_of(answer)[leaf].clone()

        return hook

    handles = [
        network.get_submodule(cut.border.path).register_forward_hook(keep(stage, cut.border.leaves[0]))
        for stage, cut in rows.items()
    ]
    leaf = image.repeat(4, 1, 1, 1).requires_grad_()  # one for each place
    try:
        with torch.enable_grad():
            network(leaf * 1.0)
    except RuntimeError:  # a forward that no gradient goes through
        return {}
    finally:
        for handle in handles:
            handle.remove()
    measured = {}
    for stage, cut in rows.items():
        layout = cut.arrangement.layout
        assert layout.grid is not None
        height, width = layout.grid
        places = list(itertools.product((height // 4, 3 * height // 4), (width // 4, 3 * width // 4)))
        signs = torch.randint(0, 2, (layout.channels,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
        with torch.enable_grad():
            maps = layout.to_map(cut.arrangement.read([tensors[stage]]))
            total = torch.stack([maps[number, :, row, column] for number, (row, column) in enumerate(places)]).mul(
                signs.to(maps)
            )
        if not total.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(total.sum(), leaf, retain_graph=True, allow_unused=True)
        if gradient is None or not gradient.any():
            continue
        energies = F.adaptive_avg_pool2d(gradient.square().sum(1), layout.grid)
        ratios = [
            float(energy[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].mean() / energy.mean())
            for energy, (row, column) in zip(energies, places, strict=True)
        ]
        measured[stage] = sorted(ratios)[len(ratios) // 2]
    return measured


def _faults(
    network: nn.Module,
    few: torch.Tensor,
    many: torch.Tensor,
    calls: Sequence[Call],
    cuts: Mapping[str, Cut],
    finish: Answer,
) -> dict[str, str]:
    """Return the stages that do not follow from the one before alone, with the reason; ``head`` may be one.

    It is tried on a copy with other weights, as in `invsuite.models.boundaries.cut_network`, from images that were not
    recorded.
    """
    stages, stops = [*cuts, HEAD], [*cuts.values(), None]
    try:
        other = with_other_weights(network)
    except Exception as error:  # whatever a module's own code makes of being copied
        return dict.fromkeys(stages[1:], f"the network cannot be copied to try it: {one_line(error)}")
    pieces = PartialForward(other, few, calls, [cut.border for cut in cuts.values()], answer=finish)
    truths = tensors_at(pieces, list(cuts.values()), many)
    faults = {}
    for number in range(1, len(stages)):
        fault = fault_of_piece(pieces, stops[number - 1], stops[number], truths[number], truths[number + 1])
        if fault:
            faults[stages[number]] = fault
    return faults


def _components(
    pieces: PartialForward, cuts: Mapping[str, Cut], faults: Collection[str], entry: nn.Module, head: Turned
) -> list[Component]:
    """Return a component per stage, each from the one before or, for those of ``faults``, from the images."""

    def finish(run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda tensor: head.read([run(tensor)])

    def after_entry(run: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: run(entry(images))

    components: list[Component] = []
    before: Cut | None = None
    for stage, cut in (*cuts.items(), (HEAD, None)):
        start = None if stage in faults else before
        run = pieces.piece(start, cut)
        run = finish(run) if cut is None else run
        module = Lambda(after_entry(run), entry=entry) if start is None else Lambda(run)
        layout, blocks = (head.layout, 0) if cut is None else (cut.arrangement.layout, cut.blocks)
        reads = IMAGE if start is None and before is not None else None
        components.append(Component(stage, module, layout, blocks, reads))
        before = cut
    return components


def _prediction(tensor: torch.Tensor, task: TaskKind, no_object: bool | None) -> Prediction:
    """Return the answer that a representation at the last stage is."""
    if task == "detection":
        return Prediction(tensor[..., :-BOX], tensor[..., -BOX:], bool(no_object))
    return Prediction(tensor.flatten(1))


def _remarks(cuts: Mapping[str, Cut], head: Turned, task: TaskKind, name: str) -> tuple[str, ...]:
    """Return one line that says how every stage is read, stages that are read alike together."""
    alike: list[tuple[str, list[str]]] = []
    for stage, cut in cuts.items():
        words = words_of(cut.arrangement.layout)
        if alike and alike[-1][0] == words:
            alike[-1][1].append(stage)
        else:
            alike.append((words, [stage]))
    channels = head.layout.channels
    answers = {
        "classification": f"{channels} classes",
        "detection": f"{head.layout.count} queries of {channels - BOX} classes and a box",
        "embedding": f"an embedding, {words_of(head.layout)}",
    }
    read = [f"{', '.join(stages)} {words}" for words, stages in alike]
    return (f"'{name}' is read as: {'; '.join([*read, f'{HEAD} {answers[task]}'])}",)
