"""The descent engine: independence of images, determinism, the curve, priors and parametrisations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import scene_split

from invsuite._system.flops import count_flops
from invsuite.benchmark.scoring import flops_per_image
from invsuite.methods import make_method
from invsuite.methods.base import Snapshot
from invsuite.methods.optimisation.engine import feature_loss, snapshot_marks
from invsuite.methods.optimisation.pixels import ClampedPixels, FourierPixels, ImagePrior, SigmoidPixels
from invsuite.methods.optimisation.presets import Mahendran2015, Optimisation
from invsuite.methods.optimisation.priors import Views, alpha_norm, total_variation
from invsuite.methods.problem import Problem
from invsuite.models.base import Model

MakeProblem = Callable[..., Problem]
PRESETS = ("optimisation", "mahendran2015", "mahendran2016", "plugin", "fourier", "dip")
FEW: dict[str, dict[str, object]] = {
    name: {"iterations": 4, "jitter": 2, "zoom": 0.1, "colour_shift": 0.05} for name in PRESETS
}
FEW["dip"] = {"iterations": 2, "width": 4, "depth": 2}


@pytest.mark.parametrize("name", PRESETS)
def test_an_image_descends_alike_whatever_stands_beside_it(
    name: str, linear_chain: Model, make_problem: MakeProblem
) -> None:
    images = scene_split(906, 3, 24).images(slice(0, 3))
    fitted = make_method(name, dict(FEW[name])).fit(make_problem(linear_chain, ("second",)))
    found = linear_chain.represent(images, ["second"])["second"]
    together = fitted.invert(found, images)
    alone = fitted.invert(found[slice(2, 3)], images[2:])
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=0)


def test_the_curve_is_told_and_the_last_point_is_what_is_returned(
    linear_chain: Model, make_problem: MakeProblem
) -> None:
    images = scene_split(906, 5, 24).images(slice(0, 5))
    method = Mahendran2015(iterations=12, restarts=2, batch=3)
    inverter = method.fit(make_problem(linear_chain, ("first",))).inverter
    told: list[Snapshot] = []
    found = linear_chain.represent(images, ["first"])["first"]
    made = inverter.invert_watched(found, told.append)
    one_batch = [0, 1, 2, 5, 10, 12, 13, 14, 17, 22, 24]
    assert [s.iteration for s in told] == one_batch * 2
    assert torch.equal(torch.cat([s.images for s in told if s.iteration == 24]), made)
    assert [len(s.loss) for s in told[:11]] == [3] * 11
    assert told[4].loss.mean() < told[0].loss.mean()
    assert told[10].seconds >= told[0].seconds
    assert torch.equal(inverter.invert_watched(found, None), made), "watching changes nothing"


@pytest.mark.parametrize("name", PRESETS)
def test_two_iterations_tell_the_operations_of_all(name: str, vit: Model, make_problem: MakeProblem) -> None:
    images = scene_split(906, 1).images(slice(0, 1))
    settings = FEW[name] | {"iterations": 4} | ({"restarts": 2} if name == "mahendran2015" else {})
    fitted = make_method(name, settings).fit(make_problem(vit, ("block01",)))
    found = vit.represent(images, ["block01"])["block01"]
    whole = count_flops(lambda: fitted.invert(found, images))
    assert fitted.inverter.iterations == 4
    assert flops_per_image(vit, "block01", fitted.inverter, images) == whole > 0


def test_restarts_keep_the_best_of_each_image(linear_chain: Model, make_problem: MakeProblem) -> None:
    images = scene_split(906, 2, 24).images(slice(0, 2))
    problem = make_problem(linear_chain, ("first",))
    found = linear_chain.represent(images, ["first"])["first"]

    def loss(restarts: int) -> torch.Tensor:
        method = Mahendran2015(iterations=3, restarts=restarts, tv=0.0, alpha=0.0)
        made = method.fit(problem).invert(found, images)
        seen = linear_chain.represent(made, ["first"])["first"].tensor
        return feature_loss(seen.flatten(1), found.tensor.flatten(1), "l2")

    assert bool((loss(3) <= loss(1) + 1e-6).all())


def test_the_prior_has_its_own_strength_at_a_stage(linear_chain: Model, make_problem: MakeProblem) -> None:
    images = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    problem = make_problem(linear_chain, ("first", "second"))
    found = linear_chain.represent(images, ("first", "second"))
    fitted = make_method("optimisation", {"iterations": 30, "tv": 0.0, "tv_at": {"second": 50.0}}).fit(problem)
    rough, smooth = (float(total_variation(fitted.invert(found[s], images))) for s in ("first", "second"))
    assert smooth < 0.5 * rough


def test_losses_and_priors_against_their_formulas() -> None:
    found, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(feature_loss(found, target, "l2"), torch.tensor([9 / 16, 5 / 4]))
    torch.testing.assert_close(feature_loss(found, target, "cosine"), torch.tensor([1 - 16 / 20, 1.0]))
    image = torch.zeros(1, 3, 2, 2)
    image[..., 1] = 0.5
    torch.testing.assert_close(total_variation(image), torch.tensor([0.25]))
    bound = 80 / 255
    torch.testing.assert_close(
        alpha_norm(image, torch.zeros(1, 3, 1, 1)), torch.tensor([0.5 * (0.75**0.5 / bound) ** 6])
    )


def test_schedules() -> None:
    steps = Optimisation(iterations=8, learning_rate=1.0, schedule="step", drops=3, drop_by=10.0)
    assert [steps.rate(i) for i in range(8)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert Optimisation(iterations=4, schedule="constant").rate(3) == 0.1
    linear = Optimisation(iterations=4, learning_rate=1.0)
    assert [linear.rate(i) for i in range(4)] == [1, 1, 1, 0.5]
    assert snapshot_marks(30) == {0, 1, 2, 5, 10, 20}


@pytest.mark.parametrize("kind", [SigmoidPixels, ClampedPixels, FourierPixels])
@pytest.mark.parametrize("size", [(8, 12), (9, 7)])
def test_parametrisations_begin_at_the_start_and_stay_in_range(kind: type, size: tuple[int, int]) -> None:
    start = torch.full((2, 3, *size), 0.3)
    pixels = kind(start, None)
    torch.testing.assert_close(pixels.images(), start)
    pixels.images()[0].sum().backward()
    (gradient,) = (p.grad for p in pixels.parameters)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[1].abs().max()) == 0, "no parameter is shared"
    with torch.no_grad():
        pixels.parameters[0].add_(1e3)
    pixels.project()
    assert float(pixels.images().detach().min()) >= 0
    assert float(pixels.images().detach().max()) <= 1


def test_a_deep_image_prior_has_a_network_for_each_image() -> None:
    pixels = ImagePrior(2, (17, 12), 4, 3, torch.Generator().manual_seed(0), torch.device("cpu"))
    made = pixels.images()
    assert made.shape == (2, 3, 17, 12)
    torch.testing.assert_close(made[0], made[1])
    made[0].sum().backward()
    for weight in pixels.parameters:
        assert weight.grad is not None
        assert float(weight.grad[1].abs().max()) == 0


def test_views_depend_on_their_generator_alone() -> None:
    images = torch.rand(2, 3, 16, 16)
    one, two = (Views(3, 0.2, 0.1, torch.Generator().manual_seed(7)) for _ in range(2))
    first = one(images)
    assert first.shape == images.shape
    assert torch.equal(first[:1], two(images[:1]))
    assert not torch.equal(first, one(images))
    plain = Views(0, 0.0, 0.0, torch.Generator())
    assert plain(images) is images
