"""Image classifiers that transformers saved: the chain is the library's forward, over families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from invsuite.errors import UsageError
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.models.load import load_model

SLIM: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 64,
    "patch_size": 16,
}
WINDOWS: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 16,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
SCALES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}

#: a family's class, what makes it small, its stages after the embedding, and the prefix tokens it must have
FAMILIES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "vit": ("ViTForImageClassification", SLIM, "block03", 1),
    "vit without a head": ("ViTModel", SLIM, "block03", 1),
    "dinov2": ("Dinov2ForImageClassification", SLIM, "block03", 1),
    "dinov2 with registers": ("Dinov2WithRegistersForImageClassification", SLIM, "block03", 5),
    "beit": ("BeitForImageClassification", SLIM, "block03", 1),
    "deit": ("DeiTForImageClassificationWithTeacher", SLIM, "block03", 2),
    "swin": ("SwinForImageClassification", WINDOWS, "stage3", 0),
    "swin v2": ("Swinv2ForImageClassification", WINDOWS, "stage3", 0),
    "convnext": ("ConvNextForImageClassification", SCALES, "stage4", 0),
    "resnet": ("ResNetForImageClassification", SCALES | {"embedding_size": 8}, "stage4", 0),
    "clip's vision tower": ("CLIPVisionModel", SLIM, "block03", 1),
}


def saved(family: str, folder: Path, **keys: Any) -> Path:
    """A small network with shaken weights, as its author would save it."""
    kind, options, *_ = FAMILIES[family]
    torch.manual_seed(0)
    cls = getattr(hf, kind)
    network = cls(cls.config_class(**options, **keys))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chain_is_the_librarys_forward(family: str, tmp_path: Path) -> None:
    """From a photo through the library's own processor, and every piece from the representation before it alone."""
    folder = saved(family, tmp_path)
    model = load_model(f"transformers:{folder}")
    _, _, last, prefix = FAMILIES[family]
    assert model.uncut == ""
    assert (model.stages[0], model.stages[-2], model.stages[-1]) == ("embed", last, "head")
    assert model.layout(model.stages[1]).prefix == prefix
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processor = hf.AutoImageProcessor.from_pretrained(folder)
    inner = model.network.network
    with torch.no_grad():
        outputs = inner(**processor(images=[Image.fromarray(picture)], return_tensors="pt"), output_hidden_states=True)
    images = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255
    expected = outputs.logits if model.task == "classification" else outputs.pooler_output
    torch.testing.assert_close(model.predict(images).logits, expected.flatten(1), atol=1e-5, rtol=1e-4)
    representation = model.represent(images, [last])[last].tensor
    hidden = outputs.hidden_states[-1]
    torch.testing.assert_close(representation, hidden, atol=1e-5, rtol=1e-4)
    check_chain(model, torch.rand(3, 3, 64, 64))
    check_normalisation(model)
    moved = representation.clone().requires_grad_()
    model.run(moved, last, "head").square().sum().backward()
    assert float(moved.grad.abs().sum()) > 0


@pytest.mark.parametrize("family", ["vit", "dinov2", "swin", "convnext"])
def test_another_size_resamples_position_embeddings(family: str, tmp_path: Path) -> None:
    model = load_model(f"transformers:{saved(family, tmp_path)}@96x64")
    assert model.image_size == (96, 64)
    check_chain(model, torch.rand(1, 3, 96, 64))


def test_classes_processors_and_random_weights(tmp_path: Path) -> None:
    labels = {0: "cat", 1: "dog", 2: "cow"}
    folder = saved("convnext", tmp_path, id2label=labels, label2id={name: key for key, name in labels.items()})
    hf.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875).save_pretrained(folder)
    model = load_model(f"transformers:{folder}")
    assert model.classes == ("cat", "dog", "cow")
    assert (model.image_size, model.resampling.crop_pct) == ((64, 64), 0.875)
    other = load_model(f"transformers:{folder}", random_weights=True)
    assert other.origin.random
    assert other.fingerprint() != model.fingerprint()


def test_what_is_no_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = saved("vit", tmp_path / "vit")
    with pytest.raises(UsageError, match="70x64 are no whole patches of 16x16"):
        load_model(f"transformers:{folder}@70x64")
    text = hf.BertModel(hf.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    text.save_pretrained(tmp_path / "text")
    hf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "text")
    with pytest.raises(UsageError, match="does not run on images") as caught:
        load_model(f"transformers:{tmp_path / 'text'}")
    assert "\n" not in str(caught.value)
