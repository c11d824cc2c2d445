"""Torchvision's classifiers that are a row of layers: the chain is the network, and nothing overwrites a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from helpers import invoke

from invsuite._system.torch_hub import TorchFile
from invsuite.errors import Unavailable, UsageError, WeightsError
from invsuite.models.base import Model
from invsuite.models.checks import check_chain, check_normalisation
from invsuite.models.load import load_model, needs


@pytest.fixture(scope="module")
def alexnet() -> Model:
    return load_model("torchvision:alexnet", random_weights=True)


def test_alexnet_is_cut_at_its_own_names(alexnet: Model) -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    check_chain(alexnet, images)
    check_normalisation(alexnet)
    check_chain(alexnet.randomised(1), images)
    assert alexnet.stages == (*(f"features.{number}" for number in range(13)), "head")
    assert alexnet.layout("features.2").shape == (64, 27, 27)
    assert alexnet.origin.random
    assert (alexnet.resampling.interpolation, alexnet.resampling.crop_pct) == ("bilinear", 0.875)
    found = alexnet.represent(images, ["features.0", "features.1"])
    assert float(found["features.0"].tensor.min()) < 0 == float(found["features.1"].tensor.min())


def test_another_make_of_network_is_refused() -> None:
    for source in ("resnet18", "densenet121"):
        with pytest.raises(UsageError, match="no row of features, pooling and classifier: load it from timm"):
            load_model(f"torchvision:{source}", random_weights=True)
    with pytest.raises(UsageError, match="did you mean alexnet"):
        load_model("torchvision:alexnt", random_weights=True)


def test_published_weights_are_read_or_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        Unavailable, match=r"checkpoint mobilenet_v3_small-047dcff4.pth is not in the cache; fetch it: curl"
    ):
        load_model("torchvision:mobilenet_v3_small")
    (need,) = needs("torchvision:mobilenet_v3_small")
    assert need.what == "checkpoint mobilenet_v3_small-047dcff4.pth"
    assert need.state == "to fetch"
    assert [n.what for n in needs("unnormalised:torchvision:mobilenet_v3_small")] == [need.what]
    path = tmp_path / "w.pth"
    torch.save(torchvision.models.get_model("mobilenet_v3_small", weights=None).state_dict(), path)
    monkeypatch.setattr(TorchFile, "find", lambda self: path)
    model = load_model("torchvision:mobilenet_v3_small")
    assert not model.origin.random
    assert len(model.origin.sha256) == 64
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_model("torchvision:mobilenet_v3_small")


def test_the_list_names_the_adapter() -> None:
    assert "torchvision:NAME" in invoke("list", "models").stdout
