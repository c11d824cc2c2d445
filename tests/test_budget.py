"""The page of budgets says what planted curves hold: ratios, crossings, differences, rises, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import invented
import numpy as np
import pytest
from helpers import invoke, small_suite
from invented import measurement

from invsuite.errors import UsageError
from invsuite.report.budget import (
    Curve,
    Needed,
    _figure,
    cost_ratio,
    cost_to_reach,
    crossing,
    curves_of,
    passes_to,
    with_others,
    write_budget,
)
from invsuite.report.results import Results
from invsuite.report.texts import budgets_text
from invsuite.results.record import CellCost, Measurement, Record
from invsuite.results.regime import short
from invsuite.results.rows import rows_of

STAGES = ("early", "late")
TERA = 1e12
IMAGES = np.random.default_rng(0).normal(0, 3, 24)
FAMILIES = {"layerwise": "layer-wise", "modular": "modular", "shared-chain": "hybrid", "mean": "floor"}


def record(method: str, stage: str, psnr: float, passes: int = 0, flops: float = 0.0, **notes: Any) -> Record:
    """A record of 24 images that differ by 3 dB; methods differ from each other by 0.05 dB beside their means."""
    rng = np.random.default_rng([ord(letter) for letter in method + stage])
    values = psnr + IMAGES - IMAGES.mean() + rng.normal(0, 0.05, 24)
    ssim = 1 / (1 + np.exp(-(values - 25) / 5))
    cost = CellCost("wall", flops / TERA, 2.0, passes, flops, flops / 4, parameters=7)
    measured = [measurement("psnr", values.tolist()), measurement("ssim", ssim.tolist())]
    if passes:
        notes["curve"] = [[passes, 1.0, 0.1, psnr]]
    one = invented.record("net", stage, method, measurements=measured, images=24, cost=cost, notes=notes)
    family = FAMILIES.get(method.partition("@")[0], "optimisation" if "converged" in notes else "closed form")
    return replace(one, cell=replace(one.cell, family=family, position=STAGES.index(stage)))


def planted() -> list[Record]:
    """Layer-wise takes 4 times the operations of the modules per budget; at the late stage it becomes better.

    Both gain 1 dB per quadrupling of the budget at the early stage; late, layer-wise gains 3 dB and the modules none.
    """
    records = []
    for number, passes in enumerate((1600, 6400, 25600)):
        each = 0.25 * TERA * 4**number
        records += [
            record(f"layerwise@{passes}", "early", 30.0 + number, passes, 4 * each),
            record(f"layerwise@{passes}", "late", 20.0 + 3 * number, passes, 4 * each),
            record(f"modular@{passes}", "early", 30.0 + number, passes, each),
            record(f"modular@{passes}", "late", 22.0, passes, each),
        ]
    for stage in STAGES:
        records += [record("ridge", stage, 28.0), record("mean", stage, 11.0)]
        records.append(record("optimisation", stage, 31.0, converged=True, converged_share=1.0, iterations=300))
        records.append(record("descent", stage, 40.0, converged=False, converged_share=0.2, iterations=50, ceiling=50))
    return records


def test_cost_to_reach_is_linear_between_points_and_says_what_it_cannot() -> None:
    costs = np.array([0.0, 1.0, 2.0])
    quality = np.array([[0.0, 2.0, 4.0], [0.0, 2.0, 1.0], [3.0, 4.0, 5.0], [1.0, 0.5, 3.0]])
    assert cost_to_reach(costs, quality, np.array([3.0, 3.0, 3.0, 0.75])).tolist() == [1.5, np.inf, -np.inf, -np.inf]
    assert cost_to_reach(costs, quality[3:], np.array([1.75])).tolist() == [1.5], "the first time after a dip"


def test_the_cost_at_equal_quality() -> None:
    """As good early after as many passes, which cost 4 times as much; late, after two thirds of the first step."""
    curves = curves_of("net", planted())
    layerwise, modular = curves.curves
    psnr = curves.measures()[0]
    assert (curves.stages, psnr.name) == (list(STAGES), "psnr")
    assert [point.flops for point in layerwise.points] == [2 * TERA, 8 * TERA, 32 * TERA]
    assert layerwise.last.seconds == 32 + 2, "own seconds add up, shared ones are shared"
    early, late = (cost_ratio(layerwise, modular, stage, psnr) for stage in STAGES)
    assert early.value == pytest.approx(4, rel=0.1)
    assert early.low < early.value <= early.high
    assert (early.verdict, early.n) == ("cheaper", 24)
    assert late.value == pytest.approx(2 * 4 ** (2 / 3) / 8, rel=0.05)
    assert late.high < 1
    assert late.verdict == "dearer"
    other = cost_ratio(modular, layerwise, "late", psnr)
    assert other.text() == "∞ [∞, ∞] (n=24)"
    assert other.verdict == "cheaper"
    least = cost_ratio(modular, replace(layerwise, points=layerwise.points[:2]), "early", psnr)
    assert least.value == pytest.approx(2 / 8, rel=0.1)
    below = cost_ratio(layerwise, replace(modular, points=modular.points[:1]), "early", psnr)
    assert below.low == 0
    assert "≤4.00" in below.text()
    assert below.verdict == "not told apart in cost"


def test_the_budget_from_which_on_training_is_as_good_as_a_closed_form() -> None:
    """Ridge has 28 dB: late, layer-wise would need more than was tried, and the modules never get there."""
    curves = curves_of("net", planted())
    layerwise, modular = curves.curves
    psnr = curves.measures()[0]
    ridge, descent = curves.levels["ridge"], curves.levels["optimisation"]
    assert passes_to(layerwise, ridge["early"], psnr).text(short) == "≤1.6k [≤1.6k, ≤1.6k] (n=24)"
    assert passes_to(layerwise, ridge["late"], psnr).value == np.inf
    assert passes_to(modular, descent["early"], psnr).value == pytest.approx(6400, rel=0.1)
    assert passes_to(
        layerwise, replace(descent["early"], records=(record("optimisation", "early", 30.5),)), psnr
    ).value == (pytest.approx(3200, rel=0.1))


def test_other_suites_bring_points_and_levels_of_the_same_images_alone() -> None:
    """The same fit at another budget is one more point of its curve; other images, parameters or budgets none."""
    inputs = {"weights": "a", "image_size": [96, 96], "data": {"score": "s"}}

    def identified(one: Record, method: str, passes: int = 0, **other: Any) -> Record:
        budget = {"budget": {"image_passes": passes, "batch": 16}} if passes else {}
        return replace(one, identity=inputs | {"method": method, "stage": one.cell.stage} | budget | other)

    own = []
    for one in planted():
        name, _, passes = one.cell.method.partition("@")
        own.append(identified(one, name, int(passes or 0)))
    bundled = [record("my-layerwise", stage, 33.0, 12800, 16 * TERA) for stage in STAGES]
    same = [identified(one, "layerwise", 12800) for one in bundled]
    refined = [
        identified(record("refined", stage, 36.0, converged=True, converged_share=1.0), "refined") for stage in STAGES
    ]
    curves = curves_of("net", with_others(own, [*same, *refined, *own]))
    layerwise = curves.of("layerwise")
    assert layerwise is not None
    assert [point.passes for point in layerwise.points] == [1600, 6400, 12800, 25600]
    assert set(curves.levels) == {*curves_of("net", own).levels, "refined"}
    wider = [identified(one, "a wider layerwise", 12800) for one in bundled]
    elsewhere = [identified(one, "layerwise", 12800, data={"score": "other"}) for one in bundled]
    assert len(with_others(own, elsewhere)) == len(own)
    assert {r.cell.method for r in with_others(own, wider)} == {r.cell.method for r in own} | {"my-layerwise"}


def test_of_a_suite_that_is_scored_on_more_images_the_first_ones_are_kept() -> None:
    """They are told by their contents: others of the same names, or in another order, are other images."""
    own, inputs = planted(), {"weights": "a", "image_size": [96, 96]}
    own = [replace(one, identity=inputs | {"data": {"fit": "f", "score": "s"}, "method": "own"}) for one in own]
    names = own[0].images
    more = [*names, "further"]
    wide = replace(record("ridge-5x5", "early", 30.0), images=more)
    psnr = wide.measurements["psnr"]
    wide = replace(
        wide,
        identity=inputs | {"data": {"fit": "f", "score": "wider"}, "method": "ridge-5x5"},
        measurements={
            "psnr": replace(psnr, values=[*psnr.values, 90.0], n=psnr.n + 1),
            "ssim": replace(psnr, name="ssim"),
        },
    )
    contents = {name: f"content of {name}" for name in names}

    def joined(theirs: dict[str, str], one: Record = wide) -> list[Record]:
        return with_others(own, [one], lambda asked: theirs if asked is one else contents)[len(own) :]

    [kept] = joined(contents | {"further": "x"})
    assert kept.images == names
    assert kept.measurements["psnr"].values == psnr.values
    assert kept.measurements["psnr"].n == len(names)
    assert kept.measurements["psnr"].mean == pytest.approx(np.mean(np.array(psnr.values, dtype=float)))
    [fewer] = joined(contents, replace(wide, images=names[:5]))
    assert fewer.measurements["psnr"].n == 5
    assert joined(contents | {names[3]: "another photo of the same name"}) == []
    assert joined(contents, replace(wide, images=more[::-1])) == []
    assert joined({}) == []
    elsewhere = wide.identity | {"data": {"fit": "other", "score": "wider"}}
    assert joined(contents, replace(wide, identity=elsewhere)) == []


def test_budgets_of_one_method_are_a_range_in_a_sentence() -> None:
    rows = rows_of(one for one in planted() if one.cell.method.startswith(("layerwise", "ridge")))
    assert budgets_text(rows) == "`layerwise` (1.6k to 25.6k passes); `ridge` (closed form)"


def test_where_curves_cross() -> None:
    curves = curves_of("net", planted())
    layerwise, modular = curves.curves
    psnr = curves.measures()[0]
    assert crossing(layerwise, modular, "early", psnr).startswith("`modular` above from 2 to 8 TFLOP (100 %)")
    text = crossing(layerwise, modular, "late", psnr)
    where = float(text.removeprefix("at ").split()[0])
    assert where == pytest.approx(2 * 4 ** (2 / 3), rel=0.05)
    assert "then `layerwise` above (100 %)" in text
    cheap = replace(modular, points=tuple(replace(p, flops=p.flops / 1000) for p in modular.points))
    assert crossing(layerwise, cheap, "late", psnr) == "no cost in common"


def test_the_page_answers_from_the_records_and_names_regimes(tmp_path: Path) -> None:
    paths = write_budget([Results(planted())], tmp_path)
    assert [path.name for path in paths] == ["budget.md", "tiny-net-curves.png", "tiny-net-curves-seconds.png"]
    assert all(path.stat().st_size > 20_000 for path in paths[1:])
    page = paths[0].read_text()
    assert page.splitlines()[2:5] == [
        "This page shows what reconstruction quality costs to fit, on `net` with 24 scored images.",
        "Methods are `layerwise` and `modular` at 1.6k, 6.4k and 25.6k image passes, beside `ridge` (closed form); "
        "`mean` (no budget); `optimisation` (converged after 300 iterations).",
        "On `net`, by PSNR, as good as `modular` with 25.6k passes, against `layerwise` up to 25.6k passes (n=24): "
        "`modular` is cheaper at early; dearer at late.",
    ]
    flat = " ".join(page.split())
    assert "Left out: `descent` (early: 50 iterations, 20 % converged; late: 50 iterations, 20 % converged)." in flat
    assert (
        "By PSNR, as good as `modular` with 25.6k passes, against `layerwise` up to 25.6k passes (n=24): `modular` is "
        "cheaper at early; dearer at late." in flat
    )
    lines = {
        title: next(line for line in page.partition(title)[2].splitlines() if line.startswith("| PSNR"))
        for title in ("Is `modular` cheaper", "Where do", "What is the difference", "Which still rise")
    }
    assert "(n=24)" in lines["What is the difference"]
    early, late = [cell.strip() for cell in lines["What is the difference"].split("|")[3:5]]
    assert not early.startswith("**")
    assert float(late.strip("*").split()[0]) == pytest.approx(4, abs=0.05)
    early, late = [cell.strip() for cell in lines["Which still rise"].split("|")[4:6]]
    assert float(early.strip("*").split()[0]) == pytest.approx(1, abs=0.05)
    assert float(late.strip("*").split()[0]) == pytest.approx(3, abs=0.05)
    for method, budget in (
        ("layerwise", "1.6k passes"),
        ("modular", "25.6k passes"),
        ("ridge", "closed form"),
        ("optimisation", "converged after 300 iterations"),
        ("mean", "-"),
    ):
        assert any([cell.strip() for cell in line.split("|")[1:3]] == [method, budget] for line in page.splitlines()), (
            method,
            budget,
        )
    assert "| descent" not in page
    assert "| PSNR | ridge        | layerwise | ≤1.6k [≤1.6k, ≤1.6k] (n=24)" in page


def test_a_training_that_stops_early_makes_a_point_all_the_same(tmp_path: Path) -> None:
    """Its larger budget may cost less than the one before."""
    records = planted()
    for one in records:
        if one.cell.method.startswith("layerwise"):
            one.identity["budget"] = {"image_passes": int(one.cell.method.partition("@")[2]), "batch": 16}
        if one.cell.method == "layerwise@25600" and one.cost is not None:
            one.cost.fit_image_passes, one.cost.fit_flops = 3200, 1.5 * TERA
    curves = curves_of("net", records)
    layerwise, modular = curves.curves
    assert [point.passes for point in layerwise.points] == [1600, 6400, 25_600]
    assert layerwise.costs()[2] < layerwise.costs()[1]
    needed = cost_ratio(layerwise, modular, "early", curves.measures()[0])
    assert needed.value <= 3 / 8 + 0.01
    assert "TFLOP" in crossing(layerwise, modular, "early", curves.measures()[0])
    page = write_budget([Results(records)], tmp_path)[0].read_text()
    assert "| layerwise    | 3.2k of 25.6k passes" in page
    for one in records:
        if one.cell.key == "net/late/layerwise@25600/s0" and one.cost is not None:
            one.cost.fit_image_passes = 25_600
    page = write_budget([Results(records)], tmp_path)[0].read_text()
    assert "| layerwise    | 3.2k to 25.6k passes" in page, "stages of several regimes have a range"


def test_the_lines_of_a_figure_are_paired(tmp_path: Path) -> None:
    """Bars are without what images share; a line of the four hardest images is moved to where all of them would be."""
    records = planted()
    hard = sorted(range(24), key=lambda i: IMAGES[i])[:4]
    for one in records:
        if one.cell.method == "optimisation":
            one.images = [one.images[i] for i in hard]
            one.measurements = {
                name: measurement(name, [each.values[i] for i in hard]) for name, each in one.measurements.items()
            }
    _, _, panels = _figure(curves_of("net", records), seconds=False)
    early = panels[0][0]
    _, mean, low, high = early.lines["modular"][0]
    assert mean == pytest.approx(30, abs=0.05)
    assert mean - 0.1 < low < mean < high < mean + 0.1
    assert early.levels["optimisation (converged after 300 iterations)"] == pytest.approx(31, abs=0.1)
    assert early.levels["ridge (closed form)"] == pytest.approx(28, abs=0.05)


def test_a_line_of_fewer_images_keeps_its_place_beside_the_row_most_like_it() -> None:
    """A descent that is above the mean image, image by image, stands above it, whatever images it has."""
    records = planted()
    floor = {one.cell.stage: one.measurements["psnr"].values for one in records if one.cell.method == "mean"}
    few = [3, 8, 13, 21]
    for one in records:
        if one.cell.method == "optimisation":
            values = floor[one.cell.stage]
            one.images = [one.images[i] for i in few]
            one.measurements = {"psnr": measurement("psnr", [values[i] + 0.5 for i in few])}
        else:
            one.measurements = {"psnr": one.measurements["psnr"]}
    _, _, panels = _figure(curves_of("net", records), seconds=False)
    levels = panels[0][0].levels
    [line] = [value for name, value in levels.items() if name.startswith("optimisation")]
    assert line == pytest.approx(levels["mean"] + 0.5, abs=1e-6)


def test_no_curves_over_seconds_of_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest budget was fitted on a GPU, of one method at one stage alone; levels have no seconds to be drawn."""
    monkeypatch.setattr("invsuite.report.page.draw_curves", lambda *figure: None)
    records = planted()
    for one in records:
        fitted = one.cell.method == "layerwise@25600" or one.cell.key == "net/late/modular@25600/s0"
        if (fitted or one.cell.method == "ridge") and one.cost is not None:
            one.provenance, one.cost.clock = replace(one.provenance, device="NVIDIA H200"), "cuda-event"
    paths = write_budget([Results(records)], tmp_path)
    assert [path.name for path in paths] == ["budget.md", "tiny-net-curves.png"]
    page = paths[0].read_text()
    assert (
        "No curves over seconds are drawn.\nTimes and memory are of CPU (test), wall (4 points), NVIDIA H200, "
        "cuda-event (1 point, times marked ‡) and several devices within the point (1 point, without times)." in page
    )
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line[:1] == "|"]
    spent = {(row[0], row[4]) for row in rows if row[1] == "25.6k passes"}
    assert spent == {("layerwise", "34 ‡"), ("modular", "-")}
    assert "Fit s (cuda-event/wall) ↓" in page
    for one in records:
        if one.cell.method != "ridge" and one.cost is not None:
            one.provenance, one.cost.clock = invented.PROVENANCE, "wall"
    assert len(write_budget([Results(records)], tmp_path)) == 3, "that a level is of another device is no matter"


