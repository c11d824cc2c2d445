"""Every method, measure and bundled model on CUDA gives the processor's numbers, within what is declared here.

Where there is no GPU these tests are skipped, and say so; the same code then runs on a pretended one (`pretended`),
which notices what lies on the wrong device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import scene_split, small_suite, smeared
from pretended import GPU, on_gpu, pretended_gpu

import invsuite
from invsuite._system.devices import pick_device
from invsuite._system.provenance import set_determinism
from invsuite._system.replay import Replay
from invsuite.benchmark.executors.base import Placement
from invsuite.benchmark.scoring import invert_batch
from invsuite.errors import NotApplicable, Unavailable
from invsuite.methods import make_method
from invsuite.methods.base import Fitted
from invsuite.methods.problem import Budget, Context, Engine, Problem
from invsuite.metrics import make_metric
from invsuite.metrics.base import Scoring, Subject
from invsuite.models.load import load_model
from invsuite.registry import METHODS, METRICS
from invsuite.selftest.measures import stand_in

STAGES = {"bundled:vit": ("embed", "block03"), "bundled:detr": ("backbone", "decoder")}
#: largest difference of a representation, of its scale
SAME = 1e-3
#: (largest, mean) difference of two reconstructions of a method's family, in [0, 1]: two training steps or iterations
#: move by as much as a rate where rounding turns the sign of a gradient
CLOSE = {"floor": (1e-4, 1e-5), "closed form": (5e-3, 1e-3)}
STEPPED = (5e-2, 5e-3)
#: methods that draw on the GPU, whose random numbers are its own
OWN_NUMBERS = (0.3, 5e-2)
DRAWING = {"modular-noised", "modular-cycle", "modular-predecessor", "dip"}
LOADED = {"rathjens", "rae"}  # of files of others
#: what runs without a GPU too: of methods that share their code, one; the mode does not see into the ``vmap`` of dip
PRETENDED = ("ridge", "exact", "nearest", "modular-noised", "shared-chain", "optimisation", "refined", "disturbed")
#: noise is drawn from what each image's own representation is to the last bit
OWN_SETTINGS = {"disturbed": {"disturbance": "quantise", "amount": 8}}
#: methods that begin at an affine map of patches, which the first stage of the detector is not
REFUSED = {("fixedpoint", "bundled:detr")}
SMALL = {
    "width": 8,
    "depth": 1,
    "restarts": 1,
    "search_images": 2,
    "search_iterations": 2,
}


@contextmanager
def the_gpu(kind: str) -> Iterator[torch.device]:
    if kind == "pretended":
        with pretended_gpu():
            yield GPU
    else:
        yield torch.device("cuda")


@pytest.fixture(params=["gpu", "pretended"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return needed(name)


def needed(kind: str) -> str:
    if kind == "gpu" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return kind


def lies_on(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type


# --- models


@pytest.mark.parametrize("source", [*STAGES, "bundled:swin", "bundled:convnext"])
def test_a_model_holds_the_same_on_a_gpu(source: str, kind: str) -> None:
    images = scene_split(911, 3, load_model(source).image_size[0]).images(slice(None))
    here = load_model(source)
    own = {stage: r.tensor for stage, r in here.represent(images, here.stages).items()}
    with the_gpu(kind) as device:
        model = load_model(source).to(device)
        there = {stage: r.tensor for stage, r in model.represent(images.to(device), model.stages).items()}
        assert all(lies_on(tensor, device) for tensor in there.values())
        assert model.fingerprint() == here.fingerprint()
        back = {stage: tensor.cpu() for stage, tensor in there.items()}
    for stage, tensor in own.items():
        off = float((back[stage] - tensor).abs().max() / tensor.abs().max())
        assert off < SAME, f"{source} {stage}: {off:.2g} of its scale"


# --- methods


def small(name: str, iterations: int = 2) -> Any:
    known = {field.name for field in fields(METHODS[name])}
    settings = SMALL | {"iterations": iterations}
    own = OWN_SETTINGS.get(name, {})
    return make_method(name, {key: value for key, value in settings.items() if key in known} | own)


def reconstructions(
    name: str, source: str, device: torch.device, passes: int = 16, iterations: int = 2, graphs: bool = True
) -> tuple[Fitted, dict[str, torch.Tensor]]:
    """What a method, fitted on ``device``, makes there of three images, by stage."""
    model, stages = load_model(source).to(device), STAGES[source]
    size = model.image_size[0]
    context = Context(engine=Engine(precision="float32", compile="off", cache="off", graphs=graphs))
    budget = Budget(image_passes=passes, batch=8)
    fit, select = scene_split(912, 16, size), scene_split(913, 4, size)
    problem = Problem(model, stages, stages, fit, select, budget, seed=0, context=context)
    set_determinism(0)
    fitted = small(name, iterations).fit_stages(problem)
    images = scene_split(914, 3, size).images(slice(None)).to(device)
    asked = [stage for stage in stages if stage not in fitted.refused]
    made = {stage: invert_batch(model, stage, fitted.inverter, images) for stage in asked}
    assert all(lies_on(image, device) for image in made.values())
    kept = fitted.inverter.tensors()
    if kept is not None:  # as a run restores it
        moved = {key: tensor.detach().cpu().to(device) for key, tensor in kept.items()}
        restored = small(name, iterations).restore(replace(problem, stages=tuple(asked)), moved, fitted.notes)
        for stage in asked:
            again = invert_batch(model, stage, restored, images)
            assert float((again - made[stage]).abs().max()) < SAME, f"restored on {device}, at '{stage}'"
    return fitted, {stage: image.detach().cpu() for stage, image in made.items()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "gpu") for name in sorted(set(METHODS) - LOADED)] + [(name, "pretended") for name in PRETENDED],
)
def test_a_method_makes_the_same_on_a_gpu(name: str, kind: str) -> None:
    needed(kind)
    for source in STAGES if kind == "gpu" else ("bundled:vit",):
        if (name, source) in REFUSED:
            with the_gpu(kind) as device, pytest.raises(NotApplicable):
                reconstructions(name, source, device)
            continue
        with the_gpu(kind) as device:
            other, there = reconstructions(name, source, device)
        if kind == "pretended" and name != "ridge":  # the processor's own numbers cannot differ from themselves
            continue
        own, here = reconstructions(name, source, torch.device("cpu"))
        assert other.refused.keys() == own.refused.keys()
        largest, mean = OWN_NUMBERS if name in DRAWING else CLOSE.get(small(name).family, STEPPED)
        for stage, images in here.items():
            off = (there[stage] - images).abs()
            assert float(off.max()) <= largest, f"{name} at {source} {stage}: {float(off.max()):.2g} at one value"
            assert float(off.mean()) <= mean, f"{name} at {source} {stage}: {float(off.mean()):.2g} on the mean"


# --- captured graphs


@pytest.fixture
def cuda() -> torch.device:
    needed("gpu")
    return torch.device("cuda")


@pytest.mark.parametrize("name", ["layerwise", "modular", "modular-finetuned", "shared-chain"])
def test_replayed_training_steps_are_those_that_python_launches(name: str, cuda: torch.device) -> None:
    _, launched = reconstructions(name, "bundled:vit", cuda, passes=80, graphs=False)
    _, replayed = reconstructions(name, "bundled:vit", cuda, passes=80)
    for stage, images in launched.items():
        assert float((replayed[stage] - images).abs().mean()) < 1e-3, stage


@pytest.mark.parametrize("name", ["optimisation", "refined"])
def test_replayed_descents_are_those_that_python_makes(
    name: str, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, replayed = reconstructions(name, "bundled:vit", cuda, iterations=20)
    monkeypatch.setattr("invsuite._system.replay.can_capture", lambda device: False)
    _, launched = reconstructions(name, "bundled:vit", cuda, iterations=20)
    for stage, images in launched.items():
        assert float((replayed[stage] - images).abs().mean()) < 1e-3, stage


def test_what_is_captured_is_replayed_on_new_tensors(cuda: torch.device) -> None:
    ran: list[int] = []
    total = torch.zeros(3, device=cuda)

    def function(tensor: torch.Tensor) -> list[torch.Tensor]:
        ran.append(len(tensor))
        total.add_(tensor.sum(0))
        return [tensor.square()]

    replay = Replay(function, cuda)
    whole = torch.rand(40, 2, 3, device=cuda)
    for tensor in whole:
        (square,) = replay(tensor)
        assert torch.equal(square, tensor.square())
    assert len(ran) == 3  # twice as usual, once captured
    assert torch.allclose(total, whole.sum((0, 1)))
    (square,) = replay(torch.ones(5, 3, device=cuda))  # of another shape: as usual
    assert ran[-1] == 5
    assert replay.captures


def test_what_waits_for_the_gpu_is_not_captured(cuda: torch.device) -> None:
    replay = Replay(lambda tensor: [tensor * float(tensor.max())], cuda)
    for _ in range(5):
        tensor = torch.rand(4, device=cuda)
        (product,) = replay(tensor)
        assert torch.allclose(product, tensor * tensor.max())
    assert not replay.captures


def test_nothing_is_captured_where_memory_is_short(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay(lambda tensor: [tensor.square()], cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**30, 2**33))
    for _ in range(4):
        tensor = torch.rand(4, device=cuda)
        assert torch.equal(replay(tensor)[0], tensor.square())
    assert not replay.captures


def test_convolutions_are_in_full_precision_once_a_device_is_picked(cuda: torch.device) -> None:
    torch.backends.cudnn.allow_tf32 = True
    device = pick_device("cuda")
    layer = torch.nn.Conv2d(64, 64, 3).to(device)
    image = torch.randn(2, 64, 32, 32, device=device)
    with torch.no_grad():
        exact = layer.double()(image.double())
        off = (layer.float()(image) - exact).abs().max() / exact.abs().max()
    assert float(off) < 1e-5


# --- measures


def scoring(source: str, device: torch.device) -> Scoring:
    """Reconstructions that depend on the pixel alone, of scored images on ``device``."""
    other = next(name for name in STAGES if name != source)
    model, witness = (load_model(name).to(device) for name in (source, other))
    split = scene_split(915, 6, model.image_size[0])
    images = split.images(slice(None)).to(device)
    fit = scene_split(916, 16, model.image_size[0])
    stages = STAGES[source]
    subject = Subject(model, stages, split.samples(), images, fit, 3, split.dataset.classes, witness)

    def invert(tensor: torch.Tensor) -> torch.Tensor:
        return smeared(images[: len(tensor)])

    return Scoring(subject, stages[1], smeared(images), smeared, invert)


def measured(source: str, device: torch.device) -> dict[str, Any]:
    """Of every measure its values, or what it says instead."""
    told: dict[str, Any] = {}
    cell = scoring(source, device)
    for name in sorted(METRICS):
        metric = make_metric(name)
        try:
            metric.prepare(device)
            told[name] = metric.compute(cell)
        except (NotApplicable, Unavailable) as error:
            told[name] = str(error)
        except Exception as error:
            told[name] = f"BROKEN: {type(error).__name__}: {error}"
    return told


@pytest.mark.parametrize("source", STAGES)
def test_every_measure_says_the_same_on_a_gpu(source: str, kind: str) -> None:
    if kind == "pretended" and source != "bundled:detr":
        pytest.skip("the detector's measures are those of the classifier, and more")
    with stand_in("alex", "squeeze", "vgg"):
        with the_gpu(kind) as device:
            there = measured(source, device)
        here = measured(source, torch.device("cpu")) if kind == "gpu" else there
    wrong = [f"{name}: {told}" for name, told in there.items() if isinstance(told, str) and told.startswith("BROKEN")]
    for name, own in here.items():
        other, tolerance = there[name], METRICS[name].tolerance
        if isinstance(own, str) or isinstance(other, str):
            wrong += [f"{name}: {own} / {other}"] if own != other else []
            continue
        pairs = zip(own.per_image, other.per_image, strict=True)
        off = [abs(a - b) if a is not None and b is not None else float(a is not b) for a, b in pairs]
        wrong += [f"{name}: {max(off):.3g} off, tolerance {tolerance}"] if max(off) > tolerance else []
    assert not wrong
    assert sum(not isinstance(values, str) for values in here.values()) > len(here) / 2


# --- a whole run


def test_a_run_on_a_gpu_has_its_clock_and_the_numbers_of_one_on_a_processor(kind: str, tmp_path: Path) -> None:
    methods = {"mean": "{}", "ridge": "{}", "modular": "{ width = 8, depth = 1 }"}
    text = small_suite(
        "device", methods, metrics=("psnr", "hue_gain", "feature_error"), passes=16, source="bundled:vit"
    )
    file = tmp_path / "device.toml"
    file.write_text(text.replace("edits = 2", 'edits = 2\nengine = { compile = "off", precision = "float32" }'))
    own = invsuite.run(str(file), out=tmp_path / "cpu", placement=Placement(device="cpu"))
    with the_gpu(kind):
        there = invsuite.run(str(file), out=tmp_path / "gpu", placement=Placement(device="cuda"))
    for one, two in zip(own, there, strict=True):
        assert one.cell.key == two.cell.key
        assert (one.status, two.status) == ("ok", "ok"), two.reason
        assert two.cost is not None
        assert two.cost.clock == "cuda-event"
        assert two.cost.fit_peak_bytes > 0
        assert (one.provenance.deterministic, two.provenance.deterministic) == (True, False)
        for name, measurement in one.measurements.items():
            other = two.measurements[name]
            assert other.mean == pytest.approx(measurement.mean, abs=5 * measurement.tolerance), (one.cell.key, name)


# --- what the pretended one is good for


@dataclass
class Mixed:
    """Something that forgets where its tensors are."""

    offset: torch.Tensor

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self.offset


def test_a_pretended_gpu_notices_what_cuda_would() -> None:
    with pretended_gpu() as mode:
        tensor = torch.ones(2, 3).to("cuda")
        assert tensor.device == GPU
        assert on_gpu(torch.zeros_like(tensor) + 1)
        assert not on_gpu(tensor.cpu())
        layer = torch.nn.Linear(3, 3).to("cuda")
        layer(tensor).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.is_cuda
        with pytest.raises(RuntimeError, match="on the same device, in add"):
            Mixed(torch.ones(3))(tensor)
        with pytest.raises(TypeError, match="to numpy"):
            tensor.numpy()
        with pytest.raises(RuntimeError, match="indices should be"):
            torch.ones(3)[torch.tensor([0, 1]).to("cuda")]
        with pytest.raises(RuntimeError, match="generator of the device"):
            torch.rand(3, device="cuda", generator=torch.Generator())
        assert mode.calls > 3
    assert not torch.ones(1).is_cuda
