"""The training engine: what is cached, resumed, swept and stopped never changes what a method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Killed, in_context, killer, scene_split
from torch import nn

from invsuite._system import spill
from invsuite._system.spill import SpilledTensor
from invsuite.errors import UsageError
from invsuite.inverses.closed_form import RANK, ClosedFormPath, QueryPath, readable_grid, with_neighbours
from invsuite.methods import make_method
from invsuite.methods.base import Fitted
from invsuite.methods.networks import compose
from invsuite.methods.problem import Engine, Problem, ProgressHook, silent
from invsuite.methods.ridge import Ridge
from invsuite.methods.training import engine
from invsuite.methods.training.draws import draws
from invsuite.methods.training.engine import Trainee, train
from invsuite.methods.training.features import FeatureCache, FeatureStream, expected_distinct
from invsuite.methods.training.initialisation import QueryReadout, place_rows, solve_path
from invsuite.methods.training.recipe import Recipe
from invsuite.models.base import Layout, Model, image_layout

MakeProblem = Callable[..., Problem]
STAGES = {"small_vit": ("embed", "block03"), "small_detr": ("backbone", "encoder", "decoder")}


def count_images(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the frozen model sees from now on."""
    seen: list[int] = []
    original = model.forward_stages

    def forward(images: torch.Tensor, stages: object) -> object:
        seen.append(len(images))
        return original(images, stages)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "forward_stages", forward)
    return seen


