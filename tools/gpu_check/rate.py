"""Time a fit against what bounds it: the frozen model's own passes and the inverses' arithmetic, on photos in files.

The bound: an image of a fit costs no less than one forward and backward pass of the frozen model to the deepest stage,
measured here, and the operations of its inverses' training steps, counted, at the rate of a large matrix product in
their precision, measured here. A fit's seconds per image are the difference of two fits of different length, so that
what happens once (initial values, compilation, the first kernels) does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from invsuite._system.devices import pick_device
from invsuite._system.provenance import device_name, set_determinism
from invsuite._system.replay import Replay
from invsuite._system.timing import Meter, Stopwatch, clock_name
from invsuite.benchmark.fitting import fit_method
from invsuite.data.folder import FolderSource
from invsuite.data.scenes import ScenesSource
from invsuite.data.sources import open_images
from invsuite.data.split import Split, hold_back
from invsuite.methods import make_method
from invsuite.methods.base import Fitted
from invsuite.methods.problem import Budget, Context, Engine, Problem
from invsuite.methods.training.features import FeatureCache
from invsuite.models.base import Model
from invsuite.models.load import load_model

#: precision; how steps run: launched one by one ("plain"), replayed ("graphs"), or through `torch.compile` in its
#: default mode ("compile") or another one; and where representations are kept, or "crops": nowhere, for every image is
#: a random crop, decoded anew
VARIANTS = "bfloat16:graphs:off,float32:graphs:off,bfloat16:plain:off,float32:plain:off,bfloat16:graphs:auto"
VARIANTS += ",bfloat16:graphs:crops,bfloat16:compile:off,bfloat16:reduce-overhead:off"
CROP = 0.25  # share of a photo's area that a random crop keeps at least
SELECTED = 32  # images held back for the one evaluation at the end of a fit
LONGER = 5  # times the short fit
WARMING = 4  # steps
PRODUCT = {"cuda": 8192, "cpu": 512}  # rows and columns of the matrices of the product that is timed


def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write what is known so far after every fit."""
    parser = argparse.ArgumentParser(prog="python tools/gpu_check/rate.py", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="timm:vit_tiny_patch16_224")
    parser.add_argument("--stages", default="embed,block03,block06,block09")
    parser.add_argument("--photos", default="$INVSUITE_FIT_PHOTOS", help="folder; '' takes generated scenes")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40, help="of the short fit")
    parser.add_argument("--variants", default=VARIANTS)
    parser.add_argument("--seconds", type=float, default=90.0, help="no fit begins later")
    parser.add_argument("--out", type=Path, default=Path("rate.json"))
    options = parser.parse_args(words)
    begun = time.monotonic()
    device = pick_device(options.device)
    set_determinism(0)
    model, stages = load_model(options.model).to(device), tuple(options.stages.split(","))
    split, seconds = photos(options.photos, model)
    learnt, select = hold_back(split, SELECTED)
    problem = Problem(model, stages, stages, learnt, select, Budget(image_passes=0, batch=options.batch), seed=0)
    facts: dict[str, Any] = {
        "device": device_name(device),
        "clock": clock_name(device),
        "model": model.origin.source,
        "stages": stages,
        "method": f"modular, width {options.width}, depth 1",
        "batch": options.batch,
        "photos": len(split),
        "decoded_per_second": len(split) / seconds,
        "frozen": frozen_rates(problem),
        "flop_per_second": {name: product_rate(device, name) for name in ("float32", "bfloat16")},
        "fits": [],
    }
    fit(problem, options.variants.partition(",")[0], options.width, WARMING)  # the first of a process loads kernels
    for variant in options.variants.split(","):
        started = time.monotonic()
        if facts["fits"] and time.monotonic() - begun > options.seconds:
            facts["fits"].append({"variant": variant, "problem": "no time left"})
        else:
            try:
                facts["fits"].append(timed_fit(problem, variant, options.width, options.steps, facts))
            except Exception as error:  # another variant may still do: a compiler that is not there, say
                facts["fits"].append({"variant": variant, "problem": f"{type(error).__name__}: {error}"[:500]})
            except KeyboardInterrupt:  # its time is up
                told = f"stopped {time.monotonic() - started:.0f} s after its start, before it had been timed"
                facts["fits"].append({"variant": variant, "problem": told})
                options.out.write_text(json.dumps(facts, indent=1))
                raise
        print(json.dumps(facts["fits"][-1]), flush=True)
        options.out.write_text(json.dumps(facts, indent=1))
    if all("problem" in fit for fit in facts["fits"]):
        sys.exit("no fit could be timed")


