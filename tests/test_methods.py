"""Every registered method against its protocol, and each against a known linear chain."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import get_args
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from helpers import scene_split
from safetensors.torch import load, save
from torch import nn

from invsuite._system.linear import NormalEquations, error_of, solve
from invsuite.data.base import check_images
from invsuite.errors import ConvergenceError, NotApplicable, UsageError
from invsuite.inverses.convolution import SpatialToSpatial, coarsening
from invsuite.inverses.networks import Architecture, InverseNetwork, InverseSettings, make_inverse
from invsuite.methods import make_method
from invsuite.methods.base import FitCost, Fitted, Method
from invsuite.methods.networks import Layerwise, Modular, NetworkMethod
from invsuite.methods.problem import Problem
from invsuite.methods.ridge import images_from, patches_of
from invsuite.methods.training.engine import Trainee, train
from invsuite.methods.training.initialisation import Moments
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Layout, Model, image_layout
from invsuite.registry import METHODS

RANDOM: dict[str, object] = {"width": 16, "depth": 1, "start": "random"}  # what training finds, not the start
SMALL: dict[str, dict[str, object]] = {
    "mean": {},
    "mean-colour": {},
    "nearest": {},
    "bicubic": {},
    "random-weights": {},
    "ridge": {},
    "exact": {},
    "fixedpoint": {"iterations": 3},
    "optimisation": {"iterations": 3},
    "mahendran2015": {"iterations": 3},
    "mahendran2016": {"iterations": 3},
    "graduated": {"iterations": 4, "search_images": 2},
    "plugin": {"iterations": 3},
    "fourier": {"iterations": 3},
    "dip": {"iterations": 2, "width": 4, "depth": 2},
    "layerwise": RANDOM,
    "modular": RANDOM,
    "modular-finetuned": RANDOM,
    "modular-cycle": RANDOM | {"image_weight": 0.1},
    "modular-noised": RANDOM,
    "modular-predecessor": RANDOM,
    "shared-chain": RANDOM,
    "disturbed": {"disturbance": "shuffle-tokens", "told": True},
    "refined": {"iterations": 3, "search_iterations": 3, "search_images": 2},
}
LOADED = ("rathjens", "rae")  # methods that read files of others, which have tests of their own
TRIED = [name for name in METHODS if name not in LOADED]
#: keeps a scale that the cosine leaves open near that of the start
ADAM = {"optimiser": "adam", "schedule": "linear", "pixels": "sigmoid", "until": "iterations"}
TRAINED = {"width": 16, "depth": 1, "start": "random", "recipe": {"learning_rate": 5e-3}}
MakeProblem = Callable[..., Problem]


def small(name: str) -> Method:
    return make_method(name, dict(SMALL[name]))


def reconstruct(method: Method, problem: Problem, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return invert(method.fit(problem), problem, images)


def invert(fitted: Fitted, problem: Problem, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Reconstructions by stage; stages that the method refuses are left out."""
    found = problem.model.represent(images, problem.stages)
    asked = [stage for stage in problem.stages if stage not in fitted.refused]
    return {stage: fitted.invert(found[stage], images) for stage in asked}


def restore(method: Method, fitted: Fitted, problem: Problem) -> Fitted:
    """The same from the tensors and notes that went through a file; nobody looks at the images of the fit."""
    kept = {name: tensor.detach().contiguous().clone() for name, tensor in (fitted.inverter.tensors() or {}).items()}
    notes = json.loads(json.dumps(fitted.notes))
    unread = replace(problem, fit=Mock(spec=()), select=Mock(spec=()))
    inverter = method.restore(unread, load(save(kept)), notes)
    assert inverter is not None
    return Fitted(inverter, FitCost())


def psnr(made: torch.Tensor, images: torch.Tensor) -> float:
    return float(-10 * F.mse_loss(made, images).log10())


