"""Models by source string ``ADAPTER:NAME``. A new adapter is one new file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from invsuite.errors import UsageError, unknown_name
from invsuite.models.base import Model
from invsuite.models.bundled.loader import load_bundled
from invsuite.models.onnx.chain import load_onnx
from invsuite.models.timm import load_timm, random_timm
from invsuite.models.transformers import load_detr

Loader = Callable[[str, str], Model]

ADAPTERS: dict[str, Loader] = {"bundled": load_bundled, "timm": load_timm, "detr": load_detr, "onnx": load_onnx}

#: adapters that can build a model with random weights where its own cannot be had
RANDOM: dict[str, Loader] = {"timm": random_timm}
RANDOM_SEED = 0

#: short names for models that papers report
ALIASES = {
    "vit-ti": "timm:vit_tiny_patch16_224",
    "vit-b": "timm:vit_base_patch16_224",
    "deit3-b": "timm:deit3_base_patch16_224",
    "swin-b": "timm:swin_base_patch4_window7_224",
    "convnext-t": "timm:convnext_tiny",
    "dinov2-s": "timm:vit_small_patch14_reg4_dinov2",
    "clip-b": "timm:vit_base_patch16_clip_224",
    "detr-r50": "detr:facebook/detr-resnet-50",
}


def split_source(source: str) -> tuple[str, str]:
    """Adapter and name of ``source``, which is ``ADAPTER:NAME`` or an alias.

    Raises:
        UsageError: for an unknown adapter or another form.
    """
    adapter, _, rest = ALIASES.get(source, source).partition(":")
    if not rest:
        known = ", ".join(sorted(ALIASES))
        raise UsageError(f"model source '{source}' is not ADAPTER:NAME, e.g. bundled:vit, nor one of: {known}")
    if adapter not in ADAPTERS:
        raise unknown_name("model adapter", adapter, ADAPTERS)
    return adapter, rest


def load_model(name: str, source: str, random_weights: bool = False) -> Model:
    """Load ``source`` (``bundled:vit``, ``timm:vit_tiny_patch16_224``, ``detr:facebook/detr-resnet-50``,
    ``detr:/a/local/folder``, ``onnx:/a/file.onnx`` or an alias) under the suite's ``name``.

    Args:
        random_weights: the same architecture with random weights, always the same ones.

    Raises:
        UsageError: for an unknown adapter or model.
        Unavailable: if the weights cannot be had.
        WeightsError: if they are damaged or do not fit.
    """
    adapter, rest = split_source(source)
    if not random_weights:
        return ADAPTERS[adapter](name, rest)
    if adapter in RANDOM:
        return RANDOM[adapter](name, rest)
    return ADAPTERS[adapter](name, rest).randomised(RANDOM_SEED)
