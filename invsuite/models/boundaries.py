"""Where a network can be cut, found by comparing values instead of knowing its family.

A library that hands out a network's feature maps names by that the places between its parts. Here each map is looked
for, bit by bit, among the answers of all module calls of one forward: the module that gave it is the border, and how
its own tensor must be turned - channels last, prefix tokens in front, windows in another order - to be that map is
the arrangement. Every piece between two borders is then run alone and must give what the whole forward gave there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from invsuite.errors import NotApplicable
from invsuite.models.base import Layout
from invsuite.models.partial_forward import Border, Call, Resumable, record_answers, tensors_of, watch_calls

TOLERANCE = 1e-5  # relative difference that another batch may cause
VECTOR_NOISE = 0.02  # on gains, offsets and layer scales, many of which begin at nearly zero
MATRIX_NOISE = 0.1  # on other weights, as a share of their size: a deep network must not explode
PROBED = 8  # channels of one place that are compared first
SEARCHED_PLACES = 4096  # a grid with more places is not searched for another order

#: the feature maps of a network for images
FeatureMaps = Callable[[nn.Module, torch.Tensor], Sequence[torch.Tensor]]


class Uncuttable(NotApplicable):
    """A network that cannot be cut into pieces that run alone, with the reason."""


@dataclass(frozen=True)
class Arrangement:
    """How a module's own tensor holds a representation.

    Attributes:
        layout: of the representation.
        shape: of the module's tensor without the batch axis.
        channels_last: whether its last axis is channels; then the others, flattened, are rows.
        order: row of the module's tensor that is row i of the representation; None where they are the same.
    """

    layout: Layout
    shape: tuple[int, ...]
    channels_last: bool
    order: tuple[int, ...] | None = None

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """The representation, in its layout, of a module's tensor (B, *shape)."""
        if not self.channels_last:
            return tensor
        rows = tensor.flatten(1, -2)
        if self.order is not None:
            rows = rows[:, torch.tensor(self.order, device=rows.device)]
        return rows.transpose(1, 2).reshape(len(rows), *self.layout.shape) if self.layout.kind == "map" else rows

    def write(self, tensor: torch.Tensor) -> torch.Tensor:
        """The module's tensor (B, *shape) of a representation: undoes `read`."""
        if not self.channels_last:
            return tensor
        rows = tensor.flatten(2).transpose(1, 2) if self.layout.kind == "map" else tensor
        if self.order is not None:
            rows = rows[:, torch.tensor(self.order, device=rows.device).argsort()]
        return rows.reshape(len(rows), *self.shape)


@dataclass(frozen=True)
class Cut:
    """A place where the network is cut: the border, how its tensor is arranged, and how many transformer blocks lie
    between it and the cut before."""

    border: Border
    arrangement: Arrangement
    blocks: int = 0


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
    pieces: Resumable


def cut_network(network: nn.Module, images: torch.Tensor, feature_maps: FeatureMaps) -> CutNetwork:
    """Find the cuts of ``network`` at its feature maps, and check that every piece runs alone.

    Both are done on a copy with all weights changed a little, because parts that do next to nothing, as residual
    branches at initialisation, can be told from none at all by no value.

    Args:
        network: in eval mode.
        images: two different ones (2, C, H, W), as the network takes them.
        feature_maps: gives the maps (2, channels, h, w) of the given network for these images, in order.

    Raises:
        Uncuttable: if a map is no module's answer, or a piece needs more than the tensor at its start.
    """
    other = _with_other_weights(network)
    maps = feature_maps(other, images)
    calls, givers = _givers(other, images, maps)
    found: list[tuple[Call, Cut]] = []
    for number, cut_of in enumerate(givers, 1):
        free = [call for call in calls if call.path in cut_of and (not found or call.began > found[-1][0].ended)]
        if not free:
            raise Uncuttable(f"feature map {number} of {len(maps)} is the answer of no module")
        outermost = min(free, key=lambda call: call.began)
        found.append((outermost, cut_of[outermost.path]))
    embedding = _embedding(Resumable(other, images, calls, []), calls, *found[0], images)
    cuts = _with_blocks(other, calls, [c for c in (embedding, *(cut for _, cut in found)) if c is not None])
    borders = [cut.border for cut in cuts]
    _check(Resumable(other, images, calls, borders), cuts, images)
    pieces = Resumable(network, images, calls, borders)
    return CutNetwork(cuts[0] if embedding else None, tuple(cuts[len(cuts) - len(maps) :]), pieces)


