"""The harness at scale: ``pytest benchmarks/test_speed_scale.py`` prints seconds and ratios.

Seconds are the process's own, which a busy machine stretches less than those of the wall.

10,000 records are read, ranked and rendered in under 5 s, and a matrix of 100,000 cells is planned, and looked up in
the store, in under 5 s; both in time that grows no faster than the number of cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from invsuite.bench import load_records
from invsuite.grid import Selection, make_plan
from invsuite.methods import make_method
from invsuite.report.leaderboard import markdown, to_csv
from invsuite.runner import RunOptions, estimate
from invsuite.store import Store
from invsuite.suite import MethodSpec, Suite, load_suite

SUITE = """
name = "scale"
title = "scale"
seeds = [0]
metrics = ["psnr", "ssim"]
edits = 2
budget = { image_passes = 32, batch = 16 }
data.fit = { kind = "scenes", seed = 61, count = 24 }
data.select = { kind = "scenes", seed = 62, count = 4 }
data.score = { kind = "scenes", seed = 63, count = 16 }
models.vit = { source = "bundled:vit", stages = ["every"] }
methods.ridge = {}
"""
LIMIT = 5.0  # seconds
SLACK = 1.5  # how much more than in proportion ten times as many cells may take


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "scale.toml"
    path.write_text(SUITE)
    return load_suite(str(path))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def fill(out: Path, models: int, stages: int = 10, methods: int = 10) -> int:
    """Records of invented numbers in the form of real ones, sealed by the store; returns how many."""
    store, rng = Store(out / "records" / "scale"), np.random.default_rng(0)
    images = [f"scene-{i}" for i in range(16)]
    for number in range(models * stages * methods):
        model, stage, method = number // (stages * methods), number // methods % stages, number % methods
        metrics = {}
        for name, direction in (("psnr", "higher"), ("ssim", "higher")):
            values = rng.normal(20 + method, 2, 16)
            low, high = values.mean() - 1, values.mean() + 1
            metrics[name] = {"status": "ok", "reason": "", "unit": "dB", "direction": direction, "version": 1} | {
                "n": 16,
                "mean": values.mean(),
                "low": low,
                "high": high,
                "values": values.tolist(),
            }
        cost = dict.fromkeys(("fit_seconds", "fit_shared_seconds", "invert_seconds_per_image"), 1.0)
        cost |= dict.fromkeys(("fit_image_passes", "parameters", "fit_peak_bytes", "invert_peak_bytes"), 1)
        cell = {"suite": "scale", "model": f"m{model}", "stage": f"s{stage}", "method": f"method{method}", "seed": 0}
        store.write(
            {
                "cell": cell | {"id": f"m{model}-s{stage}-method{method}", "position": stage, "family": "floor"},
                "identity": {},
                "status": "ok",
                "reason": "",
                "metrics": metrics,
                "images": images,
                "cost": cost | {"clock": "wall"},
                "data": {"fit": 24, "select": 4, "score": 16, "unreadable": {}},
                "weights": {"source": "none", "sha256": "0" * 64},
                "provenance": {
                    "git": {"sha": None, "dirty": None},
                    "source_sha256": "0" * 64,
                    "versions": {},
                    "device": "CPU",
                    "threads": 1,
                    "written": "2026-01-01T00:00:00+00:00",
                },
            }
        )
    return models * stages * methods


def read_and_render(suite: Suite, out: Path, models: int) -> tuple[float, float]:
    """Seconds to read the records of so many models, and to render them."""
    count = fill(out, models)
    start = time.process_time()
    records = load_records(suite, out)
    read = time.process_time() - start
    assert len(records) == count
    return read, seconds(lambda: (markdown("t", records), to_csv(records)))


def test_ten_thousand_records_are_read_and_rendered(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = (read_and_render(suite, tmp_path / str(models), models) for models in (10, 100))
    ratio = sum(many) / sum(few)
    with capsys.disabled():
        print(f"\n10,000 records: read in {many[0]:.2f} s, rendered in {many[1]:.2f} s; {ratio:.1f}x 1,000")
    assert sum(many) < LIMIT
    assert sum(many) < 10 * SLACK * sum(few)


def plan_and_look_up(suite: Suite, folder: Path, cells: int) -> float:
    """Seconds to lay out so many cells, look for their records, estimate their work and group them by fit."""
    stages = len(make_plan(suite, Selection(), lambda note: None).models[0].spec.stages)
    methods = tuple(MethodSpec(f"ridge{i}", make_method("ridge", {})) for i in range(-(-cells // stages)))
    large, store = replace(suite, methods=methods), Store(folder)

    def work() -> None:
        plan = make_plan(large, Selection(), lambda note: None)
        wanted = [cell for cell in plan.cells if RunOptions().wants(store, cell)]
        assert len(wanted) >= cells
        assert sum(estimate(plan, cell) for cell in wanted) > 0
        assert len({cell.fit_id for cell in wanted}) == len(methods)

    return seconds(work)


def test_a_hundred_thousand_cells_are_planned(suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (plan_and_look_up(suite, tmp_path / "none", cells) for cells in (10_000, 100_000))
    with capsys.disabled():
        print(f"\n100,000 cells: planned and looked up in {many:.2f} s; {many / few:.1f}x 10,000")
    assert many < LIMIT
    assert many < 10 * SLACK * few
