"""A network's own forward, started and stopped at the borders of its modules.

A chain needs pieces of a forward function that a library wrote as one. Writing the pieces out again means code for
every family, and a place for mistakes. Here the network's own code runs every time: up to a border, where it is left
early; from a border on, where every module before the border answers from a recording, which costs nothing, and the
border's tensors are put in where they belong. Code between modules (permutes, class tokens, position codes that are
passed along) runs as it is.

Such a piece depends on its tensors alone only if nothing else crosses the border. That is a property of the network:
whoever cuts one must try it (`invsuite.models.boundaries` does, at load; tests do for the families that
`invsuite.models.transformers` names).
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

from invsuite.models.arrangement import Arrangement


@dataclass(frozen=True)
class Call:
    """One call of the module at ``path`` in a forward, with the ticks at which it ``began`` and ``ended``."""

    path: str
    began: int
    ended: int

    def inside(self, other: Call) -> bool:
        """Tell whether this call happened within ``other``."""
        return other.began < self.began and self.ended < other.ended


@dataclass(frozen=True)
class Border:
    """A place in the forward: just ``after`` module ``path`` answered, or just before it is called.

    ``leaves`` are the positions of the border's tensors among those of the answer, or of the arguments.
    """

    path: str
    after: bool = True
    leaves: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Cut:
    """A stage in the network.

    Attributes:
        border: where it is.
        arrangement: how the tensors there hold the representation.
        blocks: how many transformer blocks lie between it and the cut before.
    """

    border: Border
    arrangement: Arrangement
    blocks: int = 0


class _Reached(BaseException):
    """Carries what is at a border out of the forward; no ``except Exception`` on the way takes it for an error."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


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
    """Return the tensors in a module's answer or arguments, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def watch_calls(
    network: nn.Module, images: torch.Tensor, see: Callable[[str, Any], None] = lambda path, answer: None
) -> list[Call]:
    """Return every module's first call in one forward over ``images`` (B, C, H, W), in the order in which they ended.

    Args:
        network: in eval mode.
        images: as the network takes them.
        see: a function of the path of each and its answer, which the network may go on to change in place. All answers
            of a large network together are tens of gigabytes.
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
        def hook(module: nn.Module, args: Any, answer: Any) -> None:
            if path not in ended:
                ended.add(path)
                calls.append(Call(path, began[path], next(ticks)))
                see(path, answer)

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
    """Return the first answers of the modules ``paths`` in one forward over ``images`` (B, C, H, W)."""
    answers: dict[str, Any] = {}

    def copy(path: str, answer: Any) -> None:
        if path in paths:
            answers[path] = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, answer)

    watch_calls(network, images, copy)
    return answers


def reach(network: nn.Module, images: torch.Tensor, border: Border) -> Any:
    """Return the answer of the border's module, or the (args, kwargs) it is called with, for ``images``."""
    module = network.get_submodule(border.path)
    with _answering({module: _stopping(module.forward, border)}):
        try:
            network(images)
        except _Reached as reached:
            return reached.tree
    raise RuntimeError(f"the forward of {type(network).__name__} never comes to module '{border.path}'")


