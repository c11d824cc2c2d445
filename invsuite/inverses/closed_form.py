"""The part of an inverse network that ridge regression can solve, so that training starts from a good readout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.models.base import Layout

GAIN, SHIFT = 1.5, 0.5  # deviations of a random feature's argument and of its bias, for standardised channels
NEIGHBOURS_UP_TO = 1024  # channels: five times as many features and their products have to be held and solved
DIAGONALS_UP_TO = 256  # channels: nine times as many features
RANK = 128  # principal components of what comes before object queries that a closed form predicts


def start_at_zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Set a layer's weights and biases to zero: what is added to a path beside it then adds nothing at the start."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def readable_grid(source: Layout) -> tuple[int, int] | None:
    """Return the grid on which a path reads each place of ``source`` with its neighbours; None where it is too wide."""
    return source.grid if source.channels <= NEIGHBOURS_UP_TO else None


def with_neighbours(x: torch.Tensor, grid: tuple[int, int], diagonals: bool = False) -> torch.Tensor:
    """Return every place with what is above, below, left and right of it: (B, places, c) to (B, places, 5 c).

    With ``diagonals`` the other four of the square around it follow: (B, places, 9 c). Where a neighbour is beyond the
    border it is the nearest place within. Places ahead of the grid's (prefix tokens) have zeros.
    """
    prefix = x.shape[1] - grid[0] * grid[1]
    places = x[:, prefix:].unflatten(1, grid)
    above, below = (torch.cat(rows, 1) for rows in ((places[:, :1], places[:, :-1]), (places[:, 1:], places[:, -1:])))
    columns = (places, above, below) if diagonals else (places,)
    beside = [side for part in columns for side in (_left_of(part), _right_of(part))]
    around = torch.cat([places, above, below, *beside], -1).flatten(1, 2)
    if not prefix:
        return around
    return torch.cat([F.pad(x[:, :prefix], (0, around.shape[-1] - x.shape[-1])), around], 1)


def _left_of(places: torch.Tensor) -> torch.Tensor:
    return torch.cat([places[:, :, :1], places[:, :, :-1]], 2)


def _right_of(places: torch.Tensor) -> torch.Tensor:
    return torch.cat([places[:, :, 1:], places[:, :, -1:]], 2)


class SolvablePath(nn.Module):
    """A readout that ridge regression can set.

    Attributes:
        solved: whether ridge regression set its initial values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.solved = False

    def start_like(self, state: dict[str, torch.Tensor]) -> None:
        """Become what another path was solved to, given its state."""
        self.load_state_dict(state)
        self.solved = True


class ClosedFormPath(SolvablePath):
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
        diagonals: whether the four diagonal neighbours are read too.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        hidden: int = 0,
        places: int = 1,
        grid: tuple[int, int] | None = None,
        diagonals: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.diagonals = grid, diagonals
        self.linear = nn.Linear(channels * (1 if grid is None else 9 if diagonals else 5), outputs, bias=False)
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
        return x if self.grid is None else with_neighbours(x, self.grid, self.diagonals)

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

    @torch.no_grad()
    def leave_out(self) -> None:
        """Give zeros from now on, in training too: all is left to what stands beside the path."""
        for parameter in self.parameters():
            parameter.zero_()
            parameter.requires_grad_(False)
        self.solved = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the readout (B, places, outputs)."""
        out: torch.Tensor = self.linear(self.around(x)) + self.offset
        if self.first is not None and self.last is not None:
            out = out + self.last(F.gelu(self.first(x)))
        return out


class QueryPath(SolvablePath):
    """A readout of all object queries together: linear, onto the principal components of what comes before them.

    Queries have no place, so that one map of all their values predicts the whole representation before; its rank is
    bounded by the components, `RANK` at most. Until ridge regression solves it (`start_from`) it is zero, the mean of
    standardised values.

    Takes (B, count, channels), standardised; gives (B, *target.shape).

    Args:
        source: layout of the queries.
        target: layout of what comes before them.
    """

    def __init__(self, source: Layout, target: Layout) -> None:
        super().__init__()
        self.target = target
        rank = min(RANK, source.values, target.values)
        self.linear = nn.Linear(source.values, rank)
        start_at_zero(self.linear)
        self.components = nn.Parameter(torch.randn(rank, target.values) / target.values**0.5)

    @property
    def solution(self) -> list[torch.Tensor]:
        """Return the parameters that ridge regression sets: all."""
        return list(self.parameters())

    @torch.no_grad()
    def start_from(self, components: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Become the readout ``(x @ weight + bias) @ components``.

        Args:
            components: (rank, values of the target).
            weight: (values of the source, rank).
            bias: (rank,).
        """
        self.components.copy_(components)
        self.linear.weight.copy_(weight.T)
        self.linear.bias.copy_(bias)
        self.solved = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the readout (B, *target.shape)."""
        values: torch.Tensor = self.linear(x.flatten(1)) @ self.components
        return values.unflatten(1, self.target.shape)
