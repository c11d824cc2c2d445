"""What every executor is, and what travels between a parent and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from invsuite.benchmark.cells import Cell, Plan, Selection
from invsuite.benchmark.runner import Reporter, RunOptions
from invsuite.benchmark.suite import ModelSpec, Suite
from invsuite.errors import InvsuiteError
from invsuite.results.outcome import RunOutcome

RETRIES = 2  # how often a fit is tried again whose worker was lost, if nothing else is said


@dataclass(frozen=True)
class Placement:
    """Where cells are computed; None leaves the choice to the executor.

    Attributes:
        executor: a name of `invsuite.benchmark.executors.EXECUTORS`. With ``torchrun`` the first process computes the
            suite; the others help with its fits, and end when it is done.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``; several, comma-separated, for ``process``.
        workers: how many compute at the same time.
        threads: CPU threads of each, and what it asks of Ray. They change the order of sums, and so the last digits
            of a number on a CPU: by default a worker has as many there as the whole run would have in one process.
        gpus: what share of a GPU each worker asks of Ray, 0 to 1.
        address: of the Ray cluster; ``auto`` finds the one of this machine.
        retries: how often a fit is tried again whose worker was lost.

    Examples:
        >>> import invsuite
        >>> placement = invsuite.Placement("process", device="cpu", workers=2, threads=1)
        >>> invsuite.run("quick", placement=placement)  # doctest: +SKIP
    """

    executor: str = "serial"
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    gpus: float | None = None
    address: str | None = None
    retries: int | None = None


@dataclass(frozen=True)
class Job:
    """What is computed, and into which folder of records, an absolute path that every worker can write."""

    suite: Suite
    selection: Selection
    folder: Path
    options: RunOptions


class Executor(Protocol):
    """Computes what is missing of a plan.

    Attributes:
        device: of this process, for what is computed beside the cells.
    """

    device: torch.device

    def run(self, plan: Plan, job: Job, report: Reporter) -> RunOutcome:
        """Every cell that ``job.options`` ask for gets its record.

        Raises:
            InvsuiteError: for what ends the whole run; finished cells are kept.
        """


@dataclass(frozen=True)
class Task:
    """A fit for a worker.

    Attributes:
        spec: the model, with the plan's cut.
        fit_id: name of the fit.
        cells: those that share it and are to be computed.
        stamps: of their records when the run began (`invsuite.results.store.Store.stamp`).
        trained: how many fits of the run are trained on the model.
        wait: for another run that computes the fit; otherwise it comes back at once as ``busy``.
    """

    spec: ModelSpec
    fit_id: str
    cells: tuple[Cell, ...]
    stamps: dict[str, int | None]
    trained: int
    wait: bool = False


@dataclass(frozen=True)
class Ready:
    """A worker has started: where, and with which code (`invsuite._system.provenance.source_digest`)."""

    host: str
    source: str


@dataclass(frozen=True)
class Said:
    """A line worth reading."""

    text: str


@dataclass(frozen=True)
class Working:
    """A fit begins, of this many image passes."""

    label: str
    weight: float


@dataclass(frozen=True)
class Progress:
    """How far the fit is."""

    done: int
    total: int
    note: str


@dataclass(frozen=True)
class CellDone:
    """A cell has its record."""

    cell_id: str
    status: str


@dataclass(frozen=True)
class Finished:
    """A task is done, or ``busy`` in another run.

    Attributes:
        busy: whether another run computes the fit.
        reused: its cells that were not inverted: another run did so meanwhile, or they only lacked measures.
        added: those of them that measures were added to.
        failed: its cells that broke, or that measures could not be added to.
    """

    busy: bool
    reused: int = 0
    added: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Broken:
    """What ends the whole run."""

    error: InvsuiteError


@dataclass(frozen=True)
class Lost:
    """The worker is gone, with whatever it was doing."""

    reason: str


Message = Ready | Said | Working | Progress | CellDone | Finished | Broken | Lost
