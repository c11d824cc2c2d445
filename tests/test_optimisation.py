"""The descent engine: independence of images, determinism, the curve, priors and parametrisations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from helpers import scene_split
from pretended import pretended_gpu

from invsuite._system.flops import count_flops
from invsuite._system.replay import Function, Replay
from invsuite.benchmark.scoring import Curve, flops_per_image
from invsuite.data.base import Sample
from invsuite.data.scenes import Scenes
from invsuite.data.split import Split
from invsuite.errors import UsageError
from invsuite.methods import make_method
from invsuite.methods.base import Snapshot
from invsuite.methods.optimisation.engine import Descended, Descent, Progress, feature_loss, snapshot_marks
from invsuite.methods.optimisation.optimisers import LBFGS
from invsuite.methods.optimisation.pixels import ClampedPixels, FourierPixels, ImagePrior, SigmoidPixels
from invsuite.methods.optimisation.presets import Mahendran2015, Optimisation
from invsuite.methods.optimisation.priors import Views, alpha_norm, total_variation
from invsuite.methods.optimisation.search import GAIN, search_weight
from invsuite.methods.problem import Problem
from invsuite.models.base import Model
from invsuite.models.load import load_model

MakeProblem = Callable[..., Problem]
PRESETS = ("optimisation", "graduated", "mahendran2015", "mahendran2016", "plugin", "fourier", "dip")
FEW: dict[str, dict[str, object]] = {
    name: {"iterations": 4, "jitter": 2, "zoom": 0.1, "colour_shift": 0.05} for name in PRESETS
}
FEW["optimisation"] = {"iterations": 4, "search_images": 2}
FEW["graduated"] = {"iterations": 6, "smoothing_iterations": 3, "search_images": 2}
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


class Pulled(SigmoidPixels):
    """Logits of pixels that a strong prior holds where they start."""

    def __init__(self, starts: torch.Tensor) -> None:
        super().__init__(starts, None)
        self.starts = starts

    def penalty(self) -> torch.Tensor:
        return 1e4 * (self.images() - self.starts).square().mean((1, 2, 3))

    def keep(self, rows: torch.Tensor) -> None:
        super().keep(rows)
        self.starts = self.starts[rows]


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
    assert inverter.findings("first") == {"converged": False, "converged_share": 0.0, "iterations": 24, "ceiling": 24}
    assert inverter.findings("first") == {}
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


@pytest.mark.parametrize("settings", [{}, {"optimiser": "adam", "schedule": "plateau", "window": 5, "anneal": 1}])
def test_an_image_stops_by_itself(settings: dict[str, object], linear_chain: Model, make_problem: MakeProblem) -> None:
    method = make_method("optimisation", {"tv": 0.01, "tolerance": 0.03, "iterations": 400, **settings})
    descent = method.fit(make_problem(linear_chain, ("first",))).inverter
    assert isinstance(descent, Descent)
    images = scene_split(906, 3, 24).images(slice(0, 3))
    images[0] = images[0].mean((1, 2), keepdim=True)
    target = linear_chain.represent(images, ["first"])["first"]
    together = descent.descend(target)
    assert bool(together.converged.all())
    assert len(set(together.iterations.tolist())) == 3, "each has iterations of its own"
    assert int(together.iterations.max()) < 400
    findings = descent.findings("first")
    assert findings["converged"] is True
    assert findings["iterations"] == pytest.approx(float(together.iterations.float().mean()))
    alone = descent.descend(target[1:2])
    assert int(alone.iterations) == pytest.approx(int(together.iterations[1]), abs=10)
    torch.testing.assert_close(together.images[1:2], alone.images, atol=5e-3, rtol=0)
    assert torch.equal(together.images, descent.descend(target).images)


class Captured(Replay):
    """A replay that says it is captured, as on a GPU, where images that have converged may stay in the batch."""

    def __init__(self, function: Function, device: torch.device, wanted: bool = True) -> None:
        super().__init__(function, device, wanted)
        self.captures = wanted

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        return self._function(*tensors)


def test_images_that_stay_in_the_batch_when_they_have_converged_are_those_that_leave(
    linear_chain: Model, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make_method("optimisation", {"tv": 0.01, "tolerance": 0.03, "iterations": 400})
    descent = method.fit(make_problem(linear_chain, ("first",))).inverter
    assert isinstance(descent, Descent)
    images = scene_split(906, 5, 24).images(slice(0, 5))
    target = linear_chain.represent(images, ["first"])["first"]
    left = descent.descend(target)
    sizes: list[int] = []

    class Counted(Captured):
        def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
            sizes.append(len(tensors[0]))
            return super().__call__(*tensors)

    monkeypatch.setattr("invsuite.methods.optimisation.engine.Replay", Counted)
    stayed = descent.descend(target)
    assert torch.equal(stayed.iterations, left.iterations)
    assert torch.equal(stayed.converged, left.converged)
    torch.testing.assert_close(stayed.images, left.images, atol=1e-4, rtol=0)
    assert 4 not in sizes, "one of five that has converged is not worth another graph"
    assert min(sizes) < 4


def test_a_gpu_takes_as_many_images_at_once_as_its_memory_holds(vit: Model, make_problem: MakeProblem) -> None:
    method = make_method("optimisation", {"tv": 0.01, "iterations": 3, "batch": 2})
    images = scene_split(906, 5, vit.image_size[0]).images(slice(0, 5))
    made = {}
    with pretended_gpu():
        model = load_model("bundled:vit").to(torch.device("cuda"))
        descent = method.fit(make_problem(model, ("embed",))).inverter
        assert isinstance(descent, Descent)
        target = model.represent(images.to("cuda"), ["embed"])["embed"]
        assert descent._side_by_side(target[:2]) == 2
        for free in (0, 2**40):
            with patch.object(torch.cuda, "mem_get_info", lambda device=None, free=free: (free, 2**40)):
                assert (descent._side_by_side(target) >= 5) == bool(free)
                made[free] = descent.invert(target).cpu()
    torch.testing.assert_close(made[0], made[2**40], atol=1e-4, rtol=0)


def test_descents_begin_where_they_are_told_and_end_at_the_ceiling(
    linear_chain: Model, make_problem: MakeProblem
) -> None:
    images = scene_split(906, 4, 24).images(slice(0, 4))
    descent = (
        make_method("optimisation", {"tv": 0.0, "iterations": 3, "batch": 2})
        .fit(make_problem(linear_chain, ("first",)))
        .inverter
    )
    assert isinstance(descent, Descent)
    target = linear_chain.represent(images, ["first"])["first"]
    near = (images + 0.01).clamp(0.02, 0.98)
    descended = descent.descend(target, near)
    assert descended.iterations.tolist() == [3] * 4
    assert not bool(descended.converged.any())
    assert float((descended.images - near).abs().max()) < 0.2
    pulled = replace(descent, parametrise=Pulled)
    assert float((pulled.descend(target, near).images - near).abs().max()) < 0.01
    with pytest.raises(UsageError, match="begins at no image"):
        replace(descent, settings=replace(descent.settings, pixels="network")).descend(target, near)


def test_progress_is_judged_for_each_image_and_phase() -> None:
    settings = Optimisation(tv=1.0, window=2, tolerance=0.1, anneal=1, iterations=100)
    progress = Progress(settings, 1.0, 2, torch.device("cpu"))
    assert progress.tv_factor.tolist() == [10, 10]
    fast, slow = [8.0, 4.0, 2.0, 1.0], [8.0, 7.9, 7.8, 7.8]
    pairs = enumerate(zip(fast, slow, strict=True))
    entered = [progress.add(torch.tensor(pair), step).tolist() for step, pair in pairs]
    assert entered == [[False, False], [False, False], [False, True], [False, False]]
    assert progress.tv_factor.tolist() == [10, 1]
    assert not bool(progress.converged.any()), "the second has only begun its last phase"
    for step in range(4, 7):
        progress.add(torch.tensor([0.5 ** (step - 3), 7.8]), step)
    assert progress.converged.tolist() == [False, True]
    progress.keep(torch.tensor([0]))
    entered = [progress.add(torch.tensor([0.01 * 0.5**step]), step).item() for step in range(7, 60)]
    assert entered.index(True) == 49 - 7, "half the iterations are left for the weight itself"


def test_lbfgs_minimises_each_image_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, 3, 30).expand(3, -1) * torch.tensor([1.0, 10.0, 0.1])[:, None]
    target = torch.randn(3, 30, generator=generator)

    def descend(rows: torch.Tensor, steps: int) -> torch.Tensor:
        point = torch.zeros(len(rows), 30, requires_grad=True)
        optimiser = LBFGS([point], 10)
        least = torch.full((len(rows),), float("inf"))
        for _ in range(steps):
            objectives = (scales[rows] * (point - target[rows]).square()).sum(1)
            objectives.sum().backward()
            accepted = optimiser.step(objectives.detach(), torch.full((len(rows),), 0.1))
            assert bool((objectives.detach()[accepted] <= least[accepted]).all()), "a step is taken downwards"
            least = torch.where(accepted, objectives.detach(), least)
        return least

    together = descend(torch.arange(3), 120)
    assert float(together.max()) < 1e-3
    for row in range(3):
        torch.testing.assert_close(descend(torch.tensor([row]), 40), descend(torch.arange(3), 40)[row : row + 1])


@pytest.mark.parametrize("width", [1.0, 1e-3, 1e-6])
def test_lbfgs_finds_a_valley_however_narrow(width: float) -> None:
    """A first step far beyond it is shortened until it fits: beside a flat image some networks are as steep as that."""
    point = torch.zeros(2, 4, dtype=torch.double, requires_grad=True)
    optimiser = LBFGS([point], 10)
    for _ in range(80):
        objectives = (1 + (point / width - 1).square()).log().sum(1)
        objectives.sum().backward()
        optimiser.step(objectives.detach(), torch.full((2,), 0.1, dtype=torch.double))
    assert float(objectives.detach().max()) < 0.01


@pytest.mark.parametrize(("kind", "params"), [("optimisation", {"jitter": 1}), ("optimisation", {"pixels": "clamp"})])
def test_a_line_search_needs_an_objective_that_stays(kind: str, params: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="set 'adam'"):
        make_method(kind, params)
    make_method(kind, params | {"optimiser": "adam"})


class Listed(Scenes):
    """Images (N, 3, H, W) as a dataset."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__(0, len(images), images.shape[-1])
        self.images = images

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), self.images[index])


