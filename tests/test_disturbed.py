"""Disturbances do what they say, to each image by itself; methods read what is left; the model says what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import invoke, scene_split, small_suite

import invsuite
from invsuite.errors import NotApplicable, UsageError
from invsuite.methods import make_method
from invsuite.methods.disturbed import Disturbed, Kind, Scale, disturb, usefulness
from invsuite.methods.optimisation.presets import Optimisation
from invsuite.methods.problem import Problem
from invsuite.methods.ridge import Ridge
from invsuite.models.base import Layout, Model, Representation
from invsuite.report.privacy import _panels, readings_of, write_privacy

MakeProblem = Callable[..., Problem]
TOKENS = Layout("tokens", 6, (5, 5), 27, prefix=2)
MAP = Layout("map", 6, (5, 5))


def representation(layout: Layout) -> Representation:
    shape = (4, *layout.shape)
    return Representation(torch.randn(shape, generator=torch.Generator().manual_seed(1)), layout, "stage")


def disturbed(one: Representation, kind: Kind, amount: float) -> torch.Tensor:
    return disturb(one, kind, amount, Scale.of(one)).tensor


def places(tensor: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Values place by place (B, places, channels), without prefix tokens."""
    return layout.to_map(tensor).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("layout", [TOKENS, MAP])
def test_each_disturbance_does_what_it_says(layout: Layout) -> None:
    one = representation(layout)
    noise = disturbed(one, "noise", 0.5) - one.tensor
    assert 0.4 < float(noise.std() / one.tensor.std()) < 0.6
    rounded = disturbed(one, "quantise", 3)
    assert len(rounded.unique()) <= 2**3
    pruned = disturbed(one, "prune", 0.5)
    assert [int((row == 0).sum()) for row in pruned] == [round(0.5 * one.layout.values)] * 4
    assert bool((pruned[pruned != 0].abs() >= one.tensor[pruned == 0].abs().min()).all())
    dropped = places(disturbed(one, "drop-tokens", 0.4), layout)
    mean = Scale.of(one).mean.flatten()
    assert [int((row == mean).all(1).sum()) for row in dropped] == [10] * 4
    before, shuffled = places(one.tensor, layout), places(disturbed(one, "shuffle-tokens", 1.0), layout)
    assert not torch.equal(shuffled, before)
    assert torch.equal(shuffled.sort(1).values, before.sort(1).values)
    if layout is TOKENS:
        for kind in ("drop-tokens", "shuffle-tokens"):
            assert torch.equal(disturbed(one, kind, 1.0)[:, :2], one.tensor[:, :2]), "prefix tokens have no place"  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "amount"), [("noise", 1.0), ("drop-tokens", 0.5), ("shuffle-tokens", 1.0)])
def test_what_is_random_depends_on_the_image_alone_and_differs_between_images(kind: Kind, amount: float) -> None:
    one = representation(TOKENS)
    scale = Scale.of(one)
    whole = disturb(one, kind, amount, scale).tensor
    assert torch.equal(disturb(one[2:3], kind, amount, scale).tensor, whole[2:3])
    alike = Representation(one.tensor[:1].repeat(2, 1, 1) + torch.tensor([0.0, 1e-3]).view(2, 1, 1), TOKENS, "stage")
    first, second = disturb(alike, kind, amount, scale).tensor
    assert float((first - second).abs().max()) > 0.1


@pytest.mark.parametrize(("kind", "amount"), [("noise", 0.0), ("prune", 0.0), ("drop-tokens", 0.0)])
def test_nothing_is_disturbed_by_nothing(kind: Kind, amount: float) -> None:
    one = representation(MAP)
    assert torch.equal(disturbed(one, kind, amount), one.tensor)


def psnr(images: torch.Tensor, true: torch.Tensor) -> float:
    return float(-10 * (images - true).square().mean((1, 2, 3)).log10().mean())


def test_who_is_told_of_noise_reads_more(linear_chain: Model, make_problem: MakeProblem) -> None:
    """Ridge on noisy inputs shrinks: the regression it should be, where that of clean inputs passes all noise on."""
    images = scene_split(904, 6, 24).images(slice(0, 6))
    problem = make_problem(linear_chain, ("first",), fit=200)
    target = linear_chain.represent(images, ["first"])["first"]
    values = {}
    for told in (False, True):
        fitted = Disturbed(Ridge(), "noise", 1.0, told).fit(problem)
        values[told] = psnr(fitted.inverter.invert(target), images)
    clean = psnr(Ridge().fit(problem).inverter.invert(target), images)
    assert values[False] + 1 < values[True] < clean


