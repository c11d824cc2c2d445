"""Every field of a suite is either part of a cell's identity or marked as not, and the mark is true."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from helpers import P3, SMALL_NETWORK, scene_split, small_suite
from PIL import Image

from invsuite._system.identity import NOT_IDENTITY, identity_of
from invsuite.benchmark.cells import Selection, make_plan
from invsuite.benchmark.suite import MethodSpec, ModelSpec, Suite, load_suite
from invsuite.data.base import Source, from_unit_range
from invsuite.data.coco import CocoSource
from invsuite.data.folder import FolderSource
from invsuite.data.hub import HubSource
from invsuite.data.imagenet import ImageNetSource
from invsuite.data.scenes import ScenesSource
from invsuite.data.sources import DataSpec, open_splits
from invsuite.data.split import HeldBackSource
from invsuite.data.webdataset import WebDatasetSource
from invsuite.methods.problem import Budget, Engine
from invsuite.registry import METHODS, METRICS, SOURCES
from invsuite.results.published import PublishedValue

SUITE = small_suite("two", {"mean": "{}", "nearest": "{}", "modular": SMALL_NETWORK, "layerwise": SMALL_NETWORK})


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return load_suite(str(path))


def digests(suite: Suite) -> set[str]:
    """What the ids hash, without the readable names."""
    return {cell.id.rpartition("-")[2] for cell in make_plan(suite, Selection(), lambda note: None).cells}


def dataclasses_in(annotation: Any) -> set[type]:
    """Every dataclass that a value of this type may hold, however deep."""
    if not isinstance(annotation, type) or get_args(annotation):
        return set().union(*map(dataclasses_in, get_args(annotation)))
    if not is_dataclass(annotation):
        return set()
    reached = {annotation}
    for inner in get_type_hints(annotation).values():
        if inner is not annotation and annotation not in get_args(inner):
            reached |= dataclasses_in(inner)
    return reached


BUNDLED_SOURCES = {kind for kind in SOURCES.values() if kind.__module__.startswith("invsuite.")}
FIELDS = [
    pytest.param(kind, spec, id=f"{kind.__name__}.{spec.name}")
    for kind in sorted((dataclasses_in(Suite) | BUNDLED_SOURCES) - {PublishedValue}, key=lambda kind: kind.__name__)
    for spec in fields(kind)
]


def with_other(data: DataSpec) -> DataSpec:
    """The same data, and a second table of it for models that name it."""
    return replace(data, others={"other": replace(data, fit=ScenesSource(99, 24))})


STATED = PublishedValue("vit", "embed", "theirs", "psnr", "PSNR", "dB", "higher", 2, 20.0, "a paper")
#: One field of a suite changed; its mark says whether cells must become others.
CHANGES: dict[tuple[type, str], Callable[[Suite], Suite]] = {
    (Suite, "name"): lambda s: replace(s, name="other"),
    (Suite, "title"): lambda s: replace(s, title="other"),
    (Suite, "seeds"): lambda s: replace(s, seeds=(1,)),
    (Suite, "metrics"): lambda s: replace(s, metrics=("psnr", "ssim")),
    (Suite, "edits"): lambda s: replace(s, edits=3),
    (Suite, "budget"): lambda s: replace(s, budget=Budget(image_passes=48, batch=16)),
    (Suite, "data"): lambda s: replace(s, data=replace(s.data, fit=ScenesSource(99, 24))),
    (Suite, "models"): lambda s: replace(s, models=(ModelSpec("detr", "bundled:detr", ("backbone",)),)),
    (Suite, "methods"): lambda s: replace(s, methods=s.methods[:1]),
    (Suite, "engine"): lambda s: replace(s, engine=Engine(precision="bfloat16")),
    (Suite, "interlayer"): lambda s: replace(s, interlayer=True),
    (Suite, "text"): lambda s: replace(s, text="other"),
    (Suite, "published"): lambda s: replace(s, published=(STATED,)),
    (Budget, "image_passes"): lambda s: replace(s, budget=Budget(image_passes=48, batch=16)),
    (Budget, "batch"): lambda s: replace(s, budget=Budget(image_passes=32, batch=8)),
    (Budget, "seconds"): lambda s: replace(s, budget=Budget(seconds=5, batch=16)),
    (Budget, "flops"): lambda s: replace(s, budget=Budget(flops=1e9, batch=16)),
    (Engine, "precision"): lambda s: replace(s, engine=Engine(precision="bfloat16")),
    (Engine, "cache"): lambda s: replace(s, engine=Engine(cache="off")),
    (Engine, "compile"): lambda s: replace(s, engine=Engine(compile="on")),
    (Engine, "graphs"): lambda s: replace(s, engine=Engine(graphs=False)),
    (ModelSpec, "name"): lambda s: replace(s, models=(replace(s.models[0], name="other"),)),
    (ModelSpec, "source"): lambda s: replace(s, models=(ModelSpec("vit", "bundled:detr", ("backbone",)),)),
    (ModelSpec, "stages"): lambda s: replace(s, models=(replace(s.models[0], stages=("embed", "block02", "block03")),)),
    (ModelSpec, "witness"): lambda s: replace(s, models=(replace(s.models[0], witness="bundled:detr"),)),
    (ModelSpec, "data"): lambda s: replace(s, data=with_other(s.data), models=(replace(s.models[0], data="other"),)),
    (ModelSpec, "random_weights"): lambda s: replace(s, models=(replace(s.models[0], random_weights=True),)),
    (MethodSpec, "name"): lambda s: replace(s, methods=tuple(replace(m, name=f"my-{m.name}") for m in s.methods)),
    (MethodSpec, "method"): lambda s: replace(
        s, methods=tuple(replace(m, method=replace(m.method, width=12)) for m in s.methods if m.name == "modular")
    ),
    (MethodSpec, "images"): lambda s: replace(s, methods=tuple(replace(m, images=2) for m in s.methods)),
    (MethodSpec, "edits"): lambda s: replace(s, methods=tuple(replace(m, edits=2) for m in s.methods)),
    (MethodSpec, "image_passes"): lambda s: replace(s, methods=tuple(replace(m, image_passes=48) for m in s.methods)),
    (MethodSpec, "models"): lambda s: replace(s, methods=tuple(replace(m, models=("vit",)) for m in s.methods)),
    (DataSpec, "fit"): lambda s: replace(s, data=replace(s.data, fit=ScenesSource(99, 24))),
    (DataSpec, "select"): lambda s: replace(s, data=replace(s.data, select=ScenesSource(99, 4))),
    (DataSpec, "score"): lambda s: replace(s, data=replace(s.data, score=ScenesSource(99, 4))),
    (DataSpec, "others"): lambda s: replace(s, data=with_other(s.data)),
}


@pytest.mark.parametrize(("kind", "spec"), FIELDS)
def test_the_mark_of_every_field_is_true(
    kind: type, spec: Field[Any], suite: Suite, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field without a mark is part of the identity; one that has no change here fails by its missing key."""
    if issubclass(kind, Source):
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=hub))
        before, after = source_digests(kind, spec.name, photos)
    else:
        before, after = digests(suite), digests(CHANGES[kind, spec.name](suite))
    assert bool(after - before) == spec.metadata.get("identity", True)