@pytest.mark.parametrize("which", ["small_vit", "small_detr"])
@pytest.mark.parametrize("policy", ["auto", "memory", "disk"])
def test_kept_representations_are_those_of_the_forward_bit_for_bit(
    which: str, policy: str, make_problem: MakeProblem, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(which)
    problem = make_problem(model, STAGES[which])
    caches = {"off": FeatureCache("off"), policy: FeatureCache(policy, users=50)}
    taken = {}
    for name, cache in caches.items():
        stream = FeatureStream(model, problem.fit, STAGES[which], 16, cache, 10_000)
        taken[name] = list(islice(stream.batches(draws(problem.fit, 16, 3, True)), 14))
    for (images, found), (same_images, same) in zip(taken["off"], taken[policy], strict=True):
        assert torch.equal(images, same_images)
        for stage in STAGES[which]:
            assert torch.equal(found[stage], same[stage])
    assert caches[policy].place == ("memory" if policy == "auto" else policy)
    kind = SpilledTensor if policy == "disk" else torch.Tensor
    assert all(isinstance(tensor, kind) for tensor in caches[policy]._tensors.values())


def test_the_frozen_forward_runs_once_an_image_in_whole_batches(
    vit: Model, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem(vit, ("embed",), fit=40)
    cache = FeatureCache("memory")
    seen = count_images(vit, monkeypatch)
    stream = FeatureStream(vit, problem.fit, ("embed",), 16, cache, 1000)
    list(islice(stream.batches(draws(problem.fit, 16, 3, False)), 60))
    assert set(seen) == {16}
    # 40 images, and two timed batches that were not kept
    assert len(seen) <= 2 + 3
    assert stream.borrowed == 0
    second = FeatureStream(vit, problem.fit, ("embed",), 16, cache, 1000)
    list(islice(second.batches(draws(problem.fit, 16, 4, False)), 60))
    assert len(seen) <= 2 + 3, "another fit on the same model computes nothing anew"
    assert second.borrowed == 40, "and is charged for the images an earlier one computed"
    assert second.borrowed_seconds == pytest.approx(40 * cache.forward_seconds / cache.forward_images)


def test_the_policy_follows_from_the_rate_of_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = {"stage": torch.rand(16, 50, 32)}
    told: list[str] = []
    for forward, asked, expected in ((1.0, 5000, "memory"), (1e-9, 5000, "off"), (1.0, 1, "off")):
        cache = FeatureCache("auto", log=told.append)
        cache.decide(sample, forward, asked, 1000)
        assert cache.place == expected, told[-1]
        assert "ms per image" in told[-1]
    for memory, disk, expected in ((0.0, 0.5, "disk"), (0.0, 0.0, "off")):
        monkeypatch.setattr(spill, "MEMORY_SHARE", memory)
        monkeypatch.setattr(spill, "DISK_SHARE", disk)
        cache = FeatureCache("auto")
        cache.decide(sample, 1.0, 5000, 1000)
        assert cache.place == expected
    assert expected_distinct(5000, 1) == 1
    assert expected_distinct(2, 1000) == pytest.approx(2, abs=0.01)
    with pytest.raises(UsageError, match="did you mean memory"):
        FeatureCache("memroy")


def test_the_log_says_what_was_decided(vit: Model, make_problem: MakeProblem) -> None:
    told: list[str] = []
    problem = in_context(make_problem(vit, ("embed",), passes=64), features=FeatureCache("memory", log=told.append))
    make_method("modular", {"width": 16, "depth": 1}).fit(problem)
    assert len(told) == 1
    assert told[0].startswith("representations are kept in: memory")


@pytest.mark.parametrize("name", ["layerwise", "modular-noised", "modular-finetuned", "shared-chain"])
def test_a_killed_fit_goes_on_to_the_same_weights(
    name: str, small_chain: Model, make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed early, and what goes on killed again late."""
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    params = {"width": 16, "depth": 1, "start": "random", "recipe": {"patience": 0}}
    problem = make_problem(small_chain, ("first", "second"), passes=1280)
    steps: list[int] = []

    def fit(progress: ProgressHook = silent, checkpoints: Path | None = tmp_path) -> Fitted:
        def hook(done: int, total: int, note: str) -> None:
            if note == "training steps":
                steps.append(done)
                progress(done, total, note)

        steps.clear()
        return make_method(name, params).fit(in_context(problem, progress=hook, checkpoints=checkpoints))

    whole = fit(checkpoints=None)
    assert len(steps) >= 80
    for kill_at in (0.3, 0.8):
        with pytest.raises(Killed):
            fit(killer(kill_at))
        assert list(tmp_path.glob("*.pt"))
    assert len(steps) < 0.8 * 80, "it did not begin anew"
    resumed = fit()
    assert len(steps) < 80, "it did not begin anew"
    images = scene_split(904, 2, 12).images(slice(0, 2))
    found = small_chain.represent(images, problem.stages)
    for stage in problem.stages:
        one, two = (f.invert(found[stage], images) for f in (whole, resumed))
        assert torch.equal(one, two)
        strip = [[passes, loss, db] for passes, _, loss, db in resumed.notes[stage]["curve"]]
        assert strip == [[passes, loss, db] for passes, _, loss, db in whole.notes[stage]["curve"]]
    assert resumed.cost.image_passes == whole.cost.image_passes
    assert resumed.cost.fit_flops == whole.cost.fit_flops


def test_a_checkpoint_of_something_else_is_not_taken_up(
    small_chain: Model, make_problem: MakeProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    problem = in_context(make_problem(small_chain, ("first",), passes=64), checkpoints=tmp_path)
    method = make_method("layerwise", {"width": 16, "depth": 1, "start": "random"})
    images = scene_split(904, 2, 12).images(slice(0, 2))
    found = small_chain.represent(images, ("first",))["first"]

    def made(problem: Problem) -> torch.Tensor:
        return method.fit(problem).invert(found, images)

    first = made(problem)
    for other in (replace(problem, seed=1), make_problem(small_chain, ("first",), passes=128)):
        clean = made(in_context(other, checkpoints=None))
        assert torch.equal(made(in_context(other, checkpoints=tmp_path)), clean)
    (file,) = tmp_path.glob("*.pt")
    file.write_bytes(file.read_bytes()[:500])
    assert torch.equal(made(problem), first), "a truncated file counts as none"


def test_a_sweep_chooses_a_rate_and_is_part_of_the_budget(small_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(small_chain, ("first", "second"), passes=640)
    rates = [1e-6, 1e-3]
    params = {"width": 16, "depth": 1, "start": "random", "recipe": {"sweep": rates, "patience": 0}}
    for name in ("layerwise", "modular", "modular-noised", "shared-chain"):
        fitted = make_method(name, params).fit(problem)
        for stage in problem.stages:
            notes = fitted.notes[stage]
            assert [rate for rate, _ in notes["sweep"]] == rates
            assert notes["sweep"][0][1] > notes["sweep"][1][1]
            assert notes["learning_rate"] == 1e-3
            assert notes["curve"][0][0] == 2 * 64, "two trials of a tenth of the budget each"
            assert fitted.cost.image_passes[stage] == 640
    with pytest.raises(UsageError, match=r"'recipe.sweep\[0\]' is -1.0, expected more than 0"):
        Recipe(sweep=[-1.0])
    with pytest.raises(UsageError, match="sweep_share"):
        Recipe(sweep_share=1.0)


def test_training_stops_early_where_selection_gets_worse(linear_chain: Model, make_problem: MakeProblem) -> None:
    """A network that starts at the answer, with a rate that throws it off: the start is kept, the rest not spent."""
    problem = make_problem(linear_chain, ("first",), passes=1600)

    def trainee() -> Trainee:
        module = nn.Linear(192, 192)
        nn.init.eye_(module.weight)
        nn.init.zeros_(module.bias)
        return Trainee("copy", module, ("first",), lambda m, images, t: F.mse_loss(m(t["first"]), t["first"]))

    patient, stopped = trainee(), trainee()
    train(problem, [patient], Recipe(learning_rate=0.5, patience=0))
    result = train(problem, [stopped], Recipe(learning_rate=0.5, patience=3)).results["copy"]
    assert result.stopped_early
    assert 800 <= result.cost.image_passes < 1600
    assert result.selected_at_pass == 0
    for kept in (patient, stopped):
        assert torch.equal(kept.module.weight, torch.eye(192))


def test_the_ridge_start_is_ridge_regression(vit: Model, make_problem: MakeProblem) -> None:
    """Before training the first module is as good as the ridge readout of its stage from 3 x 3 places, but for what
    is read beyond the border; the chain of two is no worse than the readout of its stage from single places."""
    problem = make_problem(vit, ("embed", "block03"), fit=96)
    images = scene_split(909, 4).images(slice(0, 4))
    found = vit.represent(images, problem.stages)
    method = make_method("modular", {"width": 16, "depth": 1, "recipe": {"flip": False}})
    modules, initial = method.initialised_modules(problem, "block03")
    ridge = Ridge().fit(problem)
    wide = Ridge(neighbourhood=3).fit(problem).invert(found["embed"], images)
    with torch.no_grad():
        made = modules["embed"].eval()(found["embed"].tensor).clamp(0, 1)
        chained = compose(modules, ("embed", "block03")).eval()(found["block03"].tensor).clamp(0, 1)
    assert F.mse_loss(made, images) == pytest.approx(float(F.mse_loss(wide, images)), rel=0.1)
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    apart = F.mse_loss(made[inner], wide[inner])  # ridge has an intercept for each place
    assert apart < 0.2 * F.mse_loss(wide[inner], images[inner])
    ridge_error = F.mse_loss(ridge.invert(found["block03"], images), images)
    assert F.mse_loss(chained, images) < 1.2 * ridge_error
    cost = initial.cost_of(("embed", "block03"))
    rows = 96 * 144
    square = 9 * 96  # the image is read from 3 x 3 places
    features = 7 * 96  # own channels, four neighbours' and twice as many random ones
    linear = square * (square + 3 * 8 * 8)
    assert cost.flops == 2.0 * rows * (linear + features * (features + 96) + 2 * 96 * 96)
    assert cost.seconds > 0
    assert cost.frozen_flops > 0


def test_a_place_is_read_with_its_four_neighbours() -> None:
    tokens = torch.arange(1.0, 14).view(1, 13, 1)  # one prefix token, then a grid of 3 x 4
    prefix, *places = with_neighbours(tokens, (3, 4))[0].tolist()
    assert prefix == [1, 0, 0, 0, 0]
    assert places[5] == [7, 3, 11, 6, 8]
    assert places[3] == [5, 5, 9, 4, 5]  # the corner's own value beyond the border
    assert places[8] == [10, 6, 10, 10, 11]
    _, *squares = with_neighbours(tokens, (3, 4), diagonals=True)[0].tolist()
    assert [square[:5] for square in squares] == places
    assert squares[5][5:] == [2, 4, 10, 12]
    assert squares[0][5:] == [2, 3, 6, 7]


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_solved_path_recovers_what_lies_next_door(prefix: int) -> None:
    """Each place of the source holds what was left of it: a path that sees neighbours moves it back, another cannot."""
    layout = Layout("tokens", 3, (4, 5), 20 + prefix, prefix)
    before = torch.randn(512, 4, 5, 3, generator=torch.Generator().manual_seed(1))
    before -= before.mean(0)  # standardised, as representations are
    before[:, :, 4] = before[:, :, 3]  # beyond the border a path reads the border again
    given, wanted = (F.pad(x.flatten(1, 2), (0, 0, prefix, 0)) for x in (before.roll(1, 2), before))
    errors = []
    for grid in (readable_grid(layout), None):
        path = ClosedFormPath(3, 3, 8, 20 + prefix, grid)
        _, explained = solve_path(path, layout, layout, [(given[:256], wanted[:256]), (given[256:], wanted[256:])])
        errors.append(float(F.mse_loss(path(given), wanted)))
        assert explained == pytest.approx(1 - errors[-1] / float(wanted[:, prefix:].var()), abs=0.1)
    assert errors[0] < 1e-6
    assert errors[1] > 0.5


@torch.no_grad()
@pytest.mark.parametrize("images", [100, 400])
def test_a_solved_query_path_recovers_a_linear_map_of_all_queries(images: int) -> None:
    """What comes before them is a linear map of all queries together, of low rank: solved in the dual form, too."""
    queries, before = Layout("queries", 8, None, 6), Layout("map", 5, (4, 4))
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(images, 6, 8, generator=generator)
    low = torch.randn(48, 10, generator=generator) @ torch.randn(10, 80, generator=generator)
    y = (x.flatten(1) @ low).unflatten(1, before.shape)
    path = QueryPath(queries, before)
    assert not path(x).any()
    readout = QueryReadout(path, [(x[:60], y[:60])], images)
    readout.add(x[60:], y[60:])
    assert readout.solve() > 0
    assert path.solved
    assert len(path.components) == min(RANK, 48)
    assert float(F.mse_loss(path(x), y)) < 1e-3 * float(y.var())


@pytest.mark.parametrize(("passes", "left_out"), [(160, False), (4000, True)])
def test_a_path_that_explains_little_of_the_image_is_left_out_of_long_trainings(
    detr: Model, vit: Model, make_problem: MakeProblem, passes: int, left_out: bool
) -> None:
    """A CNN's features explain 0.8 of the image linearly, an embedding nearly all: that path is always there."""
    method = make_method("modular", {"width": 16, "depth": 1})
    modules, _ = method.initialised_modules(make_problem(detr, ("backbone",), passes=passes, fit=96), "backbone")
    path = modules["backbone"].path
    assert path is not None
    assert path.solved is not left_out
    assert any(bool(p.any()) for p in path.parameters()) is not left_out
    assert all(p.requires_grad for p in path.parameters()) is not left_out
    modules, _ = method.initialised_modules(make_problem(vit, ("embed",), passes=passes, fit=96), "embed")
    assert modules["embed"].path is not None
    assert modules["embed"].path.solved


def test_rows_of_places_are_in_the_order_of_a_pixel_shuffle() -> None:
    source = Layout("tokens", 5, (2, 3), 7, 1)
    image = torch.rand(2, 3, 8, 12)
    features, targets = place_rows(source, image_layout((8, 12)), torch.rand(2, 7, 5), image)
    assert features.shape == (2, 6, 5)
    shuffled = nn.PixelShuffle(4)(targets.transpose(1, 2).unflatten(2, (2, 3)))
    assert torch.equal(shuffled, image)


def test_bfloat16_steps_train_float32_weights(small_chain: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(small_chain, ("first",), passes=960, fit=160)
    images = scene_split(904, 4, 12).images(slice(0, 4))
    found = small_chain.represent(images, ("first",))["first"]
    method = make_method("layerwise", {"width": 16, "depth": 1, "start": "random"})
    made = {}
    for precision in ("float32", "bfloat16"):
        fitted = method.fit(in_context(problem, engine=Engine(precision=precision)))
        made[precision] = fitted.invert(found, images)
        assert all(p.dtype == torch.float32 for p in fitted.inverter.chains["first"].parameters())
    assert not torch.equal(made["float32"], made["bfloat16"])
    errors = [float(-10 * F.mse_loss(m, images).log10()) for m in made.values()]
    assert abs(errors[0] - errors[1]) < 1.0
    assert Engine(precision="bfloat16").identity() != Engine().identity()
    assert Engine(cache="off").identity() == Engine().identity()
    with pytest.raises(UsageError, match="did you mean bfloat16"):
        Engine(precision="bfloat")


def test_no_step_reads_a_value_back(
    small_chain: Model, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a loss waits for the device: the number of reads does not grow with the number of steps."""
    reads: list[int] = []
    inside = [False]
    for name in ("item", "__float__", "__bool__", "tolist"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: object, original: Callable[..., object] = original) -> object:
            if inside[0]:
                reads.append(1)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    step = engine.Training.step

    def watched(self: engine.Training, images: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
        inside[0] = True
        step(self, images, found)
        inside[0] = False

    monkeypatch.setattr(engine.Training, "step", watched)
    problem = make_problem(small_chain, ("first", "second"), passes=160)
    make_method("modular", {"width": 16, "depth": 1, "start": "random"}).fit(problem)
    assert reads == []
