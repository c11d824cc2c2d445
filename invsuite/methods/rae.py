"""The decoders of representation autoencoders (RAE), by the package diffusers, as a method: nothing is trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors.torch import load_file
from torch import nn

from invsuite._system.files import expand_path, file_digest
from invsuite._system.validation import Positive, build, field_types
from invsuite.errors import MissingPath, NotApplicable, Unavailable, WeightsError, reason_of
from invsuite.inverses.convolution import resized
from invsuite.methods.base import Family, Fitted, Inverter, Method, no_fit
from invsuite.methods.problem import Problem
from invsuite.models.base import Model, Normalise, Representation
from invsuite.models.hub import is_local
from invsuite.registry import register

CONFIG, FILE = "config.json", "diffusion_pytorch_model.safetensors"
POSITIONS = "decoder_pos_embed"  # follows from the sizes; some checkpoints hold it
PATCH = 16  # of the decoder, where its configuration leaves diffusers' default
SIZES = (
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
    "num_channels",
)
#: by the kind of encoder: tokens ahead of the patches, and the epsilon of the normalisation behind the last block
ENCODERS = {"dinov2": (5, 1e-6), "siglip2": (0, 1e-6), "mae": (1, 1e-12)}
CLOSE = 1e-3  # of normalisation constants
Statistics = tuple[float, float, float]


@dataclass(frozen=True)
class Encoder:
    """What an autoencoder's configuration says of its encoder; the keys and defaults are diffusers'."""

    encoder_type: Literal["dinov2", "siglip2", "mae"] = "dinov2"
    encoder_hidden_size: Positive = 768
    encoder_patch_size: Positive = 14
    encoder_num_hidden_layers: Positive = 12
    encoder_input_size: Positive = 224
    encoder_norm_mean: Statistics = (0.485, 0.456, 0.406)
    encoder_norm_std: Statistics = (0.229, 0.224, 0.225)


@register.method
@dataclass(frozen=True)
class RepresentationAutoencoder(Method):
    r"""The published decoder of a representation autoencoder: a ViT that paints images from a frozen encoder's tokens.

    DINOv2 with registers, SigLIP2 and MAE have one (``hf download`` one of ``nyu-visionx/RAE-*``). It reads the last
    block's patch tokens alone. They are normalised per token as its encoder does behind the last block, without gain
    and offset; the statistics of latents in the checkpoint (``latents_mean``, ``latents_std``) serve diffusion, which
    its ``encode`` applies and its ``decode`` takes back: here neither is applied. What comes out is taken from the
    encoder's normalisation of images to [0, 1] and clamped. An image of another size than the model's is resized
    (bilinear, antialiased): the decoder for DINOv2 at 224 pixels paints 256.

    A model, stage or input size that it was not made for is refused with the reason. It needs the package diffusers
    0.37.1 or later: ``pip install 'invsuite[diffusers]'``.

    Attributes:
        decoder: hub repository or local folder of the autoencoder.

    Formula:
        $$ \hat{x} = \sigma \, g\!\left( \frac{r - \mu_r}{s_r} \right) + \mu $$

        for tokens $r$ with mean $\mu_r$ and deviation $s_r$ over their channels; $\mu$ and $\sigma$ normalise the
        encoder's images.
    Cost:
        None to fit; an image takes one pass through a ViT-XL (about 0.4 billion values).
    Use:
        As what a large decoder, trained on all of ImageNet with an adversarial loss, makes of a last layer.
    Pitfalls:
        It was trained on noised tokens, for L1, LPIPS and a discriminator: its texture is invented where the tokens do
        not tell, which costs PSNR. Its budget is far beyond any of the suite's: compare it with published rows.
    Source:
        Zheng et al. 2025, arXiv 2510.11690.
    """

    decoder: str = "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08"

    name = "rae"
    family: ClassVar[Family] = "layer-wise"
    source = "Zheng et al. 2025, arXiv 2510.11690"

    def params(self) -> dict[str, Any]:
        """Return the parameters with the digest of the weights, "" where they are not here."""
        file = _file(self.decoder)
        return super().params() | {"sha256": "" if file is None else _digest(file, file.stat().st_mtime_ns)}

    def fit(self, problem: Problem) -> Fitted:
        """Load the decoder, and find the stages that it can read.

        Raises:
            Unavailable: if diffusers or the weights are not here.
            WeightsError: if they are damaged.
        """
        decoder, encoder = load_decoder(self.decoder)
        model = problem.model
        refused = {s: NotApplicable(reason) for s in problem.stages if (reason := misfit(encoder, model, s))}
        inverter = _Decoder(decoder.to(problem.device), encoder, model.image_size)
        values = sum(parameter.numel() for parameter in decoder.parameters())
        cost = no_fit(problem.stages)
        cost.parameters |= {stage: values for stage in problem.stages if stage not in refused}
        notes = {s: {"decoder": self.params()} for s in problem.stages if s not in refused}
        return Fitted(inverter, cost, notes, refused)


class _Decoder(Inverter):
    """Paints images from tokens of the last block.

    Args:
        decoder: of diffusers.
        facts: of its encoder.
        size: (H, W) of the images wanted.
    """

    def __init__(self, decoder: nn.Module, facts: Encoder, size: tuple[int, int]) -> None:
        self.decoder, self.facts, self.size = decoder, facts, size
        self.normalise = Normalise(facts.encoder_norm_mean, facts.encoder_norm_std)

    @torch.no_grad()
    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        prefix, epsilon = ENCODERS[self.facts.encoder_type]
        tokens = representation.tensor[:, prefix:]
        tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=epsilon)
        decoder: Any = self.decoder
        images = decoder.unpatchify(decoder(tokens).logits)
        normalise = self.normalise.to(images.device)
        return resized(images * normalise.std + normalise.mean, self.size).clamp(0, 1)


def load_decoder(decoder: str) -> tuple[nn.Module, Encoder]:
    """Return the decoder of an ``AutoencoderRAE``, frozen, and what it says of its encoder, which is not built.

    Args:
        decoder: hub repository or local folder.

    Raises:
        Unavailable: if diffusers, a new enough one, or the weights are not here.
        WeightsError: if they cannot be read, or do not fit their configuration.
    """
    if find_spec("diffusers") is None:
        raise Unavailable("method 'rae' needs the package diffusers: pip install 'invsuite[diffusers]'")
    try:
        from diffusers.models.autoencoders.autoencoder_rae import RAEDecoder
    except ImportError as error:
        raise Unavailable("this diffusers has no AutoencoderRAE: pip install 'invsuite[diffusers]'") from error
    config, file = (_bring(decoder, name) for name in (CONFIG, FILE))
    try:
        tree = json.loads(config.read_text())
        encoder = build(Encoder, {key: tree[key] for key in field_types(Encoder) if tree.get(key) is not None})
        sizes = {key: tree[key] for key in SIZES if key in tree}
        side = encoder.encoder_input_size // encoder.encoder_patch_size
        network: nn.Module = RAEDecoder(
            hidden_size=encoder.encoder_hidden_size,
            num_patches=side**2,
            image_size=side * int(tree.get("patch_size", PATCH)),
            patch_size=int(tree.get("patch_size", PATCH)),
            **sizes,
        )
        state = {k.removeprefix("decoder."): v for k, v in load_file(file).items() if k.startswith("decoder.")}
        network.load_state_dict({key: value.float() for key, value in state.items() if key != POSITIONS})
    except Exception as error:  # whatever a damaged file makes of the readers
        raise WeightsError(f"autoencoder '{decoder}' cannot be read: {error}") from error
    return network.eval().requires_grad_(False), encoder


def misfit(config: Encoder, model: Model, stage: str) -> str:
    """Return why a decoder cannot read ``stage`` of ``model``, "" if it can.

    Args:
        config: what it says of its encoder.
        model: whose representation it is to read.
        stage: of the model.
    """
    layout, kind, depth = model.layout(stage), config.encoder_type, config.encoder_num_hidden_layers
    what = f"the decoder reads block {depth} of {kind}"
    if layout.kind != "tokens":
        return f"{what}, '{stage}' of '{model.name}' is a {layout.kind}"
    blocks = model.blocks(None, stage)
    if blocks != depth or stage != model.stages[-2]:
        return f"{what}, its last; '{stage}' of '{model.name}' lies behind block {blocks}"
    prefix, _ = ENCODERS[kind]
    if (layout.channels, layout.prefix) != (config.encoder_hidden_size, prefix):
        return (
            f"{what}: {config.encoder_hidden_size} channels and {prefix} tokens ahead of the patches, '{stage}' of "
            f"'{model.name}' has {layout.channels} and {layout.prefix}"
        )
    side, size = config.encoder_input_size, (config.encoder_input_size,) * 2
    grid = (side // config.encoder_patch_size,) * 2
    if model.image_size != size or layout.grid != grid:
        assert layout.grid is not None
        return (
            f"{what} on images of {side}x{side} in {grid[0]}x{grid[1]} patches, '{model.name}' takes "
            f"{model.image_size[0]}x{model.image_size[1]} in {layout.grid[0]}x{layout.grid[1]}; for a model of timm "
            f"add @{side} to its source"
        )
    stated = model.origin.normalisation
    wanted = (config.encoder_norm_mean, config.encoder_norm_std)
    if stated is not None and not torch.allclose(torch.tensor(stated), torch.tensor(wanted), atol=CLOSE):
        return f"{what} fed with images normalised by {wanted[0]}, {wanted[1]}; '{model.name}' normalises by {stated}"
    return ""


def _bring(decoder: str, name: str) -> Path:
    """Return a file of a local folder or hub repository, which is asked for it unless offline.

    Raises:
        Unavailable: if it cannot be had.
    """
    if is_local(decoder):
        path = expand_path(decoder) / name
        if not path.is_file():
            raise MissingPath(f"autoencoder '{decoder}' has no file {name}")
        return path
    try:
        return Path(hf_hub_download(decoder, name))
    except Exception as error:  # no network, no such repository
        raise Unavailable(
            f"autoencoder '{decoder}' cannot be had ({reason_of(error)}); fetch it with: hf download {decoder}"
        ) from error


def _file(decoder: str) -> Path | None:
    """Return the file of the weights where it is here."""
    if not is_local(decoder):
        cached = try_to_load_from_cache(decoder, FILE)
        return Path(cached) if isinstance(cached, str) else None
    try:
        return _bring(decoder, FILE)
    except Unavailable:
        return None


@cache
def _digest(file: Path, changed: int) -> str:
    """Return the SHA-256 of a file that was last changed at a time."""
    return file_digest(file)
