"""Rows of a suite with images or a budget of their own: run, scored, ranked, and shown with what they rest on."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import small_suite

import invsuite
from invsuite.report.results import Results
from invsuite.results.record import Record

METRICS = (
    "psnr",
    "ssim",
    "correspondence",
    "patch_match",
    "object_unity",
    "hue_gain",
    "pull_to_prototype",
    "representation_shift",
    "feature_error",
    "witness_error",
    "top1_agreement",
    "cross_application",
)
METHODS = {
    "ridge": "{ images = 3 }",
    "mean": "{ }",
    "layerwise": "{ width = 8, depth = 1, image_passes = [16, 32] }",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of three tables of methods, one of them on 3 of 5 scored images, one with two budgets."""
    folder = tmp_path_factory.mktemp("rows")
    suite = folder / "rows.toml"
    text = small_suite("rows", METHODS, metrics=METRICS, counts=(24, 4, 5))
    suite.write_text(text.replace('source = "bundled:vit"', 'source = "bundled:vit", witness = "bundled:detr"'))
    return invsuite.run(str(suite), out=folder / "out")


def of(results: Results, method: str, stage: str = "block03") -> Record:
    return next(r for r in results if (r.cell.method, r.cell.stage) == (method, stage))


def test_a_row_of_fewer_images_has_every_measure_of_its_images(results: Results) -> None:
    assert [r.reason for r in results if not r.ok] == []
    few, all_images = of(results, "ridge"), of(results, "layerwise@32")
    assert few.data is not None
    assert few.data.score == 3
    assert few.images == all_images.images[:3]
    for name in METRICS:
        assert len(few.measurements[name].values) == 3, name
        assert few.measurements[name].status == all_images.measurements[name].status, name
    [edited] = {tuple(v is not None for v in few.measurements[name].values) for name in ("hue_gain", "correspondence")}
    assert sum(edited) == 2, "the suite edits two images, of the first three"


def test_its_values_are_those_of_a_run_on_all_images(results: Results, tmp_path: Path) -> None:
    """What a measure says of an image does not depend on how many others are scored."""
    suite = tmp_path / "rows.toml"
    text = small_suite("rows", {"ridge": "{ }"}, stages=("embed", "block03"), metrics=METRICS, counts=(24, 4, 5))
    suite.write_text(text.replace('source = "bundled:vit"', 'source = "bundled:vit", witness = "bundled:detr"'))
    whole = of(invsuite.run(str(suite), stages=["block03"], out=tmp_path / "out"), "ridge")
    few = of(results, "ridge")
    for name in METRICS:
        both = zip(few.measurements[name].values, whole.measurements[name].values, strict=False)
        assert all(a == b if a is None or b is None else a == pytest.approx(b, rel=1e-3) for a, b in both), name


def test_it_is_compared_on_the_images_that_both_have(results: Results) -> None:
    compared = results.compare("vit/block03/ridge", "vit/block03/layerwise@32", ["psnr"])
    values = [of(results, method).measurements["psnr"].values for method in ("ridge", "layerwise@32")]
    differences = [a - b for a, b in zip(*values, strict=False) if a is not None and b is not None]
    assert (compared["n"][0], compared["difference"][0]) == (3, pytest.approx(sum(differences) / 3))
    assert results.places["psnr"]["vit/block03/ridge"] == 1


def test_each_budget_is_spent(results: Results) -> None:
    passes = [of(results, f"layerwise@{budget}").cost for budget in (16, 32)]
    assert [cost.fit_image_passes for cost in passes if cost is not None] == [16, 32]


def test_pages_say_how_many_images_each_row_is_scored_on(results: Results, tmp_path: Path) -> None:
    table, _, page, *_ = results.report(tmp_path)
    text = table.read_text()
    assert "scored on 5 (ridge on the first 3); the three are disjoint" in text
    assert "scored on 5 (ridge on the first 3)" in page.read_text()
    [line] = [
        line for line in text.splitlines() if line.startswith("| block03") and "| ridge" in line and "dB" not in line
    ][:1]
    assert "(n=3)" in line
