"""An inverse is scored elsewhere beside its own model, the floor, and the share of its gain that is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL_MODELS, invoke
from invented import measurement, record
from PIL import Image

import invsuite
from invsuite.errors import UsageError
from invsuite.results.record import Record
from invsuite.transfer import OWN, Transfer, Transferred, transfer, transfer_markdown


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ridge inverse of the bundled ViT, fitted on scenes."""
    scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=48)
    return invsuite.fit("ridge", "bundled:vit", ["block03"], scenes).save(tmp_path_factory.mktemp("kept") / "ridge")


def test_other_weights_keep_little_and_ones_own_all(kept: Path) -> None:
    images = {"scenes": invsuite.open_images("scenes", (96, 96), seed=2, count=4)}
    [one] = transfer([kept], lambda model: images, ["bundled:vit", "random"])
    rows = one.rows
    values = {row.model: row.record.measurements["psnr"].mean for row in rows}
    floors = {row.model: row.floor.measurements["psnr"].mean for row in rows}
    assert values[OWN] == values["bundled:vit"]
    assert values["random"] < values[OWN] - 5  # type: ignore[operator]
    assert len(set(floors.values())) == 1
    page = transfer_markdown([one])
    assert "100 %" in page
    assert page.count("| scenes") == 5, "three models at the stage, and two in the summary"
    assert page.index("**Kept of PSNR**") < page.index("**block03**")
    with pytest.raises(UsageError, match="nothing to score on"):
        transfer([kept], lambda model: {})


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
    assert "## `ridge` of `vit`" in page
    refused = invoke("transfer", kept, "--onto", "bundled:detr", "--out", tmp_path)
    assert refused.exit_code == 2
    assert "stage of model" in refused.output or "takes" in refused.output


def test_several_inverses_stand_on_one_page_and_read_the_models_that_fit_them(tmp_path: Path) -> None:
    scenes = invsuite.open_images("scenes", (48, 48), seed=1, count=24)
    first = invsuite.fit("ridge", SMALL_MODELS["vit"], ["embed"], scenes).save(tmp_path / "ridge")
    second = invsuite.fit("mean", SMALL_MODELS["detr"], ["backbone"], scenes).save(tmp_path / "mean")
    words = ("--onto", SMALL_MODELS["vit"], "--scenes", 2, "--metrics", "psnr")
    done = invoke("transfer", first, second, *words, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "transfer.md").read_text()
    of_first, of_second = page.split("## `mean` of")
    assert f"| {SMALL_MODELS['vit']} | scenes" in of_first
    assert f"Left out is {SMALL_MODELS['vit']}: " in of_second
    opening = page.splitlines()[2:5]
    assert "(fitted on 21 images of scenes, closed form) and `mean`" in opening[0]
    assert "are worth on scenes (n=2)" in opening[0]
    assert opening[1].startswith("Over the mean colour of each image, PSNR gains in dB: `ridge` of ")
    assert opening[2].startswith("Of that gain is kept with other weights: 100 % on `module:")


@pytest.mark.parametrize(("gain", "spread", "share"), [(4.0, 0.1, True), (0.5, 0.1, False), (2.0, 30.0, False)])
def test_a_share_of_next_to_nothing_is_none(gain: float, spread: float, share: bool) -> None:
    """Elsewhere the inverse is 6 dB worse; for its own model it gains enough, too little, or nothing that is told."""
    noise = [spread * (-1) ** place for place in range(16)]

    def scored(method: str, shift: float, noisy: bool = True) -> Record:
        values = [20.0 + place + shift + noisy * noise[place] for place in range(16)]
        return record(method=method, measurements=[measurement("psnr", values)])

    floor = scored("mean-colour", 0.0, noisy=False)
    rows = [
        Transferred(model, "scenes", scored("ridge", shift), floor)
        for model, shift in ((OWN, gain), ("random", gain - 6))
    ]
    one = Transfer("there/ridge", "100 images of scenes", rows, {})
    page = transfer_markdown([one])
    opening, summary = page.splitlines()[4], page.partition("**Kept of PSNR**")[2].partition("**embed**")[0]
    assert ("-50 %" in summary) == share
    assert ("-50 %" in opening) == share
    assert (f"| -6.00 dB (own gain {gain:+.2f}) |" in summary) == (not share)
    assert ("no share, but -6.00 dB, where its own gain is next to nothing on `random`" in opening) == (not share)
    assert "or is below 1 dB (0.05 of a measure without a unit), there is nothing to have a share of" in page