def test_the_weight_is_chosen_by_the_error_on_selection_images(vit: Model, make_problem: MakeProblem) -> None:
    problem = make_problem(vit, ("embed",))
    rough = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    weights = []
    for images in (rough, F.interpolate(F.avg_pool2d(rough, 32), (96, 96), mode="bilinear")):
        select = Split(Listed(images), (0, 1))
        fitted = make_method("optimisation", {"search_iterations": 8, "search_images": 2}).fit(
            replace(problem, select=select)
        )
        notes, cost = fitted.notes["embed"], fitted.cost
        errors = {tried["tv"]: tried["psnr"] for tried in notes["tv_search"]}
        assert errors[notes["tv"]] >= max(errors.values()) - 2 * GAIN
        assert all(errors[weight] < errors[notes["tv"]] for weight in errors if weight > notes["tv"])
        assert 0 < cost.image_passes["embed"] <= 8 * 2 * len(notes["tv_search"])
        assert cost.fit_flops["embed"] > 0
        assert cost.stage_seconds["embed"] > 0
        weights.append(notes["tv"])
    assert weights[0] < weights[1], "smooth images want the stronger prior"


@pytest.mark.parametrize(
    ("psnrs", "chosen"),
    [
        ([20.0, 25.0, 24.0, 23.0], 1),  # the fourth is the last that is looked at
        ([20.0, 25.0, 24.0, 26.0, 25.0, 25.0], 3),
        ([20.0, 25.0, 25.0 + GAIN / 2, 25.0], 1),  # a gain too small to tell
        ([16.0, 15.0, 14.0, 14.5, 15.5, 17.0], 5),  # falls before it rises
        ([16.0, 15.0, 14.0, 13.0, 12.0, 11.0], 0),  # was to be looked at to the end
    ],
)
def test_a_path_of_weights_ends_only_where_it_has_gained_and_lost(
    psnrs: list[float], chosen: int, linear_chain: Model, make_problem: MakeProblem
) -> None:
    problem = make_problem(linear_chain, ("first",))
    images = problem.select.images(slice(0, 2))
    [target] = linear_chain.represent(images, ["first"]).values()
    inverter = make_method("optimisation", {"tv": 0.1}).fit(problem).inverter
    assert isinstance(inverter, Descent)
    weights, ones = [1.0, 0.5, 0.4, 0.3, 0.2, 0.1], torch.ones(len(images))
    ends = [Descended(images + 10 ** (-psnr / 20), ones, ones, ones.long(), ones.bool()) for psnr in psnrs]
    with (
        patch("invsuite.methods.optimisation.search.flops_per_pass", return_value=0),
        patch.object(Descent, "descend", side_effect=ends),
    ):
        search = search_weight(inverter, target, images, weights=weights)
    assert search.weight == weights[chosen]
    assert [psnr for _, psnr in search.tried] == pytest.approx(psnrs, abs=1e-3)


