"""ONNX files with a card that names their stages; the packages for them are optional, and imported by `load`."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

from invsuite._system.files import expand_path
from invsuite._system.needs import Need, path_need
from invsuite.errors import Unavailable
from invsuite.models.base import Model, WeightsOrigin
from invsuite.registry import register

PACKAGES = ("onnx", "onnxruntime")


def needs(source: str) -> tuple[Need, ...]:
    """Return the need for the file."""
    return (path_need("model", expand_path(source.partition("@")[0])),)


@register.model("onnx", stages="those that the card names, prediction", needs=needs)
def load(source: str, name: str) -> Model:
    """Load an ONNX file (opset 13 or later) as a frozen, differentiable chain.

    ``FILE.onnx`` has a card that names its stages beside it (``FILE.toml``); ``FILE.onnx@CARD.toml`` names another.
    ``$NAME`` in a path is an environment variable.

    Raises:
        Unavailable: if the file or one of the `PACKAGES` is not there.
        WeightsError: if the file is damaged.
        UsageError: for an operator that is not supported, no card, or a card that does not fit.
    """
    absent = [package for package in PACKAGES if find_spec(package) is None]
    if absent:
        raise Unavailable(f"'onnx:{source}' needs {' and '.join(absent)}: pip install 'invsuite[onnx]'")
    from invsuite.models.onnx.card import find_card
    from invsuite.models.onnx.chain import onnx_chain
    from invsuite.models.onnx.graph import OnnxGraph

    file, _, named = source.partition("@")
    path = expand_path(file)
    graph = OnnxGraph(path)
    card = find_card(path, named)
    origin = WeightsOrigin(f"onnx {path.name}", hashlib.sha256(path.read_bytes()).hexdigest(), card.licence)
    return onnx_chain(name, graph, card, origin)
