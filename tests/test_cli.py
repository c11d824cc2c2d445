"""The command line from end to end on a tiny suite: results, reuse, exit codes and one-line errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import BUNDLED_SUITE, SMALL_MODELS, TINY_SUITE, invoke
from PIL import Image
from typer.testing import Result

from invsuite.cli import _names, app
from invsuite.data.base import from_unit_range
from invsuite.data.scenes import Scenes
from invsuite.errors import UsageError

METHODS = ("mean", "ridge", "optimisation", "layerwise", "modular")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """One whole run of the tiny suite, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("run")
    suite = folder / "tiny.toml"
    suite.write_text(TINY_SUITE)
    result = invoke("bench", "--suite", suite, "--out", folder / "results", "--device", "cpu")
    assert result.exit_code == 0, result.output
    return suite, folder / "results", result


def test_a_run_writes_tables_pictures_and_records(finished: tuple[Path, Path, Result]) -> None:
    _, out, result = finished
    assert "20 cells computed, 0 reused; 20 ok" in result.stdout
    for method in METHODS:
        assert f" {method} " in result.stdout
    table = (out / "tiny.md").read_text()
    assert table.splitlines()[0] == "# tiny: a suite for tests - models: vit, detr"
    leaderboard, _, gaps = table.partition("## Chain gap")
    assert leaderboard.count("| modular") == 4 * 3, "a line in each table: fidelity, space, colour"
    assert gaps.count("| modular") == 4
    counted = 8 * 2 + 4  # operations, and those of the frozen model, of trained methods; of searches for a prior
    assert len((out / "tiny.csv").read_text().splitlines()) == 1 + 20 * (5 + 8) + counted
    for model in ("vit", "detr"):
        with Image.open(out / f"tiny-{model}.png") as strip:
            assert strip.width > 300
            colours = strip.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None
            assert len(colours) > 1000, "a strip shows pictures"
    assert len(list((out / "records" / "tiny").glob("*.json"))) == 20


def test_a_record_says_where_it_comes_from(finished: tuple[Path, Path, Result]) -> None:
    suite, out, _ = finished
    record = json.loads(invoke("show", "vit-block03-modular", "--suite", suite, "--out", out).stdout)
    assert record["status"] == "ok"
    measured = record["measurements"]
    assert measured["psnr"]["n"] == len(measured["psnr"]["values"]) == len(record["images"]) == 6
    assert measured["lpips"]["status"] in ("ok", "skipped")
    assert record["cost"]["clock"] == "wall"
    assert record["cost"]["fit_image_passes"] == 64
    assert record["identity"]["cut"] == ["embed", "block03"]
    assert set(record["identity"]["data"]) == {"fit", "select", "score"}
    assert record["provenance"]["versions"]["torch"]
    assert record["provenance"]["deterministic"] is True
    assert "git" in record["provenance"]
    assert record["method" if "method" in record else "cell"]["method"] == "modular"


def test_the_same_command_again_computes_nothing(finished: tuple[Path, Path, Result]) -> None:
    suite, out, first = finished
    again = invoke("bench", "--suite", suite, "--out", out)
    assert again.exit_code == 0
    assert "0 cells computed, 20 reused" in again.stdout
    table = [line for line in first.stdout.splitlines() if " ridge " in line or " modular " in line]
    assert [line for line in again.stdout.splitlines() if " ridge " in line or " modular " in line] == table


def test_json_is_all_that_standard_output_has(finished: tuple[Path, Path, Result]) -> None:
    suite, out, _ = finished
    tree = json.loads(invoke("bench", "--suite", suite, "--out", out, "--json").stdout)
    assert tree["reused"] == 20
    assert {c["cell"]["model"] for c in tree["cells"]} == {"vit", "detr"}


