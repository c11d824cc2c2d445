"""Published inverse networks: tensors go in by name and shape or not at all, and the networks do what torch's do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import scene_split
from safetensors.torch import save_file
from timm.models.vision_transformer import Block
from torch import nn
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from invsuite.errors import NotApplicable, Unavailable, UsageError, WeightsError
from invsuite.inverses.rathjens import (
    LADDERS,
    PublishedLayer,
    PublishedSwinStage,
    ladder_source,
    published_network,
    sine_positions,
)
from invsuite.methods import make_method
from invsuite.methods.checks import check_inverter
from invsuite.methods.problem import Problem
from invsuite.models.base import Layout, Model, image_layout
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.models.load import load_model

MakeProblem = Callable[..., Problem]
State = dict[str, torch.Tensor]
IMAGE = image_layout((96, 96))


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """A state dict of random values; variances of a batch normalisation are positive."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for key, shape in shapes.items():
        state[key] = 0.1 * torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def conv(name: str, before: int, after: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (before, after, kernel, kernel), f"{name}.bias": (after,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    keys = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (width,) for key in keys} | {f"{name}.num_batches_tracked": ()}


def vit_backbone(width: int, count: int = 0) -> State:
    """What ``EnhancedVitBackbone`` holds (with the position embedding of its other form), as their code names it."""
    shapes: dict[str, tuple[int, ...]] = {"pos_emb": (1, count, width)} if count else {}
    for number, (a, b) in enumerate([(width, 256), (256, 64), (64, 16), (16, 3)], 1):
        shapes |= conv(f"up_conv_{number}", a, b, 2) | (norm(f"bn_{number}", b) if number < 4 else {})
    return drawn(shapes)


def vit_encoder(width: int, depth: int) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*(Block(width, 12, mlp_ratio=4.0, qkv_bias=False) for _ in range(depth))).eval()


