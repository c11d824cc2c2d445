"""Train both models, measure them on held-out scenes, write weights and model card."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torchmetrics.detection import MeanAveragePrecision

from invsuite._system.files import write_atomically
from invsuite._system.provenance import provenance_of, set_determinism
from invsuite.data.base import Sample
from invsuite.data.scenes import GENERATOR_VERSION, Scenes, largest_label
from invsuite.models.adapters.bundled import bundled_chain
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.bundled.architecture import DETR_ARGS, IMAGE_SIZE, MEAN, STD, VIT_ARGS
from train_bundled import recipe

SEED = 7
POOL = 16000
VIT_STEPS = (11000, 2000)
DETR_STEPS = (1300, 3600)
HELD_OUT = 500


def measure_accuracy(model: Model, scenes: Scenes) -> float:
    """Return the share of scenes whose largest object's class the model names first."""
    right = 0
    for samples in _chunks(scenes):
        named = model.predict(torch.stack([s.image for s in samples])).logits.argmax(1).tolist()
        right += sum(n == largest_label(s) for n, s in zip(named, samples, strict=True))
    return right / len(scenes)


def _chunks(scenes: Scenes, size: int = 50) -> Iterator[list[Sample]]:
    for start in range(0, len(scenes), size):
        yield [scenes[i] for i in range(start, min(start + size, len(scenes)))]


def measure_ap(model: Model, scenes: Scenes) -> dict[str, float]:
    """Return the COCO average precision (torchmetrics over pycocotools) of the detector on ``scenes``."""
    metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")
    side = float(scenes.size)
    for samples in _chunks(scenes):
        answer = model.predict(torch.stack([s.image for s in samples]))
        assert answer.boxes is not None
        scores, labels = answer.logits.softmax(-1)[..., :-1].max(-1)
        cx, cy, w, h = (answer.boxes * side).unbind(-1)
        boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)
        detections = [{"boxes": b, "scores": s, "labels": n} for b, s, n in zip(boxes, scores, labels, strict=True)]
        truth = [
            {
                "boxes": torch.tensor([i.box for i in s.instances]),
                "labels": torch.tensor([i.label for i in s.instances]),
            }
            for s in samples
        ]
        metric.update(detections, truth)
    precision = metric.compute()
    return {"ap50": float(precision["map_50"]), "ap": float(precision["map"])}


def train_all(out: Path, scale: float, log: recipe.Log) -> dict[str, Any]:
    """Train, measure and write both models, and return the model card.

    Args:
        out: folder for ``vit.safetensors``, ``detr.safetensors`` and ``card.json``.
        scale: share of the recipe's steps and scenes, for trying it out.
        log: a function that is called with a line every 100 steps.
    """
    set_determinism(SEED)
    log(f"rendering {round(POOL * scale)} scenes")
    pool = recipe.training_pool(max(64, round(POOL * scale)))
    models: dict[str, Any] = {}
    windows, steps = (max(1, round(s * scale)) for s in VIT_STEPS)
    start = time.perf_counter()
    vit = recipe.train_vit(pool, windows, steps, SEED, log)
    trained = {"window_steps": windows, "steps": steps}
    models["vit"] = _finish(out, "vit", vit, time.perf_counter() - start, trained, VIT_ARGS)
    warmup, steps = (max(1, round(s * scale)) for s in DETR_STEPS)
    start = time.perf_counter()
    detr = recipe.train_detr(pool, warmup, steps, SEED, log)
    trained = {"warmup_steps": warmup, "steps": steps}
    models["detr"] = _finish(out, "detr", detr, time.perf_counter() - start, trained, DETR_ARGS)
    return write_card(out, len(pool.images), models)


def write_card(out: Path, scenes: int, models: dict[str, Any]) -> dict[str, Any]:
    """Write ``card.json`` for ``models`` trained on ``scenes`` rendered scenes, and return it."""
    card = {
        "date": date.today().isoformat(),
        "data": {
            "generator_version": GENERATOR_VERSION,
            "scenes": scenes,
            "seeds": [recipe.TRAIN_SEED, recipe.SINGLE_TRAIN_SEED],
            "held_out_seeds": [recipe.HELD_OUT_SEED, recipe.HELD_OUT_SINGLE_SEED],
        },
        "normalisation": {"mean": MEAN, "std": STD},
        "image_size": IMAGE_SIZE,
        "recipe": " ".join((recipe.__doc__ or "").split()),
        "provenance": provenance_of(torch.device("cpu"), SEED),
        "models": models,
    }
    write_atomically(out / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    return card


def _finish(
    out: Path, name: str, network: nn.Module, seconds: float, trained: dict[str, int], args: dict[str, Any]
) -> dict[str, Any]:
    """Write one model's weights and return its part of the card."""
    data = save({key: value.contiguous() for key, value in network.state_dict().items()})
    path = out / f"{name}.safetensors"
    write_atomically(path, data)
    origin = WeightsOrigin(f"bundled {name}", hashlib.sha256(data).hexdigest())
    model = bundled_chain(name, network, origin)
    measured: dict[str, Any] = {"held_out_scenes": HELD_OUT}
    if name == "vit":
        measured["accuracy_single_object"] = measure_accuracy(model, recipe.held_out(single=True, count=HELD_OUT))
        measured["accuracy_largest_object"] = measure_accuracy(model, recipe.held_out(single=False, count=HELD_OUT))
        measured["summary"] = (
            f"accuracy {measured['accuracy_single_object']:.1%} on single-object scenes, "
            f"{measured['accuracy_largest_object']:.1%} on the largest of 1-4 objects (n = {HELD_OUT} each)"
        )
    else:
        measured |= measure_ap(model, recipe.held_out(single=False, count=HELD_OUT))
        measured["summary"] = (
            f"AP50 {measured['ap50']:.3f}, AP {measured['ap']:.3f} on {HELD_OUT} scenes of 1-4 objects"
        )
    return {
        "file": path.name,
        "sha256": origin.sha256,
        "bytes": len(data),
        "parameters": sum(p.numel() for p in network.parameters()),
        "architecture": type(network).__name__,
        "arguments": args,
        "trained": {**trained, "seconds": round(seconds), "seed": SEED},
        "measured": measured,
    }
