"""A fitted method with its model: applied to images, saved as a folder, and loaded again to the last bit.

A folder holds a card (`invsuite.apply.card`), and where the method has tensors one safetensors file. Nothing in it is
code, and nothing of it is unpickled. What is loaded is held against the card: the file by its digest, every tensor by
type and shape, the model by a digest over its weights, and its stages by their layouts.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes

from invsuite import __version__
from invsuite._system.devices import pick_device
from invsuite._system.files import expand_path, refused, write_atomically
from invsuite._system.memory import halving
from invsuite._system.provenance import set_determinism
from invsuite._system.validation import build
from invsuite.apply.card import (
    CARD,
    Card,
    ImagesFacts,
    MethodFacts,
    ModelFacts,
    TensorFacts,
    TensorsFile,
    read_card,
)
from invsuite.apply.images import as_images
from invsuite.apply.places import find_inverse, is_local, upload
from invsuite.apply.precision import whole
from invsuite.apply.probe import differing, probe
from invsuite.apply.recorded import RecordedSplit
from invsuite.data.split import Split
from invsuite.errors import NotApplicable, UsageError, WeightsError, boundary, one_line, unknown_name
from invsuite.methods import make_method, method_table
from invsuite.methods.base import FitCost, Fitted, Inverter, Method
from invsuite.methods.problem import Context, Problem
from invsuite.models.base import Model, Representation, means_stage
from invsuite.models.load import load_model
from invsuite.results.record import Record

TENSORS = "inverse.safetensors"
IMAGES = "images.json"  # what tells the images of the fit by their content
FILES = (CARD, TENSORS, IMAGES)
BATCH = 32  # images that are inverted side by side
DIGITS = 16  # of a digest that messages show
Put = Callable[[Path, bytes], None]


@dataclass(frozen=True)
class Inverse:
    """A fitted method with its model: what `invsuite.fit` returns and `invsuite.load_inverse` reads.

    Attributes:
        fitted: what the method returned; of an inverse that was loaded the images in its problem have no pixels.
        card: what it was fitted to, and how good it was where it was scored.
        remarks: what a reader must know before trusting the card's numbers; empty where nothing.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> inverse = invsuite.fit("ridge", "bundled:vit", ["block03"], scenes)
        >>> inverse(scenes.images([0])).shape
        torch.Size([1, 3, 96, 96])
        >>> again = invsuite.load_inverse(inverse.save("vit-ridge"))
        >>> bool((again(scenes.images([0])) == inverse(scenes.images([0]))).all())
        True
    """

    fitted: Fitted = field(repr=False)
    card: Card
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, fitted: Fitted, row: str = "") -> Inverse:
        """Return the inverse of a method that was fitted just now.

        Args:
            fitted: with its method and problem.
            row: what tables call the method; its registered name by default.
        """
        method, problem = _parts(fitted)
        card = replace(
            card_of(method, problem, model_facts(problem.model), row),
            stages=tuple(stage for stage in problem.stages if stage not in fitted.refused),
            refused={stage: one_line(reason) for stage, reason in fitted.refused.items()},
            notes=fitted.notes,
            cost=asdict(fitted.cost),
        )
        return cls(fitted, card)

    @property
    def method(self) -> Method:
        """Return the method with its parameters."""
        return _parts(self.fitted)[0]

    @property
    def problem(self) -> Problem:
        """Return what the method was fitted to."""
        return _parts(self.fitted)[1]

    @property
    def model(self) -> Model:
        """Return the frozen model whose representations are inverted."""
        return self.problem.model

    @property
    def inverter(self) -> Inverter:
        """Return what answers representations of its stages."""
        return self.fitted.inverter

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the stages that it inverts, in the model's order."""
        return self.card.stages

    @property
    def geometry(self) -> str:
        """Return how photos took the model's size in the fit, ``crop`` or ``squash``; "" where nothing was resized."""
        geometry = self.card.data["fit"].geometry
        return str(geometry["mode"]) if geometry is not None else ""

    def __call__(self, images: Any, stage: str = "") -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1] of ``images`` from what the model holds of them at a stage.

        Args:
            images: one or several, as tensors, arrays, PIL images or paths (`invsuite.apply.images.as_images`), cropped
                or squashed as those of the fit were.
            stage: as a person names it (``block03``, ``3``); may be left out where there is one.

        Raises:
            UsageError: for images of a wrong range, shape or type, or a stage that is not inverted.
            NotApplicable: at a stage that the method refused.
        """
        return self.reconstruct(as_images(images, self.model, self.card.photo_mode), self.stage_of(stage))

    def reconstruct(self, images: torch.Tensor, stage: str) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1] of images (B, 3, H, W) in [0, 1] from their ``stage``.

        Raises:
            OutOfMemoryError: if not even one image at a time can be inverted.
        """

        def in_batches(batch: int) -> torch.Tensor:
            parts = images.to(self.model.device).split(batch)
            return torch.cat([self._invert(self.model.represent(part, [stage])[stage], part) for part in parts])

        return halving(in_batches, BATCH, f"inverting '{stage}' by '{self.card.method.row}'")

    def _invert(self, representation: Representation, images: torch.Tensor) -> torch.Tensor:
        return self.fitted.invert(representation, images).detach()

    def stage_of(self, word: str = "") -> str:
        """Return the one of its stages that ``word`` means; without a word the only one.

        Raises:
            UsageError: if it means none of them, or several.
            NotApplicable: at a stage that the method refused.
        """
        stages = [stage for stage in self.stages if not word or means_stage(word, stage)]
        if len(stages) == 1:
            return stages[0]
        if stages:
            raise UsageError(f"'{self.card.name}' inverts {', '.join(stages)}: name one stage")
        for stage, reason in self.fitted.refused.items():
            if not word or means_stage(word, stage):
                raise reason
        raise unknown_name(f"stage of the inverse '{self.card.name}'", word, self.stages)

    def with_quality(self, records: Iterable[Record]) -> Inverse:
        """Return the inverse with what `invsuite.score` measured on its card.

        Raises:
            UsageError: if it was forced upon another model: the card speaks of the one that it was fitted to.
        """
        if self.model.fingerprint() != self.card.model.fingerprint:
            raise UsageError(
                f"the card of '{self.card.name}' is of the weights that it was fitted to, not of '{self.model.name}': "
                "what is measured here does not belong on it"
            )
        return replace(self, card=self.card.with_quality(records))

    def save(self, path: str | Path, licence: str = "") -> Path:
        """Write the inverse as a folder and return its path: a card, and where there are tensors one safetensors file.

        Args:
            path: of the folder; one that holds an inverse already is replaced.
            licence: of the inverse, e.g. ``CC-BY-4.0``; that of the model's weights is on the card already.

        Raises:
            UsageError: for a method that cannot be kept (a floor that is shown the image, or one that answers with its
                fit images), or a folder that holds other files.
            DiskError: if the disk refuses.
        """
        tensors, what = self.inverter.tensors(), f"'{self.card.method.row}'"
        check_keepable(self.method)
        if not self.stages:
            raise UsageError(f"{what} refused every stage, so that there is no inverse to keep: {self._reasons()}")
        if tensors is None:
            raise UsageError(
                f"{what} gives no tensors, so that there is nothing to keep: fit it again where it is needed"
            )
        card = replace(self.card, licence=licence) if licence else self.card
        return write_inverse(expand_path(str(path)), card, pack(tensors), listing_of(self.problem))

    def _reasons(self) -> str:
        return "; ".join(f"{stage}: {one_line(reason)}" for stage, reason in self.fitted.refused.items())


