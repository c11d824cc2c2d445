"""Floors, also those that are shown the image, and random weights."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from helpers import scene_split

from invsuite._system import spill
from invsuite._system.spill import SpilledTensor
from invsuite.errors import NotApplicable
from invsuite.methods import make_method
from invsuite.methods.floors import thumbnail_size
from invsuite.methods.problem import Problem
from invsuite.models.base import Model
from invsuite.registry import METHODS

MakeProblem = Callable[..., Problem]


@pytest.mark.parametrize(
    ("size", "values", "expected"),
    [
        ((96, 96), 27648, (96, 96)),
        ((96, 96), 10**9, (96, 96)),
        ((224, 224), 197 * 192, (112, 112)),
        ((600, 800), 3 * 12, (3, 4)),
        ((100, 10), 9, (3, 1)),
        ((10, 100), 9, (1, 3)),
        ((64, 64), 3, (1, 1)),
    ],
)
def test_thumbnails_hold_at_most_the_representations_values(
    size: tuple[int, int], values: int, expected: tuple[int, int]
) -> None:
    found = thumbnail_size(size, values)
    assert found == expected
    assert 3 * found[0] * found[1] <= max(values, 3)


def test_two_values_are_no_thumbnail() -> None:
    with pytest.raises(NotApplicable, match="2 values hold no RGB pixel"):
        thumbnail_size((8, 8), 2)


LOADED = ("rathjens", "rae")  # they read files of others


def test_only_methods_that_say_so_are_shown_the_image(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first",))
    quick = [n for n, m in METHODS.items() if (not m.uses_budget and n not in LOADED) or n == "random-weights"]
    for name in quick:
        assert make_method(name, {}).fit(problem).inverter.uses_image == METHODS[name].uses_image
    assert all(m.family == "floor" for m in METHODS.values() if m.uses_image)


def test_mean_colour_and_bicubic(linear_chain: Model, make_problem: MakeProblem) -> None:
    images = scene_split(908, 3, 24).images(slice(0, 3))
    problem = make_problem(linear_chain, ("first",))
    found = linear_chain.represent(images, ["first"])["first"]
    colour = make_method("mean-colour", {}).fit(problem).invert(found, images)
    torch.testing.assert_close(colour[1, :, 5, 7], images[1].mean((1, 2)))
    fitted = make_method("bicubic", {}).fit(problem)
    assert torch.equal(fitted.invert(found, images), images), "as many values as the image"
    assert fitted.notes["first"]["thumbnail"] == [24, 24]


@pytest.mark.parametrize(
    ("memory", "disk", "where"),
    [(0.25, 0.5, "in memory"), (0.0, 0.5, "on disk"), (0.0, 0.0, "computed again"), (0.0, -1.0, "computed again")],
)
def test_nearest_finds_a_fit_image_again(
    memory: float, disk: float, where: str, vit: Model, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever features are kept; a negative share of the disk stands for one that is full when it is written to."""
    monkeypatch.setattr(spill, "MEMORY_SHARE", memory)
    monkeypatch.setattr(spill, "DISK_SHARE", abs(disk))
    if disk < 0:
        monkeypatch.setattr(SpilledTensor, "__init__", Mock(side_effect=OSError))
    problem = make_problem(vit, ("embed", "block03"))
    fitted = make_method("nearest", {}).fit(problem)
    assert fitted.notes["embed"]["features"] == where
    assert (fitted.cost.parameters["embed"] > 0) == (where != "computed again")
    images = problem.fit.images([40, 7, 33])
    for found in vit.represent(images, problem.stages).values():
        assert torch.equal(fitted.invert(found, images), images)


def test_a_randomised_model_is_another_and_the_seed_decides_which(vit: Model, detr: Model) -> None:
    for model in (vit, detr):
        before = model.fingerprint()
        torch.manual_seed(1)
        state = torch.get_rng_state()
        one, two, other = model.randomised(0), model.randomised(0), model.randomised(1)
        assert torch.equal(torch.get_rng_state(), state), "the global generator is untouched"
        assert model.fingerprint() == before
        assert one.fingerprint() == two.fingerprint() == one.origin.sha256
        assert len({one.fingerprint(), other.fingerprint(), before}) == 3
        one.check_frozen()
        assert one.stages == model.stages
        own = {name: value for name, value in model.network.named_parameters() if value.numel() > 1}
        for name, value in one.network.named_parameters():
            assert torch.isfinite(value).all()
            if name in own and float(own[name].std()) > 0:
                assert not torch.equal(value, own[name]), name
        images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(2))
        found = one.represent(images, model.stages)
        assert all(torch.isfinite(f.tensor).all() for f in found.values())
        first = model.stages[0]
        assert not torch.allclose(found[first].tensor, model.represent(images, [first])[first].tensor)


def test_a_model_that_cannot_be_rebuilt_says_so() -> None:
    from invsuite.models.base import Component, Layout, Prediction, WeightsOrigin

    layout = Layout("map", 3, (4, 4))
    identity = torch.nn.Conv2d(3, 3, 1)
    model = Model(
        "odd", identity, [Component("a", identity, layout)], (4, 4), "classification", WeightsOrigin("t", "0"),
        Prediction, Prediction,
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="model 'odd' cannot rebuild"):
        model.randomised(0)
