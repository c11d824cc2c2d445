"""What a plan would cost on this device, estimated from one short, timed forward pass of each model.

An estimate, not a measurement: a cell's image passes (`invsuite.runner.estimate`) times the seconds of a pass times
what a pass of the method's family costs in forward passes. Inverse networks are taken to be about as heavy as the part
of the model they invert; measures, caches and early stopping are left out.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch

from invsuite.grid import Opened, Plan
from invsuite.models.base import Model
from invsuite.runner import estimate

IMAGES = 2  # of the timed pass
#: Forward passes of the frozen model that one image pass is worth: a backward pass counts as two forward ones.
WORTH = {
    "floor": 1.0,
    "closed form": 1.5,  # the pass, and products of its features
    "optimisation": 3.0,  # forward and backward of the model down to the pixels
    "layer-wise": 4.0,  # the pass, forward and backward of an inverse of about its size
    "modular": 2.0,  # the same, with an inverse of a part of it
    "hybrid": 6.0,  # forward and backward of the inverse and of the model
}


@dataclass(frozen=True)
class Calibration:
    """One model on one device: seconds of an image's forward pass, bytes of its weights, and bytes that a backward
    pass to an image's pixels keeps."""

    seconds: float
    weight_bytes: int
    kept_bytes: int

    def memory(self, batch: int) -> int:
        """Bytes that a batch needs, the inverse networks left out."""
        return self.weight_bytes + batch * self.kept_bytes


@dataclass(frozen=True)
class Cost:
    """Estimated hours of the cells still to run, most memory in bytes of any model, and the models without an estimate
    because they cannot be had here."""

    hours: float
    memory: int
    unknown: tuple[str, ...]


def calibrate(model: Model, stages: Collection[str], device: torch.device) -> Calibration:
    """Time a pass of random images to the deepest of ``stages``, after one to warm up."""
    model.to(device)
    stage = model.order(tuple(stages))[-1]
    images = torch.rand(IMAGES, 3, *model.image_size, device=device)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        model.represent(images, [stage])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) / IMAGES
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = model.run(images[:1].clone().requires_grad_(), None, stage)
    del answer
    model.to("cpu")
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return Calibration(seconds, sum(weights.values()), activations)


def plan_cost(plan: Plan, to_run: Collection[str], device: torch.device) -> Cost:
    """The cost of the cells with ids ``to_run``."""
    seconds, memory, unknown = 0.0, 0, []
    for entry in plan.models:
        cells = [cell for cell in entry.cells if cell.id in to_run]
        if not cells:
            continue
        if not isinstance(entry, Opened):
            unknown.append(entry.spec.name)
            continue
        found = calibrate(entry.model, {cell.stage for cell in cells}, device)
        memory = max(memory, found.memory(plan.suite.budget.batch))
        seconds += sum(estimate(plan, cell) * WORTH[cell.method.method.family] * found.seconds for cell in cells)
    return Cost(seconds / 3600, memory, tuple(unknown))
