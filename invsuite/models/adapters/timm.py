"""Models of timm by name, with weights from the hub, from a folder or from a local file."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import nn

from invsuite._system.files import expand_path, file_digest
from invsuite._system.needs import Need, path_need
from invsuite._system.validation import Positive, PositiveFloat
from invsuite.data.geometry import Resampling
from invsuite.errors import MissingPath, Unavailable, UsageError, WeightsError, reason_of, unknown_name
from invsuite.models.base import Model, WeightsOrigin, random_origin
from invsuite.models.cards import read_card
from invsuite.models.checkpoint import Tensors, check_finite, find_weights, marked, misfit, read_file
from invsuite.models.checks import running_on
from invsuite.models.feature_chain import Statistics
from invsuite.models.timm import timm_chain
from invsuite.registry import HubWeights, register

SIZE = re.compile(r"(?:(?P<rest>.*)@)?(?P<height>\d+)(?:x(?P<width>\d+))?")
HUB_ERRORS = (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError)
FOLDER, HUB = (
    "local-dir:",
    "hf-hub:",
)  # what timm puts in front of a folder, and of a hub repository that it does not list


@dataclass(frozen=True)
class Parts:
    """What a source names: an architecture, a hub repository or a folder; a file of weights; an image size.

    Attributes:
        name: as timm takes it.
        file: of the weights; None for those that timm knows of.
        place: where in the file they lie (`invsuite.models.checkpoint.Place`); "" finds them.
        size: (H, W) of images; None is that of the checkpoint.
    """

    name: str
    file: Path | None = None
    place: str = ""
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, source: str) -> Parts:
        """Return the parts of ``NAME@FILE#PLACE@SIZE``, each but the first of which may be left out.

        A path that exists wins over any other meaning of its text.

        Raises:
            UsageError: for a size of zero.
        """
        if source.startswith(FOLDER):
            folder, size = _split_size(source.removeprefix(FOLDER))
            return cls(f"{FOLDER}{expand_path(folder)}", size=size)
        name, at, rest = source.partition("@")
        if not at:
            return cls(name)
        text, size = _split_size(rest)
        if not text:
            return cls(name, size=size)
        if name.startswith(HUB):
            return cls(f"{name}@{text}", size=size)  # a revision
        whole = expand_path(text)
        file, _, place = (str(whole), "", "") if whole.exists() else str(whole).partition("#")
        return cls(name, Path(file), place, size)


def _split_size(text: str) -> tuple[str, tuple[int, int] | None]:
    """Return what stands in front of ``@SIZE`` and the size (H, W), of a text that may be either or both."""
    match = SIZE.fullmatch(text)
    if match is None or expand_path(text).exists():
        return text, None
    size = int(match["height"]), int(match["width"] or match["height"])
    if 0 in size:
        raise UsageError(f"image size '{text}' has no pixels: give HxW, e.g. 224x336")
    return match["rest"] or "", size


@dataclass(frozen=True)
class TimmCard:
    """What a file of weights does not say, in a TOML file beside it (``w.toml`` for ``w.pth``); keys may be left out.

    Attributes:
        mean: normalisation for images in [0, 1] that the weights were trained with.
        std: likewise.
        size: (H, W) of the images that they were trained with.
        interpolation: of their resizing, and ``crop_pct``, as in timm.
        classes: name of each class, by index.
        licence: of the file.
    """

    mean: Statistics | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    size: tuple[Positive, Positive] | None = None
    interpolation: str | None = None
    crop_pct: PositiveFloat | None = None
    classes: tuple[str, ...] = ()
    licence: str = ""


def weights_file(source: str) -> Path:
    """Return the checkpoint file in the local hub cache (``HF_HOME``), without touching the network.

    Raises:
        UsageError: for a name timm does not know.
        Unavailable: if the file is not cached, with the command that fetches it.
    """
    hub_id, _, revision = _hub_id(source).partition("@")
    for filename in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(hub_id, filename, revision=revision or None)
        if isinstance(path, str):
            return Path(path)
    raise Unavailable(f"weights of '{source}' are not in the hub cache; fetch them with: hf download {hub_id}")


def _hub_id(source: str) -> str:
    """Return the hub repository of a model's weights."""
    weights = hub_weights(source)
    if weights is None:
        raise Unavailable(f"timm has no hub weights for '{source}'; run its architecture with --random-weights")
    return weights.repository


