"""Disturbed representations: what another method still reads when a representation is noised, rounded or cut down.

Whoever hands out representations (split inference, federated features) may disturb them first, and pays with the
model's own answers. Both sides are here: the inverse reads the disturbed representation, and the model goes on from it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torchvision.ops import box_convert, box_iou

from invsuite._system.validation import NonNegativeFloat
from invsuite.errors import NotApplicable, UsageError
from invsuite.methods.base import FitCost, Fitted, Inverter, Method, NamedTensors, Notes, Work, WorkFacts
from invsuite.methods.built_on import BuiltOn
from invsuite.methods.problem import Problem
from invsuite.methods.ridge import Ridge
from invsuite.models.base import EVERY, Layout, Model, Prediction, Representation
from invsuite.registry import register

Kind = Literal["noise", "quantise", "prune", "drop-tokens", "shuffle-tokens"]
READOUT = Ridge()
MEASURED = 64  # fit images on which the scale of a representation is measured
SCALE, START = "scale:", "start:"  # before the names of kept tensors
OBJECT = 0.5  # least probability of a query's object, of a detector without a class for none
OVERLAP = 0.5  # least overlap (IoU) of a box with that of the undisturbed answer


@dataclass(frozen=True)
class Scale:
    """What a disturbance of one stage is measured in.

    Attributes:
        mean: of every channel, as it broadcasts on the layout.
        deviation: likewise, over images and places, around that mean, where `Moments` take off the mean of each place:
            a shuffled place is a change too.
        largest: absolute value of all.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    largest: torch.Tensor

    @classmethod
    def of(cls, representation: Representation) -> Scale:
        """Return the scale of a representation."""
        tensor, layout = representation.tensor, representation.layout
        axes = layout.pooled_axes
        mean, deviation = (value.view(layout.channel_shape) for value in (tensor.mean(axes), tensor.std(axes)))
        return cls(mean, deviation, tensor.abs().max())

    def to(self, device: torch.device) -> Scale:
        """Return the same on ``device``."""
        return Scale(self.mean.to(device), self.deviation.to(device), self.largest.to(device))


def disturb(representation: Representation, kind: Kind, amount: float, scale: Scale) -> Representation:
    """Return a representation as it is handed out; what is random depends on the content of each image's own alone.

    Args:
        representation: of a batch.
        kind: ``noise`` adds normal noise of ``amount`` deviations of each channel; ``quantise`` rounds to ``amount``
            bits between minus and plus the largest value; ``prune`` sets the share ``amount`` of the values, the
            smallest, to 0; ``drop-tokens`` replaces the share ``amount`` of places, or queries, by the mean;
            ``shuffle-tokens`` puts that share of them in random order.
        amount: of the disturbance.
        scale: of the stage.
    """
    rows = [_KINDS[kind](row, representation.layout, amount, scale) for row in representation.tensor]
    return replace(representation, tensor=torch.stack(rows))


def _generator(row: torch.Tensor) -> torch.Generator:
    """Return a source of random numbers that the content of one image's representation starts."""
    content = row.detach().float().cpu().contiguous().numpy().tobytes()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(content).digest()[:7], "big"))


def _noise(row: torch.Tensor, layout: Layout, amount: float, scale: Scale) -> torch.Tensor:
    noise = torch.randn(row.shape, generator=_generator(row)).to(row)
    return row + amount * scale.deviation * noise


def _quantise(row: torch.Tensor, layout: Layout, amount: float, scale: Scale) -> torch.Tensor:
    step = scale.largest / (2 ** (amount - 1) - 1)
    return (row / step).round().clamp(-(2 ** (amount - 1)), 2 ** (amount - 1) - 1) * step


def _prune(row: torch.Tensor, layout: Layout, amount: float, scale: Scale) -> torch.Tensor:
    count = round(amount * row.numel())
    if not count:
        return row
    least = row.abs().flatten().topk(count, largest=False).indices
    return row.flatten().index_fill(0, least, 0.0).view(row.shape)


