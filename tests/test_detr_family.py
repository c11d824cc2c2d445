"""Every detector of the DETR family: the chain equals the library's forward, and each component runs alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    Deimv2Config,
    Deimv2ForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    TimmBackboneConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from invsuite.errors import NotApplicable, UsageError
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.load import load_model
from invsuite.models.preprocessing import Preprocessing
from invsuite.models.pyramid import Pyramid
from invsuite.models.transformers import detector_chain

ORIGIN = WeightsOrigin("random weights, for a test", "0" * 64)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE = (64, 96)


def resnet(*outs: str) -> ResNetConfig:
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1], layer_type="basic", out_features=list(outs)
    )


def timm_backbone(name: str) -> TimmBackboneConfig:
    return TimmBackboneConfig(backbone=name, features_only=True, use_pretrained_backbone=False, out_indices=[3])


SMALL: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_queries": 5,
    "num_labels": 4,
}
HYBRID: dict[str, Any] = SMALL | {
    "encoder_layers": 1,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [8, 16, 24],
    "decoder_in_channels": [32, 32, 32],
    "num_denoising": 0,
    "decoder_n_points": 2,
}


def rt_backbone() -> RTDetrResNetConfig:
    return RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 24],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def hgnet() -> HGNetV2Config:
    return HGNetV2Config(
        stem_channels=[3, 4, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[4, 4, 4, 4],
        stage_out_channels=[8, 8, 16, 24],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3],
        hidden_sizes=[8, 8, 16, 24],
        out_features=["stage2", "stage3", "stage4"],
    )


def deformable(**more: Any) -> nn.Module:
    config = DeformableDetrConfig(
        backbone_config=resnet("stage2", "stage3", "stage4"), num_feature_levels=4, **(SMALL | more)
    )
    return DeformableDetrForObjectDetection(config)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "detr-resnet": lambda: DetrForObjectDetection(DetrConfig(backbone_config=resnet("stage4"), **SMALL)),
    "detr-timm": lambda: DetrForObjectDetection(DetrConfig(backbone_config=timm_backbone("test_resnet"), **SMALL)),
    "conditional": lambda: ConditionalDetrForObjectDetection(
        ConditionalDetrConfig(backbone_config=resnet("stage4"), **SMALL)
    ),
    "deformable": deformable,
    "deformable-refined": lambda: deformable(with_box_refine=True),
    "deformable-two-stage": lambda: deformable(with_box_refine=True, two_stage=True, two_stage_num_proposals=5),
    "rt-detr": lambda: RTDetrForObjectDetection(RTDetrConfig(backbone_config=rt_backbone(), **HYBRID)),
    "rt-detr-v2": lambda: RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=rt_backbone(), **HYBRID)),
    "d-fine": lambda: DFineForObjectDetection(DFineConfig(backbone_config=hgnet(), **HYBRID)),
    "deimv2": lambda: Deimv2ForObjectDetection(Deimv2Config(backbone_config=hgnet(), **HYBRID)),
    "yolos": lambda: YolosForObjectDetection(
        YolosConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=[64, 64],
            num_detection_tokens=5,
            num_labels=4,
            use_mid_position_embeddings=True,
        )
    ),
}


def chain(name: str, canvas: tuple[int, int] | None = None) -> Model:
    """A detector with random weights, and every parameter that starts at zero shaken."""
    torch.manual_seed(1)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return detector_chain(name, network, SIZE, MEAN, STD, ORIGIN, canvas)


@pytest.fixture(scope="module", params=NETWORKS)
def detector(request: pytest.FixtureRequest) -> Model:
    """The `chain` of a detector, built once for all tests of it."""
    return chain(request.param)


@pytest.fixture
def model(detector: Model) -> Model:
    """The detector, before images are drawn."""
    torch.manual_seed(2)
    return detector


def test_chain_equals_forward(model: Model) -> None:
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        expected = model.reference(images)
    answer = model.predict(images)
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.boxes, expected.boxes, atol=1e-5, rtol=1e-5)
    assert answer.no_object == expected.no_object
    assert float(answer.logits.std(1).max()) > 1e-4, "queries differ"


def test_every_component_runs_alone(model: Model) -> None:
    """Each from the stage it reads, one pass and component by component alike; gradients reach the pixels."""
    images = torch.rand(2, 3, *SIZE, requires_grad=True)
    found = model.represent(images.detach(), model.stages)
    for index, component in enumerate(model.components):
        start = component.reads or (model.stages[index - 1] if index else None)
        tensor = images.detach() if start is None else found[start].tensor
        torch.testing.assert_close(model.run(tensor, start, component.stage), found[component.stage].tensor)
    for stage in model.stages:
        images.grad = None
        model.run(images, None, stage).square().sum().backward()
        assert float(images.grad.abs().sum()) > 0, stage
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_the_last_stages_are_the_librarys(model: Model) -> None:
    """``encoder`` and ``decoder`` are what the library calls so."""
    images = torch.rand(1, 3, *SIZE)
    normalise = model.components[0].module.parts["normalise"]
    with torch.no_grad():
        outputs = model.network(pixel_values=normalise(images))
    stages = ("encoder",) if model.name == "yolos" else ("encoder", "decoder")
    found = model.represent(images, stages)
    if model.name == "yolos":
        expected = model.network.vit.layernorm(found["encoder"].tensor[:, 1:6])
        torch.testing.assert_close(expected, outputs.last_hidden_state[:, -5:], atol=1e-5, rtol=1e-5)
        return
    torch.testing.assert_close(found["decoder"].tensor, outputs.last_hidden_state, atol=1e-5, rtol=1e-5)
    theirs, ours = outputs.encoder_last_hidden_state, found["encoder"].tensor
    if isinstance(theirs, list):
        pyramid = Pyramid.of(theirs)
        assert model.layout("encoder") == pyramid.layout
        for mine, level in zip(pyramid.unpack(ours), theirs, strict=True):
            torch.testing.assert_close(mine, level, atol=1e-5, rtol=1e-5)
    elif model.layout("encoder").kind == "tokens":
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(ours[:, :32].flatten(2).transpose(1, 2), theirs[:, : 8 * 12], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["detr-resnet", "conditional", "deformable", "rt-detr"])
def test_padding_is_masked(name: str) -> None:
    """On a larger canvas the chain still equals the forward with the processor's padding mask."""
    model = chain(name, canvas=(96, 128))
    images = torch.rand(2, 3, *SIZE)
    pixels = torch.zeros(2, 3, 96, 128)
    pixels[:, :, :64, :96] = model.components[0].module.parts["normalise"](images)
    mask = torch.zeros(2, 96, 128, dtype=torch.long)
    mask[:, :64, :96] = 1
    with torch.no_grad():
        expected = model.network(pixel_values=pixels, pixel_mask=mask)
        unmasked = model.network(pixel_values=pixels)
    answer = model.predict(images)
    torch.testing.assert_close(answer.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.boxes, expected.pred_boxes, atol=1e-5, rtol=1e-5)
    if name != "rt-detr":  # which takes no mask
        assert float((answer.logits - unmasked.logits).abs().max()) > 1e-3
    with pytest.raises(UsageError, match="smaller than images of 64x96"):
        chain(name, canvas=(32, 128))


