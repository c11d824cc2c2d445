"""Fitting and scoring one method without a suite gives what a suite gives, and says what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import invoke, scene_split, small_suite

from invsuite.apply.inverse import Inverse
from invsuite.data.scenes import ScenesSource
from invsuite.errors import NotApplicable, UsageError
from invsuite.methods.networks import Layerwise
from invsuite.methods.problem import Budget
from invsuite.methods.training import engine
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Model
from invsuite.results.store import Store
from invsuite.single import fit, score

FIT, SELECT, SCORE = ScenesSource(61, 24), ScenesSource(62, 4), ScenesSource(63, 4)


def test_the_numbers_are_those_of_a_suite(small_vit: Model, tmp_path: Path) -> None:
    suite = tmp_path / "one.toml"
    methods = {"ridge": "{}", "layerwise": "{ width = 8, depth = 1 }"}
    suite.write_text(small_suite("one", methods, metrics=("psnr", "hue_gain")))
    assert invoke("bench", "--suite", suite, "--out", tmp_path / "r").exit_code == 0
    records = {r.cell.row: r for r in Store(tmp_path / "r" / "records" / "one").records()}
    for method in ("ridge", Layerwise(width=8, depth=1)):
        inverse = fit(
            method, small_vit, ["embed", "block03"], FIT, select=SELECT, budget=Budget(image_passes=32, batch=16)
        )
        for record in score(inverse, SCORE, ["psnr", "hue_gain"], edits=2):
            expected = records[record.cell.row]
            assert record.identity == expected.identity
            for name, measurement in expected.measurements.items():
                assert record.measurements[name].values == measurement.values, (record.cell.row, name)
            assert record.cost is not None
            assert record.cost.fit_total_seconds > 0


def test_an_inverse_reconstructs(vit: Model) -> None:
    inverse = fit("ridge", "bundled:vit", ["3"], FIT)
    images = ScenesSource(63, 2).open((96, 96), vit.resampling)[0].image[None]
    reconstructions = inverse(images, "3")
    assert reconstructions.shape == images.shape
    assert float((reconstructions - images).square().mean()) < 0.01
    refused = fit("exact", vit, ["block03"], FIT)
    with pytest.raises(NotApplicable):
        refused(images, "block03")


def test_a_killed_fit_goes_on(small_vit: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []

    def fit_once(seed: int = 0, kill_at: int = 1000) -> Inverse:
        def progress(done: int, total: int, note: str) -> None:
            if note == "training steps":
                steps.append(done)
                if done >= kill_at:
                    raise KeyboardInterrupt

        steps.clear()
        method, budget = Layerwise(width=8, depth=1, recipe=Recipe(patience=0)), Budget(image_passes=320, batch=16)
        return fit(method, small_vit, ["embed"], FIT, budget=budget, seed=seed, progress=progress, checkpoints=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        fit_once(kill_at=15)
    assert len(list(tmp_path.rglob("*.pt"))) == 1
    fit_once(seed=1)
    assert len(steps) == 20, "another seed does not go on from it"
    resumed = fit_once()
    assert len(steps) < 10
    assert not list(tmp_path.iterdir())
    images = FIT.open((48, 48), small_vit.resampling)[0].image[None]
    assert torch.equal(resumed(images), fit_once()(images))
    assert len(steps) == 20


def test_what_does_not_fit_is_one_line(small_vit: Model) -> None:
    with pytest.raises(UsageError, match="unknown method 'rigde': did you mean ridge"):
        fit("rigde", small_vit, ["block03"], FIT)
    with pytest.raises(UsageError, match="unknown stage of model 'vit' 'blok03'"):
        fit("ridge", small_vit, ["blok03"], FIT)
    with pytest.raises(UsageError, match="4 fit images are fewer than one batch of 16"):
        fit("layerwise", small_vit, ["embed"], SELECT, select=SCORE, budget=Budget(image_passes=32, batch=16))
    with pytest.raises(UsageError, match="the images have 96 x 96 pixels, and 'vit' takes 48 x 48"):
        fit("ridge", small_vit, ["block03"], scene_split(1, 2))
    inverse = fit("ridge", small_vit, ["block03"], FIT, select=SELECT)
    with pytest.raises(UsageError, match="24 images are in both the fit and the score split"):
        score(inverse, FIT)
    with pytest.raises(UsageError, match="unknown metric 'pnsr'"):
        score(inverse, SCORE, ["pnsr"])


def test_records_stay_where_they_are_wanted(small_vit: Model, tmp_path: Path) -> None:
    [record] = score(fit("mean", small_vit, ["embed"], FIT), SCORE, folder=tmp_path)
    assert [r.cell.id for r in Store(tmp_path).records()] == [record.cell.id]
    assert torch.tensor(record.measurements["psnr"].values).isfinite().all()
