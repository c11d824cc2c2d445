"""The fit that cells share: computed when one of them needs it, or restored from what an earlier run kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from invsuite._system.provenance import set_determinism
from invsuite._system.timing import Meter
from invsuite.benchmark.cells import Cell, LoadedModel
from invsuite.benchmark.suite import Suite
from invsuite.data.photo_files import telling
from invsuite.errors import DataError
from invsuite.methods.base import FitCost, Fitted, Method
from invsuite.methods.problem import Context, Problem, ProgressHook
from invsuite.methods.training.features import FeatureCache
from invsuite.results.kept import KeptTensors


def fit_method(method: Method, problem: Problem, fingerprint: str) -> Fitted:
    """Fit ``method``, with the seed set and kernels deterministic; what it took is counted.

    The images that it reads are decoded before, which costs every method the same and none of them anything.

    Args:
        method: with its parameters.
        problem: what it may look at.
        fingerprint: of the model's weights, which fitting must not change.

    Raises:
        DataError: if fitting changed the weights of the model.
    """
    if method.reads_fit or method.uses_budget:
        problem.fit.prepare()
        problem.select.prepare()
    set_determinism(problem.seed)
    with Meter(problem.device) as meter:
        fitted = method.fit_stages(problem)
    if problem.model.fingerprint() != fingerprint:
        raise DataError(f"fitting '{method.name}' changed the weights of model '{problem.model.name}'")
    fitted.method, fitted.problem = method, problem
    fitted.cost.total_seconds += meter.seconds
    fitted.cost.peak_bytes = max(fitted.cost.peak_bytes, meter.peak_bytes)
    fitted.cost.busy = meter.busy
    return fitted


class SharedFit:
    """One fit of a run, for the cells that share it.

    Args:
        suite: its engine, and the budget of methods that have none of their own.
        entry: the model.
        fit_id: name of the fit.
        cells: those that share it and are computed now.
        fingerprint: of the model's weights.
        features: representations kept between fits.
        kept: where inverters are kept.
        checkpoints: where training leaves its state.
        progress: starts the display of a fit's progress.
        other: gives the fit of another method, for one that builds on it.
        fitted: the fitted method, where it was fitted before.
    """

    def __init__(
        self,
        suite: Suite,
        entry: LoadedModel,
        fit_id: str,
        cells: Sequence[Cell],
        fingerprint: str,
        features: FeatureCache,
        kept: KeptTensors,
        checkpoints: Path,
        progress: Callable[[], ProgressHook],
        other: Callable[[Method, Problem], Fitted],
        fitted: Fitted | None = None,
    ) -> None:
        self.suite, self.entry, self.fit_id, self.cells = suite, entry, fit_id, cells
        self.method, self.seed = cells[0].method.method, cells[0].seed
        self.checkpoints = checkpoints
        self._fingerprint, self._features, self._kept = fingerprint, features, kept
        self._progress, self._other = progress, other
        self._fitted: Fitted | Exception | None = fitted

    def get(self) -> Fitted:
        """Return the fitted method: what was fitted before, else the kept inverter, else one that is fitted now.

        Raises:
            Exception: whatever fitting raised, again for every cell.
        """
        return self._once(lambda: self._restored() or self._fit())

    def fit(self) -> Fitted:
        """Return the fitted method, fitted now with its costs, unless this run did so before.

        Raises:
            Exception: whatever fitting raised, again for every cell.
        """
        return self._once(self._fit)

    def _once(self, make: Callable[[], Fitted]) -> Fitted:
        if self._fitted is None:
            try:
                self._fitted = make()
            except Exception as error:
                self._fitted = error
        if isinstance(self._fitted, Exception):
            raise self._fitted
        return self._fitted

    def _fit(self) -> Fitted:
        # a fit that was killed while its cells were scored is whole on disk, for all its stages
        together = {cell.stage for cell in self.cells}
        if self.checkpoints.is_dir():
            together |= {cell.stage for cell in self.entry.cells if cell.fit_id == self.fit_id}
        problem = self._problem(self.entry.model.order(list(together)), self._progress())
        with telling(self._features.log):
            fitted = fit_method(self.method, problem, self._fingerprint)
        tensors = fitted.inverter.tensors()
        if tensors is not None:
            stages = [stage for stage in problem.stages if stage not in fitted.refused]
            self._kept.keep_inverter(self.fit_id, stages, tensors, fitted.notes, asdict(fitted.cost))
        return fitted

    def _restored(self) -> Fitted | None:
        """Return the fitted method with a kept inverter and what its fit took; None if none is kept for the stages."""
        kept = self._kept.inverter(self.fit_id, [cell.stage for cell in self.cells], self.entry.model.device)
        if kept is None:
            return None
        problem = self._problem(kept.stages)
        inverter = self.method.restore(problem, kept.tensors, kept.notes)
        return None if inverter is None else Fitted(inverter, FitCost(**kept.cost), kept.notes, problem=problem)

    def _problem(self, stages: Sequence[str], progress: ProgressHook | None = None) -> Problem:
        model, splits = self.entry.model, self.entry.splits
        context = Context(
            engine=self.suite.engine, features=self._features, checkpoints=self.checkpoints, fit=self._other
        )
        if progress is not None:
            context = replace(context, progress=progress)
        return Problem(
            model=model,
            stages=tuple(stages),
            cut=model.order(self.entry.spec.stages),
            fit=splits.fit,
            select=splits.select,
            budget=self.cells[0].method.budget(self.suite.budget),
            seed=self.seed,
            context=context,
        )