@torch.no_grad()
def _with_other_weights(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with noise on all weights; the global generator is untouched."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        size = float(parameter.square().mean().sqrt())
        vector = size == 0 or parameter.numel() == max(parameter.shape, default=1)
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(((VECTOR_NOISE if vector else MATRIX_NOISE * size) * noise).to(parameter))
    return other


def _givers(
    network: nn.Module, images: torch.Tensor, maps: Sequence[torch.Tensor]
) -> tuple[list[Call], list[dict[str, Cut]]]:
    """All calls of one forward and, for each of the ``maps``, the cuts behind the modules whose answer holds it."""
    givers: list[dict[str, Cut]] = [{} for _ in maps]

    def look(path: str, output: Any) -> None:
        for leaf, tensor in enumerate(tensors_of(output)):
            for found, wanted in zip(givers, maps, strict=True):
                arrangement = arrangement_of(tensor, wanted) if path not in found else None
                if arrangement is not None:
                    found[path] = Cut(Border(path, True, leaf), arrangement)

    return watch_calls(network, images, look), givers


def arrangement_of(tensor: torch.Tensor, wanted: torch.Tensor) -> Arrangement | None:
    """How ``tensor`` (B, ...) holds the map ``wanted`` (B, channels, h, w); None where it does not."""
    channels, grid = wanted.shape[1], (wanted.shape[2], wanted.shape[3])
    shape = tuple(tensor.shape[1:])
    if tensor.dim() < 3 or len(tensor) != len(wanted) or not _may_hold(tensor, wanted):
        return None
    if torch.equal(tensor, wanted):
        return Arrangement(Layout("map", channels, grid), shape, channels_last=False)
    rows, places = tensor.flatten(1, -2), wanted.flatten(2).transpose(1, 2)
    prefix = rows.shape[1] - places.shape[1]
    if rows.shape[2] != channels or prefix < 0 or (prefix and tensor.dim() > 3):
        return None
    order = None
    if not torch.equal(rows[:, prefix:], places):
        order = _order(rows, places)
        if order is None:
            return None
    if tensor.dim() > 3:
        return Arrangement(Layout("map", channels, grid), shape, True, order)
    return Arrangement(Layout("tokens", channels, grid, rows.shape[1], prefix), shape, True, order)


def _may_hold(tensor: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether a place of ``tensor`` has the first channels of the middle place of ``wanted``: quick to see, seldom so
    where it does not hold it."""
    height, width = wanted.shape[2:]
    probe = wanted[0, :PROBED, height // 2, width // 2]
    if tensor.shape == wanted.shape and torch.equal(tensor[0, :PROBED, height // 2, width // 2], probe):
        return True
    rows = tensor[0].flatten(0, -2)
    return rows.shape[1] == wanted.shape[1] and bool((rows[:, :PROBED] == probe).all(1).any())


def _order(rows: torch.Tensor, places: torch.Tensor) -> tuple[int, ...] | None:
    """Rows (B, N, channels) in the order of ``places`` (B, n, channels), rows that are no place first; or None."""
    if places.shape[1] > SEARCHED_PLACES or not bool((rows[0] == places[0, 0]).all(-1).any()):
        return None
    nearest = torch.cdist(places[0], rows[0]).argmin(1).tolist()
    if len(set(nearest)) < len(nearest) or not torch.equal(rows[:, nearest], places):
        return None
    return (*sorted(set(range(rows.shape[1])) - set(nearest)), *nearest)


def _embedding(pieces: Resumable, calls: Sequence[Call], giver: Call, first: Cut, images: torch.Tensor) -> Cut | None:
    """The cut in front of the first part: the input of the first of the modules that stand in a row with ``giver``.

    None where ``giver`` is the embedding: it mixes no channels (an activation or normalisation), or no module that
    does comes before it (a stem).
    """

    def has_weights(path: str) -> bool:
        return any(weight.dim() > 1 for weight in network.get_submodule(path).parameters())

    network = pieces.network
    if not has_weights(giver.path):
        return None
    row = giver.path.rpartition(".")[0]
    if row and isinstance(network.get_submodule(row), nn.ModuleList | nn.Sequential):
        siblings = [c for c in calls if c.path.rpartition(".")[0] == row]
        giver = min(siblings, key=lambda call: call.began)
    if not any(has_weights(call.path) for call in calls if call.ended < giver.began):
        return None
    border = Border(giver.path, after=False)
    with torch.no_grad():
        tensor = pieces.run(images, None, border)
    arrangement = _arrangement_like(first.arrangement, tensor, (images.shape[2], images.shape[3]))
    return Cut(border, arrangement) if arrangement else None


def _arrangement_like(near: Arrangement, tensor: torch.Tensor, size: tuple[int, int]) -> Arrangement | None:
    """The arrangement of ``tensor`` (B, ...), of another shape maybe, that goes into what gives ``near``.

    Its grid must have the shape of the image (H, W) ``size``.
    """
    shape = tuple(tensor.shape[1:])
    if shape == near.shape:
        return near
    if len(shape) == 3:
        for last in (near.channels_last, not near.channels_last):
            channels, height, width = (shape[2], shape[0], shape[1]) if last else shape
            if height * size[1] == width * size[0]:
                return Arrangement(Layout("map", channels, (height, width)), shape, last)
    if len(shape) == 2:
        prefix = near.layout.prefix
        height = round(((shape[0] - prefix) * size[0] / size[1]) ** 0.5)
        width = round(height * size[1] / size[0])
        if height * width == shape[0] - prefix:
            return Arrangement(Layout("tokens", shape[1], (height, width), shape[0], prefix), shape, True)
    return None


def _with_blocks(network: nn.Module, calls: Sequence[Call], cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts with the number of transformer blocks, told by their attention, in front of each."""

    def attends(call: Call) -> bool:
        kind = type(network.get_submodule(call.path)).__name__.lower()
        return "attention" in kind or "attn" in kind

    attention = [call for call in calls if attends(call)]
    outermost = [call for call in attention if not any(call.inside(other) for other in attention)]
    counted, since = [], -1
    for cut in cuts:
        tick = _tick(calls, cut.border)
        blocks = sum(since < call.began and call.ended <= tick for call in outermost)
        counted.append(Cut(cut.border, cut.arrangement, blocks))
        since = tick
    return counted


def _tick(calls: Sequence[Call], border: Border) -> int:
    call = _call(calls, border)
    return call.ended if border.after else call.began


def _call(calls: Sequence[Call], border: Border) -> Call:
    return next(call for call in calls if call.path == border.path)


@torch.no_grad()
def _check(pieces: Resumable, cuts: Sequence[Cut], images: torch.Tensor) -> None:
    """Run every piece alone, from the tensor that the whole forward had at its start.

    Raises:
        Uncuttable: if one gives something else than the whole forward had at its end.
    """
    answers = record_answers(pieces.network, images, {cut.border.path for cut in cuts if cut.border.after})
    truths = [images]
    for cut in cuts:
        if cut.border.after:
            truths.append(tensors_of(answers[cut.border.path])[cut.border.leaf])
        else:
            truths.append(pieces.run(images, None, cut.border))
    truths.append(pieces.network(images))
    # in another order, so that what comes from a recording is another image's
    truths = [tensor.flip(0) for tensor in truths]
    for number, start in enumerate((None, *cuts)):
        given = truths[number] if start is None else start.arrangement.write(start.arrangement.read(truths[number]))
        where = "the first part" if start is None else f"what follows module '{start.border.path}'"
        stop = cuts[number].border if number < len(cuts) else None
        try:
            found = pieces.run(given, start.border if start else None, stop)
        except Exception as error:
            raise Uncuttable(f"{where} does not run alone ({type(error).__name__}: {error})") from error
        wanted = truths[number + 1]
        if found.shape != wanted.shape or not float((found - wanted).norm()) <= TOLERANCE * float(wanted.norm()):
            raise Uncuttable(f"{where} needs more than the representation there")
