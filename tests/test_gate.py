"""The gate on real fits: half a decibel turns it red, other random numbers do not, and time never does."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SMALL_NETWORK, invoke, small_suite
from invented import measurement

from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.suite import load_suite
from invsuite.methods import networks
from invsuite.registry import METRICS
from invsuite.results.baseline import RUN_RANGES, RunRange, judge, load_baseline, pin
from invsuite.results.record import CellCost, Record, from_json

SUITE = small_suite(
    "gate",
    {"mean": "{}", "modular": SMALL_NETWORK},
    metrics=("psnr", "ssim"),
    passes=64,
    counts=(48, 8, 12),
    seed=51,
)
PINNED = 6  # seeds behind the tolerance; the other twenty are the tries
TRIES = 20


@pytest.fixture(scope="module")
def reseeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[int, list[Record]]]:
    """Suite, results and the records of 26 seeds."""
    folder = tmp_path_factory.mktemp("gate")
    suite = folder / "gate.toml"
    suite.write_text(SUITE)
    seeds = ",".join(map(str, range(PINNED + TRIES)))
    result = invoke("bench", "--suite", suite, "--out", folder, "--device", "cpu", "--seeds", seeds, "--json")
    assert result.exit_code == 0, result.output
    found: dict[int, list[Record]] = {}
    for tree in json.loads(result.stdout)["cells"]:
        record = from_json(Record, tree)
        found.setdefault(record.cell.seed, []).append(record)
    return suite, folder, found


def as_seed_0(records: list[Record], first: list[Record]) -> list[Record]:
    """The records as if their random numbers had been those of seed 0: what a new order of operations, or a new
    version of torch, makes of a run. Cells without a seed are those of ``first``."""
    named = {r.cell.row: r.cell for r in first}
    return [*(replace(r, cell=named[r.cell.row]) for r in records), *(r for r in first if r.cell.method == "mean")]


def test_reseeding_stays_green_in_20_of_20_tries(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path
) -> None:
    _, _, found = reseeded
    path = tmp_path / "baseline.json"
    baseline = pin([r for seed in range(PINNED) for r in found[seed]], path, seeds=(0,))
    assert len(baseline.cells) == 4, "only seed 0 is pinned"
    pinned = baseline.cells["vit/block03/modular/s0"].measures["psnr"].run_range
    assert pinned is not None
    assert pinned.runs == PINNED
    assert pinned.mean > 0
    assert baseline.cells["vit/block03/mean/s0"].measures["psnr"].run_range is None
    tries = [found[seed] for seed in range(PINNED, PINNED + TRIES)]
    moved = {r.measurements["psnr"].mean for records in tries for r in records if r.cell.stage == "block03"}
    assert len(moved) == TRIES, "every seed gave other numbers"
    red = [[one for one in judge(as_seed_0(records, found[0]), baseline) if one.bad] for records in tries]
    assert red == [[]] * TRIES


def test_half_a_decibel_of_one_method_turns_the_gate_red(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, folder, found = reseeded
    baseline, page = tmp_path / "baseline.json", tmp_path / "page.md"
    assert invoke("baseline", "--suite", suite, "--out", folder, "--baseline", baseline).exit_code == 0
    again = ("bench", "--suite", suite, "--out", tmp_path, "--device", "cpu")
    check = ("check", "--suite", suite, "--out", tmp_path, "--baseline", baseline, "--markdown", page)
    assert invoke(*again).exit_code == 0
    assert invoke(*check).exit_code == 0
    assert "suite gate: passed" in page.read_text()

    error = {r.cell.stage: 10 ** (-(r.measurements["psnr"].mean or 0.0) / 10) for r in found[0]}
    invert = networks.ChainInverter.invert

    def worse(self: Any, representation: Any) -> torch.Tensor:
        """The method's own images with as much noise as costs 0.5 dB."""
        images = invert(self, representation)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
        return (images + noise * (error[representation.stage] * (10**0.05 - 1)) ** 0.5).clamp(0, 1)

    monkeypatch.setattr(networks.ChainInverter, "invert", worse)
    assert invoke(*again, "--refresh").exit_code == 0
    result = invoke(*check, "--json")
    assert result.exit_code == 1
    bad = [(f["cell"], f["measure"]) for f in json.loads(result.stdout) if f["verdict"] == "worse"]
    assert ("vit/embed/modular/s0", "psnr") in bad
    assert all(cell.split("/")[2] == "modular" for cell, _ in bad), "the other method is as it was"
    text = page.read_text()
    assert "suite gate: FAILED" in text
    assert any(line.split()[1:5:2] == ["**worse**", "`vit/embed/modular/s0`"] for line in text.splitlines())


