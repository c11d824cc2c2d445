"""The page of costs says what its records say, on a small real run and on records with known numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import invented
import pytest
from helpers import TINY_SUITE, invoke
from invented import measurement

from invsuite.report.efficiency import cost_to, efficiency_markdown, trained_cells
from invsuite.report.markdown import markdown
from invsuite.report.results import Results
from invsuite.results.record import CellCost, Record

FLOPS = 1e12


def record(method: str, stage: str, points: list[tuple[int, float]], flops: float, **notes: Any) -> Record:
    """A record of a fit of 100 images seen."""
    cost = CellCost(
        "wall",
        fit_image_passes=100 if flops else 0,
        fit_seconds=flops / FLOPS,
        fit_shared_seconds=5.0,
        fit_flops=flops,
        fit_frozen_flops=FLOPS,
        parameters=7,
        invert_flops_per_image=0.5 * FLOPS,
        invert_seconds_per_image=0.1,
    )
    mean = points[-1][1] - 1
    psnr = measurement("psnr", [mean] * 16, n=9, mean=mean, low=1.0, high=2.0)
    notes = {"curve": [[p, p / 10, 0.1, db] for p, db in points], **notes} if flops else {}
    provenance = replace(invented.PROVENANCE, git={"sha": "abcdef0123456"})
    one = invented.record("net", stage, method, measurements=[psnr], cost=cost, notes=notes)
    return replace(one, identity={"method": {"iterations": 40}}, provenance=provenance)


@pytest.fixture
def records() -> list[Record]:
    """Layer-wise costs 10 and 16 TFLOP, modular 10 and 6; at the second stage layer-wise is better."""
    chain = {"modules": ["a", "b"]}
    return [
        record("layerwise", "a", [(0, 10.0), (50, 20.0), (100, 30.0)], 10 * FLOPS),
        record("modular", "a", [(0, 10.0), (50, 20.0), (100, 30.0)], 10 * FLOPS, **chain),
        record("optimisation", "a", [(0, 12.0)], 0.0),
        record("layerwise", "b", [(0, 9.0), (50, 18.0), (100, 22.0)], 16 * FLOPS),
        record("modular", "b", [(0, 9.0), (50, 12.0), (100, 18.0)], 6 * FLOPS, **chain),
        record("optimisation", "b", [(0, 12.0)], 0.0),
    ]


def test_cost_up_to_a_quality(records: list[Record]) -> None:
    fits = trained_cells(records)
    assert [f.method for f in fits] == ["layerwise", "modular"] * 2
    own = {m: [f for f in fits if f.method == m] for m in ("layerwise", "modular")}
    assert own["layerwise"][1].reached(18.0) == 50
    assert own["layerwise"][1].reached(99.0) is None
    target = {"a": 20.0, "b": 18.0}
    assert cost_to(own["layerwise"], target) == (13 * FLOPS, 13.0)
    # modules train side by side: the first goes on until the chain of both has reached the second's target
    assert cost_to(own["modular"], target) == (16 * FLOPS, 16.0)
    assert cost_to(own["layerwise"], {"a": 20.0, "b": 99.0}) is None


def test_the_claim_is_worded_from_the_numbers(records: list[Record]) -> None:
    page = " ".join(efficiency_markdown([Results(records)]).split())
    assert "`modular` takes 16.00 TFLOP of own training for 2 stages, `layerwise` 26.00: 1.6 times as much" in page
    assert "At equal images seen (100 passes for each inverse), `modular` takes" in page
    assert "a +0.00 [+0.00, +0.00] (n=16), b **-4.00 [-4.00, -4.00]** (n=16)." in page
    assert (
        "Of the 10.00 TFLOP saved within 100 passes, 100 % are the image decoder trained once instead of 2 times"
        in page
    )
    # equal quality: 30 dB at a and 18 dB at b cost layer-wise 10 + 8, modules 16
    assert "`layerwise` takes 18.00 TFLOP, 1.1 times as much as `modular` with 16.00" in page
    assert "All modules together hold 14 trained values, the networks of `layerwise` 14" in page
    # 17 TFLOP of fit, frozen passes included, against 1 TFLOP an image at both stages
    assert "costs as many operations as inverting 17 images at all stages by optimisation" in page
    assert "Code: abcdef0123." in page


def test_pages_come_from_a_real_run(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    text = TINY_SUITE.replace("[methods.mean]\n", "[methods.shared-chain]\nwidth = 16\ndepth = 1\n[methods.exact]\n")
    suite.write_text(text + "[methods.fixedpoint]\niterations = 2\n")
    out = tmp_path / "results"
    assert invoke("bench", "--suite", suite, "--out", out, "--models", "vit", "--metrics", "psnr").exit_code == 0
    printed = invoke("efficiency", suite, "--out", out)
    assert printed.exit_code == 0
    page = (out / "efficiency.md").read_text()
    for method in ("shared-chain", "layerwise", "modular", "ridge"):
        assert f"| {method}" in page
    assert "Left out, because they were stopped before they converged: `optimisation` at embed (3 iterations, " in page
    assert "What modules save" in page
    board = (out / "tiny.md").read_text()
    assert "| vit     | embed   | 32 of 192 |" in board, "rank of the bundled ViT's embedding"
    assert "## Fixed points" in board
    assert "not applicable: stage 'block03' of model 'vit' is not an affine map" in board
    assert "| block03 | exact" not in board
    missing = invoke("efficiency", suite, "--out", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "no records of suite 'tiny'" in missing.stderr


def test_closed_form_sections_have_nothing_to_say_of_other_methods(records: list[Record]) -> None:
    table = markdown(Results(records))
    assert "Linear ceiling" not in table
    assert "Fixed points" not in table


def test_the_opening_says_what_at_which_budget_and_what_comes_out(records: list[Record]) -> None:
    opening = efficiency_markdown([Results(records)]).splitlines()[2:5]
    assert opening[0].startswith("This page shows what fitting inverses of `net` of tiny costs, in operations and sec")
    assert "on 16 scored images" in opening[0]
    assert opening[1].startswith("The methods are `layerwise` and `modular` (100 passes); ")
    assert opening[2] == (
        "`layerwise` over `modular`, in operations after as many images seen, in operations where both have the same "
        "selection PSNR, and in scored PSNR after as many images seen: on `net` of tiny 1.6 times, 1.1 times and +0.00 "
        "to +4.00 dB (100 passes for each of 2 stages)."
    )
    alone = [one for one in records if one.cell.method != "modular"]
    answer = efficiency_markdown([Results(alone)]).splitlines()[4]
    assert answer.startswith("Nothing was fitted both as `modular` and as `layerwise` at one budget")
    assert "This page shows nothing yet" in efficiency_markdown([Results([invented.record(status="failed")])])


def test_seconds_of_another_device_than_most_are_marked(records: list[Record]) -> None:
    """One stage of the modules on a GPU: their seconds are marked, and those of both stages are no sum."""
    page = efficiency_markdown([Results(records)])
    assert "‡" not in page
    moved = records[4]
    assert moved.cost is not None
    moved.cost.clock, moved.provenance = "cuda-event", replace(moved.provenance, device="NVIDIA H200")
    page = efficiency_markdown([Results(records)])
    assert "CPU (test), wall (5 rows) and NVIDIA H200, cuda-event (1 row, times marked ‡)" in page
    assert "Devices: CPU (test); NVIDIA H200; 2 threads" in page
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line[:1] == "|"]
    assert [row[1] for row in rows if "6 + 5 ‡" in row] == ["modular"]
    assert [row[-2:] for row in rows if row[:2] == ["modular", "100"]] == [["16.00", "-"]]
