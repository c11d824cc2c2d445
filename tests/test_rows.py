"""Rows of a suite with images or a budget of their own: run, scored, ranked, and shown with what they rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import invented
import numpy as np
import pytest
from helpers import SMALL_MODELS, small_suite

import invsuite
from invsuite.report.charts import charts
from invsuite.report.html import MAP, _maps, cell_text
from invsuite.report.markdown import chain_gaps, terminal
from invsuite.report.results import Results
from invsuite.results.compare import compare_rows, comparison_table
from invsuite.results.record import Record
from invsuite.results.regime import regime_of
from invsuite.results.rows import measures_of, rows_of

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
    "mean": "{ edits = 1 }",
    "nearest": "{ edits = 0 }",
    "layerwise": "{ width = 8, depth = 1, image_passes = [16, 32] }",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of three tables of methods, one of them on 3 of 5 scored images, one with two budgets."""
    folder = tmp_path_factory.mktemp("rows")
    suite = folder / "rows.toml"
    text = small_suite("rows", METHODS, metrics=METRICS, counts=(24, 4, 5))
    suite.write_text(text.replace("stages = [", f'witness = "{SMALL_MODELS["detr"]}", stages = ['))
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


def test_a_row_has_edits_of_its_own(results: Results) -> None:
    edit_measures = ("hue_gain", "correspondence", "cross_application")
    for method, edited in (("mean", 1), ("nearest", 0)):
        record = of(results, method)
        for name in edit_measures:
            if record.measurements[name].reason.startswith("no other stage"):
                continue
            values = record.measurements[name].values
            assert sum(value is not None for value in values) <= edited, (method, name)
    none = of(results, "nearest").measurements["hue_gain"]
    assert (none.status, none.reason) == ("undefined", "'edits' is 0: no further reconstructions")


def test_a_row_is_for_the_models_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    text = small_suite("models", {"mean": '{ models = ["vit"] }', "bicubic": "{}"}, counts=(16, 2, 2))
    path.write_text(text + 'models.twin = { source = "bundled:detr", stages = ["encoder"] }\n')
    cells = invsuite.plan(str(path)).plan.cells
    assert {(cell.model.name, cell.method.name) for cell in cells} == {
        ("vit", "mean"),
        ("vit", "bicubic"),
        ("twin", "bicubic"),
    }
    other = invsuite.plan(str(path), models=["bundled:detr"], methods=["mean"]).plan.cells
    assert {cell.method.name for cell in other} == {"mean"}, "a model that the suite does not name has every row"
    with pytest.raises(invsuite.UsageError, match="the suite has mean for vit alone, not for twin"):
        invsuite.plan(str(path), models=["twin"], methods=["mean"])
    path.write_text(path.read_text().replace('["vit"]', '["vti"]'))
    with pytest.raises(invsuite.UsageError, match=r"unknown methods.mean.models 'vti'.*vit"):
        invsuite.load_suite(str(path))


def test_its_values_are_those_of_a_run_on_all_images(results: Results, tmp_path: Path) -> None:
    """What a measure says of an image does not depend on how many others are scored."""
    suite = tmp_path / "rows.toml"
    text = small_suite("rows", {"ridge": "{ }"}, stages=("embed", "block03"), metrics=METRICS, counts=(24, 4, 5))
    suite.write_text(text.replace("stages = [", f'witness = "{SMALL_MODELS["detr"]}", stages = ['))
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


def test_a_row_of_fewer_images_is_placed_only_where_these_tell_it_apart() -> None:
    def first(few: int, record: Record) -> Record:
        psnr = record.measurements["psnr"]
        shorter = invented.measurement("psnr", list(psnr.values[:few]))
        return replace(record, images=record.images[:few], measurements={"psnr": shorter})

    names = ("ridge", "modular", "nearest")
    whole = [planted(name, shift, family="closed form") for name, shift in zip(names, (0.0, 1.0, -2.5), strict=True)]
    unlike = planted("descent", 1 + 3 * np.resize([1.0, -1.0], 16), **CONVERGED)
    assert Results([*whole, unlike]).places["psnr"]["vit/embed/descent"] == 1, "of all images it may share a place"
    places = Results(whole).places["psnr"]
    assert places == {"vit/embed/modular": 1, "vit/embed/ridge": 2, "vit/embed/nearest": 3}
    assert Results([*whole, first(4, unlike)]).places["psnr"] == places, "of four it shares none"
    best = {name: place + 1 for name, place in places.items()} | {"vit/embed/descent": 1}
    better = first(4, planted("descent", 3.0, **CONVERGED))
    assert Results([*whole, better]).places["psnr"] == best, "four images tell that it is better"
    twin = first(4, planted("other", 3.0, **CONVERGED))
    both = Results([*whole, better, twin]).places["psnr"]
    assert [both["vit/embed/descent"], both["vit/embed/other"], both["vit/embed/modular"]] == [1, 1, 3]
    assert Results([whole[0], first(4, unlike)]).places["psnr"] == {}, "nothing is left to be compared with"


