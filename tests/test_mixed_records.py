"""Records of one folder that do not belong together: other images, weights, budgets, parameters, and ghosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import invoke, small_suite
from invented import PROVENANCE, measurement, record

from invsuite.errors import UsageError
from invsuite.report.markdown import markdown
from invsuite.report.results import Results
from invsuite.results.baseline import judge, pin
from invsuite.results.compare import compare_rows
from invsuite.results.merge import in_folder
from invsuite.results.record import Record
from invsuite.results.store import Store

DATA = {"fit": "f", "select": "s", "score": "first"}
IDENTITY = {"stage": "embed", "method": {"name": "m"}, "weights": "w", "image_size": [24, 24], "data": DATA}
VALUES = [20.0 + 0.1 * place for place in range(16)]


def cell(row: str, written: int, shift: float = 0.0, own_budget: bool | None = None, **identity: Any) -> Record:
    """An invented record of the day ``written`` of January, better by ``shift`` dB."""
    values = measurement("psnr", [value + shift for value in VALUES])
    made = record(method=row, measurements=[values], seed=identity.get("seed", 0))
    named = replace(
        made.cell, id=f"{row}-{made.cell.seed}-{written}", own_budget=own_budget, uses_image=False, suite="tiny"
    )
    day = replace(PROVENANCE, written=f"2026-01-{written:02d}T00:00:00+00:00")
    return replace(made, cell=named, identity=IDENTITY | identity, provenance=day)


def loaded(folder: Path, *records: Record, current: tuple[str, ...] = ()) -> Results:
    store = Store(folder)
    for one in records:
        store.write(one)
    return Results.load(folder, current=current)


OTHER = {
    "the data": {"data": DATA | {"score": "second"}},
    "the weights": {"weights": "x"},
    "the image size": {"image_size": [48, 48]},
    "the plug-ins": {"plugins": {"mylab": "2"}},
}


@pytest.mark.parametrize("kind", OTHER)
def test_rows_of_other_inputs_are_not_ranked_together(kind: str, tmp_path: Path) -> None:
    old = IDENTITY | ({"plugins": {"mylab": "1"}} if "plug" in kind else {})
    results = loaded(tmp_path, cell("ridge", 1, 9.0, **old), cell("mean", 2, **OTHER[kind]))
    assert len(results.models) == 2
    assert "vit" in results.models, "the newest keeps its name"
    [note] = results.notes
    assert f"2 revisions of {kind} (" in note
    assert all("#1" not in line for line in markdown(results).splitlines() if line.startswith("| embed"))
    assert results.places["psnr"] == {}
    assert [r.original_model for r in results] == ["vit", "vit"], "pictures are found"


def test_rows_of_another_budget_of_the_suite_are_apart_and_floors_stay_with_the_newest(tmp_path: Path) -> None:
    budgets = [{"budget": {"image_passes": passes}} for passes in (32, 64, 16)]
    mixed = [cell("modular", 1, own_budget=False, **budgets[0]), cell("layerwise", 2, own_budget=False, **budgets[1])]
    results = loaded(tmp_path, *mixed, cell("mean", 3), cell("own", 1, own_budget=True, **budgets[2]))
    rows = {row.method: row.model for row in results.rows}
    assert rows.pop("modular").startswith("vit (budget ")
    assert set(rows.values()) == {"vit"}, "a row's own budget is no other regime of the suite"


def test_what_a_later_run_did_again_is_not_shown_twice_and_the_run_at_hand_comes_first(tmp_path: Path) -> None:
    other = {"data": DATA | {"score": "second"}}
    old, new = cell("mean", 1), cell("mean", 2, **other)
    results = loaded(tmp_path, old, new)
    assert [r.cell.id for r in results] == [new.cell.id]
    assert not results.notes
    assert [r.cell.id for r in Results.load(tmp_path, current={old.cell.id})] == [old.cell.id]


def test_seeds_of_other_parameters_are_left_out_and_named(tmp_path: Path) -> None:
    old = cell("modular", 1, seed=1, method={"name": "m", "width": 8})
    new = cell("modular", 2, seed=0)
    results = loaded(tmp_path, old, new)
    assert [r.cell.seed for r in results] == [0]
    [note] = results.notes
    assert note.startswith("vit/embed/modular/s1 is left out: its method differ")


def test_what_no_seed_changes_is_one_result(tmp_path: Path) -> None:
    first, again = cell("mean", 1), cell("mean", 2)
    again = replace(again, cell=replace(again.cell, seed=1))
    [row] = loaded(tmp_path, first, again).rows
    assert row.label == "mean", "no two seeds"


def test_nothing_in_common_is_no_comparison() -> None:
    """Photos of two folders may share their names: the digest tells them apart."""
    first = cell("ridge", 1, 9.0)
    second = cell("mean", 2, data=DATA | {"score": "second"})
    with pytest.raises(UsageError, match=r"cannot be compared: they were scored on other images \(data first, data "):
        compare_rows([first, second], "vit/embed/ridge", "vit/embed/mean")
    renamed = replace(cell("mean", 2), images=[f"other-{i}" for i in range(16)])
    with pytest.raises(UsageError, match="they have no scored image in common"):
        compare_rows([first, renamed], "vit/embed/ridge", "vit/embed/mean")
    values = [None] * 8 + VALUES[8:]
    halves = [measurement("psnr", half) for half in (values, values[::-1])]
    pair = [
        replace(one, measurements={"psnr": half}) for one, half in zip((first, cell("mean", 2)), halves, strict=True)
    ]
    for measures in (None, ["psnr"]):
        with pytest.raises(UsageError, match="no image on which the measure"):
            compare_rows(pair, "vit/embed/ridge", "vit/embed/mean", measures)


def test_rows_of_two_folders_are_compared() -> None:
    mixed = [*in_folder([cell("ridge", 1, 1.0)], "a"), *in_folder([cell("ridge", 2)], "out/b")]
    [comparison] = compare_rows(mixed, "a:vit/embed/ridge", "out/b:vit/embed/ridge")
    assert comparison.n == 16
    assert comparison.verdict == "a:vit/embed/ridge is better"
    assert len(in_folder(mixed, "")) == 2


def ghost(written: int) -> Record:
    bare = record(stage="unknown", method="mean", status="failed", fault="usage")
    day = replace(PROVENANCE, written=f"2026-01-{written:02d}T00:00:00+00:00")
    return replace(bare, identity={"refused": "timm:tset_vit"}, provenance=day)


def test_what_a_refused_model_left_goes_once_it_is_there(tmp_path: Path) -> None:
    assert [r.cell.stage for r in loaded(tmp_path / "alone", ghost(1))] == ["unknown"]
    assert [r.cell.stage for r in loaded(tmp_path / "there", ghost(1), cell("mean", 2))] == ["embed"]
    later = loaded(tmp_path / "later", cell("mean", 1), ghost(2))
    assert {r.cell.stage for r in later} == {"embed", "unknown"}, "it is refused now"


def test_nothing_without_numbers_is_pinned_and_models_keep_their_names_in_a_baseline(tmp_path: Path) -> None:
    empty = replace(cell("grey", 1), measurements={"psnr": measurement("psnr", status="undefined", reason="no object")})
    moved = cell("ridge", 1, data=DATA | {"score": "second"})
    results = loaded(tmp_path / "r", ghost(1), empty, moved, cell("mean", 2))
    assert len(results.models) == 2
    baseline = pin(results, tmp_path / "b.json")
    assert set(baseline.cells) == {"vit/embed/ridge/s0", "vit/embed/mean/s0"}
    assert {judgement.verdict for judgement in judge(results, baseline)} <= {"same", "new"}


def test_a_run_of_a_part_leaves_the_table_of_the_whole(tmp_path: Path) -> None:
    suite = tmp_path / "part.toml"
    suite.write_text(small_suite("part", {"mean": "{}", "mean-colour": "{}"}, stages=("embed",)))
    words = ("--suite", suite, "--out", tmp_path / "r", "--device", "cpu")
    assert invoke("bench", *words).exit_code == 0
    result = invoke("bench", "--methods", "mean", *words)
    assert "has the 2 cells of the folder, 1 of them are of this run" in result.stderr
    table = (tmp_path / "r" / "part.md").read_text()
    assert "| mean-colour" in table
    assert "1 reused" in result.stdout
