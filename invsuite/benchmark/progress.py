"""Progress of a run on standard error: a live bar on a terminal, plain lines elsewhere, both with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from invsuite.benchmark.cells import Cell

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


@dataclass
class _Work:
    """What a worker does, in words, of which ``done`` of ``weight`` image passes are behind it."""

    weight: float
    done: float = 0.0
    text: str = ""


class ConsoleReporter:
    """A reporter on standard error: cells done, what each worker does, and the time left at the speed so far."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._cells = self._done = 0
        self._weight = self._before = 0.0
        self._works: dict[str, _Work] = {}  # by worker
        self._start = self._last_line = time.perf_counter()

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line above the bar, whole: a path that is broken in two can be neither found nor copied."""
        self.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def begin(self, cells: int, weight: float) -> None:
        """Start counting ``cells`` of ``weight`` image passes."""
        self._cells, self._weight = cells, max(weight, 1e-9)
        self._start = self._last_line = time.perf_counter()
        if self.console.is_terminal and cells:
            self._live = Progress(
                TextColumn("{task.fields[cells]}"),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
            )
            self._live.start()
            self._task = self._live.add_task("", total=1.0, cells=f"0/{cells} cells", left="")

    def work(self, label: str, weight: float, worker: str = "") -> Callable[[int, int, str], None]:
        """Note that a worker has finished its last group of cells and begins another; return its progress hook."""
        if not (self._works or self._before):  # loading and checking before the first is no measure of the rest
            self._start = time.perf_counter()
        elif worker in self._works:
            self._before += self._works[worker].weight
        work = self._works[worker] = _Work(weight)

        def hook(done: int, total: int, note: str) -> None:
            work.text, work.done = f"{label}: {done}/{total} {note}", weight * min(1.0, done / max(total, 1)) * 0.9
            self._show()

        return hook

    def cell_done(self, cell: Cell, status: str, worker: str = "") -> None:
        """Note that a cell has its record; print any status but ``ok`` at once."""
        self._done += 1
        if status != "ok":
            self.note(f"{status}: {cell.key}")
        work = self._works.setdefault(worker, _Work(0.0))
        work.text, work.done = f"{cell.model.name} {cell.method.name}: {cell.stage} {status}", work.weight * 0.95
        self._show(force=self._done == self._cells)

    def rest(self, worker: str, finished: bool) -> None:
        """Note that a worker has no more work; what it did last is ``finished``, or lost."""
        work = self._works.pop(worker, None)
        if work is not None and finished:
            self._before += work.weight

    def _show(self, force: bool = False) -> None:
        now = time.perf_counter()
        worked = self._before + sum(work.done for work in self._works.values())
        share = 1.0 if self._done == self._cells else min(worked / self._weight, 0.999)
        elapsed = now - self._start
        left = (
            "done" if share == 1.0 else "about " + _clock(elapsed / share - elapsed) + " left" if share > 0.02 else ""
        )
        texts = [f"{worker}: {work.text}" if worker else work.text for worker, work in self._works.items() if work.text]
        if self._live is not None and self._task is not None:
            count, text = f"{self._done}/{self._cells} cells", "\n".join(texts)
            self._live.update(self._task, completed=share, description=text, cells=count, left=left)
        elif force or now - self._last_line >= PLAIN_EVERY:
            self._last_line = now
            line = f"[{self._done}/{self._cells} cells, {_clock(elapsed)}] {'; '.join(texts)}"
            self.note(line + (f", {left}" if left else ""))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
