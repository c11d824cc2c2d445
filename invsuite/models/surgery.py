"""Running a part of a library's network by its own forward: stand-ins before the part, a stop behind it.

Nothing of the network is changed or copied but the modules on the way to what is replaced; weights are shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def graft(network: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A view of ``network`` in which the modules at dotted paths are others; all else is shared with it.

    Raises:
        AttributeError: for a path that does not exist.
    """
    view = copy.copy(network)
    view._modules = dict(network._modules)
    nested: dict[str, dict[str, nn.Module]] = {}
    for path, module in parts.items():
        head, _, rest = path.partition(".")
        if head not in view._modules:
            raise AttributeError(f"{type(network).__name__} has no module '{head}'")
        if rest:
            nested.setdefault(head, {})[rest] = module
        else:
            view._modules[head] = module
    for head, inner in nested.items():
        child = view._modules[head]
        assert child is not None
        view._modules[head] = graft(child, inner)
    return view


class Reached(Exception):
    """What a `Stop` found. Not an error: it carries the answer out of a library's forward."""

    def __init__(self, output: Any) -> None:
        super().__init__("the module where this forward was to end has run")
        self.output = output


class Stop(nn.Module):
    """Runs a module and ends the whole forward with its output; attributes are the module's own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise Reached(self.module(*args, **kwargs))


class StandIn(nn.Module):
    """A function in the place of a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def reach(view: nn.Module, **kwargs: torch.Tensor) -> Any:
    """Run ``view`` up to its `Stop` and return what that found."""
    try:
        view(**kwargs)
    except Reached as found:
        return found.output
    raise RuntimeError(f"the forward of {type(view).__name__} never came to the module where it was to end")
