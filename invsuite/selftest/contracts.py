"""The contracts that every method, measure, model adapter and data source keeps, tried on tiny problems.

`invsuite selftest NAME` holds a unit against them, also one of a plug-in; the suite's own tests hold all built-in ones.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from tabulate import tabulate

from invsuite._system.validation import build
from invsuite.benchmark.scoring import invert_batch
from invsuite.data.base import Dataset, Sample, check_images
from invsuite.data.geometry import BICUBIC
from invsuite.data.scenes import Scenes
from invsuite.data.split import Split
from invsuite.errors import InvsuiteError, NotApplicable, Unavailable, unknown_name
from invsuite.methods import make_method
from invsuite.methods.base import Fitted, Method
from invsuite.methods.checks import check_inverter
from invsuite.methods.problem import Budget, Problem
from invsuite.metrics.base import Direction, Metric, Scoring, Subject, Values
from invsuite.models.base import Model
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.models.load import load_model
from invsuite.registry import ADAPTERS, METHODS, METRICS, SOURCES
from invsuite.results.statistics import distance_from_best

STAGES = ("embed", "block03")
IMAGES = 6  # scored images of a trial
SIZE = (96, 96)
SAME = 1e-3  # largest difference, of its scale, between a value computed alone and in a batch


class BrokenContractError(Exception):
    """A contract that a unit does not keep, with what happened instead."""


@dataclass(frozen=True)
class Contract:
    """One thing that every unit of a kind must do.

    Attributes:
        claim: what, in a sentence.
        hold: raises `BrokenContractError`, or an error of the suite, where a unit does not.
    """

    claim: str
    hold: Callable[[Any], None]


@dataclass(frozen=True)
class ContractVerdict:
    """What came of one contract.

    Attributes:
        kind: of the unit.
        unit: its name.
        claim: of the contract.
        problem: how the unit breaks it; "" where it does not.
        untried: why it could not be tried here; "" where it was.
    """

    kind: str
    unit: str
    claim: str
    problem: str = ""
    untried: str = ""

    @property
    def outcome(self) -> str:
        """Return the verdict in words."""
        if self.problem:
            return f"BROKEN: {self.problem}"
        return f"not tried: {self.untried}" if self.untried else "kept"


def check_unit(name: str, parameters: Mapping[str, Any] | None = None) -> list[ContractVerdict]:
    """Hold the unit of this name against the contracts of its kind.

    Args:
        name: of a method, a measure or a kind of data, or a model's source (``adapter:name``).
        parameters: of the method or measure, or the keys of the data source, as a suite file gives them.

    Raises:
        UsageError: if nothing has this name, or a parameter does not fit.
    """
    tree = dict(parameters or {})
    if ":" in name and name.partition(":")[0] in ADAPTERS:
        return try_contracts("model", name, MODEL_CONTRACTS, load_model(name, "model"))
    if name in METHODS:
        return try_contracts("method", name, METHOD_CONTRACTS, MethodTrial(make_method(name, tree)))
    if name in METRICS:
        return try_contracts("measure", name, METRIC_CONTRACTS, MetricTrial(build(METRICS[name], tree, name)))
    if name in SOURCES:
        return try_contracts("kind of data", name, SOURCE_CONTRACTS, build(SOURCES[name], tree, name))
    raise unknown_name("method, metric, kind of data or model source", name, [*METHODS, *METRICS, *SOURCES])


def try_contracts(kind: str, unit: str, contracts: Sequence[Contract], subject: object) -> list[ContractVerdict]:
    """Hold ``subject``, a trial of the unit, against every one of ``contracts``."""
    verdicts = []
    for contract in contracts:
        problem = untried = ""
        try:
            contract.hold(subject)
        except (NotApplicable, Unavailable) as error:
            untried = str(error)
        except (BrokenContractError, InvsuiteError) as error:
            problem = str(error)
        except Exception as error:  # of a unit that nobody has tried before
            problem = f"{type(error).__name__}: {error}"
        verdicts.append(ContractVerdict(kind, unit, contract.claim, problem, untried))
    return verdicts


def contracts_table(verdicts: Sequence[ContractVerdict]) -> str:
    """Return the verdicts for people."""
    body = [[verdict.claim, verdict.outcome] for verdict in verdicts]
    head = [f"Contract of a {verdicts[0].kind}", verdicts[0].unit]
    kept = sum(verdict.outcome == "kept" for verdict in verdicts)
    table = tabulate(body, head, tablefmt="simple", maxcolwidths=[50, 70])
    return f"{table}\n\n{kept} of {len(verdicts)} contracts kept"


def little_split(seed: int, count: int) -> Split:
    """Return ``count`` scenes of 96 px."""
    return Split(Scenes(seed, count, SIZE[0]), tuple(range(count)))


def require(condition: object, problem: str) -> None:
    """Raise `BrokenContractError` with ``problem`` unless ``condition`` holds."""
    if not condition:
        raise BrokenContractError(problem)


def require_docstring(unit: object) -> None:
    """Raise `BrokenContractError` if a class or function has no docstring of its own."""
    text = inspect.getdoc(unit) or ""
    require(text and not text.startswith(f"{getattr(unit, '__name__', '')}("), "it has no docstring: say what it does")


# --- methods


class MethodTrial:
    """A method fitted on a tiny problem: the bundled ViT, 24 scenes, 32 image passes."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.model = load_model("bundled:vit")
        budget = Budget(image_passes=32, batch=16)
        self.problem = Problem(self.model, STAGES, STAGES, little_split(71, 24), little_split(72, 8), budget, seed=0)
        self.images = little_split(73, IMAGES).images(slice(None))
        self.fingerprint = self.model.fingerprint()

    @cached_property
    def fitted(self) -> Fitted:
        """Return the fitted method."""
        return self.fit()

    @property
    def stages(self) -> list[str]:
        """Return the stages that the method applies to."""
        return [stage for stage in STAGES if stage not in self.fitted.refused]

    def fit(self) -> Fitted:
        """Return the method fitted anew, from the same random numbers every time."""
        torch.manual_seed(self.problem.seed)
        return self.method.fit(self.problem)

    def reconstructions(self, fitted: Fitted, stage: str, rows: slice = slice(None)) -> torch.Tensor:
        """Return what ``fitted`` makes of the model's representations of the scored images."""
        return invert_batch(self.model, stage, fitted.inverter, self.images[rows])


