"""Feature and witness error against a plain computation, at their ends, and the second model of a suite."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import BUNDLED_SUITE, invoke, scene_split, scoring
from PIL import Image

from invsuite.benchmark import cells
from invsuite.benchmark.cells import LoadedModel, Plan, Selection, UnavailableModel, make_plan
from invsuite.benchmark.suite import load_suite
from invsuite.errors import NotApplicable, UsageError
from invsuite.metrics.consistency import FeatureError, WitnessError, measure_scales, resized
from invsuite.models.base import Model


def noisy(images: torch.Tensor) -> torch.Tensor:
    return (images + 0.05 * torch.sin(images * 300)).clamp(0, 1)


def values(found: list[float | None]) -> np.ndarray:
    return np.array(found, dtype=float)


@pytest.mark.parametrize(("name", "stage"), [("vit", "block03"), ("detr", "backbone"), ("detr", "decoder")])
def test_feature_error_agrees_with_a_plain_computation(name: str, stage: str, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(name)
    fit = scene_split(907, 6)
    material = scoring(noisy, 2, model=model, stage=stage, fit=fit)
    found = FeatureError().compute(material).per_image

    def rows(images: torch.Tensor) -> np.ndarray:
        tensor = model.represent(images, [stage])[stage].tensor.double().numpy()
        return tensor.reshape(*tensor.shape[:2], -1).swapaxes(1, 2) if tensor.ndim == 4 else tensor

    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    seen = rows(fit.images(order))
    pairs = [(seen[i], seen[i - 1]) for i in range(6)]
    spread = np.sqrt(np.mean([np.mean((a - b) ** 2, axis=0) for a, b in pairs], axis=0) / 2)
    spread = np.maximum(spread, 0.1 * torch.tensor(spread[spread > 0]).median().item())
    unit = np.mean([np.sqrt(np.mean(((a - b) / spread) ** 2)) for a, b in pairs])
    made, true = rows(material.reconstructions), rows(material.images)
    expected = [np.sqrt(np.mean(((a - b) / spread) ** 2)) / unit for a, b in zip(made, true, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_copy_scores_nothing_and_any_other_image_one(vit: Model, detr: Model) -> None:
    fit = scene_split(907, 48)
    for model, witness, stage in ((vit, detr, "block03"), (detr, vit, "decoder")):
        copy = scoring(lambda x: x.clone(), 4, model=model, stage=stage, witness=witness, fit=fit)
        other = scoring(lambda x: x.roll(1, 0), 32, model=model, stage=stage, witness=witness, fit=fit)
        close = scoring(noisy, 4, model=model, stage=stage, witness=witness, fit=fit)
        for metric in (FeatureError(), WitnessError()):
            same = metric.compute(copy)
            assert same.per_image == [0.0] * 4
            assert (same.ceiling, same.floor) == (0.0, 1.0)
            assert values(metric.compute(other).per_image).mean() == pytest.approx(1.0, abs=0.08)
            assert 0 < values(metric.compute(close).per_image).mean() < 1


def test_the_fit_images_alone_set_the_scale(vit: Model, detr: Model) -> None:
    """An image's value is the same alone as in company, and does not see how the others were reconstructed."""
    fit = scene_split(907, 12)
    many = scoring(noisy, 3, stage="block06", witness=detr, fit=fit)
    spoilt = scoring(lambda x: torch.cat([noisy(x[:1]), 1 - x[1:]]), 3, stage="block06", witness=detr, fit=fit)
    alone = scoring(noisy, 1, stage="block06", witness=detr, fit=fit)
    for metric in (FeatureError(), WitnessError()):
        first = [metric.compute(material).per_image[0] for material in (many, spoilt, alone)]
        assert first == pytest.approx([first[0]] * 3, rel=1e-4)


def test_a_dead_channel_does_not_outweigh_the_others(vit: Model) -> None:
    scale = measure_scales(vit, ["embed"], scene_split(907, 12))["embed"]
    assert float(scale.spread.min()) >= 0.099 * float(scale.spread.median())


