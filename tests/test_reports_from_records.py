"""Tables, pages, comparisons and checks need nothing but records: no measure or method of them is installed."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import invented
import numpy as np
from helpers import invoke, small_suite
from invented import measurement

from invsuite.registry import METHODS, METRICS
from invsuite.report.markdown import terminal
from invsuite.report.results import Results
from invsuite.results.record import Record
from invsuite.results.store import Store


def record(method: str, level: float, uses_image: bool = False) -> Record:
    """A record of a method and a measure that only a plug-in has, which is not there."""
    values = level + np.random.default_rng(0).normal(0, 0.1, 16)
    sharpness = measurement(
        "sharpness",
        values.tolist(),
        label="Sharpness",
        unit="px",
        direction="lower",
        group="Edges",
        digits=1,
        tolerance=0.5,
        headline=True,
        description="Width of the sharpest edge.",
        floor=9.0,
    )
    one = invented.record("vit", "embed", method, measurements=[sharpness])
    one.cell.uses_image = uses_image
    return one


def test_records_of_units_that_are_not_registered_are_rendered(tmp_path: Path) -> None:
    suite, out, baseline = tmp_path / "tiny.toml", tmp_path / "out", tmp_path / "baseline.json"
    suite.write_text(small_suite("tiny", {"mean": "{}"}))
    store = Store(out / "records" / "tiny")
    records = [record("lab-net", 1.04), record("lab-floor", 3.0), record("lab-thumbnail", 0.2, uses_image=True)]
    for one in records:
        store.write(one)
    assert "sharpness" not in METRICS
    assert "lab-net" not in METHODS

    words = ("--suite", suite, "--out", out)
    assert invoke("report", *words).exit_code == 0
    page = (out / "tiny.md").read_text()
    row = next(line for line in page.splitlines() if "| lab-net" in line)
    assert "Sharpness px ↓ (n=16)" in page
    assert "**1.0 [1.0, 1.1]** #1" in row
    assert "lab-thumbnail (sees the image)" in page
    assert "- **Sharpness** (↓): Width of the sharpest edge. Floor by permutation: 9.0." in page
    assert "Sharpness px" in terminal(Results(records))
    html = (out / "tiny.html").read_text()
    assert 'data-name="Sharpness"' in html
    assert "Width of the sharpest edge." in html
    with (out / "tiny.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["measure"] == "sharpness"]
    assert [(line["unit"], line["direction"], line["n"]) for line in lines] == [("px", "lower", "16")] * 3

    compared = invoke("compare", "vit/embed/lab-net", "vit/embed/lab-floor", *words)
    assert compared.exit_code == 0
    assert "sharpness px" in compared.stdout
    assert "+2.0 [+2.0, +2.0]" in compared.stdout
    assert invoke("baseline", *words, "--baseline", baseline).exit_code == 0
    assert invoke("check", *words, "--baseline", baseline).exit_code == 0
    store.write(record("lab-net", 1.74))
    checked = invoke("check", *words, "--baseline", baseline)
    assert checked.exit_code == 1
    assert "worse: vit/embed/lab-net/s0 sharpness" in checked.stdout
    assert "tolerance 0.5" in checked.stdout


def test_results_and_reports_import_no_unit() -> None:
    code = (
        "import invsuite.report.results, invsuite.results.baseline, invsuite.results.compare, sys; "
        "rooms = ('models', 'methods', 'metrics', 'benchmark', 'inverses'); "
        "unneeded = ('torch', 'pandas', *(f'invsuite.{room}' for room in rooms)); "
        "print([name for name in sys.modules if name.startswith(unneeded)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
