"""Files of weights as people save them: a bare state dict, or one inside a training checkpoint, under any prefix."""

from __future__ import annotations

import argparse
import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from invsuite.errors import MissingPath, WeightsError, reason_of

COMPILED = "_orig_mod."  # what torch.compile puts in front of the names of the module it wraps
MOST = 16  # rows of a position embedding that have no place, in front of the others
POINTER = b"version https://git-lfs"  # of Git LFS, in the place of a file that was not fetched

Tensors = dict[str, torch.Tensor]


def read_file(path: Path) -> Any:
    """Return what a ``.safetensors`` file, or one of ``torch.save``, holds; no code of the file is run.

    Raises:
        MissingPath: if it does not exist.
        WeightsError: if it cannot be read, with the reason.
    """
    if not path.is_file():
        raise MissingPath(f"weights file '{path}' does not exist")
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise WeightsError(f"weights file '{path}' is a pointer of Git LFS, not the file: run git lfs pull")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its options so
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the readers
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = reason_of(error)
        if unknown:
            reason = f"it holds a {unknown[1]}, which loading would have to run: save model.state_dict() alone"
        raise WeightsError(f"weights file '{path}' cannot be read: {reason}") from error


@dataclass(frozen=True)
class Place:
    """Weights in a file: the tensors below one of its keys, whose names begin with the same words.

    Attributes:
        keys: the path of keys to them.
        prefix: the beginning of their names, with its dot.
        fitting: how many of them the network has by name.
    """

    keys: tuple[str, ...]
    prefix: str
    fitting: int

    @property
    def name(self) -> str:
        """Return how a user names it: ``state_dict/teacher``; "" where nothing is in front of the weights."""
        return "/".join((*self.keys, *([self.prefix.rstrip(".")] if self.prefix else [])))


def find_weights(path: Path, tree: object, network: nn.Module, named: str = "") -> Tensors:
    """Return the weights of ``network`` in what a file holds, by the network's own names.

    They are those with the most names that the network has, wherever they lie; tensors beside them under the same key
    and prefix are returned too, others (of an optimiser, of a loss) are not.

    Args:
        path: of the file, for messages.
        tree: what `read_file` returns.
        network: the network to be filled.
        named: the `Place.name` of the weights; "" finds them.

    Raises:
        WeightsError: if there are none, or several, saying what the file holds and where weights lie.
    """
    groups = {keys: tensors for keys, tensors in _groups(tree) if tensors}
    expected = network.state_dict().keys()
    places = [place for keys, tensors in groups.items() for place in _places(keys, tensors, expected)]
    most = max((place.fitting for place in places), default=0)
    chosen = [place for place in places if (place.name == named if named else place.fitting == most)]
    if named and not chosen:
        known = ", ".join(sorted(place.name for place in places if place.name and 2 * place.fitting > most)) or "none"
        raise WeightsError(f"weights file '{path}' has no weights of this network under '{named}'; known: {known}")
    if not named and 2 * most < len(expected):
        most_under = f" (under '{chosen[0].name}')" if chosen and chosen[0].name else ""
        raise WeightsError(
            f"weights file '{path}' does not fit: it has {most} of the {len(expected)} tensors of this network"
            f"{most_under}; {_contents(tree)}"
        )
    if len(chosen) > 1:
        names = [place.name or "the file itself" for place in chosen]
        choice = next(place.name for place in chosen if place.name)
        raise WeightsError(
            f"weights file '{path}' holds the weights {len(chosen)} times, under {' and '.join(names)}: "
            f"name one, as in FILE#{choice}"
        )
    (place,) = chosen
    tensors = {key: value for key, value in groups[place.keys].items() if key.startswith(place.prefix)}
    return {key[len(place.prefix) :]: value for key, value in tensors.items()}


def misfit(weights: Tensors, network: nn.Module) -> str:
    """Return the first tensor by which ``weights`` do not fit ``network``, with both shapes and what to do, or ""."""
    expected = network.state_dict()
    for key in sorted(expected.keys() | weights.keys()):
        shape = tuple(weights[key].shape) if key in weights else "missing"
        fitting = tuple(expected[key].shape) if key in expected else "absent"
        if shape != fitting:
            return f"'{key}' is {shape}, expected {fitting}{_advice(weights.get(key), expected.get(key))}"
    return ""


def _advice(tensor: torch.Tensor | None, expected: torch.Tensor | None) -> str:
    """Return what to do about a tensor of another shape, for what people often have; "" for all else."""
    if tensor is None or expected is None or tensor.dim() != expected.dim():
        return ""
    (mine, theirs) = (tuple(tensor.shape), tuple(expected.shape))
    if tensor.dim() == 4 and (mine[0], mine[2:]) == (theirs[0], theirs[2:]) and (mine[1], theirs[1]) == (1, 3):
        return (
            "; it takes images of 1 channel: make the network for 1 and give it to Model.from_module with mean and std "
            "of one value, which shows it grey images"
        )
    if tensor.dim() <= 2 and mine[1:] == theirs[1:] and tensor.is_floating_point():
        return f"; if these are classes, make the network for {mine[0]}"
    return ""


