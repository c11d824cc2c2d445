"""A whole run of the suite in little: the code path of most faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.runner import Silent, run
from invsuite.benchmark.suite import load_suite
from invsuite.results.record import Record
from invsuite.results.store import Store

SUITE = """
name = "selftest"
title = "selftest"
seeds = [0]
metrics = ["psnr"]
edits = 2
budget = {{ image_passes = 16, batch = 16 }}
data.fit = {{ kind = "scenes", seed = 71, count = 24 }}
data.select = {{ kind = "scenes", seed = 72, count = 4 }}
data.score = {{ kind = "scenes", seed = 73, count = 8 }}
models.vit = {{ source = "bundled:vit", stages = ["embed"] }}
methods.{method} = {{ {parameters} }}
"""
PARAMETERS = {"modular": "width = 8, depth = 1"}


def little_run(method: str, folder: Path) -> Record:
    """Plan and run the one cell of a little suite, and return its record as the store has it."""
    path = folder / "selftest.toml"
    path.write_text(SUITE.format(method=method, parameters=PARAMETERS.get(method, "")))
    store = Store(folder / "records")
    plan = make_plan(load_suite(str(path)), Selection(), Silent().note)
    run(plan, store, torch.device("cpu"), Silent())
    [record] = store.records()
    return record


def bench_trial(method: str = "ridge") -> Callable[[], str | None]:
    """Return a trial: it tells why the little run's cell failed or was flagged; None if it did not."""

    def trial() -> str | None:
        with TemporaryDirectory() as folder:
            record = little_run(method, Path(folder))
        return "; ".join(record.flags) or None if record.ok else record.reason

    return trial