def test_a_run_on_another_machine_widens_the_gate(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path
) -> None:
    """A cell that a processor's rounding moves by as much as reseeding does is held to what both runs differ by."""
    suite, folder, found = reseeded
    one = pin(found[0], tmp_path / "one.json").cells["vit/block03/modular/s0"].measures["psnr"]
    other = as_seed_0(found[1], found[0])
    both = pin(found[0], tmp_path / "both.json", others=other).cells["vit/block03/modular/s0"].measures["psnr"]
    assert one.run_range is None
    assert both.run_range is not None
    means = [r.measurements["psnr"].mean or 0.0 for r in (*found[0], *other) if r.cell.key == "vit/block03/modular/s0"]
    assert (both.run_range.runs, both.run_range.mean) == (2, pytest.approx(abs(means[0] - means[1])))
    assert both.allowed >= 2 * both.run_range.mean
    path = tmp_path / "cli.json"
    done = invoke("baseline", "--suite", suite, "--out", folder, "--other", folder, "--baseline", path)
    assert done.exit_code == 0, done.output
    pinned = load_baseline(path).cells["vit/block03/modular/s0"].measures["psnr"].run_range
    assert pinned is not None
    assert pinned.runs == 2 * (PINNED + TRIES)


def test_descents_that_were_cut_off_are_pinned_where_their_range_is_known(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path
) -> None:
    _, _, found = reseeded
    records = copy.deepcopy(found[0])
    cut_off = records[0]
    cut_off.notes |= {"converged": False, "iterations": 20.0, "ceiling": 20}
    baseline = pin(records, tmp_path / "one.json")
    assert {key for key, cell in baseline.cells.items() if not cell.measures} == {cut_off.cell.key}
    worse = copy.deepcopy(records)
    worse[0].measurements["psnr"] = replace(worse[0].measurements["psnr"], values=[0.0] * len(cut_off.images), mean=0.0)
    [of_cell] = [one for one in judge(worse, baseline) if one.cell == cut_off.cell.key]
    assert (of_cell.verdict, "not converged" in of_cell.detail) == ("same", True)
    ranged = pin(records, tmp_path / "two.json", others=records)
    assert "worse" in {one.verdict for one in judge(worse, ranged) if one.cell == cut_off.cell.key}


def test_time_and_memory_are_never_judged(reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path) -> None:
    _, _, found = reseeded
    pin(found[0], tmp_path / "baseline.json")
    slow = copy.deepcopy(found[0])
    for record in slow:
        cost = asdict(record.cost)  # type: ignore[arg-type]
        record.cost = CellCost(**{k: v * 100 if isinstance(v, int | float) else v for k, v in cost.items()})
    assert {one.verdict for one in judge(slow, load_baseline(tmp_path / "baseline.json"))} == {"same"}


def test_a_cell_that_fails_is_red_whether_or_not_it_was_pinned(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path
) -> None:
    _, _, found = reseeded
    first, *others = found[0]
    failed = Record(first.cell, {}, "failed", first.provenance, "out of memory")
    skipped = Record(first.cell, {}, "skipped", first.provenance, "no weights")
    for pinned, now, verdict in (
        (others, failed, "newly failing"),
        (others, skipped, "same"),
        ([skipped, *others], failed, "newly failing"),
        ([failed, *others], skipped, "same"),
        ([first, *others], skipped, "newly failing"),
    ):
        judgements = judge([now, *others], pin(pinned, tmp_path / "b.json"))
        [of_cell] = [one for one in judgements if one.cell == first.cell.key]
        assert of_cell.verdict == verdict


def test_measures_that_come_and_go(reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path) -> None:
    _, _, found = reseeded
    without = copy.deepcopy(found[0])
    del without[0].measurements["ssim"]
    without[1].measurements["ssim"] = measurement("ssim", status="skipped", reason="no backbone")
    judgements = judge(found[0], pin(without, tmp_path / "b.json"))
    assert [one.verdict for one in judgements if one.verdict != "same"] == ["new", "new"]


def test_a_baseline_of_no_seed_of_the_suite_is_refused(
    reseeded: tuple[Path, Path, dict[int, list[Record]]], tmp_path: Path
) -> None:
    _, folder, _ = reseeded
    other = tmp_path / "gate.toml"
    other.write_text(SUITE.replace("seeds = [0]", "seeds = [99]"))
    result = invoke("baseline", "--suite", other, "--out", folder, "--baseline", tmp_path / "b.json")
    assert result.exit_code == 2
    assert "no record with numbers has a seed of the suite (99)" in result.stderr


def test_fewer_seeds_than_six_count_for_more() -> None:
    """The mean range of so many normal values, times what a baseline allows, is the same however many were pinned."""
    drawn = np.random.default_rng(0).normal(size=(20000, 6))
    allowed = {n: RunRange(n, 0.0, 0, 0).reach * np.ptp(drawn[:, :n], axis=1).mean() for n in range(2, 7)}
    assert max(allowed.values()) == pytest.approx(min(allowed.values()), rel=0.02)
    assert RunRange(6, 0.0, 0, 0).reach == RunRange(20, 0.0, 0, 0).reach == RUN_RANGES


def test_half_a_decibel_is_beyond_the_tolerance_of_psnr() -> None:
    assert METRICS["psnr"].tolerance < 0.5
    assert RUN_RANGES >= 2


def test_the_regression_matrix_has_at_least_24_cells() -> None:
    suite = load_suite("quick")
    plan = make_plan(suite, Selection(), lambda note: None)
    assert len(plan.cells) >= 24
    assert all(cell.seed in suite.seeds for cell in plan.cells)