def test_every_method_is_tested_and_explains_itself() -> None:
    """Its page is written from its docstring: what it costs, when to use it, where it is from, and every parameter."""
    assert set(SMALL) == set(TRIED)
    for name, cls in METHODS.items():
        texts = [inspect.cleandoc(base.__doc__ or "") for base in cls.__mro__]
        assert {"Use:", "Source:"} <= set(texts[0].splitlines()), name
        lines = {line.strip() for text in texts for line in text.splitlines()}
        assert "Cost:" in lines, name
        for parameter in fields(cls):
            assert any(line.startswith(f"{parameter.name}: ") for line in lines), (name, parameter.name)


@pytest.mark.parametrize(
    ("name", "which", "stages"),
    [
        *((name, "small_detr", ("backbone", "encoder", "decoder")) for name in TRIED),
        *((name, "small_vit", ("embed", "block03")) for name in ("exact", "fixedpoint")),
    ],
)
def test_contract(
    name: str, which: str, stages: tuple[str, ...], make_problem: MakeProblem, request: pytest.FixtureRequest
) -> None:
    """Images in [0, 1] of the right shape; the model's weights, buffers and mode untouched; the cost accounted for;
    the same seed gives the same images, and so does an inverter that is restored from what it keeps.

    On a detector; what does not apply there, on a ViT. `invsuite selftest` has contracts on the bundled ViT, to which
    tests/test_contracts.py holds every method."""
    model: Model = request.getfixturevalue(which)
    before = model.fingerprint()
    images = scene_split(904, 3, 48).images(slice(0, 3))
    problem = make_problem(model, stages)
    if (name, which) == ("fixedpoint", "small_detr"):
        with pytest.raises(NotApplicable, match="backbone"):
            small(name).fit(problem)
        return
    fitted = small(name).fit(problem)
    assert set(fitted.cost.image_passes) == set(fitted.cost.parameters) == set(stages)
    first = invert(fitted, problem, images)
    assert set(fitted.refused) == set(stages) - set(first)
    for made in first.values():
        assert made.shape == images.shape
        check_images(made)
        assert not made.requires_grad
    model.check_frozen()
    assert model.fingerprint() == before
    second = reconstruct(small(name), problem, images)
    for stage in first:
        assert torch.equal(first[stage], second[stage])
    assert (fitted.inverter.tensors() is None) == (name == "nearest")
    if name != "nearest":
        for some in (tuple(first), tuple(first)[:1]):
            restored = restore(small(name), fitted, replace(problem, stages=some))
            third = invert(restored, replace(problem, stages=some), images)
            assert all(torch.equal(first[stage], third[stage]) for stage in some)


@pytest.mark.parametrize("name", ["layerwise", "modular", "modular-finetuned"])
def test_networks_of_the_paper_are_restored(name: str, small_detr: Model, make_problem: MakeProblem) -> None:
    """Batch-normalised decoders and transposed convolutions too, whose weights lie channels last."""
    images = scene_split(904, 3, 48).images(slice(0, 3))
    problem = make_problem(small_detr, ("backbone", "encoder"), passes=32)
    method = make_method(name, {"architecture": "paper", "depth": 1})
    fitted = method.fit(problem)
    first, second = (invert(f, problem, images) for f in (fitted, restore(method, fitted, problem)))
    assert all(torch.equal(first[stage], second[stage]) for stage in problem.stages)