def _method_facts(trial: MethodTrial) -> None:
    method = trial.method
    require_docstring(type(method))
    for fact in ("name", "family", "source"):
        require(isinstance(getattr(method, fact, None), str), f"its class has no text '{fact}'")
    params = json.loads(json.dumps(method.params()))
    # those that `CAME_LATER` may lack
    given = {field.name: params[field.name] for field in fields(method) if field.name in params}
    again = make_method(method.name, given)
    require(again == method, f"its parameters {params} do not make it again")


def _method_model(trial: MethodTrial) -> None:
    for stage in trial.stages:
        trial.reconstructions(trial.fitted, stage)
    trial.model.check_frozen()
    require(trial.model.fingerprint() == trial.fingerprint, "it changed the model's weights")


def _method_images(trial: MethodTrial) -> None:
    if not trial.stages:
        raise NotApplicable(str(next(iter(trial.fitted.refused.values()))))
    for stage in trial.stages:
        images = trial.reconstructions(trial.fitted, stage)
        shapes = f"{tuple(images.shape)} from {tuple(trial.images.shape)}"
        require(images.shape == trial.images.shape, f"reconstructions are {shapes} at '{stage}'")
        check_images(images, f"reconstructions at '{stage}'")
        check_inverter(trial.fitted.inverter, f"'{trial.method.name}'")


def _method_batches(trial: MethodTrial) -> None:
    if trial.fitted.inverter.iterations and trial.method.seeded:
        raise NotApplicable("the random start of an image depends on its place in the batch")
    for stage in trial.stages:
        together = trial.reconstructions(trial.fitted, stage)[1:2]
        alone = trial.reconstructions(trial.fitted, stage, slice(1, 2))
        off = float((together - alone).abs().max())
        require(off < SAME, f"an image alone and in a batch differ by {off:.3g} at '{stage}'")


def _method_repeats(trial: MethodTrial) -> None:
    again = trial.fit()
    for stage in trial.stages:
        pair = [trial.reconstructions(fitted, stage) for fitted in (trial.fitted, again)]
        off = float((pair[0] - pair[1]).abs().max())
        require(off == 0, f"fitted again with the same seed it differs by {off:.3g} at '{stage}'")


def _method_cost(trial: MethodTrial) -> None:
    if not trial.method.uses_budget:
        raise NotApplicable("it uses no budget")
    cost = trial.fitted.cost
    for stage in trial.stages:
        require(cost.image_passes.get(stage), f"it names no image passes at '{stage}'")
        counted = cost.fit_flops.get(stage) or trial.method.family == "floor"
        require(counted, f"it counts no operations at '{stage}'")


