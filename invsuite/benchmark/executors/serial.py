"""All cells, one after the other, in this process."""

from __future__ import annotations

import torch

from invsuite._system.devices import pick_device
from invsuite.benchmark.cells import Plan
from invsuite.benchmark.executors.base import Job, Placement
from invsuite.benchmark.runner import Reporter, run
from invsuite.results.outcome import RunOutcome
from invsuite.results.store import Store


class Executor:
    """An executor without workers."""

    def __init__(self, placement: Placement) -> None:
        self.device = pick_device(placement.device)
        if placement.threads is not None:
            torch.set_num_threads(placement.threads)

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Compute model by model and fit by fit."""
        return run(plan, Store(job.folder), self.device, report, job.options)
