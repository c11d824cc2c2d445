"""COCO JSON as exporters write it: what is meant is read, the rest is named, contradictions are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from invsuite.data.annotations import CocoAnnotations
from invsuite.data.coco import CocoInstances
from invsuite.data.geometry import Geometry
from invsuite.errors import DataError, InvsuiteError
from invsuite.metrics.detection import true_boxes

WIDTH, HEIGHT = 80, 60
GEOMETRY = Geometry((HEIGHT, WIDTH))


def tree(count: int = 3) -> dict[str, Any]:
    """COCO JSON of photos with a rectangle each, each elsewhere."""
    images = [{"id": i, "file_name": f"i{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, count + 1)]
    annotations = []
    for i in range(1, count + 1):
        x, y = 5 + 10 * i, 9 + 6 * i
        polygon = [x, y, x + 24, y, x + 24, y + 20, x, y + 20]
        box = {"bbox": [x, y, 24, 20], "area": 480, "segmentation": [polygon]}
        annotations.append({"id": i, "image_id": i, "category_id": 7, "iscrowd": 0} | box)
    return {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "box"}]}


def write(root: Path, content: dict[str, Any], count: int = 3) -> CocoInstances:
    """The data set of this JSON."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "val").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    for i in range(1, count + 1):
        if not (root / "val" / f"i{i}.png").exists():
            Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 0, 0)).save(root / "val" / f"i{i}.png")
    return CocoInstances(root, "val", GEOMETRY)


def corner(data: CocoInstances, index: int) -> tuple[int, int]:
    """Where the first mask of a photo begins, (x, y)."""
    rows, columns = np.nonzero(data[index].instances[0].mask)
    return int(columns.min()), int(rows.min())


CORNERS = [(15, 15), (25, 21), (35, 27)]


def change(content: dict[str, Any], number: int = 0, part: str = "annotations", **values: Any) -> dict[str, Any]:
    content[part][number].update(values)
    return content


@pytest.mark.parametrize(
    "content",
    [
        {**tree(), "annotations": [{**a, "id": 5} for a in tree()["annotations"]]},
        {**tree(), "annotations": [{**a, "image_id": str(a["image_id"])} for a in tree()["annotations"]]},
        {**tree(), "images": [{**i, "id": f"{i['id']}"} for i in tree()["images"]]},
        {**tree(), "images": [{**i, "id": float(i["id"])} for i in tree()["images"]]},
        {**tree(), "annotations": [{k: v for k, v in a.items() if k != "id"} for a in tree()["annotations"]]},
        {**tree(), "annotations": [{k: v for k, v in a.items() if k != "iscrowd"} for a in tree()["annotations"]]},
        {**tree(), "images": [{k: v for k, v in i.items() if k not in ("width", "height")} for i in tree()["images"]]},
        {**tree(), "categories": [{"id": "7"}]},
        {**tree(), "annotations": [{**a, "segmentation": a["segmentation"][0]} for a in tree()["annotations"]]},
        {
            **tree(),
            "annotations": [
                {**a, "segmentation": np.reshape(a["segmentation"], (-1, 2)).tolist()} for a in tree()["annotations"]
            ],
        },
    ],
    ids=[
        "one id for all annotations",
        "image ids as text",
        "ids of images as text",
        "ids as floats",
        "no ids",
        "no iscrowd",
        "no sizes",
        "no category name",
        "flat polygons",
        "polygons of points",
    ],
)
def test_what_is_meant_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    """Every photo has its own mask, where it was drawn."""
    data = write(tmp_path, content)
    assert [corner(data, i) for i in range(3)] == CORNERS
    assert not data.left_out
    assert len(data.classes) == 1


def test_text_that_is_no_number_is_an_id_too(tmp_path: Path) -> None:
    content = tree()
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"photo {image['id']}"
    assert [corner(write(tmp_path, content), i) for i in range(3)] == CORNERS


@pytest.mark.parametrize("segmentation", [[], None, [[]], {}])
def test_a_box_without_a_mask_is_an_object_without_a_mask(tmp_path: Path, segmentation: Any) -> None:
    content = change(tree(), segmentation=segmentation)
    data = write(tmp_path, content)
    assert data[0].instances == ()
    assert data[0].boxed[0].box == pytest.approx((15, 15, 39, 35))
    assert not data.left_out
    [boxes, *_] = true_boxes([data[0], data[1]])
    assert boxes.areas.tolist() == [480]
    small = CocoInstances(tmp_path, "val", Geometry((30, 30)))[0]  # the centre of 60 x 60 pixels at half its size
    assert small.boxed[0].box == pytest.approx((2.5, 7.5, 14.5, 17.5))