def test_decoder_cuts_are_run_from_the_memory() -> None:
    model = chain("detr-resnet")
    expected = ("backbone", "encoder1", "encoder", "decoder1", "decoder2", "decoder", "prediction")
    assert model.stages == expected
    assert model.blocks("backbone", "decoder") == 5
    queries = torch.zeros(1, *model.layout("decoder1").shape)
    with pytest.raises(NotApplicable, match=r"'decoder2' .* does not follow from 'decoder1' alone: run it from 'enc"):
        model.run(queries, "decoder1", "decoder2")
    refined = chain("rt-detr")
    with pytest.raises(NotApplicable, match=r"'prediction' .* run it from 'encoder'"):
        refined.run(torch.zeros(1, *refined.layout("decoder").shape), "decoder", "prediction")


def test_what_several_stages_read_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain("detr-resnet")
    calls = []
    encoder = model.components[2].module
    inner = encoder.function
    monkeypatch.setattr(encoder, "function", lambda tensor: calls.append(1) or inner(tensor))
    model.represent(torch.rand(1, 3, *SIZE), ["decoder1", "decoder2", "prediction"])
    assert len(calls) == 1


def test_views_share_weights_and_leave_the_network_as_it_was() -> None:
    """A changed weight changes the chain; randomising makes another chain and touches nothing of this one."""
    model = chain("d-fine")
    images = torch.rand(1, 3, *SIZE)
    before = model.predict(images).logits
    other = model.randomised(3)
    torch.testing.assert_close(model.predict(images).logits, before)
    assert not torch.allclose(other.predict(images).logits, before)
    with torch.no_grad():
        model.network.model.decoder.class_embed[-1].bias.add_(1.0)
    torch.testing.assert_close(model.predict(images).logits, before + 1.0)
    model.check_frozen()


