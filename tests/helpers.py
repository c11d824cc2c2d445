"""What several test files build on."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from invsuite.cli import app
from invsuite.data.scenes import Scenes
from invsuite.data.split import Split


def scene_split(seed: int, count: int, size: int = 96) -> Split:
    """``count`` scenes of ``seed``, all of them."""
    return Split(Scenes(seed, count, size), tuple(range(count)))


TINY_SUITE = """
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
source = "bundled:vit"
stages = ["embed", "block03"]

[models.detr]
source = "bundled:detr"
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


def invoke(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(w) for w in words])
