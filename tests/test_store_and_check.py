"""Records are atomic and successes safe; the check has a verdict for every case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import invented
import numpy as np
import pytest
from invented import measurement

from invsuite._system.files import write_atomically
from invsuite.errors import DataError, SetupError, UsageError
from invsuite.methods.base import Family
from invsuite.registry import METRICS
from invsuite.report.markdown import chain_gaps, markdown
from invsuite.report.results import Results
from invsuite.report.texts import FAMILIES
from invsuite.results.baseline import Baseline, judge, load_baseline, pin, summary
from invsuite.results.frame import to_csv
from invsuite.results.record import Record
from invsuite.results.store import Store


def record(method: str = "ridge", status: str = "ok", shift: float = 0.0, seed: int = 0) -> Record:
    """A record of three measures, PSNR moved by ``shift``."""
    rng = np.random.default_rng(0)
    means = {"psnr": 20.0, "ssim": 0.7, "hue_gain": 0.8}
    values = {name: rng.normal(mean, 0.05 * mean, 16) for name, mean in means.items()}
    values["psnr"] += shift
    measurements = [measurement(name, each.tolist()) for name, each in values.items()]
    return invented.record(method=method, status=status, seed=seed, measurements=measurements)


def test_a_failure_never_replaces_a_success(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cell = record().cell.id
    store.write(record(status="failed"))
    assert not store.finished(cell)
    store.write(record())
    assert store.finished(cell)
    store.write(record(status="failed"))
    assert store.finished(cell)
    assert len(list(store.records())) == 1


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record())
    path = store.path(record().cell.id)
    path.write_text(path.read_text()[:100])
    assert store.read(path.stem) is None
    assert list(store.records()) == []
    store.write(record())
    assert store.finished(path.stem)


def test_an_edited_record_is_refused_in_reports_and_computed_again_in_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(record())
    path = store.path(record().cell.id)
    path.write_text(path.read_text().replace('"fit_image_passes": 100', '"fit_image_passes": 10'))
    assert not store.finished(path.stem)
    with pytest.raises(DataError, match=r"was changed after it was written; delete it"):
        list(store.records())
    store.write(record())
    assert len(list(store.records())) == 1
    unsealed = json.loads(path.read_text())
    del unsealed["record_sha256"]
    path.write_text(json.dumps(unsealed))
    assert not store.finished(path.stem), "nobody says that it is as it was written"


def test_what_the_suite_noticed_is_in_the_report() -> None:
    odd = record("modular")
    odd.flags = ["all 16 reconstructions are the same image, whatever the representation"]
    text = markdown(Results([record("ridge"), odd]))
    assert (
        "- flagged: all 16 reconstructions are the same image, whatever the representation (vit/embed/modular)" in text
    )


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(SetupError, match=r"cannot write .*a\.json.*No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_record_with_nan_is_refused(tmp_path: Path) -> None:
    bad = record()
    bad.measurements["psnr"].mean = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        Store(tmp_path).write(bad)


def baseline_of(tmp_path: Path, *records: Record) -> Baseline:
    path = tmp_path / "baseline.json"
    baseline = pin(records, path)
    assert load_baseline(path) == baseline
    return baseline


def verdicts(baseline: Baseline, *records: Record) -> set[tuple[str, str]]:
    return {(one.measure, one.verdict) for one in judge(records, baseline)}


def test_the_same_results_pass(tmp_path: Path) -> None:
    judgements = judge([record()], baseline_of(tmp_path, record()))
    assert {one.verdict for one in judgements} == {"same"}
    assert not any(one.bad for one in judgements)


@pytest.mark.parametrize(("shift", "verdict"), [(-0.5, "worse"), (0.5, "better"), (-0.2, "same"), (0.2, "same")])
def test_a_shift_beyond_the_tolerance_counts(tmp_path: Path, shift: float, verdict: str) -> None:
    found = verdicts(baseline_of(tmp_path, record()), record(shift=shift))
    assert ("psnr", verdict) in found
    assert ("ssim", "same") in found


def test_noise_that_large_but_not_significant_passes(tmp_path: Path) -> None:
    noisy = record()
    rng = np.random.default_rng(1)
    psnr = noisy.measurements["psnr"]
    psnr.values = (np.array(psnr.values) + rng.normal(-0.4, 4, 16)).tolist()
    assert ("psnr", "worse") not in verdicts(baseline_of(tmp_path, record()), noisy)


def test_missing_failing_and_new_cells(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path, record(), record("mean", status="failed"))
    assert list(baseline.cells) == ["vit/embed/ridge/s0"], "what has no numbers is not pinned"
    assert ("", "missing") in verdicts(baseline, record("mean"))
    assert ("", "newly failing") in verdicts(baseline, record(status="failed"))
    assert ("", "new") in verdicts(baseline, record(), record("mean"))
    assert ("", "newly failing") in verdicts(baseline, record(), record("mean", status="failed"))
    assert ("", "same") in verdicts(baseline, record(), record("mean", status="skipped"))
    with pytest.raises(UsageError, match="no record with numbers: there is nothing to pin"):
        pin([record(status="failed")], tmp_path / "empty.json")


def test_a_measure_that_is_not_registered_is_held_to_the_tolerance_it_declared(tmp_path: Path) -> None:
    def measured(shift: float) -> Record:
        values = [0.5 + 0.01 * i + shift for i in range(16)]
        return invented.record(measurements=[measurement("sharpness", values, tolerance=0.05)])

    baseline = baseline_of(tmp_path, measured(0))
    assert "sharpness" not in METRICS
    for shift, verdict in ((-1e-6, "same"), (-0.04, "same"), (-0.06, "worse"), (0.06, "better")):
        assert verdicts(baseline, measured(shift)) == {("sharpness", verdict)}
    looser = measured(-0.06)
    looser.measurements["sharpness"].tolerance = 1.0
    assert verdicts(baseline, looser) == {("sharpness", "worse")}, "what was pinned counts"


def test_another_identity_or_metric_version_is_not_comparable(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path, record())
    other = record()
    other.cell.id = "vit-embed-ridge-s0-ffffffffffff"
    assert verdicts(baseline, other) == {("", "not comparable")}
    newer = record()
    newer.measurements["ssim"].version = 2
    assert ("ssim", "not comparable") in verdicts(baseline, newer)
    newer.measurements["ssim"] = measurement("ssim", record().measurements["ssim"].values, identity="of more edits")
    assert ("ssim", "not comparable") in verdicts(baseline, newer)


def test_a_measure_that_vanishes_is_newly_failing(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path, record())
    gone = record()
    gone.measurements["ssim"] = measurement("ssim", status="skipped", reason="no backbone")
    assert ("ssim", "newly failing") in verdicts(baseline, gone)
    fewer = record()
    fewer.measurements["ssim"].values[0] = None
    assert ("ssim", "newly failing") in verdicts(baseline, fewer)


def test_closer_to_one_is_better_on_either_side(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path, record())
    over = record()
    gain = over.measurements["hue_gain"]
    gain.values = [2.3 - value for value in gain.values if value is not None]
    assert ("hue_gain", "worse") in verdicts(baseline, over)


def test_the_summary_names_what_is_wrong(tmp_path: Path) -> None:
    baseline = baseline_of(tmp_path, record())
    text = summary(judge([record(shift=-1)], baseline))
    assert "1 worse" in text
    assert "worse: vit/embed/ridge/s0 psnr" in text
    assert "(n=16, tolerance 0.3, worse by 1.000 [1.000, 1.000])" in text


def test_a_baseline_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="invsuite baseline"):
        load_baseline(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        load_baseline(tmp_path / "bad.json")
    (tmp_path / "old.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(UsageError, match="schema 0"):
        load_baseline(tmp_path / "old.json")


def test_the_leaderboard_gives_n_interval_direction_and_marks_the_best() -> None:
    worse = record("mean", shift=-3)
    text = markdown(Results([record(), worse, record("modular", status="failed")]))
    assert text.startswith("# tiny: a suite for tests - small bundled models: vit\n")
    assert text.splitlines()[2:5] == [
        "This page shows how well images are reconstructed from representations of `vit` (embed), scored on 16 images.",
        "The methods are `ridge` and `mean` (closed form).",
        f"Best by PSNR in dB, or not told apart from the best: on `vit` at embed `ridge` "
        f"({record().measurements['psnr'].mean:.2f}).",
    ]
    assert "PSNR dB ↑ (n=16)" in text
    assert "Hue gain →1 (n=16)" in text
    row = next(line for line in text.splitlines() if "| ridge" in line)
    assert f"**{record().measurements['psnr'].mean:.2f} [" in row
    assert "**" not in next(line for line in text.splitlines() if "| mean" in line).split("|")[4]
    assert "failed: it broke (vit/embed/modular)" in text
    assert "Fit s (wall)" in text
    assert "(dirty)" in text


def test_the_legend_says_what_the_methods_are() -> None:
    own, named = record(), record("wide@1600")
    own.cell.kind, own.cell.family = "ridge", "closed form"
    named.cell.kind, named.cell.family = "layerwise", "layer-wise"
    assert set(FAMILIES) == set(get_args(Family))
    [line] = [line for line in markdown(Results([own, named])).splitlines() if line.startswith("- **Methods**")]
    assert line.startswith(
        "- **Methods**: `ridge`: closed form (solved by linear algebra on the fit images); `wide` (a `layerwise`): "
        "layer-wise (one network per stage, trained end to end on the image). "
    )


def test_a_best_row_of_fewer_images_says_so_in_the_opening() -> None:
    best = record("refined", shift=5)
    psnr = best.measurements["psnr"]
    best.images, best.measurements = best.images[:9], {"psnr": measurement("psnr", psnr.values[:9])}
    opening = markdown(Results([record(), record("modular", shift=-1), best])).splitlines()[4]
    assert opening.endswith(f"at embed `refined` ({best.measurements['psnr'].mean:.2f}, n=9).")


def test_a_cell_with_another_n_shows_it() -> None:
    fewer = record("mean")
    fewer.measurements["ssim"].n = 9
    text = markdown(Results([record(), record("modular"), fewer]))
    assert "(n=9)" in next(line for line in text.splitlines() if "| mean" in line)


def test_csv_has_every_number() -> None:
    rows = to_csv([record(), record("mean", status="skipped")]).splitlines()
    assert any(",psnr,dB,higher,16," in row for row in rows)
    assert any(",fit_seconds,s,lower,1,1.0,,,,,clock: wall of CPU (test)," in row for row in rows)
    assert any(",skipped," in row and "it broke" in row for row in rows)
    assert len({row.count(",") for row in rows}) == 1


def test_the_chain_gap_is_measured_against_the_end_to_end_network_of_the_same_stage() -> None:
    chain, whole, other = record("modular"), record("layerwise"), record("modular", seed=1)
    for found, error in ((chain, 0.03), (whole, 0.02), (other, 0.04)):
        found.notes = {"selection_image_mse": error}
    [(found, gap)] = chain_gaps([chain, whole, other, record("ridge")])
    assert found is chain, "seed 1 has no partner, ridge no chain"
    assert gap == pytest.approx(1.5)
    assert "| 1.50" in markdown(Results([chain, whole]))
    assert "Chain gap" not in markdown(Results([record("ridge"), whole]))


def test_operations_are_in_the_csv_where_they_were_counted() -> None:
    counted, not_counted = record("modular"), record("ridge")
    assert counted.cost is not None
    counted.cost.fit_flops, counted.cost.fit_frozen_flops = 2e9, 1e9
    lines = [line.split(",") for line in to_csv([counted, not_counted]).splitlines()]
    found = {(line[3], line[8]): line[12] for line in lines if "flops" in line[8]}
    assert found == {("modular", "fit_flops"): "2000000000.0", ("modular", "fit_frozen_flops"): "1000000000.0"}
