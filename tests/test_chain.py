"""The chain run component by component equals the model's own forward, and models are frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

from invsuite.data.split import Split
from invsuite.errors import DataError, Unavailable, UsageError, WeightsError
from invsuite.models.base import Layout, Model, Prediction, Representation, WeightsOrigin
from invsuite.models.checks import check_chain
from invsuite.models.load import load_model
from invsuite.models.transformers import detector_chain

ORIGIN = WeightsOrigin("random weights, for a test", "0" * 64)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def chain_output(model: Model, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    for stage, found in model.represent(images, model.stages).items():
        assert tuple(found.tensor.shape[1:]) == model.layout(stage).shape
    answer = model.predict(images)
    return answer.logits, answer.boxes


def assert_chain_is_forward(model: Model, images: torch.Tensor) -> None:
    logits, boxes = chain_output(model, images)
    with torch.no_grad():
        expected = model.reference(images)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert (boxes is None) == (expected.boxes is None)
    if boxes is not None:
        torch.testing.assert_close(boxes, expected.boxes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit", "detr", "swin", "convnext"])
def test_bundled_chain_equals_forward(name: str, scenes: Split) -> None:
    assert_chain_is_forward(load_model(f"bundled:{name}"), scenes.images(slice(0, 4)))


def test_queries_in_another_order_are_the_same_predictions(detr: Model, scenes: Split) -> None:
    """Where a detector ranks its queries by score, two that are level may change places."""
    images = scenes.images(slice(0, 2))
    own = detr.reference

    def reference(queries: slice, offset: float) -> Callable[[torch.Tensor], Prediction]:
        def run(images: torch.Tensor) -> Prediction:
            answer = own(images)
            assert answer.boxes is not None
            boxes = answer.boxes.clone()
            boxes[:, queries] += offset
            return Prediction(answer.logits.flip(1), boxes.flip(1))

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detr, "reference", reference(slice(0), 0.0))
        check_chain(detr, images)
        patch.setattr(detr, "reference", reference(slice(1), 0.02))
        with pytest.raises(WeightsError, match="differ from the network's own"):
            check_chain(detr, images)


@pytest.mark.parametrize(("backbone", "positions"), [("resnet18", "sine"), ("resnet10t", "learned")])
def test_detr_chain_equals_forward(backbone: str, positions: str) -> None:
    torch.manual_seed(1)
    config = DetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": backbone,
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": [3],
        },
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=5,
        num_labels=4,
        position_embedding_type=positions,
    )
    network = DetrForObjectDetection(config).eval()
    model = detector_chain("d", network, (64, 96), MEAN, STD, ORIGIN)
    assert model.layout("encoder").grid == model.layout("backbone").grid
    assert_chain_is_forward(model, torch.rand(2, 3, 64, 96))


def test_detr_loads_from_a_local_checkpoint(detr: Model, tmp_path: Path) -> None:
    """Size and normalisation come from the checkpoint's own processor; weights survive the round trip."""
    detr.network.save_pretrained(tmp_path)
    DetrImageProcessor(
        size={"height": 96, "width": 96}, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    ).save_pretrained(tmp_path)
    model = load_model(f"detr:{tmp_path}", "local")
    assert model.image_size == (96, 96)
    normalise = model.components[0].module.parts["normalise"]
    assert normalise.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert normalise.std.flatten().tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert model.fingerprint() == detr.fingerprint()