def test_dry_run_prints_the_matrix_and_runs_nothing(tiny_suite: Path, tmp_path: Path) -> None:
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", "--models", "vit", "--dry-run")
    assert result.exit_code == 0
    assert "10 cells, 10 to run, about" in result.stdout
    assert "vit-block03-modular" in result.stdout
    assert not (tmp_path / "r").exists()


def test_a_run_that_leaves_no_record_ends_in_a_line(tiny_suite: Path, tmp_path: Path) -> None:
    which = ("--models", "vit", "--stages", "embed", "--methods", "mean", "--retry-failed")
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", *which)
    assert result.exit_code == 0, result.output
    assert "0 cells computed" in result.stdout
    assert "no records" in result.stdout


def test_filters_select(finished: tuple[Path, Path, Result]) -> None:
    suite, out, _ = finished
    words = ("--models", "vit", "--stages", "emb*", "--methods", "mean,ridge")
    result = invoke("bench", "--suite", suite, "--out", out, *words)
    assert "0 cells computed, 2 reused" in result.stdout


def test_report_renders_the_same_table_from_records(finished: tuple[Path, Path, Result], tmp_path: Path) -> None:
    suite, out, _ = finished
    copy = tmp_path / "results"
    shutil.copytree(out / "records", copy / "records")
    result = invoke("report", "--suite", suite, "--out", copy)
    assert result.exit_code == 0
    full = invoke("bench", "--suite", suite, "--out", out)
    assert full.exit_code == 0
    assert (copy / "tiny.csv").read_text() == (out / "tiny.csv").read_text()


def test_baseline_then_check(finished: tuple[Path, Path, Result], tmp_path: Path) -> None:
    suite, out, _ = finished
    baseline = tmp_path / "baseline.json"
    assert invoke("baseline", "--suite", suite, "--out", out, "--baseline", baseline).exit_code == 0
    check = ("check", "--suite", suite, "--out", out, "--baseline", baseline)
    good = invoke(*check)
    assert good.exit_code == 0
    assert "same" in good.stdout
    tree = json.loads(baseline.read_text())
    cell = tree["cells"]["vit/embed/ridge/s0"]["measures"]["psnr"]
    cell["values"] = [v + 1 for v in cell["values"]]
    baseline.write_text(json.dumps(tree))
    worse = invoke(*check)
    assert worse.exit_code == 1
    assert "worse: vit/embed/ridge/s0 psnr" in worse.stdout
    assert any(f["verdict"] == "worse" for f in json.loads(invoke(*check, "--json").stdout))


