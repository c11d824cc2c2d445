"""`Results`: a run's records as a frame, compared, checked, merged and rendered from Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import invented
import numpy as np
import pandas as pd
import pytest
from invented import measurement

from invsuite.errors import UsageError
from invsuite.report.results import Results, load_results
from invsuite.report.texts import data_texts
from invsuite.results.baseline import pin
from invsuite.results.record import DataCounts, Record, Weights
from invsuite.results.store import Store


def record(method: str, level: float, written: str = "2026-01-01T00:00:00+00:00") -> Record:
    """A record of two measures, one of them skipped, written at some time."""
    values = (level + np.random.default_rng(0).normal(0, 1, 16)).tolist()
    measured = [measurement("psnr", values), measurement("lpips", status="skipped", reason="no weights")]
    provenance = replace(invented.PROVENANCE, written=written)
    return replace(invented.record(method=method, measurements=measured), provenance=provenance)


@pytest.fixture
def results() -> Results:
    return Results([record("ridge", 20.0), record("mean", 17.0), invented.record(method="modular", status="failed")])


def test_it_is_a_sequence_of_records(results: Results) -> None:
    assert len(results) == 3
    assert [one.cell.method for one in results] == ["ridge", "mean", "modular"]
    assert results[0].cell.method == "ridge"
    assert [one.cell.method for one in results[1:]] == ["mean", "modular"]
    assert results.title == "tiny: a suite for tests - small bundled models: vit"
    assert results.states == {"failed": 1, "ok": 2}


def test_its_title_names_the_models_that_were_run() -> None:
    missing = invented.record("detr", status="failed")
    random = replace(record("ridge", 1.0), cell=replace(record("ridge", 1.0).cell, model="net"))
    random = replace(random, weights=Weights("timm:net", "b" * 64, random=True))
    real = replace(record("ridge", 1.0, "2026-03-01T00:00:00"), weights=Weights("timm:vit", "a" * 64))
    real = replace(real, cell=replace(real.cell, model="vit_tiny", title="tiny: renamed since"))
    title = Results([missing, random, real]).title
    assert title == "tiny: renamed since - models: vit_tiny - RANDOM WEIGHTS, untrained: net"


def test_how_many_images_there_were_is_said_once() -> None:
    def one(model: str, method: str, *counts: int) -> Record:
        return invented.record(model, method=method, data=DataCounts(*counts))

    vit = [one("vit", "mean", 60, 6, 64), one("vit", "descent", 60, 6, 4), one("vit", "refined", 60, 6, 32)]
    detr = [one("detr", "mean", 60, 6, 64), one("detr", "refined", 60, 6, 32)]
    few = "Fit on 60 images, selected on 6, scored on 64 (refined on the first 32; descent on the first 4)"
    assert data_texts([*vit, *detr]) == [f"{few}; the three are disjoint"]
    [text] = data_texts([*vit, detr[0], one("detr", "refined", 60, 6, 64)])
    assert "scored on 64 (refined of vit on the first 32; descent on the first 4);" in text
    assert data_texts([vit[0], *detr, one("big", "mean", 90, 6, 64)]) == [
        "vit, detr: fit on 60 images, selected on 6, scored on 64 (refined on the first 32); the three are disjoint",
        "big: fit on 90 images, selected on 6, scored on 64; the three are disjoint",
    ]
    assert data_texts([invented.record(status="failed")]) == []


def test_a_frame_has_a_line_per_cell_and_measure(results: Results) -> None:
    frame = results.to_frame()
    assert list(frame["measure"][:2]) == ["psnr", "lpips"]
    psnr = frame.query("measure == 'psnr'").set_index("method")
    one = results[0].measurements["psnr"]
    assert psnr.loc["ridge", ["n", "mean", "low", "high"]].tolist() == [16, one.mean, one.low, one.high]
    assert (psnr.loc["ridge", "unit"], psnr.loc["ridge", "direction"]) == ("dB", "higher")
    assert frame["mean"].dtype == float
    skipped = frame.query("measure == 'lpips'").iloc[0]
    assert (skipped["status"], skipped["reason"]) == ("skipped", "no weights")
    assert pd.isna(skipped["mean"])
    broken = frame[frame["status"] == "failed"].iloc[0]
    assert (broken["method"], broken["reason"]) == ("modular", "it broke")
    assert pd.isna(broken["measure"])
    assert len(frame) == 5
    costs = results.to_frame(costs=True)
    assert costs.query("measure == 'parameters' and method == 'ridge'")["mean"].tolist() == [1234.0]


def test_rows_are_compared_image_by_image(results: Results) -> None:
    [line] = results.compare("vit/embed/ridge", "vit/embed/mean").to_dict("records")
    assert line["measure"] == "psnr"
    assert line["difference"] == pytest.approx(3.0)
    assert line["verdict"] == "vit/embed/ridge is better"
    with pytest.raises(UsageError, match="did you mean psnr"):
        results.compare("vit/embed/ridge", "vit/embed/mean", metrics=["psrn"])


def test_a_baseline_is_checked_from_its_file_or_as_it_is(results: Results, tmp_path: Path) -> None:
    baseline = pin(results, tmp_path / "baseline.json")
    worse = Results([record("ridge", 19.0), record("mean", 17.0)])
    for pinned in (baseline, tmp_path / "baseline.json", str(tmp_path / "baseline.json")):
        assert [(one.cell, one.measure) for one in worse.check(pinned) if one.bad] == [("vit/embed/ridge/s0", "psnr")]


def test_the_newest_record_of_a_cell_counts_unless_its_model_could_not_be_had(tmp_path: Path) -> None:
    store = Store(tmp_path / "records" / "tiny")
    old, new = record("ridge", 20.0), record("ridge", 21.0, written="2026-02-01T00:00:00+00:00")
    new.cell.id = f"{new.cell.id[:-12]}ffffffffffff"
    refused = replace(invented.record(status="skipped"), identity={"refused": "timm:x"})
    refused.cell.id = f"{new.cell.id[:-12]}000000000000"
    refused.provenance = replace(refused.provenance, written="2026-03-01T00:00:00+00:00")
    for one in (new, old, refused):
        store.write(one)
    assert [one.cell.id for one in load_results(tmp_path)] == [new.cell.id]
    Store(tmp_path / "records" / "other").write(old)
    with pytest.raises(UsageError, match="records of several suites, name one: other, tiny"):
        load_results(tmp_path)
    assert len(load_results(str(tmp_path), "other")) == 1


def test_a_report_of_records_alone_has_tables_and_no_pictures(results: Results, tmp_path: Path) -> None:
    files = results.report(tmp_path / "report")
    assert [path.name for path in files] == ["tiny.md", "tiny.csv", "tiny.html"]
    assert all(path.is_file() for path in files)
    merged = results.merge(Results([record("layerwise", 25.0)]))
    assert [one.cell.method for one in merged] == ["ridge", "mean", "modular", "layerwise"]
    assert merged.notes[0].startswith("Run run 1: 3 cells")
