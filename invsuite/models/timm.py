"""Adapter for timm: any family with ``forward_intermediates``, without a line for any of them.

The stages are the feature maps that timm itself names: ``embed`` and then ``block01`` ... where all have one shape, or
``stage1`` ... where they shrink, then ``head``. `invsuite.models.boundaries` finds the modules that give them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file
from torch import nn

from invsuite.data.geometry import Resampling
from invsuite.errors import Unavailable, UsageError, WeightsError, unknown_name
from invsuite.models.base import (
    IMAGE,
    Component,
    Lambda,
    Layout,
    Model,
    Normalise,
    Prediction,
    TaskKind,
    WeightsOrigin,
    random_origin,
)
from invsuite.models.boundaries import Cut, CutNetwork, Uncuttable, cut_network

RANDOM_SEED = 0
CHAIN_TOLERANCE = 1e-4  # relative difference of the chain from the network's own forward

Statistics = tuple[float, float, float]


def timm_chain(
    name: str,
    network: Any,
    image_size: tuple[int, int],
    mean: Statistics,
    std: Statistics,
    origin: WeightsOrigin,
) -> Model:
    """Cut a timm network into embedding, blocks or stages, and head.

    A network that cannot be cut into components that run alone (one with parallel branches, say) still has its stages:
    each is then computed from the image, and `Model.uncut` says why.

    Args:
        network: the loaded network.
        image_size: (H, W) of every image.
        mean, std: normalisation of the checkpoint, for images in [0, 1].

    Raises:
        UsageError: for a network without ``forward_intermediates``.
    """
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(f"timm model '{name}' has no forward_intermediates, so its stages are unknown")
    network.eval().requires_grad_(False)
    normalise = Normalise(mean, std)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *image_size, generator=generator)
    with torch.no_grad():
        answer: torch.Tensor = network(normalise(images))
    classes, width = int(network.num_classes), answer.shape[1]
    # a network without classes answers with one pooled embedding
    end = Layout("predictions", classes, None, 1) if classes else Layout("queries", width, None, 1)
    reason = ""
    try:
        components = _components(normalise, cut_network(network, normalise(images), feature_maps), end)
        reason = _departure(components, images, answer)
    except Uncuttable as error:
        reason = str(error)
    if reason:
        components = _from_images(network, normalise, images, end)

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    def reference(images: torch.Tensor) -> Prediction:
        return Prediction(network(normalise(images)))

    def rebuild(other: nn.Module) -> Model:
        return timm_chain(name, other, image_size, mean, std, origin)

    task: TaskKind = "classification" if classes else "embedding"
    return Model(name, network, components, image_size, task, origin, split, reference, rebuild, uncut=reason)


@torch.no_grad()
def feature_maps(network: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """timm's own feature maps (B, channels, h, w) of ``images``, not normalised by the network's last layer.

    Raises:
        UsageError: for a network that gives none.
    """
    try:
        found: list[torch.Tensor] = network.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    except Exception as error:  # whatever a family's own code raises
        raise UsageError(f"a timm {type(network).__name__} gives no feature maps: {error}") from error
    return found


def _components(normalise: Normalise, found: CutNetwork, end: Layout) -> list[Component]:
    """The components between the cuts, each of which runs the network's own code (`Resumable`)."""
    first, *rest = found.cuts
    named = [("embed", found.embedding or first)]
    parts = [first, *rest] if found.embedding else rest
    named += zip(_part_names([cut.arrangement.layout for cut in parts]), parts, strict=True)
    starts: list[Cut | None] = [None, *(cut for _, cut in named)]
    components = []
    for start, (stage, stop) in zip(starts, named, strict=False):
        components.append(Component(stage, _piece(found, normalise, start, stop), stop.arrangement.layout, stop.blocks))
    return [*components, Component("head", _piece(found, normalise, starts[-1], None), end)]


def _piece(found: CutNetwork, normalise: Normalise, start: Cut | None, stop: Cut | None) -> nn.Module:
    """The network from one cut (None: images in [0, 1]) to the next (None: its output)."""

    def run(tensor: torch.Tensor) -> torch.Tensor:
        given = normalise(tensor) if start is None else start.arrangement.write(tensor)
        output = found.pieces.run(given, start.border if start else None, stop.border if stop else None)
        return output.unsqueeze(1) if stop is None else stop.arrangement.read(output).contiguous()

    return Lambda(run, normalise=normalise) if start is None else Lambda(run)


def _part_names(layouts: Sequence[Layout]) -> list[str]:
    """``block01`` ... for parts that keep one shape, ``stage1`` ... for those of a pyramid."""
    kind, least = ("block", 2) if len(set(layouts)) == 1 else ("stage", 1)
    width = max(least, len(str(len(layouts))))
    return [f"{kind}{number:0{width}d}" for number in range(1, len(layouts) + 1)]


@torch.no_grad()
def _departure(components: Sequence[Component], images: torch.Tensor, answer: torch.Tensor) -> str:
    """How far the chain departs from the network's own ``answer``, as a reason not to use it; "" if it does not."""
    tensor = images
    for component in components:
        tensor = component.module(tensor)
    difference = float((tensor.squeeze(1) - answer).norm())
    if difference <= CHAIN_TOLERANCE * float(answer.norm()):
        return ""
    return f"its components one after the other depart from its own forward by {difference:.2g}"


