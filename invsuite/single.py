"""Fit one method to one model and score it, without a suite file: what the front door calls ``fit`` and ``score``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from invsuite._system.devices import pick_device
from invsuite._system.ranks import ALONE, join
from invsuite.apply.images import geometry_of
from invsuite.apply.inverse import Inverse, card_of, model_facts
from invsuite.apply.recorded import RecordedSplit
from invsuite.benchmark.cells import LoadedModel, Plan, find_witness, identity_of_inputs, make_cells
from invsuite.benchmark.fitting import fit_method
from invsuite.benchmark.runner import RunOptions, Session, Silent, begin
from invsuite.benchmark.suite import MethodSpec, ModelSpec, Suite
from invsuite.data.base import Dataset, Source
from invsuite.data.folder import FolderSource
from invsuite.data.geometry import Resampling
from invsuite.data.sources import DataSpec, open_images
from invsuite.data.split import Split, Splits, hold_back
from invsuite.errors import UsageError
from invsuite.methods import make_method
from invsuite.methods.base import Method
from invsuite.methods.problem import Budget, Context, Problem, ProgressHook, silent
from invsuite.metrics import make_metric
from invsuite.models.base import Model
from invsuite.models.load import load_model
from invsuite.report.results import Results
from invsuite.results.store import Store

PASSES = 16_000  # image passes of a trained method where the caller names no budget
HELD_BACK = 64  # selection images that are held back of the fit images, at most, and an eighth of them


@dataclass(frozen=True)
class OpenedImages(Source):
    """Images that are open already."""

    split: Split

    @property
    def count(self) -> int:  # type: ignore[override]
        """Return how many there are."""
        return len(self.split)

    def open(self, size: tuple[int, int], resampling: Resampling) -> Dataset:
        """Return their dataset."""
        return self.split.dataset


def fit(
    method: str | Method,
    model: str | Model,
    stages: Sequence[str],
    images: Split | Source | str,
    *,
    select: Split | Source | str | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    scored: int = 0,
    device: str = "auto",
    progress: ProgressHook = silent,
    checkpoints: Path | None = None,
    together: bool = False,
) -> Inverse:
    """Fit a method to a frozen model, and return the inverse: call it with images, save it, score it.

    Args:
        method: its registered name, or a method with its parameters.
        model: its source (``bundled:vit``, ``timm:vit_base_patch16_224``), or a loaded one.
        stages: to invert, as a person names them (``block03``, ``3``, ``every``); the chain is cut there.
        images: to fit on: opened images, a data source, or the path of a folder of photos, which detectors squash to
            their size and others crop.
        select: images for choosing among fitted weights; by default some are held back of the fit images.
        budget: of a trained method; 16,000 image passes by default.
        seed: of a trained method.
        scored: how many of the fit images, and at most an eighth of them, are held back to score the inverse on; PSNR
            and SSIM are then on its card.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: called with (steps done, steps in all, what a step is).
        checkpoints: folder where training leaves its state now and then: the same call goes on from there after it was
            killed. What is left of a fit is deleted when it is done.
        together: whether the processes that ``torchrun`` started do this fit together, all with this same call. Each
            returns the inverse, with the same numbers as one process but for rounding; the first alone scores it.

    Raises:
        UsageError: for an unknown method, model or stage, fewer images than a batch, or a method that several
            processes cannot fit together.
        Unavailable: if weights or images cannot be had.
        DataError: if fitting changed the model.

    Examples:
        >>> import invsuite
        >>> model = invsuite.load_model("bundled:vit")
        >>> scenes = invsuite.open_images("scenes", model.image_size, seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", model, ["block03"], scenes)
        >>> inverse(scenes.images([0])).shape
        torch.Size([1, 3, 96, 96])
    """
    unit = make_method(method, {}) if isinstance(method, str) else method
    if together and not unit.divides:
        raise UsageError(f"several processes cannot fit '{unit.name}' together: fit it in one, without torchrun")
    place = pick_device(device)
    ranks, place = join(place) if together else (ALONE, place)
    chain = load_model(model) if isinstance(model, str) else model
    chain.to(place)
    fit_images = _opened(images, chain)
    held_back: Split | None = None
    if scored:
        fit_images, held_back = hold_back(fit_images, min(scored, max(1, len(fit_images) // 8)))
    if select is None:
        fit_images, selection = hold_back(fit_images, min(HELD_BACK, max(1, len(fit_images) // 8)))
    else:
        selection = _opened(select, chain)
    spent = budget or Budget(image_passes=PASSES, batch=min(32, len(fit_images)))
    if unit.uses_budget and len(fit_images) < spent.batch:
        raise UsageError(f"{len(fit_images)} fit images are fewer than one batch of {spent.batch}")
    cut = chain.find_stages(stages)
    problem = Problem(chain, cut, cut, fit_images, selection, spent, seed, Context(progress=progress, ranks=ranks))
    facts, state = model_facts(chain), None
    if checkpoints is not None:
        state = checkpoints / card_of(unit, problem, facts).recipe
        problem = replace(problem, context=replace(problem.context, checkpoints=state))
    inverse = Inverse.of(fit_method(unit, problem, facts.fingerprint))
    if not ranks.first:
        return inverse
    if state is not None:
        shutil.rmtree(state, ignore_errors=True)
    return inverse if held_back is None or not inverse.stages else inverse.with_quality(score(inverse, held_back))


def score(
    inverse: Inverse,
    images: Split | Source | str,
    metrics: Sequence[str] = ("psnr", "ssim"),
    *,
    edits: int = 8,
    witness: str = "",
    folder: Path | None = None,
) -> Results:
    """Score an inverse on images that it has not seen.

    Of one that was loaded the images that it was fitted on are not there: measures that look at them are skipped.

    Args:
        inverse: by `fit`, or loaded; `Inverse.with_quality` puts the results on its card.
        images: to score on: opened images, a data source, or the path of a folder of photos.
        metrics: names of measures.
        edits: how many images measures that edit an object use.
        witness: source of a second model, for measures that ask one that the method has not seen.
        folder: where records and pictures are written; by default nothing is kept.

    Raises:
        UsageError: for an unknown measure, or images that the method was fitted on.
        Unavailable: if images cannot be had.

    Examples:
        >>> import invsuite
        >>> model = invsuite.load_model("bundled:vit")
        >>> images = [invsuite.open_images("scenes", model.image_size, seed=seed, count=8) for seed in (1, 2)]
        >>> inverse = invsuite.fit("mean", model, ["block03"], images[0])
        >>> results = invsuite.score(inverse, images[1], ["psnr"])
        >>> results.to_frame()[["method", "stage", "measure", "n"]].values.tolist()
        [['mean', 'block03', 'psnr', 8]]
    """
    method, problem = inverse.method, inverse.problem
    model = problem.model
    scored = _opened(images, model)
    _check_apart(problem, scored)
    splits = Splits(problem.fit, problem.select, scored)
    spec = ModelSpec(model.name, model.origin.source, model.order([*problem.cut, *problem.stages]), witness)
    row = MethodSpec(inverse.card.method.row, method)
    units = tuple(make_metric(name) for name in metrics)
    suite = Suite(
        name="score",
        title=f"{row.name} on {model.name}",
        seeds=(problem.seed,),
        metrics=tuple(metrics),
        edits=edits,
        budget=problem.budget,
        data=DataSpec(OpenedImages(splits.fit), OpenedImages(splits.select), OpenedImages(splits.score)),
        models=(spec,),
        methods=(row,),
        engine=problem.context.engine,
    )
    cells = make_cells(suite, spec, problem.stages, [row], suite.seeds, identity_of_inputs(model, splits))
    second = find_witness(spec, model, any(unit.uses_witness for unit in units), lambda text: None)
    entry = LoadedModel(spec, model, splits, cells, second)
    with tempfile.TemporaryDirectory(prefix="invsuite-score-") as temporary:
        store = Store(folder or Path(temporary))
        plan = Plan(suite, units, (entry,))
        run = begin(plan, store, model.device, Silent(), RunOptions(redo="all", keep_bytes=0))
        session = Session(run, entry, trained=0)
        if session.problem is not None:
            raise UsageError(f"'{model.name}' cannot be scored: {session.problem['reason']}")
        session.invert(session.shared_fit(cells[0].fit_id, cells, inverse.fitted), cells)
        records = [record for cell in cells if (record := store.read(cell.id)) is not None]
    return Results(records, stores={str(folder): store} if folder else {})


def _opened(images: Split | Source | str, model: Model) -> Split:
    if isinstance(images, Split):
        size = tuple(images.images(slice(0, 1)).shape[-2:]) if len(images) else model.image_size
        if size != model.image_size:
            raise UsageError(
                f"the images have {size[0]} x {size[1]} pixels, and '{model.name}' takes {model.image_size[0]} x "
                f"{model.image_size[1]}: open them with invsuite.open_images(..., model.image_size)"
            )
        return images
    if isinstance(images, str):
        images = FolderSource(images, geometry=geometry_of(model).mode)
    return open_images(images, model.image_size, model.resampling)


def _check_apart(problem: Problem, scored: Split) -> None:
    """Raise `UsageError` if images to score were among those of a fit of which only their content's digits are kept."""
    digits = set(scored.content())
    for name, split in (("fit", problem.fit), ("select", problem.select)):
        if isinstance(split, RecordedSplit) and (shared := digits & set(split.content())):
            raise UsageError(
                f"{len(shared)} of the images to score are in the {name} images of the inverse: leave them out"
            )