def test_rows_that_are_the_same_on_every_image_have_no_places() -> None:
    """As by a measure of the stage alone, which every method has."""
    twins = [planted(name, 0.0) for name in ("ridge", "modular", "layerwise")]
    assert Results(twins).places["psnr"] == {}
    one_image = planted("nearest", np.eye(16)[3])
    assert set(Results([*twins, one_image]).places["psnr"]) == {
        f"vit/embed/{r.cell.method}" for r in [*twins, one_image]
    }


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


def planted(method: str, shift: Any = 0.0, family: str = "optimisation", seed: int = 0, **notes: Any) -> Record:
    """A record of 16 images whose PSNR is ``shift`` (one number, or one for each) above that of the others."""
    values = np.random.default_rng(3).normal(20, 2, 16) + shift
    one = invented.record("vit", "embed", method, seed, [invented.measurement("psnr", values.tolist())], notes=notes)
    return replace(one, cell=replace(one.cell, family=family))


def trained(method: str, passes: int, shift: float = 0.0, budget: int = 0, **notes: Any) -> Record:
    """A record of a trained method."""
    one = planted(method, shift, "layer-wise", curve=[[0, 0.0, 0.1, 10.0]], **notes)
    one.identity["budget"] = {"image_passes": budget or passes, "batch": 16}
    assert one.cost is not None
    return replace(one, cost=replace(one.cost, fit_image_passes=passes))


CONVERGED = {"converged": True, "converged_share": 0.99, "iterations": 312.4, "ceiling": 1000}
STOPPED = {"converged": False, "converged_share": 0.4, "iterations": 871.0, "ceiling": 1000}
BLOCKS = [{"converged_share": 1.0, "iterations": 9}, {"converged_share": 0.25, "iterations": 50}]


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ([planted("optimisation", **CONVERGED)], "converged after 312 iterations"),
        ([planted("optimisation", **STOPPED)], "1,000 iterations, 40 % converged"),
        ([planted("optimisation", converged=False)], "not converged"),
        ([planted("optimisation", inversion_curve=[{"iteration": 0}, {"iteration": 40}])], "40 iterations"),
        (
            [planted("fixedpoint", family="closed form", converged=False, blocks=BLOCKS)],
            "50 iterations, 25 % converged",
        ),
        ([trained("layerwise", 25_600)], "25.6k passes"),
        ([trained("layerwise", 192, budget=256)], "192 of 256 passes"),
        ([trained("layerwise", 102_400), trained("layerwise", 102_400)], "102k passes"),
        ([trained("refined", 1_600, **CONVERGED)], "1.6k passes, converged after 312 iterations"),
        ([planted("ridge", family="closed form")], "closed form"),
        ([planted("mean", family="floor")], "-"),
        ([planted("o", **CONVERGED), planted("o", seed=1, **STOPPED)], "656 iterations, 70 % converged"),
    ],
)
def test_a_regime_is_said_in_words(records: list[Record], text: str) -> None:
    assert regime_of(records).text == text