def _parts(fitted: Fitted) -> tuple[Method, Problem]:
    assert fitted.method is not None, "`fit_method` fills it in"
    assert fitted.problem is not None, "`fit_method` fills it in"
    return fitted.method, fitted.problem


def is_keepable(method: Method) -> bool:
    """Tell whether the inverters of a method, and of those that it builds on, can be restored from what is kept."""
    restorable = type(method).restore is not Method.restore
    return restorable and not method.uses_image and all(map(is_keepable, method.builds_on()))


def check_keepable(method: Method) -> None:
    """Raise `UsageError` if no inverse of ``method`` can be kept, with the reason."""
    if method.uses_image:
        raise UsageError(
            f"'{method.name}' is a floor that is shown the image itself: it inverts nothing that could be kept"
        )
    if not is_keepable(method):
        raise UsageError(
            f"'{method.name}' cannot be kept: it answers with its fit images, or from files that others made; fit it "
            "again where it is needed"
        )


def model_facts(model: Model) -> ModelFacts:
    """Return what the card of an inverse says of its model; every weight is read for the fingerprint."""
    return ModelFacts(
        name=model.name,
        source=model.source,
        random_weights=bool(model.source) and model.origin.random,
        weights=model.origin,
        fingerprint=model.fingerprint(),
        image_size=model.image_size,
        task=model.task,
        resampling=asdict(model.resampling),
    )


