"""A worker's side, the same whatever brings its tasks: it computes fits and keeps the model of the last one."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from invsuite._system.devices import pick_device
from invsuite._system.provenance import source_digest
from invsuite._system.signals import uninterrupted
from invsuite.benchmark.cells import Cell, Plan, UnavailableModel, make_metrics, open_model
from invsuite.benchmark.executors.base import (
    Broken,
    CellDone,
    Finished,
    Job,
    Message,
    Progress,
    Ready,
    Said,
    Task,
    Working,
)
from invsuite.benchmark.runner import Run, Session, Silent, problem_record
from invsuite.benchmark.suite import ModelSpec
from invsuite.errors import DataError, DiskError, InvsuiteError
from invsuite.metrics.checks import check_measures
from invsuite.registry import load_plugins
from invsuite.results.store import Store

Tell = Callable[[Message], None]
PROGRESS_EVERY = 0.5  # seconds


class Telling(Silent):
    """A reporter that sends to the parent what it does not know; no signal cuts a message in two."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def _send(self, message: Message) -> None:
        with uninterrupted():
            self._tell(message)

    def note(self, text: str) -> None:
        """Send a line."""
        self._send(Said(text))

    def work(self, label: str, weight: float, worker: str = "") -> Callable[[int, int, str], None]:
        """Send that a fit begins; return a hook that sends its progress now and then."""
        self._send(Working(label, weight))
        last = 0.0

        def hook(done: int, total: int, note: str) -> None:
            nonlocal last
            if time.perf_counter() - last >= PROGRESS_EVERY:
                last = time.perf_counter()
                self._send(Progress(done, total, note))

        return hook

    def cell_done(self, cell: Cell, status: str, worker: str = "") -> None:
        """Send that a cell has its record."""
        self._send(CellDone(cell.id, status))


class Worker:
    """What computes one fit after the other on one device.

    Args:
        plugins: files to load before ``job`` is unpickled.
        job: a pickled `Job`.
        device: ``cpu`` or ``cuda``: the first that this process sees.
        threads: CPU threads.
        tell: sends a message to the parent.

    Raises:
        UsageError: for a plug-in that cannot be loaded.
        DataError: if a measure gives wrong values here for pictures whose values are known.
    """

    def __init__(self, plugins: Sequence[Path], job: bytes, device: str, threads: int, tell: Tell) -> None:
        torch.set_num_threads(threads)
        load_plugins(plugins)
        self._job: Job = pickle.loads(job)
        metrics = make_metrics(self._job.suite, self._job.selection)
        check_measures(metrics)
        plan = Plan(self._job.suite, metrics, ())
        store = Store(self._job.folder)
        self._run = Run(plan, store, pick_device(device), Telling(tell), self._job.options, {})
        self._model: tuple[ModelSpec, Session | Exception] | None = None

    def ready(self) -> Ready:
        """Return where this worker is, and its code."""
        return Ready(socket.gethostname(), source_digest())

    def compute(self, task: bytes) -> Finished | Broken:
        """Compute a pickled `Task`, so that each of its cells has a record."""
        try:
            return self._compute(pickle.loads(task))
        except InvsuiteError as error:
            return Broken(error)

    def _compute(self, task: Task) -> Finished:
        run, before = self._run, replace(self._run.outcome)
        run.stamps.update(task.stamps)
        session = self._session(task)
        done = True
        if isinstance(session, Session):
            done = session.fit(task.fit_id, task.cells, task.wait)
        else:
            for cell in run.still_to_do(task.cells):
                run.finish(cell, problem_record(session))
        after = run.outcome
        return Finished(
            not done, after.reused - before.reused, after.added - before.added, after.failed - before.failed
        )

    def _session(self, task: Task) -> Session | Exception:
        """Return the task's model on the device, or what keeps it from there; the model before it makes room."""
        if self._model is not None:
            spec, session = self._model
            if spec == task.spec:
                return session
            if isinstance(session, Session):
                session.close()
        session = self._open(task)
        self._model = (task.spec, session)
        return session

    def _open(self, task: Task) -> Session | Exception:
        run = self._run
        try:
            entry = open_model(self._job.suite, self._job.selection, run.plan.metrics, task.spec, run.report.note)
            if isinstance(entry, UnavailableModel):
                return entry.error
            if not {cell.id for cell in task.cells} <= {cell.id for cell in entry.cells}:
                return DataError(
                    f"weights or images of model '{task.spec.name}' are others on {socket.gethostname()} than where "
                    "the run was started: put them on storage that both see"
                )
            return Session(run, entry, task.trained)
        except DiskError:
            raise
        except Exception as error:
            return error
