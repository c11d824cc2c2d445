"""The processes that ``torchrun`` started: the first runs the suite, and all do each fit together that can be shared.

The others wait. Where a fit begins whose method several processes can share (`Method.divides`), the first tells them
which; they do it with it and drop what comes of it. The first inverts, scores and writes, and does all other fits.
"""

from __future__ import annotations

import torch

from invsuite._system.devices import pick_device
from invsuite._system.ranks import join
from invsuite.benchmark.cells import LoadedModel, Plan
from invsuite.benchmark.executors.base import Job, Placement
from invsuite.benchmark.fitting import ALIKE, SharedTask, fit_method, inputs_of
from invsuite.benchmark.runner import Reporter, run
from invsuite.errors import DataError, LostWorkerError, UsageError
from invsuite.methods.training.features import FeatureCache
from invsuite.results.outcome import RunOutcome
from invsuite.results.store import Store


class Executor:
    """An executor whose processes were started before it, each with the same command line."""

    def __init__(self, placement: Placement) -> None:
        self.ranks, self.device = join(pick_device(placement.device))
        if placement.threads is not None:
            torch.set_num_threads(placement.threads)

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Compute model by model and fit by fit; a process that is not the first ends here.

        Raises:
            SystemExit: in the other processes, when the run is over.
            UsageError: for a limit on the time of a cell, which the processes would not reach together.
        """
        if job.options.cell_seconds is not None:
            raise UsageError("--cell-seconds is not for processes that torchrun started: leave it out")
        if self.ranks.first:
            outcome = run(plan, Store(job.folder), self.device, report, job.options, self.ranks)
            self.ranks.agree(None)
            return outcome
        self._help(plan)
        raise SystemExit(0)

    def _help(self, plan: Plan) -> None:
        """Take part in one fit after the other until the first process says that there are no more."""
        entry: LoadedModel | None = None
        features = FeatureCache()
        while (task := self._next()) is not None:
            if entry is None or entry.spec.name != task.model:
                features.close()
                if entry is not None:
                    entry.model.to("cpu")
                entry = _entry(plan, task)
                entry.model.to(self.device)
                features = FeatureCache(plan.suite.engine.cache, task.users)
            problem = task.problem(entry, plan.suite.engine, features, self.ranks)
            try:
                fit_method(task.method, problem, entry.model.fingerprint())
            except ALIKE:
                continue  # the first process records it

    def _next(self) -> SharedTask | None:
        try:
            return self.ranks.agree(NO_TASK)
        except RuntimeError as error:
            raise LostWorkerError("the first of the processes that torchrun started is gone") from error


NO_TASK: SharedTask | None = None


def _entry(plan: Plan, task: SharedTask) -> LoadedModel:
    """Return the model of a task, with its images.

    Raises:
        DataError: if it, or an image, is another here than where the run was planned.
    """
    for entry in plan.models:
        if isinstance(entry, LoadedModel) and entry.spec.name == task.model and inputs_of(entry) == task.inputs:
            return entry
    raise DataError(
        f"weights or images of model '{task.model}' are others in one of the processes that torchrun started: put them "
        "on storage that all see"
    )