def test_the_opening_quotes_what_the_page_has_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ratio is computed once, and what the opening says stands in the page."""
    calls: list[tuple[str, str, str]] = []

    def counted(curve: Curve, reference: Curve, stage: str, measure: Measurement) -> Needed:
        calls.append((curve.method, stage, measure.name))
        return cost_ratio(curve, reference, stage, measure)

    monkeypatch.setattr("invsuite.report.page.draw_curves", lambda *figure: None)
    monkeypatch.setattr("invsuite.report.budget.cost_ratio", counted)
    page = write_budget([Results(planted())], tmp_path)[0].read_text()
    assert len(calls) == len(set(calls)) == 8, "two methods, stages and measures"
    opening = page.splitlines()[4]
    assert f"- B{opening.removeprefix('On `net`, b')}" in page
    alone = [one for one in planted() if not one.cell.method.startswith("modular")]
    page = write_budget([Results(alone)], tmp_path)[0].read_text()
    gains = [
        cell.strip() for cell in next(line for line in page.splitlines() if "| 6.4k to 25" in line).split("|")[4:6]
    ]
    assert page.splitlines()[4] == (
        f"On `net`, by PSNR in dB, four times the image passes bring `layerwise` {gains[0]} at early and {gains[1]} at "
        "late (from its last two budgets, 6.4k to 25.6k passes)."
    )


def test_a_suite_without_curves_is_refused(tmp_path: Path) -> None:
    single = [one for one in planted() if "@" not in one.cell.method or "@1600" in one.cell.method]
    with pytest.raises(UsageError, match="no method of suite 'tiny' has rows at several budgets"):
        write_budget([Results(single)], tmp_path)


def test_a_budget_without_all_stages_is_no_point() -> None:
    records = [one for one in planted() if one.cell.key != "net/late/modular@6400/s0"]
    curves = curves_of("net", records)
    assert [len(curve.points) for curve in curves.curves] == [3, 2]
    records = [one for one in records if one.cell.key != "net/early/modular@1600/s0"]
    curves = curves_of("net", records)
    assert [curve.method for curve in curves.curves] == ["layerwise"]
    assert curves.left_out[0] == "`modular` (fewer than two budgets have numbers at early, late)"


def test_the_command_writes_the_page_of_a_real_run(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    network = "{ width = 8, depth = 1, image_passes = [16, 32] }"
    suite.write_text(small_suite("tiny", {"ridge": "{ }", "layerwise": network, "modular": network}))
    assert invoke("bench", "--suite", suite, "--out", tmp_path / "out").exit_code == 0
    done = invoke("budget", suite, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].endswith("budget.md")
    page = (tmp_path / "out" / "budget.md").read_text()
    assert "| layerwise | 32 passes" in page