def detr_backbone() -> State:
    """What ``LinearDecoderEnhanced`` holds for a stride of 8."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(1, 5):
        shapes |= conv(f"up_conv_{number}", 128, 128, 1)
    return drawn(shapes | conv("up_conv_5", 128, 3, 8))


def layers(cross: bool, width: int, depth: int) -> State:
    layer = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    torch.manual_seed(4)
    modules = nn.ModuleDict({"layers": nn.ModuleList(layer(width, 8, 2048) for _ in range(depth))})
    return dict(modules.state_dict())


def detector(classes: int, width: int) -> State:
    sizes = (classes + 4, 512, 256, width)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (a, b) in enumerate(pairwise(sizes), 1):
        name = f"inverse_classifier_regressor.fc{number}"
        shapes |= {f"{name}.weight": (b, a), f"{name}.bias": (b,)}
    return drawn(shapes)


@pytest.fixture(scope="module")
def raw_vit() -> Model:
    """A ViT with patches of 16 and random weights, fed as the paper fed its own."""
    return load_model("unnormalised:timm:vit_tiny_patch16_224", "raw", random_weights=True)


def test_a_whole_vit_is_inverted_by_two_files(raw_vit: Model, make_problem: MakeProblem, tmp_path: Path) -> None:
    """The images are those of the layers one after the other, written here with torch's functions."""
    state, encoder = vit_backbone(192, count=197), vit_encoder(192, 2)
    torch.save(state, tmp_path / "inv_vit_bb")
    blocks = {f"_orig_mod.blocks.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"model_states": {"inv_vit_encoder": blocks}, "optim_states": {}, "best_loss": 0.5}, tmp_path / "enc.pt")
    files = [{"stage": s, "file": str(tmp_path / f)} for s, f in (("embed", "inv_vit_bb"), ("block02", "enc.pt"))]
    method = make_method("rathjens", {"networks": files, "normalisation": "none"})
    problem = make_problem(raw_vit, ("embed", "block01", "block02"), fit=2)
    fitted = method.fit(problem)
    assert "no published network reads stage 'block01'; there are: embed, block02" in str(fitted.refused["block01"])
    check_inverter(fitted.inverter, "rathjens")
    assert fitted.cost.parameters["block02"] > fitted.cost.parameters["embed"] > fitted.cost.parameters["block01"] == 0
    assert fitted.inverter.tensors() is None
    images = scene_split(904, 3, 224).images(slice(0, 3))
    found = raw_vit.represent(images, ["embed", "block02"])

    def ladder(tokens: torch.Tensor) -> torch.Tensor:
        x = (tokens - state["pos_emb"])[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
        for i in range(1, 4):
            x = F.conv_transpose2d(x, state[f"up_conv_{i}.weight"], state[f"up_conv_{i}.bias"], stride=2)
            statistics = (state[f"bn_{i}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
            x = F.relu(F.batch_norm(x, *statistics, training=False))
        return F.conv_transpose2d(x, state["up_conv_4.weight"], state["up_conv_4.bias"], stride=2).sigmoid()

    with torch.no_grad():
        truths = {"embed": ladder(found["embed"].tensor), "block02": ladder(encoder(found["block02"].tensor))}
    for stage, truth in truths.items():
        torch.testing.assert_close(fitted.invert(found[stage], images), truth)


def test_a_whole_detr_is_inverted_by_four_files(detr: Model, make_problem: MakeProblem, tmp_path: Path) -> None:
    parts = {
        "backbone": detr_backbone(),
        "encoder": layers(cross=False, width=128, depth=2),
        "decoder": layers(cross=True, width=128, depth=1) | drawn({"query_embed.weight": (12, 128)}),
        "prediction": detector(classes=9, width=128),
    }
    for stage, state in parts.items():
        save_file(state, tmp_path / f"{stage}.safetensors")
    files = [{"stage": stage, "file": str(tmp_path / f"{stage}.safetensors")} for stage in parts]
    problem = make_problem(detr, tuple(parts), fit=2)
    fitted = make_method("rathjens", {"networks": files}).fit(problem)
    images = scene_split(904, 3).images(slice(0, 3))
    found = detr.represent(images, list(parts))
    made = {stage: fitted.invert(found[stage], images) for stage in parts}
    assert {tuple(image.shape) for image in made.values()} == {(3, 3, 96, 96)}
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in made.values())
    assert not torch.equal(made["decoder"], made["prediction"])
    # the places of a network whose stage no model has: the map that its own first tensor reads
    virtual = [{"stage": "projection", "file": files[0]["file"]}, *files[1:]]
    other = make_method("rathjens", {"networks": virtual}).fit(problem)
    assert set(other.refused) == {"backbone"}
    assert torch.equal(other.invert(found["encoder"], images), made["encoder"])


def test_layers_are_those_of_torch_where_nothing_has_a_position() -> None:
    torch.manual_seed(5)
    x, memory = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    for cross in (False, True):
        reference = (nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer)(16, 8, 2048, batch_first=True)
        own = PublishedLayer(16, cross)
        own.load_state_dict(reference.state_dict(), strict=True)
        own.eval()
        reference.eval()
        zero = torch.zeros(6, 16)
        made = own(x, zero, memory, torch.zeros(5, 16)) if cross else own(x, zero)
        torch.testing.assert_close(made, reference(x, memory) if cross else reference(x), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(made, own(x, zero + 1, memory, torch.zeros(5, 16)))


def test_positions_are_those_of_detr() -> None:
    grid = (3, 5)
    mask = torch.ones(1, *grid, dtype=torch.bool)
    library = DetrSinePositionEmbedding(8, normalize=True)
    theirs = library(torch.Size((1, 16, *grid)), torch.device("cpu"), torch.float32, mask)
    theirs = theirs.flatten(2).transpose(1, 2) if theirs.dim() == 4 else theirs
    torch.testing.assert_close(sine_positions(grid, 16), theirs[0])


def test_every_published_ladder_has_the_sizes_of_its_paper() -> None:
    """DETR at 480 x 640 (15 x 20 places of 256 channels), ViT-B/16 (14 x 14 of 768), Swin-B (56 x 56 of 128)."""
    cases = [(256, (15, 20), (480, 640))] * 7
    cases[2], cases[3] = (768, (14, 14), (224, 224)), (128, (56, 56), (224, 224))
    for steps, (channels, grid, size) in zip(LADDERS, cases, strict=True):
        shapes: dict[str, tuple[int, ...]] = {}
        before = channels
        for step in steps:
            after = step.outputs or channels
            shapes |= conv(step.name, before, after, step.kernel or 32)
            shapes |= norm(step.norm, after) if step.norm else {}
            before = after
        source, target = Layout("map", channels, grid), image_layout(size)
        with torch.device("meta"):
            state = {key: torch.empty(shape) for key, shape in shapes.items()}
        assert ladder_source(state, target) == source
    state = drawn(shapes)
    images = published_network(state, Layout("map", 256, (1, 2)), image_layout((32, 64)))(torch.randn(2, 256, 1, 2))
    assert images.shape == (2, 3, 32, 64)
    assert 0 < float(images.min()) < float(images.max()) < 1


def test_a_stage_of_swin_is_split_as_it_was_merged() -> None:
    """Place (2 i + a, 2 j + b) of the finer map is part (a, b) of place (i, j)."""
    source, target = Layout("map", 64, (7, 7)), Layout("map", 32, (14, 14))
    torch.manual_seed(6)
    state = {
        key: torch.randn_like(value) for key, value in PublishedSwinStage(source, target, 2, True).state_dict().items()
    }
    network = published_network(state | {"blocks.1.attn_mask": torch.zeros(1)}, source, target)
    x = torch.randn(2, 64, 7, 7)
    made = network(x)
    assert made.shape == (2, 32, 14, 14)
    places = network.blocks(x.permute(0, 2, 3, 1))
    norms = F.layer_norm(places, (64,), state["upsample.norm.weight"], state["upsample.norm.bias"])
    four = F.linear(norms, state["upsample.expansion.weight"])
    torch.testing.assert_close(made[:, :, 2 * 3 + 1, 2 * 5], four[:, 3, 5, 2 * 32 : 3 * 32])


def test_a_tensor_that_does_not_fit_is_named_with_both_shapes() -> None:
    source = Layout("map", 128, (12, 12))
    good = detr_backbone()
    published_network(good, source, IMAGE)
    wrong = good | {"up_conv_3.weight": torch.zeros(64, 128, 1, 1)}
    with pytest.raises(
        WeightsError, match=r"tensor 'up_conv_3.weight' is \(64, 128, 1, 1\) there and \(128, 128, 1, 1\) "
    ):
        published_network(wrong, source, IMAGE)
    with pytest.raises(WeightsError, match=r"tensor 'up_conv_1.bias' is absent there and \(128,\) here"):
        published_network({k: v for k, v in good.items() if k != "up_conv_1.bias"}, source, IMAGE)
    with pytest.raises(WeightsError, match=r"tensor 'up_conv_1.extra' is \(2,\) there and absent here"):
        published_network(good | {"up_conv_1.extra": torch.zeros(2)}, source, IMAGE)
    with pytest.raises(WeightsError, match="refines 12x12 places to 192x192 pixels, images here are 96x96"):
        published_network(vit_backbone(128), source, IMAGE)
    with pytest.raises(WeightsError, match=r"those of no published inverse network \(first: 'a'\)"):
        published_network({"a": torch.zeros(1)}, source, IMAGE)
    with pytest.raises(WeightsError, match="queries to places, here it is between map"):
        published_network(layers(True, 128, 1), source, IMAGE)


def test_files_and_models_that_do_not_fit_are_refused(
    detr: Model, vit: Model, raw_vit: Model, make_problem: MakeProblem, tmp_path: Path
) -> None:
    torch.save(detr_backbone(), tmp_path / "bb")
    torch.save(layers(False, 128, 1), tmp_path / "enc")
    torch.save({"model_states": {"a": {}, "b": {}}}, tmp_path / "several")
    torch.save([1, 2], tmp_path / "list")
    (tmp_path / "damaged").write_bytes(b"nothing")

    def fit(model: Model, *files: tuple[str, str], normalisation: str = "checkpoint") -> None:
        networks = [{"stage": stage, "file": str(tmp_path / name)} for stage, name in files]
        method = make_method("rathjens", {"networks": networks, "normalisation": normalisation})
        method.fit(make_problem(model, (model.stages[0],), fit=2))

    fit(detr, ("backbone", "bb"), ("encoder", "enc"))
    with pytest.raises(
        WeightsError, match=r"bb' at stage 'embed': tensor 'up_conv_1.weight' is \(128, 128, 1, 1\) there"
    ):
        fit(vit, ("embed", "bb"))
    with pytest.raises(UsageError, match="stands behind a later one"):
        fit(detr, ("encoder", "bb"), ("backbone", "enc"))
    with pytest.raises(UsageError, match="'encodr'"):
        fit(detr, ("backbone", "bb"), ("encodr", "enc"))
    with pytest.raises(Unavailable, match="does not exist"):
        fit(detr, ("backbone", "none"))
    with pytest.raises(Unavailable, match="name their files"):
        fit(detr)
    for name, reason in (("several", "holds 2 networks"), ("list", "no state dict"), ("damaged", "cannot be read")):
        with pytest.raises(WeightsError, match=reason):
            fit(detr, ("backbone", name))
    with pytest.raises(NotApplicable, match="put 'unnormalised:' in front"):
        fit(detr, ("backbone", "bb"), normalisation="none")
    with pytest.raises(NotApplicable, match='set normalisation = "none"'):
        fit(raw_vit, ("embed", "bb"))


def test_what_a_file_holds_is_part_of_the_identity(tmp_path: Path) -> None:
    file = tmp_path / "bb"
    parameters = {"networks": [{"stage": "backbone", "file": str(file)}]}
    method = make_method("rathjens", parameters)
    assert method.params()["sha256"] == [""]
    torch.save(detr_backbone(), file)
    first = method.params()["sha256"]
    torch.save({"a": torch.zeros(1)}, file)
    assert "" not in first != method.params()["sha256"]


def test_a_model_without_its_normalisation_says_so(raw_vit: Model) -> None:
    """It is the same network on images as they are, has another identity, and stays so with other weights."""
    normalised = load_model("timm:vit_tiny_patch16_224", "vit", random_weights=True)
    images = scene_split(904, 2, 224).images(slice(0, 2))
    shifted = images * 0.5 + 0.5  # what the checkpoint's mean and deviation of 0.5 take back
    torch.testing.assert_close(raw_vit.predict(images).logits, normalised.predict(shifted).logits)
    assert raw_vit.origin.sha256 != normalised.origin.sha256
    for model in (raw_vit, raw_vit.randomised(1)):
        check_normalisation(model)
        check_chain(model, images)
        assert model.origin.normalisation == ((0.0,) * 3, (1.0,) * 3)
    assert "fed without normalisation" in raw_vit.origin.source
    with pytest.raises(UsageError, match="not ADAPTER:NAME"):
        load_model("unnormalised:vit_tiny_patch16_224")
