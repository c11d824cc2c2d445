"""Faults of measures."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

from invsuite.metrics import make_metric, perceptual
from invsuite.metrics.backbones import BACKBONES, FEATURES, Backbone, install, tensor_digest
from invsuite.metrics.base import Values
from invsuite.metrics.checks import check_measures
from invsuite.metrics.perceptual import Perceptual
from invsuite.selftest.base import Fault, Trial, after, plant, swapped

GUARD = "invsuite.metrics.checks.check_measures"


def _check(name: str) -> Trial:
    return lambda: check_measures([make_metric(name)])


def _pooled(values: Values) -> Values:
    """Return what a PSNR of the whole batch gives: one number for all images, of their mean squared error."""
    errors = [10 ** (-v / 10) for v in values.per_image if v is not None]
    return Values([-10 * float(torch.tensor(errors).mean().log10())] * len(values.per_image))


def _with_range(data_range: float) -> Any:
    return lambda original: lambda *args, **kwargs: original(*args, **(kwargs | {"data_range": data_range}))


def _in_255(original: Any) -> Any:
    """Return a measure with a data range of 1 that gets pixels in [0, 255]."""

    def compute(self: Any, scoring: Any) -> Any:
        subject = replace(scoring.subject, images=255 * scoring.images)
        return original(self, replace(scoring, subject=subject, reconstructions=255 * scoring.reconstructions))

    return compute


def _in_degrees(turn_hue: Any) -> Any:
    return lambda image, mask, turns: turn_hue(image, mask, 360 * turns)


@contextmanager
def stand_in(*nets: str) -> Iterator[dict[str, torch.nn.Module]]:
    """Stand in for backbones by random weights under digests of their own, in a cache of their own.

    All is right about them but their values.
    """
    networks, backbones = {}, {}
    with TemporaryDirectory() as folder, swapped("torch.hub:get_dir", lambda _: lambda: folder):
        for net in nets:
            networks[net] = _random(BACKBONES[net])
            backbones[net] = replace(BACKBONES[net], sha256=tensor_digest(networks[net].state_dict()))
            backbones[net].path.parent.mkdir(exist_ok=True)
            save_features(networks[net], backbones[net].path)
        with patch.dict(BACKBONES, backbones):
            _forget_networks()
            yield networks
        _forget_networks()


def _random(backbone: Backbone) -> torch.nn.Module:
    """Return its network with random weights under which activations keep their size from layer to layer."""
    network = backbone.network().to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weights in network.state_dict().values():
        weights.normal_(std=(2 / weights[0].numel()) ** 0.5 if weights.ndim == 4 else 0.01, generator=generator)
    return network.eval().requires_grad_(False)


def save_features(network: torch.nn.Module, path: Path) -> None:
    """Save a backbone's layers by torchvision's names."""
    save_file({FEATURES + name: weights for name, weights in network.state_dict().items()}, path)


def _forget_networks() -> None:
    """Drop the loaded backbones, which outlive a trial: the stand-in must not."""
    for kept in vars(perceptual).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


def _inputs(measure: str) -> Trial:
    """Return the trial of what the backbone of a measure is shown."""

    def trial() -> None:
        with stand_in(_net(measure)):
            check_measures([make_metric(measure)])

    return trial


def _net(measure: str) -> str:
    metric = make_metric(measure)
    assert isinstance(metric, Perceptual)
    return metric.net


def backbone(path: Path) -> Path:
    """Return the backbone file of the cache; the fault puts other weights there."""
    return path


def _weights(measure: str) -> Trial:
    """Return the trial of the weights that a measure finds in the cache."""

    def trial() -> None:
        net = _net(measure)
        with stand_in(net):
            backbone(BACKBONES[net].path)
            make_metric(measure).prepare(torch.device("cpu"))

    return trial


def _other_weights(path: Path) -> Path:
    weights = load_file(path)
    save_file({key: torch.randn_like(value) for key, value in weights.items()}, path)
    return path


def _another_network(path: Path) -> Path:
    save_features(_random(BACKBONES["squeeze"]), path)
    return path


def _shown(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a wrap of a distance that sends its two batches of images through ``change``."""
    return lambda original: lambda self, a, b, *args, **kwargs: original(self, change(a), change(b), *args, **kwargs)


def _lpips_layout() -> None:
    """Take the backbone from a pickle of arrays, which lie as (H, W, in, out) in it."""
    with stand_in("alex") as networks, TemporaryDirectory() as folder:
        path = Path(folder) / "alexnet.ckpt"
        path.write_bytes(flax_pickle(networks["alex"]))
        install(path, [BACKBONES["alex"]])