def test_nothing_is_restored_from_other_tensors(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first", "second"))
    for name in ("ridge", "exact", "layerwise", "modular"):
        fitted = small(name).fit(replace(problem, stages=("first",)))
        assert small(name).restore(problem, fitted.inverter.tensors() or {}, {}) is None, name


def test_costs_are_accounted_for(small_chain: Model, make_problem: MakeProblem) -> None:
    """Every stage has its passes and parameters; every trained method spends the budget, and counts its operations."""
    stages = ("first", "second")
    problem = make_problem(small_chain, stages, passes=80)
    for name in TRIED:
        cls = METHODS[name]
        fitted = small(name).fit(problem)
        assert set(fitted.cost.image_passes) == set(fitted.cost.parameters) == set(stages), name
        if issubclass(cls, NetworkMethod):
            assert fitted.cost.image_passes == dict.fromkeys(stages, 80), name
            assert set(fitted.cost.fit_flops) == set(fitted.cost.frozen_flops) == set(stages), name
            assert min(fitted.cost.fit_flops.values()) > 0
            for notes in fitted.notes.values():
                assert notes["selection_image_mse"] > 0
                passes = [point[0] for point in notes["curve"]]
                assert passes == sorted(passes)
                assert passes[-1] == 80


@pytest.mark.parametrize(
    ("name", "params", "passes", "least"),
    [
        ("ridge", {}, 0, 60.0),
        ("ridge", {"choose": "selection"}, 0, 60.0),
        ("random-weights", {}, 0, 30.0),
        ("exact", {}, 0, 90.0),
        ("exact", {"metric": "euclidean"}, 0, 90.0),
        ("optimisation", {"iterations": 150, "tv": 0.0}, 0, 30.0),
        ("optimisation", {"iterations": 150, "tv": 0.0, "loss": "cosine"} | ADAM, 0, 25.0),
        ("optimisation", {"iterations": 150, "tv": 0.0, "loss": "standardised"}, 0, 30.0),
        ("graduated", {"iterations": 150, "smoothing_iterations": 50, "tv": 0.0}, 0, 30.0),
        ("mahendran2015", {"iterations": 150, "tv": 0.0, "alpha": 0.0}, 0, 30.0),
        ("mahendran2016", {"iterations": 150, "jitter": 1, "tv": 0.0, "alpha": 0.0}, 0, 20.0),
        ("plugin", {"iterations": 150, "colour_shift": 0.01}, 0, 25.0),
        ("fourier", {"iterations": 300, "tv": 0.0}, 0, 30.0),
        ("dip", {"iterations": 200, "width": 16, "depth": 3}, 0, 20.0),
        ("layerwise", TRAINED, 2400, 25.0),
        ("modular", TRAINED, 2400, 25.0),
        ("modular-finetuned", TRAINED, 1600, 20.0),
        ("modular-cycle", TRAINED, 960, 20.0),
        ("modular-noised", TRAINED, 960, 20.0),
        ("modular-predecessor", TRAINED, 960, 20.0),
        ("shared-chain", TRAINED, 1600, 20.0),
        ("layerwise", TRAINED | {"architecture": "paper"}, 2400, 20.0),
    ],
)
def test_recovers_images_from_a_known_linear_chain(
    small_chain: Model,
    make_problem: MakeProblem,
    name: str,
    params: dict[str, object],
    passes: int,
    least: float,
) -> None:
    """Two orthogonal maps lose nothing: a method that works finds the images again, far above the mean image."""
    problem = make_problem(small_chain, ("first", "second"), passes=passes, fit=160)
    images = scene_split(905, 4, 12).images(slice(0, 4))
    made = reconstruct(make_method(name, params), problem, images)
    floor = psnr(reconstruct(small("mean"), problem, images)["first"], images)
    for stage, image in made.items():
        assert psnr(image, images) > least, stage
        assert psnr(image, images) > floor + 6


def test_mean_is_the_mean_of_the_fit_images(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first",))
    made = reconstruct(small("mean"), problem, torch.rand(2, 3, 24, 24))["first"]
    torch.testing.assert_close(made[1], problem.fit.images(slice(None)).mean(0), atol=1e-6, rtol=0)


def test_trained_methods_do_not_depend_on_which_stages_train_together(
    small_chain: Model, make_problem: MakeProblem
) -> None:
    images = scene_split(904, 2, 12).images(slice(0, 2))
    together = make_problem(small_chain, ("first", "second"))
    for name in ("layerwise", "modular", "modular-finetuned", "modular-noised", "modular-predecessor", "shared-chain"):
        alone = replace(together, stages=("first",))
        both = reconstruct(small(name), together, images)["first"]
        assert torch.equal(reconstruct(small(name), alone, images)["first"], both), name


def test_the_seed_matters_to_trained_methods_only(small_chain: Model, make_problem: MakeProblem) -> None:
    images = scene_split(904, 2, 12).images(slice(0, 2))
    for name in TRIED:
        cls = METHODS[name]
        one = reconstruct(small(name), make_problem(small_chain, ("first",), seed=0), images)["first"]
        two = reconstruct(small(name), make_problem(small_chain, ("first",), seed=1), images)["first"]
        assert torch.equal(one, two) != cls.seeded, name


def test_equal_footing(small_vit: Model, make_problem: MakeProblem) -> None:
    """Layer-wise and modular train the same networks, on the same passes, with the same recipe."""
    problem = make_problem(small_vit, ("embed", "block03"), passes=160)
    layerwise, modular = small("layerwise").fit(problem), small("modular").fit(problem)
    assert Layerwise().recipe == Modular().recipe
    assert layerwise.cost.image_passes == modular.cost.image_passes == {"embed": 160, "block03": 160}
    total = modular.cost.parameters["embed"] + modular.cost.parameters["block03"]
    assert layerwise.cost.parameters["embed"] == modular.cost.parameters["embed"]
    assert layerwise.cost.parameters["block03"] == total


def test_inverse_networks_train_in_train_mode_and_score_in_eval_mode(
    linear_chain: Model, make_problem: MakeProblem
) -> None:
    modes: list[bool] = []
    frozen: list[bool] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            frozen.append(not any(m.training for m in linear_chain.network.modules()))
            return x.mean() * self.scale

    problem = make_problem(linear_chain, ("first",), passes=32)
    job = Trainee("spy", Spy(), ("first",), lambda m, images, t: (m(t["first"]) - 1).square())
    train(problem, [job], Recipe(evaluations=1))
    # a counted step, the start in eval mode, two steps in train mode, one selection batch in eval mode
    assert modes == [True, False, True, True, False]
    assert all(frozen)
    assert not job.module.training
    assert not job.module.scale.requires_grad


def test_training_that_diverges_says_so(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first",), passes=32)
    job = Trainee("bad", nn.Linear(192, 1), ("first",), lambda m, images, t: m(t["first"]).mean() * torch.nan)
    with pytest.raises(ConvergenceError, match="'bad'"):
        train(problem, [job], Recipe())


def test_ridge_is_least_squares_where_lambda_vanishes() -> None:
    """Against `torch.linalg.lstsq` with one dummy variable a place, on data with a position embedding."""
    torch.manual_seed(0)
    x, w, places = torch.randn(400, 3, 12), torch.randn(12, 5), torch.randn(3, 5)
    y = x @ w + places + 0.1 * torch.randn(400, 3, 5)
    x = x + 5 * torch.randn(3, 12)
    fit, select = NormalEquations(), NormalEquations()
    for rows in (slice(0, 100), slice(100, 300)):
        fit.add(x[rows], y[rows])
    select.add(x[300:], y[300:])
    found = solve(fit, select)
    assert found.relative < 1e-2
    dummies = torch.eye(3).expand(300, 3, 3)
    expected = torch.linalg.lstsq(torch.cat([x[:300], dummies], 2).flatten(0, 1), y[:300].flatten(0, 1)).solution
    torch.testing.assert_close(found.weight, expected[:12], atol=2e-3, rtol=0)
    torch.testing.assert_close(found.bias, expected[12:], atol=2e-2, rtol=0)


def test_ridge_chooses_the_lambda_of_least_selection_error() -> None:
    """The error computed from sums alone is the error of the predictions, for every lambda."""
    torch.manual_seed(0)
    x, w = torch.randn(90, 2, 20), torch.randn(20, 3)
    y = x @ w + 4 * torch.randn(90, 2, 3)
    fit, select = NormalEquations(), NormalEquations()
    fit.add(x[:30], y[:30])
    select.add(x[30:], y[30:])
    found = solve(fit, select)
    weight = found.weight.double()
    chosen = float((x[30:] @ found.weight + found.bias - y[30:]).square().sum(2).mean())
    mean_x, mean_y = fit.means()
    from_sums = error_of(weight, *select.around(mean_x, mean_y))
    assert from_sums == pytest.approx(chosen, rel=1e-4)
    unshrunk = torch.linalg.lstsq(
        (x[:30] - mean_x.float()).flatten(0, 1), (y[:30] - mean_y.float()).flatten(0, 1)
    ).solution
    plain = float(((x[30:] - mean_x) @ unshrunk.double() + mean_y - y[30:]).square().sum(2).mean())
    assert found.relative > 1e-4
    assert chosen < plain


def test_ridge_shrinks_on_noise() -> None:
    torch.manual_seed(0)
    fit, select = NormalEquations(), NormalEquations()
    fit.add(torch.randn(40, 1, 30), torch.randn(40, 1, 2))
    select.add(torch.randn(200, 1, 30), torch.randn(200, 1, 2))
    found = solve(fit, select)
    assert found.relative >= 1.0
    assert float(found.weight.abs().max()) < 0.2


def test_patches_and_images_are_inverse() -> None:
    images = torch.rand(2, 3, 24, 36)
    patches = patches_of(images, (3, 4))
    assert patches.shape == (2, 12, 3 * 8 * 9)
    assert torch.equal(images_from(patches, (3, 4), (24, 36)), images)
    assert torch.equal(patches[0, 1].view(3, 8, 9), images[0, :, :8, 9:18])


LAYOUTS = {
    "tokens": Layout("tokens", 20, (4, 6), 26, 2),
    "tokens without prefix": Layout("tokens", 24, (4, 6), 24),
    "map": Layout("map", 10, (4, 6)),
    "queries": Layout("queries", 16, None, 7),
    "image": image_layout((32, 48)),
    "finer map": Layout("map", 6, (8, 12)),
    "finer tokens": Layout("tokens", 6, (8, 12), 98, 2),
    "odd map": Layout("map", 6, (7, 11)),
    "large map": Layout("map", 4, (32, 48)),
    "many prefix tokens": Layout("tokens", 24, (4, 6), 29, 5),
    "detections": Layout("predictions", 9, None, 7, boxes=4),
    "classes": Layout("predictions", 5, None, 1),
}


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tokens", "tokens without prefix"),
        ("tokens", "map"),
        ("tokens", "image"),
        ("map", "map"),
        ("map", "image"),
        ("queries", "tokens"),
        ("queries", "map"),
        ("queries", "image"),
        ("detections", "queries"),
        ("detections", "map"),
        ("detections", "image"),
        ("classes", "tokens"),
        ("classes", "image"),
        ("map", "finer map"),
        ("map", "tokens"),
        ("map", "finer tokens"),
        ("tokens", "finer tokens"),
        ("tokens without prefix", "finer tokens"),
        ("tokens", "many prefix tokens"),
        ("tokens", "finer map"),
        ("queries", "finer tokens"),
        ("map", "odd map"),
        ("odd map", "finer tokens"),
        ("odd map", "image"),
        ("finer map", "odd map"),
        ("large map", "large map"),
        ("large map", "image"),
    ],
)
def test_inverse_networks_join_layouts(source: str, target: str, architecture: str) -> None:
    torch.manual_seed(0)
    before, after = LAYOUTS[source], LAYOUTS[target]
    network = make_inverse(before, after, InverseSettings(architecture, 16, 1, 1))
    made = network(torch.randn(3, *before.shape))
    assert tuple(made.shape[1:]) == after.shape
    made.square().mean().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert not silent, "every parameter is used"


@pytest.mark.parametrize(
    ("grid", "step"),
    [((14, 14), 1), ((28, 28), 1), ((56, 56), 2), ((32, 48), 2), ((80, 80), 4), ((128, 128), 8), ((31, 31), 1)],
)
def test_convolutions_take_several_places_of_a_fine_grid_as_one(grid: tuple[int, int], step: int) -> None:
    """No more than 28 worked places a side where the grid can be divided so; ``(n, n)`` of a prime is left whole."""
    assert coarsening(grid) == step
    layout = Layout("map", 4, grid)
    core = SpatialToSpatial(layout, layout, width=8, depth=1)
    seen = []
    core.body.register_forward_hook(lambda module, given, made: seen.append(tuple(made.shape[2:])))
    nn.init.normal_(core.leave.weight)
    x = torch.randn(1, *layout.shape)
    moved = x.clone()
    moved[..., -1, -1] += 1
    changed = ((core(moved) - core(x)).abs().amax((0, 1)) > 0).nonzero()
    assert seen == [(grid[0] // step, grid[1] // step)] * 2
    assert changed.amin() >= min(grid) - 3 * step - 1, "what is changed in a corner changes that corner"


def test_the_paper_architecture_is_sized_by_the_model() -> None:
    """ViT-B/16: transposed convolutions 768-256-64-16-3; a CNN map: a batch-normalised decoder; as many blocks as the
    components inverted have."""
    vit_b, image = Layout("tokens", 768, (14, 14), 197, 1), image_layout((224, 224))
    ladder = make_inverse(vit_b, image, InverseSettings("paper")).core
    steps = [m for m in ladder.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in steps] == [(768, 256), (256, 64), (64, 16), (16, 3)]
    assert all(m.stride == (2, 2) for m in steps)
    blocks = make_inverse(vit_b, vit_b, InverseSettings("paper", blocks=3)).core.blocks
    assert len(blocks) == 3
    assert blocks[0].mlp.fc1.out_features == 4 * 768
    resnet = make_inverse(Layout("map", 64, (7, 7)), image, InverseSettings("paper")).core
    assert sum(isinstance(m, nn.BatchNorm2d) for m in resnet.modules()) == 5
    swin = make_inverse(Layout("map", 64, (7, 7)), Layout("map", 32, (14, 14)), InverseSettings("paper", blocks=2)).core
    assert len(swin.blocks) == 2
    assert len(swin.splits) == 1
    fourteen = make_inverse(Layout("tokens", 32, (2, 2), 4), image_layout((28, 28)), InverseSettings("paper"))
    assert fourteen(torch.rand(1, 4, 32)).shape == (1, 3, 28, 28)


def test_predictions_are_read_as_decisions_or_probabilities() -> None:
    """``paper`` sees the class and the box; ``light`` also how sure the model was. Neither standardises logits."""
    torch.manual_seed(0)
    source, target = LAYOUTS["detections"], LAYOUTS["queries"]
    answer = torch.randn(2, 7, 9)
    surer, elsewhere = answer.clone(), answer.clone()
    surer[..., :5] *= 3
    elsewhere[..., 5:] += 0.3
    for architecture, reads_confidence in (("paper", False), ("light", True)):
        network = make_inverse(source, target, InverseSettings(architecture, 16))
        network.source_scale.set(answer.mean(0), torch.arange(1.0, 10)[None])
        assert torch.allclose(network(answer), network(surer)) != reads_confidence
        assert not torch.allclose(network(answer), network(elsewhere))


def test_batch_normalised_inverses_use_running_statistics_when_scoring(
    small_detr: Model, make_problem: MakeProblem
) -> None:
    """An image's reconstruction does not depend on which others are in its batch, and the statistics were trained."""
    problem = make_problem(small_detr, ("backbone",))
    fitted = make_method("layerwise", {"architecture": "paper"}).fit(problem)
    found = small_detr.represent(scene_split(904, 3, 48).images(slice(0, 3)), ("backbone",))["backbone"]
    together = fitted.inverter.invert(found)
    alone = fitted.inverter.invert(found[slice(0, 1)])
    torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=0)
    norms = [m for m in fitted.inverter.chains["backbone"].modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.num_batches_tracked == 4 and not m.training for m in norms), "four steps; counting one left no trace"


@pytest.mark.parametrize("architecture", get_args(Architecture))
@pytest.mark.parametrize(("which", "last"), [("small_vit", "head"), ("small_detr", "prediction")])
def test_predictions_are_a_stage(
    which: str, last: str, architecture: str, make_problem: MakeProblem, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(which)
    images = scene_split(904, 2, 48).images(slice(0, 2))
    assert model.stages[-1] == last
    problem = make_problem(model, (model.stages[-2], last), passes=16)
    for name, params in (("modular", {"architecture": architecture, "width": 16, "depth": 1}), ("ridge", {})):
        made = reconstruct(make_method(name, params), problem, images)[last]
        assert made.shape == images.shape
        assert model.represent(images, [last])[last].tensor.shape[1:] == model.layout(last).shape


def test_inverse_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no inverse network"):
        make_inverse(LAYOUTS["map"], LAYOUTS["queries"], InverseSettings("light", 8, 1))


def test_channel_scales_are_measured() -> None:
    layout = Layout("tokens", 3, (2, 2), 4)
    network = InverseNetwork(layout, layout, nn.Identity())
    values = torch.randn(50, 4, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([5.0, 0.0, 2.0])
    values += torch.tensor([[0.0], [100.0], [0.0], [-3.0]])  # a position embedding
    moments = Moments(layout)
    for part in (values[:20], values[20:]):
        moments.add(part)
    network.source_scale.set(moments.mean, moments.std)
    scaled = network.source_scale(values)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.square().mean((0, 1))[:2], torch.ones(2), atol=1e-3, rtol=0)
    assert torch.isfinite(scaled).all()
    as_map = Moments(Layout("map", 3, (2, 2)))
    as_map.add(values.transpose(1, 2).unflatten(2, (2, 2)))
    torch.testing.assert_close(as_map.std.flatten(), moments.std.flatten())
    torch.testing.assert_close(as_map.mean.flatten(1).T, moments.mean)


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("rigde", {}, "did you mean ridge"),
        ("optimisation", {"iteration": 3}, "did you mean methods.optimisation.iterations"),
        ("optimisation", {"iterations": "many"}, "expected a whole number"),
        ("modular", {"recipe": {"learning": 1.0}}, "did you mean methods.modular.recipe.learning_rate"),
        ("optimisation", {"pixels": "fuorier"}, "did you mean fourier"),
        ("optimisation", {"restarts": 0}, "'methods.optimisation.restarts' is 0, expected 1 or more"),
        ("dip", {"learning_rate": 0.0}, "'methods.dip.learning_rate' is 0.0, expected more than 0"),
        ("mahendran2015", {"tv_at": {"embed": -1}}, "'methods.mahendran2015.tv_at.embed' is -1"),
        ("ridge", {"choose": "gvc"}, "did you mean gcv"),
        ("ridge", {"neighbourhood": 2}, "expected 1, 3, 5"),
        ("exact", {"metric": "euclid"}, "did you mean euclidean"),
        ("fixedpoint", {"tolerance": 0.0}, "expected more than 0"),
        ("random-weights", {"inverse": "rigde"}, "did you mean ridge"),
        ("random-weights", {"inverse": "bicubic"}, "'bicubic', which inverts nothing"),
        ("modular", {"architecture": "papr"}, "unknown methods.modular.architecture 'papr': did you mean paper"),
        ("modular", {"width": 0}, "'methods.modular.width' is 0, expected 1 or more"),
        ("modular-cycle", {"share": 1.5}, "'methods.modular-cycle.share' is 1.5, expected more than 0 and less than 1"),
        ("modular-finetuned", {"rate": 0.0}, "'methods.modular-finetuned.rate' is 0.0"),
        ("modular-noised", {"noise": -0.1}, "'methods.modular-noised.noise' is -0.1"),
    ],
)
def test_wrong_parameters_are_named(kind: str, params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_method(kind, params)