def test_a_method_that_breaks_is_a_record_and_the_rest_goes_on(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invsuite.methods.ridge import LinearInverter, Ridge

    def broken(self: object, representation: object) -> None:
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(LinearInverter, "invert", broken)
    words = ("bench", "--suite", tiny_suite, "--out", tmp_path / "r", "--models", "vit", "--methods", "mean,ridge")
    result = invoke(*words)
    assert result.exit_code == 1
    assert "2 failed, 2 ok" in result.stdout
    assert "RuntimeError: out of cheese" in result.stdout
    assert "out of cheese" in (tmp_path / "r" / "tiny.md").read_text()
    monkeypatch.undo()
    assert Ridge.name == "ridge"
    assert "2 cells computed, 2 reused; 4 ok" in invoke(*words).stdout, "failed cells are tried again"


def test_a_stage_a_method_does_not_apply_to_is_skipped_once_and_descents_record_their_curve(
    tiny_suite: Path, tmp_path: Path
) -> None:
    tiny_suite.write_text(TINY_SUITE + "[methods.exact]\n[methods.fixedpoint]\niterations = 2\n")
    which = ("--models", "vit", "--methods", "exact,fixedpoint,optimisation", "--metrics", "psnr")
    words = ("bench", "--suite", tiny_suite, "--out", tmp_path / "r", *which)
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "5 ok" in result.stdout
    assert "1 not applicable" in result.stdout
    assert "block03' of model 'vit' is not an affine map" in (tmp_path / "r" / "tiny.md").read_text()
    assert "0 cells computed, 6 reused" in invoke(*words).stdout, "what does not apply is settled"

    def notes(cell: str) -> dict[str, Any]:
        shown = invoke("show", cell, "--suite", tiny_suite, "--out", tmp_path / "r")
        return json.loads(shown.stdout)["notes"]

    curve = notes("vit-block03-optimisation")["inversion_curve"]
    assert [point["iteration"] for point in curve] == [0, 1, 2, 3]
    assert curve[-1]["feature_loss"] < curve[0]["feature_loss"]
    assert curve[-1]["psnr"] > 0
    assert notes("vit-embed-exact")["rank"] == 32
    blocks = notes("vit-block03-fixedpoint")["blocks"]
    assert [block["block"] for block in blocks] == ["block03", "block02", "block01"]
    assert blocks[0]["images"] == 6, "the scored images alone, not the edited ones"


def test_reconstructions_outside_the_unit_range_are_refused(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invsuite.methods.ridge import LinearInverter

    original = LinearInverter.invert
    monkeypatch.setattr(LinearInverter, "invert", lambda *a: original(*a) * 255)
    words = ("--models", "vit", "--stages", "embed", "--methods", "ridge")
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", *words)
    assert result.exit_code == 1
    assert "expected [0, 1]; divide by 255" in result.stdout


def test_a_method_that_touches_the_model_is_refused(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invsuite.methods.floors import Mean

    original = Mean.fit

    def meddling(self: Mean, problem):  # type: ignore[no-untyped-def]
        next(problem.model.network.parameters()).data.add_(1e-3)
        return original(self, problem)

    monkeypatch.setattr(Mean, "fit", meddling)
    words = ("--models", "vit", "--stages", "embed", "--methods", "mean")
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", *words)
    assert result.exit_code == 1
    assert "changed the weights of model 'vit'" in result.stdout


def photo_suite(tmp_path: Path) -> Path:
    """A suite on a folder of photos, one of which is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        pixels = from_unit_range(Scenes(71, 40)[index].image).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    (folder / "007.png").write_bytes(b"\x89PNG no")
    text = TINY_SUITE.replace('kind = "scenes"\nseed = 31\ncount = 64', f'kind = "folder"\npath = "{folder}"')
    text = text.replace('kind = "scenes"\nseed = 32\ncount = 8', 'kind = "held-back"\ncount = 6')
    path = tmp_path / "photos.toml"
    path.write_text(text)
    return path


def test_an_unreadable_photo_is_named_and_counted_not_fatal(tmp_path: Path) -> None:
    suite = photo_suite(tmp_path)
    words = ("--models", "vit", "--stages", "embed", "--methods", "ridge")
    result = invoke("bench", "--suite", suite, "--out", tmp_path / "r", *words)
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("unreadable photo left out: ")]
    assert f"{tmp_path / 'photos' / '007.png'}: cannot identify image file" in line, "whole, however wide the screen"
    assert "1 unreadable photos left out in all" in result.stderr
    record = json.loads(invoke("show", "ridge", "--suite", suite, "--out", tmp_path / "r").stdout)
    assert record["data"]["fit"] == 33
    assert len(record["data"]["unreadable"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("bench", "--models", "vti"), 2, "unknown model 'vti': did you mean vit"),
        (("bench", "--models", "vit", "--methods", "modula"), 2, "did you mean modular"),
        (("bench", "--models", "vit", "--metrics", "psnrr"), 2, "did you mean psnr"),
        (("bench", "--suite", "quickest"), 2, "unknown suite 'quickest': did you mean quick"),
        (("bench", "--seeds", "one"), 2, "--seeds 'one' is not"),
        (("bench", "--device", "abacus"), 2, "unknown device 'abacus'"),
        (("bench", "--device", "cuda:99"), 3, "device 'cuda:99' is not there"),
        (
            (
                "bench",
                "--no-such-option",
            ),
            2,
            "No such option",
        ),
        (("show", "nothing", "--out", "/nonexistent"), 2, "unknown cell 'nothing'"),
        (("report", "--out", "/nonexistent"), 2, "no records of suite 'quick'"),
        (("check", "--out", "/nonexistent", "--baseline", "/no.json"), 2, "invsuite baseline"),
        (("list", "nothing"), 2, "unknown kind of list 'nothing'"),
    ],
)
def test_wrong_usage_is_one_line_and_the_right_code(words: tuple[str, ...], code: int, said: str) -> None:
    result = invoke(*words)
    assert result.exit_code == code, result.output
    text = " ".join(result.stderr.replace("│", " ").split())
    assert said in text
    if text.startswith("error:"):
        assert len(result.stderr.strip().splitlines()) == 1


def test_weights_with_one_byte_changed_fail_their_cells_and_no_others(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invsuite.models.adapters import bundled

    copy = tmp_path / "bundled"
    shutil.copytree(str(bundled.FOLDER), copy)
    data = bytearray((copy / "vit.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "vit.safetensors").write_bytes(bytes(data))
    monkeypatch.setattr(bundled, "FOLDER", copy)
    tiny_suite.write_text(BUNDLED_SUITE)
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", "--methods", "mean", "--metrics", "psnr")
    assert result.exit_code == 3
    assert "2 failed, 2 ok" in result.stdout
    assert "is not the card's" in result.stdout
    title = (tmp_path / "r" / "tiny.md").read_text().splitlines()[0]
    assert title == "# tiny: a suite for tests - small bundled models: detr"


def test_weights_that_cannot_be_had_are_skipped_not_random(
    tiny_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_suite.write_text(TINY_SUITE.replace(SMALL_MODELS["detr"], "detr:facebook/no-such-detr"))
    words = ("--methods", "mean", "--metrics", "psnr")
    result = invoke("bench", "--suite", tiny_suite, "--out", tmp_path / "r", *words)
    assert result.exit_code == 0, "a skipped cell is not a failed one"
    assert "2 ok, 2 skipped" in result.stdout
    assert "hf download facebook/no-such-detr" in result.stdout


@pytest.mark.parametrize(
    ("kind", "name"), [("models", "bundled:detr"), ("methods", "modular"), ("metrics", "hue_gain"), ("suites", "quick")]
)
def test_list(kind: str, name: str) -> None:
    assert name in invoke("list", kind).stdout
    assert isinstance(json.loads(invoke("list", kind, "--json").stdout), list)


NEEDED = {
    "fetch": ("quick",),
    "efficiency": ("quick",),
    "budget": ("quick",),
    "findings": ("quick",),
    "granularity": ("quick",),
    "privacy": ("quick",),
    "stability": ("quick",),
    "fit": ("--model", "vit", "--out", "new"),
    "push": ("a", "hf://me/b"),
    "transfer": ("a",),
    "compare": ("a", "b"),
    "show": ("a",),
}


@pytest.mark.parametrize("command", [command.name for command in app.registered_commands])
def test_every_command_loads_plugins_and_goes_offline(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plug-in that breaks ends each command before it does anything, and --offline came before the plug-in."""
    plugin = tmp_path / "broken.py"
    plugin.write_text("import os\nraise RuntimeError(os.environ['HF_DATASETS_OFFLINE'])")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    words = NEEDED.get(command, ("answers.json",) if command == "study-results" else ())
    result = invoke(command, *words, "--plugin", plugin, "--offline")
    assert result.exit_code == 2, result.output
    assert "broken.py' cannot be loaded: RuntimeError: 1" in result.stderr


def test_commas_in_paths_can_be_quoted() -> None:
    assert _names('vit, timm:test_vit@"a,b c.pth" ,"detr:x,y"') == ("vit", "timm:test_vit@a,b c.pth", "detr:x,y")
    assert _names(" , ") is None
    with pytest.raises(UsageError, match="has a double quote that is not closed"):
        _names('a"b')
