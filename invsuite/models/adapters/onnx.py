"""ONNX files with a card that names their stages."""

from __future__ import annotations

import hashlib

from invsuite._system.files import expand_path
from invsuite.models.base import Model, WeightsOrigin
from invsuite.models.onnx.card import find_card
from invsuite.models.onnx.chain import onnx_chain
from invsuite.models.onnx.graph import OnnxGraph
from invsuite.registry import register


@register.model("onnx", stages="those that the card names, prediction")
def load(name: str, source: str) -> Model:
    """Load an ONNX file (opset 13 or later) as a frozen, differentiable chain: ``FILE.onnx`` with a card that names its
    stages beside it (``FILE.toml``), or ``FILE.onnx@CARD.toml``. ``$NAME`` in a path is an environment variable.

    Raises:
        Unavailable: if the file or the package ``onnx`` is not there.
        WeightsError: if the file is damaged.
        UsageError: for an operator that is not supported, no card, or a card that does not fit.
    """
    file, _, card = source.partition("@")
    path = expand_path(file)
    graph = OnnxGraph(path)
    found = find_card(path, card)
    origin = WeightsOrigin(f"onnx {path.name}", hashlib.sha256(path.read_bytes()).hexdigest(), found.licence)
    return onnx_chain(name, graph, found, origin)
