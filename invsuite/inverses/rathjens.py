"""The inverse networks whose code Rathjens et al. published, built so that they hold its state dicts as they are.

Each is recognised by the names of its tensors (github.com/wiskott-lab/inverse-tvm, the classes in the first column):

==============================  ================  =============================================================
class                           reads, gives      network
==============================  ================  =============================================================
InverseViTBackbone,             tokens or map,    one transposed convolution
LinearDecoder                   image
LinearDecoderEnhanced           map, image        four of kernel 1, then one
EnhancedVitBackbone             tokens, image     kernel 2 and stride 2, 768-256-64-16-3, batch-normalised
EnhancedInverseVitBackbonePos   tokens, image     the same after taking out the position embedding, a tensor of it
SimpleConvolutionalDecoder      map, image        256-2048-1024-512-256-128-64-3, kernel 3
BatchNormalizedConvolutional-   map, image        the same, batch-normalised; the enhanced one with two more
Decoder, Enhanced...
SwinBackbone                    map, image        kernel 2 and stride 2, 128-32-3, batch-normalised
InverseViTEncoder               tokens, tokens    pre-norm blocks with 12 heads and MLP ratio 4
InverseTransformerEncoder       tokens, map       post-norm layers of DETR's encoder, 8 heads, sine positions
InverseTransformerDecoder       queries, tokens   those of its decoder: places ask the object queries
InverseDetector                 predictions,      MLP of the one-hot class and the box, widths 512 and 256
                                queries
InverseSwinTransformerStage     map, finer map    shifted windows of 7, then a linear map to four places each
==============================  ================  =============================================================

They are not the ``paper`` networks of `invsuite.inverses.networks`, which follow the paper's text for models of any
size: those overlap their kernels, standardise what they read and write, use GELU in a ViT's ladder, heads of 32
channels and no sigmoid. So no tensor here goes into one of those; a file fits only the network that it was trained as.
Every ladder ends in a sigmoid: its images are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.errors import WeightsError
from invsuite.inverses.attention import heads_for
from invsuite.models.base import Layout

State = Mapping[str, torch.Tensor]

VIT_HEADS, DETR_HEADS, SWIN_WINDOW = 12, 8, 7
DETR_HIDDEN, DETECTOR_WIDTHS = 2048, (512, 256)
#: buffers that older versions of timm kept: they follow from the sizes
DERIVED = ("relative_position_index", "attn_mask")


@dataclass(frozen=True)
class Step:
    """One transposed convolution of a ladder.

    Attributes:
        name: of its tensors.
        outputs: channels after it; 0 for as many as the source has.
        kernel: per side; 0 for what is left of the upsampling, which is then the stride too.
        stride: places that one becomes, per side.
        norm: name of the batch normalisation after it, "" for none.
    """

    name: str
    outputs: int
    kernel: int = 3
    stride: int = 2
    norm: str = ""


def _climb(name: str, norm: str, widths: tuple[int, ...], last: Step) -> tuple[Step, ...]:
    """Return the ladder of DETR's backbone: one step of kernel 1, those that double the grid, and the last."""
    numbers = range(1, len(widths) + 1)
    norms = [f"{norm}_{i}" if norm else "" for i in numbers]
    sizes = [(1, 1), *[(3, 2)] * (len(widths) - 1)]
    rows = zip(numbers, widths, sizes, norms, strict=True)
    return (*(Step(f"{name}_{number}", width, *size, norm) for number, width, size, norm in rows), last)


_DETR_WIDTHS = (2048, 1024, 512, 256, 128, 64)
_VIT = tuple(Step(f"up_conv_{i}", w, 2, 2, f"bn_{i}" if i < 4 else "") for i, w in enumerate((256, 64, 16, 3), 1))
_NORMALISED = _climb("up_conv", "bn", _DETR_WIDTHS, Step("final_conv", 3, 3, 1))
LADDERS: tuple[tuple[Step, ...], ...] = (
    (Step("up_conv_1", 3, 0),),
    (*(Step(f"up_conv_{i}", 0, 1, 1) for i in range(1, 5)), Step("up_conv_5", 3, 0)),
    _VIT,
    (Step("up_conv_1", 32, 2, 2, "bn_1"), Step("up_conv_2", 3, 2, 2, "bn_2")),
    _climb("conv_t", "", _DETR_WIDTHS, Step("conv_t_7", 3, 3, 1)),
    _NORMALISED,
    (
        _NORMALISED[0],
        Step("up_conv_2", 1792, 3, 1, "bn_2"),
        Step("up_conv_2_2", 1536, 3, 1, "bn_2_2"),
        Step("up_conv_2_3", 1024, 3, 2, "bn_2_3"),
        *_NORMALISED[2:],
    ),
)


