"""Models by source string: ``ADAPTER:NAME`` or the alias of a model that papers report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from invsuite._system.quiet import quiet_libraries
from invsuite.errors import OutsideError, Unavailable, UsageError
from invsuite.registry import ADAPTERS, Adapter

if TYPE_CHECKING:
    from invsuite._system.needs import Need
    from invsuite.models.base import Model

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


def split_source(source: str) -> tuple[Adapter, str]:
    """Return the adapter and the NAME of ``source``, which is ``ADAPTER:NAME`` or an alias.

    Raises:
        UsageError: for an unknown adapter or another form.
    """
    adapter, _, name = ALIASES.get(source, source).partition(":")
    if not name:
        known = ", ".join(sorted(ALIASES))
        raise UsageError(f"model source '{source}' is not ADAPTER:NAME, e.g. bundled:vit, nor one of: {known}")
    return ADAPTERS[adapter], name


def name_of(source: str) -> str:
    """Return what tables and files call a model that only its source names."""
    if source in ALIASES:
        return source
    architecture, _, rest = split_source(source)[1].partition("@")
    if ".py:" in architecture:  # a function in a file, whose folder says little
        architecture = Path(architecture).name
    file, _, place = rest.partition("#")
    parts = (re.sub(r"[^\w.+-]+", "-", part).strip("-.") for part in (architecture, Path(file).stem, place))
    return "-".join(filter(None, parts)) or "model"


def load_model(source: str, name: str = "", random_weights: bool = False) -> Model:
    """Load a frozen model.

    Args:
        source: ``ADAPTER:NAME`` (``bundled:vit``, ``timm:vit_tiny_patch16_224``, ``detr:facebook/detr-resnet-50``,
            ``detr:/a/local/folder``, ``onnx:/a/file.onnx``, ``module:net.py:build``) or an alias.
        name: what tables call the model; `name_of` the source by default.
        random_weights: whether to give the architecture random weights, always the same ones.

    Raises:
        UsageError: for an unknown adapter or model.
        Unavailable: if the weights cannot be had.
        WeightsError: if they are damaged or do not fit.
        OutsideError: if a plug-in's loader gives no model.

    Examples:
        >>> load_model("bundled:detr", "detector").stages
        ('backbone', 'encoder1', 'encoder2', 'encoder', 'decoder1', 'decoder2', 'decoder', 'prediction')
    """
    from invsuite.models.base import Model
    from invsuite.models.checkpoint import check_finite

    adapter, rest = split_source(source)
    name = name or name_of(source)
    with quiet_libraries():
        if not random_weights:
            model = adapter.load(rest, name)
        elif adapter.random is not None:
            model = adapter.random(rest, name, RANDOM_SEED)
        else:
            model = adapter.load(rest, name).randomised(RANDOM_SEED)
    if not isinstance(model, Model):
        raise OutsideError(f"the loader of '{source}' gave {type(model).__name__}, not a Model")
    check_finite(model.network, f"'{source}'", infinite=False)
    model.source = source
    return model


def needs(source: str) -> tuple[Need, ...]:
    """Return what must be fetched before ``source`` can be loaded: the weights of its hub repository, or elsewhere.

    Raises:
        UsageError: for an unknown adapter, or a model that the adapter does not know.
    """
    from invsuite._system.needs import Need
    from invsuite.models.hub import weights_need

    adapter, name = split_source(source)
    try:
        weights = adapter.hub(name)
        return adapter.needs(name) if weights is None else (weights_need(weights.repository), *adapter.needs(name))
    except Unavailable as error:  # a variable of a path that is not set
        return (Need(f"model {source}", None, None, str(error)),)
