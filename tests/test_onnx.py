"""An ONNX graph over torch says what onnxruntime says, and its stages are a chain like any other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from invsuite.data.folder import PhotoFolder
from invsuite.data.geometry import Geometry
from invsuite.data.split import Split
from invsuite.errors import NotApplicable, Unavailable, UsageError, WeightsError
from invsuite.methods import make_method
from invsuite.methods.problem import Budget, Problem
from invsuite.models.adapters import onnx as adapter
from invsuite.models.base import Model
from invsuite.models.checks import check_chain
from invsuite.models.load import load_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from invsuite.models.onnx.graph import OnnxGraph
from invsuite.models.onnx.ops import OPERATORS


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def tensor(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


IMAGE = (2, 3, 8, 6)
POSITIVE = np.abs(tensor(*IMAGE)) + 0.1
# fmt: off
UNARY = (
    "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin",
    "Softmax", "Softplus", "Tanh", "Transpose",
)
# fmt: on

#: operator, inputs (None: left out), attributes
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    *((name, [tensor(*IMAGE)], {}) for name in UNARY),
    *((name, [POSITIVE], {}) for name in ("Log", "Sqrt")),
    *((name, [tensor(*IMAGE), tensor(3, 1, 6)], {}) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu")),
    ("Pow", [POSITIVE, np.float32(1.7)], {}),
    ("Div", [ints(7, -7, 9), ints(2, 2, 4)], {}),
    ("Sum", [tensor(2, 3), tensor(2, 3), tensor(3)], {}),
    ("Cast", [tensor(4, 5) * 4], {"to": 7}),
    ("Clip", [tensor(*IMAGE), np.float32(-0.3), np.float32(0.5)], {}),
    ("Clip", [tensor(*IMAGE), np.float32(-0.3), None], {}),
    ("Where", [tensor(4, 5) > 0, tensor(4, 5), tensor(5)], {}),
    *((name, [tensor(4, 5), tensor(5)], {}) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")),
    *((name, [tensor(4, 5) > 0, tensor(5) > 0], {}) for name in ("And", "Or")),
    ("Not", [tensor(4, 5) > 0], {}),
    ("Transpose", [tensor(*IMAGE)], {"perm": [0, 2, 3, 1]}),
    ("Reshape", [tensor(*IMAGE), ints(0, -1, 6)], {}),
    ("Flatten", [tensor(*IMAGE)], {"axis": 2}),
    ("Squeeze", [tensor(2, 1, 3, 1), ints(1, -1)], {}),
    ("Unsqueeze", [tensor(2, 3), ints(0, -1)], {}),
    ("Concat", [tensor(2, 3), tensor(2, 4)], {"axis": 1}),
    ("Split", [tensor(2, 7), ints(3, 4)], {"axis": -1}),
    ("Slice", [tensor(*IMAGE), ints(1, -5), ints(7, 6), ints(2, -1), ints(2, 1)], {}),
    ("Gather", [tensor(5, 4), np.array([[0, -1], [2, 1]], dtype=np.int64)], {"axis": 0}),
    ("Gather", [tensor(5, 4), np.array(2, dtype=np.int64)], {"axis": 1}),
    ("GatherElements", [tensor(3, 4), np.array([[0, -1], [2, 1], [1, 1]], dtype=np.int64)], {"axis": 1}),
    ("Tile", [tensor(2, 3), ints(2, 3)], {}),
    ("Expand", [tensor(2, 1, 3), ints(4, 1)], {}),
    ("ConstantOfShape", [ints(2, 3)], {}),
    ("Range", [np.int64(2), np.int64(9), np.int64(3)], {}),
    ("Shape", [tensor(*IMAGE)], {}),
    ("Pad", [tensor(*IMAGE), ints(0, 0, 1, 2, 0, 1, 3, 0), np.float32(0.5)], {}),
    ("Pad", [tensor(*IMAGE), ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "reflect"}),
    ("TopK", [tensor(3, 9), ints(4)], {"axis": -1}),
    ("ArgMax", [tensor(3, 9)], {"axis": 1, "keepdims": 0}),
    ("Conv", [tensor(*IMAGE), tensor(4, 3, 3, 2), tensor(4)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [tensor(2, 4, 5, 5), tensor(4, 1, 3, 3)], {"group": 4, "dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    ("ConvTranspose", [tensor(*IMAGE), tensor(3, 4, 3, 3), tensor(4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [tensor(*IMAGE)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [tensor(*IMAGE)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [tensor(*IMAGE)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("Gemm", [tensor(3, 4), tensor(5, 3), tensor(5)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMul", [tensor(2, 3, 4), tensor(4, 5)], {}),
    ("Einsum", [tensor(2, 3, 4), tensor(2, 4, 5)], {"equation": "bij,bjk->bik"}),
    ("LayerNormalization", [tensor(2, 3, 4), tensor(4), tensor(4)], {"epsilon": 1e-3}),
    ("BatchNormalization", [tensor(*IMAGE), tensor(3), tensor(3), tensor(3), np.abs(tensor(3)) + 0.1], {}),
    ("InstanceNormalization", [tensor(*IMAGE), tensor(3), tensor(3)], {}),
    ("GridSample", [tensor(*IMAGE), np.tanh(tensor(2, 5, 4, 2)) * 1.2], {"mode": "bilinear"}),
    ("GridSample", [tensor(*IMAGE), np.tanh(tensor(2, 5, 4, 2))], {"padding_mode": "border", "align_corners": 1}),
    *((name, [tensor(*IMAGE)], {"axes": [-1, 1], "keepdims": 0}) for name in ("ReduceMean", "ReduceMax", "ReduceMin")),
    ("ReduceL2", [tensor(*IMAGE)], {"axes": [1]}),
    ("ReduceSum", [tensor(*IMAGE), ints(2)], {}),
    ("ReduceMean", [tensor(*IMAGE)], {}),
    (
        "Resize",
        [tensor(*IMAGE), None, np.array([1, 1, 2, 2], dtype=np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    ("Resize", [tensor(*IMAGE), None, None, ints(2, 3, 13, 9)], {"mode": "linear"}),
    ("Resize", [tensor(*IMAGE), None, None, ints(2, 3, 16, 12)], {"mode": "cubic"}),
]


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_an_operator_says_what_onnxruntime_says(
    operator: str, inputs: list[np.ndarray | None], attributes: dict[str, Any], tmp_path: Path
) -> None:
    from onnx import helper, numpy_helper

    names = ["" if value is None else f"in{i}" for i, value in enumerate(inputs)]
    outputs = ["out0", "out1"] if operator in ("TopK", "Split") else ["out0"]
    arrays = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True) if value is not None}
    first, *constants = arrays.items()
    data = helper.make_tensor_value_info(first[0], helper.np_dtype_to_tensor_dtype(first[1].dtype), first[1].shape)
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, **attributes)],
        "one",
        [data],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    expected = session(path).run(None, dict([first]))
    with torch.no_grad():
        found = OnnxGraph(path)({first[0]: torch.tensor(first[1])}, tuple(outputs))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs), atol=2e-5, rtol=1e-4)


def export(network: nn.Module, path: Path, size: tuple[int, int], batch: int | None = None) -> Path:
    """The network as a user of torch would export it, for any batch or a fixed one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.rand(batch or 2, 3, *size),),
            str(path),
            opset_version=17,
            dynamo=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=None if batch else {"images": {0: "N"}},
        )
    return path


