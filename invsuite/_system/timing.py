"""A clock that knows its device: CUDA events on a GPU, wall seconds otherwise, peak memory of each, and a GPU's load.

Every figure carries ``clock`` ("cuda-event" or "wall"), so a table can say which it shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.02  # between two looks at the memory of the process
LOAD_SECONDS = 0.1  # between two looks at a GPU's load, which its driver averages over about as long, or longer
SHORTEST_LOAD = 1.0  # seconds of work below which a driver's averages say more of what was before


def clock_name(device: torch.device) -> str:
    """Return the clock of a device: ``cuda-event`` on CUDA, ``wall`` elsewhere."""
    return "cuda-event" if device.type == "cuda" else "wall"


class Stopwatch:
    """A clock that adds up many short sections without stopping a GPU.

    On CUDA each section is a pair of events on the device's own stream, read once at the end; elsewhere
    `time.perf_counter`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self._seconds = 0.0
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start = 0.0

    def __enter__(self) -> Stopwatch:
        if self.cuda:
            start = torch.cuda.Event(enable_timing=True)
            self._pairs.append((start, torch.cuda.Event(enable_timing=True)))
            start.record(torch.cuda.current_stream(self.device))  # type: ignore[no-untyped-call]
        else:
            self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.cuda:
            stream = torch.cuda.current_stream(self.device)
            self._pairs[-1][1].record(stream)  # type: ignore[no-untyped-call]
        else:
            self._seconds += time.perf_counter() - self._start

    def add(self, seconds: float) -> None:
        """Add ``seconds`` that an earlier process measured."""
        self._seconds += seconds

    @property
    def seconds(self) -> float:
        """Return the seconds of all sections so far, after waiting for the GPU."""
        if self._pairs:
            torch.cuda.synchronize(self.device)
            self._seconds += sum(a.elapsed_time(b) for a, b in self._pairs) / 1000  # type: ignore[no-untyped-call]
            self._pairs.clear()
        return self._seconds


class Sampler:
    """A thread that calls a function again and again while a piece of work runs.

    Args:
        look: what is called; it must not raise.
        seconds: between two calls.
    """

    def __init__(self, look: Callable[[], None], seconds: float) -> None:
        self._look, self._seconds, self._stop = look, seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._look()

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


class Meter:
    """A context manager that measures time and memory of a piece of work, and the load of a GPU.

    Attributes:
        seconds: by the device's clock.
        cpu_seconds: processor time of this process.
        peak_bytes: most memory: allocated on the GPU; elsewhere the resident set of the process, sampled at 50 Hz.
        busy: share of the time in which the GPU ran something (0 to 1), the mean of what its driver says ten times a
            second; None on a processor, for work of less than a second, and where the driver does not say.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._watch = Stopwatch(device)
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0
        self.busy: float | None = None
        self._loads: list[float] = []

    def __enter__(self) -> Meter:
        self._cpu = time.process_time()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._sampler = Sampler(self._look_at_load, LOAD_SECONDS)
        else:
            self._process = psutil.Process()
            self._look_at_memory()
            self._sampler = Sampler(self._look_at_memory, SAMPLE_SECONDS)
        self._sampler.__enter__()
        self._watch.__enter__()
        return self

    def _look_at_memory(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)

    def _look_at_load(self) -> None:
        load = gpu_load(self.device)
        if load is not None:
            self._loads.append(load)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, value, trace)
        self.seconds = self._watch.seconds
        self.cpu_seconds = time.process_time() - self._cpu
        self._sampler.__exit__(kind, value, trace)
        if self.device.type != "cuda":
            self._look_at_memory()
            return
        self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
        if self._loads and self.seconds >= SHORTEST_LOAD:
            self.busy = sum(self._loads) / len(self._loads)


def gpu_load(device: torch.device) -> float | None:
    """Return the share of the last moments (0 to 1) in which a GPU ran something; None where its driver does not say.

    The driver is asked through the package ``nvidia-ml-py``.
    """
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # no such package, or a driver, a container or a virtual machine that does not tell
        return None