def test_marks_are_found_in_all_parts_of_a_suite() -> None:
    reached = {param.values[0] for param in FIELDS}
    assert reached == {Suite, Budget, Engine, ModelSpec, MethodSpec, DataSpec, *BUNDLED_SOURCES}
    marked = {param.id for param in FIELDS if param.values[1].metadata == NOT_IDENTITY}
    assert {"Suite.title", "FolderSource.path", "Engine.cache"} <= marked
    assert not {"Suite.seeds", "FolderSource.count", "Engine.precision"} & marked
    assert identity_of(FolderSource("/some/place", 3)) == {"count": 3, "geometry": "crop", "colour": "sRGB"}


@pytest.mark.parametrize("kind", [*METHODS.values(), *METRICS.values()], ids=lambda kind: kind.name)
def test_every_parameter_of_a_method_or_measure_is_part_of_the_identity(kind: Any) -> None:
    """One that came later is part of it wherever it is not at the default under which numbers had been computed."""
    late = {f.name: f.default for f in fields(kind) if f.metadata.get("came_later")}
    assert set(kind().params()) >= {f.name for f in fields(kind)} - set(late)
    for name, default in late.items():
        if kind.name != "dip":  # a network as pixels begins at no image, and refuses noise on one
            assert kind(**{name: default + 1}).params()[name] == default + 1


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders and two shards of the same eight photos, in Display P3, and two COCO roots with two splits each."""
    root = tmp_path_factory.mktemp("photos")
    images = from_unit_range(scene_split(908, 8).images(slice(0, 8))).permute(0, 2, 3, 1).numpy()
    for name in ("one", "two"):
        folders = [root / name, *(root / f"coco-{name}" / f"{split}2017" for split in ("train", "val"))]
        for folder in folders:
            folder.mkdir(parents=True)
            for number, image in enumerate(images[: 8 if "val" not in folder.name else 4]):
                Image.fromarray(image[:, :80]).save(folder / f"{number:012d}.png", icc_profile=P3)
            if folder.parent == root:
                with tarfile.open(root / f"{name}.tar", "w") as shard:
                    shard.add(folder, arcname="")
                continue
            entries = [
                {"id": n, "file_name": f"{n:012d}.png", "height": 96, "width": 80}
                for n in range(len(list(folder.iterdir())))
            ]
            tree = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
            path = folder.parent / "annotations" / f"instances_{folder.name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(tree))
    return root


def hub(name: str, config: str | None, split: str, streaming: bool = False) -> Any:
    """What ``datasets.load_dataset`` gives: images in Display P3 whose shade follows name, split and column."""

    class Rows(list[dict[str, Any]]):
        column_names = ("image", "mask")
        features = None

    def shaded(shade: int) -> Image.Image:
        image = Image.new("RGB", (80, 96), (shade % 256, 60, 60))
        image.info["icc_profile"] = P3
        return image

    shades = [sum(f"{name}{split}".encode()) + number for number in range(8)]
    rows = ({"image": shaded(shade), "mask": shaded(shade + 100)} for shade in shades)
    if not streaming:
        return Rows(rows)
    return Rows({column: encoded(image) for column, image in row.items()} for row in rows)


def encoded(image: Image.Image) -> dict[str, Any]:
    """An image as a streamed row holds it."""
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=P3)
    return {"bytes": file.getvalue(), "path": None}


def source_digests(kind: type, field: str, photos: Path) -> tuple[set[str], set[str]]:
    """Digests of the fit images of a source and of the same source with one field changed."""
    sources: dict[type, tuple[Any, dict[str, Any]]] = {
        ScenesSource: (ScenesSource(1, 6), {"seed": 2, "count": 5, "max_objects": 2}),
        FolderSource: (FolderSource(str(photos / "one"), 6), {"path": str(photos / "two"), "count": 5}),
        CocoSource: (
            CocoSource(str(photos / "coco-one"), "train2017", 4),
            {"path": str(photos / "coco-two"), "split": "val2017", "count": 3},
        ),
        ImageNetSource: (
            ImageNetSource(str(photos / "coco-one"), "train2017", 4),
            {"path": str(photos / "coco-two"), "split": "val2017", "count": 3},
        ),
        HubSource: (
            HubSource("owner/one", 4),
            {"name": "owner/two", "split": "test", "column": "mask", "count": 3, "stream": True},
        ),
        WebDatasetSource: (
            WebDatasetSource(str(photos / "one.tar"), 6),
            {"path": str(photos / "two.tar"), "count": 5},
        ),
        HeldBackSource: (HeldBackSource(2), {"count": 3}),
    }
    source, changes = sources[kind]
    changed = replace(source, **{field: (changes | {"geometry": "squash", "colour": "stored"})[field]})

    def digest(source: Any) -> set[str]:
        score = ScenesSource(77, 2)
        held = kind is HeldBackSource
        fit, select = (FolderSource(str(photos / "one")), source) if held else (source, ScenesSource(78, 2))
        splits = open_splits(DataSpec(fit, select, score), (96, 96))
        return {splits.fit.digest()}

    return digest(source), digest(changed)
