"""The part of an inverse network that ridge regression can solve, so that training starts from a good readout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.models.base import Layout

GAIN, SHIFT = 1.5, 0.5  # deviations of a random feature's argument and of its bias, for standardised channels
NEIGHBOURS_UP_TO = 1024  # channels: five times as many features and their products have to be held and solved


def read_neighbours(source: Layout) -> tuple[int, int] | None:
    """Return the grid on which a path reads each place of ``source`` with its neighbours; None where it is too wide."""
    return source.grid if source.channels <= NEIGHBOURS_UP_TO else None


def with_neighbours(x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return every place with what is above, below, left and right of it: (B, places, c) to (B, places, 5 c).

    Where that is beyond the border it is the place itself. Places ahead of the grid's (prefix tokens) have zeros.
    """
    prefix = x.shape[1] - grid[0] * grid[1]
    places = x[:, prefix:].unflatten(1, grid)
    above = torch.cat([places[:, :1], places[:, :-1]], 1)
    below = torch.cat([places[:, 1:], places[:, -1:]], 1)
    left = torch.cat([places[:, :, :1], places[:, :, :-1]], 2)
    right = torch.cat([places[:, :, 1:], places[:, :, -1:]], 2)
    around = torch.cat([places, above, below, left, right], -1).flatten(1, 2)
    if not prefix:
        return around
    return torch.cat([F.pad(x[:, :prefix], (0, around.shape[-1] - x.shape[-1])), around], 1)


class ClosedFormPath(nn.Module):
    """A readout of each place: linear in its channels, its neighbours' and ``hidden`` random features of its own.

    ``linear(around(x)) + last(gelu(first(x))) + offset``: with ``first`` left as it was drawn, the rest is linear in
    its parameters, and ridge regression finds them (`start_from`; random features of Rahimi & Recht 2007,
    papers.nips.cc/paper/3182). Training moves all of it. Until then it is the identity where channels and outputs are
    as many.

    Takes (B, places, channels), standardised; gives (B, places, outputs).

    Args:
        channels: per place.
        outputs: per place.
        hidden: random features per place.
        places: 1 for one offset, or the number of places for one each.
        grid: (height, width) of the places, prefix tokens aside, to read each with its four neighbours
            (`with_neighbours`); None reads each alone.

    Attributes:
        solved: whether ridge regression set its initial values.
    """

    def __init__(
        self, channels: int, outputs: int, hidden: int = 0, places: int = 1, grid: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.solved = False
        self.grid = grid
        self.linear = nn.Linear(channels * (5 if grid else 1), outputs, bias=False)
        if channels == outputs:
            nn.init.eye_(self.linear.weight)
        self.offset = nn.Parameter(torch.zeros(places, outputs))
        self.first = self.last = None
        if hidden:
            self.first, self.last = nn.Linear(channels, hidden), nn.Linear(hidden, outputs, bias=False)
            nn.init.normal_(self.first.weight, std=GAIN / channels**0.5)
            nn.init.normal_(self.first.bias, std=SHIFT)
            nn.init.zeros_(self.last.weight)

    @property
    def solution(self) -> list[torch.Tensor]:
        """Return the parameters that ridge regression sets: all but the random features."""
        parameters = [self.linear.weight, self.offset]
        return parameters if self.last is None else [*parameters, self.last.weight]

    def around(self, x: torch.Tensor) -> torch.Tensor:
        """Return what ``linear`` reads of (B, places, channels)."""
        return x if self.grid is None else with_neighbours(x, self.grid)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the output is linear in: (B, places, all that ``linear`` and ``last`` read)."""
        around = self.around(x)
        return around if self.first is None else torch.cat([around, F.gelu(self.first(x))], -1)

    @torch.no_grad()
    def start_from(self, weight: torch.Tensor, mean: torch.Tensor) -> None:
        """Become the readout ``(features(x) - mean) @ weight``.

        Args:
            weight: (features, outputs).
            mean: of the features at each place, (places, features).
        """
        width = self.linear.in_features
        self.linear.weight.copy_(weight[:width].T)
        if self.last is not None:
            self.last.weight.copy_(weight[width:].T)
        self.offset.copy_(-mean @ weight)
        self.solved = True

    def start_like(self, state: dict[str, torch.Tensor]) -> None:
        """Become what another path was solved to, given its state."""
        self.load_state_dict(state)
        self.solved = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the readout (B, places, outputs)."""
        out: torch.Tensor = self.linear(self.around(x)) + self.offset
        if self.first is not None and self.last is not None:
            out = out + self.last(F.gelu(self.first(x)))
        return out
