"""A measure that is added later costs no inversion and no training, and a narrower run never hides a wider one's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL_NETWORK, invoke, small_suite

from invsuite.benchmark import scoring
from invsuite.benchmark.cells import LoadedModel, Selection, make_plan
from invsuite.benchmark.suite import Suite, load_suite
from invsuite.registry import METHODS
from invsuite.results.record import Record
from invsuite.results.store import Store

ALL = ("psnr", "ssim", "hue_gain", "delta_e", "cross_application")
KINDS = {"mean": "{}", "ridge": "{}", "layerwise": SMALL_NETWORK, "optimisation": "{ iterations = 2 }"}
SUITE = small_suite("added", KINDS, metrics=ALL)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "added.toml"
    path.write_text(SUITE)
    return path


def bench(suite: Path, out: Path, metrics: str, *words: object) -> str:
    """Run the suite with these measures; returns what was printed."""
    result = invoke("bench", "--suite", suite, "--out", out, "--metrics", metrics, *words)
    assert result.exit_code == 0, result.output
    return result.output


def records(out: Path) -> dict[str, Record]:
    return {record.cell.key: record for record in Store(out / "records" / "added").records()}


def forbid(monkeypatch: pytest.MonkeyPatch, inversions: bool = True) -> None:
    """Let every fit, and every inversion of images, raise."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was computed before")

    for kind in KINDS:
        monkeypatch.setattr(METHODS[kind], "fit", refuse)
    if inversions:
        monkeypatch.setattr(scoring, "invert_batch", refuse)


def values(record: Record, name: str) -> list[float | None]:
    return record.measurements[name].values


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """Records of one run with every measure."""
    folder = tmp_path_factory.mktemp("once")
    (folder / "added.toml").write_text(SUITE)
    bench(folder / "added.toml", folder / "once", ",".join(ALL))
    return records(folder / "once")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with PSNR alone, which nobody else writes to."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "added.toml").write_text(SUITE)
    assert "8 cells computed" in bench(folder / "added.toml", folder / "r", "psnr")
    return folder / "r"


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    """A copy of the run with PSNR alone."""
    return shutil.copytree(first, tmp_path / "r")


