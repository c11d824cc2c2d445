"""The fit that cells share: computed when one of them needs it, or restored from what an earlier run kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from invsuite._system.provenance import device_name, set_determinism
from invsuite._system.ranks import ALONE, Ranks
from invsuite._system.timing import Meter
from invsuite.benchmark.cells import IDENTITY_OF_INPUTS, Cell, LoadedModel
from invsuite.benchmark.suite import Suite
from invsuite.data.photo_files import telling
from invsuite.errors import (
    ConvergenceError,
    DataError,
    NotApplicable,
    PartedError,
    Unavailable,
    UsageError,
    one_line,
)
from invsuite.methods.base import FitCost, Fitted, Method
from invsuite.methods.problem import Budget, Context, Engine, Problem, ProgressHook, fit_alone, silent
from invsuite.methods.training.features import FeatureCache
from invsuite.results.kept import KeptTensors

#: what a fit raises in all processes that do it together: it follows from what they all know
ALIKE = (NotApplicable, ConvergenceError, UsageError, Unavailable, DataError)


@dataclass(frozen=True)
class SharedTask:
    """A fit for the processes that do it together.

    Attributes:
        model: its name in the suite.
        inputs: what tells its weights and images from others (`inputs_of`).
        method: with its parameters.
        stages: to invert.
        budget: of the method.
        seed: of the fit.
        checkpoints: folder where the fit leaves its state.
        users: how many fits are trained on the model.
    """

    model: str
    inputs: tuple[object, ...]
    method: Method
    stages: tuple[str, ...]
    budget: Budget
    seed: int
    checkpoints: Path
    users: int

    def problem(
        self,
        entry: LoadedModel,
        engine: Engine,
        features: FeatureCache,
        ranks: Ranks,
        progress: ProgressHook = silent,
        fit: Callable[[Method, Problem], Fitted] = fit_alone,
    ) -> Problem:
        """Return the problem that the fit solves."""
        model, splits = entry.model, entry.splits
        return Problem(
            model=model,
            stages=self.stages,
            cut=model.order(entry.spec.stages),
            fit=splits.fit,
            select=splits.select,
            budget=self.budget,
            seed=self.seed,
            context=Context(progress, engine, features, checkpoints=self.checkpoints, fit=fit, ranks=ranks),
        )


def inputs_of(entry: LoadedModel) -> tuple[object, ...]:
    """Return what tells the weights and images of a model's cells from others."""
    return tuple(entry.cells[0].identity.get(part) for part in IDENTITY_OF_INPUTS)


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
    if not problem.context.ranks.alone:
        for stage in fitted.notes:
            fitted.notes[stage]["processes"] = problem.context.ranks.count
    fitted.method, fitted.problem = method, problem
    fitted.cost.total_seconds += meter.seconds
    fitted.cost.peak_bytes = max(fitted.cost.peak_bytes, meter.peak_bytes)
    fitted.cost.busy, fitted.cost.device = meter.busy, device_name(problem.device)
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
        ranks: the processes that do the fit together where the method divides; this is the first.
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
        ranks: Ranks = ALONE,
    ) -> None:
        self.suite, self.entry, self.fit_id, self.cells = suite, entry, fit_id, cells
        self.method, self.seed = cells[0].method.method, cells[0].seed
        self.checkpoints = checkpoints
        self._fingerprint, self._features, self._kept = fingerprint, features, kept
        self._progress, self._other = progress, other
        self._fitted: Fitted | Exception | None = fitted
        self._ranks, self._shared = ranks if self.method.divides else ALONE, not ranks.alone

    def get(self) -> Fitted:
        """Return the fitted method: what was fitted before, else the kept inverter, else one that is fitted now.

        Raises:
            Exception: whatever fitting raised, again for every cell.
        """
        return self._once(lambda: self._restored() or self._fit())

    def get_with_cost(self) -> Fitted:
        """Return the same; one that was fitted on another device, whose seconds are not this one's, is fitted anew.

        Raises:
            Exception: whatever fitting raised, again for every cell.
        """
        return self._once(lambda: self._restored(device_name(self.entry.model.device)) or self._fit())

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
        task = self._task(self.entry.model.order(list(together)))
        self._ranks.agree(task)  # which the others wait for
        if self._shared and self._ranks.alone and self.method.uses_budget:
            self._features.log(f"'{self.method.name}' cannot be shared: the first process fits it alone")
        problem = self._problem(task, self._progress())
        try:
            with telling(self._features.log):
                fitted = fit_method(self.method, problem, self._fingerprint)
        except ALIKE:
            raise
        except Exception as error:
            if self._ranks.alone:
                raise
            raise PartedError(
                f"the processes that fitted '{self.method.name}' together are out of step, run the same command again: "
                f"{one_line(error)}"
            ) from error
        tensors = fitted.inverter.tensors()
        if tensors is not None:
            stages = [stage for stage in problem.stages if stage not in fitted.refused]
            self._kept.keep_inverter(self.fit_id, stages, tensors, fitted.notes, asdict(fitted.cost))
        return fitted

    def _restored(self, device: str = "") -> Fitted | None:
        """Return the fitted method with a kept inverter and what its fit took; None if none is kept for the stages.

        Args:
            device: on which it must have been fitted, where that is known; "" for any.
        """
        kept = self._kept.inverter(self.fit_id, [cell.stage for cell in self.cells], self.entry.model.device)
        if kept is None:
            return None
        own = kept.cost.get("device", "")
        if device and own and own != device:
            self._features.log(f"'{self.method.name}' was fitted on {own}: fitted anew, for its seconds are wanted")
            return None
        problem = self._problem(self._task(kept.stages))
        inverter = self.method.restore(problem, kept.tensors, kept.notes)
        return None if inverter is None else Fitted(inverter, FitCost(**kept.cost), kept.notes, problem=problem)

    def _task(self, stages: Sequence[str]) -> SharedTask:
        return SharedTask(
            self.entry.spec.name,
            inputs_of(self.entry),
            self.method,
            tuple(stages),
            self.cells[0].method.budget(self.suite.budget),
            self.seed,
            self.checkpoints,
            self._features.users,
        )

    def _problem(self, task: SharedTask, progress: ProgressHook = silent) -> Problem:
        return task.problem(self.entry, self.suite.engine, self._features, self._ranks, progress, self._other)