def _known(name: str) -> str:
    """Return ``name`` if it is a hub repository or a folder, or timm has an architecture of that name.

    Raises:
        UsageError: if timm has none.
        MissingPath: if the folder lacks what timm puts there.
    """
    if name.startswith(FOLDER):
        folder = Path(name.removeprefix(FOLDER))
        if not folder.is_dir():
            raise MissingPath(f"model folder '{folder}' does not exist")
        if not (folder / "config.json").is_file():
            raise MissingPath(f"model folder '{folder}' has no config.json, which timm.models.save_for_hf writes")
        return name
    architecture = name.split(".")[0]
    if not name.startswith(HUB) and not timm.is_model(architecture):
        raise unknown_name("timm model", architecture, timm.list_models())
    return name


def hub_weights(source: str) -> HubWeights | None:
    """Return where timm's own list says that a model's weights are; None for weights in a local file, or none at all.

    Raises:
        UsageError: for a name timm does not know.
    """
    parts = Parts.of(source)
    if parts.file or parts.name.startswith(FOLDER):
        return None
    if parts.name.startswith(HUB):
        return HubWeights(parts.name.removeprefix(HUB), "see the hub page")
    cfg = timm.get_pretrained_cfg(_known(parts.name))
    if cfg is None:
        raise unknown_name("timm checkpoint", parts.name, timm.list_pretrained(parts.name.split(".")[0]))
    return HubWeights(str(cfg.hf_hub_id), cfg.license or "see the hub page") if cfg.hf_hub_id else None


def path_needs(source: str) -> tuple[Need, ...]:
    """Return the need for the file or folder that a source names; nothing for weights of the hub."""
    parts = Parts.of(source)
    folder = Path(parts.name.removeprefix(FOLDER)) if parts.name.startswith(FOLDER) else None
    return tuple(path_need("weights", path) for path in (parts.file, folder) if path)


