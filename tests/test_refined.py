"""A start is fitted once and counted; its errors make the prior; the descent goes on from its images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SMALL_NETWORK, invoke, scene_split, small_suite

from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.suite import load_suite
from invsuite.errors import UsageError
from invsuite.methods import make_method
from invsuite.methods.base import Fitted, Method
from invsuite.methods.floors import Mean
from invsuite.methods.networks import Modular
from invsuite.methods.problem import Context, Problem
from invsuite.methods.refined import ErrorPrior, Refined, measure_prior, patch_side
from invsuite.methods.ridge import Ridge
from invsuite.models.base import Layout, Model
from invsuite.registry import METHODS
from invsuite.results.record import Record
from invsuite.results.store import Store

MakeProblem = Callable[..., Problem]


def psnr(images: torch.Tensor, true: torch.Tensor) -> float:
    return float(-10 * (images - true).square().mean((1, 2, 3)).log10().mean())


def test_on_an_invertible_model_the_descent_arrives_from_a_poor_start(
    linear_chain: Model, make_problem: MakeProblem
) -> None:
    images = scene_split(904, 4, 24).images(slice(0, 4))
    problem = replace(make_problem(linear_chain, ("first", "second")), select=scene_split(903, 108, 24))
    fitted = Refined(Mean(), search_iterations=60).fit(problem)
    for stage in ("first", "second"):
        target = linear_chain.represent(images, [stage])[stage]
        starts, refined = fitted.inverter.start.invert(target), fitted.inverter.invert(target)
        assert psnr(starts, images) < 20
        assert psnr(refined, images) > 35
        assert fitted.notes[stage]["search"][0]["weight"] == 1.0
        findings = fitted.inverter.findings(stage)
        assert findings["ceiling"] == 1000
        assert 0 < findings["iterations"] <= 1000
        assert fitted.inverter.findings(stage) == {}


def test_a_start_that_a_descent_cannot_improve_stays(linear_chain: Model, make_problem: MakeProblem) -> None:
    """The head of the linear chain holds eight numbers: hardly anything to match."""
    images = scene_split(904, 4, 24).images(slice(0, 4))
    fitted = Refined(Ridge(), prior=1e9, iterations=5).fit(make_problem(linear_chain, ("first",)))
    target = linear_chain.represent(images, ["first"])["first"]
    assert fitted.notes["first"]["share"] == 0
    assert torch.equal(fitted.inverter.invert(target), fitted.inverter.start.invert(target))
    assert fitted.inverter.findings("first")["converged"] is True


def test_the_prior_has_the_covariance_that_was_measured() -> None:
    draw = torch.Generator().manual_seed(3)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(400, 3, 28, 28, generator=draw), 5, 1)
    prior = measure_prior(smooth, 8)
    assert prior.grid == (3, 3)
    drawn = prior.errors(torch.randn(400, *prior.spectrum.shape, generator=draw))
    for errors in (drawn, drawn[..., 8:, 8:]):
        assert errors.shape[1] == 3
    near = [float((e[..., :, 1:] * e[..., :, :-1]).mean() / e.square().mean()) for e in (smooth, drawn)]
    assert float(drawn.square().mean()) == pytest.approx(float(smooth.square().mean()), rel=0.05)
    assert near[1] == pytest.approx(near[0], abs=0.12), "neighbours go together, across the borders of patches too"
    one = measure_prior(smooth[:1, :, :8, :8], 8)
    assert bool(torch.isfinite(one.errors(torch.randn(2, *one.spectrum.shape))).all())


@pytest.mark.parametrize(
    ("size", "layout", "side"),
    [
        ((96, 96), Layout("map", 4, (12, 12)), 8),
        ((224, 224), Layout("tokens", 4, (14, 14), 197, 1), 16),
        ((224, 224), Layout("map", 4, (7, 7)), 8),
        ((96, 96), Layout("queries", 4, count=12), 8),
        ((90, 33), Layout("map", 4, (4, 2)), 3),
    ],
)
def test_patches_are_those_of_tokens_where_these_are_small(size: tuple[int, int], layout: Layout, side: int) -> None:
    assert patch_side(size, layout) == side


def test_the_cost_is_that_of_start_and_search(linear_chain: Model, make_problem: MakeProblem) -> None:
    calls: list[Method] = []
    spent: list[float] = []

    def fit(method: Method, problem: Problem) -> Fitted:
        calls.append(method)
        begun = time.perf_counter()
        fitted = method.fit(problem)
        fitted.cost.total_seconds = 1000.0  # as it took when another row was fitted
        spent.append(time.perf_counter() - begun)
        return fitted

    problem = replace(make_problem(linear_chain, ("first",)), context=Context(fit=fit))
    start = make_method("modular", {"width": 8, "depth": 1})
    fitted = Refined(start, search_images=4, search_iterations=3, loss="l2").fit(problem)
    alone = start.fit(problem).cost
    assert calls == [start]
    # the suite measures this fit, with what the start has taken in it, and that comes on top
    assert fitted.cost.total_seconds + sum(spent) == pytest.approx(1000, abs=0.5)
    searched = fitted.cost.image_passes["first"] - alone.image_passes["first"]
    assert searched >= 12 + 4 + 48, "starts of 16 selection images, deviations of 48, and what descended"
    assert fitted.cost.fit_flops["first"] > alone.fit_flops["first"]
    assert fitted.cost.parameters["first"] > alone.parameters["first"]
    assert fitted.notes["first"]["start"].keys() == start.fit(problem).notes["first"].keys()


def test_what_identifies_the_start_identifies_the_method() -> None:
    assert Refined() == make_method("refined", {"start": {"kind": "ridge", "neighbourhood": 3}})
    assert Refined("modular") == Refined(Modular())
    one, two = (Refined(Ridge(neighbourhood=size)).params() for size in (1, 3))
    assert one != two
    assert two["start_version"] == Ridge.version
    assert not Refined().seeded
    assert not Refined().uses_budget
    trained = Refined(Refined(Modular()))
    assert trained.seeded
    assert trained.uses_budget
    assert trained.uses_cut
    assert trained.begun.builds_on() == (Modular(),)
    params = trained.params()
    assert make_method("refined", {"start": params["start"]}) == trained
    with pytest.raises(UsageError, match=r"is shown the image"):
        Refined("bicubic")
    with pytest.raises(UsageError, match=r"unknown key 'refined\.start\.neighborhood'"):
        Refined({"kind": "ridge", "neighborhood": 3})


# --- in a suite

FAST = "iterations = 2, search_iterations = 2, search_images = 2"
METHODS_OF_SUITE = {
    "sharper": f'{{ kind = "refined", start = "layerwise", {FAST} }}',
    "layerwise": SMALL_NETWORK,
    "refined": f'{{ start = "ridge-1", {FAST} }}',
    "ridge-1": '{ kind = "ridge" }',
}


def written(tmp_path: Path, methods: dict[str, str]) -> Path:
    path = tmp_path / "refined.toml"
    path.write_text(small_suite("refined", methods))
    return path


def test_a_start_is_a_row_in_any_order(tmp_path: Path) -> None:
    twice = METHODS_OF_SUITE | {"twice": '{ kind = "refined", start = "sharper" }'}
    rows = {row.name: row.method for row in load_suite(str(written(tmp_path, twice))).methods}
    assert list(rows) == list(twice)
    assert rows["sharper"].builds_on() == (rows["layerwise"],)
    assert rows["refined"].builds_on() == (Ridge(),)
    assert rows["twice"].builds_on() == (rows["sharper"],)


def test_budgets_are_those_of_the_start(tmp_path: Path) -> None:
    network = "{ width = 8, depth = 1, image_passes = [16, 32] }"
    methods = {"layerwise": network, "refined": '{ start = "layerwise" }'}
    rows = [row.name for row in load_suite(str(written(tmp_path, methods))).methods]
    assert rows == ["layerwise@16", "layerwise@32", "refined@16", "refined@32"]
    one = methods | {"refined": '{ start = "layerwise@32" }'}
    (*_, last) = load_suite(str(written(tmp_path, one))).methods
    assert (last.name, last.image_passes) == ("refined", 32)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("ridge-2", r"unknown methods.refined.start 'ridge-2': did you mean ridge-1"),
        ("refined", r"'methods.refined.start' is 'refined': a method cannot build on itself \(refined -> refined\)"),
        ("layerwise@7", r"unknown methods.refined.start 'layerwise@7': did you mean layerwise"),
    ],
)
def test_a_start_that_is_no_row_is_one_clear_error(tmp_path: Path, start: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suite(str(written(tmp_path, METHODS_OF_SUITE | {"refined": f'{{ start = "{start}" }}'})))


def bench(suite: Path, *words: object) -> dict[str, Record]:
    result = invoke("bench", "--suite", suite, "--out", suite.parent / "out", *words)
    assert result.exit_code == 0, result.output
    records = Store(suite.parent / "out" / "records" / "refined").records()
    return {f"{record.cell.method}/{record.cell.stage}": record for record in records}


def test_a_run_fits_a_start_once_and_counts_it_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, fits = written(tmp_path, METHODS_OF_SUITE), []

    def counting(name: str, fit: Any) -> Any:
        def fitted(method: Method, problem: Problem) -> Fitted:
            fits.append((name, problem.stages))
            return fit(method, problem)

        return fitted

    for name in ("layerwise", "ridge"):
        monkeypatch.setattr(METHODS[name], "fit", counting(name, METHODS[name].fit))
    records = bench(suite)
    assert sorted(fits) == [("layerwise", ("embed", "block03")), ("ridge", ("embed", "block03"))]
    for start, refined in (("layerwise", "sharper"), ("ridge-1", "refined")):
        for stage in ("embed", "block03"):
            below, above = records[f"{start}/{stage}"].cost, records[f"{refined}/{stage}"].cost
            assert below is not None
            assert above is not None
            assert above.fit_seconds > below.fit_seconds
            assert above.fit_total_seconds > below.fit_total_seconds
            assert above.fit_image_passes > below.fit_image_passes
            assert above.invert_flops_per_image >= below.invert_flops_per_image
    before = records["sharper/block03"].cost
    assert before is not None
    fits.clear()
    again = bench(suite, "--methods", "sharper", "--stages", "block03", "--refresh")["sharper/block03"].cost
    assert again is not None
    assert fits == [], "the start's inverter was kept, and so was what its fit took"
    assert again.fit_image_passes == before.fit_image_passes
    assert again.fit_flops == before.fit_flops
    monkeypatch.setattr("invsuite.benchmark.fitting.device_name", lambda device: "another device")
    bench(suite, "--methods", "sharper", "--stages", "block03", "--refresh")
    assert [name for name, _ in fits] == ["layerwise"], "its seconds are not those of the device at hand"


def test_a_narrower_run_fits_the_start_it_needs(tmp_path: Path) -> None:
    """Also where an earlier run was ended while it fitted the start, and left its state."""
    suite = written(tmp_path, METHODS_OF_SUITE)
    plan = make_plan(load_suite(str(suite)), Selection(methods=("ridge-1",)), lambda note: None)
    left = Store(tmp_path / "out" / "records" / "refined").fit_path(plan.cells[0].fit_id)
    left.mkdir(parents=True)
    records = bench(suite, "--methods", "refined", "--stages", "embed")
    assert not left.exists()
    assert list(records) == ["refined/embed"]
    assert records["refined/embed"].ok


def test_kept_numbers_of_a_prior_survive(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first",))
    method = Refined(Ridge(), search_iterations=5, iterations=5)
    fitted = method.fit(problem)
    tensors = fitted.inverter.tensors()
    restored = method.restore(problem, tensors, fitted.notes)
    assert restored is not None
    for name, one in vars(fitted.inverter.refinements["first"]).items():
        other = getattr(restored.refinements["first"], name)
        if not isinstance(one, torch.Tensor | ErrorPrior):
            assert one == other, name
    assert method.restore(replace(problem, stages=("second",)), tensors, {}) is None
