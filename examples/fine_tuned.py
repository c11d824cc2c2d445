"""Models that were trained on from the bundled ViT, for ``module:examples/fine_tuned.py:FUNCTION``.

    invsuite transfer bundled:vit/layerwise --onto module:examples/fine_tuned.py:same_task

says what an inverse of the model before is worth on the model after.
"""

import copy

import torch
from torch.nn.functional import cross_entropy

import invsuite

STEPS, BATCH = 150, 16


def same_task() -> invsuite.Model:
    """Return the bundled ViT after further steps on the task that it knows: the shape of the largest object."""
    return trained_on(rate=1e-4, colours=0.0)


def colour_blind() -> invsuite.Model:
    """Return it after learning that images with shuffled colour channels have the same tokens at the last block."""
    return trained_on(rate=1e-3, colours=10.0)


def trained_on(rate: float, colours: float) -> invsuite.Model:
    model = invsuite.load_model("bundled:vit")
    scenes = invsuite.open_images("scenes", model.image_size, seed=21, count=640)
    images = scenes.images(slice(None))
    labels = torch.tensor([max(s.instances, key=lambda instance: instance.area).label for s in scenes.samples()])
    network = copy.deepcopy(model.network).requires_grad_(True).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        order = torch.randperm(3, generator=generator)
        shown = torch.cat([images[chosen], images[chosen][:, order]])
        tokens = network.forward_features((shown - 0.5) / 0.25)  # the normalisation of this model
        plain, recoloured = tokens.chunk(2)
        loss = cross_entropy(network.forward_head(plain), labels[chosen])
        if colours:
            loss = loss + colours * (plain - recoloured).square().mean() / tokens.detach().var((0, 1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.rebuild(network.eval())


if __name__ == "__main__":
    print(__doc__)