@pytest.mark.parametrize("name", ["layerwise", "modular", "modular-finetuned", "shared-chain"])
def test_training_sees_what_it_is_told_of(name: str, small_chain: Model, make_problem: MakeProblem) -> None:
    """Nothing is read of pure noise but the mean: who trained on it knows, who trained without it passes it on."""
    images = scene_split(904, 6, 12).images(slice(0, 6))
    problem = make_problem(small_chain, ("first",), passes=960)
    target = small_chain.represent(images, ["first"])["first"]
    start = make_method(name, {"width": 16, "depth": 1})
    values = {}
    for told in (False, True):
        fitted = Disturbed(start, "noise", 10.0, told).fit(problem)
        values[told] = psnr(fitted.inverter.invert(target), images)
    assert values[True] > values[False] + 3


def test_the_answers_that_stay_are_counted(vit: Model, detr: Model, make_problem: MakeProblem) -> None:
    for model, stage, what in ((vit, "block03", "first class kept"), (detr, "encoder", "objects kept")):
        problem = make_problem(model, (stage,))
        shares, said = usefulness(problem, stage, lambda one: one)
        assert said == what
        assert shares == [1.0] * 16
        scale = Scale.of(model.represent(problem.fit.images(slice(0, 8)), [stage])[stage])
        ruined, _ = usefulness(problem, stage, lambda one: disturb(one, "noise", 30.0, scale))  # noqa: B023
        assert sum(ruined) < 14


def test_what_cannot_be_is_refused_in_a_line(linear_chain: Model, make_problem: MakeProblem) -> None:
    for kind, amount in (("prune", 1.5), ("quantise", 1), ("drop-tokens", 2)):
        with pytest.raises(UsageError, match=f"'disturbed.amount' is {amount:g}: of {kind}"):
            Disturbed(Ridge(), kind, amount)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="shown the image"):
        Disturbed("bicubic")
    with pytest.raises(NotApplicable, match="'optimisation' is fitted to no representations"):
        Disturbed(Optimisation(iterations=2), told=True).fit(make_problem(linear_chain, ("first",)))


def test_a_suite_makes_the_page_of_privacy(tmp_path: Path) -> None:
    row = '{ kind = "disturbed", start = "ridge", disturbance = "noise", amount = %s, told = %s }'
    methods = {"ridge": "{}", "mean": "{}"}
    methods |= {f"n{a}{told}": row % (a, told) for a in (1, 4) for told in ("false", "true")}
    path = tmp_path / "hidden.toml"
    path.write_text(small_suite("hidden", methods, stages=("block03",), counts=(32, 8, 6)))
    results = invsuite.run(str(path), out=tmp_path)
    assert [record.reason for record in results if not record.ok] == []
    readings = readings_of(results.records)
    assert [(r.start, r.disturbance, r.told) for r in readings][:2] == [
        ("ridge", "noise 1 SD", False),
        ("ridge", "noise 1 SD", True),
    ]
    assert all(0 <= reading.useful <= 1 for reading in readings)
    own = {record.cell.method: record.measurements["psnr"].mean for record in results}
    assert own["n4false"] < own["n1false"] < own["ridge"]  # type: ignore[operator]
    done = invoke("privacy", path, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "privacy.md").read_text()
    assert f"{own['ridge']:.2f} [" in page
    assert "ridge, told (closed form): PSNR dB ↑" in page
    opening = page.splitlines()[2:5]
    assert opening[0].startswith("This page shows what `ridge`, told of it or not, read of representations of `vit`")
    assert opening[1] == "The methods are `ridge` (closed form)."
    assert "At block03" in opening[2] or "at block03, noise" in opening[2]
    [[panel]] = _panels(readings, {(row.stage, row.method): row for row in results.rows})
    assert panel.levels == {"ridge, undisturbed": own["ridge"], "mean image": own["mean"]}
    assert (tmp_path / "hidden-vit-privacy.png").stat().st_size > 10_000
    bare = replace(results, records=[record for record in results.records if record.cell.method == "mean"])
    with pytest.raises(UsageError, match="no row of disturbed representations"):
        write_privacy([bare], tmp_path)