def flax_pickle(network: torch.nn.Module) -> bytes:
    """Return the convolutions of ``network`` as a flax model pickled as numpy arrays."""
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    table = {}
    for number, layer in enumerate(layers):
        assert layer.bias is not None
        table[f"Conv_{number}"] = {"kernel": layer.weight.permute(2, 3, 1, 0).numpy(), "bias": layer.bias.numpy()}
    return pickle.dumps({"Net_0": table}, protocol=3)


def _turned(original: Any) -> Any:
    """Return a reader of flax models that takes the rows of a kernel for its columns."""

    def read(*args: Any) -> dict[str, torch.Tensor]:
        weights = original(*args)
        return {name: value.mT.contiguous() if value.ndim == 4 else value for name, value in weights.items()}

    return read


FAULTS = (
    Fault(
        "batch-averaged PSNR",
        "Psnr.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Psnr.compute", after(_pooled)),
        _check("psnr"),
        "measure 'psnr' gives",
    ),
    Fault(
        "PSNR with a data range of 255",
        "torchmetrics' PSNR",
        GUARD,
        plant("torchmetrics.functional.image:peak_signal_noise_ratio", _with_range(255.0)),
        _check("psnr"),
        "measure 'psnr' gives",
    ),
    Fault(
        "SSIM of pixels in [0, 255] with a data range of 1",
        "Ssim.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Ssim.compute", _in_255),
        _check("ssim"),
        "measure 'ssim' gives",
    ),
    Fault(
        "a measure that is a constant",
        "Ssim.compute",
        GUARD,
        plant("invsuite.metrics.fidelity:Ssim.compute", after(lambda found: Values([0.9] * len(found.per_image)))),
        _check("ssim"),
        "measure 'ssim' gives 0.9000",
    ),
    Fault(
        "a measure that gives NaN",
        "Psnr.compute",
        "invsuite.metrics.base.Values",
        plant(
            "invsuite.metrics.fidelity:Psnr.compute",
            after(lambda found: Values([float("nan")] * len(found.per_image))),
        ),
        _check("psnr"),
        "its value must be None",
    ),
    Fault(
        "hue in degrees instead of turns",
        "the edit of HueGain",
        GUARD,
        plant("invsuite.metrics.colour:turn_hue", _in_degrees),
        _check("hue_gain"),
        "measure 'hue_gain' gives",
    ),
    Fault(
        "LPIPS fed [0, 1] instead of [-1, 1]",
        "lpips.LPIPS.forward",
        GUARD,
        plant(
            "lpips:LPIPS.forward",
            lambda original: lambda self, a, b, **kwargs: original(self, a, b, **(kwargs | {"normalize": False})),
        ),
        _inputs("lpips"),
        "measure 'lpips' shows its backbone values that are off",
    ),
    Fault(
        "LPIPS fed BGR",
        "lpips.LPIPS.forward",
        GUARD,
        plant("lpips:LPIPS.forward", _shown(lambda images: images.flip(1))),
        _inputs("lpips_squeeze"),
        "measure 'lpips_squeeze' shows its backbone values that are off",
    ),
    Fault(
        "LPIPS fed images whose rows are columns",
        "lpips.LPIPS.forward",
        GUARD,
        plant("lpips:LPIPS.forward", _shown(lambda images: images.mT)),
        _inputs("lpips_squeeze"),
        "measure 'lpips_squeeze' shows its backbone values that are off",
    ),
    Fault(
        "DISTS fed [-1, 1] instead of [0, 1]",
        "torchmetrics' DISTSNetwork.forward",
        GUARD,
        plant("torchmetrics.functional.image.dists:DISTSNetwork.forward", _shown(lambda images: 2 * images - 1)),
        _inputs("dists"),
        "measure 'dists' shows its backbone values that are off",
    ),
    Fault(
        "LPIPS with a random backbone",
        "the backbone in the hub cache",
        "invsuite.metrics.backbones.read_backbone",
        plant(f"{__name__}:backbone", lambda _: _other_weights),
        _weights("lpips"),
        "holds other weights of alexnet than the published ones",
    ),
    Fault(
        "LPIPS with another network's backbone",
        "the backbone in the hub cache",
        "invsuite.metrics.backbones.read_backbone",
        plant(f"{__name__}:backbone", lambda _: _another_network),
        _weights("lpips"),
        "that of the published features",
    ),
    Fault(
        "DISTS with a random backbone",
        "the backbone in the hub cache",
        "invsuite.metrics.backbones.read_backbone",
        plant(f"{__name__}:backbone", lambda _: _other_weights),
        _weights("dists"),
        "holds other weights of vgg16 than the published ones",
    ),
    Fault(
        "LPIPS with kernels whose rows are columns",
        "invsuite.metrics.backbones.from_flax",
        "invsuite.metrics.backbones.read_backbone",
        plant("invsuite.metrics.backbones:from_flax", _turned),
        _lpips_layout,
        "holds other weights of alexnet than the published ones",
    ),
)
