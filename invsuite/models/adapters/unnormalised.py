"""Models of other adapters, fed with images in [0, 1] as they are, without their checkpoint's normalisation."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from invsuite._system.needs import Need
from invsuite.errors import UsageError
from invsuite.models.base import UNNORMALISED, Model, Normalise
from invsuite.models.load import load_model, name_of, split_source
from invsuite.registry import HubWeights, register


def hub_weights(source: str) -> HubWeights | None:
    """Return the hub repository of the model itself."""
    adapter, name = split_source(source)
    return adapter.hub(name)


def inner_needs(source: str) -> tuple[Need, ...]:
    """Return what else the model itself needs."""
    adapter, name = split_source(source)
    return adapter.needs(name)


def load_random(source: str, name: str, seed: int) -> Model:
    """Return the architecture with random weights."""
    return without_normalisation(load_model(source, name, random_weights=True))


@register.model("unnormalised", stages="those of the model", hub=hub_weights, needs=inner_needs, random=load_random)
def load(source: str, name: str) -> Model:
    """Load ``ADAPTER:NAME`` without its normalisation: how some papers fed their models, against the checkpoint.

    Raises:
        UsageError: for a model that does not normalise, or whatever its adapter raises.
    """
    return without_normalisation(load_model(source, name or name_of(source)))


def without_normalisation(model: Model) -> Model:
    """Return ``model``, changed so that it takes images in [0, 1] as its network's input.

    Raises:
        UsageError: if nothing in its chain normalises.
    """
    parts = [part for c in model.components for part in c.module.modules() if isinstance(part, Normalise)]
    if not parts:
        raise UsageError(f"model '{model.name}' does not normalise images: load it without 'unnormalised:'")
    for part in parts:
        part.mean.zero_()
        part.std.fill_(1)
    origin, rebuild = model.origin, model.rebuild
    model.origin = replace(
        origin,
        source=f"{origin.source}, fed without normalisation",
        sha256=hashlib.sha256(f"{origin.sha256} unnormalised".encode()).hexdigest(),  # it gives other representations
        normalisation=UNNORMALISED,
    )
    if rebuild is not None:
        model.rebuild = lambda network: without_normalisation(rebuild(network))
    return model
