"""Models of timm by name, with weights from the hub or from a local file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file
from torch import nn

from invsuite.data.geometry import Resampling
from invsuite.errors import Unavailable, WeightsError, unknown_name
from invsuite.models.base import Model, WeightsOrigin, random_origin
from invsuite.models.timm import timm_chain
from invsuite.registry import HubWeights, register

PARTS = re.compile(r"^(?P<name>[^@]+)(?:@(?P<file>.*?))??(?:@(?P<height>\d+)(?:x(?P<width>\d+))?)?$")


def _parts(source: str) -> tuple[str, str, tuple[int, int] | None]:
    """Return the name, the file ("" for none) and the image size (H, W) that ``NAME@FILE@SIZE`` gives."""
    match = PARTS.match(source)
    if match is None:
        raise unknown_name("timm model", source, timm.list_models())
    height = match["height"]
    return match["name"], match["file"] or "", (int(height), int(match["width"] or height)) if height else None


def weights_file(source: str) -> Path:
    """Return the checkpoint file in the local hub cache (``HF_HOME``), without touching the network.

    Raises:
        UsageError: for a name timm does not know.
        Unavailable: if the file is not cached, with the command that fetches it.
    """
    hub_id = _hub_id(source)
    for filename in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(hub_id, filename)
        if isinstance(path, str):
            return Path(path)
    raise Unavailable(f"weights of '{source}' are not in the hub cache; fetch them with: hf download {hub_id}")


def _hub_id(source: str) -> str:
    """Return the hub repository of a model's weights."""
    weights = hub_weights(source)
    if weights is None:
        raise Unavailable(f"timm has no hub weights for '{source}'; run its architecture with --random-weights")
    return weights.repository


def _known(source: str) -> str:
    """Return ``source`` if timm has an architecture of that name."""
    architecture = source.split(".")[0]
    if not timm.is_model(architecture):
        raise unknown_name("timm model", architecture, timm.list_models())
    return source


def hub_weights(source: str) -> HubWeights | None:
    """Return where timm's own list says that a model's weights are; None for weights in a local file, or none at all.

    Raises:
        UsageError: for a name timm does not know.
    """
    name, file, _ = _parts(source)
    if file:
        return None
    cfg = timm.get_pretrained_cfg(_known(name))
    if cfg is None:
        raise unknown_name("timm checkpoint", name, timm.list_pretrained(name.split(".")[0]))
    return HubWeights(str(cfg.hf_hub_id), cfg.license or "see the hub page") if cfg.hf_hub_id else None


def load_random(source: str, name: str, seed: int) -> Model:
    """Build the architecture of ``source`` with timm's own initialisation; no weights are read.

    Raises:
        UsageError: for an unknown name.
    """
    architecture, _, size = _parts(source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(_known(architecture), pretrained=False)
    model = _configured(name, network, _origin(network, architecture, ""), size)
    model.origin = random_origin(seed, model.origin, model.fingerprint())
    return model


@register.model("timm", stages="embed, block01 ... or (pyramids) stage1 ..., head", hub=hub_weights, random=load_random)
def load(source: str, name: str) -> Model:
    """Load any timm model, with its pretrained weights through the hub cache or with those of a local file.

    ``NAME@FILE`` reads a ``.safetensors`` (or a ``.pth``, without unpickling code) of that architecture; ``NAME@224``
    or ``NAME@224x320``, or the same behind a file, sets the image size (H x W) in place of the checkpoint's own.

    Raises:
        UsageError: for an unknown name.
        Unavailable: if the weights cannot be had.
        WeightsError: if the file is damaged or does not fit, naming the tensor.
    """
    architecture, file, size = _parts(source)
    if file:
        path = Path(file).expanduser()
        network = _from_file(_known(architecture), path)
    else:
        network, path = _from_hub(architecture)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _configured(name, network, _origin(network, source, digest), size)


def _origin(network: nn.Module, source: str, digest: str) -> WeightsOrigin:
    cfg: Any = network.pretrained_cfg
    hub = "" if _parts(source)[1] or not digest else f" ({cfg.get('hf_hub_id')})"
    licence = cfg.get("license") or "see the model's hub page"
    return WeightsOrigin(f"timm {source}{hub}", digest, licence, (tuple(cfg["mean"]), tuple(cfg["std"])))


def _configured(name: str, network: Any, origin: WeightsOrigin, size: tuple[int, int] | None) -> Model:
    """Return the chain with normalisation and input size of the checkpoint's own configuration.

    Another ``size`` (H, W) resamples position embeddings, as timm does.
    """
    cfg: Any = network.pretrained_cfg
    _, height, width = cfg["input_size"]
    if size is not None and hasattr(network, "set_input_size"):  # convolutional networks take any
        network.set_input_size(img_size=size)
    model = timm_chain(name, network, size or (height, width), tuple(cfg["mean"]), tuple(cfg["std"]), origin)
    model.resampling = Resampling(cfg["interpolation"], cfg["crop_pct"])
    return model


def _from_hub(source: str) -> tuple[nn.Module, Path]:
    """Return the network with its pretrained weights, and their file in the hub cache."""
    hub_id = _hub_id(source)
    try:
        path: Path | None = weights_file(source)
    except Unavailable:
        path = None  # timm may still fetch it
    try:
        network = timm.create_model(source, pretrained=True)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"weights of '{source}' could not be fetched ({type(error).__name__}); on a machine with access run: "
            f"hf download {hub_id}"
        ) from error
    except Exception as error:
        raise WeightsError(
            f"weights of '{source}' at {path} cannot be read: {error}; delete and fetch again"
        ) from error
    return network, path or weights_file(source)


def _from_file(architecture: str, path: Path) -> nn.Module:
    """Return the network with weights from a local file; the number of classes is the file's."""
    if not path.is_file():
        raise Unavailable(f"weights file '{path}' does not exist")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"weights file '{path}' cannot be read: {error}") from error
    network = timm.create_model(architecture, pretrained=False)
    classifier = network.pretrained_cfg.get("classifier") or ""
    names = [classifier] if isinstance(classifier, str) else list(classifier)
    sizes = {len(weights[f"{n}.weight"]) for n in names if f"{n}.weight" in weights}
    network = timm.create_model(architecture, pretrained=False, num_classes=sizes.pop() if sizes else 0)
    expected = network.state_dict()
    for key in sorted(expected.keys() | weights.keys()):
        shape = tuple(weights[key].shape) if key in weights else "missing"
        fitting = tuple(expected[key].shape) if key in expected else "absent"
        if shape != fitting:
            raise WeightsError(
                f"weights file '{path}' does not fit {architecture}: '{key}' is {shape}, expected {fitting}"
            )
    network.load_state_dict(weights)
    return network