NAN, HUGE = float("nan"), 1e8
LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "a coordinate that is no number": ({"segmentation": [[NAN, 1, 9, 1, 9, 9]]}, "the coordinate NaN"),
    "a coordinate far away": ({"segmentation": [[HUGE, 1, 9, 1, 9, 9]]}, "the coordinate 100000000.0"),
    "an endless coordinate": ({"segmentation": [[1, float("inf"), 9, 1, 9, 9]]}, "the coordinate Infinity"),
    "a coordinate as text": ({"segmentation": [["1", 1, 9, 1, 9, 9]]}, 'segmentation holds "1"'),
    "two points": ({"segmentation": [[10, 10, 20, 20]]}, "4 coordinates, a polygon needs three points"),
    "an odd number": ({"segmentation": [[1, 1, 9, 1, 9, 9, 4]]}, "7 coordinates"),
    "a segmentation of text": ({"segmentation": "poly"}, 'segmentation is "poly"'),
    "runs of another photo": ({"segmentation": {"size": [5, 5], "counts": [25]}}, "segmentation.size is [5, 5]"),
    "runs that go on": ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 9000]}}, "no list of lengths"),
    "runs that end early": ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10, 9]}}, "cover 19 pixels"),
    "runs of nonsense": ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "\u20ac"}}, "no compressed list"),
    "an unknown category": ({"category_id": 99}, "category_id 99 is the id of no category"),
    "no category": ({"category_id": None}, "category_id null"),
    "an unknown image": ({"image_id": 77}, "image_id 77 is the id of no image"),
    "a crowd of what": ({"iscrowd": "maybe"}, 'iscrowd is "maybe"'),
    "nothing but a class": ({"segmentation": [], "bbox": None}, "neither segmentation nor bbox"),
    "a flat box": ({"segmentation": [], "bbox": [1, 1, 0, 5]}, "bbox is [1, 1, 0, 5]"),
    "a box that is no number": ({"segmentation": [], "bbox": [NAN, 1, 2, 5]}, "bbox is [NaN, 1, 2, 5]"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_cannot_be_read_is_left_out_by_name(case: str, tmp_path: Path) -> None:
    values, said = LEFT_OUT[case]
    data = write(tmp_path, change(tree(), **values))
    [(name, reason)] = data.left_out.items()
    assert name.startswith("annotation 1 (number 0)")
    assert ("of i1.png" in reason) or case == "an unknown image"
    assert said in reason
    assert data[0].instances == data[0].boxed == ()
    assert corner(data, 1) == CORNERS[1]


def test_an_annotation_that_is_there_twice_is_one_object(tmp_path: Path) -> None:
    content = tree()
    content["annotations"].append(copy.deepcopy(content["annotations"][0]))
    data = write(tmp_path, content)
    assert len(data[0].instances) == 1
    assert list(data.left_out) == ["annotation 1 (number 3) of i1.png"]


def test_one_flat_polygon_of_several_is_named_and_the_others_are_drawn(tmp_path: Path) -> None:
    content = tree()
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    data = write(tmp_path, content)
    assert corner(data, 0) == CORNERS[0]
    assert "polygons of fewer than three points" in data.left_out["annotation 1 (number 0) of i1.png"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (change(tree(), 1, "images", id=1), "image id 1 names both 'i1.png' and 'i2.png'"),
        ({**tree(), "categories": [{"id": 7, "name": "a"}, {"id": "7", "name": "b"}]}, "category id 7 names both"),
        ({"images": [], "categories": []}, "it has no list 'annotations'"),
        ([1, 2], "it has no list 'images'"),
        ({**tree(), "images": [{**i, "width": 70} for i in tree()["images"]]}, "are for 70 x 60 pixels, the photo is"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        write(tmp_path, content)


def test_a_photo_of_another_size_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    data = write(tmp_path, change(tree(), 1, "images", width=70))
    assert len(data) == 2
    assert "its annotations are for 70 x 60 pixels" in data.unreadable[str(tmp_path / "val" / "i2.png")]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ufeff{}", '{"images": 3}'])
def test_what_is_no_coco_is_said_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a COCO instances file"):
        CocoAnnotations(path)


def test_masks_are_those_of_pycocotools(tmp_path: Path) -> None:
    """Polygons in several parts and partly outside, plain and compressed runs, pixel by pixel."""
    drawn = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    drawn[3:20, 40:70] = drawn[50:, :9] = drawn[7, 3] = 1
    flat = drawn.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    compressed = coco_masks.encode(drawn)["counts"].decode()
    content = tree(4)
    content["annotations"][0]["segmentation"] += [[-6.5, 50, 30.2, 40.7, 20, 66], [70, 3, 85, 3, 85, 30.5]]
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    content["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": compressed}
    data = write(tmp_path, content, 4)
    theirs = COCO(str(tmp_path / "annotations" / "instances_val.json"))
    for index, annotation in enumerate(content["annotations"]):
        assert np.array_equal(data[index].instances[0].mask, theirs.annToMask(annotation).astype(bool)), index


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [("annotations", key) for key in ("id", "image_id", "category_id", "iscrowd", "bbox", "segmentation")]
    + [("images", key) for key in ("id", "file_name", "width", "height")]
    + [("categories", key) for key in ("id", "name")]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(KEYS, st.integers(0, 2), JSON), max_size=4))
def test_whatever_json_holds_it_is_read_named_or_refused(
    tmp_path: Path, edits: list[tuple[tuple[str, str], int, Any]]
) -> None:
    content = tree()
    for (part, key), number, value in edits:
        content[part][number % len(content[part])][key] = value
    try:
        data = write(tmp_path, content)
    except InvsuiteError as error:
        said = [str(error)]
    else:
        assert all(data[index].key == data.key(index) for index in range(len(data)))
        said = [*data.left_out.values(), *data.unreadable.values()]
    assert not any("\n" in line for line in said)
