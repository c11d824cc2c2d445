"""What papers state stands beside a suite's own numbers, marked, and never among them; the suite that uses it runs."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY_SUITE
from PIL import Image

import invsuite
from invsuite.benchmark.suite import load_suite
from invsuite.benchmark.suite_file import bundled_suites
from invsuite.errors import UsageError
from invsuite.report.results import Results
from invsuite.results.published import FILE, read_published, write_published

PUBLISHED = """
[[published]]
source = "A paper, table 3 <x>"
n = 1000
budget = "a million passes"
rows = [
  {model = "vit", stage = "block03", method = "theirs", values = {psnr = 26.65, ssim = 0.9}},
  {model = "vit", stage = "block03", method = "older", values = {psnr = 14.3}},
]

[[published]]
source = "Another"
rows = [{model = "detr", stage = "decoder", method = "theirs", values = {psnr = 18.9}}]
"""


@pytest.fixture
def stated(tmp_path: Path) -> Path:
    path = tmp_path / "stated.toml"
    path.write_text(TINY_SUITE + PUBLISHED)
    return path


def run(suite: Path, out: Path) -> Results:
    return invsuite.run(str(suite), models=["vit"], methods=["mean"], metrics=["psnr"], out=out)


def test_reports_show_published_rows_as_such(stated: Path, tmp_path: Path) -> None:
    """Whether the results come from the run or from its folder; a model that is not in the results is left out."""
    results = run(stated, tmp_path / "out")
    loaded = invsuite.load_results(tmp_path / "out", "tiny")
    assert tuple(results.published) == tuple(loaded.published) == load_suite(str(stated)).published
    assert len(loaded) == len(results)
    for number, each in enumerate((results, loaded)):
        table, values, page, *_ = each.report(tmp_path / str(number))
        text = table.read_text()
        begin = text.index("**Published, not run here**")
        assert text.index("## vit") < begin < text.index("## How to read this")
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[begin:].splitlines()[2:6]]
        assert lines[0] == ["Stage", "Method", "PSNR dB ↑", "SSIM ↑", "n", "Budget", "Source"]
        own = ["block03", "theirs", "26.65", "0.900", "1000", "a million passes", "A paper, table 3 <x>"]
        assert lines[2] == own
        assert lines[3] == ["block03", "older", "14.30", "-", *own[4:]]
        assert "Another" not in text
        html = page.read_text()
        assert '<section id="published"' in html
        assert "A paper, table 3 &lt;x&gt;" in html
        assert html.count("<h2") == html.count("</h2>")
        rows = list(csv.DictReader(values.open()))
        theirs = [row for row in rows if row["status"] == "published"]
        assert [(r["stage"], r["method"], r["measure"], r["mean"], r["n"]) for r in theirs] == [
            ("block03", "theirs", "psnr", "26.65", "1000"),
            ("block03", "theirs", "ssim", "0.9", "1000"),
            ("block03", "older", "psnr", "14.3", "1000"),
            ("decoder", "theirs", "psnr", "18.9", ""),
        ]
        assert {row["cell"] for row in theirs} == {""}
        assert (theirs[0]["reason"], theirs[0]["budget"]) == ("A paper, table 3 <x>", "a million passes")
    assert "published" not in set(results.to_frame()["status"])


def test_merged_runs_keep_what_is_published_once(stated: Path, tmp_path: Path) -> None:
    results = run(stated, tmp_path / "a")
    merged = results.merge(run(stated, tmp_path / "b"))
    assert tuple(merged.published) == tuple(results.published)


def test_random_weights_and_suites_without_have_none(stated: Path, tmp_path: Path) -> None:
    arguments = {"methods": ["mean"], "metrics": ["psnr"], "models": ["vit"]}
    random = invsuite.run(str(stated), **arguments, random_weights=True, out=tmp_path / "r")
    assert random.published_of("vit-random") == []
    assert "not run here" not in random.report(tmp_path / "r")[0].read_text()
    plain = tmp_path / "plain.toml"
    plain.write_text(TINY_SUITE)
    run(stated, tmp_path / "s")
    assert (tmp_path / "s" / "records" / "tiny" / FILE).is_file()
    assert run(plain, tmp_path / "s").published == ()
    assert not (tmp_path / "s" / "records" / "tiny" / FILE).exists()
    assert 'id="published"' not in invsuite.load_results(tmp_path / "s").report(tmp_path / "s")[2].read_text()


def test_a_damaged_file_is_no_file(stated: Path, tmp_path: Path) -> None:
    values = load_suite(str(stated)).published
    write_published(tmp_path, values)
    assert read_published(tmp_path) == values
    for text in ("nothing", '[{"model": "vit"}]', "[1]"):
        (tmp_path / FILE).write_text(text)
        assert read_published(tmp_path) == ()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('model = "detr"', 'model = "dter"', r"'?published\[1\].rows\[0\].model'? 'dter': did you mean detr"),
        ('stage = "decoder"', 'stage = "decodr"', r"published\[1\].rows\[0\].stage'? 'decodr'"),
        ("{psnr = 14.3}", "{psnrr = 14.3}", r"published\[0\].rows\[1\].values'? 'psnrr': did you mean psnr"),
        ("{psnr = 14.3}", "{}", r"published\[0\].rows\[1\].values' is {}, expected at least one entry"),
        ("{psnr = 14.3}", '{psnr = "x"}', r"published\[0\].rows\[1\].values.psnr' is 'x', expected a number"),
        ('source = "Another"', "", r"'published\[1\].source' is missing"),
        ('source = "Another"', 'source = "Another"\nyear = 3', r"'?published\[1\].year"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(old: str, new: str, reason: str, stated: Path) -> None:
    text = stated.read_text()
    assert old in text
    stated.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=reason):
        load_suite(str(stated))


def test_the_protocol_of_fia_flow_states_what_the_paper_does() -> None:
    suite = load_suite("fia-flow")
    stated = {(v.model, v.stage, v.method): v.value for v in suite.published}
    assert len(stated) == len(suite.published) == 13
    methods = ("Mahendran & Vedaldi", "deep image prior", "plain regressor", "FIA-Flow")
    for model, stage, expected in (
        ("dinov2_b", "block12", [13.5, 13.5, 19.9, 20.1]),
        ("swin_b", "stage3", [14.3, 21.0, 26.6, 27.3]),
        ("resnet50", "stage1", [13.8, 25.7, 29.9, 30.0]),
    ):
        assert [stated[model, stage, method] for method in methods] == expected
    assert stated["dinov2_reg_b", "block12", "RAE"] == 18.9
    assert {v.measure for v in suite.published} == {"psnr"}
    assert {v.source for v in suite.published if "guess" in v.source} == {suite.published[-1].source}
    fit, select, score = suite.data.sources
    assert (fit.count - select.count, score.count) == (4096, 1000)


def test_fia_flow_runs_cut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Callable[[Path], None]
) -> None:
    """Random weights, few photos and little training: every cell has numbers, or a reason for none."""
    for split in ("train/n01", "val/n01"):
        photos(tmp_path / "imagenet" / split)
    monkeypatch.setenv("INVSUITE_IMAGENET", str(tmp_path / "imagenet"))
    text = bundled_suites()["fia-flow"].read_text()
    for key, value in (("4224", 12), ("128", 4), ("1000$", 4), ("1000000", 16), ("32$", 8), ("50", 2)):
        text = re.sub(rf"^(count|image_passes|batch|images) = {key}", rf"\g<1> = {value}", text, flags=re.M)
    suite, small = tmp_path / "small.toml", 'width = 8\ndepth = 1\nstart = "random"\n'
    suite.write_text(text.replace("[methods.layerwise]\n", f"[methods.layerwise]\n{small}"))
    some = {"models": ["alexnet"], "stages": ["features.2", "features.12"], "metrics": ["psnr", "top1_agreement"]}
    results = invsuite.run(str(suite), **some, methods=["mean", "layerwise", "rae"], random_weights=True, out=tmp_path)
    states = {record.cell.row: record.state for record in results}
    assert states["alexnet-random/features.2/layerwise"] == states["alexnet-random/features.12/mean"] == "ok"
    assert states["alexnet-random/features.2/rae"] == "skipped"
    assert results.done[0].measurements["top1_agreement"].n == 4
    assert "RANDOM WEIGHTS" in results.report(tmp_path / "r")[0].read_text()


@pytest.fixture
def photos() -> Callable[[Path], None]:
    """Writes 12 different little pictures to a folder."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        generator = np.random.default_rng(len(str(folder)))
        for number in range(12):
            pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((300, 256)).save(folder / f"{number}.png")

    return write
