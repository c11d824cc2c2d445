"""Models by source string ``ADAPTER:NAME``. A new adapter is one new file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from invsuite.errors import UsageError, unknown_name
from invsuite.models.base import Model
from invsuite.models.bundled import load_bundled
from invsuite.models.detection import load_detr
from invsuite.models.onnx_chain import load_onnx
from invsuite.models.timm import load_timm

ADAPTERS: dict[str, Callable[[str, str], Model]] = {
    "bundled": load_bundled,
    "timm": load_timm,
    "detr": load_detr,
    "onnx": load_onnx,
}


def load_model(name: str, source: str) -> Model:
    """Load ``source`` (``bundled:vit``, ``timm:vit_tiny_patch16_224``, ``detr:facebook/detr-resnet-50``,
    ``detr:/a/local/folder`` or ``onnx:/a/file.onnx``) under the suite's ``name``.

    Raises:
        UsageError: for an unknown adapter or model.
        Unavailable: if the weights cannot be had.
        WeightsError: if they are damaged or do not fit.
    """
    adapter, _, rest = source.partition(":")
    if not rest:
        raise UsageError(f"model source '{source}' is not ADAPTER:NAME, e.g. bundled:vit")
    if adapter not in ADAPTERS:
        raise unknown_name("model adapter", adapter, ADAPTERS)
    return ADAPTERS[adapter](name, rest)
