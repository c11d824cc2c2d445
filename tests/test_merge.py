"""Runs merged into one leaderboard: ranked only where the images are the same, times of several devices marked."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import TINY_SUITE, invoke

from invsuite.report.html import html_page
from invsuite.report.markdown import markdown, terminal
from invsuite.report.results import Results
from invsuite.results.frame import to_csv

WORDS = ("--metrics", "psnr", "--models", "vit", "--stages", "embed", "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same data, of one method each, and a third of other photos."""
    folder = tmp_path_factory.mktemp("merge")
    related = TINY_SUITE.replace("edits = 3", "edits = 3\ninterlayer = true").replace("count = 6\n", "count = 8\n")
    (folder / "tiny.toml").write_text(related)
    (folder / "moved.toml").write_text(related.replace("seed = 33", "seed = 43"))
    for run, suite, methods in (("a", "tiny", "mean"), ("b", "tiny", "mean,ridge"), ("c", "moved", "ridge")):
        words = ("bench", "--suite", folder / f"{suite}.toml", "--out", folder / run, "--methods", methods, *WORDS)
        assert invoke(*words).exit_code == 0
    return folder


def results(folder: Path) -> Results:
    return Results.load(folder / "records" / "tiny", folder.name)


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
    html = (tmp_path / "tiny-merged.html").read_text()
    shown = json.loads(html.split('id="page">')[1].split("</script>")[0])
    [wall] = shown["wall"]
    assert wall["methods"] == ["mean", "ridge"], "pictures of both runs"
    assert all(len(pictures) == 6 for pictures in wall["reconstructions"][0])
    assert f"<li>Run {runs / 'a'}: 1 cells, code " in html
    assert "CKA (n=64) of vit" in html
    for name in ("tiny-merged-vit.png", "tiny-merged-vit-interlayer.png"):
        assert (tmp_path / name).is_file()
        assert f"![{name}]({name})" in page


def test_other_images_are_a_table_of_their_own_and_it_is_said(runs: Path, tmp_path: Path) -> None:
    result = invoke("report", runs / "a", runs / "c", "--suite", runs / "tiny.toml", "--out", tmp_path)
    assert "Model vit was run on 2 revisions of the data" in result.stderr
    page = (tmp_path / "tiny-merged.md").read_text()
    assert "quality is not ranked across them, each has a table of its own." in page
    assert page.count("\n## vit (data ") == 2
    assert " #1" not in page, "no two rows compete"
    strips = sorted(path.name for path in tmp_path.glob("tiny-merged-vit-data-*.png"))
    assert len(strips) == 4, "a strip and heat maps of either"
    assert all(f"![{name}]({name})" in page for name in strips)
    html = (tmp_path / "tiny-merged.html").read_text()
    first, second = json.loads(html.split('id="page">')[1].split("</script>")[0])["wall"]
    assert {first["model"], second["model"]} == {line[3:] for line in page.splitlines() if line.startswith("## vit")}
    assert not set(first["originals"]) & set(second["originals"]), "each with the images of its own run"


def test_other_weights_are_a_table_of_their_own(runs: Path) -> None:
    one, two = results(runs / "a"), results(runs / "b")
    for record in two:
        record.identity["weights"] = "other"
    merged = one.merge(two)
    assert any("Model vit was run on 2 revisions of the weights" in note for note in merged.notes)
    assert len({r.cell.model for r in merged.records}) == 2
    assert {r.original_model for r in merged.records} == {"vit"}


def test_times_of_another_device_than_most_are_marked_and_it_is_said(runs: Path) -> None:
    one, two = results(runs / "a"), results(runs / "b")
    two = replace(two, records=[record for record in two if record.cell.method == "ridge"])
    alike = one.merge(two)
    other = copy.deepcopy(two)
    assert other[0].cost is not None
    other[0].provenance.device, other[0].cost.clock = "NVIDIA H100", "cuda-event"
    merged = one.merge(other)
    for both, several in ((alike, False), (merged, True)):
        page = markdown(replace(both, relations=()))
        rows = [line for line in page.splitlines() if line.startswith("| embed") and "[" in line]
        html = html_page(both)
        cells = re.findall(r'<td class="number" data-sort="([^"]*)">([^<]*)(?:<small>\d run|</td>)', html)
        for spent in ([text for _, text in cells[4:7]], [cell.strip() for cell in rows[1].split("|")[5:8]]):
            assert [text.endswith(" ‡") for text in spent] == [several] * 3
        assert [key == "" for key, _ in cells[:7]] == [False] * 4 + [several] * 3, "they are not sorted by"
        assert "‡" not in rows[0]
        said = "wall (1 row) and NVIDIA H100, cuda-event (1 row, times marked ‡). Compare them within one device only"
        assert [said in text for text in (page, html, terminal(both))] == [several] * 3
        assert [f"Fit s ({clocks}) ↓" in page for clocks in ("wall", "cuda-event/wall")] == [not several, several]
        csv = to_csv(both.records)
        assert ("clock: wall of CPU" in csv, "clock: cuda-event of NVIDIA H100" in csv) == (True, several)


def test_a_failure_of_a_later_run_does_not_hide_a_success(runs: Path) -> None:
    good = results(runs / "a")
    later = replace(good[0].provenance, written="2999-01-01")
    failed = Results([replace(good[0], status="failed", reason="x", provenance=later)])
    assert [record.status for record in good.merge(failed)] == ["ok"]


def test_merged_runs_merge_with_further_runs(runs: Path) -> None:
    """One after the other is the same as all at once: names that a first merge changed do not stay."""
    a, b, c = (results(runs / name) for name in "abc")
    step, once = a.merge(c).merge(b), a.merge(c, b)
    assert [record.cell for record in step] == [record.cell for record in once]
    assert len(step.models) == 2
    assert step.notes == once.notes
    assert step.title.startswith("tiny: a suite for tests - 3 runs merged")


def test_a_folder_without_records_is_named(runs: Path, tmp_path: Path) -> None:
    result = invoke("report", runs / "a", tmp_path / "no", "--suite", runs / "tiny.toml", "--out", tmp_path)
    assert result.exit_code == 2
    assert f"no records of suite 'tiny' in '{tmp_path / 'no'}'" in result.stderr
