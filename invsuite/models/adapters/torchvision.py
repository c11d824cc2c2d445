"""Classifiers of torchvision that are a row of layers, with the weights that it publishes: AlexNet, which timm lacks.

The stages are the parts of ``features`` by their own names, ``features.0`` ..., and then ``head``: pooling and the
classifier. So are VGG's and MobileNet's; a network of another make is refused, and timm has it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torchvision
from torch import nn

from invsuite._system.files import file_digest
from invsuite._system.needs import Need
from invsuite._system.torch_hub import TorchFile
from invsuite.data.geometry import Resampling
from invsuite.errors import UsageError, unknown_name
from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin, random_origin
from invsuite.models.checkpoint import check_finite, load_weights
from invsuite.registry import register

TOLERANCE = 1e-4  # relative difference of the chain from the network's own forward
LICENCE = "BSD-3-Clause (code); see torchvision's page of the weights"
MEBIBYTE = 2**20


def _published(source: str) -> Any:
    """Return torchvision's entry for the default weights of a classifier.

    Raises:
        UsageError: for a name that torchvision does not know.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if source not in known:
        raise unknown_name("torchvision model", source, known)
    return torchvision.models.get_model_weights(source).DEFAULT


def _file(source: str) -> TorchFile:
    entry = _published(source)
    return TorchFile(entry.url, round(entry.meta["_file_size"] * MEBIBYTE))


def needs(source: str) -> tuple[Need, ...]:
    """Return the weights, which lie on torchvision's own server."""
    return (_file(source).need(),)


def load_random(source: str, name: str, seed: int) -> Model:
    """Build the architecture of ``source`` with torchvision's own initialisation; no weights are read."""
    _published(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(source, weights=None)
    model = _chain(name, source, network, "")
    model.origin = random_origin(seed, model.origin, model.fingerprint())
    return model


@register.model("torchvision", stages="features.0 ..., head", needs=needs, random=load_random)
def load(source: str, name: str) -> Model:
    """Load a classifier of torchvision that is a row of layers (AlexNet, VGG), with its default weights.

    Raises:
        UsageError: for an unknown name, or a network that is no row of layers.
        Unavailable: if the weights are not in torch's hub cache.
        WeightsError: if the file does not fit.
    """
    path = _file(source).find()
    network = torchvision.models.get_model(source, weights=None)
    load_weights(network, path)
    check_finite(network, f"'{path}'")
    return _chain(name, source, network, file_digest(path))


def _chain(name: str, source: str, network: Any, digest: str) -> Model:
    """Return the chain with input size and normalisation of the published weights' own preprocessing."""
    how = _published(source).transforms()
    crop, size = how.crop_size[0], how.resize_size[0]
    statistics = tuple(how.mean), tuple(how.std)
    origin = WeightsOrigin(f"torchvision {source}", digest, LICENCE, statistics)
    model = row_of_layers(name, network, (crop, crop), statistics, origin)
    model.resampling = Resampling(how.interpolation.value, crop / size)
    return model


@torch.no_grad()
def row_of_layers(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    origin: WeightsOrigin,
) -> Model:
    """Cut a network into the parts of its ``features`` and its head.

    Args:
        name: what tables call the model.
        network: with ``features``, ``avgpool`` and ``classifier``.
        image_size: (H, W) of every image.
        statistics: mean and deviation of its normalisation, for images in [0, 1].
        origin: provenance of the weights.

    Raises:
        UsageError: if these parts one after the other do not give the network's own answer.
    """
    network = network.eval()
    parts: list[Any] = [getattr(network, part, None) for part in ("features", "avgpool", "classifier")]
    wrong = UsageError(f"torchvision model '{name}' is no row of features, pooling and classifier: load it from timm")
    if not isinstance(parts[0], nn.Sequential) or None in parts:
        raise wrong
    features, pool, classifier = parts
    reference = copy.deepcopy(network)
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # it would overwrite the representation before it
    normalise = Normalise(*statistics)
    images = torch.rand(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    tensor, components = images, []
    for number, layer in enumerate(features):
        module = layer if number else nn.Sequential(normalise, layer)
        tensor = module(tensor)
        layout = Layout("map", tensor.shape[1], (tensor.shape[2], tensor.shape[3]))
        components.append(Component(f"features.{number}", module, layout))
    head = Lambda(lambda x: classifier(pool(x).flatten(1)).unsqueeze(1))
    answer, own = head(tensor).squeeze(1), reference(normalise(images))
    if answer.shape != own.shape or not float((answer - own).norm()) <= TOLERANCE * float(own.norm()):
        raise wrong
    components.append(Component("head", head, Layout("predictions", own.shape[1], None, 1)))

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    def predict(images: torch.Tensor) -> Prediction:
        return Prediction(network(normalise(images)))

    def rebuild(other: nn.Module) -> Model:
        return row_of_layers(name, other, image_size, statistics, origin)

    return Model(name, network, components, image_size, "classification", origin, split, predict, rebuild)
