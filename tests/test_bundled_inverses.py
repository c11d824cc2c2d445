"""The inverses in the package: all there, small, of the bundled models themselves, and as good as their cards say."""

from __future__ import annotations

import pytest
import torch

from invsuite.apply.card import read_card
from invsuite.apply.inverse import FILES, load_inverse
from invsuite.apply.places import bundled_inverses
from invsuite.apply.precision import SCALE, reduced, whole
from invsuite.benchmark.suite import load_suite
from invsuite.data.sources import open_images
from invsuite.models.base import Model
from invsuite.models.load import load_model
from invsuite.single import score

BUNDLED = bundled_inverses()
STAGES = {"vit": ("embed", "block03", "block06"), "detr": ("backbone", "encoder", "decoder")}
ROWS = ("ridge", "ridge-3x3", "modular", "layerwise")


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: load_model(f"bundled:{name}") for name in STAGES}


def test_both_models_have_every_row_at_every_stage() -> None:
    assert set(BUNDLED) == {f"bundled:{model}/{row}" for model in STAGES for row in ROWS}
    assert set(bundled_inverses("bundled:vit")) == {f"bundled:vit/{row}" for row in ROWS}
    for folder in BUNDLED.values():
        card = read_card(folder)
        assert card.stages == STAGES[card.model.name]
        assert (card.licence, card.model.weights.licence) == ("Apache-2.0", "Apache-2.0")
        assert {path.name for path in folder.iterdir()} <= set(FILES)
    size = sum(path.stat().st_size for folder in BUNDLED.values() for path in folder.iterdir())
    assert size < 32e6


@pytest.mark.parametrize("place", sorted(BUNDLED))
def test_it_reconstructs_images_that_it_has_not_seen_as_its_card_says(place: str, models: dict[str, Model]) -> None:
    """On the first 8 of the images: their mean lies within the spread that these have."""
    model = models[place.removeprefix("bundled:").partition("/")[0]]
    inverse = load_inverse(place, model)
    scored = open_images(load_suite("bundled").data.score, model.image_size, model.resampling)
    images = scored.images(slice(0, 8))
    for stage in inverse.stages:
        errors = (inverse(images, stage) - images).square().mean((1, 2, 3))
        expected = inverse.card.quality[stage]["psnr"]
        assert expected.n == len(scored)
        assert float((-10 * errors.log10()).mean()) == pytest.approx(expected.mean, abs=2.5)


def test_the_numbers_on_a_card_are_those_of_the_bytes_in_the_package(models: dict[str, Model]) -> None:
    inverse = load_inverse("bundled:vit/ridge", models["vit"])
    for record in score(inverse, load_suite("bundled").data.score, ["psnr"]):
        expected = inverse.card.quality[record.cell.stage]["psnr"].mean
        assert record.measurements["psnr"].mean == pytest.approx(expected, abs=1e-3)


def test_fewer_bytes_are_near_and_what_cannot_be_is_left_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(64, 128, generator=generator) * torch.logspace(-3, 3, 64)[:, None]
    matrix[5] = 0
    for precision, bound in (("float32", 0.0), ("float16", 1e-3), ("int8", 0.5 / 127)):
        stored = reduced("m", matrix, precision)  # type: ignore[arg-type]
        again = whole(stored)["m"]
        assert again.dtype == torch.float32
        assert bool(((again - matrix).abs() <= bound * matrix.abs().amax(1, keepdim=True) + 1e-7).all()), precision
    assert reduced("m", matrix, "int8").keys() == {"m", f"m{SCALE}"}
    small, large, count = torch.randn(3, 3), torch.tensor([1e6]), torch.tensor(3)
    assert reduced("s", small, "int8")["s"].dtype == torch.float16
    assert reduced("l", large, "float16")["l"].dtype == torch.float32
    assert whole(reduced("c", count, "int8"))["c"].dtype == torch.int64
