"""Cuts of one network stand side by side: chains are counted whole, other methods once."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import SMALL_MODELS, SMALL_NETWORK, invoke, small_suite

import invsuite
from invsuite.errors import UsageError
from invsuite.report.granularity import _panel, readings_of, write_granularity


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, invsuite.Results]:
    folder = tmp_path_factory.mktemp("granularity")
    text = small_suite("cuts", {"ridge": '{ models = ["vit"] }', "modular": SMALL_NETWORK}, ("embed", "block02"))
    text += f'models.fine = {{ source = "{SMALL_MODELS["vit"]}", stages = ["embed", "block01", "block02"] }}\n'
    path = folder / "cuts.toml"
    path.write_text(text)
    return path, invsuite.run(str(path), out=folder)


def test_a_chain_is_what_all_its_modules_took(run: tuple[Path, invsuite.Results]) -> None:
    _, results = run
    records = {r.cell.row: r for r in results.records}
    readings = readings_of(results)
    assert list(readings) == ["block02"], "every cut reaches the embedding in one module"
    [coarse, fine] = [reading for reading in readings["block02"] if reading.modular]
    assert [len(coarse.chain), len(fine.chain)] == [2, 3]
    costs = [records[f"fine/{stage}/modular"].cost for stage in ("embed", "block01", "block02")]
    assert all(cost is not None and cost.fit_flops for cost in costs)
    trained = [cost for cost in costs if cost is not None]
    frozen = trained[-1].fit_frozen_flops or 0.0
    assert fine.flops == pytest.approx(sum(cost.fit_flops or 0.0 for cost in trained) + frozen)
    assert fine.values == sum(cost.parameters for cost in trained)
    assert coarse.values < fine.values
    [ridge] = [reading for reading in readings["block02"] if not reading.modular]
    assert len(ridge.chain) == 1


def test_the_page_says_what_each_cut_is(run: tuple[Path, invsuite.Results]) -> None:
    path, results = run
    done = invoke("granularity", path, "--out", path.parent)
    assert done.exit_code == 0, done.output
    page = (path.parent / "granularity.md").read_text()
    assert "- `fine`: embed, block01, block02" in page
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if "modular" in line]
    [psnr] = [r.measurements["psnr"].mean for r in results.records if r.cell.row == "fine/block02/modular"]
    assert any(row[1:3] == ["fine", "3"] and row[4].startswith(f"{psnr:.2f}") for row in rows)
    opening = page.splitlines()[2:5]
    assert opening[0].startswith("This page shows what chains of 2 and 3 modules read of the same stages")
    assert opening[1].startswith("The rows are `ridge` (closed form); `modular` (32 passes); a chain has")
    assert opening[2].startswith("At block02: PSNR of 3 modules (`fine`) minus that of 2 (`vit`): ")
    assert "- PSNR of 3 modules (`fine`) minus that of 2 (`vit`): " in page
    assert (path.parent / "cuts-granularity.png").stat().st_size > 10_000


def test_bars_of_the_figure_are_paired(run: tuple[Path, invsuite.Results]) -> None:
    """They stand at the means, without what makes an image hard for every cut."""
    [(stage, readings)] = readings_of(run[1]).items()
    panel = _panel(stage, readings)
    drawn = [point for points in panel.lines.values() for point in points]
    shown = {round(mean, 6): high - low for _, mean, low, high in drawn}
    for reading in readings:
        own = reading.row.measurement("psnr")
        if reading.flops is not None:
            assert own is not None
            assert own.mean is not None
            assert own.low is not None
            assert own.high is not None
            assert shown[round(own.mean, 6)] < (own.high - own.low) / 2


def test_a_suite_with_one_cut_is_refused(run: tuple[Path, invsuite.Results], tmp_path: Path) -> None:
    _, results = run
    one = invsuite.Results([r for r in results.records if r.cell.model != "fine"], [], results.stores)
    with pytest.raises(UsageError, match="no two models of the same weights"):
        write_granularity([one], tmp_path)


def test_seconds_of_a_chain_of_several_devices_are_none(run: tuple[Path, invsuite.Results], tmp_path: Path) -> None:
    _, results = run
    records = copy.deepcopy(results.records)
    for one in records:
        if one.cell.row == "fine/block01/modular" and one.cost is not None:
            one.provenance.device, one.cost.clock = "NVIDIA H200", "cuda-event"
    page = write_granularity([replace(results, records=records)], tmp_path)[0].read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if "modular" in line]
    seconds = {row[1]: row[-2] for row in rows if row[0] == "modular"}
    assert seconds["fine"] == "-"
    assert seconds["vit"].isdigit()
    assert "several devices within the reading (1 reading, without times)" in page
