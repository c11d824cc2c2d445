"""Random resized crops of fit images: what is cut, and by whom; that nothing of it is kept, and all can be repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Killed, in_context, invoke, killer, scene_split, small_suite
from PIL import Image

from invsuite.benchmark import estimate
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.estimate import plan_cost
from invsuite.benchmark.suite import load_suite
from invsuite.data import decoding, photo_files, workers
from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry, Resampling
from invsuite.data.split import Split
from invsuite.errors import DataError, UsageError
from invsuite.methods import make_method, method_table
from invsuite.methods.base import Fitted
from invsuite.methods.problem import Problem, ProgressHook, silent
from invsuite.methods.training import engine
from invsuite.methods.training.draws import Draw, draws
from invsuite.methods.training.features import FeatureCache, FeatureStream
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Model

MakeProblem = Callable[..., Problem]
COUNT = 12


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotoFolder:
    """Twelve photos of 90 x 60 for a model of 12 px: red tells the column of a pixel, green its row."""
    monkeypatch.setenv("INVSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photo_files, "_looked_at", {})
    (tmp_path / "photos").mkdir()
    columns, rows = np.meshgrid(np.arange(90), np.arange(60))
    for number in range(COUNT):
        pixels = np.stack([2 * columns, 4 * rows, np.full_like(rows, 10 * number)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02d}.png")
    return PhotoFolder(tmp_path / "photos", Geometry((12, 12)))


def whole(folder: PhotoFolder) -> Split:
    return Split(folder, tuple(range(len(folder))))


@pytest.mark.parametrize("mode", ["crop", "squash"])
@pytest.mark.parametrize("least", [0.1, 0.999])
def test_a_random_box_has_the_aspect_of_the_models_own_and_lies_in_the_photo(mode: str, least: float) -> None:
    geometry = Geometry((24, 16), mode, Resampling(crop_pct=0.9))  # type: ignore[arg-type]
    left, top, right, bottom = geometry.source_box(90, 60)
    boxes = np.array([geometry.random_box(90, 60, least, seed) for seed in range(2000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.allclose(widths / heights, (right - left) / (bottom - top))
    areas = widths * heights / ((right - left) * (bottom - top))
    assert areas.min() >= least - 1e-9
    assert areas.max() <= 1 + 1e-9
    assert areas.mean() == pytest.approx((1 + least) / 2, abs=0.02)
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= 90).all()
    assert (boxes[:, 3] <= 60).all()
    free = 90 - widths
    places = boxes[:, 0][free > 1] / free[free > 1]
    if len(places):
        assert places.mean() == pytest.approx(0.5, abs=0.03)
        assert places.std() == pytest.approx(12**-0.5, abs=0.02)
    assert geometry.random_box(90, 60, least, 3) == geometry.random_box(90, 60, least, 3)


def test_a_crop_is_cut_from_the_photo_in_its_own_size(folder: PhotoFolder) -> None:
    box = folder.geometry.random_box(90, 60, 0.2, seed=7)
    made = decoding.random_crop(folder, 5, 0.2, seed=7).float()
    assert made.shape == (3, 12, 12)
    side = (box[2] - box[0]) / 12
    centres = box[0] + side * (torch.arange(12) + 0.5) - 0.5  # of the columns of the photo that a pixel covers
    assert (made[0].mean(0) / 2 - centres)[1:-1].abs().max() < 0.5
    assert (made[1].mean(1) / 4 - (centres - box[0] + box[1]))[1:-1].abs().max() < 0.5
    assert (made[2] == 50).all()


def test_a_crop_of_an_image_without_a_photo_is_cut_from_the_image() -> None:
    scenes = scene_split(905, 1, 24)
    image = scenes.pixels([0])[0]
    made = decoding.random_crop(scenes.dataset, 0, 0.25, seed=3)
    box = Geometry((24, 24)).random_box(24, 24, 0.25, seed=3)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((24, 24), Image.Resampling.BICUBIC, box=box)
    assert np.array_equal(made.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_every_crop_is_a_draw_of_its_own(folder: PhotoFolder) -> None:
    split = whole(folder)
    plain = list(islice(draws(split, 5, seed=1, flip=True), 20))
    assert all(draw.crops == () for draw in plain)
    cropped = list(islice(draws(split, 5, seed=1, flip=True, crop=0.3), 20))
    seeds = [seed for draw in cropped for seed in draw.crops]
    assert len(set(seeds)) == 100
    assert [draw.mirrored for draw in plain[:1]] == [draw.mirrored for draw in cropped[:1]]
    assert {row for draw in cropped for row in draw.rows} == set(range(COUNT))
    assert cropped[3].part(slice(1, 3)) == Draw(
        cropped[3].rows[1:3], cropped[3].mirrored[1:3], cropped[3].crops[1:3], 0.3
    )


def batches(model: Model, split: Split, count: int, cache: FeatureCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    stream = FeatureStream(model, split, ["first"], 4, cache, 4 * count)
    some = stream.batches(draws(split, 4, seed=2, flip=True, crop=0.3))
    made = [(images.clone(), tensors["first"].clone()) for images, tensors in islice(some, count)]
    some.close()  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_workers_cut_what_was_drawn(
    folder: PhotoFolder, small_chain: Model, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "processes":
        monkeypatch.setattr(workers, "processors", lambda: 3)
        monkeypatch.setattr(workers, "WORTH_PROCESSES", 1)
    split, cache = whole(folder), FeatureCache("memory")
    made = batches(small_chain, split, 9, cache)
    for (images, tensor), draw in zip(made, draws(split, 4, seed=2, flip=True, crop=0.3), strict=False):
        for image, row, mirrored, seed in zip(images, draw.rows, draw.mirrored, draw.crops, strict=True):
            expected = decoding.random_crop(folder, row, 0.3, seed).float() / 255
            assert torch.equal(image, expected.flip(-1) if mirrored else expected)
        assert torch.equal(tensor, small_chain.represent(images, ["first"])["first"].tensor)
    assert cache.place is None, "nothing was decided for other fits"
    assert not cache.missing([], ["first"])
    assert cache.missing([0, 1], ["first"]) == [0, 1], "nothing was kept"


def test_a_photo_that_breaks_is_named(folder: PhotoFolder, small_chain: Model) -> None:
    folder.files[3].path.write_bytes(b"no photo any more")
    with pytest.raises(DataError, match=r"03\.png"):
        batches(small_chain, whole(folder), 9, FeatureCache("off"))


@pytest.mark.parametrize("name", ["layerwise", "shared-chain"])
def test_a_killed_fit_with_crops_goes_on_to_the_same_weights(
    name: str,
    folder: PhotoFolder,
    small_chain: Model,
    make_problem: MakeProblem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    problem = replace(make_problem(small_chain, ("first", "second"), passes=320), fit=whole(folder))
    budget = replace(problem.budget, batch=4)

    def fit(crop: float, checkpoints: Path | None = None, progress: ProgressHook = silent) -> Fitted:
        params = {"width": 16, "depth": 1, "recipe": {"patience": 0, "crop": crop}}
        own = in_context(replace(problem, budget=budget), progress=progress, checkpoints=checkpoints)
        return make_method(name, params).fit(own)

    straight, plain = fit(0.3), fit(1.0)
    with pytest.raises(Killed):
        fit(0.3, tmp_path, killer(0.5, "training steps"))
    resumed = fit(0.3, tmp_path)
    images = whole(folder).images(slice(0, 2))
    found = small_chain.represent(images, problem.stages)
    for stage in problem.stages:
        one, two, other = (fitted.invert(found[stage], images) for fitted in (straight, resumed, plain))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
    assert straight.cost.image_passes == plain.cost.image_passes


def test_crops_belong_to_a_cells_identity_where_there_are_any() -> None:
    whole, cropped = (make_method("layerwise", {"recipe": {"crop": crop}}) for crop in (1.0, 0.25))
    assert "crop" not in whole.params()["recipe"], "cells of before keep their identity"
    assert cropped.params()["recipe"]["crop"] == 0.25
    refined = make_method("refined", {"start": {"kind": "layerwise", "recipe": {"crop": 0.25}}})
    assert refined.params()["start"]["recipe"]["crop"] == 0.25
    table = method_table(cropped)
    assert make_method(table.pop("kind"), table) == cropped
    for wrong in (0.0, 1.5):
        with pytest.raises(UsageError, match=r"recipe\.crop"):
            Recipe(crop=wrong)


def test_a_dry_run_counts_every_crop_as_an_image_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every timed piece taken as long as any other: what is asked is how often each is counted."""

    def timed(piece: Callable[[], object], device: torch.device) -> float:
        piece()
        return 1e-3

    monkeypatch.setattr(estimate, "timed", timed)
    hours = []
    for crop in (1.0, 0.25):
        table = f"{{ width = 8, depth = 1, recipe = {{ crop = {crop} }} }}"
        path = tmp_path / f"{crop}.toml"
        path.write_text(small_suite("dry", {"layerwise": table}, passes=200_000))
        plan = make_plan(load_suite(str(path)), Selection(), lambda text: None)
        ids = {cell.id for model in plan.models for cell in model.cells}
        hours.append(plan_cost(plan, ids, torch.device("cpu"), tmp_path).hours)
    assert hours[1] > 1.2 * hours[0]


def test_a_suite_asks_for_crops(tmp_path: Path) -> None:
    table = "{ width = 8, depth = 1, recipe = { crop = 0.5 } }"
    (tmp_path / "crops.toml").write_text(small_suite("crops", {"layerwise": table}))
    result = invoke("bench", "--suite", tmp_path / "crops.toml", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    [record] = (tmp_path / "out" / "records" / "crops").glob("*-embed-*.json")
    assert '"crop": 0.5' in record.read_text()
