"""The clock: wall seconds on a processor; on a GPU events on its own stream, its memory, and the load its driver says.

No GPU is needed: what torch.cuda would answer is invented.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from invsuite._system import timing
from invsuite._system.timing import Meter, Stopwatch
from invsuite.results.frame import to_frame
from invsuite.results.record import CellCost

SECOND = torch.device("cuda", 1)


class Gpu:
    """Events that tick once at every record, in milliseconds, and what was asked of which device."""

    def __init__(self, loads: list[int] | None = None, tick: float = 2000.0) -> None:
        self.ticks, self.tick, self.streams, self.waited = 0, tick, list[Any](), list[torch.device]()
        self.loads = loads

    def event(self, enable_timing: bool) -> Any:
        assert enable_timing
        gpu = self

        class Event:
            def record(self, stream: Any) -> None:
                gpu.ticks += 1
                self.at = gpu.ticks
                gpu.streams.append(stream)

            def elapsed_time(self, end: Any) -> float:
                assert gpu.waited, "read before the GPU was waited for"
                return gpu.tick * (end.at - self.at)

        return Event()

    def utilization(self, device: torch.device) -> int:
        if self.loads is None:
            raise ModuleNotFoundError("pynvml")
        return self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]


def invent(gpu: Gpu, patch: pytest.MonkeyPatch) -> None:
    answers = {
        "Event": gpu.event,
        "current_stream": lambda device: f"stream of {device}",
        "synchronize": gpu.waited.append,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 7 * 2**20,
        "utilization": gpu.utilization,
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)


def test_a_gpu_is_timed_by_events_on_its_own_stream_and_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    invent(gpu, monkeypatch)
    watch = Stopwatch(SECOND)
    for _ in range(3):
        with watch:
            pass
    assert gpu.waited == [], "sections do not stop the GPU"
    assert watch.seconds == watch.seconds == 6.0
    assert gpu.waited == [SECOND]
    assert gpu.streams == ["stream of cuda:1"] * 6


def test_a_meter_says_how_busy_a_gpu_was_where_its_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LOAD_SECONDS", 0.001)
    for loads, tick, expected in ((None, 2000.0, None), ([50], 2000.0, 0.5), ([50], 900.0, None)):
        gpu = Gpu(loads, tick)
        invent(gpu, monkeypatch)
        with Meter(SECOND) as meter:
            time.sleep(0.05)
        assert (meter.seconds, meter.peak_bytes) == (tick / 1000, 7 * 2**20)
        assert meter.busy == expected, f"loads {loads} over {meter.seconds} s"


def test_a_meter_of_a_processor_has_its_time_and_memory_and_no_load() -> None:
    with Meter(torch.device("cpu")) as meter:
        held = torch.ones(2**22)
        time.sleep(0.05)
    assert 0.05 <= meter.seconds < 5
    assert meter.peak_bytes > held.nbytes
    assert meter.busy is None


def test_how_busy_a_gpu_was_is_a_line_of_the_table_where_it_is_known() -> None:
    import invented

    record = invented.record()
    assert not set(to_frame([record], costs=True).measure) & {"fit_busy", "invert_busy"}
    assert isinstance(record.cost, CellCost)
    record.cost.fit_busy = 0.75
    line = to_frame([record], costs=True).set_index("measure").loc["fit_busy"]
    assert (line["mean"], line.unit, line.direction) == (0.75, "share", "higher")
