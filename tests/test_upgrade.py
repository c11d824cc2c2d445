"""After an upgrade: what a record says of its making, which versions changed, and digits of every verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import invoke, small_suite
from invented import PROVENANCE, measurement, record

from invsuite._system.provenance import versions
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.runner import RunOptions, Silent, begin, origin
from invsuite.benchmark.suite import load_suite
from invsuite.results.baseline import changes, judge, pin, summary
from invsuite.results.record import Record, from_json, to_json
from invsuite.results.store import Store

CPU = torch.device("cpu")


def test_a_record_holds_the_suites_text_the_command_and_the_versions(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mean": "{}"}, stages=("embed",)))
    suite = load_suite(str(path))
    assert suite.text == path.read_text()
    made = replace(record(), provenance=origin(CPU, 0, suite.text, "invsuite bench --suite 's.toml'"))
    read = from_json(Record, json.loads(json.dumps(to_json(made))))
    assert read.provenance.suite == path.read_text()
    assert read.provenance.command == "invsuite bench --suite 's.toml'"
    assert {"pillow", "pycocotools", "safetensors", "onnxruntime"} <= set(read.provenance.versions)


def test_an_earlier_record_without_them_is_read() -> None:
    tree = to_json(record())
    for name in ("suite", "command"):
        del tree["provenance"][name]
    del tree["cell"]["own_budget"]
    assert from_json(Record, tree).provenance.command == ""


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_reuse_of_what_other_versions_made_is_said(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mean": "{}"}, stages=("embed",)))
    plan = make_plan(load_suite(str(path)), Selection(), lambda text: None)
    [cell] = plan.cells
    store = Store(tmp_path / "r")
    known = versions()
    for torch_version, said in ((known["torch"], []), ("1.0", [f"torch 1.0 -> {known['torch']}"])):
        named = replace(record().cell, id=cell.id)
        made_by = replace(PROVENANCE, versions={**known, "torch": torch_version, "gone": "3"})
        store.write(replace(record(measurements=[measurement("psnr", [1.0])]), cell=named, provenance=made_by))
        reporter = Notes()
        begin(plan, store, CPU, reporter, RunOptions(redo="missing"))
        assert reporter.lines == [f"1 reused cells were computed by other versions: {change} (now)" for change in said]


def test_a_check_prints_all_digits_and_what_changed(tmp_path: Path) -> None:
    values = [measurement("psnr", [20.0, 21.0, 22.0])]
    pinned = record(measurements=values, images=3)
    baseline = pin([pinned], tmp_path / "b.json")
    now = replace(pinned, provenance=replace(PROVENANCE, versions={"torch": "2.1"}, device="CPU (other)"))
    text = summary(judge([now], baseline))
    assert "1 same" in text.splitlines()[0]
    assert "same: vit/embed/ridge/s0 psnr 21.000 -> 21.000 (n=3, tolerance" in text
    assert changes([now], baseline) == [
        "changed since it was pinned: device CPU (test) -> CPU (other)",
        "changed since it was pinned: torch 2.0 -> 2.1",
    ]
    assert changes([pinned], baseline) == []


OPTIONS: dict[str, tuple[str, ...]] = {
    "--keep is inf": ("--keep", "inf"),
    "--cell-seconds is inf": ("--cell-seconds", "inf"),
}


@pytest.mark.parametrize("said", OPTIONS)
def test_options_that_are_no_finite_number_are_usage(said: str) -> None:
    result = invoke("bench", *OPTIONS[said])
    assert result.exit_code == 2
    assert f"error: {said}, expected a finite number" in result.stderr


def suite_with(old: str, new: str) -> Callable[[], str]:
    text = small_suite("s", {"mean": "{}"}, stages=("embed",), source="bundled:vit")
    assert old in text
    return lambda: text.replace(old, new, 1)


READ: dict[str, Callable[[], str]] = {
    "a byte order mark": suite_with('name = "s"', '\ufeffname = "s"'),
    "a repository of the hub": suite_with("models.vit", 'models."facebook/detr"'),
    "dots and signs": suite_with("models.vit", 'models."vit-b.16_x+y"'),
}
REFUSED: dict[str, tuple[Callable[[], str], str]] = {
    "a slash": (suite_with("methods.mean", 'methods."my/m"'), "'methods.my/m' is 'my/m': a name becomes part of"),
    "a way out of a model": (suite_with("models.vit", 'models."a/../b"'), "'models.a/../b' is '..'"),
    "a model at the root": (suite_with("models.vit", 'models."/vit"'), "'models./vit' is ''"),
    "a way out": (suite_with('name = "s"', 'name = "../../away"'), "'name' is '../../away'"),
    "two dots": (suite_with("methods.mean", 'methods.".."'), "'methods...' is '..'"),
    "nothing": (suite_with("models.vit", 'models.""'), "'models.\"\"' is ''"),
    "a blank": (suite_with("methods.mean", 'methods."me an"'), "'methods.me an' is 'me an'"),
    "a quote": (suite_with("methods.mean", "methods.'me\"an'"), "a name becomes part of file names"),
    "other letters": (suite_with("models.vit", 'models."modèle"'), "use letters a to z"),
    "what tables use": (suite_with("methods.mean", 'methods."mean@3"'), "'methods.mean@3' is 'mean@3'"),
    "nan": (suite_with("image_passes = 32", "seconds = nan"), "'budget.seconds' is nan, expected a finite number"),
    "inf in a list": (suite_with("seeds = [0]", "seeds = [-inf]"), "'seeds[0]' is -inf, expected a finite number"),
    "a huge number": (suite_with("seeds = [0]", "seeds = [99999999999999999999]"), "'seeds[0]' is 9999"),
    "a path of Windows": (suite_with('source = "bundled:vit"', 'source = "C:\\temp"'), "in double quotes a backslash"),
    "another": (suite_with('source = "bundled:vit"', 'source = "C:\\photos"'), "in double quotes a backslash"),
}


@pytest.mark.parametrize("case", READ)
def test_suites_that_people_save_are_read(case: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(READ[case](), encoding="utf-8")
    assert load_suite(str(path)).name == "s"


@pytest.mark.parametrize("case", REFUSED)
def test_names_and_values_that_no_file_or_number_can_be_are_refused(case: str, tmp_path: Path) -> None:
    text, said = REFUSED[case]
    path = tmp_path / "s.toml"
    path.write_text(text(), encoding="utf-8")
    result = invoke("report", "--suite", path, "--out", tmp_path)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert said in line
    assert line.startswith(f"error: suite file '{path}': ")


def test_a_model_with_a_slash_is_safe_everywhere_and_shares_no_files(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    text = small_suite("s", {"mean": "{}"}, stages=("embed",)).replace("models.vit", 'models."my/vit"')
    path.write_text(text)
    words = ("--suite", path, "--out", tmp_path / "r", "--device", "cpu")
    assert invoke("bench", *words).exit_code == 0
    result = invoke("report", *words[:4])
    assert result.exit_code == 0
    assert (tmp_path / "r" / "s-my-vit.png").is_file()
    assert not [
        path for path in (tmp_path / "r" / "records" / "s").iterdir() if path.name.startswith("my") and path.is_dir()
    ]
    path.write_text(f'{text}models.my-vit = {{ source = "bundled:detr", stages = ["backbone"] }}\n')
    assert "would share files: rename one" in invoke("report", *words[:4]).stderr


def test_a_relative_path_of_data_is_found_beside_the_suite_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab" / "photos").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    text = small_suite("s", {"mean": "{}"}, stages=("embed",))
    path = tmp_path / "lab" / "s.toml"
    path.write_text(text.replace('score = { kind = "scenes", seed = 63', 'score = { kind = "folder", path = "photos"'))
    monkeypatch.chdir(tmp_path / "here")
    assert load_suite("../lab/s.toml").data.score.path == "../lab/photos"  # type: ignore[attr-defined]
    (tmp_path / "here" / "photos").mkdir()
    assert load_suite("../lab/s.toml").data.score.path == "photos", "the current folder first"  # type: ignore[attr-defined]


def test_a_registered_method_that_the_suite_lacks_runs_with_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mean": "{}"}, stages=("embed",)))
    plan = make_plan(load_suite(str(path)), Selection(methods=["dip"]), lambda text: None)
    assert [cell.key for cell in plan.cells] == ["vit/embed/dip/s0"]


def test_a_stage_with_a_slash_stays_inside_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(small_suite("s", {"mean": "{}"}, stages=("embed",)))
    [cell] = make_plan(load_suite(str(path)), Selection(), lambda text: None).cells
    odd = replace(cell, stage="../blocks/3 (add)")
    assert "/" not in odd.id
    assert not odd.id.startswith(".")
    assert len(replace(cell, stage="x" * 500).id) < 240
