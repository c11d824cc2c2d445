"""Suite files fail by key; identities cover what changes a result and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from helpers import BUNDLED_SUITE
from PIL import Image

from invsuite.benchmark.cells import LoadedModel, Plan, Selection, UnavailableModel, choose, make_plan
from invsuite.benchmark.estimate import cell_passes
from invsuite.benchmark.suite import load_suite
from invsuite.benchmark.suite_file import bundled_suites
from invsuite.errors import UsageError
from invsuite.methods.optimisation.presets import Optimisation

ROOT = Path(__file__).parents[1]


def plan_of(tmp_path: Path, text: str = BUNDLED_SUITE, selection: Selection | None = None) -> Plan:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return make_plan(load_suite(str(path)), selection or Selection(), lambda note: None)


def ids(plan: Plan) -> dict[str, str]:
    return {cell.key: cell.id for cell in plan.cells}


def test_bundled_suites_load() -> None:
    assert {"quick", "bundled", "photos"} <= set(bundled_suites())
    for name in bundled_suites():
        suite = load_suite(name)
        assert suite.name == name
        for spec in suite.methods:
            if isinstance(spec.method, Optimisation) and spec.method.until == "converged":
                assert spec.method.iterations >= 1000, f"descents of {name}.{spec.name} end before they converge"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', "", "'name' is missing"),
        ("seeds = [0]", "seeds = []", "'seeds' is \\[\\]"),
        ("seeds = [0]", 'seeds = ["a"]', r"'seeds\[0\]' is 'a', expected a whole number"),
        ("seeds = [0]", "seed = [0]", "unknown key 'seed': did you mean seeds"),
        ('"psnr"', '"pnsr"', "did you mean psnr"),
        ("edits = 3", "edits = -3", "'edits' is -3"),
        ("batch = 16", 'batch = "16"', "'budget.batch' is '16', expected a whole number"),
        ("image_passes = 64", "passes = 64", "unknown key 'budget.passes'"),
        ("image_passes = 64", "", "exactly one of 'image_passes', 'seconds', 'flops' is needed, got none"),
        ("image_passes = 64", "image_passes = 64\nseconds = 5", "got 'image_passes' and 'seconds'"),
        ("image_passes = 64", 'flops = "1e9"', "'budget.flops' is '1e9', expected a number"),
        ('kind = "scenes"\nseed = 31', 'kind = "scene"\nseed = 31', "unknown data.fit.kind 'scene'"),
        ("seed = 32\ncount = 8", "count = 8", "'data.select.seed' is missing"),
        ('kind = "scenes"\nseed = 33', 'kind = "held-back"\nseed = 33', "unknown key 'data.score.seed'"),
        ('kind = "scenes"\nseed = 33', 'kind = "sceens"\nseed = 33', "unknown data.score.kind 'sceens'"),
        ('source = "bundled:vit"', 'sauce = "bundled:vit"', "did you mean models.vit.source"),
        ("[methods.mean]", "[methods.median]", "unknown method 'median'"),
        ("iterations = 3", "iterations = 3.5", "'methods.optimisation.iterations' is 3.5, expected a whole number"),
        ("[budget]", "[budget", "is not TOML"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in BUNDLED_SUITE
    path = tmp_path / "broken.toml"
    path.write_text(BUNDLED_SUITE.replace(old, new, 1))
    with pytest.raises(UsageError, match=message) as caught:
        load_suite(str(path))
    assert "broken.toml" in str(caught.value)


def test_unknown_suite_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean quick"):
        load_suite("quik")
    with pytest.raises(UsageError, match="cannot be read"):
        load_suite(str(tmp_path / "no.toml"))


def test_the_matrix_is_models_by_stages_by_methods(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert len(plan.cells) == 2 * 2 * 5
    assert len(set(ids(plan).values())) == 20
    assert ids(plan) == ids(plan_of(tmp_path)), "identities are stable"


def test_seeds_multiply_trained_methods_only(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, selection=Selection(seeds=(0, 1), models=("vit",)))
    seeds = [(c.method.name, c.seed) for c in plan.cells if c.stage == "embed"]
    assert sorted(seeds) == [
        ("layerwise", 0),
        ("layerwise", 1),
        ("mean", 0),
        ("modular", 0),
        ("modular", 1),
        ("optimisation", 0),
        ("ridge", 0),
    ]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("image_passes = 64", "image_passes = 65", {"layerwise", "modular"}),
        ("image_passes = 64", "flops = 1e9", {"layerwise", "modular"}),
        ("image_passes = 64", "seconds = 5", {"layerwise", "modular"}),
        ("seed = 31", "seed = 41", {"mean", "ridge", "optimisation", "layerwise", "modular"}),
        ("seed = 33", "seed = 43", {"mean", "ridge", "optimisation", "layerwise", "modular"}),
        ("iterations = 3", "iterations = 4", {"optimisation"}),
        ("width = 16\ndepth = 1\n[methods.modular]", "width = 24\ndepth = 1\n[methods.modular]", {"layerwise"}),
        ('stages = ["embed", "block03"]', 'stages = ["embed", "block02", "block03"]', {"layerwise", "modular"}),
        ('title = "tiny: a suite for tests"', 'title = "another title"', set()),
        ("seeds = [0]", "seeds = [0, 1]", set()),
    ],
)
def test_identity_covers_what_changes_a_result(tmp_path: Path, old: str, new: str, changed: set[str]) -> None:
    before, after = ids(plan_of(tmp_path)), ids(plan_of(tmp_path, BUNDLED_SUITE.replace(old, new, 1)))
    moved = {key.split("/")[2] for key in before if key.startswith("vit/block03") and before[key] != after[key]}
    assert moved == changed


def test_a_stage_that_a_modular_inverse_does_not_pass_is_not_part_of_its_identity(tmp_path: Path) -> None:
    later = BUNDLED_SUITE.replace('stages = ["embed", "block03"]', 'stages = ["embed", "block03", "block06"]')
    before, after = ids(plan_of(tmp_path)), ids(plan_of(tmp_path, later))
    assert all(before[key] == after[key] for key in before)


def test_a_later_cut_is_part_of_the_identity_of_methods_that_train_all_stages_together(tmp_path: Path) -> None:
    text = BUNDLED_SUITE + "[methods.shared-chain]\nwidth = 16\n[methods.modular-finetuned]\nwidth = 16\n"
    later = text.replace('stages = ["embed", "block03"]', 'stages = ["embed", "block03", "block06"]')
    before, after = ids(plan_of(tmp_path, text)), ids(plan_of(tmp_path, later))
    moved = {key.split("/")[2] for key in before if key.startswith("vit/") and before[key] != after[key]}
    assert moved == {"shared-chain"}


def rows_of_plan(plan: Plan) -> list[str]:
    return list(dict.fromkeys(cell.method.name for cell in plan.cells))


def test_a_list_of_budgets_makes_a_row_of_each(tmp_path: Path) -> None:
    own = BUNDLED_SUITE.replace("[methods.modular]", "[methods.modular]\nimage_passes = [32, 640]")
    before, plan = plan_of(tmp_path), plan_of(tmp_path, own)
    assert rows_of_plan(plan) == ["mean", "ridge", "optimisation", "layerwise", "modular@32", "modular@640"]
    assert {c.identity["budget"]["image_passes"] for c in plan.cells if c.method.table == "modular"} == {32, 640}
    assert all(c.identity["budget"]["batch"] == 16 for c in plan.cells if c.method.table == "modular")
    assert len({c.fit_id for c in plan.cells if c.method.table == "modular" and c.model.name == "vit"}) == 2
    others = {key: cell for key, cell in ids(before).items() if "/modular/" not in key}
    assert others.items() <= ids(plan).items(), "rows without a budget of their own stay what they were"
    assert rows_of_plan(plan_of(tmp_path, own, Selection(methods=("modular",)))) == ["modular@32", "modular@640"]
    assert rows_of_plan(plan_of(tmp_path, own, Selection(methods=("modular@640",)))) == ["modular@640"]
    assert cell_passes(plan, plan.cells[5]) - cell_passes(plan, plan.cells[4]) == 640 - 32


def test_one_budget_of_a_row_keeps_its_name_and_is_the_cell_of_a_suite_with_that_budget(tmp_path: Path) -> None:
    own = BUNDLED_SUITE.replace("[methods.modular]", "[methods.modular]\nimage_passes = 640")
    common = BUNDLED_SUITE.replace("image_passes = 64", "image_passes = 640")
    named, whole = ids(plan_of(tmp_path, own)), ids(plan_of(tmp_path, common))
    assert {key: named[key] for key in named if "modular" in key} == {
        key: whole[key] for key in whole if "modular" in key
    }


def test_fewer_images_change_the_cell_and_not_the_fit(tmp_path: Path) -> None:
    few = BUNDLED_SUITE.replace("[methods.modular]", "[methods.modular]\nimages = 4")
    before, after = plan_of(tmp_path), plan_of(tmp_path, few)
    moved = {key.split("/")[2] for key in ids(before) if ids(before)[key] != ids(after)[key]}
    assert moved == {"modular"}
    assert [cell.fit_id for cell in before.cells] == [cell.fit_id for cell in after.cells]
    assert {cell.method.scored(6) for cell in after.cells} == {4, 6}
    assert cell_passes(before, before.cells[4]) - cell_passes(after, after.cells[4]) == 6 - 4


@pytest.mark.parametrize(
    ("method", "keys", "message"),
    [
        ("modular", "images = 0", "'methods.modular.images' is 0, expected 1 or more"),
        ("modular", "images = 7", "'methods.modular.images' is 7, more than the 6 scored images of 'data.score'"),
        ("modular", "images = [4]", r"'methods.modular.images' is \[4\], expected a whole number"),
        ("modular", "image_passes = 0", "'methods.modular.image_passes' is 0, expected 1 or more"),
        ("modular", "image_passes = []", r"'methods.modular.image_passes' is \[\], expected at least one entry"),
        ("modular", "image_passes = [32, 0]", r"'methods.modular.image_passes\[1\]' is 0, expected 1 or more"),
        ("modular", "image_passes = [32, 64, 32]", "'methods.modular.image_passes' names the budget 32 2 times"),
        ("ridge", "image_passes = 32", "'methods.ridge.image_passes' is 32, but method 'ridge' uses no budget"),
        (
            "modular",
            'image_passes = [32]\n[methods."modular@32"]\nkind = "ridge"',
            "'methods.modular@32' is 'modular@32': a name becomes part of file names",
        ),
    ],
)
def test_errors_name_the_key_of_a_row(tmp_path: Path, method: str, keys: str, message: str) -> None:
    table = BUNDLED_SUITE.partition(f"[methods.{method}]")[0] + f"[methods.{method}]\n{keys}\n"
    with pytest.raises(UsageError, match=message):
        plan_of(tmp_path, table)


def test_images_are_counted_once_a_folder_is_open(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (96, 96), (40 * number, 0, 0)).save(folder / f"{number}.png")
    text = BUNDLED_SUITE.replace('kind = "scenes"\nseed = 33\ncount = 6', f'kind = "folder"\npath = "{folder}"')
    text = text.replace("[methods.mean]", "[methods.mean]\nimages = 4")
    [entry, _] = plan_of(tmp_path, text).models
    assert isinstance(entry, UnavailableModel)
    assert "'methods.mean.images' is 4, more than the 3 scored images" in str(entry.error)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(models=("vti",)), "unknown model 'vti': did you mean vit"),
        (Selection(stages=("blok3",)), "unknown stage 'blok3': did you mean block03"),
        (Selection(methods=("opt*x",)), r"unknown method 'opt\*x'"),
        (Selection(metrics=("fid",)), "unknown metric 'fid'"),
    ],
)
def test_patterns_that_match_nothing_list_what_exists(tmp_path: Path, selection: Selection, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan_of(tmp_path, selection=selection)
    assert "known: " in str(caught.value)


def test_registered_units_that_a_suite_lacks_run_as_they_are_by_default(tmp_path: Path) -> None:
    chosen = Selection(methods=("mean", "nearest"), metrics=("psnr", "delta_e"), models=("vit",))
    plan = plan_of(tmp_path, selection=chosen)
    assert [cell.method.name for cell in plan.cells if cell.stage == "embed"] == ["mean", "nearest"]
    assert [metric.name for metric in plan.metrics] == ["psnr", "delta_e"]
    assert [m.name for m in plan.suite.methods][-1] == "nearest"


def test_patterns_select() -> None:
    names = ("embed", "block03", "block06")
    assert choose("stage", names, ("block*",)) == ("block03", "block06")
    assert choose("stage", names, ("block06", "embed")) == ("embed", "block06")
    assert choose("stage", names, None) == names


def test_a_model_that_cannot_be_had_does_not_stop_the_others(tmp_path: Path) -> None:
    text = BUNDLED_SUITE.replace('source = "bundled:detr"', 'source = "detr:/no/such/checkpoint"')
    plan = plan_of(tmp_path, text)
    opened, refused = plan.models
    assert isinstance(opened, LoadedModel)
    assert isinstance(refused, UnavailableModel)
    assert "'/no/such/checkpoint' does not exist" in str(refused.error)
    assert len(refused.cells) == 10


def test_fewer_fit_images_than_a_batch_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, BUNDLED_SUITE.replace("count = 64", "count = 8"))
    assert isinstance(plan.models[0], UnavailableModel)
    assert "fewer than one batch" in str(plan.models[0].error)


def test_every_suite_comes_with_the_package() -> None:
    """A wheel has the suites that `pyproject.toml` names: each file in `benchmarks/`."""
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.toml")}
    assert files <= included["force-include"].keys()