def _drop(row: torch.Tensor, layout: Layout, amount: float, scale: Scale) -> torch.Tensor:
    places = _places(row, layout)
    chosen = torch.randperm(len(places), generator=_generator(row))[: round(amount * len(places))].to(row.device)
    dropped = places.index_copy(0, chosen, scale.mean.reshape(1, -1).expand(len(chosen), -1))
    return _as_row(dropped, row, layout)


def _shuffle(row: torch.Tensor, layout: Layout, amount: float, scale: Scale) -> torch.Tensor:
    places, generator = _places(row, layout), _generator(row)
    chosen = torch.randperm(len(places), generator=generator)[: round(amount * len(places))]
    mixed = chosen[torch.randperm(len(chosen), generator=generator)]
    return _as_row(places.index_copy(0, chosen.to(row.device), places[mixed.to(row.device)]), row, layout)


def _places(row: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return the values of one image place by place (places, channels), without prefix tokens."""
    return row.flatten(1).T if layout.kind == "map" else row[layout.prefix :]


def _as_row(places: torch.Tensor, row: torch.Tensor, layout: Layout) -> torch.Tensor:
    if layout.kind == "map":
        return places.T.reshape(row.shape)
    return torch.cat([row[: layout.prefix], places])


_KINDS: dict[Kind, Callable[[torch.Tensor, Layout, float, Scale], torch.Tensor]] = {
    "noise": _noise,
    "quantise": _quantise,
    "prune": _prune,
    "drop-tokens": _drop,
    "shuffle-tokens": _shuffle,
}
#: the largest amount of a disturbance
MOST: dict[Kind, float] = {"noise": 1e6, "quantise": 16, "prune": 1, "drop-tokens": 1, "shuffle-tokens": 1}


@dataclass(frozen=True)
class DisturbedInverter(Inverter):
    """Inverts disturbed representations by other inverters.

    Attributes:
        inverters: by stage.
        disturbances: by stage, what becomes of a representation before it is inverted.
        scales: by stage.
    """

    inverters: Mapping[str, Inverter]
    disturbances: Mapping[str, Callable[[Representation], Representation]]
    scales: Mapping[str, Scale]

    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        stage = representation.stage
        return self.inverters[stage].invert(self.disturbances[stage](representation))

    @property
    def iterations(self) -> int:
        """Return how often an inversion repeats one step at most."""
        return max((inverter.iterations for inverter in self.inverters.values()), default=0)

    def shortened(self, iterations: int) -> DisturbedInverter:
        """Return the same inverter with so many iterations."""
        return replace(self, inverters={s: inverter.shortened(iterations) for s, inverter in self.inverters.items()})

    def findings(self, stage: str) -> dict[str, Any]:
        """Return what the inverter of a stage found."""
        return self.inverters[stage].findings(stage)

    def tensors(self) -> dict[str, torch.Tensor] | None:
        """Return what each stage's inverter keeps, and the scales; None where one keeps nothing."""
        kept: dict[str, torch.Tensor] = {}
        alike = len(set(map(id, self.inverters.values()))) == 1
        for stage, inverter in list(self.inverters.items())[: 1 if alike else None]:
            own = inverter.tensors()
            if own is None:
                return None
            kept |= {f"{START}{EVERY if alike else stage}:{name}": tensor for name, tensor in own.items()}
        for stage, scale in self.scales.items():
            kept |= {f"{SCALE}{stage}:{name}": getattr(scale, name) for name in Scale.__dataclass_fields__}
        return kept


@register.method
@dataclass(frozen=True)
class Disturbed(BuiltOn):
    r"""Any other method on representations that are disturbed before it reads them.

    The method ``start`` is fitted to representations as they are, and inverts disturbed ones; where it is ``told``, it
    is fitted to disturbed ones, once for every stage. The record has the model's own usefulness under the same
    disturbance: how often it gives the answer that it gives undisturbed, on selection images.

    Formula:
        $$ \hat{x} = g(D(f_s(x))), \qquad \text{usefulness} = P \left[ h_s(D(f_s(x))) = h_s(f_s(x)) \right] $$

        for the disturbance $D$, the model $f_s$ up to the stage and $h_s$ from there on.
    Cost:
        That of ``start``; where it is told, that of one fit per stage.
    Use:
        For the curve of privacy against usefulness: `invsuite privacy SUITE`. Not told is who finds a model's
        representations, told is who knows the defence.
    Pitfalls:
        A defence looks good against an inverse that is not told of it. Methods that match representations (descents)
        match the disturbed one. Random disturbances depend on each image's representation, so that another processor's
        rounding draws others.
    Source:
        The suite's own; disturbances of split inference as in He, Zhang & Lee 2019, doi 10.1145/3359789.3359824.

    Attributes:
        start: another method: in a suite file the name of its row; in Python the method, or a registered name.
        disturbance: ``noise``, ``quantise``, ``prune``, ``drop-tokens`` or ``shuffle-tokens``.
        amount: of noise in deviations of each channel; in bits; of values, places or queries as a share, 0 to 1.
        told: whether ``start`` is fitted to disturbed representations.
    """

    start: str | dict[str, Any] | Method = READOUT
    disturbance: Kind = "noise"
    amount: NonNegativeFloat = 1.0
    told: bool = False

    name = "disturbed"
    family = "hybrid"
    source = "the suite's own: another method on disturbed representations"
    version = 2
    taken = (*BuiltOn.taken, "family")

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 2 if self.disturbance == "quantise" else 0
        if not least <= self.amount <= MOST[self.disturbance]:
            raise UsageError(
                f"'{self.name}.amount' is {self.amount:g}: of {self.disturbance} it is {least} to "
                f"{MOST[self.disturbance]:g}"
            )

    def builds_on(self) -> tuple[Method, ...]:
        """Return the method whose fit is taken, unless it is fitted anew."""
        return () if self.told else (self.begun,)

    def work(self, facts: WorkFacts) -> Work:
        """Return the work of the start."""
        return self.begun.work(facts)

    def fit(self, problem: Problem) -> Fitted:
        """Measure the scale of every stage, and fit the start, or take its fit."""
        scales = self._scales(problem)
        fits = self._told(problem, scales) if self.told else self._untold(problem)
        stages = tuple(stage for stage in problem.stages if stage not in fits[stage].refused)
        cost = FitCost(shared_seconds=max((f.cost.shared_seconds for f in fits.values()), default=0.0))
        notes: Notes = {}
        for stage in stages:
            known = fits[stage].cost
            for name in ("stage_seconds", "image_passes", "parameters", "fit_flops", "frozen_flops"):
                if stage in getattr(known, name):
                    getattr(cost, name)[stage] = getattr(known, name)[stage]
            notes[stage] = {"start": fits[stage].notes.get(stage, {})} | self._noted(problem, stage, scales[stage])
        inverters = {stage: fits[stage].inverter for stage in stages}
        refused = {stage: fits[stage].refused[stage] for stage in problem.stages if stage in fits[stage].refused}
        return Fitted(self._inverter(inverters, {stage: scales[stage] for stage in stages}), cost, notes, refused)

    def restore(self, problem: Problem, tensors: NamedTensors, notes: Notes) -> DisturbedInverter | None:
        """Return the inverter with those of every stage restored."""
        inverters: dict[str, Inverter] = {}
        scales: dict[str, Scale] = {}
        for stage in problem.stages:
            own = _under(tensors, f"{START}{stage}:") or _under(tensors, f"{START}{EVERY}:")
            scale = _under(tensors, f"{SCALE}{stage}:")
            own_notes = {stage: notes.get(stage, {}).get("start", {})}
            inverter = self.begun.restore(replace(problem, stages=(stage,)), own, own_notes)
            if inverter is None or not scale:
                return None
            inverters[stage], scales[stage] = inverter, Scale(**scale).to(problem.device)
        return self._inverter(inverters, scales)

    def _inverter(self, inverters: Mapping[str, Inverter], scales: Mapping[str, Scale]) -> DisturbedInverter:
        disturbances = {stage: self._disturbance(scale) for stage, scale in scales.items()}
        return DisturbedInverter(inverters, disturbances, scales)

    def _disturbance(self, scale: Scale) -> Callable[[Representation], Representation]:
        return partial(disturb, kind=self.disturbance, amount=self.amount, scale=scale)

    def _scales(self, problem: Problem) -> dict[str, Scale]:
        images = problem.fit.images(slice(0, MEASURED)).to(problem.device)
        return {stage: Scale.of(one) for stage, one in problem.model.represent(images, problem.stages).items()}

    def _untold(self, problem: Problem) -> dict[str, Fitted]:
        return dict.fromkeys(problem.stages, problem.context.fit(self.begun, problem))

    def _told(self, problem: Problem, scales: Mapping[str, Scale]) -> dict[str, Fitted]:
        """Return a fit of the start for every stage, to a model whose representation there is disturbed.

        Raises:
            NotApplicable: for a start that learns nothing of representations.
        """
        if not (self.begun.reads_fit or self.begun.uses_budget):
            raise NotApplicable(
                f"'{self.begun.name}' is fitted to no representations: told of a disturbance it does the same; "
                "leave 'told' out"
            )
        fits = {}
        for stage in problem.stages:
            model = disturbed_model(problem.model, stage, self._disturbance(scales[stage]))
            part = f"{problem.context.part}-{stage}"
            context = replace(problem.context, features=None, charged=set(), part=part)
            fits[stage] = self.begun.fit(replace(problem, model=model, stages=(stage,), context=context))
        return fits

    def _noted(self, problem: Problem, stage: str, scale: Scale) -> dict[str, Any]:
        """Return the disturbance and how useful the model is under it."""
        noted: dict[str, Any] = {"disturbance": self.disturbance, "amount": self.amount, "told": self.told}
        try:
            shares, what = usefulness(problem, stage, self._disturbance(scale))
        except NotApplicable as error:
            return noted | {"usefulness_refused": str(error)}
        return noted | {"usefulness": shares, "usefulness_of": what}


def _under(tensors: NamedTensors, prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def disturbed_model(model: Model, stage: str, change: Callable[[Representation], Representation]) -> Model:
    """Return a model with the same components that hands out the disturbed representation of a stage, to all who ask.

    What it holds at other stages, later ones too, is undisturbed.
    """

    @torch.no_grad()
    def forward_stages(images: torch.Tensor, stages: Sequence[str]) -> list[torch.Tensor]:
        clean = zip(stages, model.forward_stages(images, stages), strict=True)
        return [change(Representation(t, model.layout(s), s)).tensor if s == stage else t for s, t in clean]

    other = copy.copy(model)
    other.forward_stages = forward_stages  # type: ignore[method-assign]
    return other


@torch.no_grad()
def usefulness(
    problem: Problem, stage: str, change: Callable[[Representation], Representation]
) -> tuple[list[float], str]:
    """Return for every selection image how far the model's answer stays under a disturbance, and what that is.

    Of a classifier 1 where its first class stays, else 0; of a detector the share of its objects of which the query
    keeps class and place; of an embedding the cosine of the two.

    Raises:
        NotApplicable: if the model cannot go on from the stage alone.
    """
    shares: list[float] = []
    what = {"classification": "first class kept", "detection": "objects kept", "embedding": "cosine"}[
        problem.model.task
    ]
    for images in problem.select.batches(32):
        clean = problem.model.represent(images.to(problem.device), [stage])[stage]
        before, after = (problem.model.predict_from(one.tensor, stage) for one in (clean, change(clean)))
        if problem.model.task == "detection":
            shares += [_objects_kept(before, after, row) for row in range(len(images))]
        elif problem.model.task == "embedding":
            shares += torch.cosine_similarity(before.logits.flatten(1), after.logits.flatten(1)).tolist()
        else:
            shares += (before.logits.flatten(1).argmax(1) == after.logits.flatten(1).argmax(1)).double().tolist()
    return shares, what


def _objects_kept(before: Prediction, after: Prediction, row: int) -> float:
    """Return the share of an image's detected objects that stay; 1 where there were none."""
    logits, last = before.logits[row], before.logits.shape[2] - 1
    there = logits.argmax(1) < last if before.no_object else logits.sigmoid().amax(1) > OBJECT
    if not bool(there.any()):
        return 1.0
    same = logits.argmax(1) == after.logits[row].argmax(1)
    boxes = [box_convert(each.boxes[row], "cxcywh", "xyxy") for each in (before, after) if each.boxes is not None]
    return float((same & (box_iou(*boxes).diagonal() >= OVERLAP))[there].double().mean())