def load_random(source: str, name: str, seed: int) -> Model:
    """Build the architecture of ``source`` with timm's own initialisation; no weights are read.

    Raises:
        UsageError: for an unknown name, or a size that the network does not take.
        MissingPath: for a file or folder that does not exist.
    """
    parts = Parts.of(source)
    if parts.file and not parts.file.is_file():
        raise _no_file(parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _resized(_create(_known(parts.name)), parts.name, parts.size)
    model = _configured(name, network, _origin(network, parts.name, ""), parts.size)
    model.origin = random_origin(seed, model.origin, model.fingerprint())
    return model


@register.model(
    "timm",
    stages="embed, block01 ... or (pyramids) stage1 ..., head",
    hub=hub_weights,
    needs=path_needs,
    random=load_random,
)
def load(source: str, name: str) -> Model:
    """Load any timm model, with its pretrained weights through the hub cache or with those of a local file.

    ``NAME@FILE`` reads a ``.safetensors`` or a file of ``torch.save`` (whose code is not run) for that architecture;
    weights are found wherever they lie in it, and ``NAME@FILE#PLACE`` chooses where it holds several. A ``FILE.toml``
    beside it may say what it does not (`TimmCard`). ``hf-hub:USER/MODEL`` and ``local-dir:FOLDER`` are timm's own
    words. ``NAME@224`` or ``NAME@224x320``, or the same behind a file or folder, sets the image size (H x W) in place
    of the checkpoint's own.

    Raises:
        UsageError: for an unknown name, or a size that the network does not take.
        Unavailable: if the weights cannot be had.
        WeightsError: if the file is damaged or does not fit, naming the tensor.
    """
    parts = Parts.of(source)
    card, marks = TimmCard(), list[object]()
    if parts.file or parts.name.startswith(FOLDER):
        path = parts.file or _file_in(Path(_known(parts.name).removeprefix(FOLDER)))
        if not path.is_file():
            raise _no_file(parts)
        beside = path.with_suffix(".toml")
        if parts.file and beside.is_file():
            card = read_card(TimmCard, beside.read_text(encoding="utf-8"), str(beside))
        network = _from_file(_known(parts.name), path, parts.place, parts.size or card.size)
        cfg: Any = network.pretrained_cfg
        stated = (card.mean, card.std) if parts.file else (cfg["mean"], cfg["std"])  # which a user may edit
        marks = [mark for mark in (parts.place, *stated) if mark]
    else:
        network, path = _from_hub(source, parts)
    check_finite(network, f"'{path}'")
    origin = _origin(network, source, marked(file_digest(path), marks))
    return _configured(name, network, origin, parts.size or card.size, card)


def _no_file(parts: Parts) -> MissingPath:
    return MissingPath(
        f"weights file '{parts.file}' does not exist (timm:{parts.name}@FILE reads weights, timm:{parts.name}@HxW sets "
        "the image size)"
    )


def _origin(network: nn.Module, source: str, digest: str) -> WeightsOrigin:
    cfg: Any = network.pretrained_cfg
    hub = "" if not digest or hub_weights(source) is None else f" ({cfg.get('hf_hub_id')})"
    licence = cfg.get("license") or "see the model's hub page"
    return WeightsOrigin(f"timm {source}{hub}", digest, licence, (tuple(cfg["mean"]), tuple(cfg["std"])))


def _configured(
    name: str, network: Any, origin: WeightsOrigin, size: tuple[int, int] | None, card: TimmCard | None = None
) -> Model:
    """Return the chain with normalisation and input size of the card, or else of the checkpoint's own configuration.

    Another ``size`` (H, W) resamples position embeddings, as timm does.

    Raises:
        UsageError: for a size that the network does not take.
    """
    cfg: Any = network.pretrained_cfg
    card = card or TimmCard()
    native = getattr(getattr(network, "patch_embed", None), "img_size", None) or tuple(cfg["input_size"][1:])
    height, width = size or native
    mean, std = card.mean or tuple(cfg["mean"]), card.std or tuple(cfg["std"])
    origin = replace(origin, normalisation=(mean, std), licence=card.licence or origin.licence)
    classes = card.classes or tuple(cfg.get("label_names") or ())
    with running_on(name, (height, width)):
        model = timm_chain(name, network, (height, width), mean, std, origin)
    if len(classes) == int(network.num_classes):
        model.classes = classes
    elif card.classes:
        raise UsageError(f"the card of '{name}' names {len(classes)} classes, its weights have {network.num_classes}")
    model.resampling = Resampling(card.interpolation or cfg["interpolation"], card.crop_pct or cfg["crop_pct"])
    return model


def _create(name: str, **options: Any) -> Any:
    """Return timm's network.

    Raises:
        Unavailable: if the configuration of a hub repository cannot be had.
        UsageError: if timm refuses.
    """
    try:
        return timm.create_model(name, **options)
    except HUB_ERRORS as error:
        raise Unavailable(
            f"weights of '{name}' could not be fetched ({type(error).__name__}); on a machine with access run: "
            f"hf download {_hub_id(name).partition('@')[0]}"
        ) from error
    except Exception as error:  # whatever a family's own code raises
        raise UsageError(f"timm cannot make '{name}': {reason_of(error)}") from error


def _resized(network: Any, name: str, size: tuple[int, int] | None, **options: Any) -> Any:
    """Return the network for images of ``size`` (H, W), made anew with ``options`` where it cannot be changed.

    Raises:
        UsageError: for a size that it does not take.
    """
    if size is None:
        return network
    try:
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=size)
            return network
        try:
            return timm.create_model(name, img_size=size, **options)
        except TypeError:  # a convolutional network, which takes any size
            return network
    except Exception as error:  # whatever a family's own code raises
        raise UsageError(f"timm model '{name}' takes no images of {size[0]}x{size[1]}: {reason_of(error)}") from error


