"""A model of your own: `invsuite bench --plugin model.py --models mylab:tiny`."""

import torch
from torch import nn

from invsuite import Component, Layout, Model, Prediction, WeightsOrigin, register


class Patches(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:  # images in [0, 1]: normalisation belongs in here
        return super().forward((images - 0.5) / 0.25).flatten(2).transpose(1, 2)


class Head(nn.Linear):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens.mean(1, keepdim=True))


@register.model("mylab")
def load(source: str, name: str) -> Model:
    """A patch embedding, one transformer block and a classifier of 10 classes, untrained."""
    torch.manual_seed(0)  # read your checkpoint here, with safetensors or weights_only=True
    embed, head = Patches(3, 48, 8, stride=8), Head(48, 10)
    block = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, norm_first=True)
    network = nn.Sequential(embed, block, head)
    tokens = Layout("tokens", channels=48, grid=(12, 12), count=144)
    chain = [
        Component("embed", embed, tokens),
        Component("block01", block, tokens, blocks=1),
        Component("head", head, Layout("predictions", channels=10, count=1)),
    ]
    origin = WeightsOrigin(f"mylab {source}, seed 0", "the file's SHA-256", "Apache-2.0", random=True)
    reference = lambda images: Prediction(network(images).squeeze(1))  # noqa: E731
    split = lambda tensor: Prediction(tensor.squeeze(1))  # noqa: E731
    return Model(name, network, chain, (96, 96), "classification", origin, split, reference)
