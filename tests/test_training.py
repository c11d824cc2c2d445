"""The training loop and its budgets: what a step does, when it ends, what it counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invsuite._system.flops import count_flops
from invsuite.errors import UsageError
from invsuite.methods import make_method
from invsuite.methods.problem import Budget, Problem
from invsuite.methods.training.engine import Trainee, train
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Model

MakeProblem = Callable[..., Problem]


def linear_trainee(name: str = "linear") -> Trainee:
    """A linear readout of the second stage's tokens to the first's: 192 x 192 weights and 192 biases."""
    torch.manual_seed(1)
    return Trainee(
        name, nn.Linear(192, 192), ("first", "second"), lambda m, images, t: F.mse_loss(m(t["second"]), t["first"])
    )


def test_the_loop_is_plain_adamw_with_warm_up_cosine_and_clipping(
    linear_chain: Model, make_problem: MakeProblem
) -> None:
    """The loop's weights are, bit for bit, those of its description written out here with torch's own scheduler."""
    problem, recipe = make_problem(linear_chain, ("first", "second"), passes=200), Recipe(warmup=0.2)
    trainee = linear_trainee()
    train(problem, [trainee], recipe)

    plain, steps, size = linear_trainee().module, math.ceil(200 / 16), 16
    optimiser = torch.optim.AdamW(
        plain.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )

    def rate(step: int) -> float:
        rising = min(1.0, (step + 1) / max(1, round(recipe.warmup * steps)))
        return rising * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.005)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    generator = torch.Generator().manual_seed(problem.seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += torch.randperm(len(problem.fit), generator=generator).tolist()
        rows, order = order[:size], order[size:]
        images = problem.fit.images(rows)
        mirrored = torch.rand(size, generator=generator) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        found = linear_chain.represent(images, ("first", "second"))
        optimiser.zero_grad()
        F.mse_loss(plain(found["second"].tensor), found["first"].tensor).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), recipe.clip, foreach=True)
        optimiser.step()
        scheduler.step()
    # the loss falls from evaluation to evaluation here, so the selected weights are the last
    assert torch.equal(trainee.module.weight, plain.weight)
    assert torch.equal(trainee.module.bias, plain.bias)


def test_operations_of_a_step_are_counted(linear_chain: Model, make_problem: MakeProblem) -> None:
    """One linear map costs two operations a weight and token forward, and again for the gradient of its weights."""
    problem = make_problem(linear_chain, ("first", "second"), passes=64)
    result = train(problem, [linear_trainee()], Recipe()).results["linear"]
    tokens = 16 * 9
    assert result.cost.flops == 4 * (2 * 2 * tokens * 192 * 192)
    assert result.cost.frozen_flops == 4 * (2 * 2 * tokens * 192 * 192), "a patch convolution and a linear map, forward"


def test_attention_is_counted_by_its_formula() -> None:
    q = torch.rand(2, 3, 10, 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 3 * 10 * 10 * 8)


def test_a_budget_of_operations_is_a_number_of_steps(linear_chain: Model, make_problem: MakeProblem) -> None:
    """Each job takes the steps its own cost allows; one that ends early does not stop the other."""
    problem = make_problem(linear_chain, ("first", "second"))
    step = 2 * 2 * 16 * 9 * 192 * 192
    costly = linear_trainee("costly")
    costly.objective = lambda m, images, t: F.mse_loss(m(t["second"]), t["first"]) + 0 * m(t["second"]).sum()
    limited = replace(problem, budget=Budget(batch=16, flops=5.5 * step))
    report = train(limited, [linear_trainee(), costly], Recipe())
    assert report.results["linear"].cost.image_passes == 5 * 16
    assert report.results["costly"].cost.image_passes == 2 * 16
    assert all(o.cost.flops <= 5.5 * step for o in report.results.values())
    alone = linear_trainee()
    train(limited, [alone], Recipe())
    together = linear_trainee()
    train(limited, [together, linear_trainee("other")], Recipe())
    assert torch.equal(alone.module.weight, together.module.weight)


def test_a_budget_of_seconds_ends_after_them(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = replace(make_problem(linear_chain, ("first", "second")), budget=Budget(batch=16, seconds=0.3))
    result = train(problem, [linear_trainee()], Recipe()).results["linear"]
    assert 0.3 <= result.cost.seconds < 2
    assert result.cost.image_passes > 16
    assert result.curve[-1][0] == result.cost.image_passes


def test_the_weights_a_job_starts_from_can_be_the_best(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first", "second"), passes=32)
    trainee = linear_trainee()
    start = trainee.module.weight.detach().clone()
    result = train(problem, [trainee], Recipe(learning_rate=50.0)).results["linear"]
    assert result.selected_at_pass == 0
    assert torch.equal(trainee.module.weight, start)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "exactly one of 'image_passes', 'seconds', 'flops' is needed, got none"),
        ({"image_passes": 5, "flops": 1e9}, "got 'image_passes' and 'flops'"),
        ({"seconds": -1.0}, "'budget.seconds' is -1.0, expected 0 or more"),
        ({"image_passes": 5, "batch": 0}, "'budget.batch' is 0, expected 1 or more"),
    ],
)
def test_a_budget_has_exactly_one_limit(limits: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("passes", "share"), [(64, 0.5), (1000, 0.3), (33, 0.9), (1000, 0.001)])
def test_two_phases_take_as_many_steps_as_one(passes: int, share: float) -> None:
    first, second = Budget(passes, 16).split(share)
    steps = [math.ceil(part.limit / 16) for part in (first, second)]
    assert min(steps) >= 1
    assert sum(steps) == math.ceil(passes / 16)


def test_fine_tuning_closes_the_chain_gap(linear_chain: Model, make_problem: MakeProblem) -> None:
    """The notes give the error of the chain as composed over that of the chain in the end, which is never more."""
    problem = make_problem(linear_chain, ("first", "second"), passes=320)
    notes = make_method("modular-finetuned", {"width": 16, "depth": 1, "start": "random"}).fit(problem).notes
    for stage in problem.stages:
        assert notes[stage]["chain_gap"] == notes[stage]["chain_image_mse"] / notes[stage]["selection_image_mse"]
        assert notes[stage]["chain_gap"] >= 0.999
        assert len(notes[stage]["curve"][-1]) == 4, "passes, seconds, loss, PSNR"
    assert notes["second"]["chain_gap"] > 1


def test_noise_is_seen_in_training_only(linear_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(linear_chain, ("first",), passes=64)
    found = linear_chain.represent(problem.select.images(slice(0, 2)), ("first",))["first"]
    made = {}
    for noise in (0.0, 0.5):
        inverter = (
            make_method("modular-noised", {"width": 16, "depth": 1, "start": "random", "noise": noise})
            .fit(problem)
            .inverter
        )
        made[noise] = inverter.invert(found)
        assert torch.equal(made[noise], inverter.invert(found))
    plain = make_method("modular", {"width": 16, "depth": 1, "start": "random"}).fit(problem).inverter.invert(found)
    assert torch.equal(made[0.0], plain)
    assert not torch.equal(made[0.5], plain)
