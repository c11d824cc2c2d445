"""Faults of models and their weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch

from invsuite.models.adapters.bundled import FOLDER
from invsuite.models.adapters.onnx import PACKAGES
from invsuite.models.checks import check_chain
from invsuite.models.load import load_model
from invsuite.selftest.base import Fault, after, plant, swapped
from invsuite.selftest.bench import bench_trial


def _before_fit(meddle: Callable[[Any], object]) -> Any:
    """Return a ridge that does something to the model before it fits."""

    def wrap(original: Any) -> Any:
        def fit(self: Any, problem: Any) -> Any:
            meddle(problem.model)
            return original(self, problem)

        return fit

    return wrap


def _swap_channels(model: Any) -> Any:
    """Show BGR to the chain's first component, and RGB to the network's own forward pass."""
    first = model.components[0].module
    forward = first.forward
    first.forward = lambda images: forward(images.flip(1))
    return model


@contextmanager
def _truncated() -> Iterator[None]:
    """Cut the bundled weights short."""
    with TemporaryDirectory() as folder:
        for item in Path(str(FOLDER)).glob("*.json"):
            shutil.copy(item, folder)
        for item in Path(str(FOLDER)).glob("*.safetensors"):
            (Path(folder) / item.name).write_bytes(item.read_bytes()[:-1000])
        with swapped("invsuite.models.adapters.bundled:FOLDER", lambda _: Path(folder)):
            yield


def _load_bundled() -> None:
    load_model("bundled:vit")


class _RunsCode:
    """A pickle of this runs code of the file's choosing when it is loaded."""

    def __reduce__(self) -> Any:
        return (print, ("code from a checkpoint ran",))


def contents() -> dict[str, Any]:
    """Return what is in the checkpoint that `_load_checkpoint` loads: tensors alone."""
    return dict(timm.create_model("test_vit").state_dict())


def _load_checkpoint() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(contents(), path)
        load_model(f"timm:test_vit@{path}", "local")


CARD = """
input = "images"
[prediction]
task = "classification"
logits = "logits"
"""


def _check_onnx() -> None:
    """Check the chain of a small ONNX file: a convolution, an activation and a mean."""
    import onnx
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["features"]),
        helper.make_node("Elu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [None, 3, 8, 8])
    weight = numpy_helper.from_array(torch.linspace(-1, 1, 12).view(4, 3, 1, 1).numpy(), "weight")
    graph = helper.make_graph(nodes, "small", [images], [helper.make_empty_tensor_value_info("logits")], [weight])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        path.with_suffix(".toml").write_text(CARD, encoding="utf-8")
        check_chain(load_model(f"onnx:{path}", "small"), torch.rand(2, 3, 8, 8))


#: what only an installation with the packages for ONNX files can try
ONNX_FAULTS = (
    Fault(
        "wrong ONNX operator",
        "invsuite.models.onnx.ops",
        "invsuite.models.checks.check_chain",
        plant("invsuite.models.onnx.graph:OPERATORS", lambda operators: operators | {"Elu": operators["Relu"]}),
        _check_onnx,
        "differ from the network's own",
    ),
)

FAULTS = (
    *(ONNX_FAULTS if all(map(find_spec, PACKAGES)) else ()),
    Fault(
        "model in train mode",
        "Ridge.fit",
        "Model.check_frozen",
        plant("invsuite.methods.ridge:Ridge.fit", _before_fit(lambda model: model.network.train())),
        bench_trial(),
        "is in train mode",
    ),
    Fault(
        "trainable model weights",
        "Ridge.fit",
        "Model.check_frozen",
        plant("invsuite.methods.ridge:Ridge.fit", _before_fit(lambda model: model.network.requires_grad_(True))),
        bench_trial(),
        "is trainable, expected frozen",
    ),
    Fault(
        "model weights changed by a method",
        "Ridge.fit",
        "invsuite.benchmark.runner",
        plant(
            "invsuite.methods.ridge:Ridge.fit",
            _before_fit(lambda model: next(model.network.parameters()).data.add_(1e-3)),
        ),
        bench_trial(),
        "changed the weights of model",
    ),
    Fault(
        "wrong mean and std",
        "Normalise",
        "invsuite.models.checks.check_normalisation",
        plant(
            "invsuite.models.base:Normalise.__init__",
            lambda original: lambda self, mean, std: original(self, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ),
        bench_trial(),
        "its checkpoint's configuration says",
    ),
    Fault(
        "adapter feeds the model BGR",
        "invsuite.models.adapters.bundled.bundled_chain",
        "invsuite.models.checks.check_chain",
        plant("invsuite.models.adapters.bundled:bundled_chain", after(_swap_channels)),
        bench_trial(),
        "differ from the network's own",
    ),
    Fault(
        "weights file cut short",
        "the bundled weights",
        "invsuite.models.adapters.bundled.load",
        _truncated,
        _load_bundled,
        "the file is damaged",
    ),
    Fault(
        "checkpoint that needs unpickling",
        "a local checkpoint",
        "invsuite.models.checkpoint.read_file",
        plant(f"{__name__}:contents", after(lambda tensors: tensors | {"hook": _RunsCode()})),
        _load_checkpoint,
        "which loading would have to run",
    ),
)
