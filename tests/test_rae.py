"""Decoders of representation autoencoders: what the method makes of a model's tokens is what diffusers itself makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import scene_split
from torch import nn

from invsuite.errors import Unavailable, WeightsError
from invsuite.methods import make_method
from invsuite.methods.checks import check_inverter
from invsuite.methods.problem import Problem
from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin

MakeProblem = Callable[..., Problem]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH, PATCH, SIZE = 64, 14, 56


def test_without_diffusers_the_command_is_named(
    vit: Model, make_problem: MakeProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invsuite.methods.rae.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'invsuite\[diffusers\]'"):
        make_method("rae", {}).fit(make_problem(vit, ("embed",), fit=2))
    assert make_method("rae", {"decoder": "$NO_SUCH_FOLDER/x"}).params()["sha256"] == ""


diffusers = pytest.mark.skipif(
    find_spec("diffusers") is None, reason="needs diffusers: pip install 'invsuite[diffusers]'"
)


@pytest.fixture(scope="module", params=["dinov2", "siglip2", "mae"])
def autoencoder(request: pytest.FixtureRequest) -> Any:
    """A tiny one with random weights and statistics of latents that are not the identity."""
    from diffusers import AutoencoderRAE
    from transformers import SiglipVisionModel

    if not hasattr(SiglipVisionModel, "vision_model"):  # which diffusers expects, and transformers 5 has no more
        SiglipVisionModel.vision_model = property(lambda model: model)
    torch.manual_seed(1)
    return AutoencoderRAE(
        encoder_type=request.param,
        encoder_hidden_size=WIDTH,
        encoder_patch_size=PATCH,
        encoder_num_hidden_layers=2,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        patch_size=16,
        encoder_input_size=SIZE,
        encoder_norm_mean=list(MEAN),
        encoder_norm_std=list(STD),
        latents_mean=torch.full((WIDTH, 1, 1), 0.3),
        latents_std=torch.full((WIDTH, 1, 1), 1.7),
    ).eval()


def chain(autoencoder: Any) -> Model:
    """The encoder as a model of the suite: embedding, two blocks, and a head that normalises as the library does."""
    encoder, kind = autoencoder.encoder, autoencoder.config.encoder_type
    prefix = {"dinov2": 5, "siglip2": 0, "mae": 1}[kind]
    grid = SIZE // PATCH
    layout = Layout("tokens", WIDTH, (grid, grid), grid * grid + prefix, prefix)
    normalise = Normalise(MEAN, STD)

    def embed(images: torch.Tensor) -> torch.Tensor:
        pixels = normalise(images)
        if kind == "mae":
            noise = torch.arange(grid * grid).expand(len(images), -1).float()
            return encoder.embeddings(pixels, noise, interpolate_pos_encoding=True)[0]
        if kind == "siglip2":
            return encoder.embeddings(pixels, interpolate_pos_encoding=True)
        return encoder.embeddings(pixels)

    holder = getattr(encoder, "encoder", encoder)
    layers = holder.layer if hasattr(holder, "layer") else holder.layers
    blocks = [
        Lambda(lambda x, layer=layer: first(layer(x) if kind != "siglip2" else layer(x, None))) for layer in layers
    ]
    components = [
        Component("embed", Lambda(embed, normalise=normalise), layout),
        *(Component(f"block0{number}", block, layout, 1) for number, block in enumerate(blocks, 1)),
        Component("head", Lambda(lambda x: x[:, :1]), Layout("predictions", WIDTH, None, 1)),
    ]

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    origin = WeightsOrigin("a test", "0" * 64, normalisation=(MEAN, STD))
    network: nn.Module = encoder
    return Model("tiny", network, components, (SIZE, SIZE), "embedding", origin, split, lambda images: split(images))


def first(answer: Any) -> torch.Tensor:
    return answer[0] if isinstance(answer, tuple) else answer


@diffusers
def test_it_is_the_whole_autoencoder_on_the_models_own_tokens(
    autoencoder: Any, make_problem: MakeProblem, tmp_path: Path
) -> None:
    """Whatever the statistics of latents are; images of 64 pixels become the model's 56."""
    autoencoder.save_pretrained(tmp_path)
    model = chain(autoencoder)
    method = make_method("rae", {"decoder": str(tmp_path)})
    assert len(method.params()["sha256"]) == 64
    fitted = method.fit(make_problem(model, ("embed", "block01", "block02"), fit=2))
    assert set(fitted.refused) == {"embed", "block01"}
    assert "its last; 'block01' of 'tiny' lies behind block 1" in str(fitted.refused["block01"])
    assert fitted.cost.parameters["block02"] > fitted.cost.parameters["embed"] == 0
    check_inverter(fitted.inverter, "rae")
    images = scene_split(904, 3, SIZE).images(slice(0, 3))
    made = fitted.invert(model.represent(images, ["block02"])["block02"], images)
    with torch.no_grad():
        truth = autoencoder(images).sample
    assert truth.shape == (3, 3, 64, 64)
    truth = nn.functional.interpolate(truth, (SIZE, SIZE), mode="bilinear", antialias=True)
    torch.testing.assert_close(made, truth.clamp(0, 1), atol=1e-5, rtol=1e-4)


@diffusers
def test_other_models_and_stages_are_refused_in_a_line(
    autoencoder: Any, vit: Model, detr: Model, make_problem: MakeProblem, tmp_path: Path
) -> None:
    autoencoder.save_pretrained(tmp_path)
    method = make_method("rae", {"decoder": str(tmp_path)})
    tiny = chain(autoencoder)

    def reason(model: Model, stage: str) -> str:
        return str(method.fit(make_problem(model, (stage,), fit=2)).refused[stage])

    assert f"'backbone' of '{detr.name}' is a map" in reason(detr, "backbone")
    assert "its last; 'block06'" in reason(vit, "block06")
    wide = replace(tiny.components[2], layout=Layout("tokens", 48, (4, 4), 16))
    other = Model(
        "wide", tiny.network, [*tiny.components[:2], wide, tiny.components[3]], tiny.image_size, "embedding", *PARTS
    )
    assert "64 channels and" in reason(other, "block02")
    assert "has 48 and 0" in reason(other, "block02")
    large = Model("large", tiny.network, tiny.components, (112, 112), "embedding", *PARTS)
    assert "images of 56x56 in 4x4 patches, 'large' takes 112x112 in 4x4; for a model of timm add @56" in reason(
        large, "block02"
    )
    fed = Model("fed", tiny.network, tiny.components, (56, 56), "embedding", *PARTS)
    fed.origin = replace(fed.origin, normalisation=((0.5,) * 3, (0.5,) * 3))
    assert "'fed' normalises by ((0.5, 0.5, 0.5)" in reason(fed, "block02")


PARTS: Any = (WeightsOrigin("a test", "0" * 64), Prediction, Prediction)


@diffusers
def test_what_is_not_there_or_damaged_is_said(vit: Model, make_problem: MakeProblem, tmp_path: Path) -> None:
    problem = make_problem(vit, ("embed",), fit=2)
    with pytest.raises(Unavailable, match="fetch it with: hf download"):
        make_method("rae", {}).fit(problem)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderRAE", "encoder_type": "dinov2"')
    method = make_method("rae", {"decoder": str(tmp_path)})
    with pytest.raises(Unavailable, match="has no file diffusion_pytorch_model"):
        method.fit(problem)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        method.fit(problem)
