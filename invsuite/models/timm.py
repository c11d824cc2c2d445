"""Adapter for timm Vision Transformers: stages ``embed``, ``block01`` ... ``blockNN``, then the head."""

from __future__ import annotations

import hashlib
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from invsuite.errors import Unavailable, UsageError, WeightsError, unknown_name
from invsuite.models.base import Component, Lambda, Layout, Model, Normalise, Prediction, WeightsOrigin


def vit_chain(
    name: str,
    network: VisionTransformer,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    origin: WeightsOrigin,
) -> Model:
    """Cut a timm ViT (any width, depth, prefix tokens) into embed, blocks and head.

    Args:
        network: the loaded network.
        mean, std: normalisation of the checkpoint, for images in [0, 1].
    """
    normalise = Normalise(mean, std)
    grid = tuple(network.patch_embed.grid_size)
    prefix = network.num_prefix_tokens
    tokens = Layout("tokens", network.embed_dim, grid, prefix + grid[0] * grid[1], prefix)

    def embed(images: torch.Tensor) -> torch.Tensor:
        patches = network._pos_embed(network.patch_embed(normalise(images)))
        return network.norm_pre(network.patch_drop(patches))

    def head(hidden: torch.Tensor) -> torch.Tensor:
        return network.forward_head(network.norm(hidden)).unsqueeze(1)

    def split(tensor: torch.Tensor) -> Prediction:
        return Prediction(tensor.squeeze(1))

    def reference(images: torch.Tensor) -> Prediction:
        return Prediction(network(normalise(images)))

    stem = nn.ModuleDict({"normalise": normalise, "patch_embed": network.patch_embed, "norm_pre": network.norm_pre})
    components = [Component("embed", Lambda(embed, stem=stem), tokens)]
    width = max(2, len(str(len(network.blocks))))
    for number, block in enumerate(network.blocks, 1):
        components.append(Component(f"block{number:0{width}d}", block, tokens, blocks=1))
    classes = Layout("predictions", network.num_classes, None, 1)
    components.append(Component("head", Lambda(head, norm=network.norm, head=network.head), classes))
    size = network.patch_embed.img_size

    def rebuild(other: nn.Module) -> Model:
        assert isinstance(other, VisionTransformer)
        return vit_chain(name, other, mean, std, origin)

    return Model(name, network, components, (size[0], size[1]), "classification", origin, split, reference, rebuild)


def weights_file(source: str) -> Path:
    """The checkpoint file in the local hub cache (``HF_HOME``), without touching the network.

    Raises:
        UsageError: for a name timm does not know.
        Unavailable: if the file is not cached, with the command that fetches it.
    """
    cfg = timm.get_pretrained_cfg(source) if timm.is_model(source.split(".")[0]) else None
    if cfg is None:
        raise unknown_name("timm model", source, timm.list_models())
    if not cfg.hf_hub_id:
        raise Unavailable(f"timm has no hub weights for '{source}'")
    for filename in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(cfg.hf_hub_id, filename)
        if isinstance(found, str):
            return Path(found)
    raise Unavailable(f"weights of '{source}' are not in the hub cache; fetch them with: hf download {cfg.hf_hub_id}")


def load_timm(name: str, source: str) -> Model:
    """Load a timm ViT: ``NAME`` with its pretrained weights through the hub cache, or ``NAME@FILE`` with a local
    ``.safetensors`` (or ``.pth``, read without unpickling code) of that architecture.

    Raises:
        UsageError: for an unknown name or an architecture this adapter cannot cut.
        Unavailable: if the weights cannot be had.
        WeightsError: if the file is damaged or does not fit, naming the tensor.
    """
    architecture, _, file = source.partition("@")
    if file:
        path = Path(file).expanduser()
        network = _from_file(architecture, path)
    else:
        found, path = _from_hub(source)
        network = _as_vit(found, source)
    cfg = network.pretrained_cfg
    origin = WeightsOrigin(
        source=f"timm {source}" if file else f"timm {source} ({cfg.get('hf_hub_id')})",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence=cfg.get("license") or "see the model's hub page",
        normalisation=(tuple(cfg["mean"]), tuple(cfg["std"])),
    )
    return vit_chain(name, network, tuple(cfg["mean"]), tuple(cfg["std"]), origin)


def _as_vit(network: nn.Module, source: str) -> VisionTransformer:
    if not isinstance(network, VisionTransformer):
        raise UsageError(f"'{source}' is a {type(network).__name__}; this adapter cuts timm VisionTransformer models")
    return network


def _from_hub(source: str) -> tuple[nn.Module, Path]:
    """The network with its pretrained weights, and their file in the hub cache."""
    try:
        path: Path | None = weights_file(source)
    except Unavailable:
        path = None  # timm may still fetch it
    try:
        network = timm.create_model(source, pretrained=True)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"weights of '{source}' could not be fetched ({type(error).__name__}); on a machine with access run: "
            f"hf download {timm.get_pretrained_cfg(source).hf_hub_id}"
        ) from error
    except Exception as error:
        raise WeightsError(
            f"weights of '{source}' at {path} cannot be read: {error}; delete and fetch again"
        ) from error
    return network, path or weights_file(source)


def _from_file(architecture: str, path: Path) -> VisionTransformer:
    """The network with weights from a local file; the number of classes is the file's."""
    if not timm.is_model(architecture.split(".")[0]):
        raise unknown_name("timm model", architecture, timm.list_models())
    if not path.is_file():
        raise Unavailable(f"weights file '{path}' does not exist")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"weights file '{path}' cannot be read: {error}") from error
    _as_vit(timm.create_model(architecture, pretrained=False), architecture)
    classes = len(weights["head.weight"]) if "head.weight" in weights else 0
    network = timm.create_model(architecture, pretrained=False, num_classes=classes)
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