def test_priors_under_which_nothing_moves_do_not_end_the_search(linear_chain: Model, make_problem: MakeProblem) -> None:
    """Weak ones are tried too: a plateau of strong ones says nothing of them."""
    problem = make_problem(linear_chain, ("first",))
    images = problem.select.images(slice(0, 2))
    [target] = linear_chain.represent(images, ["first"]).values()
    inverter = make_method("optimisation", {"tv": 0.1, "search_iterations": 60}).fit(problem).inverter
    assert isinstance(inverter, Descent)
    strong = [10.0**power for power in (12, 11, 10, 9)]
    search = search_weight(inverter, target, images, weights=[*strong, 0.1])
    assert len({round(psnr, 3) for _, psnr in search.tried[:4]}) == 1, "these hold every image at the mean colour"
    assert search.weight == 0.1


@pytest.mark.parametrize("params", [{}, {"loss": "standardised"}, {"loss": "cosine"}])
def test_what_a_fit_has_chosen_is_kept(
    params: dict[str, object], linear_chain: Model, make_problem: MakeProblem
) -> None:
    problem = make_problem(linear_chain, ("first", "second"))
    method = make_method("optimisation", {"iterations": 5, "search_images": 2, **params})
    fitted, again = method.fit(problem), method.fit(problem)
    images = scene_split(906, 2, 24).images(slice(0, 2))
    tensors = fitted.inverter.tensors()
    assert tensors is not None
    restored = method.restore(replace(problem, stages=("second",)), tensors, fitted.notes)
    assert restored is not None
    target = linear_chain.represent(images, ["second"])["second"]
    made = fitted.invert(target, images)
    assert torch.equal(again.invert(target, images), made)
    assert torch.equal(restored.invert(target), made)
    first = {name: tensor for name, tensor in tensors.items() if "second" not in name}
    assert method.restore(problem, first, fitted.notes) is None