def test_detr_checkpoint_with_a_missing_tensor_is_refused(detr: Model, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    detr.network.save_pretrained(tmp_path)
    DetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("class_labels_classifier.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"class_labels_classifier\.weight"):
        load_model(f"detr:{tmp_path}", "local")


def test_timm_loads_from_a_local_file(tmp_path: Path) -> None:
    """Digest of the file, classes of the file, normalisation of the architecture's own configuration."""
    from safetensors.torch import save_file

    network = timm.create_model("test_vit", pretrained=False, num_classes=5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    models = [load_model(f"timm:test_vit@{tmp_path / file}", "t") for file in ("w.safetensors", "w.pth")]
    images = torch.rand(1, 3, *models[0].image_size)
    assert torch.equal(models[0].predict(images).logits, models[1].predict(images).logits)
    assert models[0].predict(images).logits.shape == (1, 5)
    assert models[0].origin.sha256 != models[1].origin.sha256
    mean = models[0].components[0].module.parts["normalise"].mean.flatten().tolist()
    assert mean == pytest.approx(network.pretrained_cfg["mean"])


def test_timm_file_that_does_not_fit_or_is_not_there(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = timm.create_model("test_vit", pretrained=False).state_dict()
    weights["blocks.1.norm1.weight"] = torch.zeros(3)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"'blocks\.1\.norm1\.weight' is \(3,\), expected \(64,\)"):
        load_model(f"timm:test_vit@{tmp_path / 'w.safetensors'}", "t")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model(f"timm:test_vit@{tmp_path / 'cut.safetensors'}", "t")
    with pytest.raises(Unavailable, match="does not exist"):
        load_model(f"timm:test_vit@{tmp_path / 'no.safetensors'}", "t")
    with pytest.raises(UsageError, match="did you mean test_vit"):
        load_model("timm:tset_vit", "t")


def test_missing_checkpoint_is_unavailable_not_random(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not exist"):
        load_model(f"detr:{tmp_path / 'nowhere'}", "d")


def test_representations_of_one_pass_are_the_chains(vit: Model, scenes: Split) -> None:
    images = scenes.images(slice(0, 2))
    found = vit.represent(images, ["block06", "embed"])
    assert list(found) == ["embed", "block06"], "stages come in chain order"
    torch.testing.assert_close(vit.run(images, None, "block06"), found["block06"].tensor)
    torch.testing.assert_close(vit.run(found["embed"].tensor, "embed", "block06"), found["block06"].tensor)


def test_vit_embedding_is_the_normalised_patches(vit: Model, scenes: Split) -> None:
    """The embedding of a known pixel change is the patch projection of that change over the std: no hidden scaling."""
    image = scenes.images(slice(0, 1)) * 0.5
    moved = image.clone()
    moved[0, 1, 8:16, 16:24] += 0.125  # patch (row 1, column 2), green
    delta = vit.run(moved, None, "embed") - vit.run(image, None, "embed")
    changed = delta.abs().sum(-1)[0].nonzero().flatten().tolist()
    assert changed == [1 + 1 * 12 + 2]
    weight = vit.network.patch_embed.proj.weight[:, 1].sum((1, 2)) * 0.125 / 0.25
    torch.testing.assert_close(delta[0, changed[0]], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["vit", "detr"])
def test_models_are_in_eval_mode_and_frozen(name: str) -> None:
    model = load_model(f"bundled:{name}")
    assert not any(m.training for m in model.network.modules())
    assert not any(p.requires_grad for p in model.network.parameters())
    model.network.train()
    with pytest.raises(DataError, match="train mode"):
        model.represent(torch.rand(1, 3, 96, 96), model.stages[:1])
    model.network.eval()
    next(model.network.parameters()).requires_grad_(True)
    with pytest.raises(DataError, match="trainable"):
        model.check_frozen()


@pytest.mark.parametrize(
    "bad", [torch.rand(1, 3, 96, 96) * 255, torch.rand(1, 3, 96, 96) - 0.5, torch.full((1, 3, 96, 96), torch.nan)]
)
def test_images_outside_the_unit_range_are_refused(vit: Model, bad: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"\[0, 1\]|NaN"):
        vit.represent(bad, ["embed"])


def test_unknown_stage_lists_the_stages(vit: Model) -> None:
    with pytest.raises(UsageError, match=r"block6.*did you mean.*block06"):
        vit.order(["block6"])


def test_representation_checks_its_layout() -> None:
    layout = Layout("tokens", 4, (2, 2), 5, 1)
    assert layout.values == 20
    tokens = torch.arange(20.0).view(1, 5, 4)
    assert torch.equal(Representation(tokens, layout, "a").layout.to_map(tokens)[0, :, 0, 1], tokens[0, 2])
    with pytest.raises(DataError, match="does not fit"):
        Representation(torch.zeros(1, 4, 4), layout, "a")


def test_one_changed_byte_in_the_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from invsuite.models.adapters import bundled

    copy = tmp_path / "bundled"
    shutil.copytree(str(bundled.FOLDER), copy)
    data = bytearray((copy / "vit.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "vit.safetensors").write_bytes(bytes(data))
    monkeypatch.setattr(bundled, "FOLDER", copy)
    with pytest.raises(WeightsError, match=r"SHA-256"):
        load_model("bundled:vit")
    load_model("bundled:detr")
