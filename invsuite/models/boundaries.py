"""The places where a network can be cut, by comparing values instead of knowing its family.

A library that hands out a network's feature maps names by that the places between its parts. Here each map is looked
for, bit by bit, among the answers of all module calls of one forward: the module that gave it is the border, and how
its own tensor must be turned - channels last, prefix tokens in front, windows in another order - to be that map is
the arrangement. Every piece between two borders is then run alone and must give what the whole forward gave there.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from invsuite.errors import NotApplicable, reason_of
from invsuite.models.arrangement import OneTensor
from invsuite.models.base import Layout
from invsuite.models.partial_forward import (
    Border,
    Call,
    Cut,
    PartialForward,
    reach,
    record_answers,
    tensors_of,
    watch_calls,
)

TOLERANCE = 1e-5  # relative difference that another batch may cause
VECTOR_NOISE = 0.02  # on gains, offsets and layer scales, many of which begin at nearly zero
MATRIX_NOISE = 0.1  # on other weights, as a share of their size: a deep network must not explode
PROBED = 8  # channels of one place that are compared first
SEARCHED_PLACES = 4096  # a grid with more places is not searched for another order

#: a function that returns the feature maps of a network for images
FeatureMaps = Callable[[nn.Module, torch.Tensor], Sequence[torch.Tensor]]


class Uncuttable(NotApplicable):
    """A network that cannot be cut into pieces that run alone, with the reason."""


@dataclass(frozen=True)
class CutNetwork:
    """A network with its cuts.

    Attributes:
        embedding: the cut in front of the first part; None where the first map is the embedding itself, or nothing
            plain is there.
        cuts: one for each of the library's feature maps, in order.
        pieces: runs what is between them.
    """

    embedding: Cut | None
    cuts: tuple[Cut, ...]
    pieces: PartialForward


def cut_network(network: nn.Module, images: torch.Tensor, feature_maps: FeatureMaps) -> CutNetwork:
    """Find the cuts of ``network`` at its feature maps, and check that every piece runs alone.

    Both are done on a copy with all weights changed a little, because parts that do next to nothing, as residual
    branches at initialisation, cannot be distinguished from none at all by any value.

    Args:
        network: in eval mode.
        images: two different ones (2, C, H, W), as the network takes them.
        feature_maps: a function that returns the maps (2, channels, h, w) of a network for these images, in order.

    Raises:
        Uncuttable: if a map is no module's answer, or a piece needs more than the tensor at its start.
    """
    other = with_other_weights(network)
    maps = feature_maps(other, images)
    calls, candidates = _candidates(other, images, maps)
    chosen: list[tuple[Call, Cut]] = []
    for number, cut_of in enumerate(candidates, 1):
        free = [call for call in calls if call.path in cut_of and (not chosen or call.began > chosen[-1][0].ended)]
        if not free:
            raise Uncuttable(f"feature map {number} of {len(maps)} is the answer of no module")
        outermost = min(free, key=lambda call: call.began)
        chosen.append((outermost, cut_of[outermost.path]))
    embedding = _embedding(other, calls, *chosen[0], images)
    cuts = with_blocks(other, calls, [c for c in (embedding, *(cut for _, cut in chosen)) if c is not None])
    borders = [cut.border for cut in cuts]
    _check(PartialForward(other, images, calls, borders), cuts, images)
    pieces = PartialForward(network, images, calls, borders)
    return CutNetwork(cuts[0] if embedding else None, tuple(cuts[len(cuts) - len(maps) :]), pieces)


@torch.no_grad()
def with_other_weights(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` with noise on all weights; the global generator is untouched."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        size = float(parameter.square().mean().sqrt())
        vector = size == 0 or parameter.numel() == max(parameter.shape, default=1)
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(((VECTOR_NOISE if vector else MATRIX_NOISE * size) * noise).to(parameter))
    return other


def _candidates(
    network: nn.Module, images: torch.Tensor, maps: Sequence[torch.Tensor]
) -> tuple[list[Call], list[dict[str, Cut]]]:
    """Return all calls of one forward and, for each of the ``maps``, the cut behind each module that holds it."""
    cuts: list[dict[str, Cut]] = [{} for _ in maps]

    def look(path: str, answer: Any) -> None:
        for leaf, tensor in enumerate(tensors_of(answer)):
            for cut_of, feature_map in zip(cuts, maps, strict=True):
                arrangement = arrangement_of(tensor, feature_map) if path not in cut_of else None
                if arrangement is not None:
                    cut_of[path] = Cut(Border(path, leaves=(leaf,)), arrangement)

    return watch_calls(network, images, look), cuts


def arrangement_of(tensor: torch.Tensor, feature_map: torch.Tensor) -> OneTensor | None:
    """Return how ``tensor`` (B, ...) holds ``feature_map`` (B, channels, h, w); None where it does not."""
    channels, grid = feature_map.shape[1], (feature_map.shape[2], feature_map.shape[3])
    shape = tuple(tensor.shape[1:])
    if tensor.dim() < 3 or len(tensor) != len(feature_map) or not _may_hold(tensor, feature_map):
        return None
    if torch.equal(tensor, feature_map):
        return OneTensor(Layout("map", channels, grid), shape, channels_last=False)
    rows, places = tensor.flatten(1, -2), feature_map.flatten(2).transpose(1, 2)
    prefix = rows.shape[1] - places.shape[1]
    if rows.shape[2] != channels or prefix < 0 or (prefix and tensor.dim() > 3):
        return None
    order = None
    if not torch.equal(rows[:, prefix:], places):
        order = _order(rows, places)
        if order is None:
            return None
    if tensor.dim() > 3:
        return OneTensor(Layout("map", channels, grid), shape, channels_last=True, order=order)
    layout = Layout("tokens", channels, grid, rows.shape[1], prefix)
    return OneTensor(layout, shape, channels_last=True, order=order)


def _may_hold(tensor: torch.Tensor, feature_map: torch.Tensor) -> bool:
    """Tell whether a place of ``tensor`` has the first channels of the middle place of ``feature_map``.

    The comparison takes little time and is rarely true of a tensor that does not hold the map.
    """
    height, width = feature_map.shape[2:]
    probe = feature_map[0, :PROBED, height // 2, width // 2]
    if tensor.shape == feature_map.shape and torch.equal(tensor[0, :PROBED, height // 2, width // 2], probe):
        return True
    rows = tensor[0].flatten(0, -2)
    return rows.shape[1] == feature_map.shape[1] and bool((rows[:, :PROBED] == probe).all(1).any())


def _order(rows: torch.Tensor, places: torch.Tensor) -> tuple[int, ...] | None:
    """Return the positions of ``places`` (B, n, channels) among ``rows`` (B, N, channels).

    Rows that are no place come first. None where a place is no row.
    """
    if places.shape[1] > SEARCHED_PLACES or not bool((rows[0] == places[0, 0]).all(-1).any()):
        return None
    nearest = torch.cdist(places[0], rows[0]).argmin(1).tolist()
    if len(set(nearest)) < len(nearest) or not torch.equal(rows[:, nearest], places):
        return None
    return (*sorted(set(range(rows.shape[1])) - set(nearest)), *nearest)


@torch.no_grad()
def _embedding(network: nn.Module, calls: Sequence[Call], giver: Call, first: Cut, images: torch.Tensor) -> Cut | None:
    """Return the cut in front of the first part: the input of the first of the modules in a row with ``giver``.

    Args:
        network: in eval mode.
        calls: of one of its forwards.
        giver: the call that gave the first feature map.
        first: the cut behind it.
        images: (B, C, H, W), as the network takes them.

    Returns:
        None where ``giver`` is the embedding: it mixes no channels (an activation or normalisation), or no module that
        does comes before it (a stem).
    """

    def has_weights(path: str) -> bool:
        return any(weight.dim() > 1 for weight in network.get_submodule(path).parameters())

    if not has_weights(giver.path):
        return None
    row = giver.path.rpartition(".")[0]
    if row and isinstance(network.get_submodule(row), nn.ModuleList | nn.Sequential):
        siblings = [c for c in calls if c.path.rpartition(".")[0] == row]
        giver = min(siblings, key=lambda call: call.began)
    if not any(has_weights(call.path) for call in calls if call.ended < giver.began):
        return None
    border = Border(giver.path, after=False)
    tensor = tensors_of(reach(network, images, border))[0]
    assert isinstance(first.arrangement, OneTensor)
    arrangement = _arrangement_like(first.arrangement, tensor, (images.shape[2], images.shape[3]))
    return Cut(border, arrangement) if arrangement else None


def _arrangement_like(near: OneTensor, tensor: torch.Tensor, size: tuple[int, int]) -> OneTensor | None:
    """Return the arrangement of ``tensor`` (B, ...), maybe of another shape, which goes into what gives ``near``.

    Its grid must have the shape of the image (H, W) ``size``; None where it has not.
    """
    shape = tuple(tensor.shape[1:])
    if shape == near.shape:
        return near
    if len(shape) == 3:
        for last in (near.channels_last, not near.channels_last):
            channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
            if height * size[1] == width * size[0]:
                return OneTensor(Layout("map", channels, (height, width)), shape, last)
    if len(shape) == 2:
        prefix = near.layout.prefix
        height = round(((shape[0] - prefix) * size[0] / size[1]) ** 0.5)
        width = round(height * size[1] / size[0])
        if height * width == shape[0] - prefix:
            return OneTensor(Layout("tokens", shape[1], (height, width), shape[0], prefix), shape, True)
    return None


def with_blocks(network: nn.Module, calls: Sequence[Call], cuts: Sequence[Cut]) -> list[Cut]:
    """Return the cuts with the number of transformer blocks, counted by their attention, in front of each."""

    def attends(call: Call) -> bool:
        kind = type(network.get_submodule(call.path)).__name__.lower()
        return "attention" in kind or "attn" in kind

    attention = [call for call in calls if attends(call)]
    outermost = [call for call in attention if not any(call.inside(other) for other in attention)]
    counted, since = [], -1
    for cut in cuts:
        call = next(call for call in calls if call.path == cut.border.path)
        tick = call.ended if cut.border.after else call.began
        counted.append(replace(cut, blocks=sum(since < call.began and call.ended <= tick for call in outermost)))
        since = tick
    return counted


def _check(pieces: PartialForward, cuts: Sequence[Cut], images: torch.Tensor) -> None:
    """Run every piece alone, from the tensor that the whole forward had at its start.

    Raises:
        Uncuttable: if one gives something else than the whole forward had at its end.
    """
    # in another order, so that what comes from a recording is another image's
    truths = tensors_at(pieces, cuts, images.flip(0))
    for number, (start, stop) in enumerate(itertools.pairwise((None, *cuts, None))):
        fault = fault_of_piece(pieces, start, stop, truths[number], truths[number + 1])
        if fault:
            raise Uncuttable(fault)


@torch.no_grad()
def tensors_at(pieces: PartialForward, cuts: Sequence[Cut], images: torch.Tensor) -> list[torch.Tensor]:
    """Return the ``images``, what one whole forward over them has at each cut, and its answer."""
    answers = record_answers(pieces.network, images, {cut.border.path for cut in cuts if cut.border.after})
    tensors = [images]
    for cut in cuts:
        border = cut.border
        tree = answers[border.path] if border.after else reach(pieces.network, images, border)
        tensors.append(tensors_of(tree)[border.leaves[0]])
    return [*tensors, pieces.answer(pieces.network(images))]


@torch.no_grad()
def fault_of_piece(
    pieces: PartialForward, start: Cut | None, stop: Cut | None, tensor: torch.Tensor, truth: torch.Tensor
) -> str:
    """Return why the piece from ``start`` to ``stop`` does not run alone, or "".

    Args:
        pieces: of the network.
        start: None is its input.
        stop: None is its answer.
        tensor: what the whole forward has at the start.
        truth: what it has at the stop.
    """
    tensors = [tensor] if start is None else start.arrangement.write(start.arrangement.read([tensor]))
    where = "the first part" if start is None else f"what follows module '{start.border.path}'"
    try:
        answer = pieces.run(tensors, start.border if start else None, stop.border if stop else None)
    except Exception as error:
        return f"{where} does not run alone ({type(error).__name__}: {reason_of(error)})"
    answer = answer if stop is None else answer[0]
    if answer.shape != truth.shape or not float((answer - truth).norm()) <= TOLERANCE * float(truth.norm()):
        return f"{where} needs more than the representation there"
    return ""
