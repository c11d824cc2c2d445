"""The harness at scale: ``pytest benchmarks/test_speed_scale.py`` prints seconds and ratios.

Seconds are the process's own, which a busy machine stretches less than those of the wall.

- 10,000 records are read, ranked and rendered, as tables and as the page, in under 5 s, and a matrix of 100,000 cells
  is planned, and looked up in the store, in under 5 s; both in time that grows no faster than the number of cells.
- A run over ten times as many images, or a hundred, to fit on or to score, takes the same memory once the budget for
  what is kept in memory is spent, and no more time per image.
- What the harness itself does - checks, records, strips, intervals, counting operations - is at most 3 % of a run.

INVSUITE_IMAGES sets the largest number of images (20,000 by default; 100,000 take some five minutes to fit on, and half
an hour to score).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import invented
import pytest
import torch
from helpers import small_suite
from invented import measurement

from invsuite.benchmark import runner
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.estimate import cell_passes
from invsuite.benchmark.progress import ConsoleReporter
from invsuite.benchmark.runner import RunOptions, run
from invsuite.benchmark.suite import MethodSpec, Suite, load_suite
from invsuite.methods import make_method
from invsuite.report.markdown import markdown
from invsuite.report.results import Results, load_results
from invsuite.results.frame import to_csv
from invsuite.results.store import Store

LIMIT = 5.0  # seconds
SLACK = 1.5  # how much more than in proportion ten times as many cells may take
FEW_IMAGES, MANY_IMAGES = 1_000, int(os.environ.get("INVSUITE_IMAGES", "20000"))
FLAT = 1.25  # how much more memory many images may take than few
OVERHEAD = 0.03


def written(folder: Path, **more: Any) -> Suite:
    """The suite of these benchmarks, as it is loaded from a file."""
    path = folder / "scale.toml"
    path.write_text(small_suite("scale", {"ridge": "{}"}, **({"metrics": ("psnr", "ssim")} | more)))
    return load_suite(str(path))


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return written(tmp_path, stages=("every",), counts=(24, 4, 16))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def fill(out: Path, models: int, stages: int = 10, methods: int = 10) -> int:
    """Records of invented numbers in the form of real ones, sealed by the store; returns how many."""
    store, generator = Store(out / "records" / "scale"), torch.Generator().manual_seed(0)
    for number in range(models * stages * methods):
        model, stage, method = number // (stages * methods), number // methods % stages, number % methods
        measured = []
        for name in ("psnr", "ssim"):
            values = (20 + method + 2 * torch.randn(16, generator=generator)).tolist()
            mean = sum(values) / 16
            measured.append(measurement(name, values, n=16, mean=mean, low=mean - 1, high=mean + 1))
        record = invented.record(f"m{model}", f"s{stage}", f"method{method}", measurements=measured)
        record.cell.position = stage
        store.write(record)
    return models * stages * methods


def read_and_render(suite: Suite, out: Path, models: int) -> tuple[float, float, float]:
    """Seconds to read the records of so many models, to render their tables alone, and to write tables and page."""
    count = fill(out, models)
    start = time.process_time()
    results = load_results(out)
    read = time.process_time() - start
    assert len(results) == count
    tables = seconds(lambda: (markdown(results), to_csv(results)))
    return read, tables, seconds(lambda: Results(results.records, stores=results.stores).report(out))


def test_ten_thousand_records_are_read_and_rendered(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = (read_and_render(suite, tmp_path / str(models), models) for models in (10, 100))
    ratio = sum(many) / sum(few)
    with capsys.disabled():
        print(f"\n10,000 records: read in {many[0]:.2f} s, tables and page in {many[2]:.2f} s", end="")
        print(f" (tables alone in {many[1]:.2f} s); {ratio:.1f}x 1,000")
    assert many[0] + many[2] < LIMIT
    assert ratio < 10 * SLACK


def plan_and_look_up(suite: Suite, folder: Path, cells: int) -> float:
    """Seconds to lay out so many cells, look for their records, estimate their work and group them by fit."""
    stages = len(make_plan(suite, Selection(), lambda note: None).models[0].spec.stages)
    methods = tuple(MethodSpec(f"ridge{i}", make_method("ridge", {})) for i in range(-(-cells // stages)))
    large, store = replace(suite, methods=methods), Store(folder)

    def work() -> None:
        plan = make_plan(large, Selection(), lambda note: None)
        wanted = [cell for cell in plan.cells if RunOptions().wants(store, cell)]
        assert len(wanted) >= cells
        assert sum(cell_passes(plan, cell) for cell in wanted) > 0
        assert len({cell.fit_id for cell in wanted}) == len(methods)

    return seconds(work)


def test_a_hundred_thousand_cells_are_planned(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (plan_and_look_up(suite, tmp_path / "none", cells) for cells in (10_000, 100_000))
    with capsys.disabled():
        print(f"\n100,000 cells: planned and looked up in {many:.2f} s; {many / few:.1f}x 10,000")
    assert many < LIMIT
    assert many < 10 * SLACK * few


#: What one process does, so that its peak of memory is its own: SUITE OUT. It has no budget for what may wait in files.
ONE_RUN = """
import resource, sys, time
from pathlib import Path
from invsuite._system import spill
from invsuite.api import run
from invsuite.benchmark.executors.base import Placement
spill.MEMORY_SHARE = 0
start = time.process_time()
run(sys.argv[1], placement=Placement(device="cpu"), out=sys.argv[2]).report(sys.argv[2])
print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