def test_pinned_values(vit: Model, detr: Model) -> None:
    """Measured once and pinned: a change of these numbers needs a new version of the measure."""
    material = scoring(noisy, 3, model=vit, stage="block03", witness=detr)
    np.testing.assert_allclose(FeatureError().compute(material).per_image, [0.1805, 0.1937, 0.1755], atol=2e-3)
    np.testing.assert_allclose(WitnessError().compute(material).per_image, [0.0967, 0.1756, 0.1830], atol=2e-3)


def test_a_witness_of_another_size_sees_antialiased_images(linear_chain: Model) -> None:
    stripes = torch.zeros(1, 3, 96, 96)
    stripes[..., ::2] = 1
    np.testing.assert_allclose(resized(stripes, (24, 24))[..., 2:-2], 0.5, atol=0.02)
    photo = scene_split(906, 1).images([0])
    picture = Image.fromarray((photo[0].permute(1, 2, 0) * 255).round().byte().numpy())
    expected = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(resized(photo, (24, 24))[0], expected, atol=3 / 255)
    found = WitnessError().compute(scoring(noisy, 3, witness=linear_chain))
    assert 0 < values(found.per_image).mean() < 1
    assert found.facts == {"witness": "a test", "witness_sha256": "0" * 64, "witness_stage": "second"}


def test_without_a_witness_the_error_is_not_defined() -> None:
    with pytest.raises(NotApplicable, match="no witness"):
        WitnessError().compute(scoring(noisy, 1))


def plan_of(tmp_path: Path, witness: str = "", metrics: str = '"psnr", "witness_error"') -> Plan:
    text = BUNDLED_SUITE.replace('"psnr", "ssim", "lpips", "correspondence", "hue_gain"', metrics)
    if witness:
        text = text.replace('source = "bundled:vit"', f'source = "bundled:vit"\nwitness = "{witness}"')
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return make_plan(load_suite(str(path)), Selection(models=("vit",)), lambda note: None)


def test_the_witness_is_part_of_the_measures_that_ask_it(tmp_path: Path) -> None:
    def identities(witness: str = "") -> tuple[str, str, str]:
        plan = plan_of(tmp_path, witness)
        [entry] = plan.models
        assert isinstance(entry, LoadedModel)
        psnr, error = (entry.identity_of(metric, plan.suite.edits) for metric in plan.metrics)
        return plan.cells[0].id, psnr, error

    without, loaded, unavailable = identities(), identities("bundled:detr"), identities("detr:/no/such/folder")
    assert without[:2] == loaded[:2] == unavailable[:2], "the cell and measures that ask no witness do not change"
    assert len({without[2], loaded[2], unavailable[2]}) == 3


def test_a_model_is_not_its_own_witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: Model) -> None:
    with pytest.raises(UsageError, match=r"'models\.vit\.witness' is the model itself"):
        plan_of(tmp_path, "bundled:vit")
    monkeypatch.setattr(cells, "load_model", lambda *_: vit)  # another name for the same weights
    entry = plan_of(tmp_path, "timm:a-copy").models[0]
    assert isinstance(entry, UnavailableModel)
    assert "has its very weights" in str(entry.error)


def test_a_witness_that_cannot_be_had_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    text = BUNDLED_SUITE.replace('"psnr", "ssim", "lpips", "correspondence", "hue_gain"', '"psnr", "witness_error"')
    path.write_text(text.replace('source = "bundled:vit"', 'source = "bundled:vit"\nwitness = "detr:/no/such/folder"'))
    words = ("--models", "vit", "--methods", "mean", "--stages", "embed", "--json")
    result = invoke("bench", "--suite", path, "--out", tmp_path / "results", *words)
    found = json.loads(result.stdout)["cells"][0]["measurements"]
    assert found["psnr"]["status"] == "ok"
    assert found["witness_error"]["status"] == "skipped"
    assert "'/no/such/folder' does not exist" in found["witness_error"]["reason"]