def _method_kept(trial: MethodTrial) -> None:
    tensors = trial.fitted.inverter.tensors()
    if tensors is None:
        raise NotApplicable("its inverter gives no tensors to keep: a measure that is added later fits it again")
    problem = replace(trial.problem, stages=tuple(trial.stages))
    restored = trial.method.restore(problem, tensors, trial.fitted.notes)
    if restored is None:
        raise BrokenContractError("its inverter gives tensors, and 'restore' makes nothing of them")
    for stage in trial.stages:
        own = trial.reconstructions(trial.fitted, stage)
        other = trial.reconstructions(replace(trial.fitted, inverter=restored), stage)
        require(torch.equal(own, other), f"the restored inverter differs at '{stage}'")


METHOD_CONTRACTS = (
    Contract("It says what it is, and its parameters make it again.", _method_facts),
    Contract("It leaves the model frozen, in eval mode and unchanged.", _method_model),
    Contract("It reconstructs images of the right shape in [0, 1], with its networks in eval mode.", _method_images),
    Contract("An image is reconstructed alike alone and in a batch.", _method_batches),
    Contract("The same seed gives the same reconstructions.", _method_repeats),
    Contract("It counts what its training cost.", _method_cost),
    Contract("Its inverter, kept and restored, gives the same reconstructions.", _method_kept),
)


# --- measures


