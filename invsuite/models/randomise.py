"""Fresh random weights for a trained network, whatever library it comes from."""

from __future__ import annotations

import torch
from torch import nn

BARE_STD = 0.02  # of parameters that belong to no layer (class token, position embedding), as ViTs are initialised


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Re-initialise every parameter and running statistic of ``network`` in place; the global generator is untouched.

    Layers are reset by their own ``reset_parameters`` (PyTorch's initialisation; timm's LayerScale has one too).
    Normalisations that keep their affine part or statistics as buffers (frozen batch normalisation) become the
    identity. Other parameters - tokens, position embeddings, queries - are drawn from N(0, 0.02^2), cut at two
    deviations.

    Args:
        network: on the CPU, so that a seed means the same on every machine.
        seed: of all draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        done: set[int] = set()
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                done |= {id(p) for p in module.parameters()}
            _reset_statistics(module)
        for parameter in network.parameters():
            if id(parameter) not in done:
                nn.init.trunc_normal_(parameter, std=BARE_STD, a=-2 * BARE_STD, b=2 * BARE_STD)


def _reset_statistics(module: nn.Module) -> None:
    """Set the running mean to 0, the variance to 1, and an affine part kept as buffers to gain 1 and offset 0."""
    buffers = dict(module.named_buffers(recurse=False))
    if "running_mean" not in buffers:
        return
    for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0)):
        if buffers.get(name) is not None:
            buffers[name].fill_(value)
