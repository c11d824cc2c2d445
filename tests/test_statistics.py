"""Intervals cover what they claim to cover, rows that are equal share a place, and rows with seeds count them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY_SUITE, invoke
from invented import measurement
from test_store_and_check import record

from invsuite.errors import UsageError
from invsuite.report.markdown import markdown, terminal
from invsuite.report.results import Results
from invsuite.results import statistics
from invsuite.results.compare import compare_rows
from invsuite.results.record import Addition, Record
from invsuite.results.rows import advantage, places_of, rows_of
from invsuite.results.statistics import (
    differences,
    percentile_interval,
    places,
    pool,
    resampled_means,
    summarise,
    summarise_seeds,
)
from invsuite.results.store import Store


def row(*values: float) -> np.ndarray:
    return np.array([values])


def test_a_paired_difference_sees_what_two_intervals_do_not() -> None:
    """Images differ by 10 dB, the rows by half a dB in every image: the intervals overlap, the difference is plain."""
    rng = np.random.default_rng(0)
    images = rng.normal(20, 10, 24)
    first, second = images + 0.5 + rng.normal(0, 0.2, 24), images
    a, b = summarise(first.tolist()), summarise(second.tolist())
    assert a.low is not None
    assert b.high is not None
    assert a.low < b.high
    [found] = differences([first[None], second[None]], [(0, 1)])
    assert found.distinguishable
    assert found.n == 24
    assert found.low is not None
    assert found.high is not None
    assert 0.3 < found.low < 0.5 < found.high < 0.7


@pytest.mark.parametrize("n", [8, 24])
def test_the_interval_of_one_difference_covers_it(n: int) -> None:
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(300):
        images = rng.normal(0, 5, n)
        [found] = differences([(images + rng.normal(1, 2, n))[None], images[None]], [(0, 1)])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / 300 <= 0.985


@pytest.mark.parametrize("n", [8, 24])
def test_equal_rows_share_the_place_about_95_times_in_100(n: int) -> None:
    """Six rows of one distribution: a place other than 1 is an error, over all 15 pairs at once."""
    rng = np.random.default_rng(n + 1)
    wrong = sum(places([rng.normal(0, 1, (1, n)) for _ in range(6)]) != [1] * 6 for _ in range(200))
    assert wrong <= 20, "10 are expected, 20 would be by chance once in 1,000 runs"


def test_places_count_the_rows_that_are_better_beyond_doubt() -> None:
    rng = np.random.default_rng(2)
    images = rng.normal(0, 3, 24)
    best, worst = images - 2, images + 5
    close = best + rng.normal(0.01, 0.3, 24)
    assert places([worst[None], close[None], best[None]]) == [3, 1, 1]
    assert places([best[None]]) == [1]
    assert places([best[None], best[None]]) == [1, 1], "a row against itself"
    assert places([best[None], best[None] + 1]) == [1, 2], "the same difference in every image"


def test_rows_are_compared_where_both_are_defined() -> None:
    nan = float("nan")
    [found] = differences([row(1, 2, nan, 4, 9), row(0, 1, 2, 3, nan)], [(0, 1)])
    assert (found.n, found.mean) == (3, pytest.approx(1.0))
    assert found.distinguishable
    [none] = differences([row(1, nan), row(nan, 1)], [(0, 1)])
    assert (none.n, none.mean, none.distinguishable) == (0, None, False)
    [single] = differences([row(1, nan), row(2, 1)], [(0, 1)])
    assert (single.n, single.mean, single.low, single.distinguishable) == (1, -1.0, None, False)
    means, draws, n = resampled_means([row(1, 2, nan), row(0, 1, 2)])
    assert (means.tolist(), n) == ([1.5, 0.5], 2)
    np.testing.assert_allclose(draws[:, 0] - draws[:, 1], 1.0)


def test_seeds_widen_the_interval() -> None:
    """Four seeds that differ by more than the images do: the interval over images of one seed would miss the truth."""
    rng = np.random.default_rng(3)
    hits = narrow = 0
    for _ in range(200):
        found = rng.normal(20, 1, (4, 1)) + rng.normal(0, 1, 24) + rng.normal(0, 0.1, (4, 24))
        whole = summarise_seeds(found)
        assert (whole.n, whole.seeds) == (24, 4)
        assert whole.low is not None
        assert whole.high is not None
        hits += whole.low <= 20 <= whole.high
        one = summarise(found[0].tolist())
        assert one.low is not None
        assert one.high is not None
        narrow += one.low <= 20 <= one.high
    assert hits / 200 >= 0.88
    assert narrow / 200 < 0.6


def test_one_seed_is_the_plain_summary() -> None:
    values = [1.0, None, 2.0, 4.0]
    assert summarise_seeds(np.array([values], dtype=float)) == summarise(values)


def test_resamples_are_the_same_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstrap, ranking and jackknife of many images are done in blocks: no number may depend on their size."""
    rng = np.random.default_rng(3)
    rows = [rng.normal(20 + i, 3, (seeds, 40)) for i, seeds in enumerate((1, 1, 3))]
    rows[1][:, 7] = np.nan

    def everything() -> tuple[Any, ...]:
        statistics._image_counts.cache_clear()
        pooled = pool(lambda weights: (weights @ rows[0][0]) / weights.sum(1), 40)
        return (
            summarise(rows[0][0].tolist()),
            places(rows),
            resampled_means(rows)[1],
            (pooled.value, *pooled.contributions, *(pooled.interval or ())),
        )

    whole = everything()
    monkeypatch.setattr(statistics, "MOST_VALUES", 7 * 40)  # neither 2,000 resamples nor 40 images are a multiple of 7
    parts = everything()
    assert parts[:2] == whole[:2]
    np.testing.assert_allclose(parts[2], whole[2], rtol=1e-13)
    np.testing.assert_allclose(parts[3], whole[3], rtol=1e-12)


