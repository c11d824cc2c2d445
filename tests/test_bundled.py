"""The bundled models are what their card says, and good enough for an inversion to mean something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import scene_split
from train_bundled import recipe, train
from train_bundled.train import measure_accuracy, measure_ap, train_all

from invsuite.methods import make_method
from invsuite.methods.problem import Problem
from invsuite.models.adapters.bundled import BUILDERS, FOLDER, card
from invsuite.models.base import Layout, Model
from invsuite.models.load import load_model


def test_weights_and_cards_are_under_10_mb_and_those_of_the_pyramids_small() -> None:
    sizes = {p.name: p.stat().st_size for p in Path(str(FOLDER)).iterdir() if p.suffix in (".safetensors", ".json")}
    assert sum(sizes.values()) < 10e6
    assert max(sizes["swin.safetensors"], sizes["convnext.safetensors"]) < 1.2e6


def test_the_cards_tell_what_a_reader_needs() -> None:
    for name in BUILDERS:
        facts = card(name)
        assert facts["recipe"].startswith("Train the bundled ")
        assert facts["data"]["seeds"]
        assert facts["trained"]["seconds"] > 60
        assert len(facts["sha256"]) == 64
        assert facts["measured"]["held_out_scenes"] == 500


PYRAMID = {
    "embed": Layout("map", 24, (24, 24)),
    "stage1": Layout("map", 24, (24, 24)),
    "stage2": Layout("map", 48, (12, 12)),
    "stage3": Layout("map", 96, (6, 6)),
    "stage4": Layout("map", 192, (3, 3)),
}


@pytest.mark.parametrize("name", ["swin", "convnext"])
def test_a_pyramid_names_objects_as_its_card_says_and_is_inverted(
    name: str, make_problem: Callable[..., Problem]
) -> None:
    model = load_model(f"bundled:{name}")
    assert {stage: model.layout(stage) for stage in model.stages[:-1]} == PYRAMID
    assert not model.uncut
    accuracy = measure_accuracy(model, recipe.held_out(single=True, count=150))
    assert accuracy == pytest.approx(card(name)["measured"]["accuracy_single_object"], abs=0.05)
    stages = ("embed", "stage3")
    inverter = make_method("ridge", {}).fit_stages(make_problem(model, stages, fit=96)).inverter
    images = scene_split(904, 8).images(slice(None))
    grey = images.mean((0, 2, 3), keepdim=True)
    errors = {s: float((inverter.invert(model.represent(images, [s])[s]) - images).square().mean()) for s in stages}
    assert errors["embed"] < errors["stage3"] / 2
    assert errors["stage3"] < float((grey - images).square().mean())


def test_the_classifier_names_95_percent_of_single_objects(vit: Model) -> None:
    found = measure_accuracy(vit, recipe.held_out(single=True, count=500))
    assert found >= 0.95
    assert found == pytest.approx(card("vit")["measured"]["accuracy_single_object"], abs=0.005)


@pytest.mark.slow
def test_the_detector_has_ap50_of_80_percent(detr: Model) -> None:
    found = measure_ap(detr, recipe.held_out(single=False, count=500))
    assert found["ap50"] >= 0.80
    assert found["ap50"] == pytest.approx(card("detr")["measured"]["ap50"], abs=0.005)


def test_held_out_scenes_are_not_training_scenes() -> None:
    held = {recipe.held_out(single=s).seed for s in (True, False)}
    assert not held & {recipe.TRAIN_SEED, recipe.SINGLE_TRAIN_SEED}


def test_a_symmetry_moves_images_cells_and_boxes_together() -> None:
    import numpy as np

    pool = recipe.training_pool(64)
    rows = [getattr(pool, name)[:8] for name in ("images", "cells", "owner", "boxes", "labels", "largest")]
    for seed in range(12):
        images, cells, _, boxes, labels, _ = recipe._symmetry([r.clone() for r in rows], np.random.default_rng(seed))
        for image, cell, box, label in zip(images, cells, boxes, labels, strict=True):
            assert image.shape == (3, 96, 96)
            for place, name in zip(box, label, strict=True):
                if name >= 0:
                    cx, cy = (int(v * recipe.GRID) for v in place[:2])
                    near = cell[max(cy - 2, 0) : cy + 3, max(cx - 2, 0) : cx + 3]
                    assert (near == name).any()


def test_the_recipe_runs_and_writes_what_the_loader_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from invsuite.models.adapters import bundled

    monkeypatch.setattr(train, "HELD_OUT", 4)
    lines: list[str] = []
    cards = train_all(tmp_path, list(train.TRAININGS), 0.0005, lines.append)
    assert any("left" in line for line in lines)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    for name in BUILDERS:
        model = load_model(f"bundled:{name}")
        assert model.origin.sha256 == cards[name]["sha256"]
        assert torch.isfinite(model.predict(torch.rand(1, 3, 96, 96)).logits).all()
