"""The networks that LPIPS and DISTS look through: from any file that holds their published features, or not at all.

What is verified is the SHA-256 over the tensors that the measures use, whatever file they came in: torchvision's own
checkpoint, or the features alone. The cache of torch's hub (``TORCH_HOME``) may hold either.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from invsuite._system.files import file_digest, write_atomically
from invsuite._system.needs import Need
from invsuite._system.torch_hub import TorchFile, in_cache
from invsuite.errors import Unavailable, WeightsError, reason_of
from invsuite.models.checkpoint import Tensors, find_weights, misfit, read_file

FEATURES = "features."  # torchvision's name of the part that is used
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the RGB images in [0, 1] that all of them were trained on


@dataclass(frozen=True)
class Backbone:
    """A published network whose features a measure compares.

    Attributes:
        architecture: torchvision's name of it.
        sha256: of its features, see `tensor_digest`.
        checkpoint: the file in which torchvision publishes it, with a classifier that no measure uses.
    """

    architecture: str
    sha256: str
    checkpoint: TorchFile

    @property
    def path(self) -> Path:
        """Return where its features alone lie in the cache."""
        return in_cache(f"{self.architecture}-features-{self.sha256[:8]}.safetensors")

    def files(self) -> list[Path]:
        """Return the files of the cache that may hold it."""
        return [path for path in (self.path, self.checkpoint.path) if path.is_file()]

    def need(self) -> Need:
        """Return the need for it; it is here where either file is."""
        if self.path.is_file():
            return Need(f"backbone {self.architecture}", 0, None, str(self.path))
        return self.checkpoint.need()

    def network(self) -> nn.Module:
        """Return its layers by torchvision's names, without values."""
        import torchvision

        with torch.device("meta"):
            features: nn.Module = torchvision.models.get_model(self.architecture, weights=None).features
        return features

    def load(self) -> nn.Module:
        """Return its layers with the published weights, frozen.

        Raises:
            Unavailable: if the cache holds no file of it, or one with other tensors.
        """
        files = self.files()
        if not files:
            raise Unavailable(
                f"backbone {self.architecture} is not in the cache; fetch it: {self.checkpoint.command}, or take it "
                "from a file that you have: invsuite fetch lpips --from FILE"
            )
        try:
            _, weights = read_backbone(files[0], [self])
        except WeightsError as error:
            raise Unavailable(f"{error}; delete it and fetch it again: {self.checkpoint.command}") from error
        network = self.network()
        network.load_state_dict(weights, assign=True)
        return network.eval().requires_grad_(False)


BACKBONES = {
    "alex": Backbone(
        "alexnet",
        "44534cd66e37ce9a6258bb5e845ef8cd47c33aa68024441c7e616d63c0c1c41a",
        TorchFile("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", 244_408_911),
    ),
    "squeeze": Backbone(
        "squeezenet1_1",
        "9a3cd24c3da63ec76ec50dabac44e862029b5c84992e5ddd582be22d0f9ef388",
        TorchFile("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", 4_966_400),
    ),
    "vgg": Backbone(
        "vgg16",
        "02ea23240491c2589ec6c79346a0cd2cde49db15b57118399c02f252fb928f83",
        TorchFile("https://download.pytorch.org/models/vgg16-397923af.pth", 553_433_881),
    ),
}