#: measures that look at whole images, at masks, at representations, at answers, and at edits
KINDS = ("psnr", "ssim", "object_unity", "feature_error", "js_divergence", "hue_gain")


def run_on(counts: tuple[int, int, int], folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a whole run, report included, that fits ridge on so many scenes and scores so many."""
    folder.mkdir()
    written(folder, stages=("embed",), counts=counts, metrics=KINDS)
    words = [sys.executable, "-c", ONE_RUN, str(folder / "scale.toml"), str(folder)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    took, peak = map(float, ended.stdout.split())
    return took, peak


@pytest.mark.parametrize("use", ["fit", "score"])
def test_memory_is_flat_and_time_linear_in_images(use: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = {}
    for count in (FEW_IMAGES, MANY_IMAGES):
        took, peak = run_on((count, 4, 16) if use == "fit" else (64, 4, count), tmp_path / str(count))
        runs[count] = took, peak
        with capsys.disabled():
            print(f"\n{count:,} images to {use}: {took:.1f} s, {1000 * took / count:.2f} ms an image, {peak:.0f} MiB")
    few, many = runs[FEW_IMAGES], runs[MANY_IMAGES]
    slower, larger = many[0] / few[0] / (MANY_IMAGES / FEW_IMAGES), many[1] / few[1]
    with capsys.disabled():
        print(f"time an image {slower:.2f}x, memory {larger:.2f}x")
    assert slower < SLACK
    assert larger < FLAT


class OwnTime:
    """Adds up the time of the functions it wraps, of nested ones once."""

    def __init__(self) -> None:
        self.seconds, self._inside = 0.0, False

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, start = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.process_time() - start

        return timed


def test_the_harness_is_a_small_part_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cells of the ViT of `quick`, the main job; a suite of larger models or budgets leaves less to it.

    Own time of methods and measures is what `Method.fit`, inverting the scored images, and a metric's ``prepare`` and
    ``compute`` take, the frozen model's passes in them included.
    """
    own = OwnTime()
    with ConsoleReporter() as reporter:
        plan = make_plan(load_suite("quick"), Selection(models=("vit",)), reporter.note)
        for method in {type(spec.method) for spec in plan.suite.methods}:
            monkeypatch.setattr(method, "fit", own.of(method.fit))
        for metric in {type(metric) for metric in plan.metrics}:
            monkeypatch.setattr(metric, "prepare", own.of(metric.prepare))
            monkeypatch.setattr(metric, "compute", own.of(metric.compute))
        monkeypatch.setattr(runner, "halving", own.of(runner.halving))
        whole = seconds(lambda: run(plan, Store(tmp_path), torch.device("cpu"), reporter))
    share = 1 - own.seconds / whole
    with capsys.disabled():
        print(f"\n{len(plan.cells)} cells in {whole:.1f} s, of which the harness {100 * share:.2f} %")
    assert share < OVERHEAD
