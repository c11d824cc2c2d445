"""A run keeps an inverse of every fit beside its records, within its limit and until it is pruned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from helpers import invoke, scene_split, small_suite

import invsuite
from invsuite.apply.beside import inverses_folder
from invsuite.apply.card import read_card
from invsuite.apply.inverse import TENSORS
from invsuite.models.base import Model
from invsuite.results.store import Store

METHODS = {
    "mean-colour": "{}",
    "nearest": "{}",
    "exact": "{}",
    "wide": '{ kind = "ridge", neighbourhood = 3 }',
    "modular": "{ width = 8, depth = 1 }",
    "begun": '{ kind = "refined", start = "wide", iterations = 2, search_iterations = 2, images = 2, edits = 0 }',
}
KEPT = {"vit-exact-s0", "vit-wide-s0", "vit-modular-s0", "vit-begun-s0"}
IMAGES = scene_split(75, 2, 48).images([0, 1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the suite and the folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    suite = folder / "kept.toml"
    suite.write_text(small_suite("kept", METHODS))
    assert bench(suite, folder / "out") == "no line about inverses"
    return suite, folder / "out"


def bench(suite: Path, out: Path, *words: object) -> str:
    """Run a suite and return what it says of inverses."""
    result = invoke("bench", "--suite", suite, "--out", out, *words)
    assert result.exit_code == 0, result.output
    return next((line for line in result.stderr.splitlines() if "have no inverse" in line), "no line about inverses")


def folders(out: Path) -> set[str]:
    """Return the names of the kept inverses."""
    return {path.name for path in inverses_folder(out, "kept").iterdir()}


def test_every_fit_that_can_be_kept_has_an_inverse_with_its_quality(small_vit: Model, run: tuple[Path, Path]) -> None:
    _, out = run
    assert folders(out) == KEPT
    records = {r.cell.row: r for r in Store(out / "records" / "kept").records()}
    for name in KEPT:
        card = read_card(inverses_folder(out, "kept") / name)
        assert card.name == name
        assert card.model.fingerprint == small_vit.fingerprint()
        for stage in card.stages:
            measured = records[f"vit/{stage}/{card.method.row}"].measurements["psnr"]
            assert (card.quality[stage]["psnr"].mean, card.quality[stage]["psnr"].n) == (measured.mean, measured.n)
        scored = card.scored_on
        assert scored is not None
        assert scored.count == records[f"vit/embed/{card.method.row}"].measurements["psnr"].n
    exact = read_card(inverses_folder(out, "kept") / "vit-exact-s0")
    assert (exact.stages, list(exact.refused)) == (("embed",), ["block03"])


def test_it_is_the_inverse_that_was_scored(small_vit: Model, run: tuple[Path, Path]) -> None:
    _, out = run
    for name in ("vit-modular-s0", "vit-wide-s0"):
        inverse = invsuite.load_inverse(inverses_folder(out, "kept") / name, small_vit)
        score = invsuite.open_images("scenes", (48, 48), seed=63, count=4)
        for record in invsuite.score(inverse, score, ["psnr"]):
            expected = Store(out / "records" / "kept").find(f"vit-{record.cell.stage}-{inverse.card.method.row}-")
            assert record.measurements["psnr"].values == expected.measurements["psnr"].values
        assert torch.isfinite(inverse(IMAGES, "block03")).all()


def test_a_run_that_reuses_everything_still_has_them(run: tuple[Path, Path]) -> None:
    suite, out = run
    one, *others = sorted(inverses_folder(out, "kept").iterdir())
    stamps = {path: path.joinpath("card.json").stat().st_mtime_ns for path in others}
    for path in one.iterdir():
        path.unlink()
    one.rmdir()
    assert bench(suite, out) == "no line about inverses"
    assert folders(out) == KEPT
    assert {path: path.joinpath("card.json").stat().st_mtime_ns for path in others} == stamps


def test_the_tensors_take_no_room_of_their_own(run: tuple[Path, Path]) -> None:
    _, out = run
    for name in KEPT:
        assert (inverses_folder(out, "kept") / name / TENSORS).stat().st_nlink == 2


def test_measures_that_are_added_stand_on_the_card(run: tuple[Path, Path]) -> None:
    suite, out = run
    bench(suite, out, "--methods", "wide", "--stages", "embed", "--metrics", "psnr,ssim")
    quality = read_card(inverses_folder(out, "kept") / "vit-wide-s0").quality
    assert {stage: set(values) for stage, values in quality.items()} == {"embed": {"psnr", "ssim"}, "block03": {"psnr"}}


def test_the_limit_is_obeyed_and_said_and_prune_takes_them(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = run
    nothing = bench(suite, tmp_path / "none", "--methods", "wide", "--keep", "0")
    assert (nothing, (tmp_path / "none" / "inverses").exists()) == ("no line about inverses", False)
    small = bench(suite, tmp_path / "small", "--methods", "wide", "--keep", "0.000001")
    assert "1 fits (wide) have no inverse" in small
    assert "fit them again with --refresh" in small

    def no_links(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    bench(suite, tmp_path / "copied", "--methods", "wide")
    copy = inverses_folder(tmp_path / "copied", "kept") / "vit-wide-s0" / TENSORS
    assert copy.stat().st_nlink == 1
    assert invoke("prune", "--suite", suite, "--out", out).exit_code == 0
    assert not (out / "inverses").exists()
    assert "4 fits" in bench(suite, out)