def test_operations_are_of_the_iterations_that_were_made(vit: Model, make_problem: MakeProblem) -> None:
    images = scene_split(906, 1).images(slice(0, 1))
    method = make_method("optimisation", {"tv": 1.0, "anneal": 0, "iterations": 8, "window": 3, "tolerance": 10.0})
    fitted = method.fit(make_problem(vit, ("embed",)))
    target = vit.represent(images, ["embed"])["embed"]
    whole = count_flops(lambda: fitted.invert(target, images))
    findings = fitted.inverter.findings("embed")
    assert findings["iterations"] == 4
    assert flops_per_image(vit, "embed", fitted.inverter, images, 4 / findings["ceiling"]) == whole


def test_a_batch_that_has_ended_counts_in_the_curve_as_it_ended() -> None:
    curve, images = Curve(), torch.zeros(3, 3, 2, 2)
    watch = curve.beside(images)
    for count, iterations in ((2, (0, 1, 4)), (1, (0, 1, 2, 9))):
        for iteration in iterations:
            made = torch.full((count, 3, 2, 2), 0.1)
            watch(Snapshot(iteration, float(iteration), torch.full((count,), 10.0 - iteration), made))
    notes = {row["iteration"]: row for row in curve.notes()}
    assert list(notes) == [0, 1, 2, 4, 9]
    assert notes[2]["feature_loss"] == pytest.approx((9 + 9 + 8) / 3)
    assert notes[9]["feature_loss"] == pytest.approx((6 + 6 + 1) / 3)
    assert notes[9]["seconds_per_image"] == pytest.approx((4 + 9) / 3, abs=1e-3)
    assert notes[9]["psnr"] == pytest.approx(20.0)


def test_losses_and_priors_against_their_formulas() -> None:
    found, target = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(feature_loss(found, target, "l2"), torch.tensor([9 / 16, 5 / 4]))
    torch.testing.assert_close(feature_loss(found, target, "cosine"), torch.tensor([1 - 16 / 20, 1.0]))
    deviations = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(feature_loss(found, target, "standardised", deviations), torch.tensor([4.5, 1.0]))
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
    linear = Optimisation(iterations=4, learning_rate=1.0, schedule="linear")
    assert [linear.rate(i) for i in range(4)] == [1, 1, 1, 0.5]
    plateau = Optimisation(anneal=2, anneal_by=10, schedule="plateau", drops=1, drop_by=4)
    assert plateau.phases(2.0) == [(100, 1), (10, 1), (1, 1), (1, 0.25)]
    assert plateau.phases(0.0) == [(1, 1), (1, 0.25)], "no prior to anneal"
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
    noised = Views(0, 0.0, 0.0, torch.Generator().manual_seed(7), 0.5)
    assert not noised.still
    difference = noised(images) - images
    torch.testing.assert_close(difference[0], difference[1])
    assert 0.4 < float(difference[0].std()) < 0.6
    plain = Views(0, 0.0, 0.0, torch.Generator())
    assert plain(images) is images
