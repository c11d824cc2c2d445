"""Several stages read together: what they are, that they cost one pass, and which methods invert them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import invoke, scored_model, small_suite
from test_modules import cct, unet

import invsuite
from invsuite.errors import NotApplicable, UsageError
from invsuite.methods import make_method
from invsuite.methods.problem import Problem
from invsuite.models.base import Component, Layout, Model, means_stage
from invsuite.models.stage_words import chain_in

BOTH, SUM = "block01+block03", "sum(block01..block03)"


def test_parts_stand_beside_each_other_or_are_added_up() -> None:
    model = scored_model()
    parts = ("block01", "block02", "block03")
    images = torch.rand(2, 3, 96, 96)
    at = model.represent(images, [*parts, BOTH, SUM, "block01..block03"])
    tensors = [at[part].tensor for part in parts]
    torch.testing.assert_close(at[BOTH].tensor, torch.cat([tensors[0], tensors[2]], 2))
    torch.testing.assert_close(at["block01..block03"].tensor, torch.cat(tensors, 2))
    torch.testing.assert_close(at[SUM].tensor, tensors[0] + tensors[1] + tensors[2])
    single = model.layout("block01")
    assert model.layout(SUM) == single
    assert model.layout(BOTH) == Layout("tokens", 2 * single.channels, single.grid, single.count, single.prefix)
    assert model.blocks("embed", BOTH) == 3
    torch.testing.assert_close(model.run(images, None, SUM), at[SUM].tensor)
    pixels = images.clone().requires_grad_()
    model.run(pixels, None, BOTH).square().mean().backward()
    assert float(pixels.grad.abs().max()) > 0
    torch.testing.assert_close(model.run(at["block01"].tensor, "block01", SUM), at[SUM].tensor)
    with pytest.raises(NotApplicable, match="several stages read together"):
        model.run(at[SUM].tensor, SUM, "head")
    with pytest.raises(UsageError, match="'block01' lies before 'block02'"):
        model.run(at["block02"].tensor, "block02", BOTH)


def test_maps_of_several_grids_stand_on_the_finest() -> None:
    model = unet()
    assert model.layout("level1+level3") == Layout(
        "map", 24, (32, 48), repeats=24 * 32 * 48 - 8 * 32 * 48 - 16 * 8 * 12
    )
    images = torch.rand(2, 3, 32, 48)
    at = model.represent(images, ["level1+level3", "level1", "level3"])
    fine, coarse = at["level1+level3"].tensor.split((8, 16), 1)
    torch.testing.assert_close(fine, at["level1"].tensor)
    torch.testing.assert_close(coarse[:, :, ::4, ::4], at["level3"].tensor)


def test_parts_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scored_model()
    calls: list[str] = []

    def counted(component: Component) -> None:
        forward = component.module.forward

        def count(tensor: torch.Tensor) -> torch.Tensor:
            calls.append(component.stage)
            return forward(tensor)

        monkeypatch.setattr(component.module, "forward", count)

    for component in model.components:
        counted(component)
    model.represent(torch.rand(1, 3, 96, 96), [SUM, BOTH, "block02", "block06"])
    assert sorted(calls) == ["block01", "block02", "block03", "block04", "block05", "block06", "embed"]


WORDS = {
    "3+1": BOTH,
    "block3+block01": BOTH,
    "sum(1..3)": SUM,
    "sum(embed+block02..3)": "sum(embed+block02..block03)",
    "1+1+3": BOTH,
}


def test_words_for_them() -> None:
    model = scored_model()
    for word, name in WORDS.items():
        assert model.find_stages([word]) == (name,)
    assert model.find_stages(["block03", "3+1", "embed", "block1"]) == ("embed", BOTH, "block01", "block03")
    assert model.find_stages(["every"]) == model.stages
    assert model.has_stage("sum(1..3)")
    assert not model.has_stage("sum(1..30)")
    for word, stage, meant in (
        ("3+1", BOTH, True), ("block3+block1", BOTH, True), ("every", BOTH, True), (BOTH, BOTH, True),
        ("sum(1..3)", SUM, True), ("1..3", SUM, False), ("1", BOTH, False), ("3", BOTH, False),
        ("1+2", BOTH, False), ("1+2+3", BOTH, False), (BOTH, "block01", False),
    ):  # fmt: skip
        assert means_stage(word, stage) is meant, (word, stage)
    assert chain_in(("embed", BOTH, "block01", SUM, "block03"), "block03") == ("embed", "block01", "block03")
    assert chain_in(("embed", BOTH, "block01", SUM, "block03"), BOTH) == ("embed", BOTH)


REFUSED = {
    "block01+": "'block01\\+' is no list of stages: write block03\\+block06, block03..block06, or sum",
    "sum(block01": "is no list of stages",
    "1..2..3": "is no list of stages",
    "sum(block01)": "'sum\\(block01\\)' is the one stage 'block01': name that",
    "block03+3": "is the one stage 'block03'",
    "block01+blok03": "unknown stage of model 'bundled-vit|vit' 'blok03': did you mean block03",
    "block*+embed": "'block\\*' means 6 stages of model '.*': name one",
    "3..1": "'block03..block01' goes backwards in the chain",
    "block06+head": "\\(tokens .*\\) and 'head' \\(predictions 1x8\\) cannot be read together",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_cannot_be_read_together_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[word]):
        scored_model().find_stages([word])


def test_layouts_that_differ_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'level1' \(map 8x32x48\) and 'level2' \(map 12x16x24\) cannot be added up"):
        unet().find_stages(["sum(level1+level2)"])
    with pytest.raises(
        UsageError, match=r"'tokenizer' \(map 24x8x8\) and 'block1' \(tokens 64x24\) cannot be read toge"
    ):
        cct().find_stages(["tokenizer+block1"])
    model = scored_model()
    chain = [*model.components[:-1], Component("a+b", model.components[-1].module, model.components[-1].layout)]
    with pytest.raises(UsageError, match=r"stage 'a\+b' of model 'x' cannot have this name"):
        Model("x", model.network, chain, (96, 96), "classification", model.origin, model._split, model.reference)


READ: dict[str, dict[str, Any]] = {
    "mean": {}, "nearest": {}, "ridge": {}, "optimisation": {"iterations": 1}, "layerwise": {"width": 8, "depth": 1},
    "refined": {"iterations": 2, "search_iterations": 2, "search_images": 2},
}  # fmt: skip
NOT_READ: dict[str, dict[str, Any]] = {
    "modular": {"width": 8, "depth": 1},
    "refined": {"start": {"kind": "modular", "width": 8, "depth": 1}, "iterations": 2, "search_iterations": 2},
}
PAIR, TOTAL = "block1+norm", "sum(block1..norm)"  # of a small network


@pytest.fixture
def problem(make_problem: Callable[..., Problem]) -> Problem:
    model = cct()
    return make_problem(model, model.find_stages(["tokenizer", "norm", PAIR, TOTAL]), passes=16, fit=16)


@pytest.mark.parametrize("method", READ)
def test_methods_that_read_representations_invert_them(method: str, problem: Problem) -> None:
    """Their inverters are kept and restored as those of any other stage."""
    unit = make_method(method, READ[method])
    fitted = unit.fit_stages(problem)
    assert fitted.refused == {}
    images = problem.select.images(slice(0, 2))
    tensors = fitted.inverter.tensors()
    again = None if tensors is None else unit.restore(problem, tensors, fitted.notes)
    for stage in (PAIR, TOTAL):
        representation = problem.model.represent(images, [stage])[stage]
        reconstructions = fitted.inverter.invert(representation)
        assert reconstructions.shape == images.shape
        if again is not None:
            torch.testing.assert_close(again.invert(representation), reconstructions)


@pytest.mark.parametrize("method", NOT_READ)
def test_methods_that_walk_the_chain_back_say_so(method: str, problem: Problem) -> None:
    fitted = make_method(method, NOT_READ[method]).fit_stages(problem)
    assert set(fitted.refused) == {PAIR, TOTAL}
    assert "'modular' inverts places in the chain; 'block1+norm' is several stages read together" in str(
        fitted.refused[PAIR]
    )
    assert problem.cut == ("tokenizer", "norm")


def test_their_inverse_goes_back_to_what_lies_before_all(problem: Problem) -> None:
    fitted: Any = make_method("layerwise", READ["layerwise"]).fit(problem)
    first, last = fitted.inverter.chains[PAIR]
    assert first.source_scale.mean.shape == problem.model.layout(PAIR).shape
    assert first.target_scale.mean.shape == problem.model.layout("tokenizer").shape
    assert last.target_scale.mean.shape == (3, 32, 32)
    assert len(fitted.inverter.chains["norm"]) == 2


def test_other_stages_are_trained_as_without_them(make_problem: Callable[..., Problem]) -> None:
    model = cct()
    images = torch.rand(2, 3, 32, 32)
    answers = []
    for words in (["tokenizer", "norm"], ["tokenizer", PAIR, "norm"]):
        problem = make_problem(model, model.find_stages(words), passes=32, fit=16)
        fitted = make_method("layerwise", READ["layerwise"]).fit(problem)
        answers.append(fitted.invert(model.represent(images, ["norm"])["norm"], images))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)


def test_they_are_rows_of_the_matrix(tmp_path: Path) -> None:
    """Identities of other cells stay; a person may name them as any other stage, and what is kept is loaded again."""
    methods = {"ridge": "{}", "layerwise": "{ width = 8, depth = 1 }", "exact": "{}"}
    suite, without = tmp_path / "s.toml", tmp_path / "t.toml"
    suite.write_text(small_suite("s", methods, ("embed", "1+3"), counts=(24, 4, 4)))
    without.write_text(small_suite("s", methods, ("embed",), counts=(24, 4, 4)))
    words = ("--suite", suite, "--out", tmp_path / "r")
    result = invoke("bench", *words, "--methods", "ridge,exact")
    assert result.exit_code == 0, result.output
    assert "4 cells computed" in result.stdout
    folder = tmp_path / "r" / "records" / "s"
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    skipped = next(record for record in records if record["status"] == "skipped")
    assert "inverts places in the chain" in skipped["reason"]
    plans = [invsuite.plan(str(path), out=tmp_path / "r") for path in (without, suite)]
    ids = [{cell.id for cell in plan.plan.cells} for plan in plans]
    assert ids[0] < ids[1]
    assert not plans[1].cost.unknown
    added = invsuite.plan(str(without), out=tmp_path / "r", stages=["3+1"], methods=["ridge"])
    assert {cell.id for cell in added.plan.cells} < ids[1]
    with pytest.raises(UsageError, match="unknown stage '1\\+30'"):
        invsuite.plan(str(without), stages=["embed", "1+30"], methods=["ridge"])
    again = invoke("bench", *words, "--methods", "ridge,exact", "--stages", "3+1")
    assert "0 cells computed, 2 reused" in again.stdout
    scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=16)
    inverse = invsuite.fit("ridge", "bundled:vit", ["sum(1..3)"], scenes)
    kept = invsuite.load_inverse(inverse.save(tmp_path / "kept"))
    assert kept.stages == (SUM,)
    results = invsuite.score(inverse, invsuite.open_images("scenes", (96, 96), seed=2, count=4), ["psnr"])
    assert [record.cell.stage for record in results.records] == [SUM]
    assert torch.equal(kept(scenes.images([0])), inverse(scenes.images([0]), "sum(1..3)"))
