"""The part of an inverse network that ridge regression can solve, so that training starts from a good readout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

GAIN, SHIFT = 1.5, 0.5  # deviations of a random feature's argument and of its bias, for standardised channels


class ClosedFormPath(nn.Module):
    """A readout of each place that is linear in its channels and in ``hidden`` random features of them.

    ``linear(x) + last(gelu(first(x))) + offset``: with ``first`` left as it was drawn, the rest is linear in its
    parameters, and ridge regression finds them (`start_from`; random features of Rahimi & Recht 2007,
    papers.nips.cc/paper/3182). Training moves all of it. Until then it is the identity where channels and outputs are
    as many.

    Takes (B, ..., channels), standardised; gives (B, ..., outputs). With ``places`` the input is (B, places, channels),
    and each place has an offset of its own.

    Attributes:
        solved: whether it starts as ridge regression made it.
    """

    def __init__(self, channels: int, outputs: int, hidden: int = 0, places: int = 1) -> None:
        super().__init__()
        self.solved = False
        self.linear = nn.Linear(channels, outputs, bias=False)
        if channels == outputs:
            nn.init.eye_(self.linear.weight)
        self.offset = nn.Parameter(torch.zeros(places, outputs))
        self.first = self.last = None
        if hidden:
            self.first, self.last = nn.Linear(channels, hidden), nn.Linear(hidden, outputs, bias=False)
            nn.init.normal_(self.first.weight, std=GAIN / channels**0.5)
            nn.init.normal_(self.first.bias, std=SHIFT)
            nn.init.zeros_(self.last.weight)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the output is linear in: (..., channels + hidden)."""
        return x if self.first is None else torch.cat([x, F.gelu(self.first(x))], -1)

    @torch.no_grad()
    def start_from(self, weight: torch.Tensor, mean: torch.Tensor) -> None:
        """Become the readout ``(features(x) - mean) @ weight``.

        Args:
            weight: (channels + hidden, outputs).
            mean: of the features at each place, (places, channels + hidden).
        """
        channels = self.linear.in_features
        self.linear.weight.copy_(weight[:channels].T)
        if self.last is not None:
            self.last.weight.copy_(weight[channels:].T)
        self.offset.copy_(-mean @ weight)
        self.solved = True

    def start_like(self, state: dict[str, torch.Tensor]) -> None:
        """Become what another path was solved to, given its state."""
        self.load_state_dict(state)
        self.solved = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x) + self.offset
        if self.first is not None and self.last is not None:
            out = out + self.last(F.gelu(self.first(x)))
        return out
