"""Inverse networks, chosen by the layouts of the two representations they join.

==================  ====================  ============================  ==========================================
from                to                    ``light``                     ``paper`` (Rathjens et al. 2024)
==================  ====================  ============================  ==========================================
predictions         queries               MLP from class probabilities  MLP from one-hot class, and box
                                          and box
queries             tokens or map         image positions, learned, cross-attend to the object queries as memory:
                                          the decoder run backwards; ``light`` beside a linear readout of all queries
tokens              tokens or map,        a readout of each token, its  as many pre-norm blocks as the components
                    same grid             neighbours and random         inverted, MLP ratio 4
                                          features, beside pre-norm
                                          transformer blocks (the
                                          inverse of attention mixes
                                          places too)
map                 map or tokens, same   convolutions, linear skip     as many Swin blocks
                    grid
tokens              image                 a linear readout of each      transposed convolutions, 768-256-64-16-3
                                          place and its neighbours,     for ViT-B/16, after the transformer blocks
                                          beside convolutions on the    of the components inverted, if any
                                          coarse grid, refined grid by
                                          grid with pixel shuffles
map                 image                 the same                      batch-normalised upsampling decoder
map or tokens       finer map or tokens   the same                      Swin blocks, then patch splitting
predictions or      image                 through a coarse map          through coarse tokens
queries
==================  ====================  ============================  ==========================================

Every network reads and writes standardised values: the mean of each value (which takes out position embeddings, and
leaves a network that has learned nothing with the mean image) and the deviation of each channel are measured on fit
images, so that one large channel neither swamps the loss nor the input. Predictions are read as they are, because
argmax and softmax need the model's own logits. ``light`` networks between representations with a place hold a
`ClosedFormPath`, which starts as what ridge regression makes of it; training goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from invsuite._system.validation import Natural, Positive, check
from invsuite.errors import UsageError
from invsuite.inverses.attention import QueriesToSpatial, TokenMixer
from invsuite.inverses.closed_form import ClosedFormPath, QueryPath
from invsuite.inverses.convolution import SpatialToSpatial, TransposedLadder
from invsuite.inverses.predictions import PredictionsToQueries
from invsuite.inverses.splitting import MirroredStage
from invsuite.models.base import Layout, LayoutKind

Architecture = Literal["light", "paper"]
LIGHT_MLP_RATIO = 1.0  # of a light network's blocks: the path beside them holds an MLP of each token already
LIGHT_DEPTH = 2  # blocks of a light network where no depth is asked for
DECODER_DEPTH = 3  # convolutional blocks of a light network to the image on its coarse grid, at least
COARSEST = 16  # pixels per side of a place when queries, which have none, become an image


@dataclass(frozen=True)
class InverseSettings:
    """How large inverse networks are.

    Attributes:
        architecture: ``light`` or ``paper``, see the table of this module.
        width: channels of the hidden layers where the layouts do not give them (``light`` convolutions, mainly).
        depth: blocks of a network; 0 takes the architecture's own: 2 (``light``), ``blocks`` (``paper``).
        blocks: transformer blocks of the components to invert; 0 for an embedding or a CNN.

    Raises:
        UsageError: for an unknown architecture or a size that is out of range.
    """

    architecture: Architecture = "light"
    width: Positive = 256
    depth: Natural = 0
    blocks: Natural = 0

    def __post_init__(self) -> None:
        check(self, "inverse networks")


class ChannelScale(nn.Module):
    """Standardisation of a layout: a mean for every value, a deviation for every channel."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(layout.shape))
        self.register_buffer("std", torch.ones(layout.channel_shape))

    def set(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set the mean (the layout's shape) and the deviation (channels, as they broadcast)."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the layout, standardised."""
        return (tensor - self.mean) / self.std

    def undo(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a standardised tensor in the representation's own values."""
        return tensor * self.std + self.mean


class InverseNetwork(nn.Module):
    """A core between two standardisations: takes and gives values in the representations' own units."""

    def __init__(self, source: Layout, target: Layout, core: nn.Module) -> None:
        super().__init__()
        self.raw = source.kind == "predictions"
        self.source_scale = ChannelScale(source)
        self.core = core
        self.target_scale = ChannelScale(target)

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what came before a representation (B, ...)."""
        return self.target_scale.undo(self.core(tensor if self.raw else self.source_scale(tensor)))

    @property
    def path(self) -> ClosedFormPath | QueryPath | None:
        """Return the part that ridge regression can solve; None where the core has none."""
        return self.core.path if isinstance(self.core, SpatialToSpatial | TokenMixer | QueriesToSpatial) else None


def make_inverse(source: Layout, target: Layout, settings: InverseSettings) -> InverseNetwork:
    """Return an inverse network from ``source`` back to ``target`` (an image is the map layout with 3 channels).

    Raises:
        UsageError: for a pair of layouts no core joins.
    """
    assert source.kind in get_args(LayoutKind)
    core = _core(source, target, settings)
    if core is None:
        raise UsageError(f"no inverse network from a {source.kind} {source.shape} to a {target.kind} {target.shape}")
    return InverseNetwork(source, target, core)


def _core(source: Layout, target: Layout, settings: InverseSettings) -> nn.Module | None:
    """Return the core that joins two layouts, built of several where one does not reach; None where nothing does."""
    if source.kind == "predictions":
        return _from_predictions(source, target, settings)
    if source.kind == "queries" and target.spatial:
        return _from_queries(source, target, settings)
    if not (source.spatial and target.spatial):
        return None
    return _paper(source, target, settings) if settings.architecture == "paper" else _light(source, target, settings)


def _light(source: Layout, target: Layout, settings: InverseSettings) -> nn.Module:
    depth = settings.depth or LIGHT_DEPTH
    if _mixes_tokens(source, target):
        return TokenMixer(source, target, source.channels, depth, LIGHT_MLP_RATIO, solved=True)
    return SpatialToSpatial(source, target, settings.width, max(depth, DECODER_DEPTH) if _is_image(target) else depth)


def _paper(source: Layout, target: Layout, settings: InverseSettings) -> nn.Module:
    depth = settings.depth or max(1, settings.blocks)
    if _mixes_tokens(source, target):
        return TokenMixer(source, target, source.channels, depth, mlp_ratio=4.0)
    if not _is_image(target):
        return MirroredStage(source, target, depth)
    ladder = TransposedLadder(source, target, normalised=source.kind == "map")
    if settings.blocks == 0 or source.kind == "map":
        return ladder
    return nn.Sequential(TokenMixer(source, source, source.channels, depth, mlp_ratio=4.0), ladder)


def _mixes_tokens(source: Layout, target: Layout) -> bool:
    """Tell whether every place and prefix token of the target has its own token in the source."""
    return source.kind == "tokens" and target.grid == source.grid and target.prefix <= source.prefix


def _from_predictions(source: Layout, target: Layout, settings: InverseSettings) -> nn.Module | None:
    code = "one-hot" if settings.architecture == "paper" else "softmax"
    if target.kind == "queries":
        if target.count != source.count:
            return None
        return PredictionsToQueries(source, target, settings.width, code)  # type: ignore[arg-type]
    width = settings.width if _is_image(target) else target.channels
    queries = Layout("queries", width, None, source.count)
    rest = _core(queries, target, settings)
    if rest is None:
        return None
    return nn.Sequential(PredictionsToQueries(source, queries, width, code), rest)  # type: ignore[arg-type]


def _from_queries(source: Layout, target: Layout, settings: InverseSettings) -> nn.Module | None:
    paper = settings.architecture == "paper"
    depth = settings.depth or (max(1, settings.blocks) if paper else LIGHT_DEPTH)
    if not _is_image(target):
        ratio = 4.0 if paper else 2.0
        return QueriesToSpatial(source, target, target.channels, depth if paper else depth + 1, ratio, not paper)
    assert target.grid is not None
    stride = next(s for s in (COARSEST, 8, 4, 2, 1) if all(side % s == 0 for side in target.grid))
    grid = (target.grid[0] // stride, target.grid[1] // stride)
    coarse = Layout("tokens", source.channels if paper else settings.width, grid, grid[0] * grid[1])
    first = QueriesToSpatial(source, coarse, coarse.channels, depth, 4.0 if paper else 2.0)
    last = TransposedLadder(coarse, target, False) if paper else _light(coarse, target, settings)
    return nn.Sequential(first, last)


def _is_image(layout: Layout) -> bool:
    return layout.kind == "map" and layout.channels == 3