def seeded(method: str, seeds: int, shift: float = 0.0, spread: float = 0.0) -> list[Record]:
    """Records of a method whose seeds lie ``spread`` apart."""
    found = []
    for seed in range(seeds):
        one = record(method, seed=seed)
        moved = [
            measurement(name, (np.array(each.values) + shift + spread * (seed - (seeds - 1) / 2)).tolist())
            for name, each in one.measurements.items()
        ]
        found.append(replace(one, measurements={each.name: each for each in moved}))
    return found


def test_the_leaderboard_has_one_line_for_all_seeds() -> None:
    records = [*seeded("modular", 3, spread=1.0), record("ridge")]
    text = markdown(Results(records))
    line = next(line for line in text.splitlines() if "| modular (3 seeds)" in line)
    assert "modular (3 seeds)" in terminal(Results(records))
    assert sum("| modular" in line for line in text.splitlines()) == 2, "fidelity and colour"
    mean = np.mean([r.measurements["psnr"].mean for r in records[:3]])
    assert f"{mean:.2f} [" in line
    low, high = (float(v) for v in line.split("[")[1].split("]")[0].split(","))
    one = records[1].measurements["psnr"]
    assert one.high is not None
    assert one.low is not None
    assert high - low > 1.2 * (one.high - one.low)
    broken = [*seeded("modular", 2), record("modular", status="failed", seed=2), record("ridge")]
    assert "modular (2 of 3 seeds)" in markdown(Results(broken))