def test_an_added_measure_repeats_no_fit_and_no_inversion(
    suite: Path, out: Path, once: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    text = bench(suite, out, "psnr,ssim")
    assert "0 cells computed, 8 reused (measures added to 8)" in text
    for key, record in records(out).items():
        for name in ("psnr", "ssim"):
            assert values(record, name) == values(once[key], name), (key, name)
    table = (out / "added.md").read_text()
    assert "PSNR" in table
    assert "SSIM" in table
    assert "0 cells computed, 8 reused;" in bench(suite, out, "psnr,ssim")


def test_measures_of_one_edit_share_its_inversions_between_runs(
    suite: Path, tmp_path: Path, once: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    bench(suite, out, "psnr,hue_gain")
    forbid(monkeypatch)
    bench(suite, out, "psnr,hue_gain,delta_e")
    for key, record in records(out).items():
        assert values(record, "delta_e") == values(once[key], "delta_e"), key


def test_a_measure_that_needs_the_inverse_again_takes_the_kept_one(
    suite: Path, out: Path, once: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, inversions=False)
    methods = ("--methods", "mean,ridge,layerwise")  # descents would invert edited images again, for long
    bench(suite, out, "psnr,hue_gain,cross_application", *methods)
    for key, record in records(out).items():
        for name in ("hue_gain", "cross_application"):
            if "optimisation" not in key:
                assert record.measurements[name].values == once[key].measurements[name].values, (key, name)
                assert record.measurements[name].status == once[key].measurements[name].status


def test_a_narrower_run_hides_nothing(suite: Path, out: Path) -> None:
    bench(suite, out, "psnr,ssim")
    before = records(out)
    bench(suite, out, "psnr")
    assert records(out) == before
    assert "SSIM" in (out / "added.md").read_text()
    assert invoke("report", "--suite", suite, "--out", out).exit_code == 0
    assert "SSIM" in (out / "added.md").read_text()


def test_another_setting_of_a_measure_stands_beside_the_first(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    bench(suite, out, "psnr,hue_gain", "--methods", "ridge")
    before = records(out)
    suite.write_text(SUITE.replace("edits = 2", "edits = 3"))
    assert "(measures added to 2)" in bench(suite, out, "psnr,hue_gain", "--methods", "ridge")
    after = records(out)
    for key, record in after.items():
        assert record.measurements["psnr"] == before[key].measurements["psnr"]
        assert record.measurements["hue_gain"].identity != before[key].measurements["hue_gain"].identity
        assert record.earlier == [before[key].measurements["hue_gain"]]
    suite.write_text(SUITE)
    assert "0 cells computed, 2 reused;" in bench(suite, out, "psnr,hue_gain", "--methods", "ridge")


def test_pruning_costs_time_and_no_number(suite: Path, out: Path, once: dict[str, Record]) -> None:
    folder = out / "records" / "added" / "kept"
    assert list(folder.rglob("*.safetensors"))
    result = invoke("prune", "--suite", suite, "--out", out)
    assert result.exit_code == 0
    assert "MiB" in result.stdout
    assert not folder.exists()
    text = bench(suite, out, "psnr,ssim", "--methods", "ridge,layerwise")
    assert "(measures added to 4)" in text
    for key, record in records(out).items():
        if record.cell.kind in ("ridge", "layerwise"):
            for name in ("psnr", "ssim"):
                assert values(record, name) == values(once[key], name), (key, name)


def test_the_size_cap_says_so_and_loses_no_number(suite: Path, tmp_path: Path, once: dict[str, Record]) -> None:
    out = tmp_path / "r"
    text = bench(suite, out, "psnr", "--methods", "ridge", "--keep", "1e-6")
    assert "reach their limit of 1e-06 GiB" in text
    assert "invsuite prune" in text
    bench(suite, out, "psnr,ssim", "--methods", "ridge", "--keep", "0")
    assert not list((out / "records").rglob("*.safetensors"))
    for key, record in records(out).items():
        assert values(record, "ssim") == values(once[key], "ssim")


def test_a_measure_that_raises_costs_no_other_its_values(
    suite: Path, tmp_path: Path, once: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    from invsuite.metrics.colour import DeltaE

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("no object")

    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        patch.setattr(DeltaE, "compute", broken)
        result = invoke("bench", "--suite", suite, "--out", out, "--metrics", "psnr,delta_e", "--methods", "mean")
    assert result.exit_code == 1
    assert "measure 'delta_e' failed: ZeroDivisionError: no object" in result.output
    for key, record in records(out).items():
        assert values(record, "psnr") == values(once[key], "psnr")
        assert record.measurements["delta_e"].status == "failed"
    bench(suite, out, "psnr,delta_e", "--methods", "mean")
    for key, record in records(out).items():
        assert record.measurements["delta_e"] == once[key].measurements["delta_e"]


def test_what_enters_a_measure_is_its_identity(suite: Path) -> None:
    """The number of edits where images are edited, the witness where it is asked, and nothing of other measures."""
    loaded = replace(load_suite(str(suite)), metrics=("psnr", "hue_gain", "witness_error"))

    def identities(suite: Suite) -> dict[str, str]:
        plan = make_plan(suite, Selection(), lambda text: None)
        [entry] = plan.models
        assert isinstance(entry, LoadedModel)
        return {metric.name: entry.identity_of(metric, suite.edits) for metric in plan.metrics}

    def changed(suite: Suite) -> set[str]:
        return {name for name, identity in identities(suite).items() if identity != before[name]}

    before = identities(loaded)
    assert changed(replace(loaded, edits=3)) == {"hue_gain"}
    watched = replace(loaded, models=(replace(loaded.models[0], witness="bundled:detr"),))
    assert changed(watched) == {"witness_error"}
    assert changed(replace(loaded, metrics=("psnr",))) == set()
