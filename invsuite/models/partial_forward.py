"""A network's own forward, started and stopped at the borders of its modules.

A chain needs pieces of a forward function that a library wrote as one. Writing the pieces out again means code for
every family, and a place for mistakes. Here the network's own code runs every time: up to a border it is left early;
from a border on it runs with every module before the border answering from a recording, which costs nothing, and
the border's tensor put in where it belongs. Code between modules (permutes, class tokens, position codes that are
passed along) runs as it is.

Such a piece depends on its tensor alone only if nothing else crosses the border. That is a property of the network:
whoever cuts one must try it (`invsuite.models.boundaries` does, at load).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward: its ``path`` in the network, and the ticks at which it ``began`` and
    ``ended``."""

    path: str
    began: int
    ended: int

    def inside(self, other: Call) -> bool:
        """Whether this call was made by ``other``."""
        return other.began < self.began and self.ended < other.ended


@dataclass(frozen=True)
class Border:
    """A place in the forward: just ``after`` module ``path`` answered, or just before it is called (its input).

    ``leaf`` is the position of the border's tensor among the tensors of the answer, or of the arguments.
    """

    path: str
    after: bool
    leaf: int = 0


class _Reached(BaseException):
    """Carries a border's tensor out of the forward; no ``except Exception`` on the way takes it for an error."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


@contextmanager
def _answering(functions: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules answer by other functions for a while."""
    before = {module: module.__dict__.get("forward") for module in functions}
    for module, function in functions.items():
        module.__dict__["forward"] = function
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """The tensors in what a module was given or gave back, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def watch_calls(network: nn.Module, images: torch.Tensor, see: Callable[[str, Any], None]) -> list[Call]:
    """Every module's first call in one forward over ``images`` (B, C, H, W), in the order in which they ended.

    Args:
        see: is shown the path of each and its answer, which the network may go on to change in place. All answers of a
            large network together are tens of gigabytes.
    """
    calls: list[Call] = []
    began: dict[str, int] = {}
    ended: set[str] = set()
    ticks = itertools.count()

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            began.setdefault(path, next(ticks))

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if path not in ended:
                ended.add(path)
                calls.append(Call(path, began[path], next(ticks)))
                see(path, output)

        return hook

    handles = []
    for path, module in network.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave(path)))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def record_answers(network: nn.Module, images: torch.Tensor, paths: Container[str]) -> dict[str, Any]:
    """What the modules ``paths`` answer at first in one forward over ``images`` (B, C, H, W)."""
    answers: dict[str, Any] = {}

    def copy(path: str, output: Any) -> None:
        if path in paths:
            answers[path] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, output)

    watch_calls(network, images, copy)
    return answers


class Resumable:
    """``network`` with a forward that starts and stops at borders. Not for use by several threads at once.

    Args:
        network: in eval mode; its modules are as they were after every run.
        images: some (B, C, H, W), as it takes them; what modules before a border answer to the first is kept.
        calls: of one forward, as `watch_calls` gives them.
        borders: where runs will start.
    """

    def __init__(
        self,
        network: nn.Module,
        images: torch.Tensor,
        calls: Sequence[Call],
        borders: Sequence[Border],
    ) -> None:
        self.network = network
        self.shape = tuple(images.shape[1:])
        self._past = {border: _outermost_before(calls, border) for border in borders}
        wanted = {path for paths in self._past.values() for path in paths}
        answers = record_answers(network, images, wanted) if wanted else {}
        self._answers = {path: tree_map(partial(_one_image, len(images)), a) for path, a in answers.items()}
        self._device: torch.device | None = None  # where the answers are known to be

    def run(self, tensor: torch.Tensor, start: Border | None, stop: Border | None) -> Any:
        """From the tensor at ``start`` (None: the network's input) to the tensor at ``stop`` (None: its output).

        Differentiable in ``tensor``.
        """
        functions: dict[nn.Module, Callable[..., Any]] = {}
        given = tensor
        if start is not None:
            functions = self._skipping(tensor.clone(), start)  # the network may work in place
            given = tensor.new_zeros(len(tensor), *self.shape)
        if stop is not None:
            module = self.network.get_submodule(stop.path)
            functions[module] = _stopping(functions.get(module, module.forward), stop)
        with _answering(functions):
            try:
                return self.network(given)
            except _Reached as reached:
                return reached.tensor

    def _skipping(self, tensor: torch.Tensor, start: Border) -> dict[nn.Module, Callable[..., Any]]:
        """What modules answer so that the forward starts at ``start`` with ``tensor``."""
        functions: dict[nn.Module, Callable[..., Any]] = {}
        if self._device != tensor.device:
            self._answers, self._device = tree_map(partial(_moved, tensor.device), self._answers), tensor.device
        for path in self._past[start]:
            module = self.network.get_submodule(path)
            answer = tree_map(partial(_for_batch, len(tensor)), self._answers[path])
            if start.after and path == start.path:
                answer = _replaced(answer, start.leaf, tensor)
            functions[module] = _playing(answer, module.forward)
        if not start.after:
            module = self.network.get_submodule(start.path)
            functions[module] = _fed(module.forward, start.leaf, tensor)
        return functions


def _outermost_before(calls: Sequence[Call], border: Border) -> list[str]:
    """Modules that were done at ``border``, without those that another of them called."""
    own = next(call for call in calls if call.path == border.path)
    reached = own.ended if border.after else own.began
    past = [call for call in calls if call.ended <= reached]
    return [call.path for call in past if not any(call.inside(other) for other in past)]


def _playing(output: Any, own: Callable[..., Any]) -> Callable[..., Any]:
    """Answers ``output`` to the first call and by itself to later ones."""
    answers = [output]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return answers.pop() if answers else own(*args, **kwargs)

    return forward


def _fed(own: Callable[..., Any], leaf: int, tensor: torch.Tensor) -> Callable[..., Any]:
    """Answers the first call as if it had been given ``tensor``."""
    waiting = [tensor]

    def forward(*args: Any, **kwargs: Any) -> Any:
        if waiting:
            args, kwargs = _replaced((args, kwargs), leaf, waiting.pop())
        return own(*args, **kwargs)

    return forward


def _stopping(own: Callable[..., Any], stop: Border) -> Callable[..., Any]:
    """Leaves the forward with the border's tensor."""

    def forward(*args: Any, **kwargs: Any) -> NoReturn:
        found = own(*args, **kwargs) if stop.after else (args, kwargs)
        raise _Reached(tensors_of(found)[stop.leaf])

    return forward


def _replaced(tree: Any, leaf: int, tensor: torch.Tensor) -> Any:
    leaves, spec = tree_flatten(tree)
    where = [i for i, found in enumerate(leaves) if isinstance(found, torch.Tensor)][leaf]
    leaves[where] = tensor
    return tree_unflatten(leaves, spec)


@dataclass(frozen=True)
class _OneImage:
    """The part of a recorded answer that stands for one image (1, ...)."""

    tensor: torch.Tensor


def _one_image(batch: int, leaf: Any) -> Any:
    """Of a recorded tensor whose first axis is as long as the batch, the first image's; others are constants."""
    if isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == batch:
        return _OneImage(leaf[:1].clone())
    return leaf


def _moved(device: torch.device, leaf: Any) -> Any:
    if isinstance(leaf, _OneImage):
        return _OneImage(leaf.tensor.to(device))
    return leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf


def _for_batch(images: int, leaf: Any) -> Any:
    """A recorded leaf for so many images, without a copy."""
    return leaf.tensor.expand(images, *leaf.tensor.shape[1:]) if isinstance(leaf, _OneImage) else leaf
