"""The parent's side of several workers, however they are started: hands out fits, shows progress, replaces the lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from invsuite._system.provenance import source_digest
from invsuite.benchmark.cells import LoadedModel
from invsuite.benchmark.executors.base import (
    RETRIES,
    Broken,
    CellDone,
    Finished,
    Lost,
    Message,
    Progress,
    Ready,
    Said,
    Task,
    Working,
)
from invsuite.benchmark.runner import Run, problem_record, trained_fits, weights_of
from invsuite.errors import LostWorkerError, SetupError

STOP_SECONDS = 30.0  # that workers have to finish a write when the run is stopped


class Handle(Protocol):
    """What the parent holds of one worker; it is hashed by identity."""

    number: int


H = TypeVar("H", bound=Handle)


class Crew(Protocol[H]):
    """What starts workers, ``size`` at the same time, and hears what they say."""

    size: int

    def start(self, number: int) -> H:
        """Start worker ``number``, from 0; it says `Ready` before it takes a task."""

    def submit(self, worker: H, task: Task) -> None:
        """Give a task to a worker that is ready and idle. One that is gone says so by `Lost`."""

    def listen(self) -> Iterable[tuple[H, Message]]:
        """Yield the messages that came, after a second at most; those of one worker in order."""

    def discard(self, worker: H) -> None:
        """End a worker that is idle or lost, and drop its messages."""

    def close(self) -> None:
        """End all workers; one that writes a file finishes it first."""


class Backlog:
    """Fits that wait for a worker.

    A worker goes on with the model it has loaded. Then it takes the next model that no worker has begun, and only where
    there is none the one with most fits left. So weights and kept representations are loaded once per model wherever
    there are no more workers than models.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._by_model: dict[str, deque[Task]] = {}
        self._begun: set[str] = set()
        for task in tasks:
            self._by_model.setdefault(task.spec.name, deque()).append(task)

    def __len__(self) -> int:
        return sum(map(len, self._by_model.values()))

    def take(self, model: str | None) -> Task | None:
        """Return the next task of a worker that has ``model`` loaded; None if no task is left."""
        left = {name: tasks for name, tasks in self._by_model.items() if tasks}
        if not left:
            return None
        if model not in left:
            fresh = [name for name in left if name not in self._begun]
            model = fresh[0] if fresh else max(left, key=lambda name: len(left[name]))
        self._begun.add(model)
        return left[model].popleft()

    def put_back(self, task: Task) -> None:
        """Put back a task that is to be tried again; one that must ``wait`` comes last of its model."""
        tasks = self._by_model[task.spec.name]
        (tasks.append if task.wait else tasks.appendleft)(task)


class Pool(Generic[H]):
    """A run that several workers share.

    Args:
        run: which has begun, and records the fits that are lost.
        crew: its workers.
        tasks: its fits.
        retries: how often a fit is tried again whose worker was lost; None takes `RETRIES`.
    """

    def __init__(self, run: Run, crew: Crew[H], tasks: Sequence[Task], retries: int | None) -> None:
        self.run, self.crew = run, crew
        self.retries = RETRIES if retries is None else retries
        self.backlog = Backlog(tasks)
        self.working: dict[H, Task] = {}
        self.models: dict[H, str] = {}  # that each worker has loaded
        self.hooks: dict[H, Callable[[int, int, str], None]] = {}
        self.cells = {cell.id: cell for task in tasks for cell in task.cells}
        self.recorded: set[str] = set()
        self.losses: Counter[str] = Counter()  # by fit; "" while starting

    def work(self) -> None:
        """Have every fit computed, or recorded as lost.

        Raises:
            InvsuiteError: of a worker that cannot go on.
            SetupError: if workers end before they are ready, more than ``retries`` times in a row.
        """
        try:
            for number in range(min(self.crew.size, len(self.backlog))):
                self.crew.start(number)
            while self.backlog or self.working:
                for worker, message in self.crew.listen():
                    self._hear(worker, message)
        finally:
            self.crew.close()

    def _hear(self, worker: H, message: Message) -> None:
        name, report = name_of(worker), self.run.report
        match message:
            case Ready(host, source):
                if source != source_digest():
                    raise SetupError(f"{name} on {host} runs another version of invsuite: install this one there")
                self.losses[""] = 0
                report.note(f"{name} is ready on {host}")
                self._occupy(worker)
            case Said(text):
                report.note(f"{name}: {text}")
            case Working(label, weight):
                self.hooks[worker] = report.work(label, weight, name)
            case Progress(done, total, note):
                self.hooks[worker](done, total, note)
            case CellDone(cell_id, status):
                self.recorded.add(cell_id)
                self.run.outcome.computed += 1
                report.cell_done(self.cells[cell_id], status, name)
            case Finished(busy, reused, added, failed):
                task = self.working.pop(worker)
                self.run.outcome.computed -= reused
                self.run.outcome.reused += reused
                self.run.outcome.added += added
                self.run.outcome.failed += failed
                if busy:
                    report.note(f"{task.fit_id} is computed by another process; it comes last")
                    self.backlog.put_back(replace(task, wait=True))
                self._occupy(worker)
            case Broken(error):
                raise error
            case Lost(reason):
                self._replace(worker, reason)

    def _occupy(self, worker: H) -> None:
        """Give a worker its next task, or end it where no task is left, so that its device is free."""
        task = self.backlog.take(self.models.get(worker))
        if task is None:
            self.run.report.rest(name_of(worker), finished=True)
            self.crew.discard(worker)
            return
        self.models[worker] = task.spec.name
        self.working[worker] = task
        self.crew.submit(worker, task)

    def _replace(self, worker: H, reason: str) -> None:
        """Put a lost worker's fit back, or record it as lost after too many losses, and start another worker."""
        task, name = self.working.pop(worker, None), name_of(worker)
        self.run.report.rest(name, finished=False)
        self.crew.discard(worker)
        fit = "" if task is None else task.fit_id
        self.losses[fit] += 1
        given_up = self.losses[fit] > self.retries
        if task is None:
            if given_up:
                raise SetupError(f"workers end before they are ready: {reason}")
        else:
            left = tuple(cell for cell in task.cells if cell.id not in self.recorded)
            doing = f"{name} was lost computing {fit} ({reason})"
            if given_up:
                self.run.report.note(f"{doing}, for the {self.losses[fit]}. time: given up")
                self._record_loss(replace(task, cells=left), reason)
            elif left:
                self.run.report.note(f"{doing}; it is tried again")
                self.backlog.put_back(replace(task, cells=left))
        if self.backlog:
            self.crew.start(worker.number)

    def _record_loss(self, task: Task, reason: str) -> None:
        error = LostWorkerError(
            f"the worker was lost {self.losses[task.fit_id]} times while it computed this ({reason}); if its memory is "
            "large enough, run again with --retry-failed"
        )
        entry = next(e for e in self.run.plan.models if e.spec == task.spec)
        weights = {"weights": weights_of(entry.model)} if isinstance(entry, LoadedModel) else {}
        for cell in self.run.still_to_do(task.cells):
            self.run.finish(cell, problem_record(error) | weights)


def name_of(worker: Handle) -> str:
    """Return what people call a worker."""
    return f"worker {worker.number + 1}"


def tasks_of(run: Run) -> list[Task]:
    """Return a task for every fit of a run that has begun."""
    tasks = []
    for entry, fits in run.fits():
        trained = trained_fits(fits)
        for fit_id, cells in fits.items():
            stamps = {cell.id: run.stamps[cell.id] for cell in cells}
            tasks.append(Task(entry.spec, fit_id, tuple(cells), stamps, trained))
    return tasks