def test_what_has_not_converged_is_shown_and_never_ranked(tmp_path: Path) -> None:
    records = [
        planted("optimisation", 9.0, **STOPPED),
        planted("descent", 1.0, **CONVERGED),
        planted("ridge", family="closed form"),
        trained("layerwise", 25_600, 0.5),
    ]
    results = Results(records)
    assert results.places["psnr"] == {"vit/embed/descent": 1, "vit/embed/layerwise": 2, "vit/embed/ridge": 3}
    table, values, page = (path.read_text() for path in results.report(tmp_path))
    lines = {line.split("|")[2].strip(): line for line in table.splitlines() if line.startswith("| embed")}
    assert "| 1,000 iterations, 40 % converged" in lines["optimisation †"]
    assert "**" not in lines["optimisation †"]
    assert "#" not in lines["optimisation †"]
    assert "| converged after 312 iterations" in lines["descent"]
    assert "**" in lines["descent"]
    assert "| 25.6k passes" in lines["layerwise"]
    assert "| closed form" in lines["ridge"]
    assert "**†** marks a row whose search was stopped at its ceiling" in table
    assert "1,000 iterations, 40 % converged,False,psnr" in values.replace('"', "")
    assert "1,000 iterations, 40 % converged" in page
    assert "optimisation †" in page
    shown = terminal(results)
    assert "converged after 312 iterations" in shown
    [line] = [line for line in shown.splitlines() if "optimisation †" in line]
    assert "*" not in line
    frame = results.to_frame().set_index("method")
    assert frame["converged"].isna().tolist() == [False, False, True, True]
    assert frame.loc["layerwise", "budget"] == "25.6k passes"
    compared = comparison_table(compare_rows(records, "vit/embed/optimisation", "vit/embed/ridge"))
    assert "vit/embed/optimisation: 1,000 iterations, 40 % converged." in compared


def test_curves_of_descents_say_where_they_were_stopped() -> None:
    curve = [
        {"iteration": 0, "seconds_per_image": 0.0, "psnr": 10.0},
        {"iteration": 9, "seconds_per_image": 1.0, "psnr": 20.0},
    ]
    stopped = planted("optimisation", inversion_curve=curve, **STOPPED)
    [chart] = charts([stopped])
    assert [method for method, _ in chart.methods] == ["optimisation († not converged at embed)"]
    assert "n = 16" in chart.note


def test_seconds_of_two_devices_are_two_charts() -> None:
    curve = [{"iteration": i, "seconds_per_image": float(i), "psnr": 10.0 + i} for i in (0, 9)]
    records = [planted(method, inversion_curve=curve) for method in ("optimisation", "refined")]
    assert [chart.title for chart in charts(records)] == ["Inversion"]
    moved = records[1]
    assert moved.cost is not None
    moved.provenance, moved.cost.clock = replace(moved.provenance, device="NVIDIA H200"), "cuda-event"
    drawn = charts(records)
    assert [chart.title for chart in drawn] == ["Inversion on CPU (test)", "Inversion on NVIDIA H200"]
    assert [chart.x_label for chart in drawn] == ["wall s per image", "cuda-event s per image"]
    assert [[method for method, _ in chart.methods] for chart in drawn] == [["optimisation"], ["refined"]]


def test_a_curve_that_stays_where_it_is_has_a_chart() -> None:
    curve = [{"iteration": i, "seconds_per_image": float(i), "psnr": 20.0} for i in (0, 9)]
    [chart] = charts([planted("optimisation", inversion_curve=curve)])
    places = chart.panels[0].lines[0].places
    assert places[0][1] == places[1][1]
    assert 0 < places[0][1] < 190


def test_the_scale_of_a_heat_map_is_that_of_what_has_converged() -> None:
    rows = rows_of([planted("optimisation", -9.0, **STOPPED), planted("a", 1.0), planted("b", 0.0)])
    measure = next(iter(measures_of(rows).values()))
    [heat] = _maps(rows, "psnr", [cell_text(row, measure, {}) for row in rows])
    [(_, cells)] = heat["lines"]
    assert cells[0].text.endswith(" †")
    assert cells[0].fill == cells[2].fill == MAP[0], "both at the bottom: the first set no scale"


def test_chains_are_held_against_the_end_to_end_network_of_their_budget() -> None:
    errors = {"layerwise@16": 0.1, "layerwise@32": 0.02, "modular@16": 0.2, "modular@32": 0.04, "modular": 1.0}
    records = [planted(method, selection_image_mse=error) for method, error in errors.items()]
    assert [(r.cell.method, round(gap, 6)) for r, gap in chain_gaps(records)] == [
        ("modular@16", 2.0),
        ("modular@32", 2.0),
    ]
