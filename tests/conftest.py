"""Fixtures: bundled models, small splits of scenes, a tiny suite file, and the optional folder of real data."""

from __future__ import annotations

import os

# before any import of the hub client: no test touches the network
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import SMALL_MODELS, TINY_SUITE, scene_split
from torch import nn

from invsuite.data.split import Split
from invsuite.methods.problem import Budget, Problem
from invsuite.models.base import Component, Layout, Model, Prediction, WeightsOrigin
from invsuite.models.load import load_model
from invsuite.registry import forget_plugins

#: files of tests that take more than a quarter of a minute of a core, longest first
LONGEST = (
    "readme",
    "methods",
    "executors",
    "contracts",
    "together",
    "types",
    "engine",
    "notebooks",
    "onnx",
    "cuda",
    "photos",
    "kill_resume",
    "store",
    "timm_families",
    "docs",
    "cli",
    "html",
    "fetch",
    "published",
    "refined",
    "examples",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no process is left alone with one of them at the end."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests decode out of the user's cache, and what lies there out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVSUITE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_plugin_stays() -> Iterator[None]:
    """Leave the registries to the next file of tests without plug-ins."""
    yield
    forget_plugins()


@pytest.fixture(scope="session")
def vit() -> Model:
    return load_model("bundled:vit")


@pytest.fixture(scope="session")
def detr() -> Model:
    return load_model("bundled:detr")


@pytest.fixture(scope="session")
def small_vit() -> Model:
    return load_model(SMALL_MODELS["vit"], "vit")


@pytest.fixture(scope="session")
def small_detr() -> Model:
    return load_model(SMALL_MODELS["detr"], "detr")


@pytest.fixture(scope="session")
def scenes() -> Split:
    return scene_split(901, 12)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """A small problem on a model: 48 fit scenes, 16 selection scenes."""

    def build(model: Model, stages: tuple[str, ...], passes: int = 64, seed: int = 0, fit: int = 48) -> Problem:
        size = model.image_size[0]
        return Problem(
            model=model,
            stages=stages,
            cut=stages,
            fit=scene_split(902, fit, size),
            select=scene_split(903, 16, size),
            budget=Budget(image_passes=passes, batch=16),
            seed=seed,
        )

    return build


class Patches(nn.Module):
    """Patch embedding of a linear chain: images around mid grey, one row a patch."""

    def __init__(self, patch: nn.Module) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch(x - 0.5).flatten(2).transpose(1, 2)


class Head(nn.Module):
    """Linear readout of the mean token."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(1, keepdim=True))


def linear_model(network: nn.Module) -> Model:
    """The linear chain over (patches, token-wise map, head), of images of 3 x 3 patches."""
    first, second, head = network.children()
    convolution = first.patch
    values, side = convolution.out_channels, 3 * convolution.kernel_size[0]
    tokens = Layout("tokens", values, (3, 3), 9)
    components = [
        Component("first", first, tokens),
        Component("second", second, tokens),
        Component("head", head, Layout("predictions", 8, None, 1)),
    ]

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    def reference(images: torch.Tensor) -> Prediction:
        return split(head(second(first(images))))

    origin = WeightsOrigin("a test", "0" * 64)
    size = (side, side)
    return Model("linear", network, components, size, "classification", origin, split, reference, linear_model)


def orthogonal_chain(patch: int) -> Model:
    """A known, invertible, linear model: each patch of an image of 3 x 3 by an orthogonal map, then by another."""
    torch.manual_seed(5)
    values = 3 * patch**2
    convolution = nn.Conv2d(3, values, patch, stride=patch, bias=False)
    nn.init.orthogonal_(convolution.weight.view(values, values))
    mix = nn.Linear(values, values, bias=False)
    nn.init.orthogonal_(mix.weight)
    return linear_model(nn.Sequential(Patches(convolution), mix, Head(nn.Linear(values, 8))))


@pytest.fixture(scope="session")
def linear_chain() -> Model:
    """The chain of orthogonal maps at 24 px: 192 values a patch."""
    return orthogonal_chain(8)


@pytest.fixture(scope="session")
def small_chain() -> Model:
    """The chain of orthogonal maps at 12 px, 48 values a patch: for what trains many times."""
    return orthogonal_chain(4)


@pytest.fixture
def tiny_suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_SUITE)
    return path


@pytest.fixture(scope="session")
def extra_data() -> Path:
    """The folder of real weights and photos that INVSUITE_TEST_DATA names; the test is skipped without it."""
    folder = os.environ.get("INVSUITE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("INVSUITE_TEST_DATA does not name a folder with real weights and photos")
    return Path(folder)
