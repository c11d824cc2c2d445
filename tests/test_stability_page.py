"""The page of stability says what planted changes are: damped, amplified, or not told, and between whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import invented
import numpy as np
import pytest
from helpers import TINY_SUITE, invoke

from invsuite.errors import UsageError
from invsuite.report.results import Results
from invsuite.report.stability import write_stability
from invsuite.results.record import Record
from invsuite.results.store import Store

N = 32
STAGES = ("early", "late")
FAMILIES = {"layerwise": "layer-wise", "ridge": "closed form", "mean": "floor"}
HARD = np.random.default_rng(0).normal(0, 0.2, N)  # of images, for every row alike: differences are paired
HARD -= HARD.mean()


def record(method: str, stage: str, change: float, spread: float = 1.0, measure: str = "stability_shift") -> Record:
    """A record whose reconstructions change by this times the images' change, images differing by a fifth."""
    own = np.random.default_rng([ord(letter) for letter in method + stage]).normal(0, 0.01, N)
    values = change + spread * HARD + own - own.mean() if change else np.zeros(N)
    facts = {"disturbance": "shift 1", "followed": 0.4 * change}
    measured = [invented.measurement(measure, values.tolist(), floor=8.0 if change else 0.0, facts=facts)]
    one = invented.record("net", stage, method, measurements=measured, images=N)
    cell = replace(one.cell, family=FAMILIES[method], position=STAGES.index(stage))
    identity = one.identity | ({"budget": {"image_passes": 100}} if method == "layerwise" else {})
    return replace(one, cell=cell, identity=identity)


def planted() -> list[Record]:
    """The network damps at both stages; ridge amplifies late, and early it cannot be told from the image itself."""
    records = [record("mean", stage, 0.0) for stage in STAGES]
    records += [record("ridge", "early", 1.01), record("ridge", "late", 1.5)]
    records += [record("layerwise", "early", 0.7), record("layerwise", "late", 0.6)]
    return records


def rows(page: str, *cells: str) -> list[list[str]]:
    """The table rows that begin with these cells."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return [line for line in lines if line[: len(cells)] == list(cells)]


def test_what_is_damped_and_what_amplified(tmp_path: Path) -> None:
    paths = write_stability([Results(planted())], tmp_path)
    assert [path.name for path in paths] == ["stability.md", "tiny-net-stability.png"]
    assert paths[1].stat().st_size > 10_000
    page = paths[0].read_text()
    verdicts = {
        (stage, method): rows(page, stage, method)[0][4] for stage in STAGES for method in ("ridge", "layerwise")
    }
    assert verdicts == {
        ("early", "ridge"): "cannot be told",
        ("early", "layerwise"): "damped",
        ("late", "ridge"): "amplified",
        ("late", "layerwise"): "damped",
    }
    assert rows(page, "early", "mean") == [], "what never changes says nothing"
    [late] = rows(page, "late", "ridge")
    assert late[2] == "closed form"
    assert late[3].startswith("1.50 [")
    assert late[7:] == ["0.60", "8.0", "18.8 %"]
    opening = page.splitlines()[2:5]
    assert "Of 32 images that `net` see" in opening[0]
    assert "`layerwise` (100 passes)" in opening[0]
    assert "by 8 to 19 % of what those do (most: `ridge` at net's late, shift 1)" in opening[1]
    assert "trained networks damp the change in 2 of 2 cases and amplify it in 0," in opening[2]
    assert "linear readouts damp the change in 0 of 2 cases and amplify it in 1 (at net's late)." in opening[2]
    assert "- Amplified beyond doubt: `ridge` (shift 1 at late)." in page


def test_rows_are_compared_on_the_same_images(tmp_path: Path) -> None:
    """Images differ by a fifth, the rows of one image by a hundredth: only the paired difference tells -0.1."""
    page = write_stability([Results(planted())], tmp_path)[0].read_text()
    ridge = rows(page, "shift 1", "ridge")[0]
    assert ridge[2].startswith("**+0.310 [")
    assert ridge[3].startswith("**+0.900 [")
    assert rows(page, "shift 1", "layerwise")[-1][2].startswith("**-0.100 [")
    assert "- `layerwise` changes less in 1 and more in 0 of 1 cases than at the stage before." in page


def test_one_change_among_many_checks_is_not_told(tmp_path: Path) -> None:
    """What an interval by itself would tell is not told where the page makes twenty such checks."""
    changes = [record("ridge", "late", 1.08 if n == 0 else 1.0, measure=f"stability_{n}") for n in range(20)]
    for count, verdict in ((1, "amplified"), (20, "cannot be told")):
        measured = {m.name: m for one in changes[:count] for m in one.measurements.values()}
        assert measured["stability_0"].low is not None
        assert measured["stability_0"].low > 1
        page = write_stability([Results([replace(changes[0], measurements=measured)])], tmp_path)[0].read_text()
        assert rows(page, "late", "ridge")[0][4] == verdict


def test_records_without_stability_are_refused(tmp_path: Path) -> None:
    bare = [replace(one, measurements={}) for one in planted()]
    with pytest.raises(UsageError, match=r"suite 'tiny' has no measure of stability .* --metrics 'stability_\*'"):
        write_stability([Results(bare)], tmp_path)


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    suite = tmp_path / "tiny.toml"
    suite.write_text(TINY_SUITE)
    store = Store(tmp_path / "records" / "tiny")
    for one in planted():
        store.write(one)
    done = invoke("stability", suite, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "amplified" in (tmp_path / "stability.md").read_text()
