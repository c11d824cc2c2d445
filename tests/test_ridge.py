"""Ridge: lambda by generalised cross-validation, neighbourhoods, one set of targets for stages that share a grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import scene_split

from invsuite._system.linear import LAMBDAS, Examples, NormalEquations, solve
from invsuite.methods.problem import Problem
from invsuite.methods.ridge import Readout, Ridge
from invsuite.models.base import Layout, Model

MakeProblem = Callable[..., Problem]


def rows(count: int, seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one place each, targets a linear map of features of very different scales."""
    truth = torch.randn(10, 3, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 10, generator=generator) * torch.logspace(-2, 2, 10) + 5
    y = x / torch.logspace(-2, 2, 10) @ truth + noise * torch.randn(count, 3, generator=generator)
    return x[:, None], y[:, None]


def held_out_error(weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x @ weight + bias - y).square().sum(-1).mean())


def equations(x: torch.Tensor, y: torch.Tensor) -> NormalEquations:
    found = NormalEquations()
    found.add(x, y)
    return found


def test_gcv_is_its_definition() -> None:
    """Against the hat matrix of the standardised, centred features, written out."""
    x, y = (t.double() for t in rows(60, 0, 1.0))
    spectrum = equations(x, y).spectrum()
    x, y = x[:, 0], y[:, 0]
    centred = x - x.mean(0)
    standard = centred / centred.square().mean(0).sqrt()
    target = y - y.mean(0)
    for relative in (1e-3, 0.1, 10.0):
        gram = standard.T @ standard / 60
        penalty = relative * gram.diagonal().mean()
        hat = standard @ torch.linalg.solve(gram + penalty * torch.eye(10), standard.T) / 60
        residual = (target - hat @ target).square().sum() / 60
        degrees = 1 + float(hat.trace())
        error, found = spectrum.gcv(relative)
        assert found == pytest.approx(degrees, rel=1e-6)
        assert error == pytest.approx(float(residual) / (1 - degrees / 60) ** 2, rel=1e-6)


@pytest.mark.parametrize(("count", "noise"), [(40, 3.0), (400, 0.01)])
def test_gcv_finds_a_lambda_about_as_good_as_the_best(count: int, noise: float) -> None:
    fit, held_out = equations(*rows(count, 1, noise)), rows(2000, 2, noise)
    found = solve(fit, None)
    best = solve(fit, equations(*held_out))
    error, least = (held_out_error(s.weight, s.bias, *held_out) for s in (found, best))
    assert error <= 1.15 * least
    assert 1 < found.degrees <= 11
    assert found.gcv is not None