def _from_images(network: Any, normalise: Normalise, images: torch.Tensor, end: Layout) -> list[Component]:
    """A component for every feature map and one for the head, each computed from the image."""
    maps = feature_maps(network, normalise(images))
    layouts = [Layout("map", found.shape[1], (found.shape[2], found.shape[3])) for found in maps]

    def stage(number: int) -> nn.Module:
        def run(images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = network.forward_intermediates(
                normalise(images), indices=[number], stop_early=True, output_fmt="NCHW", intermediates_only=True
            )[0]
            return found.contiguous()

        return Lambda(run, normalise=normalise)

    def head(images: torch.Tensor) -> torch.Tensor:
        return network(normalise(images)).unsqueeze(1)

    components = [
        Component(stage_name, stage(number), layout, reads=IMAGE)
        for number, (stage_name, layout) in enumerate(zip(_part_names(layouts), layouts, strict=True))
    ]
    return [*components, Component("head", Lambda(head), end, reads=IMAGE)]


def weights_file(source: str) -> Path:
    """The checkpoint file in the local hub cache (``HF_HOME``), without touching the network.

    Raises:
        UsageError: for a name timm does not know.
        Unavailable: if the file is not cached, with the command that fetches it.
    """
    hub_id = _hub_id(source)
    for filename in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(hub_id, filename)
        if isinstance(found, str):
            return Path(found)
    raise Unavailable(f"weights of '{source}' are not in the hub cache; fetch them with: hf download {hub_id}")


def _hub_id(source: str) -> str:
    """The hub repository of a model's weights."""
    cfg = timm.get_pretrained_cfg(_known(source))
    if cfg is None:
        raise unknown_name("timm checkpoint", source, timm.list_pretrained(source.split(".")[0]))
    if not cfg.hf_hub_id:
        raise Unavailable(f"timm has no hub weights for '{source}'; run its architecture with --random-weights")
    return str(cfg.hf_hub_id)


def _known(source: str) -> str:
    """``source`` if timm has an architecture of that name."""
    architecture = source.split(".")[0]
    if not timm.is_model(architecture):
        raise unknown_name("timm model", architecture, timm.list_models())
    return source


def timm_origin(source: str) -> tuple[str, str]:
    """Where a model's weights come from, and their licence, as timm's own list says; the network is not touched.

    Raises:
        UsageError: for a name timm does not know.
    """
    cfg = timm.get_pretrained_cfg(_known(source))
    return (f"hub {_hub_id(source)}", cfg.license or "see the hub page") if cfg and cfg.hf_hub_id else ("none", "none")


def load_timm(name: str, source: str) -> Model:
    """Load any timm model: ``NAME`` with its pretrained weights through the hub cache, or ``NAME@FILE`` with a local
    ``.safetensors`` (or ``.pth``, read without unpickling code) of that architecture.

    Raises:
        UsageError: for an unknown name.
        Unavailable: if the weights cannot be had.
        WeightsError: if the file is damaged or does not fit, naming the tensor.
    """
    architecture, _, file = source.partition("@")
    if file:
        path = Path(file).expanduser()
        network = _from_file(_known(architecture), path)
    else:
        network, path = _from_hub(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _configured(name, network, _origin(network, source, digest))


def random_timm(name: str, source: str) -> Model:
    """The architecture of ``source`` with timm's own initialisation, always the same; no weights are read.

    Raises:
        UsageError: for an unknown name.
    """
    architecture = source.partition("@")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = timm.create_model(_known(architecture), pretrained=False)
    model = _configured(name, network, _origin(network, architecture, ""))
    model.origin = random_origin(RANDOM_SEED, model.origin, model.fingerprint())
    return model


def _origin(network: nn.Module, source: str, digest: str) -> WeightsOrigin:
    cfg: Any = network.pretrained_cfg
    hub = "" if "@" in source or not digest else f" ({cfg.get('hf_hub_id')})"
    licence = cfg.get("license") or "see the model's hub page"
    return WeightsOrigin(f"timm {source}{hub}", digest, licence, (tuple(cfg["mean"]), tuple(cfg["std"])))


def _configured(name: str, network: nn.Module, origin: WeightsOrigin) -> Model:
    """The chain with input size and normalisation of the checkpoint's own configuration."""
    cfg: Any = network.pretrained_cfg
    _, height, width = cfg["input_size"]
    model = timm_chain(name, network, (height, width), tuple(cfg["mean"]), tuple(cfg["std"]), origin)
    model.resampling = Resampling(cfg["interpolation"], cfg["crop_pct"])
    return model


def _from_hub(source: str) -> tuple[nn.Module, Path]:
    """The network with its pretrained weights, and their file in the hub cache."""
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
    """The network with weights from a local file; the number of classes is the file's."""
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
        found = tuple(weights[key].shape) if key in weights else "missing"
        wanted = tuple(expected[key].shape) if key in expected else "absent"
        if found != wanted:
            raise WeightsError(
                f"weights file '{path}' does not fit {architecture}: '{key}' is {found}, expected {wanted}"
            )
    network.load_state_dict(weights)
    return network
