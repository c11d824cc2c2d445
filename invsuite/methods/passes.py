"""One pass over the fit images whose results are sums: it goes on after a kill, and several processes share it.

A method adds a batch at a time to its sums (`Sum`), and may keep a row of each image (`Rows`). Now and then the state
is written to the fit's folder, with the numbers of the batches that are in it. The same fit begins with what is there,
whoever wrote it, and the batches that are left are divided among its processes (`invsuite._system.ranks`). In the end
their sums are added up, in the order of the processes, and the first has all rows.

One process adds its batches in order to one set of sums, killed or not, so that a pass that goes on gives the same bits
as an unbroken one. Several processes give the same numbers but for rounding.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch

from invsuite._system.ranks import Ranks
from invsuite._system.spill import TensorLike, allocate, disk_budget
from invsuite._system.timing import Stopwatch
from invsuite.methods.problem import Problem
from invsuite.methods.training import checkpoint

SAVE_SECONDS = 60.0  # of work that a kill may cost
SAVE_SHARE = 0.05  # of the time, at most, that writing the state may take
FILE_BYTES = 2**28  # of rows in one file of the state

State = dict[str, Any]


class Sum(Protocol):
    """What is added up over batches."""

    def state(self) -> State:
        """Return tensors and plain values from which `include` makes the same sum."""

    def include(self, state: State) -> None:
        """Add the state of a sum over other batches."""


S = TypeVar("S", bound=Sum)


class Rows:
    """A tensor (N, ...) of a row per image, which batches fill; it is left out where neither memory nor disk has room.

    Args:
        size: images per batch.
        count: images in all.
        numbers: of the batches whose rows this process keeps, where they are not all.
    """

    def __init__(self, size: int, count: int, numbers: Sequence[int] | None = None) -> None:
        self._size, self._count = size, count
        self._places = None if numbers is None else {number: place for place, number in enumerate(numbers)}
        self.kept: TensorLike | None = None
        self.refused = False

    def put(self, number: int, rows: torch.Tensor) -> None:
        """Keep the rows (B, ...) of a batch."""
        if self.kept is None and not self.refused:
            count = self._count if self._places is None else min(self._count, len(self._places) * self._size)
            self.kept = allocate((count, *rows.shape[1:]), rows)
            self.refused = self.kept is None
        if self.kept is not None:
            self.kept[self._slice(number)] = rows

    def get(self, number: int) -> torch.Tensor | None:
        """Return a copy of the rows (B, ...) of a batch; None if they are not kept."""
        return None if self.kept is None else self.kept[self._slice(number)].clone()  # a view is written with the whole

    def leave_out(self) -> None:
        """Keep no rows from now on."""
        self.kept, self.refused = None, True

    def _slice(self, number: int) -> slice:
        start = self._size * (number if self._places is None else self._places[number])
        return slice(start, start + min(self._size, self._count - self._size * number))


class BatchPass(Generic[S]):
    """One pass of a fit over batches of images.

    Iterating gives the numbers of the batches that this process is to add to `sums`, and whose rows it is to put into
    `rows`; after the last of them both hold what all processes found.

    Args:
        problem: that is fitted.
        settings: plain values that tell this pass from another over the same images.
        batches: how many there are, numbered from 0.
        make: returns a sum of nothing.
        watches: clocks, by name, whose seconds go on with the state.
        rows: returns `Rows` of nothing, by name, for batches of these numbers, or for all.

    Attributes:
        sums: what is added to.
        rows: by name; in the end those of other processes than the first are left out.
    """

    def __init__(
        self,
        problem: Problem,
        settings: Sequence[Any],
        batches: int,
        make: Callable[[], S],
        watches: Mapping[str, Stopwatch],
        rows: Callable[[Sequence[int] | None], Mapping[str, Rows]] = lambda numbers: {},
    ) -> None:
        self.ranks: Ranks = problem.context.ranks
        self._device, self._make, self._watches = problem.device, make, watches
        self._folder = problem.context.checkpoints
        self._signature: State = {}
        if self._folder is not None:
            self._signature = {
                "problem": [problem.model.origin.sha256, list(problem.stages)],
                "images": [problem.fit.digest(), problem.select.digest()],
                "settings": list(settings),
            }
        digits = hashlib.sha256(json.dumps(self._signature).encode()).hexdigest()[:12]
        self._name = f"sums-{problem.context.part}-{digits}"
        self.sums, self.rows = make(), rows(None)
        self._done: list[int] = []  # batches that are in the sums
        self._files: list[str] = []  # that hold rows of them
        self._unsaved: list[int] = []  # batches whose rows no file holds
        if self.ranks.first:
            self._load()
        done = set(self.ranks.agree(self._done))
        self._left = [number for number in range(batches) if number not in done]
        self._mine = self._part(self.ranks)
        if not self.ranks.first:
            self.rows = rows(self._mine)

    def _part(self, ranks: Ranks) -> list[int]:
        return self._left[ranks.part(len(self._left))]

    def __len__(self) -> int:
        return len(self._mine)

    def __iter__(self) -> Iterator[int]:
        """Yield the number of each batch that is to be added; the state is written in between."""
        wait, saved_at = SAVE_SECONDS, time.perf_counter()
        for number in self._mine:
            yield number
            self._done.append(number)
            self._unsaved.append(number)
            if self._folder is not None and time.perf_counter() - saved_at >= wait:
                begun = time.perf_counter()
                self._save()
                saved_at = time.perf_counter()
                wait = max(SAVE_SECONDS, (saved_at - begun) / SAVE_SHARE)
        if not self.ranks.alone:
            self._merge()

    def _merge(self) -> None:
        """Give every process the sums of all, and the first the rows of all."""
        own, whole = _moved(self.sums.state(), torch.device("cpu")), self._make()
        for source in range(self.ranks.count):
            whole.include(_moved(self.ranks.agree(own, source), self._device))
        self.sums = whole
        refused = self.ranks.agree([name for name, rows in self.rows.items() if rows.refused])
        for name, rows in self.rows.items():
            for source in range(1, self.ranks.count):
                for number in self._part(Ranks(source, self.ranks.count)) if name not in refused else ():
                    mine = self.ranks.rank == source
                    values = self.ranks.bring(rows.get(number) if mine else None, source)
                    if self.ranks.first and values is None:
                        rows.leave_out()
                    elif values is not None:
                        rows.put(number, values)
            if not self.ranks.first:
                rows.leave_out()

    def _load(self) -> None:
        """Begin with what earlier processes have left."""
        for path in sorted(self._folder.glob(f"{self._name}-rank*.pt")) if self._folder else ():
            saved = checkpoint.load(path, self._signature)
            if saved is None or not set(self._done).isdisjoint(saved["done"]):
                continue
            files = [checkpoint.load(path.with_name(name), self._signature) for name in saved["files"]]
            if None in files:
                continue
            for file in files:
                assert file is not None
                self._put(file)
            self.sums.include(_moved(saved["sums"], self._device))
            for name, seconds in saved["seconds"].items():
                self._watches[name].add(seconds)
            self._done += saved["done"]
            self._files += saved["files"]

    def _put(self, file: State) -> None:
        """Put the rows of a file of the state where they are kept."""
        for name, batches in file["rows"].items():
            for number, values in zip(file["batches"], batches, strict=True):
                self.rows[name].put(number, values)

    def _save(self) -> None:
        """Write the state, unless the disk is short of room."""
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {name: rows for name, rows in self.rows.items() if rows.kept is not None}
        if kept:
            samples = [rows.get(self._unsaved[0]) for rows in kept.values()]
            per_batch = sum(sample.nbytes for sample in samples if sample is not None)
            if per_batch * len(self._unsaved) > disk_budget(self._folder):
                return
            together = max(1, FILE_BYTES // per_batch)
            for first in range(0, len(self._unsaved), together):
                numbers = self._unsaved[first : first + together]
                values = {name: [rows.get(number) for number in numbers] for name, rows in kept.items()}
                self._files.append(f"{self._name}-rows{numbers[0]}.pt")
                checkpoint.save(self._folder / self._files[-1], self._signature, {"batches": numbers, "rows": values})
        self._unsaved.clear()
        state = {
            "done": self._done,
            "files": self._files,
            "sums": _moved(self.sums.state(), torch.device("cpu")),
            "seconds": {name: watch.seconds for name, watch in self._watches.items()},
        }
        checkpoint.save(self._folder / f"{self._name}-rank{self.ranks.rank}.pt", self._signature, state)


def _moved(tree: Any, device: torch.device) -> Any:
    """Return a tree of mappings, lists and tensors with its tensors on ``device``."""
    if isinstance(tree, torch.Tensor):
        return tree.to(device)
    if isinstance(tree, Mapping):
        return {key: _moved(value, device) for key, value in tree.items()}
    return [_moved(value, device) for value in tree] if isinstance(tree, list) else tree
