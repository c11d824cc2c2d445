"""What several test files build on."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner, Result

from invsuite.cli import app
from invsuite.data.base import Sample
from invsuite.data.scenes import CLASSES, Scenes
from invsuite.data.split import Split
from invsuite.methods.problem import Problem
from invsuite.metrics.base import Scoring, Subject, Values
from invsuite.models.base import Model
from invsuite.models.load import load_model


def scene_split(seed: int, count: int, size: int = 96) -> Split:
    """``count`` scenes of ``seed``, all of them."""
    return Split(Scenes(seed, count, size), tuple(range(count)))


def in_context(problem: Problem, **changes: Any) -> Problem:
    """The same problem with ``changes`` to its context."""
    return replace(problem, context=replace(problem.context, **changes))


#: sources of small models with random weights, in place of the bundled ones: a third of the time on the same paths
SMALL_MODELS = {name: f"module:{Path(__file__).with_name('small_models.py')}:{name}" for name in ("vit", "detr")}

TINY_SUITE = f"""
name = "tiny"
title = "tiny: a suite for tests"
seeds = [0]
metrics = ["psnr", "ssim", "lpips", "correspondence", "hue_gain"]
edits = 3

[budget]
image_passes = 64
batch = 16

[data.fit]
kind = "scenes"
seed = 31
count = 64

[data.select]
kind = "scenes"
seed = 32
count = 8

[data.score]
kind = "scenes"
seed = 33
count = 6

[models.vit]
source = "{SMALL_MODELS["vit"]}"
stages = ["embed", "block03"]

[models.detr]
source = "{SMALL_MODELS["detr"]}"
stages = ["backbone", "decoder"]

[methods.mean]
[methods.ridge]
[methods.optimisation]
iterations = 3
[methods.layerwise]
width = 16
depth = 1
[methods.modular]
width = 16
depth = 1
"""
#: the same of the bundled models
BUNDLED_SUITE = TINY_SUITE.replace(SMALL_MODELS["vit"], "bundled:vit").replace(SMALL_MODELS["detr"], "bundled:detr")

SMALL_NETWORK = "{ width = 8, depth = 1 }"


def small_suite(
    name: str,
    methods: Mapping[str, str],
    stages: Sequence[str] = ("embed", "block03"),
    metrics: Sequence[str] = ("psnr",),
    passes: int = 32,
    counts: tuple[int, int, int] = (24, 4, 4),
    seed: int = 61,
    source: str = SMALL_MODELS["vit"],
) -> str:
    """A suite of a ViT on scenes of ``seed`` and the two after it.

    Args:
        methods: names, each with its parameters as a TOML table.
        passes: images that a trained method sees.
        counts: of the fit, selection and scored images.
        source: of the model.
    """
    lines = [
        f"name = {json.dumps(name)}",
        f"title = {json.dumps(name)}",
        "seeds = [0]",
        f"metrics = {json.dumps(metrics)}",
        "edits = 2",
        f"budget = {{ image_passes = {passes}, batch = 16 }}",
    ]
    for place, (part, count) in enumerate(zip(("fit", "select", "score"), counts, strict=True)):
        lines.append(f'data.{part} = {{ kind = "scenes", seed = {seed + place}, count = {count} }}')
    lines.append(f"models.vit = {{ source = {json.dumps(source)}, stages = {json.dumps(stages)} }}")
    lines += [f"methods.{method} = {table}" for method, table in methods.items()]
    return "\n".join([*lines, ""])


def invoke(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(w) for w in words])


class Killed(Exception):
    """Stands for the end of a process in the middle of its work."""


def killer(after: float, at: str = "") -> Callable[[int, int, str], None]:
    """A progress hook that ends the work when so much of it is done, ``at`` what is counted.

    ``after`` is a share of the whole below 1, a count above.
    """

    def hook(done: int, total: int, note: str) -> None:
        if at in note and (done > after * total if after < 1 else done == after):
            raise Killed

    return hook


Reconstruct = Callable[[torch.Tensor], torch.Tensor]


@lru_cache(maxsize=1)
def scored_model() -> Model:
    """The model that `scoring` measures on."""
    return load_model("bundled:vit")


def copy(images: torch.Tensor) -> torch.Tensor:
    """A perfect reconstruction."""
    return images.clone()


def noisy_by_content(images: torch.Tensor) -> torch.Tensor:
    """A reconstruction with an error that depends on the pixel alone, not on the batch."""
    return (images + 0.05 * torch.sin(images * 300)).clamp(0, 1)


def smeared(images: torch.Tensor) -> torch.Tensor:
    """A reconstruction that is blurred, paler and wrong in its texture: nothing about it is at a level."""
    blurred = torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    return 0.4 * noisy_by_content(images) + 0.4 * blurred + 0.2 * images.mean(1, keepdim=True)


def defined(values: Values) -> list[float]:
    """The values that are not None."""
    return [value for value in values.per_image if value is not None]


def scoring(
    reconstruct: Reconstruct,
    count: int = 8,
    samples: list[Sample] | None = None,
    model: Model | None = None,
    stage: str = "block03",
    invert: Reconstruct | None = None,
    fit: Split | None = None,
    witness: Model | None = None,
) -> Scoring:
    """Material for measures: scenes, and whatever ``reconstruct`` makes of their images.

    ``invert`` answers for a stage's tensors; by default it knows nothing and gives grey images.
    """
    samples = samples or scene_split(906, count).samples()
    images = torch.stack([s.image for s in samples])
    model = model or scored_model()

    def grey(tensor: torch.Tensor) -> torch.Tensor:
        return torch.full((len(tensor), *images.shape[1:]), 0.5)

    fit = fit or scene_split(907, 48, model.image_size[0])
    subject = Subject(model, model.stages[:-1], samples, images, fit, count, CLASSES)
    if witness is not None:
        subject.witness = witness
    return Scoring(subject, stage, reconstruct(images), reconstruct, invert or grey)


def profile(primaries: tuple[tuple[float, float, float], ...], gamma: float = 2.2) -> bytes:
    """An ICC profile of these primaries (XYZ under D50) and a gamma, written apart from LittleCMS."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"para" + bytes(4) + struct.pack(">HH", 0, 0) + fixed(gamma)
    text = "own".encode("utf-16-be")
    name = b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(text), 28) + text
    tags = {b"desc": name, b"cprt": name, b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    tags |= {c + b"XYZ": b"XYZ " + bytes(4) + fixed(*xyz) for c, xyz in zip((b"r", b"g", b"b"), primaries, strict=True)}
    tags |= {c + b"TRC": curve for c in (b"r", b"g", b"b")}
    body, table, start = b"", struct.pack(">I", len(tags)), 132 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I", start + len(body)) + bytes(4) + struct.pack(">I", 0x04200000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


#: Display P3, of every iPhone
P3 = profile(((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)))
