"""Networks that no adapter knows: a compact convolutional transformer, a post-norm encoder, the encoder of a U-Net."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import invoke, small_suite
from torch import nn

import invsuite
from invsuite.errors import MissingPath, NotApplicable, OutsideError, UsageError, WeightsError
from invsuite.methods import make_method
from invsuite.methods.problem import Problem
from invsuite.models.base import Layout, Model
from invsuite.models.checks import check_chain
from invsuite.models.layout_inference import Evidence, arrangement_of_shape, batch_axis
from invsuite.models.load import load_model, name_of, needs
from invsuite.selftest.contracts import MODEL_CONTRACTS, check_unit, try_contracts

SIZE = 32
STATISTICS: dict[str, Any] = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


class Attention(nn.Module):
    """Pre-norm attention and an MLP, by hand: no class of a library."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return x + self.mlp(x)


class CCT(nn.Module):
    """Hassani et al. 2021, arXiv 2104.05704: a convolutional tokenizer, no class token, attention pooling."""

    def __init__(self, width: int = 24, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.tokenizer = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        self.position = nn.Parameter(0.2 * torch.randn(1, (SIZE // 4) ** 2, width))
        self.blocks = nn.ModuleList(Attention(width) for _ in range(3))
        self.norm, self.pool, self.head = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.tokenizer(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head((self.pool(tokens).softmax(1).transpose(1, 2) @ tokens).squeeze(1))


class PostNorm(nn.Module):
    """A ViT of `nn.TransformerEncoder` as PyTorch has it by default: post-norm, the sequence before the batch."""

    def __init__(self, width: int = 24, grid: int = 4, classes: int = 5) -> None:
        super().__init__()
        self.side = SIZE // grid
        self.embed = nn.Linear(3 * self.side**2, width)
        self.cls = nn.Parameter(0.2 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.2 * torch.randn(1, grid**2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        patches = nn.functional.unfold(images, self.side, stride=self.side).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(images), -1, -1), self.embed(patches)], 1) + self.pos_embed
        tokens = self.encoder(tokens.transpose(0, 1))
        return {"logits": self.head(tokens[0])}


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net, whose answer is the map of every level, for one input channel."""

    def __init__(self) -> None:
        super().__init__()

        def level(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))

        self.levels = nn.ModuleList([level(1, 8), level(8, 12), level(12, 16)])
        self.down = nn.MaxPool2d(2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.levels[0](images)]
        for level in list(self.levels)[1:]:
            maps.append(level(self.down(maps[-1])))
        return maps


def last(maps: list[torch.Tensor]) -> torch.Tensor:
    return maps[-1]


def cct(**changes: Any) -> Model:
    torch.manual_seed(1)
    stages = {"tokenizer": "tokenizer", "block1": "blocks.0", "block2": "blocks.1", "norm": "norm"}
    return Model.from_module(CCT(), **({"stages": stages, "size": SIZE, "name": "cct"} | STATISTICS | changes))


def post_norm(**changes: Any) -> Model:
    torch.manual_seed(1)
    stages = {"layer3": "encoder.layers.2", "layer1": "encoder.layers.0", "embed": "embed"}
    return Model.from_module(PostNorm(), **({"stages": stages, "size": SIZE} | STATISTICS | changes))


def unet(**changes: Any) -> Model:
    torch.manual_seed(1)
    given = {"stages": {f"level{n}": f"levels.{n - 1}" for n in (1, 2, 3)}, "size": (SIZE, 48), "answer": last}
    return Model.from_module(UNetEncoder(), **(given | {"mean": [0.5], "std": [0.25]} | changes))


def tokens(channels: int, side: int, prefix: int = 0) -> Layout:
    return Layout("tokens", channels, (side, side), side**2 + prefix, prefix)


MODELS: dict[str, tuple[Callable[..., Model], dict[str, Layout], str, list[int]]] = {
    "CCT": (
        cct,
        {
            "tokenizer": Layout("map", 24, (8, 8)), "block1": tokens(24, 8), "block2": tokens(24, 8),
            "norm": tokens(24, 8), "head": Layout("predictions", 5, None, 1),
        },
        "'cct' is read as: tokenizer map 8x8, 24 channels; block1, block2, norm tokens 8x8, 24 channels; "
        "head 5 classes",
        [0, 1, 1, 1, 0],
    ),
    "post-norm": (
        post_norm,
        {
            "embed": tokens(24, 4), "layer1": tokens(24, 4, 1), "layer3": tokens(24, 4, 1),
            "head": Layout("predictions", 5, None, 1),
        },
        "'PostNorm' is read as: embed tokens 4x4, 24 channels; layer1, layer3 tokens 4x4+1, 24 channels; "
        "head 5 classes",
        [0, 1, 2, 0],
    ),
    "U-Net encoder": (
        unet,
        {
            "level1": Layout("map", 8, (32, 48)), "level2": Layout("map", 12, (16, 24)),
            "level3": Layout("map", 16, (8, 12)), "head": Layout("map", 16, (8, 12)),
        },
        "'UNetEncoder' is read as: level1 map 32x48, 8 channels; level2 map 16x24, 12 channels; level3 map 8x12, "
        "16 channels; head an embedding, map 8x12, 16 channels",
        [0, 0, 0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_unknown_networks_come_apart_and_keep_every_contract(kind: str) -> None:
    """Stages are in the network's order, whatever the order in which they were named."""
    build, layouts, said, _ = MODELS[kind]
    model = build()
    assert {stage: model.layout(stage) for stage in model.stages} == layouts
    assert tuple(model.stages) == tuple(layouts)
    assert model.remarks == (said,)
    assert model.uncut == ""
    verdicts = try_contracts("model", kind, MODEL_CONTRACTS, model)
    assert [verdict.outcome for verdict in verdicts] == ["kept"] * len(verdicts)
    images = torch.rand(4, 3, *model.image_size)
    at = model.represent(images, model.stages)
    for before, stage in zip(model.stages, model.stages[1:], strict=False):
        torch.testing.assert_close(model.run(at[before].tensor, before, stage), at[stage].tensor, atol=1e-5, rtol=1e-4)
    other = model.randomised(3)
    assert other.origin.random
    check_chain(other, images)
    assert not torch.allclose(other.predict(images).logits, model.predict(images).logits)


def test_representations_are_what_the_modules_give() -> None:
    model = post_norm()
    network: Any = model.network
    seen: list[torch.Tensor] = []
    handle = network.encoder.layers[0].register_forward_hook(lambda module, args, answer: seen.append(answer))
    images = torch.rand(3, 3, SIZE, SIZE)
    mean, std = (torch.tensor(STATISTICS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        network((images - mean) / std)
    handle.remove()
    representation = model.represent(images, ["layer1"])["layer1"]
    torch.testing.assert_close(representation.tensor, seen[0].transpose(0, 1), atol=1e-5, rtol=1e-4)
    grey = torch.rand(2, 1, SIZE, 48)
    torch.testing.assert_close(
        unet().represent(grey.expand(-1, 3, -1, -1), ["level2"])["level2"].tensor,
        copy.deepcopy(unet().network)((grey - 0.5) / 0.25)[1],
        atol=1e-5,
        rtol=1e-4,
    )


def test_transformer_blocks_are_counted_by_their_attention() -> None:
    for build, _, _, blocks in MODELS.values():
        assert [component.blocks for component in build().components] == blocks


class Skipping(nn.Module):
    """A network whose end looks at its beginning again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a = self.a(images)
        return self.head((self.c(self.b(a).relu()) + a).relu().mean((2, 3)))


def test_where_it_does_not_come_apart_a_stage_reads_the_images(make_problem: Callable[..., Problem]) -> None:
    stages = {"a": "a", "b": "b", "c": "c"}
    model = Model.from_module(Skipping(), stages, size=SIZE, name="skipping", **STATISTICS)
    assert model.uncut == "head from the images: what follows module 'c' needs more than the representation there"
    assert [component.reads for component in model.components] == [None, None, None, "image"]
    images = torch.rand(2, 3, SIZE, SIZE)
    check_chain(model, images)
    at = model.represent(images, ["a", "c"])
    torch.testing.assert_close(model.run(at["a"].tensor, "a", "c"), at["c"].tensor)
    with pytest.raises(NotApplicable, match="run it from 'image'"):
        model.run(at["c"].tensor, "c", "head")
    problem = make_problem(model, ("a", "c"), passes=16, fit=16)
    methods: Mapping[str, dict[str, Any]] = {
        "ridge": {}, "nearest": {}, "optimisation": {"iterations": 1},
        "layerwise": {"width": 8, "depth": 1}, "modular": {"width": 8, "depth": 1},
    }  # fmt: skip
    for method, params in methods.items():
        reconstructions = make_method(method, params).fit(problem).invert(at["c"], images)
        assert reconstructions.shape == images.shape


def test_every_network_is_inverted(make_problem: Callable[..., Problem]) -> None:
    for build, layouts, _, _ in MODELS.values():
        model = build(size=SIZE)
        stages = tuple(layouts)[:-1]
        problem = make_problem(model, stages, passes=16, fit=16)
        images = torch.rand(2, 3, *model.image_size)
        for method, params in (("ridge", {}), ("layerwise", {"width": 8, "depth": 1})):
            fitted = make_method(method, params).fit(problem)
            for stage, representation in model.represent(images, stages).items():
                assert fitted.invert(representation, images).isfinite().all(), (method, stage)


class Several(nn.Module):
    """Modules that give no tensor of images, or several, or are called twice, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.never = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.pair, self.window, self.constant = Pair(), nn.Linear(8, 8), nn.Linear(8, 8)
        self.noise, self.head = nn.Identity(), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = self.twice(self.twice(x))
        x = self.pair(x)[0] + self.constant(torch.ones(1, 8))
        x = self.window(x.reshape(4 * len(x), 4, 8)).reshape(x.shape)
        return self.head(self.noise(x).mean(1))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return x * 1.5, {"weights": x.mean(1)}


def several(**changes: Any) -> Model:
    network = changes.pop("network", Several())
    return Model.from_module(network, **({"stages": {"x": "stem"}, "size": SIZE} | STATISTICS | changes))


class Noisy(nn.Identity):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


def noisy() -> nn.Module:
    network = Several()
    network.noise = Noisy()
    return network


def shuffled() -> nn.Module:
    """A ViT whose rows lie in another order than the image's."""
    network = CCT()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(5))
    network.norm = nn.Sequential(nn.LayerNorm(24), Order(order))
    return network


class Order(nn.Module):
    def __init__(self, order: torch.Tensor) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.order]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no stage": (lambda: several(stages={}), "no stage is named: stages="),
    "an unknown module": (lambda: several(stages={"x": "stm"}), "unknown module of stage 'x' 'stm': did you mean stem"),
    "a name with a plus": (lambda: several(stages={"a+b": "stem"}), r"stage name 'a\+b': letters, digits and"),
    "the answer": (lambda: several(stages={"head": "head"}), "'head' is the network's own answer, .*: leave it out"),
    "never called": (lambda: several(stages={"x": "never"}), "module 'never' of stage 'x' is never called"),
    "called twice": (lambda: several(stages={"x": "twice"}), "is called 2 times in a forward: name one that is"),
    "two tensors": (lambda: several(stages={"x": "pair"}), r"gives 2 tensors: name one of pair\[0\] \(3, 16, 8\)"),
    "no such tensor": (lambda: several(stages={"x": "pair[2]"}), r"gives 2 tensors, there is no \[2\]"),
    "windows": (lambda: several(stages={"x": "window"}), r"\(8, 4, 8\) for 2 images .* no axis holds whole images"),
    "a constant": (lambda: several(stages={"x": "constant"}), "is the same for 2 and 3 images: name another"),
    "another layout": (
        lambda: several(layouts={"x": "tokens 4x4"}),
        r"stage 'x' \(module 'stem'\) is no 'tokens 4x4'; by its shape it may be: 'map 4x4', 'map 8x4 channels-last'",
    ),
    "no layout": (lambda: several(layouts={"x": "grid"}), "the layout of stage 'x' .* is 'grid', expected 'vector', "),
    "a layout of no stage": (lambda: several(layouts={"y": "map"}), "unknown stage of 'layouts' 'y'"),
    "means of two": (lambda: several(mean=[0.5, 0.5]), "mean has 2 values and std 3: expected three each, or one"),
    "one mean": (lambda: several(mean=0.5), "mean is 0.5, expected a value per channel, as in"),
    "no size": (lambda: several(size=32.0), "size is 32.0, expected .height, width. in pixels"),
    "no stages": (lambda: several(stages=["stem"]), "no stage is named: stages="),
    "a deviation of 0": (lambda: several(std=[0.0, 1, 1]), r"std is \(0.0, 1.0, 1.0\), expected more than 0"),
    "another size": (lambda: several(size=20, network=CCT()), "model 'CCT' does not run on images of 20x20"),
    "grey images": (
        lambda: several(network=UNetEncoder(), stages={"x": "levels.0"}),
        "its first convolution takes 1 channels: give mean and std of 1 value$",
    ),
    "colours": (lambda: several(mean=[0.5], std=[0.5]), "takes 3 channels: give mean and std of 3 values$"),
    "several answers": (
        lambda: unet(answer=None),
        r"'UNetEncoder' returns list with 3 tensors \(.*\): say which is its answer, as in answer=lambda output: ",
    ),
    "a map of classes": (lambda: unet(task="classification"), r"a classifier answers \(B, classes\), model 'UNetEnc"),
    "names of too few classes": (lambda: several(classes=["a"]), "1 classes are named, the network answers 5"),
    "half precision": (lambda: several(network=Several().half()), "expected float32: call network.float"),
    "no weights": (lambda: several(network=Pair()), "model 'Pair' has no weights"),
    "noise": (lambda: several(network=noisy()), "answers the same images differently each time"),
    "rows in another order": (
        lambda: cct_of(shuffled()),
        "stage 'norm' has 64 rows, .* depend no more on the pixels around their place .* 'queries'}, or 'tokens 8x8",
    ),
}  # fmt: skip


def cct_of(network: nn.Module, **changes: Any) -> Model:
    return Model.from_module(network, {"block1": "blocks.0", "norm": "norm"}, size=SIZE, **(STATISTICS | changes))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_refused_with_the_fix(case: str) -> None:
    build, said = REFUSED[case]
    with pytest.raises(UsageError, match=said) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_what_the_user_states_is_taken() -> None:
    assert several(stages={"x": "pair[1]"}).layout("x") == Layout("queries", 8, None, 1)
    assert several(stages={"x": "pair[0]"}, layouts={"x": "queries"}).layout("x") == Layout("queries", 8, None, 16)
    assert cct_of(shuffled(), layouts={"norm": "queries"}).layout("norm").spatial is False
    assert cct(task="embedding").layout("head") == Layout("queries", 5, None, 1)
    assert cct(classes=list("abcde")).classes == tuple("abcde")


SHAPES: dict[tuple[int, ...], tuple[str, str]] = {  # of one image of 64 x 96, after the batch
    (16,): ("vector", ""),
    (16, 1, 1): ("vector", ""),
    (16, 8, 12): ("map 8x12", ""),
    (8, 12, 16): ("map 8x12 channels-last", ""),
    (20, 7, 10): ("map 7x10", ""),  # not quite the proportions: strides rounded
    (97, 16): ("tokens 8x12+1", ""),
    (16, 96): ("tokens 8x12 channels-first", ""),
    (29, 16): ("tokens 4x6+5", ""),
    (61, 16): ("queries", ""),
    (96, 24): ("", "tokens 8x12'} or .*'tokens 4x6 channels-first"),
    (12, 12, 12): ("", "is not clear for images of 64x96: say which: layouts="),
    (2, 3, 4, 5): ("", r"name a module that gives a map \(B, C, h, w\)"),
}


SHOWN = Evidence((64, 96), widths=frozenset({16}))


@pytest.mark.parametrize("shape", SHAPES)
def test_layouts_follow_from_shapes_and_undo_themselves(shape: tuple[int, ...]) -> None:
    words, said = SHAPES[shape]
    for batch in range(len(shape) + 1) if words else (0,):
        whole = [*shape[:batch], 7, *shape[batch:]]
        if said:
            with pytest.raises(UsageError, match=said):
                arrangement_of_shape("x", whole, batch, SHOWN)
            continue
        arrangement = arrangement_of_shape("x", whole, batch, SHOWN)
        assert arrangement == arrangement_of_shape("x", whole, batch, SHOWN, words)
        tensor = torch.randn(whole)
        representation = arrangement.read([tensor])
        assert tuple(representation.shape) == (7, *arrangement.layout.shape)
        assert torch.equal(arrangement.write(representation)[0], tensor)


def test_what_a_network_shows_decides_between_readings() -> None:
    def layout(shape: tuple[int, ...], **evidence: Any) -> Layout:
        return arrangement_of_shape("x", shape, 0, Evidence((64, 64), **evidence)).layout

    assert layout((2, 64, 16), widths=frozenset({16})) == Layout("tokens", 16, (8, 8), 64)
    assert layout((2, 64, 16), filters=frozenset({64})) == Layout("tokens", 64, (4, 4), 16)
    assert layout((2, 51, 48), grids=((16, 16), (7, 7))) == Layout("tokens", 48, (7, 7), 51, 2)
    assert layout((2, 16, 16, 16), filters=frozenset({16})).kind == "map"
    with pytest.raises(UsageError, match="no axis holds whole images"):
        batch_axis("x", (2, 8), (4, 8), (2, 3))


FILE = """
from dataclasses import dataclass

import torch
from torch import nn

from beside import WIDTH


@dataclass
class Sizes:
    width: int = WIDTH


def build():
    width = Sizes().width
    network = nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(16 * width, 4))
    return network, {"stages": {"embed": "1"}, "size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "licence": "mine"}


def rectified():
    network, arguments = build()
    network[1] = nn.ReLU()
    return network, arguments


def darker():
    network, arguments = build()
    return network, arguments | {"mean": [0.7] * 3}


def model():
    import invsuite

    network, arguments = build()
    return invsuite.Model.from_module(network, **arguments)


def nothing():
    return build()[0]


def unknown():
    network, arguments = build()
    return network, arguments | {"sise": 3}


def incomplete():
    return build()[0], {"stages": {"embed": "1"}, "size": 32}


def broken():
    raise ValueError("no checkpoint\\nhere")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def test_a_file_of_the_users_makes_a_model(file: Path) -> None:
    """Its digest is of the weights, the code, and how they are read; the same weights come every time."""
    model = load_model(f"module:{file}:build")
    assert model.stages == ("embed", "head")
    assert (model.origin.source, model.origin.licence) == (f"module {file}:build", "mine")
    assert load_model(f"module:{file}:build").origin == model.origin
    whole = load_model(f"module:{file}:model", "mine")
    assert whole.name == "mine"
    assert whole.fingerprint() == model.fingerprint()
    for source in ("build", "model"):
        verdicts = check_unit(f"module:{file}:{source}")
        assert [verdict.outcome for verdict in verdicts] == ["kept"] * len(verdicts)
    assert len({load_model(f"module:{file}:{function}").origin.sha256 for function in ("build", "rectified")}) == 2
    random = load_model(f"module:{file}:build", random_weights=True)
    assert random.origin.random
    assert [need.state for need in needs(f"module:{file}:build@{file.parent / 'typo.pth'}")] == ["here", "by hand"]
    assert name_of("module:net.py:build@w.pth#ema") == "net.py-build-w-ema"
    file.write_text(FILE + "\n# edited\n")
    assert load_model(f"module:{file}:build").origin.sha256 != model.origin.sha256


def test_an_inverse_of_it_is_kept(file: Path) -> None:
    images = invsuite.open_images("scenes", (SIZE, SIZE), seed=1, count=16)
    inverse = invsuite.fit("ridge", f"module:{file}:build", ["embed"], images)
    folder = inverse.save(file.parent / "kept")
    again = invsuite.load_inverse(folder)
    assert torch.equal(again(images.images([0])), inverse(images.images([0])))
    for function in ("rectified", "darker"):
        other = load_model(f"module:{file}:{function}")
        assert (other.fingerprint(), other.layout("embed")) == (again.model.fingerprint(), again.model.layout("embed"))
        with pytest.raises(WeightsError, match=f"{function}.* computes something else from them at embed"):
            invsuite.load_inverse(folder, other)
        with pytest.warns(UserWarning, match="do not hold"):
            assert invsuite.load_inverse(folder, other, force=True).remarks
    file.write_text(FILE + "\n# edited, and the same function\n")
    assert not invsuite.load_inverse(folder).remarks


def test_weights_of_a_checkpoint_fill_its_network(file: Path) -> None:
    source, path = f"module:{file}:build", file.parent / "w.pth"
    weights = {key: value + 1 for key, value in load_model(source).network.state_dict().items()}
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"model": weights, "model_ema": wrapped, "optimizer": {"lr": 1}}, path)
    with pytest.raises(WeightsError, match="under model and model_ema/module: name one, as in FILE#model"):
        load_model(f"{source}@{path}")
    model = load_model(f"{source}@{path}#model_ema/module")
    assert all(torch.equal(value, weights[key]) for key, value in model.network.state_dict().items())
    assert model.origin.sha256 != load_model(source).origin.sha256
    random = load_model(f"{source}@{path}", random_weights=True)
    assert random.fingerprint() != model.fingerprint()
    with pytest.raises(UsageError, match=r"returns a model with its weights: leave .*w.pth out"):
        load_model(f"module:{file}:model@{path}")


WRONG = {
    "nothing": (UsageError, r"returns Sequential: expected an invsuite.Model, or a network and a dictionary with"),
    "unknown": (UsageError, "unknown argument of '.*' 'sise': did you mean size"),
    "incomplete": (UsageError, "does not say 'mean' and 'std': put it into its dictionary"),
    "broken": (OutsideError, r"module file '.*net.py': ValueError: no checkpoint"),
    "absent": (UsageError, "unknown function of '.*net.py' 'absent': .*known: .*build"),
}


@pytest.mark.parametrize("function", WRONG)
def test_what_a_function_gives_wrongly_is_one_line(function: str, file: Path) -> None:
    error, said = WRONG[function]
    with pytest.raises(error, match=said) as caught:
        load_model(f"module:{file}:{function}")
    assert "\n" not in str(caught.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"module source 'net\.py' is not FILE\.py:FUNCTION"):
        load_model("module:net.py")
    with pytest.raises(MissingPath, match="does not exist"):
        load_model(f"module:{tmp_path / 'typo.py'}:build")


def test_a_file_runs_from_the_command_line(file: Path, tmp_path: Path) -> None:
    suite = tmp_path / "s.toml"
    suite.write_text(small_suite("s", {"mean": "{}", "ridge": "{}"}))
    words = ("bench", "--suite", suite, "--out", tmp_path / "r", "--models", f"module:{file}:build")
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert "is read as: embed map 4x4, 6 channels; head 4 classes" in result.output
    (path, _) = sorted((tmp_path / "r" / "records" / "s").glob("*.json"))
    record = json.loads(path.read_text())
    assert record["weights"]["source"] == f"module {file}:build"
    assert record["weights"]["licence"] == "mine"
    assert "0 cells computed, 2 reused" in invoke(*words).stdout


def test_checkpoints_as_people_save_them(tmp_path: Path) -> None:
    """Position embeddings of another square grid are resampled, and it is said; what does not fit is named with why."""
    small, large = PostNorm(grid=4), PostNorm(grid=8)
    small.side = large.side
    small.embed = nn.Linear(3 * large.side**2, 24)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"model.{key}": value for key, value in small.state_dict().items()}}, path)
    (remark,) = invsuite.load_weights(large, path)
    assert remark == f"'pos_embed' of '{path}' is resampled from 4x4 to 8x8 places"
    torch.testing.assert_close(large.pos_embed[:, 0], small.pos_embed[:, 0])
    torch.testing.assert_close(large.pos_embed[:, 1:].mean(1), small.pos_embed[:, 1:].mean(1), atol=0.02, rtol=0.1)
    assert invsuite.load_weights(PostNorm(grid=4), _saved(PostNorm(grid=4), path)) == ()
    for network, said in (
        (PostNorm(classes=7), r"'head.bias' is \(5,\), expected \(7,\); if these are classes, make the network for 5"),
        (PostNorm(width=32), r"'cls' is \(1, 1, 24\), expected \(1, 1, 32\)$"),
    ):
        with pytest.raises(WeightsError, match=said):
            invsuite.load_weights(network, path)
    with pytest.raises(WeightsError, match="takes images of 1 channel: make the network for 1 and give it to Model"):
        invsuite.load_weights(CCT(), _saved(CCT(channels=1), path))


def _saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path
