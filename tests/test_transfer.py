"""An inverse is scored elsewhere beside its own model, the floor, and the share of its gain that is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import invoke
from PIL import Image

import invsuite
from invsuite.errors import UsageError
from invsuite.transfer import OWN, transfer, transfer_markdown


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ridge inverse of the bundled ViT, fitted on scenes."""
    scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=48)
    return invsuite.fit("ridge", "bundled:vit", ["block03"], scenes).save(tmp_path_factory.mktemp("kept") / "ridge")


def test_other_weights_keep_little_and_ones_own_all(kept: Path) -> None:
    images = {"scenes": invsuite.open_images("scenes", (96, 96), seed=2, count=4)}
    rows = transfer(kept, images, ["bundled:vit", "random"])
    values = {row.model: row.record.measurements["psnr"].mean for row in rows}
    floors = {row.model: row.floor.measurements["psnr"].mean for row in rows}
    assert values[OWN] == values["bundled:vit"]
    assert values["random"] < values[OWN] - 5  # type: ignore[operator]
    assert len(set(floors.values())) == 1
    page = transfer_markdown(rows, kept)
    assert "100 %" in page
    assert page.count("| scenes") == 5, "three models at the stage, and two in the summary"
    assert page.index("**Kept of PSNR**") < page.index("**block03**")
    with pytest.raises(UsageError, match="nothing to score on"):
        transfer(kept, {})


def test_the_command_scores_photos_too(kept: Path, tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
        (tmp_path / "holiday").mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((120, 100)).save(tmp_path / "holiday" / f"{number}.png")
    done = invoke("transfer", kept, "--photos", tmp_path / "holiday", "--scenes", 4, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "transfer.md").read_text()
    assert "| holiday" in page
    assert "(n=3)" in page
    assert "(n=4)" in page
    refused = invoke("transfer", kept, "--onto", "bundled:detr", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "stage of model" in refused.output or "takes" in refused.output