def test_features_that_vary_little_around_a_large_value_keep_their_variance() -> None:
    """In float32, as features come; each batch has its own mean."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(96, 4, 12, generator=generator) * 0.01 + torch.logspace(-1, 2, 12)
    y = torch.randn(96, 4, 3, generator=generator) + x[..., :3] * 20
    plain, exact = NormalEquations(), NormalEquations()
    for part in (slice(0, 16), slice(16, 96)):
        plain.add(x[part], y[part])
        exact.add(x[part].double(), y[part].double())
    for found, true in zip(plain.around(*plain.means()), exact.around(*exact.means()), strict=True):
        expected = torch.as_tensor(true)
        assert torch.allclose(torch.as_tensor(found), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert plain.rows == exact.rows == 96 * 4


def test_gcv_with_fewer_rows_than_features_shrinks() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 1, 80, generator=generator), torch.randn(20, 1, 4, generator=generator)
    found = solve(equations(x, y), None)
    assert found.degrees < 20
    assert torch.isfinite(found.weight).all()
    single = solve(equations(x[:1], y[:1]), None)
    assert single.relative == LAMBDAS[-1]
    assert torch.isfinite(single.weight).all()


@pytest.mark.parametrize("chosen", ["gcv", "selection"])
def test_the_dual_form_is_the_same_ridge(chosen: str) -> None:
    """Fewer rows than features, a constant feature among them: weights, degrees and error are those of the sums."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, 1, 90, generator=generator) * torch.logspace(-1, 1, 90) + 3
    x[..., 7] = 2.0
    y = x[..., :40] @ torch.randn(40, 4, generator=generator) + torch.randn(70, 1, 4, generator=generator)
    found = []
    for kind in (NormalEquations, Examples):
        fit, select = kind(), kind()
        for rows in (slice(0, 25), slice(25, 50)):
            fit.add(x[rows].double(), y[rows].double())
        select.add(x[50:].double(), y[50:].double())
        found.append(solve(fit, select if chosen == "selection" else None))
    sums, dual = found
    assert dual.relative == sums.relative
    assert dual.degrees == pytest.approx(sums.degrees, rel=1e-6)
    assert dual.gcv == pytest.approx(sums.gcv, rel=1e-6)
    assert torch.allclose(dual.weight, sums.weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(dual.bias, sums.bias, rtol=1e-4, atol=1e-4)


def test_the_dual_form_of_a_single_row_is_its_target() -> None:
    x, y = torch.ones(1, 1, 9), torch.full((1, 1, 2), 0.3)
    fit = Examples()
    fit.add(x, y)
    found = solve(fit, None)
    assert torch.allclose(x[0] @ found.weight + found.bias, y[0])


def test_a_neighbourhood_is_the_tokens_around_with_zeros_beyond_the_border() -> None:
    layout = Layout("tokens", 5, (3, 4), 13, 1)
    tokens = torch.randn(2, 13, 5)
    found = Readout(layout, (24, 32), 3).features(tokens).view(2, 3, 4, 5, 3, 3)
    grid = tokens[:, 1:].view(2, 3, 4, 5)
    assert torch.equal(found[..., 1, 1], grid)
    assert torch.equal(found[:, 1, 1, :, 0, 2], grid[:, 0, 2])
    assert float(found[:, 0, :, :, 0].abs().max()) == 0
    plain = Readout(layout, (24, 32)).features(tokens)
    assert torch.equal(plain, grid.reshape(2, 12, 5))
    as_map = Layout("map", 5, (3, 4))
    assert torch.equal(Readout(as_map, (24, 32)).features(layout.to_map(tokens)), plain)


def test_neighbours_help_where_a_layer_mixes_places(vit: Model, make_problem: MakeProblem) -> None:
    images = scene_split(909, 6).images(slice(0, 6))
    problem = make_problem(vit, ("block01",), fit=96)
    found = vit.represent(images, ["block01"])["block01"]

    def error(neighbourhood: int) -> float:
        fitted = Ridge(neighbourhood=neighbourhood).fit(problem)
        assert fitted.notes["block01"]["features"] == 96 * neighbourhood**2
        return float((fitted.invert(found, images) - images).square().mean())

    assert error(3) < error(1)


def test_stages_of_one_pass_are_as_if_alone(vit: Model, make_problem: MakeProblem) -> None:
    images = scene_split(909, 2).images(slice(0, 2))
    found = vit.represent(images, ["embed", "block03"])
    both = Ridge().fit(make_problem(vit, ("embed", "block03")))
    for stage in ("embed", "block03"):
        alone = Ridge().fit(make_problem(vit, (stage,)))
        assert torch.equal(both.invert(found[stage], images), alone.invert(found[stage], images))
        assert both.notes[stage]["rows"] == 48 * 144
        assert both.notes[stage]["lambda_relative"] in LAMBDAS


def test_a_grid_that_does_not_divide_the_image_is_read_too() -> None:
    """Strides that round (299 px to 147 places): patches lie on the next larger image, which is resized."""
    layout = Layout("map", 4, (5, 3))
    readout = Readout(layout, (32, 32))
    assert readout.whole == (35, 33)
    images = torch.linspace(0, 1, 32).expand(2, 3, 32, 32)
    rows = readout.targets(images)
    assert rows.shape == (2, 15, 3 * 7 * 11)
    torch.testing.assert_close(readout.images(rows), images, atol=0.02, rtol=0)
