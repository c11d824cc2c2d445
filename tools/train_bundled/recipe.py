"""How the bundled models are trained (``python tools/train_bundled``): scenes in, a network out.

Every recipe adds a dense objective, because a network of this size learns slowly from one label per image. A model's
card has what its function here says of itself.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import DetrForObjectDetection
from transformers.models.detr.modeling_detr import replace_batch_norm

from invsuite.data.base import Sample, from_unit_range, to_unit_range
from invsuite.data.scenes import CLASSES, Scenes, largest_label
from invsuite.models.bundled.architecture import (
    DETR_ARGS,
    IMAGE_SIZE,
    MEAN,
    STD,
    build_detr,
    build_vit,
)

TRAIN_SEED = 1001
SINGLE_TRAIN_SEED = 1002
HELD_OUT_SEED = 2001
HELD_OUT_SINGLE_SEED = 2002
GRID = 12
NO_OBJECT = len(CLASSES)
WINDOW = 6  # side, in cells, of the windows the ViT learns from first
BOXES = 4  # a scene has at most this many objects

Log = Callable[[str], None]
Pyramidal = TypeVar("Pyramidal", SwinTransformer, ConvNeXt)


@dataclass
class Pool:
    """Rendered scenes kept in memory: 8-bit images, per-cell class and box, the largest object's class."""

    images: torch.Tensor  # (N, 3, 96, 96) uint8
    cells: torch.Tensor  # (N, 12, 12) int64, NO_OBJECT where the background shows
    owner: torch.Tensor  # (N, 12, 12) int64, index of the object under the cell (0 where none)
    boxes: torch.Tensor  # (N, BOXES, 4) float, normalised cx, cy, w, h
    labels: torch.Tensor  # (N, BOXES) int64, -1 for none
    largest: torch.Tensor  # (N,) int64

    @classmethod
    def render(cls, *datasets: Scenes) -> Pool:
        """Render every scene of ``datasets`` once."""
        rows = [_encode(d[i]) for d in datasets for i in range(len(d))]
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _encode(sample: Sample) -> tuple[torch.Tensor, ...]:
    size = sample.image.shape[-1]
    cells = torch.full((GRID, GRID), NO_OBJECT)
    owner = torch.zeros((GRID, GRID), dtype=torch.int64)
    best = torch.full((GRID, GRID), 0.3)  # an object owns a cell of which it covers the most, at least 30 %
    boxes, labels = torch.zeros(BOXES, 4), torch.full((BOXES,), -1)
    for number, instance in enumerate(sample.instances):
        mask = torch.from_numpy(instance.mask).float()[None, None]
        share = F.adaptive_avg_pool2d(mask, GRID)[0, 0]
        own = share > best
        cells[own], owner[own], best[own] = instance.label, number, share[own]
        x0, y0, x1, y1 = instance.box
        boxes[number] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / size
        labels[number] = instance.label
    pixels = from_unit_range(sample.image)
    return pixels, cells, owner, boxes, labels, torch.tensor(largest_label(sample))


def _symmetry(batch: list[torch.Tensor], rng: np.random.Generator) -> list[torch.Tensor]:
    """Apply one of the square's eight symmetries to images, cells, owners and boxes together."""
    images, cells, owner, boxes, *rest = batch
    if rng.random() < 0.5:
        images, cells, owner = images.transpose(-1, -2), cells.transpose(-1, -2), owner.transpose(-1, -2)
        boxes = boxes[..., [1, 0, 3, 2]]
    for axis, coordinate in ((-1, 0), (-2, 1)):
        if rng.random() < 0.5:
            images, cells, owner = images.flip(axis), cells.flip(axis), owner.flip(axis)
            boxes = boxes.clone()
            boxes[..., coordinate] = 1 - boxes[..., coordinate]
    return [images, cells, owner, boxes, *rest]


def _batches(pool: Pool, batch: int, steps: int, seed: int) -> Iterator[list[torch.Tensor]]:
    rng = np.random.default_rng(seed)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(len(pool.images), size=batch))
        columns = (pool.images, pool.cells, pool.owner, pool.boxes, pool.labels, pool.largest)
        parts = _symmetry([column[rows] for column in columns], rng)
        parts[0] = ((to_unit_range(parts[0]) - mean) / std).contiguous(memory_format=torch.channels_last)
        yield parts