def tensor_digest(features: Tensors) -> str:
    """Return the SHA-256 over the features: in the order of their names in torchvision, name and float32 values."""
    digest = hashlib.sha256()
    for name, tensor in sorted((FEATURES + name, tensor) for name, tensor in features.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def install(path: Path, backbones: Collection[Backbone]) -> Backbone:
    """Put the features of a file into the cache, as safetensors, and return which of the ``backbones`` they are.

    Raises:
        MissingPath: if the file does not exist.
        WeightsError: if it holds none of them, with its digest and the published ones.
        DiskError: if the cache cannot be written.
    """
    backbone, weights = read_backbone(path, backbones)
    write_atomically(backbone.path, save({FEATURES + name: tensor for name, tensor in weights.items()}))
    return backbone


def read_backbone(path: Path, backbones: Collection[Backbone]) -> tuple[Backbone, Tensors]:
    """Return which of the ``backbones`` a file holds, and its features by their names in `Backbone.network`.

    Raises:
        MissingPath: if the file does not exist.
        WeightsError: if it holds none of them, with its digest and the published ones.
    """
    try:
        backbone, weights = _find(path, backbones)
    except WeightsError as error:
        published = " or ".join(f"{backbone.sha256} ({backbone.architecture})" for backbone in backbones)
        raise WeightsError(
            f"{error}; the file's SHA-256 is {file_digest(path)}, that of the published features {published}"
        ) from error
    digest = tensor_digest(weights)
    if digest != backbone.sha256:
        raise WeightsError(
            f"weights file '{path}' holds other weights of {backbone.architecture} than the published ones: the "
            f"SHA-256 of its features is {digest}, not {backbone.sha256}"
        )
    return backbone, weights


def _find(path: Path, backbones: Collection[Backbone]) -> tuple[Backbone, Tensors]:
    """Return the one of the ``backbones`` whose names and shapes a file has, and its features, as float32.

    Raises:
        MissingPath: if the file does not exist.
        WeightsError: if there is none, with what is wrong.
    """
    in_flax = _is_pickle(path)
    tree = _read_arrays(path) if in_flax else read_file(path)
    reasons = []
    for backbone in backbones:
        network = backbone.network()
        try:
            every = from_flax(path, tree, network) if in_flax else find_weights(path, tree, network)
        except WeightsError as error:
            reasons.append(str(error))
            continue
        weights = {name: tensor.float().contiguous() for name, tensor in every.items() if name in network.state_dict()}
        wrong = misfit(weights, network)
        if not wrong:
            return backbone, weights
        reasons.insert(0, f"weights file '{path}' does not fit {backbone.architecture}: {wrong}")
    raise WeightsError(reasons[0])


TORCH_PICKLE = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what torch.save wrote first, before its files were zip archives


def _is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle that is none of torch's."""
    if path.suffix == ".safetensors" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2 + len(TORCH_PICKLE))
    return head[:1] == pickle.PROTO and head[2:] != TORCH_PICKLE


class _ArraysAlone(pickle.Unpickler):
    """An unpickler that makes numbers, texts, their containers, and numpy arrays of numbers; it calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a name in the file."""
        if (module, name) == ("numpy", "ndarray"):
            return name  # the word that `_empty_array` is handed, and nothing that could be called
        if (module, name) == ("numpy", "dtype"):
            return _dtype_of_numbers
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _empty_array
        raise WeightsError(f"it holds a {module}.{name}, which loading would have to run: only numpy arrays are read")


def _dtype_of_numbers(code: str, *_: object) -> np.dtype[Any]:
    dtype = np.dtype(code, False, True)  # type: ignore[call-overload]  # a copy: the pickle's next step writes into it
    if dtype.kind not in "fiu":
        raise WeightsError(f"it holds an array of {dtype}: only arrays of numbers are read")
    return dtype


def _empty_array(*_: object) -> np.ndarray[Any, Any]:
    """Return the array that the pickle's next step fills, with its own shape and type."""
    return np.ndarray((0,), np.uint8)


def _read_arrays(path: Path) -> Any:
    """Return what a pickle of numpy arrays holds; no code of the file is run.

    Raises:
        WeightsError: if it cannot be read, or holds anything else, with the reason.
    """
    try:
        with path.open("rb") as file:
            return _ArraysAlone(file).load()
    except Exception as error:  # whatever a damaged file makes of the reader
        raise WeightsError(f"weights file '{path}' cannot be read: {reason_of(error)}") from error


def from_flax(path: Path, tree: Any, network: nn.Module) -> Tensors:
    """Return the convolutions of a flax model by their names in ``network``.

    Flax numbers them in their order, and stores a kernel as (H, W, in, out), torch as (out, in, H, W).

    Raises:
        WeightsError: if no table of the tree has as many convolutions as the network.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    tables = [table for table in tree.values() if isinstance(table, Mapping)] if isinstance(tree, Mapping) else []
    for table in tables:
        layers: list[Any] = [table.get(f"Conv_{number}") for number in range(len(table))]
        if len(layers) == len(names) and all(_is_convolution(layer) for layer in layers):
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            for name, layer in zip(names, layers, strict=True):
                arrays |= {f"{name}.weight": layer["kernel"].transpose(3, 2, 0, 1), f"{name}.bias": layer["bias"]}
            return {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}
    raise WeightsError(f"weights file '{path}' does not fit: it holds no flax model of {len(names)} convolutions")


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer, Mapping) and all(
        isinstance(layer.get(part), np.ndarray) and layer[part].ndim == dimensions
        for part, dimensions in (("kernel", 4), ("bias", 1))
    )