class PublishedLadder(nn.Module):
    """Transposed convolutions from a map or tokens to an image in [0, 1], with the tensors' published names."""

    def __init__(self, source: Layout, target: Layout, steps: tuple[Step, ...], positions: bool = False) -> None:
        super().__init__()
        assert source.grid is not None
        assert target.grid is not None
        self.source, self.steps = source, steps
        known = math.prod(step.stride for step in steps if step.kernel)
        left = max(1, target.grid[0] // (source.grid[0] * known))
        before = source.channels
        for step in steps:
            kernel, stride = (step.kernel, step.stride) if step.kernel else (left, left)
            pad, more = (1, stride - 1) if kernel == 3 else (0, 0)
            after = step.outputs or source.channels
            self.add_module(step.name, nn.ConvTranspose2d(before, after, kernel, stride, pad, more))
            if step.norm:
                self.add_module(step.norm, nn.BatchNorm2d(after))
            before = after
        self.pos_emb = nn.Parameter(torch.zeros(1, source.count, source.channels)) if positions else None
        reached = tuple(side * known * (left if any(not s.kernel for s in steps) else 1) for side in source.grid)
        if reached != target.grid:
            raise WeightsError(
                f"it refines {_size(source.grid)} places to {_size(reached)} pixels, images here are "
                f"{_size(target.grid)}"
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W) in [0, 1]."""
        maps = self.source.to_map(x if self.pos_emb is None else x - self.pos_emb)
        for step in self.steps:
            maps = self.get_submodule(step.name)(maps)
            maps = self.get_submodule(step.norm)(maps) if step.norm else maps
            maps = maps.sigmoid() if step is self.steps[-1] else F.relu(maps)
        return maps


class PublishedBlocks(nn.Module):
    """Transformer blocks of a ViT from tokens to tokens."""

    def __init__(self, source: Layout, target: Layout, depth: int, qkv_bias: bool) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        if source.channels % VIT_HEADS:
            raise WeightsError(f"its {VIT_HEADS} heads do not divide the {source.channels} channels here")
        self.source, self.target = source, target
        self.blocks = nn.Sequential(
            *(Block(source.channels, VIT_HEADS, mlp_ratio=4.0, qkv_bias=qkv_bias) for _ in range(depth))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout."""
        return _laid_out(self.blocks(_rows(self.source, x)), self.source.prefix, self.target)


class PublishedLayer(nn.Module):
    """A post-norm layer of DETR's encoder or, with ``cross``, decoder.

    Positions are added to the queries and keys of attention alone.
    """

    def __init__(self, width: int, cross: bool) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, DETR_HEADS, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, DETR_HEADS, batch_first=True) if cross else None
        self.linear1, self.linear2 = nn.Linear(width, DETR_HIDDEN), nn.Linear(DETR_HIDDEN, width)
        for number in range(1, 4 if cross else 3):
            self.add_module(f"norm{number}", nn.LayerNorm(width))

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        memory: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return tokens (B, count, width).

        Args:
            x: tokens (B, count, width).
            positions: of the tokens, (count, width).
            memory: what a decoder's layer looks at, (B, slots, width).
            codes: positions of the memory, (slots, width).
        """
        norms = iter([self.get_submodule(name) for name in ("norm1", "norm2", "norm3") if hasattr(self, name)])
        placed = x + positions
        x = next(norms)(x + self.self_attn(placed, placed, x, need_weights=False)[0])
        if self.multihead_attn is not None:
            assert memory is not None
            assert codes is not None
            seen = self.multihead_attn(x + positions, memory + codes, memory, need_weights=False)[0]
            x = next(norms)(x + seen)
        mixed: torch.Tensor = next(norms)(x + self.linear2(F.relu(self.linear1(x))))
        return mixed


class PublishedEncoder(nn.Module):
    """Layers of DETR's encoder run from its output to its input, on images that fill their canvas."""

    positions: torch.Tensor

    def __init__(self, source: Layout, target: Layout, depth: int) -> None:
        super().__init__()
        assert source.grid is not None
        self.source, self.target = source, target
        self.layers = nn.ModuleList(PublishedLayer(source.channels, cross=False) for _ in range(depth))
        self.register_buffer("positions", sine_positions(source.grid, source.channels), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout."""
        hidden = _rows(self.source, x)
        for layer in self.layers:
            hidden = layer(hidden, self.positions)
        return _laid_out(hidden, self.source.prefix, self.target)


class PublishedDecoder(nn.Module):
    """Layers of DETR's decoder run backwards: every place of the image asks the object queries."""

    positions: torch.Tensor

    def __init__(self, source: Layout, target: Layout, depth: int) -> None:
        super().__init__()
        assert target.grid is not None
        self.target = target
        self.layers = nn.ModuleList(PublishedLayer(source.channels, cross=True) for _ in range(depth))
        self.query_embed = nn.Embedding(source.count, source.channels)
        self.register_buffer("positions", sine_positions(target.grid, source.channels), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout from object queries (B, count, channels)."""
        hidden = torch.zeros_like(self.positions).expand(len(x), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, self.positions, x, self.query_embed.weight)
        return _laid_out(hidden, 0, self.target)


class PublishedDetector(nn.Module):
    """An MLP per prediction, from its most likely class and its box to an object query."""

    def __init__(self, source: Layout, target: Layout) -> None:
        super().__init__()
        self.classes = source.channels - source.boxes
        sizes = (source.channels, *DETECTOR_WIDTHS, target.channels)
        layers = {f"fc{i}": nn.Linear(a, b) for i, (a, b) in enumerate(pairwise(sizes), 1)}
        self.inverse_classifier_regressor = nn.ModuleDict(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return object queries (B, count, channels)."""
        logits, boxes = x[..., : self.classes], x[..., self.classes :]
        hidden = torch.cat([F.one_hot(logits.argmax(-1), self.classes).to(x.dtype), boxes], -1)
        *inner, last = self.inverse_classifier_regressor.values()
        for layer in inner:
            hidden = F.relu(layer(hidden))
        queries: torch.Tensor = last(hidden)
        return queries


class PublishedSwinStage(nn.Module):
    """Blocks of Swin, the shifted windows first, and then four places for each where the target's grid is finer."""

    def __init__(self, source: Layout, target: Layout, depth: int, splits: bool) -> None:
        super().__init__()
        from timm.models.swin_transformer import SwinTransformerBlock

        assert source.grid is not None
        self.source, self.target, self.splits = source, target, splits
        assert target.grid is not None
        reached = tuple(side * (2 if splits else 1) for side in source.grid)
        if reached != target.grid:
            raise WeightsError(f"it makes {_size(reached)} places, the representation before has {_size(target.grid)}")
        blocks = [
            SwinTransformerBlock(
                source.channels,
                source.grid,
                num_heads=heads_for(source.channels),
                window_size=SWIN_WINDOW,
                shift_size=0 if number % 2 else SWIN_WINDOW // 2,
            )
            for number in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        if splits:
            expansion = nn.Linear(source.channels, 4 * target.channels, bias=False)
            self.upsample = nn.ModuleDict({"norm": nn.LayerNorm(source.channels), "expansion": expansion})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the target's layout."""
        places = self.blocks(self.source.to_map(x).permute(0, 2, 3, 1))
        if self.splits:
            four = self.upsample["expansion"](self.upsample["norm"](places)).unflatten(-1, (2, 2, -1))
            places = four.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        return _laid_out(places.flatten(1, 2), 0, self.target)


def sine_positions(grid: tuple[int, int], channels: int) -> torch.Tensor:
    """Return DETR's position embedding (places, channels) of a grid without padding (Carion et al. 2020)."""
    half = channels // 2
    rates = 10000 ** (2 * (torch.arange(half) // 2) / half)
    codes = []
    for side in grid:
        angles = (torch.arange(1, side + 1) / (side + 1e-6) * 2 * math.pi)[:, None] / rates
        codes.append(torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], 2).flatten(1))
    rows, columns = codes[0][:, None].expand(-1, grid[1], -1), codes[1][None].expand(grid[0], -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


def ladder_of(state: State) -> tuple[Step, ...] | None:
    """Return the ladder whose tensors a state dict names; None where it is none."""
    names = {key.rpartition(".")[0] for key in state} - {""}
    return next((steps for steps in LADDERS if {n for s in steps for n in (s.name, s.norm)} - {""} == names), None)


def ladder_source(state: State, target: Layout) -> Layout | None:
    """Return the map that a ladder with these tensors reads; None where it is no ladder.

    It serves networks between whose layouts the model has no stage: DETR's projected backbone map.
    """
    steps = ladder_of(state)
    if steps is None:
        return None
    assert target.grid is not None
    weights = [state[f"{step.name}.weight"] for step in steps]
    factor = math.prod(s.stride if s.kernel else int(w.shape[-1]) for s, w in zip(steps, weights, strict=True))
    return Layout("map", int(weights[0].shape[0]), (target.grid[0] // factor, target.grid[1] // factor))


def published_network(state: State, source: Layout, target: Layout) -> nn.Module:
    """Return the network with these tensors, in eval mode.

    Args:
        state: a state dict of one of the published classes.
        source: of what it reads.
        target: of what it gives; an image is the map layout with 3 channels.

    Raises:
        WeightsError: for tensors of no published class, or one that does not fit the layouts, naming it with both
            shapes.
    """
    state = {key: value for key, value in state.items() if not key.endswith(DERIVED)}
    network = _empty(state, source, target)
    here = network.state_dict()
    for key in sorted(here.keys() | state.keys(), key=lambda key: (list(here).index(key) if key in here else -1, key)):
        shapes = [str(tuple(tensors[key].shape)) if key in tensors else "absent" for tensors in (state, here)]
        if shapes[0] != shapes[1]:
            raise WeightsError(f"tensor '{key}' is {shapes[0]} there and {shapes[1]} here")
    network.load_state_dict(dict(state))
    return network.eval().requires_grad_(False)


def _empty(state: State, source: Layout, target: Layout) -> nn.Module:
    """Return the network of the class that the names of tensors tell, as large as the layouts say."""
    steps = ladder_of(state)
    if steps is not None:
        _require(source.spatial and target.channels == 3, "a map or tokens to an image", source, target)
        return PublishedLadder(source, target, steps, "pos_emb" in state)
    if "inverse_classifier_regressor.fc1.weight" in state:
        _require((source.kind, target.kind) == ("predictions", "queries"), "predictions to queries", source, target)
        return PublishedDetector(source, target)
    if "layers.0.multihead_attn.in_proj_weight" in state:
        _require(source.kind == "queries" and target.spatial, "queries to places", source, target)
        return PublishedDecoder(source, target, _depth(state, "layers"))
    if "layers.0.self_attn.in_proj_weight" in state:
        _require(source.grid is not None and source.grid == target.grid, "places to places", source, target)
        return PublishedEncoder(source, target, _depth(state, "layers"))
    if "blocks.0.attn.relative_position_bias_table" in state:
        _require(source.spatial and target.spatial, "a map to a map", source, target)
        return PublishedSwinStage(source, target, _depth(state, "blocks"), "upsample.expansion.weight" in state)
    if "blocks.0.attn.qkv.weight" in state:
        same = source.kind == "tokens" and source.grid == target.grid and target.prefix in (0, source.prefix)
        _require(same, "tokens to tokens", source, target)
        return PublishedBlocks(source, target, _depth(state, "blocks"), "blocks.0.attn.qkv.bias" in state)
    first = next(iter(state), "none")
    raise WeightsError(f"its tensors are those of no published inverse network (first: '{first}')")


def _require(fits: bool, makes: str, source: Layout, target: Layout) -> None:
    if not fits:
        raise WeightsError(
            f"it takes {makes}, here it is between {source.kind} {source.shape} and {target.kind} {target.shape}"
        )


def _depth(state: State, name: str) -> int:
    """Return the number of layers under ``name``."""
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{name}."))


def _rows(layout: Layout, x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a layout with one row per place: (B, count, channels)."""
    return x.flatten(2).transpose(1, 2) if layout.kind == "map" else x


def _laid_out(rows: torch.Tensor, prefix: int, target: Layout) -> torch.Tensor:
    """Return rows (B, count, channels), the first ``prefix`` of them no places, as the target has them."""
    if target.kind == "tokens":
        return rows[:, prefix - target.prefix :]
    assert target.grid is not None
    return rows[:, prefix:].transpose(1, 2).unflatten(2, target.grid)


def _size(grid: tuple[int, ...]) -> str:
    return "x".join(map(str, grid))