@dataclass
class _Schedule:
    """AdamW with linear warm-up, cosine decay and gradient clipping at 1.0, the same for every model."""

    groups: list[dict[str, Any]]
    steps: int
    warmup: int = 200

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.groups, weight_decay=0.02)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser,
            lambda i: min((i + 1) / self.warmup, 0.5 * (1 + np.cos(np.pi * i / self.steps)) + 0.005),
        )

    def step(self, loss: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        self.scheduler.step()


class _Reporter:
    """A line every 100 steps: mean loss since the last one, rate and time left."""

    def __init__(self, name: str, steps: int, log: Log) -> None:
        self.name, self.steps, self.log = name, steps, log
        self.start, self.losses = time.perf_counter(), list[float]()

    def add(self, step: int, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))
        if step % 100 == 0 or step == self.steps:
            seconds = time.perf_counter() - self.start
            left = seconds / step * (self.steps - step)
            mean = float(np.mean(self.losses))
            self.log(f"{self.name} step {step}/{self.steps} loss {mean:.3f} {seconds:.0f} s, {left:.0f} s left")
            self.losses.clear()


def _look_around(model: VisionTransformer, temperature: float = 12.0, sharpness: float = 2.0) -> None:
    """Start a ViT as if it were convolutional: every head attends to a neighbour at a fixed offset.

    Positions start as 2-D sines and cosines P. Moving by an offset is linear in P, ``P[i + offset] = P[i] S``, so
    with random keys K and queries ``Q = K S`` the logits ``(P Q') (P K')'`` peak at that offset. From a random start
    a ViT this small needs most of its training to find that neighbours matter (mimetic initialisation, Trockman &
    Kolter 2023, arXiv 2305.09828; structured initialisation, Zheng et al. 2024, arXiv 2404.01139).
    """
    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    wide = GRID + 8
    plane = build_sincos2d_pos_embed([wide, wide], width, temperature=temperature, interleave_sin_cos=True)
    plane = plane.view(wide, wide, width).double()
    centre = plane[4 : 4 + GRID, 4 : 4 + GRID].flatten(0, 1)
    offsets = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
    with torch.no_grad():
        model.pos_embed[0, 1:] = centre.float()
        for depth, block in enumerate(model.blocks):
            weight = block.attn.qkv.weight.view(3, heads, width // heads, width)
            for head in range(heads):
                dy, dx = (v * (1 + depth // 4) for v in offsets[(depth * heads + head) % len(offsets)])
                moved = plane[4 + dy : 4 + dy + GRID, 4 + dx : 4 + dx + GRID].flatten(0, 1)
                shift = torch.linalg.lstsq(centre, moved).solution.float()
                key = nn.init.orthogonal_(torch.empty(width // heads, width)) * sharpness
                weight[1, head] = key
                weight[0, head] = key @ shift.T


def _windows(parts: list[torch.Tensor], rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Cut a window of ``WINDOW`` x ``WINDOW`` cells around one object of each scene, aligned with the patch grid.

    Returns images (B, 3, 48, 48), cells (B, WINDOW ** 2), the object's class (B,), and the index of every window
    cell in the whole grid (B, WINDOW ** 2).
    """
    images, cells, _, boxes, labels, _ = parts
    patch = images.shape[-1] // GRID
    number = torch.arange(GRID * GRID).view(GRID, GRID)
    crops, kept, named, places = [], [], [], []
    for image, cell, box, label in zip(images, cells, boxes, labels, strict=True):
        chosen = int(rng.integers(int((label >= 0).sum())))
        centre = (box[chosen, :2] * GRID).long().tolist()
        column, row = (int(np.clip(c - rng.integers(2, WINDOW - 2), 0, GRID - WINDOW)) for c in centre)
        window = (slice(row, row + WINDOW), slice(column, column + WINDOW))
        crops.append(image[:, row * patch : (row + WINDOW) * patch, column * patch : (column + WINDOW) * patch])
        kept.append(cell[window].flatten())
        places.append(number[window].flatten())
        named.append(label[chosen])
    return torch.stack(crops), torch.stack(kept), torch.stack(named), torch.stack(places)


def _window_tokens(model: VisionTransformer, crops: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the ViT's final tokens (B, 1 + WINDOW ** 2, width) for windows that keep their place in the image."""
    patches = model.patch_embed.proj(crops).flatten(2).transpose(1, 2) + model.pos_embed[0, 1:][places]
    first = (model.cls_token + model.pos_embed[:, :1]).expand(len(crops), -1, -1)
    tokens: torch.Tensor = model.norm(model.blocks(torch.cat([first, patches], dim=1)))
    return tokens


def train_vit(pool: Pool, window_steps: int, steps: int, seed: int, log: Log, batch: int = 64) -> VisionTransformer:
    """Train the bundled ViT on ``pool``, and return it in eval mode.

    The loss is cross-entropy of the class token against the class of the largest object, plus cross-entropy of every
    patch token against the class under it (token labelling, Jiang et al. 2021, arXiv 2104.10858), on windows around
    objects first (a quarter of the cost), then on whole scenes.

    In half of the batches of windows the colour channels are permuted: with the prototypical hue alone a network
    names four objects in five, and without this it is slow to look at their shape.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build_vit()
    _look_around(model)
    dense = nn.Linear(model.embed_dim, NO_OBJECT + 1)
    parameters = [*model.parameters(), *dense.parameters()]

    def loss_of(tokens: torch.Tensor, named: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        own = F.cross_entropy(model.forward_head(tokens), named)
        return own + F.cross_entropy(dense(tokens[:, 1:]).flatten(0, 1), cells.flatten())

    schedule = _Schedule([{"params": parameters, "lr": 1.5e-3}], window_steps)
    report = _Reporter("vit windows", window_steps, log)
    for step, parts in enumerate(_batches(pool, batch, window_steps, seed), 1):
        images, cells, named, places = _windows(parts, rng)
        if step % 2 == 0:
            images = images[:, torch.randperm(3)]
        loss = loss_of(_window_tokens(model, images, places), named, cells)
        schedule.step(loss)
        report.add(step, loss)
    schedule = _Schedule([{"params": parameters, "lr": 7e-4}], steps)
    report = _Reporter("vit", steps, log)
    for step, (images, cells, _, _, _, largest) in enumerate(_batches(pool, batch // 2, steps, seed + 1), 1):
        loss = loss_of(model.forward_features(images), largest, cells)
        schedule.step(loss)
        report.add(step, loss)
    return model.eval()


def _keep_size(module: nn.Module) -> None:
    """Draw weights so that a layer keeps the size of its input: timm's deviation of .02 is for widths of hundreds."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def _mosaics(parts: list[torch.Tensor], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a quarter as many images (B / 4, 3, 96, 96), each of windows of four scenes, and their cells."""
    crops, cells, _, _ = _windows(parts, rng)

    def tiled(windows: torch.Tensor) -> torch.Tensor:
        first, second, third, fourth = windows.chunk(4)
        return torch.cat([torch.cat([first, second], -1), torch.cat([third, fourth], -1)], -2)

    return tiled(crops), tiled(cells.unflatten(1, (WINDOW, WINDOW)))


def train_pyramid(
    name: str,
    build: Callable[[], Pyramidal],
    pool: Pool,
    mosaic_steps: int,
    steps: int,
    seed: int,
    log: Log,
    batch: int = 16,
) -> Pyramidal:
    """Train the bundled Swin Transformer, or ConvNeXt, on ``pool``, and return it in eval mode.

    The loss is cross-entropy of what the last three maps say of every 8 x 8 pixels against the class there, in which
    objects count ten times as much as the background. Images are mosaics of windows around four objects first, which
    show four times as many, their colour channels permuted in half of the batches; then whole scenes, with
    cross-entropy of the pooled answer against the class of the largest object added. Products are of bfloat16, and
    weights are kept as float16.
    """
    torch.manual_seed(seed)
    model: Pyramidal = build()
    model.apply(_keep_size)
    readers: nn.ModuleList = nn.ModuleList()
    for facts in model.feature_info[1:]:  # maps with cells of 8 px or more
        channels, share = facts["num_chs"], facts["reduction"] * GRID // IMAGE_SIZE
        answers = nn.Conv2d(channels, share**2 * (NO_OBJECT + 1), 1)
        readers.append(nn.Sequential(nn.GroupNorm(1, channels), answers, nn.PixelShuffle(share)))
    parameters = [*model.parameters(), *readers.parameters()]
    weight = torch.ones(NO_OBJECT + 1)
    weight[NO_OBJECT] = 0.1

    def read(images: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            last, maps = model.forward_intermediates(images, output_fmt="NCHW")
            answers = [reader(own) for reader, own in zip(readers, maps[1:], strict=True)]
        return last.float(), sum((F.cross_entropy(a.float(), cells, weight) for a in answers), torch.zeros(()))

    rng = np.random.default_rng(seed)
    schedule = _Schedule([{"params": parameters, "lr": 2e-3}], mosaic_steps)
    report = _Reporter(f"{name} mosaics", mosaic_steps, log)
    for step, parts in enumerate(_batches(pool, 4 * batch, mosaic_steps, seed), 1):
        images, cells = _mosaics(parts, rng)
        if step % 2 == 0:
            images = images[:, torch.randperm(3)]
        _, loss = read(images, cells)
        schedule.step(loss)
        report.add(step, loss)
    schedule = _Schedule([{"params": parameters, "lr": 1e-3}], steps)
    report = _Reporter(name, steps, log)
    for step, (images, cells, _, _, _, largest) in enumerate(_batches(pool, 2 * batch, steps, seed + 1), 1):
        last, loss = read(images, cells)
        loss = loss + F.cross_entropy(model.forward_head(last), largest)
        schedule.step(loss)
        report.add(step, loss)
    return model.eval()


def _dense_loss(detr: DetrForObjectDetection, tokens: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the loss of DETR's heads on every encoder token: the class under the cell, and its owner's box."""
    _, cells, owner, boxes, _, _ = parts
    cells, owner = cells.flatten(1), owner.flatten(1)
    loss = F.cross_entropy(detr.class_labels_classifier(tokens).flatten(0, 1), cells.flatten())
    truth = boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    predicted = detr.bbox_predictor(tokens).sigmoid()
    inside = (cells != NO_OBJECT).float()[..., None]
    return loss + 5 * ((predicted - truth).abs() * inside).sum() / (4 * inside.sum().clamp(min=1))


def _encode_tokens(detr: DetrForObjectDetection, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Project and encode a backbone map, and return encoder tokens (B, HW, d) with their position embedding."""
    inner = detr.model
    position = inner.position_embedding(feature_map.shape, feature_map.device, feature_map.dtype)
    position = position.flatten(2).transpose(1, 2)
    tokens = inner.input_projection(feature_map).flatten(2).transpose(1, 2)
    return inner.encoder(inputs_embeds=tokens, spatial_position_embeddings=position).last_hidden_state, position


def _warm_up(detr: DetrForObjectDetection, pool: Pool, steps: int, seed: int, log: Log, batch: int) -> None:
    """Train backbone (with live batch normalisation), projection, encoder and heads on dense targets, in place."""
    options = DETR_ARGS["backbone_config"]
    backbone = timm.create_model(options["backbone"], features_only=True, out_indices=options["out_indices"])
    backbone = backbone.to(memory_format=torch.channels_last).train()
    inner = detr.model
    modules = (backbone, inner.input_projection, inner.encoder, detr.class_labels_classifier, detr.bbox_predictor)
    schedule = _Schedule([{"params": list(module.parameters()), "lr": 1e-3} for module in modules], steps)
    report = _Reporter("detr warm-up", steps, log)
    for step, parts in enumerate(_batches(pool, batch, steps, seed), 1):
        with torch.autocast("cpu", torch.bfloat16):
            feature_map = backbone(parts[0])[0]
        tokens, _ = _encode_tokens(detr, feature_map.float())
        loss = _dense_loss(detr, tokens, parts)
        schedule.step(loss)
        report.add(step, loss)
    frozen = copy.deepcopy(backbone)
    with torch.no_grad():
        replace_batch_norm(frozen)
    inner.backbone.model.load_state_dict(frozen.state_dict())


def _anchor_queries(detr: DetrForObjectDetection) -> None:
    """Start the object queries at the position embeddings of a 3 x 4 grid of places, so each looks somewhere."""
    with torch.no_grad():
        shape = torch.Size([1, 1, GRID, GRID])
        position = detr.model.position_embedding(shape, torch.device("cpu"), torch.float32)[0]
        rows, columns = torch.tensor([2, 6, 10]), torch.tensor([1, 4, 7, 10])
        places = position[:, rows][:, :, columns].flatten(1).T
        detr.model.query_position_embeddings.weight.copy_(places)


def train_detr(
    pool: Pool, warmup_steps: int, steps: int, seed: int, log: Log, batch: int = 32
) -> DetrForObjectDetection:
    """Train the bundled DETR on ``pool``, and return it in eval mode.

    First its backbone, input projection and encoder learn, with live batch normalisation, to name the class and the box
    of the object under every token, read out by DETR's own heads. transformers freezes batch normalisation in a DETR
    backbone, and a randomly initialised frozen one does not train. Then the whole model trains with the set loss of
    Carion et al. 2020 on every decoder layer, gradients clipped at 1.
    """
    torch.manual_seed(seed)
    detr = build_detr()
    _anchor_queries(detr)
    _warm_up(detr, pool, warmup_steps, seed + 1, log, batch)
    detr.train()
    inner = detr.model
    for parameter in inner.backbone.parameters():
        parameter.requires_grad_(True)
    inner.backbone.model.to(memory_format=torch.channels_last)
    backbone = list(inner.backbone.parameters())
    known = {id(p) for p in backbone}
    rest = [p for p in detr.parameters() if id(p) not in known]
    schedule = _Schedule([{"params": backbone, "lr": 1e-4}, {"params": rest, "lr": 6e-4}], steps)
    report = _Reporter("detr", steps, log)
    for step, parts in enumerate(_batches(pool, batch, steps, seed + 2), 1):
        images, _, _, boxes, labels, _ = parts
        targets = [
            {"class_labels": row[row >= 0], "boxes": box[row >= 0]} for row, box in zip(labels, boxes, strict=True)
        ]
        with torch.autocast("cpu", torch.bfloat16):
            feature_map = inner.backbone.model(images)[-1]
        tokens, position = _encode_tokens(detr, feature_map.float())
        loss = _dense_loss(detr, tokens, parts)
        queries = inner.query_position_embeddings.weight.unsqueeze(0).expand(len(images), -1, -1)
        hidden = torch.zeros_like(queries)
        for layer in inner.decoder.layers:
            hidden = layer(
                hidden,
                spatial_position_embeddings=position,
                object_queries_position_embeddings=queries,
                encoder_hidden_states=tokens,
            )
            read = inner.decoder.layernorm(hidden)
            logits, predicted = detr.class_labels_classifier(read), detr.bbox_predictor(read).sigmoid()
            loss = loss + detr.loss_function(logits, targets, logits.device, predicted, detr.config, None, None)[0]
        schedule.step(loss)
        report.add(step, loss)
    return detr.eval()


def held_out(single: bool, count: int = 500) -> Scenes:
    """Return scenes that no recipe trains on; ``single`` means one object per scene."""
    if single:
        return Scenes(HELD_OUT_SINGLE_SEED, count, IMAGE_SIZE, max_objects=1)
    return Scenes(HELD_OUT_SEED, count, IMAGE_SIZE)


def training_pool(count: int) -> Pool:
    """Return the scenes of the recipes: three quarters with 1-4 objects, one quarter with a single object."""
    single = count // 4
    return Pool.render(
        Scenes(TRAIN_SEED, count - single, IMAGE_SIZE),
        Scenes(SINGLE_TRAIN_SEED, single, IMAGE_SIZE, max_objects=1),
    )
