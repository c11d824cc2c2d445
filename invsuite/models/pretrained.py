"""Checkpoints of transformers: a local folder, or a hub repository in the cache."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoImageProcessor

from invsuite._system.files import expand_path
from invsuite._system.needs import Need, path_need
from invsuite.errors import InvsuiteError, MissingPath, Unavailable, UsageError, WeightsError, boundary, reason_of
from invsuite.models.base import WeightsOrigin
from invsuite.models.checkpoint import check_finite, marked
from invsuite.models.hub import PICKLED, is_local
from invsuite.models.preprocessing import Preprocessing
from invsuite.registry import HubWeights

SIZES = re.compile(r"^(?P<name>.+?)@(?P<size>\d+x\d+)(?:/(?P<canvas>\d+x\d+))?$")
UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls classes that nobody named
NO_CLASS = "N/A"  # what COCO's tables call the ids without a class


@dataclass(frozen=True)
class Source:
    """What ``PATH@HxW/HxW`` names: a checkpoint, the image size and a canvas (H, W), both of which may be left out."""

    path: str
    size: tuple[int, int] | None = None
    canvas: tuple[int, int] | None = None

    @classmethod
    def of(cls, text: str) -> Source:
        """Return the parts of ``text``; a path that exists wins over any other meaning.

        Raises:
            UsageError: for a size of zero.
        """
        match = SIZES.match(text)
        if match is None or (is_local(text) and expand_path(text).exists()):
            return cls(_expanded(text))
        sizes = [_pair(match["size"]), _pair(match["canvas"])]
        if any(pair and 0 in pair for pair in sizes):
            raise UsageError(f"'{text}': a size has no pixels: give HxW, e.g. 480x640")
        return cls(_expanded(match["name"]), *sizes)

    @property
    def local(self) -> bool:
        """Tell whether it is a path of this machine."""
        return is_local(self.path)


def _expanded(text: str) -> str:
    return str(expand_path(text)) if is_local(text) and text.startswith(("~", "$")) else text


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, width = text.split("x")
    return int(height), int(width)


def hub_weights(text: str) -> HubWeights | None:
    """Return the hub repository of a checkpoint; None for a local folder."""
    source = Source.of(text)
    return None if source.local else HubWeights(source.path, "see the hub page")


def folder_needs(text: str) -> tuple[Need, ...]:
    """Return the need for a local folder; nothing for a hub repository."""
    source = Source.of(text)
    return (path_need("model", Path(source.path)),) if source.local else ()


@dataclass(frozen=True)
class Pretrained:
    """A loaded checkpoint.

    Attributes:
        network: of transformers, float32, on the CPU.
        preprocessing: of its own image processor.
        size: (H, W) of the images.
        canvas: (H, W) that they are padded to; None where they are not.
        origin: of the weights.
        classes: name of each class that it predicts, by index; empty where nobody names them.
    """

    network: Any
    preprocessing: Preprocessing
    size: tuple[int, int]
    canvas: tuple[int, int] | None
    origin: WeightsOrigin
    classes: tuple[str, ...]


def load_pretrained(source: Source, auto: Any, known: Collection[str] = ()) -> Pretrained:
    """Load the checkpoint of ``source``.

    Args:
        source: where it is.
        auto: the class of transformers that loads such networks, or a function of the configuration that returns it.
        known: the ``model_type`` that can be cut; empty: any.

    Raises:
        UsageError: for another kind of checkpoint, or a processor that a chain cannot obey.
        MissingPath: if a local folder, or a file that must be in it, is not there.
        Unavailable: if it cannot be had from the hub.
        WeightsError: if it is damaged or does not fit its configuration.
    """
    path = source.path
    if source.local:
        _check_folder(path, "config.json")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if known and config.model_type not in known:
            raise UsageError(
                f"'{path}' is a checkpoint of '{config.model_type}'; this adapter cuts: {', '.join(sorted(known))}"
            )
        if source.local:
            _check_folder(path, "preprocessor_config.json")
        processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
        kind = auto if hasattr(auto, "from_pretrained") else auto(config)
        files = weight_files(path)
        if source.local and not files:
            raise MissingPath(f"checkpoint folder '{path}' has no weights: model.safetensors or {PICKLED}")
        network, report = kind.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=not files or files[0].suffix == ".safetensors",
            output_loading_info=True,
            trust_remote_code=False,  # or it asks on the terminal
            ignore_mismatched_sizes=True,  # the report then names them
        )
    except InvsuiteError:
        raise
    except Exception as error:  # whatever a library makes of a damaged file, an unknown class or no network
        if isinstance(error, OSError) and not source.local:
            if Path(path).parent.is_dir():  # a path just as well
                raise MissingPath(f"'{path}' is no folder, and no checkpoint in the hub cache") from error
            raise Unavailable(
                f"checkpoint '{path}' cannot be had ({reason_of(error)}); fetch it with: hf download {path}"
            ) from error
        raise WeightsError(f"checkpoint '{path}' cannot be read: {reason_of(error)}") from error
    _check_report(path, report)
    check_finite(network, f"'{path}'")
    where = f"{path}/preprocessor_config.json"
    with boundary(f"{where} cannot be understood", UsageError):  # a value of a kind that nobody thought of
        preprocessing = Preprocessing.of(processor, where)
    canvas = source.canvas or (preprocessing.canvas if source.size is None else None)
    statistics = (preprocessing.mean, preprocessing.std)
    marks = [*(statistics if source.local else ()), *([canvas] if canvas else [])]  # a local file may be edited
    origin = WeightsOrigin(
        f"transformers {path}",
        marked(_digest(weight_files(path)), marks),
        "see the checkpoint's card",
        statistics,
    )
    return Pretrained(
        network, preprocessing, preprocessing.sized(source.size, where), canvas, origin, classes_of(config)
    )


def classes_of(config: Any) -> tuple[str, ...]:
    """Return the name of each class, by index, in a configuration's ``id2label``; empty where nobody named them.

    Ids that it leaves out are `NO_CLASS`.
    """
    names = {int(number): str(name) for number, name in (config.id2label or {}).items() if str(number).isdigit()}
    if all(UNNAMED.fullmatch(name) for name in names.values()):
        return ()
    return tuple(names.get(number, NO_CLASS) for number in range(int(config.num_labels)))


def _check_folder(folder: str, file: str) -> None:
    """Raise `MissingPath` for a folder that does not exist, or lacks ``file``, saying where to have it from."""
    if not Path(folder).is_dir():
        hint = "" if "/" in folder else " (a checkpoint of the hub is USER/NAME)"
        raise MissingPath(f"checkpoint folder '{folder}' does not exist{hint}")
    if not (Path(folder) / file).is_file():
        raise MissingPath(
            f"checkpoint folder '{folder}' has no {file}: copy that of the checkpoint it was trained from"
        )


def weight_files(path: str) -> list[Path]:
    """Return the files of weights of a checkpoint, local or cached: safetensors, or else pickled ones."""
    if is_local(path):
        folder = Path(path)
    else:
        for name in ("model.safetensors", PICKLED):
            cached = try_to_load_from_cache(path, name)
            if isinstance(cached, str):
                return [Path(cached)]
        config = try_to_load_from_cache(path, "config.json")
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _check_report(path: str, report: Any) -> None:
    """Raise `WeightsError` for tensors that transformers left random, or did not know what to do with."""
    misfits = {str(key): shapes for key, *shapes in report["mismatched_keys"]}
    missing = sorted({*report["missing_keys"], *misfits})
    if not missing:
        return
    first = missing[0]
    shapes = (
        f" ({' in the file, '.join(str(tuple(s)) for s in misfits[first])} in config.json)" if first in misfits else ""
    )
    raise WeightsError(
        f"checkpoint '{path}' lacks or misfits {len(missing)} tensors, first {first}{shapes}: they would stay random; "
        "use the checkpoint's own config.json"
    )


def _digest(files: list[Path]) -> str:
    """Return the SHA-256 of the checkpoint's file(s) of weights."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
