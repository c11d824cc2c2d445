"""This process, or one process per model where a CPU has room for them and the run is long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from invsuite._system.devices import pick_devices, processors
from invsuite.benchmark.executors import process, serial
from invsuite.benchmark.executors.base import Job, Placement
from invsuite.benchmark.runner import Reporter, Run, work_left
from invsuite.results.store import Store

if TYPE_CHECKING:
    from invsuite.benchmark.cells import Plan
    from invsuite.results.outcome import RunOutcome

LONG = 5000.0  # image passes of a model from which a process of its own pays: it takes some ten seconds to start


class Executor:
    """An executor that computes here, or in several processes where they are asked for or pay.

    Two threads of one small model mostly wait for each other, so that two processes of one thread each, with a model
    each, need little more than half of the time.
    """

    def __init__(self, placement: Placement) -> None:
        self.device = pick_devices(placement.device)[0]
        self.placement = placement

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Compute model by model in this process, or give each of several models to a process of its own."""
        ahead = Run(plan, Store(job.folder), self.device, report, job.options, {})
        placement = self.chosen(work_left(ahead) if self.room > 1 else {})  # which reads every record
        if placement.executor == "serial":
            return serial.Executor(placement).run(plan, job, report)
        crew = process.Executor(placement)
        if self.device.type == "cpu":
            report.note(
                f"{crew.workers} processes of {crew.threads} threads, a model each (--executor serial: one after the "
                "other in one process)"
            )
        return crew.run(plan, job, report)

    @property
    def room(self) -> int:
        """Return how many processes have cores of their own; on a GPU one."""
        return processors() // (self.placement.threads or 1) if self.device.type == "cpu" else 1

    def chosen(self, left: Mapping[str, float]) -> Placement:
        """Return which executor computes, given the image passes that are ``left`` by model."""
        asked = self.placement
        if asked.workers is not None or "," in asked.device:
            return replace(asked, executor="process")
        workers = min(self.room, sum(passes >= LONG for passes in left.values()))
        if workers > 1:
            threads = asked.threads or min(torch.get_num_threads(), processors() // workers)
            return replace(asked, executor="process", workers=workers, threads=threads)
        return replace(asked, executor="serial", retries=None)
