"""A clock that knows its device: CUDA events on a GPU, wall seconds otherwise, and peak memory of each.

Every figure carries ``clock`` ("cuda-event" or "wall"), so a table can say which it shows.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil
import torch


def clock_name(device: torch.device) -> str:
    """Return the clock of a device: ``cuda-event`` on CUDA, ``wall`` elsewhere."""
    return "cuda-event" if device.type == "cuda" else "wall"


class Stopwatch:
    """A clock that adds up many short sections without stopping a GPU.

    On CUDA each section is a pair of events, read once at the end; elsewhere `time.perf_counter`.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._seconds = 0.0
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start = 0.0

    def __enter__(self) -> Stopwatch:
        if self.cuda:
            start = torch.cuda.Event(enable_timing=True)
            self._pairs.append((start, torch.cuda.Event(enable_timing=True)))
            start.record()  # type: ignore[no-untyped-call]
        else:
            self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.cuda:
            self._pairs[-1][1].record()  # type: ignore[no-untyped-call]
        else:
            self._seconds += time.perf_counter() - self._start

    def add(self, seconds: float) -> None:
        """Add ``seconds`` that an earlier process measured."""
        self._seconds += seconds

    @property
    def seconds(self) -> float:
        """Return the seconds of all sections so far, after waiting for the GPU."""
        if self._pairs:
            torch.cuda.synchronize()
            self._seconds += sum(a.elapsed_time(b) for a, b in self._pairs) / 1000  # type: ignore[no-untyped-call]
            self._pairs.clear()
        return self._seconds


class Meter:
    """A context manager that measures time and memory of a piece of work.

    Attributes:
        seconds: by the device's clock.
        cpu_seconds: processor time of this process.
        peak_bytes: most memory: allocated on the GPU; elsewhere the resident set of the process, sampled at 50 Hz.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._watch = Stopwatch(device)
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Meter:
        self._cpu = time.process_time()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._process = psutil.Process()
            self.peak_bytes = self._process.memory_info().rss
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        self._watch.__enter__()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, value, trace)
        self.seconds = self._watch.seconds
        self.cpu_seconds = time.process_time() - self._cpu
        if self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self._stop.set()
            self._thread.join()
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