def test_every_row_that_cannot_be_told_from_the_best_is_bold() -> None:
    rng = np.random.default_rng(4)
    close = record("modular")
    values = np.array(close.measurements["psnr"].values) + rng.normal(0, 0.5, 16) - 0.01
    close.measurements["psnr"] = measurement("psnr", values.tolist())
    text = markdown(Results([record("ridge"), close, *seeded("mean", 1, shift=-3)]))
    lines = [line for line in text.splitlines() if line.startswith("| embed")]
    table = {line.split("|")[2].strip(): line for line in reversed(lines)}
    assert all("**" in table[m].split("|")[4] for m in ("ridge", "modular"))
    assert "**" not in table["mean"].split("|")[4]
    assert [table[m].split("|")[4].split()[-1] for m in ("ridge", "modular", "mean")] == ["#1", "#1", "#3"]
    assert "cannot be told apart" in text
    assert "corrects for the number of comparisons" in text


def test_rows_with_other_images_are_paired_by_key() -> None:
    first, second = record("ridge"), record("modular")
    second.images = second.images[::-1]
    found = second.measurements["psnr"]
    found.values = [value - 1 for value in found.values[::-1] if value is not None]
    difference = advantage(*rows_of([first, second]), "psnr")
    assert difference.mean == pytest.approx(1.0)
    assert difference.n == 16
    second.images = [f"other-{i}" for i in range(16)]
    assert advantage(*rows_of([first, second]), "psnr").n == 0
    assert places_of(rows_of([first, second]), "psnr") == {"vit/embed/ridge": 1, "vit/embed/modular": 1}


def test_a_row_of_too_few_images_has_no_place() -> None:
    few = record("modular")
    few.measurements["psnr"] = measurement("psnr", [20.0, 21.0] + [None] * 14)
    rows = rows_of([record("ridge"), *seeded("mean", 1, shift=-3), few])
    assert places_of(rows, "psnr") == {"vit/embed/ridge": 1, "vit/embed/mean": 2}
    assert places_of(rows[::2], "psnr") == {}, "nobody to compete with"


def test_a_row_that_sees_the_image_marks_a_level_and_takes_no_place() -> None:
    """However good: a thumbnail of the image is no inversion, and must not hide which method is best."""
    oracle, *others = *seeded("bicubic", 1, shift=9), record("ridge"), *seeded("mean", 1, shift=-3)
    oracle.cell.uses_image = True
    rows = rows_of([oracle, *others])
    assert places_of(rows, "psnr") == {"vit/embed/ridge": 1, "vit/embed/mean": 2}
    assert [row.label for row in rows] == ["bicubic (sees the image)", "ridge", "mean"]


def test_a_table_names_all_code_it_was_made_with() -> None:
    first, second = record("ridge"), record("modular")
    second.provenance = replace(second.provenance, git={"sha": "f" * 40, "dirty": False})
    one, both = markdown(Results([first])), markdown(Results([first, second, record("mean")]))
    assert [line.split(":")[0] for line in one.splitlines() if line.startswith("Code")] == ["Code"]
    assert [line.split(",")[0] for line in both.splitlines() if line.startswith("Code")] == [
        "Code of 2 cells: commit cccccccccc (dirty)",
        "Code of 1 cell: commit ffffffffff",
    ]
    first.additions = [Addition(["ssim"], second.provenance), Addition(["hue_gain"], second.provenance)]
    added = markdown(Results([first]))
    assert added.count("Code of 1 cell:") == 2, "measures that a later run added come from its code"
    said = "A cell counts for every code that computed its fit, its inversion or some of its measures."
    assert [said in page for page in (one, both, added)] == [False, False, True]


def test_expanded_percentiles_cover_the_mean_of_few_images() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        _, draws, n = resampled_means([rng.normal(5, 2, (1, 8))])
        low, high = percentile_interval(draws[:, 0], n)
        hits += low <= 5 <= high
    assert 0.92 <= hits / 300 <= 0.985


