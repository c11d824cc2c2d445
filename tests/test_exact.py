"""Exact and fixed-point inversion: found by probing, exact where rank allows, honest where not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from helpers import scene_split
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from invsuite.errors import NotApplicable
from invsuite.methods.base import Fitted
from invsuite.methods.exact import Exact, FixedPoint, PatchInverse, fixed_point, probe_patch_map
from invsuite.methods.problem import Problem
from invsuite.methods.ridge import Ridge, patches_of
from invsuite.models.base import Component, Model, WeightsOrigin
from invsuite.models.timm import timm_chain

MakeProblem = Callable[..., Problem]


def small_vit(width: int, gain: float = 1.0) -> Model:
    """A ViT of two blocks with patch 4 (48 values) on 24 px, the blocks' outputs scaled by ``gain``."""
    torch.manual_seed(3)
    network = VisionTransformer(img_size=24, patch_size=4, embed_dim=width, depth=2, num_heads=2, num_classes=3)
    for block in network.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.data.mul_(gain)
    return timm_chain("small", network, (24, 24), (0.5,) * 3, (0.25,) * 3, WeightsOrigin("random", "0" * 64))


def score(fitted: Fitted, model: Model, stage: str) -> float:
    images = scene_split(907, 4, 24).images(slice(0, 4))
    made = fitted.invert(model.represent(images, [stage])[stage], images)
    return float(-10 * F.mse_loss(made, images).log10())


@pytest.mark.parametrize("metric", ["euclidean", "mahalanobis"])
def test_a_full_rank_embedding_is_inverted_exactly(metric: str, make_problem: MakeProblem) -> None:
    model = small_vit(64)
    fitted = Exact(metric).fit(make_problem(model, ("embed", "block01")))
    assert score(fitted, model, "embed") > 60
    notes = fitted.notes["embed"]
    assert notes["rank"] == 48
    assert notes["unique"]
    assert 1 < notes["condition_number"] < 1e4
    with pytest.raises(NotApplicable, match="'block01' of model 'small' is not an affine map"):
        fitted.invert(model.represent(torch.rand(1, 3, 24, 24), ["block01"])["block01"], torch.zeros(0))


def test_where_rank_is_missing_the_result_still_fits_and_is_the_best_linear_one(make_problem: MakeProblem) -> None:
    model = small_vit(16)
    problem = make_problem(model, ("embed",))
    plain, best = Exact("euclidean").fit(problem), Exact("mahalanobis").fit(problem)
    assert plain.notes["embed"]["rank"] == 16
    assert not plain.notes["embed"]["unique"]
    floors = score(plain, model, "embed"), score(best, model, "embed"), score(Ridge().fit(problem), model, "embed")
    assert floors[1] > floors[0] + 1
    assert floors[1] == pytest.approx(floors[2], abs=0.3), "ridge finds the same linear map from examples"


def test_the_matrix_is_the_embeddings_own() -> None:
    model = small_vit(20)
    found = probe_patch_map(model, "embed")
    convolution = model.network.patch_embed.proj
    expected = convolution.weight.flatten(1).T.double() / 0.25
    torch.testing.assert_close(found.matrix, expected, atol=1e-4, rtol=1e-3)
    tokens = model.represent(torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1)), ["embed"])["embed"]
    patches = patches_of(torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1)), (6, 6))[0].double()
    torch.testing.assert_close(patches @ found.matrix + found.offset, tokens.tensor[0, 1:].double(), atol=1e-4, rtol=0)


def test_of_all_patches_that_fit_the_nearest_to_the_mean_is_given() -> None:
    model = small_vit(16)
    found = probe_patch_map(model, "embed")
    mean = torch.full((48,), 0.5, dtype=torch.float64)
    inverse = PatchInverse.of(model, "embed", found, mean, None).tensors["inverse"]
    torch.testing.assert_close(found.matrix.T @ inverse.T @ found.matrix.T, found.matrix.T)
    within = inverse @ found.matrix
    torch.testing.assert_close(within, torch.eye(16, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_map_that_mixes_places_is_refused(linear_chain: Model) -> None:
    class Mix(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.mean(1, keepdim=True)

    first = linear_chain.components[0]
    parts = [first, Component("mixed", Mix(), first.layout), linear_chain.components[-1]]
    network = linear_chain.network
    origin, reference = linear_chain.origin, linear_chain.reference
    model = Model("mixing", network, parts, (24, 24), "classification", origin, linear_chain._split, reference)
    with pytest.raises(NotApplicable, match="mixes places"):
        probe_patch_map(model, "mixed")


def test_fixed_point_inverts_contractive_blocks_and_says_so(make_problem: MakeProblem) -> None:
    model = small_vit(64, gain=0.1)
    fitted = FixedPoint().fit(make_problem(model, ("embed", "block02")))
    assert score(fitted, model, "block02") > 50
    found = fitted.inverter.findings("block02")
    assert found["converged"]
    assert [block["block"] for block in found["blocks"]] == ["block02", "block01"]
    assert all(block["residual_max"] <= 1e-5 and block["images"] == 4 for block in found["blocks"])
    assert fitted.inverter.findings("block02") == {"blocks": [], "converged": True}, "findings are told once"
    assert score(fitted, model, "embed") > 60


def test_fixed_point_says_where_it_does_not_converge(make_problem: MakeProblem) -> None:
    model = small_vit(64, gain=300.0)
    fitted = FixedPoint(iterations=10).fit(make_problem(model, ("block02",)))
    score(fitted, model, "block02")
    found = fitted.inverter.findings("block02")
    assert not found["converged"]
    assert all(block["residual"] < float("inf") for block in found["blocks"])


def test_fixed_point_keeps_the_best_iterate() -> None:
    class Steep(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 3 * x

    output = torch.ones(2, 1, 4)
    best, residual, _ = fixed_point(Steep(), output, 40, 1e-6)
    assert torch.equal(best, output)
    torch.testing.assert_close(residual, torch.tensor([3.0, 3.0]))


def test_fixed_point_needs_blocks_that_keep_the_layout(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first", "second"))
    assert not FixedPoint().fit(problem).refused
    from invsuite.models.base import Layout

    first, second, head = linear_chain.components
    other = Component("second", second.module, Layout("tokens", 192, (1, 9), 9))
    model = Model(
        "linear", linear_chain.network, [first, other, head], (24, 24), "classification", linear_chain.origin,
        linear_chain._split, linear_chain.reference,
    )  # fmt: skip
    fitted = FixedPoint().fit(make_problem(model, ("first", "second")))
    assert set(fitted.refused) == {"second"}
    assert "no residual block" in str(fitted.refused["second"])