def _from_hub(source: str, parts: Parts) -> tuple[nn.Module, Path]:
    """Return the network with its pretrained weights, and their file in the hub cache."""
    _hub_id(source)  # or there is nothing to fetch
    try:
        path: Path | None = weights_file(source)
    except Unavailable:
        path = None  # timm may still fetch it
    try:
        network = _create(parts.name, pretrained=True)
    except UsageError as error:
        reason = reason_of(error.__cause__ or error)
        raise WeightsError(
            f"weights of '{source}' at {path} cannot be read: {reason}; delete and fetch again"
        ) from error
    return _resized(network, parts.name, parts.size, pretrained=True), path or weights_file(source)


def _file_in(folder: Path) -> Path:
    """Return the file of weights in a folder that timm saved, by timm's own preference.

    Raises:
        MissingPath: if there is none.
    """
    names = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
    others = (path for kind in ("*.safetensors", "*.pth", "*.pth.tar", "*.bin") for path in sorted(folder.glob(kind)))
    for path in (*(folder / name for name in names), *others):
        if path.is_file():
            return path
    raise MissingPath(f"model folder '{folder}' has no file of weights, e.g. model.safetensors")


def _from_file(name: str, path: Path, place: str, size: tuple[int, int] | None) -> nn.Module:
    """Return the network with weights from a file; the number of classes is the file's, and so is the image size.

    Weights in the form of the paper's own code are converted where timm can.

    Raises:
        WeightsError: if they do not fit, naming the tensor.
    """
    network = _create(name)
    weights = find_weights(path, read_file(path), network, place)
    classifier = network.pretrained_cfg.get("classifier") or ""
    names = [classifier] if isinstance(classifier, str) else list(classifier)
    sizes = {len(weights[f"{n}.weight"]) for n in names if f"{n}.weight" in weights}
    classes = sizes.pop() if sizes else 0
    network = _create(name, num_classes=classes)
    first = misfit(weights, network)
    if first:
        network, weights = _reconciled(name, network, weights, size)
    fault = misfit(weights, network)
    if fault:
        advice = "; if it is of another image size, give it: @HxW" if "'pos_embed'" in first else ""
        raise WeightsError(f"weights file '{path}' does not fit {name}: {first}{advice}")
    network.load_state_dict(weights)
    resized = _resized(network, name, size, num_classes=classes)
    if resized is not network:
        weights = converted(weights, resized)
        fault = misfit(weights, resized)
        if fault:
            raise UsageError(f"timm cannot convert the weights of '{path}' to another image size: {fault}")
        resized.load_state_dict(weights)
    return resized


def _reconciled(name: str, network: Any, weights: Tensors, size: tuple[int, int] | None) -> tuple[Any, Tensors]:
    """Return the network and weights, changed so that they fit if they can.

    That is the network for the image size of the weights, or weights converted from the form of a paper's own code.
    """
    for fitting in filter(None, (size, _size_of(weights, network))):
        with contextlib.suppress(UsageError):
            other = _resized(
                _create(name, num_classes=network.num_classes), name, fitting, num_classes=network.num_classes
            )
            if not misfit(weights, other):
                return other, weights
    if "pos_embed" in misfit(weights, network):  # the converter would resample it without a word
        return network, weights
    return network, converted(weights, network)


def _size_of(weights: Tensors, network: Any) -> tuple[int, int] | None:
    """Return the (H, W) of the square images that a position embedding of another length is for; None for others."""
    embedding, patches = weights.get("pos_embed"), getattr(network, "patch_embed", None)
    patch = getattr(patches, "patch_size", None)
    if embedding is None or embedding.dim() != 3 or patch is None:
        return None
    prefix = 0 if getattr(network, "no_embed_class", False) else getattr(network, "num_prefix_tokens", 0)
    side = math.isqrt(max(0, embedding.shape[1] - prefix))
    return (side * patch[0], side * patch[1]) if side and side * side == embedding.shape[1] - prefix else None


def converted(weights: Tensors, network: nn.Module) -> Tensors:
    """Return weights from the form of a paper's own code in timm's, where timm knows that form."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return weights
    try:
        answer: Tensors = convert(dict(weights), network)
    except Exception:  # a form that it does not know
        return weights
    return answer