def test_a_thousand_stages_are_ranked_in_seconds() -> None:
    """10,000 records: ten rows of 24 images at each of 1,000 stages."""
    rng = np.random.default_rng(5)
    stages = [rng.normal(0, 1, (10, 1, 24)) for _ in range(100)]
    places(list(stages[0]))
    start = time.process_time()
    for stage in stages:
        places(list(stage))
    assert time.process_time() - start < 1.0, "a hundred of the thousand"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite file and records of two rows, the second half a dB worse in every image, and a row that failed."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_SUITE)
    store = Store(tmp_path / "out" / "records" / "tiny")
    noise = np.random.default_rng(6).normal(-0.5, 0.2, 16)
    worse = record("modular")
    worse.measurements["psnr"].values = (np.array(worse.measurements["psnr"].values) + noise).tolist()
    for one in (record("ridge"), worse, record("layerwise", status="failed")):
        store.write(one)
    return path


def compare(suite: Path, *words: Any) -> Any:
    return invoke("compare", *words, "--suite", suite, "--out", suite.parent / "out")


def test_compare_prints_the_paired_difference(suite: Path) -> None:
    done = compare(suite, "vit/embed/ridge", "vit/embed/modular", "--metric", "psnr", "--json")
    assert done.exit_code == 0
    [entry] = json.loads(done.stdout)
    assert entry["verdict"] == "vit/embed/ridge is better"
    assert entry["n"] == 16
    assert 0.3 < entry["low"] < entry["difference"] < entry["high"] < 0.7
    shown = compare(suite, "vit/embed/modular", "vit/embed/ridge").stdout
    assert "vit/embed/ridge is better" in shown
    assert "cannot be told apart" in shown, "ssim and hue gain are the same"
    assert f"{-entry['difference']:+.2f} [{-entry['high']:+.2f}, {-entry['low']:+.2f}]" in shown


def test_compare_says_what_is_not_there(suite: Path) -> None:
    for words, message in (
        (("vit/embed/ridg", "vit/embed/modular"), "did you mean vit/embed/ridge"),
        (("vit/embed/ridge", "vit/embed/layerwise"), "row 'vit/embed/layerwise' has no numbers: it broke"),
        (("vit/embed/ridge", "vit/embed/modular", "--metric", "psrn"), "did you mean psnr"),
    ):
        done = compare(suite, *words)
        assert done.exit_code == 2
        assert message in done.stderr


def scored_on(few: Record, count: int) -> Record:
    """The record of the same row with the first images alone."""
    few.images = few.images[:count]
    few.measurements = {
        name: replace(measurement(name, each.values[:count]), pooled=each.pooled)
        for name, each in few.measurements.items()
    }
    return few


def test_a_row_scored_on_fewer_images_is_ranked_on_those_it_has() -> None:
    few = scored_on(seeded("modular", 1, shift=0.5)[0], 6)
    rows = rows_of([record("ridge"), few, *seeded("mean", 1, shift=-3)])
    assert places_of(rows, "psnr") == {"vit/embed/ridge": 2, "vit/embed/modular": 1, "vit/embed/mean": 3}
    difference = advantage(rows[1], rows[0], "psnr")
    assert (difference.n, difference.mean) == (6, pytest.approx(0.5))
    few.measurements["psnr"] = measurement("psnr", [20.0, 21.0] + [None] * 4)
    assert "vit/embed/modular" not in places_of(rows_of([record("ridge"), record("mean"), few]), "psnr")


def test_a_measure_of_all_images_together_needs_the_same_images() -> None:
    records = [record("ridge"), *seeded("mean", 1, shift=-3), scored_on(record("modular"), 6)]
    for each in records:
        each.measurements["psnr"].pooled = True
    rows = rows_of(records)
    assert places_of(rows, "psnr") == {"vit/embed/ridge": 1, "vit/embed/mean": 2}
    assert advantage(rows[0], rows[1], "psnr").n == 16
    with pytest.raises(UsageError, match="has 16, 'vit/embed/modular' 6 of them"):
        advantage(rows[0], rows[2], "psnr")
    assert "psnr" not in [c.measure for c in compare_rows(records, "vit/embed/ridge", "vit/embed/modular")]