class Small(nn.Module):
    """A CNN with two scales that a chain must cut together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.GELU(), nn.MaxPool2d(2))
        self.head = nn.Linear(14, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.stem(images)
        coarse = self.deep(fine)
        return self.head(torch.cat([fine.mean((2, 3)), coarse.mean((2, 3))], 1))


def test_a_small_export_is_a_chain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Small().eval()
    path = export(network, tmp_path / "small.onnx", (16, 24))
    nodes = onnx.load(path).graph.node
    fine = next(n.output[0] for n in nodes if n.op_type == "Mul")
    coarse = next(n.output[0] for n in nodes if n.op_type == "MaxPool")
    (tmp_path / "small.toml").write_text(
        f'input = "images"\nmean = [0.4, 0.5, 0.6]\nstd = [0.2, 0.25, 0.3]\n'
        f'[prediction]\ntask = "classification"\nlogits = "logits"\n'
        f'[stages]\nfine = "{fine}"\ncoarse = "{coarse}"\nboth = ["{fine}", "{coarse}"]\n'
    )
    model = load_model(f"onnx:{path}", "small")
    assert model.stages == ("fine", "coarse", "both", "prediction")
    assert model.image_size == (16, 24)
    images = torch.rand(2, 3, 16, 24, requires_grad=True)
    normalised = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    answer = model.predict(images.detach()).logits
    torch.testing.assert_close(answer, network(normalised).detach(), atol=1e-5, rtol=1e-5)
    (theirs,) = session(path).run(None, {"images": normalised.detach().numpy()})
    torch.testing.assert_close(answer, torch.tensor(theirs), atol=1e-5, rtol=1e-5)
    found = model.represent(images.detach(), model.stages)
    torch.testing.assert_close(found["fine"].tensor, network.stem(normalised).detach(), atol=1e-5, rtol=1e-5)
    both = found["both"]
    assert both.layout.shape == (14, 8, 12)
    assert both.layout.distinct == 6 * 8 * 12 + 8 * 2 * 3
    torch.testing.assert_close(model.run(both.tensor, "both", "prediction"), answer[:, None])
    torch.testing.assert_close(model.run(found["fine"].tensor, "fine", "prediction"), answer[:, None])
    with pytest.raises(NotApplicable, match="run it from 'fine'"):
        model.run(found["coarse"].tensor, "coarse", "prediction")
    model.run(images, None, "prediction").sum().backward()
    assert float(images.grad.abs().sum()) > 0
    model.check_frozen()


@pytest.mark.parametrize("batch", [None, 1])
def test_a_wrong_operator_does_not_pass_the_check_of_the_chain(
    batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is onnxruntime's answer, whose operators are not ours."""
    torch.manual_seed(0)
    path = export(Small().eval(), tmp_path / "small.onnx", (16, 24), batch)
    card = 'input = "images"\n[prediction]\ntask = "classification"\nlogits = "logits"\n'
    (tmp_path / "small.toml").write_text(card)
    images = torch.rand(3, 3, 16, 24)
    model = load_model(f"onnx:{path}", "small")
    check_chain(model, images)
    (theirs,) = session(path).run(None, {"images": images[:1].numpy()})
    assert np.array_equal(model.reference(images).logits[:1].numpy(), theirs)
    monkeypatch.setitem(OPERATORS, "Sigmoid", OPERATORS["HardSwish"])
    with pytest.raises(WeightsError, match="differ from the network's own"):
        check_chain(model, images)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_a_file_is_refused(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None if name == package else True)
    with pytest.raises(Unavailable, match=rf"'onnx:a\.onnx' needs {package}: pip install 'invsuite\[onnx\]'$"):
        load_model("onnx:a.onnx", "m")