def photos(folder: str, model: Model) -> tuple[Split, float]:
    """Return the images to fit on, decoded, and the seconds that decoding took."""
    source = FolderSource(folder) if folder else ScenesSource(seed=1, count=160)
    split = open_images(source, model.image_size, model.resampling)
    start = time.perf_counter()
    split.prepare()
    return split, time.perf_counter() - start


def per_call(work: Callable[[], object], device: torch.device, seconds: float = 1.0) -> float:
    """Return the seconds of one call, of as many as fit into about ``seconds``, after three that do not count."""
    for _ in range(3):
        work()
    watch, calls = Stopwatch(device), 0
    while watch.seconds < seconds:
        with watch:
            for _ in range(5):
                work()
        calls += 5
    return watch.seconds / calls


def frozen_rates(problem: Problem) -> dict[str, float]:
    """Return images per second of the frozen model to the deepest stage: forward, and forward and backward.

    Each is timed as Python launches it, and as a GPU replays it where it can.
    """
    model, device, batch = problem.model, problem.device, problem.budget.batch
    images = problem.fit.images([i % len(problem.fit) for i in range(batch)]).to(device)

    @torch.no_grad()
    def forward(images: torch.Tensor) -> Sequence[torch.Tensor]:
        return model.forward_stages(images, problem.stages)

    def both(images: torch.Tensor) -> Sequence[torch.Tensor]:
        tracked = images.detach().requires_grad_()
        loss = model.run(tracked, None, problem.stages[-1]).square().mean()
        return torch.autograd.grad(loss, tracked)

    rates = {}
    for name, work in (("forward", forward), ("forward_backward", both)):
        rates[name] = batch / per_call(partial(work, images), device)
        rates[f"{name}_replayed"] = batch / per_call(partial(Replay(work, device), images), device)
    return rates


def product_rate(device: torch.device, precision: str) -> float:
    """Return the operations per second of a large matrix product of random numbers."""
    side = PRODUCT[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    return 2 * side**3 / per_call(lambda: left @ right, device)


@contextmanager
def compiled(mode: str) -> Any:
    """Let the engine's ``torch.compile`` run in this mode; it has one of its own for the other ways."""
    if mode in ("plain", "graphs", "compile"):
        yield
        return
    own = nn.Module.compile
    with patch.object(nn.Module, "compile", lambda module: own(module, mode=mode)):
        yield


def fit(problem: Problem, variant: str, width: int, steps: int) -> tuple[Fitted, Meter, str]:
    """Return a fit of so many steps as the runner does it, what it took, and where it kept representations.

    Nothing is kept of an earlier fit.
    """
    precision, way, cache = variant.split(":")
    # one evaluation, at the end: what is timed are steps
    recipe: dict[str, float] = {"evaluations": 1, "patience": 0}
    if cache == "crops":
        recipe["crop"], cache = CROP, "off"
    method = make_method("modular", {"width": width, "depth": 1, "recipe": recipe})
    compile = "off" if way in ("plain", "graphs") else "on"
    engine = Engine(precision=precision, compile=compile, cache=cache, graphs=way == "graphs")  # type: ignore[arg-type]
    features = FeatureCache(engine.cache)
    budget = Budget(image_passes=steps * problem.budget.batch, batch=problem.budget.batch)
    whole = replace(problem, budget=budget, context=Context(engine=engine, features=features))
    try:
        with compiled(way), Meter(problem.device) as meter:
            fitted = fit_method(method, whole, problem.model.fingerprint())
        place = features.place or "off"
    finally:
        features.close()
    return fitted, meter, place


def timed_fit(problem: Problem, variant: str, width: int, steps: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the rate of a fit, what bounds it, and the share of the bound that it reaches."""
    first, short, _ = fit(problem, variant, width, steps)
    second, long, place = fit(problem, variant, width, LONGER * steps)
    if long.seconds <= short.seconds:
        raise RuntimeError("the longer of two fits took no longer: what happens once hides the steps")
    batch = problem.budget.batch
    images = (LONGER - 1) * steps * batch
    rate = images / (long.seconds - short.seconds)
    flops = (sum(second.cost.fit_flops.values()) - sum(first.cost.fit_flops.values())) / images
    own = flops / facts["flop_per_second"][variant.partition(":")[0]]
    frozen = facts["frozen"]
    bound, replayed = (1 / (1 / frozen[name] + own) for name in ("forward_backward", "forward_backward_replayed"))
    return {
        "variant": variant,
        "kept": place,
        "images_per_second": rate,
        "seconds_per_step": batch / rate,
        "flop_per_image": flops,
        "bound_images_per_second": bound,
        "share_of_bound": rate / bound,
        "bound_replayed_images_per_second": replayed,
        "share_of_bound_replayed": rate / replayed,
        "busy": long.busy,
        "peak_bytes": long.peak_bytes,
        "once_seconds": short.seconds - steps * batch / rate,
    }


if __name__ == "__main__":
    main()
