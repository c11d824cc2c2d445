"""Runs merged into one leaderboard: ranked only where images and devices are the same."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from helpers import TINY_SUITE, invoke

from invsuite.report.leaderboard import markdown
from invsuite.report.merge import merge_runs
from invsuite.store import Record, Store

WORDS = ("--metrics", "psnr", "--models", "vit", "--stages", "embed", "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same data, of one method each, and a third of other photos."""
    folder = tmp_path_factory.mktemp("merge")
    (folder / "tiny.toml").write_text(TINY_SUITE)
    (folder / "moved.toml").write_text(TINY_SUITE.replace("seed = 33", "seed = 43"))
    for run, suite, methods in (("a", "tiny", "mean"), ("b", "tiny", "mean,ridge"), ("c", "moved", "ridge")):
        words = ("bench", "--suite", folder / f"{suite}.toml", "--out", folder / run, "--methods", methods, *WORDS)
        assert invoke(*words).exit_code == 0
    return folder


def records(folder: Path) -> list[Record]:
    return list(Store(folder / "records" / "tiny").records())


def test_runs_on_the_same_images_are_one_ranked_table(runs: Path, tmp_path: Path) -> None:
    result = invoke("report", runs / "a", runs / "b", "--suite", runs / "tiny.toml", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "tiny-merged.md").read_text()
    assert "2 runs merged" in page.splitlines()[0]
    assert "1 cells are in several runs; of each the newest success counts." in result.stderr
    assert f"Run {runs / 'a'}: 1 cells, code " in page
    assert page.count("\n## vit") == 1
    assert "** #1" in page, "mean and ridge compete"
    assert "not ranked" not in page
    lines = (tmp_path / "tiny-merged.csv").read_text().splitlines()
    assert sum(",psnr," in line for line in lines) == 2


def test_other_images_are_a_table_of_their_own_and_it_is_said(runs: Path, tmp_path: Path) -> None:
    result = invoke("report", runs / "a", runs / "c", "--suite", runs / "tiny.toml", "--out", tmp_path)
    assert "Model vit was run on 2 revisions of the data" in " ".join(result.stderr.split())
    page = (tmp_path / "tiny-merged.md").read_text()
    assert "quality is not ranked across them, each has a table of its own." in page
    assert page.count("\n## vit (data ") == 2
    assert " #1" not in page, "no two rows compete"


def test_times_of_two_devices_are_not_side_by_side_and_it_is_said(runs: Path) -> None:
    one, two = records(runs / "a"), [r for r in records(runs / "b") if r["cell"]["method"] == "ridge"]
    alike = merge_runs({"a": one, "b": two})
    assert not [note for note in alike.notes if "devices" in note]
    other = copy.deepcopy(two)
    other[0]["provenance"]["device"] = "NVIDIA H100"
    other[0]["cost"]["clock"] = "cuda-event"
    merged = merge_runs({"a": one, "b": other})
    [note] = [note for note in merged.notes if "devices" in note]
    assert note.startswith("Times and memory were measured on 2 devices (CPU")
    assert "NVIDIA H100, cuda-event): they are not ranked or shown side by side across them." in note
    for records_, shown in ((alike.records, False), (merged.records, True)):
        page = markdown("t", records_)
        rows = [line for line in page.splitlines() if line.startswith("| embed") and "[" in line]
        assert [[cell.strip() for cell in row.split("|")[4:7]] == ["-"] * 3 for row in rows] == [shown, shown]


def test_a_failure_of_a_later_run_does_not_hide_a_success(runs: Path) -> None:
    good = records(runs / "a")
    failed = [good[0] | {"status": "failed", "reason": "x"}]
    failed[0]["provenance"] = good[0]["provenance"] | {"written": "2999-01-01"}
    assert [r["status"] for r in merge_runs({"a": good, "b": failed}).records] == ["ok"]


def test_a_folder_without_records_is_named(runs: Path, tmp_path: Path) -> None:
    result = invoke("report", runs / "a", tmp_path / "no", "--suite", runs / "tiny.toml", "--out", tmp_path)
    assert result.exit_code == 2
    assert f"no records of suite 'tiny' in '{tmp_path / 'no'}'" in result.stderr