def test_an_exported_vit_holds_what_the_vit_holds(vit: Model, tmp_path: Path) -> None:
    """Tokens of a transformer that torch exported, stage by stage, against the same network's own chain."""
    path = export(vit.network, tmp_path / "vit.onnx", vit.image_size)
    graph = onnx.load(path).graph
    blocks = [n.output[0] for n in graph.node if n.op_type == "Add" and "/blocks." in n.output[0]]
    names = {b: [n for n in blocks if f"/blocks.{b}/Add_1" in n] for b in (2, 5)}
    card = 'input = "images"\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\n'
    card += '[prediction]\ntask = "classification"\nlogits = "logits"\n[stages]\n'
    for number, found in ((3, names[2]), (6, names[5])):
        card += f'block{number:02d} = {{ tensors = "{found[0]}", kind = "tokens", grid = [12, 12], prefix = 1 }}\n'
    (tmp_path / "card.toml").write_text(card)
    model = load_model(f"onnx:{path}@{tmp_path / 'card.toml'}", "exported")
    images = torch.rand(2, 3, 96, 96)
    ours, theirs = (m.represent(images, ("block03", "block06")) for m in (model, vit))
    for stage in ours:
        assert ours[stage].layout == theirs[stage].layout
        torch.testing.assert_close(ours[stage].tensor, theirs[stage].tensor, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.predict(images).logits, vit.predict(images).logits, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = export(Small().eval(), tmp_path / "small.onnx", (16, 24))
    with pytest.raises(Unavailable, match="does not exist"):
        load_model(f"onnx:{tmp_path / 'no.onnx'}", "m")
    with pytest.raises(UsageError, match=r"needs a card .* write small\.toml beside it"):
        load_model(f"onnx:{path}", "m")
    head = 'input = "images"\n[prediction]\ntask = "classification"\nlogits = "logit"\n'
    (tmp_path / "small.toml").write_text(head)
    with pytest.raises(UsageError, match="'logit', which is no tensor of the graph: did you mean logits"):
        load_model(f"onnx:{path}", "m")
    (tmp_path / "small.toml").write_text(head.replace("task", "taks"))
    with pytest.raises(UsageError, match=r"unknown key 'prediction\.taks': did you mean prediction\.task"):
        load_model(f"onnx:{path}", "m")
    tokens = '[stages]\na = { tensors = "logits", kind = "map" }\n'
    (tmp_path / "small.toml").write_text(head.replace('"logit"', '"logits"') + tokens)
    with pytest.raises(UsageError, match="stage 'a': tensors of shapes"):
        load_model(f"onnx:{path}", "m")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be read as ONNX"):
        load_model(f"onnx:{path}", "m")
    from onnx import helper

    info = helper.make_empty_tensor_value_info
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "g", [info("x")], [info("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    with pytest.raises(UsageError, match="not supported: NonZero"):
        load_model(f"onnx:{path}", "m")


@pytest.fixture(scope="module")
def detector(extra_data: Path) -> tuple[Model, Path]:
    path = extra_data / "models" / "deimv2_hgnetv2_atto_coco.onnx"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return load_model(f"onnx:{path}", "deimv2"), path


def photos(extra_data: Path, folder: str, count: int) -> Split:
    return Split(PhotoFolder(extra_data / folder, Geometry((320, 320), "squash")), tuple(range(count)))


def test_the_real_detector_answers_as_onnxruntime_does(detector: tuple[Model, Path], extra_data: Path) -> None:
    """Boxes and scores of 8 photos. Its own postprocessing ranks (query, class) pairs by score: the same is done here
    to the chain's predictions, and pairs are compared where neighbours in rank are not level within rounding."""
    model, path = detector
    assert model.image_size == (320, 320)
    images = photos(extra_data, "coco/tiny_coco/val2017", 8).images(slice(None))
    size = np.full((8, 2), 320, dtype=np.int64)
    labels, boxes, scores = session(path).run(None, {"images": images.numpy(), "orig_target_sizes": size})
    answer = model.predict(images)
    check_chain(model, images)
    assert answer.logits.shape == (8, 100, 80)
    assert not answer.no_object
    ranked, order = answer.logits.sigmoid().flatten(1).topk(50)
    torch.testing.assert_close(ranked, torch.tensor(scores[:, :50]), atol=1e-4, rtol=0)
    centre, extent = answer.boxes[..., :2], answer.boxes[..., 2:]
    corners = torch.cat([centre - extent / 2, centre + extent / 2], -1) * 320
    apart = (ranked[:, :-1] - ranked[:, 1:] > 1e-4).numpy()
    clear = np.pad(apart, ((0, 0), (1, 0)), constant_values=True) & np.pad(apart, ((0, 0), (0, 1)))
    assert clear.sum() > 200
    found = corners.gather(1, (order // 80)[..., None].expand(-1, -1, 4)).numpy()
    assert np.abs(found - boxes[:, :50])[clear].max() < 0.05, "pixels"
    assert (((order % 80).numpy() == labels[:, :50]) | ~clear).all()
    assert (scores[:, 0] > 0.4).sum() >= 5, "it does see objects"


def test_the_real_detectors_stages_invert(detector: tuple[Model, Path], extra_data: Path) -> None:
    """Every family of methods, end to end on a few photos; ridge at the shallowest stage is far above the mean. (Ridge
    reads all queries at once, 6400 values: minutes of algebra, which photos do not make shorter.)"""
    model, _ = detector
    assert model.stages[:4] == ("backbone1", "backbone2", "backbone", "encoder")
    stages = ("backbone1", "encoder", "decoder", "prediction")
    fit = photos(extra_data, "photos/train/nips2017", 12)
    budget = Budget(image_passes=8, batch=4)
    problem = Problem(model, stages, stages, fit, photos(extra_data, "coco/coco128/train2017", 4), budget, 0)
    images = photos(extra_data, "coco/tiny_coco/val2017", 2).images(slice(None))
    found = model.represent(images, stages)
    psnr: dict[str, dict[str, float]] = {}
    small = {"width": 8, "depth": 1}
    for name, params in (
        ("mean", {}),
        ("ridge", {}),
        ("layerwise", small),
        ("modular", small),
        ("optimisation", {"iterations": 2, "search_images": 1}),
    ):
        asked = stages[:2] if name == "ridge" else stages
        fitted = make_method(name, params).fit(replace(problem, stages=asked))
        for stage in asked:
            made = fitted.invert(found[stage], images).detach()
            assert made.shape == images.shape
            assert 0 <= float(made.min()) <= float(made.max()) <= 1
            error = (made - images).square().mean((1, 2, 3))
            psnr.setdefault(name, {})[stage] = float((-10 * error.log10()).mean())
    assert psnr["ridge"]["backbone1"] > psnr["mean"]["backbone1"] + 5
    model.check_frozen()