def load_weights(network: nn.Module, path: str | Path, place: str = "") -> tuple[str, ...]:
    """Fill a network with weights from a file of ``torch.save`` or safetensors, wherever they lie in it.

    They are found inside training checkpoints (``{"model": ...}``, ``{"state_dict": ...}``, ``{"model_ema": ...}``) and
    under prefixes (``module.``, ``model.``, ``_orig_mod.``). A position embedding for another square grid is resampled,
    bicubic, as timm does. No code of the file is run.

    Args:
        network: to be filled.
        path: of the file.
        place: where in the file they lie, where it holds several sets: ``model_ema``, ``state_dict/teacher``.

    Returns:
        What was changed to make them fit, in lines; nothing where they fit as they are.

    Raises:
        MissingPath: if the file does not exist.
        WeightsError: if it is damaged, holds no such weights or several, or a tensor does not fit, naming it.

    Examples:
        >>> import torch, invsuite
        >>> trained, fresh = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> torch.save({"state_dict": {f"module.{key}": value for key, value in trained.state_dict().items()}}, "w.pth")
        >>> invsuite.load_weights(fresh, "w.pth")
        ()
        >>> torch.equal(fresh.weight, trained.weight)
        True
    """
    file = Path(path)
    weights = find_weights(file, read_file(file), network, place)
    remarks = []
    for key, expected in network.state_dict().items():
        resampled = _resampled(key, weights.get(key), expected)
        if resampled is not None:
            weights[key], grids = resampled
            remarks.append(f"'{key}' of '{file}' is resampled from {grids}")
    fault = misfit(weights, network)
    if fault:
        raise WeightsError(f"weights file '{file}' does not fit {type(network).__name__}: {fault}")
    network.load_state_dict(weights)
    return tuple(remarks)


def _resampled(key: str, tensor: torch.Tensor | None, expected: torch.Tensor) -> tuple[torch.Tensor, str] | None:
    """Return a position embedding (..., rows, channels) for as many rows as ``expected``, and from which grid to which.

    None for any other tensor, one that fits, or one whose rows are no square grid behind the same rows without a place.
    """
    if tensor is None or "pos" not in key.lower() or tensor.shape == expected.shape:
        return None
    if tensor.dim() != expected.dim() or tensor.dim() not in (2, 3) or tensor.numel() == 0:
        return None
    *leading, rows, channels = tensor.shape
    fitting = expected.shape[-2]
    if (*leading, channels) != (*expected.shape[:-2], expected.shape[-1]) or set(leading) - {1}:
        return None
    sides = [
        (prefix, math.isqrt(rows - prefix), math.isqrt(fitting - prefix))
        for prefix in range(min(rows, fitting, MOST + 1))
    ]
    square = [
        (p, old, new) for p, old, new in sides if old**2 == rows - p and new**2 == fitting - p and min(old, new) > 1
    ]
    if not square:
        return None
    prefix, old, new = square[0]
    flat = tensor.reshape(rows, channels).float()
    grid = flat[prefix:].T.reshape(1, channels, old, old)
    finer = F.interpolate(grid, (new, new), mode="bicubic", antialias=True, align_corners=False)
    whole = torch.cat([flat[:prefix], finer.flatten(2)[0].T])
    return whole.reshape(expected.shape), f"{old}x{old} to {new}x{new} places"


def marked(digest: str, marks: Sequence[object]) -> str:
    """Return the ``digest`` of a file of weights, or another where ``marks`` make it give other representations."""
    return hashlib.sha256(" ".join([digest, *map(str, marks)]).encode()).hexdigest() if marks else digest


def check_finite(network: nn.Module, source: str, infinite: bool = True) -> None:
    """Raise `WeightsError` if a weight of ``network``, which came from ``source``, is not finite, by name.

    Args:
        network: the network. Constants that it keeps as buffers, such as masks of attention, may be infinite.
        source: for the message.
        infinite: whether infinite weights are refused too; else NaN alone, for graphs whose constants are parameters.
    """
    weights = {name for name, _ in network.named_parameters()}
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        strict = infinite and (key in weights or "running_" in key)
        bad = int((~torch.isfinite(value) if strict else torch.isnan(value)).sum())
        if bad:
            raise WeightsError(f"weights of {source}: {bad} of the {value.numel()} values of '{key}' are not finite")


def _groups(tree: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yield every table in ``tree`` by its path of keys, with the tensors right in it by name."""
    if not isinstance(tree, Mapping):
        return
    entries = {key: value for key, value in tree.items() if isinstance(key, str)}
    yield keys, {key.replace(COMPILED, ""): value for key, value in entries.items() if isinstance(value, torch.Tensor)}
    for key, value in entries.items():
        yield from _groups(value, (*keys, key))


def _places(keys: tuple[str, ...], tensors: Tensors, expected: Collection[str]) -> list[Place]:
    """Return the prefixes under which ``tensors`` have names that are ``expected``."""
    fitting: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                fitting["".join(f"{part}." for part in parts[:start])] += 1
    return [Place(keys, prefix, count) for prefix, count in fitting.items()]


def _contents(tree: object) -> str:
    """Return in words what a file holds."""
    if not isinstance(tree, Mapping):
        return f"it holds a {type(tree).__name__}, expected tensors by name"
    counts = [(keys, tensors) for keys, tensors in _groups(tree) if tensors]
    tensors = [f"{len(some)} tensors under '{'/'.join(keys)}' ({min(some)} ...)" for keys, some in counts if keys]
    tensors += [f"{len(some)} tensors ({min(some)} ...)" for keys, some in counts if not keys]
    others = [str(key) for key, value in tree.items() if not isinstance(value, torch.Tensor | Mapping)]
    return f"it holds {', '.join([*tensors, *others][:8]) or 'nothing'}"
