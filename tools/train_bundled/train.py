"""Train the bundled models, measure them on held-out scenes, write weights and model cards."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from torchmetrics.detection import MeanAveragePrecision

from invsuite._system.files import write_atomically
from invsuite._system.provenance import provenance_of, set_determinism
from invsuite.data.base import Sample
from invsuite.data.scenes import GENERATOR_VERSION, Scenes, largest_label
from invsuite.models.adapters.bundled import bundled_chain
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.bundled.architecture import (
    CONVNEXT_ARGS,
    DETR_ARGS,
    IMAGE_SIZE,
    MEAN,
    STD,
    SWIN_ARGS,
    VIT_ARGS,
    build_convnext,
    build_swin,
)
from train_bundled import recipe

SEED = 7
HELD_OUT = 500
PYRAMID_STEPS = {"mosaic_steps": 1500, "steps": 450}


@dataclass(frozen=True)
class Training:
    """What the training of one model is given.

    Attributes:
        train: a function of a pool of scenes, the ``steps``, ``seed`` and ``log`` that returns the network.
        architecture: arguments of the network, for the card.
        steps: number of steps by the parameter of ``train``.
        scenes: how many are rendered.
        precision: in which the weights are kept.
    """

    train: Callable[..., nn.Module]
    architecture: dict[str, Any]
    steps: dict[str, int]
    scenes: int = 16000
    precision: torch.dtype = torch.float32

    @property
    def recipe(self) -> str:
        """Return what the function says of itself, for the card."""
        function = self.train.func if isinstance(self.train, partial) else self.train
        return " ".join((function.__doc__ or "").split())


TRAININGS = {
    "vit": Training(recipe.train_vit, VIT_ARGS, {"window_steps": 11000, "steps": 2000}),
    "detr": Training(recipe.train_detr, DETR_ARGS, {"warmup_steps": 1300, "steps": 3600}),
    "swin": Training(partial(recipe.train_pyramid, "swin", build_swin), SWIN_ARGS, PYRAMID_STEPS, 6000, torch.float16),
    "convnext": Training(
        partial(recipe.train_pyramid, "convnext", build_convnext), CONVNEXT_ARGS, PYRAMID_STEPS, 6000, torch.float16
    ),
}


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


def train_all(out: Path, names: Sequence[str], scale: float, log: recipe.Log) -> dict[str, dict[str, Any]]:
    """Train, measure and write models, and return their cards.

    Args:
        out: folder for ``NAME.safetensors`` and ``NAME.json`` of each.
        names: of `TRAININGS`.
        scale: share of the recipes' steps and scenes, for trying them out.
        log: a function that is called with a line every 100 steps.
    """
    set_determinism(SEED)
    cards, pools = {}, dict[int, recipe.Pool]()
    for name in names:
        training = TRAININGS[name]
        scenes = max(64, round(training.scenes * scale))
        if scenes not in pools:
            log(f"rendering {scenes} scenes")
            pools = {scenes: recipe.training_pool(scenes)}
        steps = {key: max(1, round(number * scale)) for key, number in training.steps.items()}
        start = time.perf_counter()
        network = training.train(pools[scenes], **steps, seed=SEED, log=log)
        trained = {"scenes": scenes, **steps, "seconds": round(time.perf_counter() - start), "seed": SEED}
        cards[name] = write_model(out, name, network, trained)
    return cards


def write_model(out: Path, name: str, network: nn.Module, trained: dict[str, int]) -> dict[str, Any]:
    """Write weights and card of a trained network, and return the card.

    Args:
        out: folder for both.
        name: of `TRAININGS`.
        network: in eval mode; its weights are rounded to the precision in which they are kept.
        trained: numbers of its training, for the card.
    """
    training = TRAININGS[name]
    data = save({k: v.to(training.precision).contiguous() for k, v in network.state_dict().items()})
    network.load_state_dict(load(data))
    path = out / f"{name}.safetensors"
    write_atomically(path, data)
    origin = WeightsOrigin(f"bundled {name}", hashlib.sha256(data).hexdigest())
    card = {
        "date": date.today().isoformat(),
        "file": path.name,
        "sha256": origin.sha256,
        "bytes": len(data),
        "parameters": sum(p.numel() for p in network.parameters()),
        "architecture": type(network).__name__,
        "arguments": training.architecture,
        "normalisation": {"mean": MEAN, "std": STD},
        "image_size": IMAGE_SIZE,
        "recipe": training.recipe,
        "data": {
            "generator_version": GENERATOR_VERSION,
            "seeds": [recipe.TRAIN_SEED, recipe.SINGLE_TRAIN_SEED],
            "held_out_seeds": [recipe.HELD_OUT_SEED, recipe.HELD_OUT_SINGLE_SEED],
        },
        "trained": trained,
        "measured": _measure(bundled_chain(name, network, origin)),
        "provenance": provenance_of(torch.device("cpu"), SEED),
    }
    write_atomically(out / f"{name}.json", (json.dumps(card, indent=1) + "\n").encode())
    return card


def _measure(model: Model) -> dict[str, Any]:
    """Return how well a model does its own task on held-out scenes, in numbers and in words."""
    if model.task == "detection":
        measured = measure_ap(model, recipe.held_out(single=False, count=HELD_OUT))
        summary = f"AP50 {measured['ap50']:.3f}, AP {measured['ap']:.3f} on {HELD_OUT} scenes of 1-4 objects"
    else:
        single, largest = (measure_accuracy(model, recipe.held_out(s, HELD_OUT)) for s in (True, False))
        measured = {"accuracy_single_object": single, "accuracy_largest_object": largest}
        summary = (
            f"accuracy {single:.1%} on single-object scenes, {largest:.1%} on the largest of 1-4 objects "
            f"(n = {HELD_OUT} each)"
        )
    return {"held_out_scenes": HELD_OUT, **measured, "summary": summary}
