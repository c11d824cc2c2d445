"""The core of the prediction stage: class and box per object back to the object queries that gave them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from invsuite.models.base import Layout

ClassCode = Literal["one-hot", "softmax"]


class PredictionsToQueries(nn.Module):
    """An MLP per prediction, from its class and, for a detector, its box (cx, cy, w, h) to an object query.

    ``code`` says what of the class logits is read. ``one-hot`` is the decision alone, the class with the greatest
    logit (Rathjens et al. 2024, sec. 3): what anyone who sees the model's answer has. ``softmax`` is every class's
    probability: what the stage itself still holds, including how sure the model was. No-object is a class like the
    others. A learned code per query tells the queries apart, which share one MLP.

    Takes the model's own logits and boxes (B, count, classes + boxes); gives (B, count, target.channels).
    """

    def __init__(self, source: Layout, target: Layout, width: int, code: ClassCode) -> None:
        super().__init__()
        from timm.layers import Mlp

        self.classes = source.channels - source.boxes
        self.code = code
        self.slots = nn.Parameter(torch.zeros(1, source.count, target.channels))
        self.body = Mlp(source.channels, 2 * max(width, target.channels), target.channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return queries (B, count, target.channels)."""
        logits, boxes = x[..., : self.classes], x[..., self.classes :]
        if self.code == "one-hot":
            classes = F.one_hot(logits.argmax(-1), self.classes).to(x.dtype)
        else:
            classes = logits.softmax(-1)
        queries: torch.Tensor = self.body(torch.cat([classes, boxes], -1)) + self.slots
        return queries