class PartialForward:
    """A network with a forward that starts and stops at borders. Not for use by several threads at once.

    Args:
        network: in eval mode; its modules are as they were after every run.
        images: some (B, C, H, W), as it takes them; what modules before a border answer to the first is kept.
        calls: of one forward, as `watch_calls` returns them.
        borders: where runs will start.
        contiguous: whether representations are laid out anew in memory, as rows follow one another; else they stay as
            the network laid them out. Sums add in the order of memory, so this changes last digits.
        answer: a function of the network's output that returns what is meant of it.
    """

    def __init__(
        self,
        network: nn.Module,
        images: torch.Tensor,
        calls: Sequence[Call],
        borders: Sequence[Border],
        contiguous: bool = True,
        answer: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        self.network, self.answer = network, answer
        self._contiguous = contiguous
        self.shape = tuple(images.shape[1:])
        self._past = {border: _outermost_before(calls, border) for border in borders}
        paths = {path for past in self._past.values() for path in past}
        answers = record_answers(network, images, paths) if paths else {}
        self._answers = {path: tree_map(partial(_one_image, len(images)), a) for path, a in answers.items()}
        self._device: torch.device | None = None  # where the answers are known to be

    def piece(self, start: Cut | None, stop: Cut | None) -> Callable[[torch.Tensor], Any]:
        """Return the function from the representation at ``start`` to that at ``stop``.

        None stands for the network's input and for its output.
        """

        def run(tensor: torch.Tensor) -> Any:
            tensors = [tensor] if start is None else start.arrangement.write(tensor)
            output = self.run(tensors, start.border if start else None, stop.border if stop else None)
            if stop is None:
                return output
            representation = stop.arrangement.read(output)
            return representation.contiguous() if self._contiguous else representation

        return run

    def run(self, tensors: Sequence[torch.Tensor], start: Border | None, stop: Border | None) -> Any:
        """Run from the tensors at ``start`` (None: the network's input) to ``stop``.

        Differentiable in ``tensors``.

        Returns:
            The list of the tensors at ``stop``; the network's answer where that is None.
        """
        functions: dict[nn.Module, Callable[..., Any]] = {}
        images = tensors[0]
        if start is not None:
            functions = self._skipping([tensor.clone() for tensor in tensors], start)  # the network may work in place
            images = images.new_zeros(len(images), *self.shape)
        if stop is None:
            with _answering(functions):
                return self.answer(self.network(images))
        with _answering(functions):
            tensors = tensors_of(reach(self.network, images, stop))
        return [tensors[leaf] for leaf in stop.leaves]

    def _skipping(self, tensors: Sequence[torch.Tensor], start: Border) -> dict[nn.Module, Callable[..., Any]]:
        """Return what modules answer so that the forward starts at ``start`` with ``tensors``."""
        functions: dict[nn.Module, Callable[..., Any]] = {}
        images, device = len(tensors[0]), tensors[0].device
        if self._device != device:
            self._answers, self._device = tree_map(partial(_moved, device), self._answers), device
        for path in self._past[start]:
            module = self.network.get_submodule(path)
            answer = tree_map(partial(_for_batch, images), self._answers[path])
            if start.after and path == start.path:
                answer = _replaced(answer, start.leaves, tensors)
            functions[module] = _playing(answer, module.forward)
        if not start.after:
            module = self.network.get_submodule(start.path)
            functions[module] = _fed(module.forward, start.leaves, tensors)
        return functions


def _outermost_before(calls: Sequence[Call], border: Border) -> list[str]:
    """Return the modules that were done at ``border``, without those that another of them called."""
    own = next(call for call in calls if call.path == border.path)
    tick = own.ended if border.after else own.began
    past = [call for call in calls if call.ended <= tick]
    inner, latest = set[str](), -1
    for call in sorted(past, key=lambda call: call.began):
        if call.ended < latest:  # one that began before ended after it
            inner.add(call.path)
        latest = max(latest, call.ended)
    return [call.path for call in past if call.path not in inner]


def _playing(answer: Any, own: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward that gives ``answer`` to the first call and its ``own`` to later ones."""
    answers = [answer]

    def forward(*args: Any, **kwargs: Any) -> Any:
        return answers.pop() if answers else own(*args, **kwargs)

    return forward


def _fed(own: Callable[..., Any], leaves: Sequence[int], tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Return a forward that answers the first call as if it had been called with ``tensors``."""
    waiting = [tensors]

    def forward(*args: Any, **kwargs: Any) -> Any:
        if waiting:
            args, kwargs = _replaced((args, kwargs), leaves, waiting.pop())
        return own(*args, **kwargs)

    return forward


def _stopping(own: Callable[..., Any], stop: Border) -> Callable[..., Any]:
    """Return a forward that leaves the network's with what is at the border."""

    def forward(*args: Any, **kwargs: Any) -> NoReturn:
        raise _Reached(own(*args, **kwargs) if stop.after else (args, kwargs))

    return forward


def _replaced(tree: Any, leaves: Sequence[int], tensors: Sequence[torch.Tensor]) -> Any:
    """Return ``tree`` with other tensors at the positions ``leaves`` among its tensors."""
    entries, spec = tree_flatten(tree)
    places = [place for place, entry in enumerate(entries) if isinstance(entry, torch.Tensor)]
    for leaf, tensor in zip(leaves, tensors, strict=True):
        entries[places[leaf]] = tensor
    return tree_unflatten(entries, spec)


@dataclass(frozen=True)
class _OneImage:
    """The part of a recorded answer that stands for one image (1, ...)."""

    tensor: torch.Tensor


def _one_image(batch: int, leaf: Any) -> Any:
    """Return the first image's part of a recorded tensor whose first axis is as long as the batch.

    Others are constants, returned as they are.
    """
    if isinstance(leaf, torch.Tensor) and leaf.dim() and len(leaf) == batch:
        return _OneImage(leaf[:1].clone())
    return leaf


def _moved(device: torch.device, leaf: Any) -> Any:
    if isinstance(leaf, _OneImage):
        return _OneImage(leaf.tensor.to(device))
    return leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf


def _for_batch(images: int, leaf: Any) -> Any:
    """Return a recorded leaf for so many images, without a copy."""
    return leaf.tensor.expand(images, *leaf.tensor.shape[1:]) if isinstance(leaf, _OneImage) else leaf