def card_of(method: Method, problem: Problem, model: ModelFacts, row: str = "") -> Card:
    """Return the card of a method that is fitted to ``problem``, before anything is known of what came out.

    Args:
        method: with its parameters.
        problem: what it is fitted to.
        model: of the problem.
        row: what tables call the method; its registered name by default.
    """
    table = method_table(method)
    kind = table.pop("kind")
    layouts = {stage: problem.model.layout(stage) for stage in (*problem.cut, *problem.stages)}
    return Card(
        method=MethodFacts(row or kind, kind, table, method.version, method.family, method.source),
        model=model,
        stages=problem.stages,
        cut=problem.cut,
        refused={},
        layouts=layouts,
        probes=probe(problem.model, list(layouts)),
        data={name: ImagesFacts.of(split.facts()) for name, split in _splits(problem).items()},
        budget=problem.budget,
        engine=problem.context.engine,
        seed=problem.seed,
        version=__version__,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _splits(problem: Problem) -> dict[str, Split]:
    return {"fit": problem.fit, "select": problem.select}


def listing_of(problem: Problem) -> dict[str, tuple[str, ...]]:
    """Return digits that tell the images of a fit by their content; none where nobody knows them."""
    return {name: known for name, split in _splits(problem).items() if (known := split.content())}


def pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return named tensors as the bytes of a safetensors file; none as no bytes."""
    if not tensors:
        return b""
    # one contiguous clone per tensor: the format refuses tensors that share memory
    return tensor_bytes({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def write_inverse(
    folder: Path, card: Card, data: bytes, listing: Mapping[str, Sequence[str]], put: Put = write_atomically
) -> Path:
    """Write an inverse as a folder and return it.

    Args:
        folder: where; it must be new, empty, or hold an inverse.
        card: its file entries are filled in here.
        data: the bytes of its safetensors file; none where it has no tensors.
        listing: digits that tell the images for fitting and selecting by their content.
        put: writes the safetensors file of these bytes.

    Raises:
        UsageError: if the folder holds other files.
        DiskError: if the disk refuses.
    """
    check_folder(folder)
    images = json.dumps({name: list(digits) for name, digits in listing.items()}).encode() if listing else b""
    for name in FILES:  # an old card beside new tensors would call these damaged
        (folder / name).unlink(missing_ok=True)
    if data:
        put(folder / TENSORS, data)
    if images:
        write_atomically(folder / IMAGES, images)
    replace(
        card,
        tensors=TensorsFile(TENSORS, hashlib.sha256(data).hexdigest(), facts_of(read_tensors(data))) if data else None,
        images=IMAGES if images else "",
        images_sha256=hashlib.sha256(images).hexdigest() if images else "",
    ).write(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Raise `UsageError` if ``folder`` is a file, or holds files that belong to no inverse."""
    try:
        others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.exists() else []
    except NotADirectoryError as error:
        raise UsageError(f"'{folder}' is a file: name a folder for the inverse") from error
    except OSError as error:
        raise refused(folder, error) from error
    if others:
        raise UsageError(f"folder '{folder}' holds other files ({', '.join(others[:3])}): name a new one")


def facts_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorFacts]:
    """Return type and shape of named tensors."""
    return {
        name: TensorFacts(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }


def load_inverse(
    path: str | Path, model: str | Model | None = None, *, force: bool = False, device: str = "auto"
) -> Inverse:
    """Return a kept inverse, checked against its card and its model.

    Args:
        path: its folder, ``hf://USER/NAME`` on the hub, or ``bundled:MODEL/METHOD`` in the package.
        model: that it is for: a loaded one, or its source; by default the source on the card.
        force: whether to go on where the model's weights are not those that it was fitted to, or where it computes
            something else from them. The numbers on the card do not hold then, and a warning says so.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        Unavailable: if there is no inverse, or its model cannot be had.
        WeightsError: if a file is damaged, or the model's weights are others, or what it computes from them.
        UsageError: if the model has another image size or other layouts, or a stage or the method is unknown.

    Examples:
        >>> import invsuite
        >>> scenes = invsuite.open_images("scenes", (96, 96), seed=1, count=24)
        >>> folder = invsuite.fit("ridge", "bundled:vit", ["embed", "block03"], scenes).save("ridge-of-vit")
        >>> invsuite.load_inverse(folder).stages
        ('embed', 'block03')
    """
    folder = find_inverse(path, FILES)
    card, tensors, listing = read_inverse(folder)
    if model is None:
        if not card.model.source:
            raise UsageError(f"'{folder}' was fitted to a model that Python code made: give it as model=...")
        model = load_model(card.model.source, card.model.name, card.model.random_weights)
    chain = load_model(model) if isinstance(model, str) else model
    remarks = _doubts(card, chain, folder, force)
    chain.to(pick_device(device))
    method = make_method(card.method.kind, card.method.parameters, card.method.row)
    if method.version != card.method.version:
        remarks.append(
            f"'{card.method.row}' was fitted by version {card.method.version} of its method, this invsuite has "
            f"{method.version}: its numbers may have changed since"
        )
    problem = Problem(
        chain,
        card.stages,
        card.cut,
        RecordedSplit.of(card.data["fit"], listing.get("fit", ())),
        RecordedSplit.of(card.data["select"], listing.get("select", ())),
        card.budget,
        card.seed,
        Context(engine=card.engine),
    )
    set_determinism(card.seed)
    notes = {stage: dict(own) for stage, own in card.notes.items()}
    with boundary(f"'{folder}' does not fit its method '{card.method.kind}'", WeightsError):  # maybe a plug-in's
        inverter = method.restore(problem, tensors, notes)
    if inverter is None:
        raise WeightsError(f"'{folder}' lacks tensors that its method '{card.method.kind}' needs: fit it anew")
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    refusals = {stage: NotApplicable(reason) for stage, reason in card.refused.items()}
    cost = build(FitCost, card.cost, "cost")
    return Inverse(Fitted(inverter, cost, notes, refusals, method, problem), card, tuple(remarks))


def read_inverse(folder: Path) -> tuple[Card, dict[str, torch.Tensor], dict[str, list[str]]]:
    """Return card, tensors and the digits that tell the fit's images, each held against the card.

    Raises:
        MissingPath: if there is no card.
        WeightsError: if a file is damaged, or was changed after it was written.
    """
    card = read_card(folder)
    return card, _read_tensors(folder, card), _read_listing(folder, card)


def push_inverse(path: str | Path, address: str, licence: str = "", private: bool = False) -> str:
    """Upload a kept inverse to the Hugging Face hub, checked first, and return the address of its page.

    Args:
        path: its folder.
        address: ``hf://USER/NAME``; a repository that is not there is made.
        licence: of the inverse, where its card states none yet.
        private: whether a new repository is private.

    Raises:
        MissingPath: if there is no inverse.
        WeightsError: if a file is damaged.
        Unavailable: if the hub refuses or is not reached.
        UsageError: for an address of another form, or an inverse that is in no folder of the user's own.

    Examples:
        >>> import invsuite
        >>> invsuite.push_inverse("my-inverse", "hf://me/vit-ridge", licence="CC-BY-4.0")  # doctest: +SKIP
    """
    if not is_local(path):
        raise UsageError(f"'{path}' is no folder of yours: fit or save an inverse, and push its folder")
    folder = find_inverse(path, FILES)
    card, *_ = read_inverse(folder)
    if licence and licence != card.licence:
        replace(card, licence=licence).write(folder)
    return upload(folder, address, FILES, private)


def _read(folder: Path, name: str, digest: str) -> bytes:
    """Return the bytes of a file of an inverse, of this SHA-256."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise WeightsError(f"'{folder}' lacks its file '{name}': get the inverse again, or fit it anew") from error
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise WeightsError(
            f"'{folder / name}' has SHA-256 {found[:DIGITS]}..., its card says {digest[:DIGITS]}...: it is damaged; "
            "get the inverse again, or fit it anew"
        )
    return data


def _read_tensors(folder: Path, card: Card) -> dict[str, torch.Tensor]:
    """Return the tensors of an inverse, those that are stored in fewer bytes as float32."""
    if card.tensors is None:
        return {}
    if card.tensors.file != TENSORS:
        raise WeightsError(f"the card in '{folder}' names '{card.tensors.file}', expected {TENSORS}")
    try:
        tensors = read_tensors(_read(folder, TENSORS, card.tensors.sha256))
    except SafetensorError as error:
        raise WeightsError(f"'{folder / TENSORS}' is no safetensors file: {one_line(error)}") from error
    facts = facts_of(tensors)
    for name in sorted(facts.keys() | card.tensors.tensors.keys()):
        if facts.get(name) != card.tensors.tensors.get(name):
            raise WeightsError(f"tensor '{name}' of '{folder / TENSORS}' is not as its card says: fit it anew")
    return whole(tensors)


def _read_listing(folder: Path, card: Card) -> dict[str, list[str]]:
    """Return what tells the images of the fit by their content, where that is kept."""
    if not card.images:
        return {}
    if card.images != IMAGES:
        raise WeightsError(f"the card in '{folder}' names '{card.images}', expected {IMAGES}")
    tree: dict[str, list[str]] = json.loads(_read(folder, IMAGES, card.images_sha256))
    return tree


def _doubts(card: Card, model: Model, folder: Path, force: bool) -> list[str]:
    """Return what makes the card's numbers doubtful for ``model``.

    Raises:
        UsageError: if the inverse cannot be applied to it.
        WeightsError: if its weights are others, or what it computes from them, unless ``force``.
    """
    if model.image_size != card.model.image_size:
        raise UsageError(
            f"'{folder}' is for images of {_size(card.model.image_size)} (H x W), model '{model.name}' takes "
            f"{_size(model.image_size)}"
        )
    model.find_stages(card.cut)
    for stage, layout in card.layouts.items():
        if model.layout(stage) != layout:
            raise UsageError(f"stage '{stage}' of '{model.name}' is {model.layout(stage)}, '{folder}' is for {layout}")
    fingerprint = model.fingerprint()
    if fingerprint != card.model.fingerprint:
        difference = (
            f"'{folder}' was fitted to weights of fingerprint {card.model.fingerprint[:DIGITS]}..., those of model "
            f"'{model.name}' have {fingerprint[:DIGITS]}..."
        )
    elif stages := differing(card.probes, model):
        difference = (
            f"model '{model.name}' ({model.origin.source}) has the weights that '{folder}' was fitted to, and computes "
            f"something else from them at {', '.join(stages)}: other code, other layers or another normalisation"
        )
    else:
        return []
    if not force:
        raise WeightsError(f"{difference}: it is for another model; force it to see what it makes of this one")
    return [f"{difference}: the numbers on its card do not hold for this model"]


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