@pytest.mark.parametrize("grids", [((12, 20), (6, 10), (3, 5)), ((13, 21), (7, 11), (4, 6)), ((5, 7), (1, 1))])
def test_a_pyramid_round_trip_is_exact(grids: tuple[tuple[int, int], ...]) -> None:
    maps = [torch.randn(2, 3 + level, *grid) for level, grid in enumerate(grids)]
    pyramid = Pyramid.of(maps)
    packed = pyramid.pack(maps)
    assert tuple(packed.shape[1:]) == pyramid.layout.shape
    assert pyramid.layout.distinct == sum(m[0].numel() for m in maps)
    for level, back in zip(maps, pyramid.unpack(packed), strict=True):
        assert torch.equal(level, back)
    tokens = torch.cat([m[:, :3].flatten(2).transpose(1, 2) for m in maps], 1)
    flat = Pyramid((3,) * len(grids), grids)
    assert torch.equal(flat.maps_of(tokens)[-1], maps[-1][:, :3])


def saved(folder: Path, name: str, processor: Any) -> Path:
    """A checkpoint as its author would save it."""
    torch.manual_seed(1)
    NETWORKS[name]().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_checkpoints_own_processor_is_obeyed(tmp_path: Path) -> None:
    """RT-DETR only rescales: its processor's mean and deviation are there and not to be used."""
    plain = RTDetrImageProcessor(size={"height": 64, "width": 96}, do_normalize=False)
    model = load_model(f"detr:{saved(tmp_path / 'rt', 'rt-detr', plain)}", "m")
    assert model.image_size == (64, 96)
    normalise = model.components[0].module.parts["normalise"]
    assert normalise.mean.flatten().tolist() == [0, 0, 0]
    assert normalise.std.flatten().tolist() == [1, 1, 1]
    assert model.resampling.interpolation == "bilinear"
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.network(pixel_values=images)
    torch.testing.assert_close(model.predict(images).boxes, expected.pred_boxes, atol=1e-5, rtol=1e-5)
    edges = DetrImageProcessor(size={"shortest_edge": 800, "longest_edge": 1333}, image_mean=MEAN, image_std=STD)
    how = Preprocessing.of(edges, "here")
    assert how.size == (800, 1056), "4:3 in whole places"
    assert (how.mean, how.std) == (MEAN, STD)


def test_a_source_may_say_the_size_and_the_canvas(tmp_path: Path) -> None:
    folder = saved(tmp_path, "detr-resnet", DetrImageProcessor(size={"height": 32, "width": 32}))
    assert load_model(f"detr:{folder}@64x96", "m").image_size == (64, 96)
    padded = load_model(f"detr:{folder}@64x96/96x128", "m")
    assert padded.image_size == (64, 96)
    assert padded.layout("encoder").grid == (3, 4)
    yolos = saved(tmp_path / "yolos", "yolos", YolosImageProcessor(size={"height": 64, "width": 64}))
    assert load_model(f"detr:{yolos}", "y").stages == ("embed", "encoder1", "encoder2", "encoder", "prediction")
    with pytest.raises(UsageError, match="no padding mask"):
        load_model(f"detr:{yolos}@64x96/96x128", "y")


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    resnet("stage4").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"checkpoint of 'resnet'; this adapter cuts: .*d_fine.*yolos"):
        load_model(f"detr:{tmp_path}", "m")
