"""What two processes that torchrun started do together, and leave in a folder for tests/test_together.py to look at.

torchrun --nproc-per-node 2 tests/together.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers import SMALL_NETWORK, Killed, killer, scene_split, small_suite

import invsuite
from invsuite._system.environment import is_helper
from invsuite._system.ranks import Ranks, join
from invsuite.apply.inverse import Inverse
from invsuite.benchmark.fitting import fit_method
from invsuite.cli import app
from invsuite.errors import UsageError
from invsuite.methods import floors, make_method, passes, ridge
from invsuite.methods.base import Fitted
from invsuite.methods.problem import Budget, Context, Problem
from invsuite.methods.training import engine
from invsuite.models.load import load_model

STAGES = ("embed", "block03")
MODEL, FIT, SELECT = load_model("bundled:vit"), scene_split(902, 42), scene_split(903, 7)
FINGERPRINT = MODEL.fingerprint()
NETWORK = {"width": 8, "depth": 1, "start": "random"}
LAYERWISE = (make_method("layerwise", NETWORK), Budget(image_passes=60, batch=15))
SMALL = 8  # images whose sums are added at once
SUMS = (make_method("ridge", {"choose": "selection"}), make_method("nearest", {}))
SUITE = small_suite(
    "together",
    {"ridge": "{}", "layerwise": '{ width = 8, depth = 1, start = "random" }', "modular-noised": SMALL_NETWORK},
    stages=("embed",),
    counts=(40, 5, 3),
    source="bundled:vit",
)


def problem(budget: Budget | None = None, **context: Any) -> Problem:
    """The bundled ViT, 42 fit scenes (six batches of sums) and 7 selection scenes (one)."""
    spent = budget or Budget(image_passes=30, batch=15)
    return Problem(MODEL, STAGES, STAGES, FIT, SELECT, spent, 0, Context(**context))


def answers(fitted: Fitted | Inverse) -> dict[str, torch.Tensor]:
    """Reconstructions of four images at each stage."""
    fitted = fitted.fitted if isinstance(fitted, Inverse) else fitted
    assert fitted.problem is not None
    images = scene_split(905, 4).images(slice(0, 4))
    representations = fitted.problem.model.represent(images, STAGES)
    return {stage: fitted.invert(representations[stage], images) for stage in STAGES}


def refusal(name: str, batch: int, ranks: Ranks) -> str:
    """What a user is told who wants it fitted together."""
    try:
        if name == "modular-noised":
            invsuite.fit(name, MODEL, STAGES, FIT, together=True)
        else:
            make_method(name, NETWORK).fit(problem(Budget(image_passes=30, batch=batch), ranks=ranks))
    except UsageError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    """Fit together, be killed, go on, and run a suite."""
    ranks, _ = join(torch.device("cpu"))
    found: dict[str, Any] = {}
    method, budget = LAYERWISE
    inverse = invsuite.fit(method, MODEL, STAGES, FIT, select=SELECT, budget=budget, together=True)
    found["layerwise"], found["notes"] = answers(inverse), inverse.fitted.notes
    found["passes"], found["flops"] = inverse.fitted.cost.image_passes, inverse.fitted.cost.fit_flops
    timed = fit_method(method, problem(Budget(seconds=0.4, batch=15), ranks=ranks), FINGERPRINT)
    found["timed"] = ranks.gather((timed.cost.image_passes, timed.inverter.tensors()))
    engine.CHECKPOINT_SECONDS = 0.0
    long, steps = Budget(image_passes=240, batch=15), list[int]()
    killed = problem(long, checkpoints=folder / "trained", progress=killer(6, "training"), ranks=ranks)
    try:
        method.fit(killed)
    except Killed:
        ranks.gather(None)
    if ranks.first:
        shutil.copytree(folder / "trained", folder / "alone" / "trained")
    ranks.gather(None)
    on = replace(killed.context, progress=lambda done, total, note: steps.append(done) if "training" in note else None)
    found["resumed"] = answers(fit_method(method, replace(killed, context=on), FINGERPRINT))
    found["resumed steps"] = ranks.gather((steps[0], steps[-1]))
    ridge.BATCH = floors.FIT_BATCH = SMALL
    passes.SAVE_SECONDS, passes.SAVE_SHARE = 0.0, float("inf")
    for kind in SUMS:
        killed = problem(checkpoints=folder / "killed" / kind.name, progress=killer(2), ranks=ranks)
        try:
            kind.fit(killed)
        except Killed:
            ranks.gather(None)  # so that nobody looks for what the other has not left yet
        if ranks.first:
            shutil.copytree(folder / "killed" / kind.name, folder / "alone" / kind.name)
        ranks.gather(None)
        added: list[int] = []
        context = replace(killed.context, progress=lambda done, total, note, added=added: added.append(total))
        fitted = fit_method(kind, replace(killed, context=context), FINGERPRINT)
        found[kind.name] = answers(fitted)
        found[f"{kind.name} added"] = [totals[-1] for totals in ranks.gather(added)]
        found[f"{kind.name} notes"] = fitted.notes
    found["refused"] = [refusal("modular-noised", 15, ranks), refusal("layerwise", 1, ranks)]
    if not is_helper():
        torch.save(found, folder / "found.pt")
        (folder / "together.toml").write_text(SUITE)
    ranks.gather(None)
    ridge.BATCH = floors.FIT_BATCH = 32
    app(["bench", "--suite", str(folder / "together.toml"), "--out", str(folder / "out"), "--device", "cpu"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
