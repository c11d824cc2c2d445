"""Progress of a run on standard error: a live bar on a terminal, plain lines elsewhere, both with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from invsuite.grid import Cell

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class ConsoleReporter:
    """Shows cells done, what the running cell does, and the time left as judged by the work done so far."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._cells = self._done = 0
        self._weight = self._before = self._current = 0.0
        self._label = ""
        self._start = self._last_line = time.perf_counter()

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, style="dim", highlight=False, markup=False)

    def begin(self, cells: int, weight: float) -> None:
        """Start counting."""
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

    def work(self, label: str, weight: float) -> Callable[[int, int, str], None]:
        """A group of cells starts; returns its progress hook."""
        self._before += self._current
        self._current, self._label = weight, label

        def hook(done: int, total: int, note: str) -> None:
            self._show(f"{label}: {done}/{total} {note}", self._before + weight * min(1.0, done / max(total, 1)) * 0.9)

        return hook

    def cell_done(self, cell: Cell, status: str) -> None:
        """A cell has its record; anything but ok is said at once."""
        self._done += 1
        if status != "ok":
            self.note(f"{status}: {cell.key}")
        self._show(
            f"{self._label}: {cell.stage} {status}",
            self._before + self._current * 0.95,
            force=self._done == self._cells,
        )

    def _show(self, text: str, worked: float, force: bool = False) -> None:
        now = time.perf_counter()
        share = 1.0 if self._done == self._cells else min(worked / self._weight, 0.999)
        elapsed = now - self._start
        left = (
            "done" if share == 1.0 else "about " + _clock(elapsed / share - elapsed) + " left" if share > 0.02 else ""
        )
        if self._live is not None and self._task is not None:
            self._live.update(
                self._task, completed=share, description=text, cells=f"{self._done}/{self._cells} cells", left=left
            )
        elif force or now - self._last_line >= PLAIN_EVERY:
            self._last_line = now
            self.note(f"[{self._done}/{self._cells} cells, {_clock(elapsed)}] {text}" + (f", {left}" if left else ""))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