class MetricTrial:
    """A measure of reconstructions whose order is known: a copy, a blurred copy, and one grey image for all."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.model = load_model("bundled:vit")
        self.scored, self.fit = little_split(74, IMAGES), little_split(75, 12)

    def values(self, reconstruct: Callable[[torch.Tensor], torch.Tensor], edits: int = 3) -> Values:
        """Return what the measure says of reconstructions by ``reconstruct``.

        Raises:
            Unavailable: if something that it needs is not here.
            NotApplicable: if it does not apply to scenes and the bundled ViT.
        """
        self.metric.prepare(torch.device("cpu"))
        images = self.scored.images(slice(None))
        subject = Subject(
            self.model, STAGES, self.scored.samples(), images, self.fit, edits, self.scored.dataset.classes
        )

        def invert(tensor: torch.Tensor) -> torch.Tensor:
            return reconstruct(images[: len(tensor)])

        return self.metric.compute(Scoring(subject, STAGES[1], reconstruct(images), reconstruct, invert))

    @cached_property
    def levels(self) -> dict[str, Values]:
        """Return what the measure says of each kind of reconstruction."""
        return {
            "a copy": self.values(_copy),
            "a blurred copy": self.values(_blur),
            "one grey image": self.values(_grey),
        }


def _copy(images: torch.Tensor) -> torch.Tensor:
    return images.clone()


def _blur(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False).clamp(0, 1)


def _grey(images: torch.Tensor) -> torch.Tensor:
    return torch.full_like(images, 0.5)


def _metric_facts(trial: MetricTrial) -> None:
    metric = trial.metric
    require_docstring(type(metric))
    require(metric.label, "it has no label for tables")
    require(metric.direction in get_args(Direction), f"its direction is {metric.direction!r}")
    require(metric.tolerance > 0, f"its tolerance is {metric.tolerance}: a check would fail on rounding")
    require(metric.digits >= 0, f"its digits are {metric.digits}")


def _metric_values(trial: MetricTrial) -> None:
    for name, values in trial.levels.items():
        require(len(values.per_image) == IMAGES, f"{len(values.per_image)} values for {IMAGES} images of {name}")
        wrong = [value for value in values.per_image if value is not None and not isinstance(value, float | int)]
        require(not wrong, f"a value of {name} is {wrong[:1]}, expected a float or None")
        defined = any(value is not None for value in values.per_image)
        require(defined or values.undefined, f"no value is defined for {name}, and no reason is given")


def _metric_moves(trial: MetricTrial) -> None:
    copy, grey, direction = trial.levels["a copy"], trial.levels["one grey image"], trial.metric.direction
    if not any(value is not None for value in copy.per_image):
        raise NotApplicable(f"it is not defined here: {copy.undefined}")
    if copy.per_image == grey.per_image:  # of representations, not of reconstructions
        require(len(set(copy.per_image)) > 1, "all images score the same, whether reconstructed as a copy or in grey")
        return
    if not any(value is not None for value in grey.per_image):
        raise NotApplicable(f"it is not defined for a grey image: {grey.undefined}")
    better, worse = (
        distance_from_best(direction, np.array([v for v in values.per_image if v is not None])).mean()
        for values in (copy, grey)
    )
    require(not better > worse, f"a copy scores worse than one grey image, though better is '{direction}'")


def _metric_edits(trial: MetricTrial) -> None:
    few, many = (trial.values(_blur, edits).per_image for edits in (1, 3))
    require(trial.metric.uses_edits or few == many, "it depends on how many images are edited: set uses_edits = True")


METRIC_CONTRACTS = (
    Contract("It says what it is: label, direction, digits, tolerance, a docstring.", _metric_facts),
    Contract("It gives one finite value or None per image, with a reason where none is defined.", _metric_values),
    Contract("It is no constant, and does not prefer one grey image to a copy.", _metric_moves),
    Contract("It declares whether it depends on how many images are edited.", _metric_edits),
)


# --- models


def _probe(model: Model) -> torch.Tensor:
    return torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(0))


def _model_chain(model: Model) -> None:
    check_chain(model, _probe(model))
    check_normalisation(model)


def _model_frozen(model: Model) -> None:
    model.check_frozen()
    fingerprint = model.fingerprint()
    model.represent(_probe(model), model.stages)
    require(model.fingerprint() == fingerprint, "a forward pass changed its weights or buffers")


def _model_layouts(model: Model) -> None:
    images = _probe(model)
    for stage, representation in model.represent(images, model.stages).items():
        require(representation.tensor.isfinite().all(), f"its representation at '{stage}' holds NaN or infinity")
        again = model.represent(images, [stage])[stage].tensor
        require(torch.equal(representation.tensor, again), f"two passes differ at '{stage}'")


def _model_batches(model: Model) -> None:
    images = _probe(model)
    for stage, representation in model.represent(images, model.stages).items():
        alone = model.represent(images[:1], [stage])[stage].tensor
        scale = float(representation.tensor.abs().max()) or 1.0
        off = float((representation.tensor[:1] - alone).abs().max()) / scale
        require(off < SAME, f"alone and in a batch it differs by {off:.3g} of its scale at '{stage}'")


def _model_gradients(model: Model) -> None:
    images = _probe(model).requires_grad_()
    model.run(images, None, model.stages[0]).square().mean().backward()
    require(images.grad is not None and float(images.grad.abs().max()) > 0, "no gradient reaches the pixels")


def _model_origin(model: Model) -> None:
    require(model.origin.source and model.origin.sha256, "its weights have no source or no digest")


MODEL_CONTRACTS = (
    Contract("Its chain is its network's own forward pass, normalised as the checkpoint says.", _model_chain),
    Contract("It is frozen, in eval mode, and a forward pass changes nothing.", _model_frozen),
    Contract("Every stage has the layout it declares, finite values, and the same values twice.", _model_layouts),
    Contract("An image has the same representation alone and in a batch.", _model_batches),
    Contract("Gradients reach the pixels.", _model_gradients),
    Contract("It says where its weights come from.", _model_origin),
)


# --- data


def _open(source: Any) -> Dataset:
    dataset: Dataset = source.open(SIZE, BICUBIC)
    require(len(dataset) > 0, "it holds no image")
    return dataset


def _samples(dataset: Dataset) -> list[Sample]:
    return [dataset[index] for index in range(min(4, len(dataset)))]


def _source_images(source: Any) -> None:
    for sample in _samples(_open(source)):  # a sample checks its range and its masks itself
        size = tuple(sample.image.shape[-2:])
        require(size == SIZE, f"image '{sample.key}' is {size}, not {SIZE} as the model takes it")
        require(sample.key, "an image has no key")


def _source_repeats(source: Any) -> None:
    first, second = _open(source), _open(source)
    require(first.digest() == second.digest(), "opened twice, its digests differ")
    for one, two in zip(_samples(first), _samples(second), strict=True):
        require(torch.equal(one.image, two.image), f"opened twice, image '{one.key}' differs")


def _source_identities(source: Any) -> None:
    dataset = _open(source)
    contents = {dataset.identity(index) for index in range(len(dataset))}
    require(len(contents) == len(dataset), f"{len(dataset)} images have {len(contents)} identities")


SOURCE_CONTRACTS = (
    Contract("Its images are RGB in [0, 1], of the size that a model takes, masks too.", _source_images),
    Contract("LoadedModel twice it gives the same images and the same digest.", _source_repeats),
    Contract("Every image has an identity of its own.", _source_identities),
)
