"""The published inverse networks of Rathjens et al. as a method: files are loaded, nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from invsuite._system.files import expand_path, file_digest
from invsuite.errors import NotApplicable, Unavailable, UsageError, WeightsError, unknown_name
from invsuite.inverses.rathjens import ladder_source, published_network
from invsuite.methods.base import Family, FitCost, Fitted, Inverter, Method
from invsuite.methods.problem import Problem
from invsuite.models.base import UNNORMALISED, Model, Representation, image_layout
from invsuite.models.checkpoint import read_file
from invsuite.registry import register


@dataclass(frozen=True)
class NetworkFile:
    """A published network.

    Attributes:
        stage: whose representation it reads.
        file: its state dict, ``.safetensors`` or what ``torch.save`` writes; ``$NAME`` is an environment variable.
    """

    stage: str
    file: str


@register.method
@dataclass(frozen=True)
class Rathjens(Method):
    r"""The inverse networks that Rathjens et al. publish, from their PyTorch files.

    Each file is the network of one component; a stage is inverted by all of them from it to the image, one after the
    other, as with `modular`. Files are read without unpickling code. Every tensor must have the name and the shape
    that the published class has for this model; the first that has not is named with both shapes.

    A ``stage`` that the model does not have may stand for the first file alone, which then says itself what it reads:
    the published networks of DETR end at the backbone's map after its projection to 256 channels, no stage here, so
    that `backbone` itself is refused.

    Attributes:
        networks: files, from the image on: each gives what the one before reads, the first the image. ``[{stage =
            "embed", file = "$RUNS/a/model_states/inv_vit_bb"}, {stage = "block12", file = ...}]`` is a whole ViT-B/16.
        normalisation: what the model was fed with when they were trained: images as its ``checkpoint`` wants them, or
            ``none``: as they are, in [0, 1]. A model that is fed otherwise is refused.

    Cost:
        None to fit; an image takes one forward pass through the chain.
    Use:
        To hold one's own inverses against those of the paper, on the same images.
    Pitfalls:
        Their ViT-B/16 was fed without normalisation: it needs ``source = "unnormalised:timm:vit_base_patch16_224"``
        and ``normalisation = "none"``. DeiT-III, Swin and DETR were fed as their checkpoints want. Photos were
        squashed, not cropped: ``geometry = "squash"`` in the data, for DETR to 480 x 640. Batch-normalised decoders
        are run on the statistics of their training. They are not of ``architecture = "paper"``, whose networks follow
        the paper's text for models of any size: no file of theirs fits one of those.
    Source:
        Rathjens et al. 2024, arXiv 2412.06534; code: github.com/wiskott-lab/inverse-tvm.
    """

    networks: tuple[NetworkFile, ...] = ()
    normalisation: Literal["checkpoint", "none"] = "checkpoint"

    name = "rathjens"
    family: ClassVar[Family] = "modular"
    source = "Rathjens et al. 2024, arXiv 2412.06534"

    def params(self) -> dict[str, Any]:
        """Return the parameters with the digest of every file: what a file holds decides the reconstructions."""
        return super().params() | {"sha256": [_digest(network.file) for network in self.networks]}

    def fit(self, problem: Problem) -> Fitted:
        """Load the networks.

        Raises:
            NotApplicable: if the model is fed otherwise than the one they were trained on.
            Unavailable: if no file is named, or one is not there.
            UsageError: for a stage that the model does not have.
            WeightsError: for a file that is damaged or does not fit, naming the tensor.
        """
        model = problem.model
        if not self.networks:
            raise Unavailable(f"'{self.name}' loads published networks: name their files, networks = [{{stage, file}}]")
        _check_normalisation(model, self.normalisation)
        modules = load_networks(model, self.networks)
        read = list(modules)
        chains, refused, parameters = {}, {}, {}
        for stage in problem.stages:
            if stage not in modules:
                parameters[stage] = 0
                refused[stage] = NotApplicable(
                    f"no published network reads stage '{stage}'; there are: {', '.join(read)}"
                )
                continue
            chain = [modules[name] for name in read[: read.index(stage) + 1]]
            chains[stage] = nn.Sequential(*reversed(chain)).to(problem.device)
            parameters[stage] = sum(p.numel() for module in chain for p in module.parameters())
        digests = dict(zip(read, self.params()["sha256"], strict=True))
        notes = {stage: {"networks": {s: digests[s] for s in read[: read.index(stage) + 1]}} for stage in chains}
        cost = FitCost(image_passes=dict.fromkeys(problem.stages, 0), parameters=parameters)
        return Fitted(_Loaded(chains), cost, notes, refused)


@dataclass(frozen=True)
class _Loaded(Inverter):
    """Runs a chain of loaded networks per stage; their files are what is kept of it."""

    chains: Mapping[str, nn.Module]

    @torch.no_grad()
    def invert(self, representation: Representation) -> torch.Tensor:
        """Return reconstructions (B, 3, H, W) in [0, 1]."""
        images: torch.Tensor = self.chains[representation.stage](representation.tensor)
        return images.clamp(0, 1)


def load_networks(model: Model, networks: Sequence[NetworkFile]) -> dict[str, nn.Module]:
    """Return the networks by the stage that they read, in the order of the model's chain.

    Raises:
        UsageError: for a stage that the model does not have, or stages out of order.
        WeightsError: for a file that does not fit.
    """
    target, modules = image_layout(model.image_size), {}
    position = -1
    for number, network in enumerate(networks):
        state = read_state(network.file)
        known = network.stage in model.stages
        source = model.layout(network.stage) if known else ladder_source(state, target) if number == 0 else None
        if source is None:
            raise unknown_name(f"stage of model '{model.name}'", network.stage, model.stages)
        if known and model.position(network.stage) <= position:
            raise UsageError(f"stage '{network.stage}' stands behind a later one: networks go from the image on")
        position = model.position(network.stage) if known else position
        try:
            modules[network.stage] = published_network(state, source, target)
        except WeightsError as error:
            raise WeightsError(f"network '{network.file}' at stage '{network.stage}': {error}") from error
        target = source
    return modules


def read_state(file: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a state dict, or of the one model in a training checkpoint.

    Raises:
        MissingPath: if the file is not there.
        WeightsError: if it cannot be read, or holds something else.
    """
    path = expand_path(file)
    tree = read_file(path)
    if isinstance(tree, dict) and isinstance(tree.get("model_states"), dict):
        models = tree["model_states"]
        if len(models) != 1:
            raise WeightsError(f"checkpoint '{path}' holds {len(models)} networks: name a file of 'model_states'")
        (tree,) = models.values()
    if not isinstance(tree, dict) or not all(isinstance(value, torch.Tensor) for value in tree.values()):
        raise WeightsError(f"'{path}' is no state dict: it must hold tensors by name")
    return {key.removeprefix("_orig_mod.").removeprefix("module."): value for key, value in tree.items()}


def _check_normalisation(model: Model, wanted: str) -> None:
    if (model.origin.normalisation == UNNORMALISED) == (wanted == "none"):
        return
    if wanted == "none":
        raise NotApplicable(
            f"these networks were trained on a model that is fed without normalisation, '{model.name}' normalises: "
            "put 'unnormalised:' in front of its source"
        )
    raise NotApplicable(
        f"model '{model.name}' is fed without normalisation: set normalisation = \"none\" if these networks were "
        "trained so, or load it as its checkpoint wants"
    )


def _digest(file: str) -> str:
    """Return the SHA-256 of a file; "" where it is not there."""
    try:
        return file_digest(expand_path(file))
    except (Unavailable, OSError):
        return ""
