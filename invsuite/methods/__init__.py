"""Methods of inversion. A new one is one new file and one line here."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from invsuite.errors import UsageError, unknown_name
from invsuite.methods.base import Method
from invsuite.methods.exact import Exact, FixedPoint
from invsuite.methods.floors import Mean, Nearest
from invsuite.methods.hybrid import ModularCycle, ModularFinetuned, ModularNoised, ModularPredecessor, SharedChain
from invsuite.methods.networks import Layerwise, Modular
from invsuite.methods.optimisation.presets import (
    DeepImagePrior,
    Fourier,
    Mahendran2015,
    Mahendran2016,
    Optimisation,
    PlugIn,
)
from invsuite.methods.oracles import Bicubic, MeanColour, RandomWeights
from invsuite.methods.ridge import Ridge
from invsuite.methods.training.engine import Recipe

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        *(Mean, MeanColour, Nearest, Bicubic, RandomWeights),
        *(Ridge, Exact, FixedPoint),
        *(Optimisation, Mahendran2015, Mahendran2016, PlugIn, Fourier, DeepImagePrior),
        *(Layerwise, Modular, ModularFinetuned, ModularCycle, ModularNoised, ModularPredecessor, SharedChain),
    )
}


def make_method(kind: str, params: dict[str, Any]) -> Method:
    """A method by registry name with parameters as a suite file gives them.

    Raises:
        UsageError: for an unknown method or parameter, listing what exists.
    """
    if kind not in METHODS:
        raise unknown_name("method", kind, METHODS)
    cls = METHODS[kind]
    return _build(cls, params, f"method '{kind}'")


def _build(cls: type[Any], params: dict[str, Any], what: str) -> Any:
    known = {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known:
            raise unknown_name(f"parameter of {what}", key, known)
        if key == "recipe":
            value = _build(Recipe, value, f"the recipe of {what}")
        elif type(value) is not type(_default(known[key])) and not (
            type(value) is int and isinstance(_default(known[key]), float)
        ):
            raise UsageError(f"parameter '{key}' of {what}: expected {known[key].type}, got {value!r}")
        values[key] = value
    return cls(**values)


def _default(spec: Any) -> Any:
    return spec.default if spec.default is not MISSING else spec.default_factory()
