"""Procedural scenes with exact truth: textured backgrounds, 1-4 objects of 8 shape classes, masks, boxes, labels.

Every class has a prototypical hue that most, not all, of its objects wear, so that a reconstruction that
paints an object in its class's usual colour differs from one that keeps the colour of the image.
A scene is a pure function of (seed, index, size); images are quantised to 8 bits like photos.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from invsuite._system.validation import Natural, Positive
from invsuite.data.base import Dataset, Instance, Sample, Source, bounding_box, to_unit_range
from invsuite.data.checks import check_centre, check_red
from invsuite.data.geometry import Resampling
from invsuite.errors import UsageError
from invsuite.registry import register

Array = NDArray[np.float64]

GENERATOR_VERSION = 1  # raise when any pixel of any scene changes: it is part of every digest
PROTOTYPICAL_SHARE = 0.8  # share of objects that wear their class's hue
HUE_JITTER = 0.02  # standard deviation of the prototypical hue, in turns
MIN_VISIBLE = 0.5  # objects showing less than this share of their area are dropped


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.85


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.72) - 0.24


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.76


def _bar(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.36)


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x) * 0.8660254 + y * 0.5, -y) - 0.55


def _star(x: Array, y: Array) -> Array:
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    tip, notch = (1.05, 0.0), (0.46 * np.cos(sector / 2), 0.46 * np.sin(sector / 2))
    dx, dy = notch[0] - tip[0], notch[1] - tip[1]
    return ((px - tip[0]) * dy - (py - tip[1]) * dx) / np.hypot(dx, dy)


def _cross(x: Array, y: Array) -> Array:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 1.0, ay - 0.32), np.maximum(ax - 0.32, ay - 1.0))


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 0.95, 0.72 - np.hypot(x - 0.5, y))


#: Signed distance of each class's outline in units of its radius, negative inside.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "bar": _bar,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
}
CLASSES = tuple(SHAPES)


def prototypical_hue(label: int) -> float:
    """Return the hue, in turns [0, 1), that most objects of class ``label`` wear."""
    return label / len(CLASSES)


@dataclass(frozen=True)
class SceneObject:
    """An object before rendering: class, centre (x, y) and radius in pixels, rotation in turns, HSV colour."""

    label: int
    center: tuple[float, float]
    radius: float
    rotation: float
    hsv: tuple[float, float, float]
    prototypical: bool


@dataclass(frozen=True)
class SceneSpec:
    """All that a rendered scene depends on."""

    key: str
    size: int
    background_seed: int
    objects: tuple[SceneObject, ...]


@lru_cache(maxsize=64)
def _upsampler(size: int, cells: int) -> Array:
    """Return the matrix (size, cells) that interpolates ``cells`` values to ``size`` with a smooth kernel."""
    position = (np.arange(size) + 0.5) / size * (cells - 1)
    left = np.minimum(position.astype(int), cells - 2)
    t = position - left
    t = t * t * (3 - 2 * t)
    matrix = np.zeros((size, cells))
    matrix[np.arange(size), left] = 1 - t
    matrix[np.arange(size), left + 1] = t
    return matrix


def _noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    up = _upsampler(size, cells)
    return up @ rng.standard_normal((cells, cells)) @ up.T


def _background(seed: int, size: int) -> Array:
    """Return a texture (size, size, 3) of low chroma: two muted colours blended by noise, with stripes or grain."""
    rng = np.random.default_rng(seed)
    colours = []
    for _ in range(2):
        hue, saturation, value = rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.25, 0.85)
        colours.append(np.array(colorsys.hsv_to_rgb(hue, saturation, value)))
    blend = 1 / (1 + np.exp(-2.0 * (_noise(rng, size, 3) + 0.6 * _noise(rng, size, 7))))
    texture = 0.05 * _noise(rng, size, 13) + 0.03 * _noise(rng, size, size // 3)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14) * size / 96
        axis = np.arange(size)
        phase = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
        texture = texture + rng.uniform(0.03, 0.08) * np.sin(2 * np.pi * phase / period)
    canvas = blend[..., None] * colours[0] + (1 - blend[..., None]) * colours[1]
    return np.asarray(canvas * (1 + texture[..., None]))


def _coverage(item: SceneObject, size: int) -> Array:
    """Return the antialiased share of each pixel (size, size) that the object covers, in [0, 1]."""
    axis = np.arange(size) + 0.5
    dx = (axis[None, :] - item.center[0]) / item.radius
    dy = (axis[:, None] - item.center[1]) / item.radius
    cos, sin = np.cos(2 * np.pi * item.rotation), np.sin(2 * np.pi * item.rotation)
    distance = SHAPES[CLASSES[item.label]](cos * dx + sin * dy, -sin * dx + cos * dy)
    return np.clip(0.5 - distance * item.radius, 0.0, 1.0)


def render(spec: SceneSpec) -> Sample:
    """Draw a scene; masks are the visible pixels of each object (coverage at least one half)."""
    size = spec.size
    canvas = _background(spec.background_seed, size)
    shading = np.random.default_rng([spec.background_seed, 1])
    covers: list[Array] = []
    for item in spec.objects:
        cover = _coverage(item, size)
        light = 1 + 0.08 * _noise(shading, size, 5) + 0.06 * _noise(shading, size, 19)
        colour = np.array(colorsys.hsv_to_rgb(*item.hsv)) * np.clip(light, 0.6, 1.4)[..., None]
        canvas = canvas + cover[..., None] * (colour - canvas)
        covers.append(cover)
    pixels = np.round(np.clip(canvas, 0.0, 1.0) * 255).astype(np.uint8)
    instances = []
    hidden = np.zeros((size, size), dtype=bool)
    for item, cover in reversed(list(zip(spec.objects, covers, strict=True))):
        whole = cover >= 0.5
        mask = whole & ~hidden
        hidden |= whole
        if mask.sum() < MIN_VISIBLE * whole.sum():
            continue
        instances.append(Instance(mask=mask, label=item.label, box=bounding_box(mask)))
    image = to_unit_range(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    return Sample(key=spec.key, image=image, instances=tuple(reversed(instances)))


@dataclass(frozen=True)
class Scenes(Dataset):
    """``count`` scenes of ``size`` x ``size`` pixels from ``seed``; scene i is the same in any count.

    ``max_objects=1`` gives single-object scenes.
    """

    seed: int
    count: int
    size: int = 96
    max_objects: int = 4

    name = "scenes"
    classes = CLASSES

    def __len__(self) -> int:
        return self.count

    def spec(self, index: int) -> SceneSpec:
        """Return the description of scene ``index``, before rendering."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        rng = np.random.default_rng([self.seed, index, self.max_objects])
        scale = self.size / 96
        count = int(rng.integers(1, self.max_objects + 1))
        objects: list[SceneObject] = []
        for _ in range(40):
            if len(objects) == count:
                break
            label = int(rng.integers(len(CLASSES)))
            radius = float(rng.uniform(10, 20)) * scale
            margin = 0.8 * radius
            x, y = (float(v) for v in rng.uniform(margin, self.size - margin, 2))
            if any(np.hypot(x - o.center[0], y - o.center[1]) < 0.9 * (radius + o.radius) for o in objects):
                continue
            prototypical = bool(rng.random() < PROTOTYPICAL_SHARE)
            hue = prototypical_hue(label) + rng.normal(0, HUE_JITTER) if prototypical else rng.random()
            hsv = (float(hue % 1.0), float(rng.uniform(0.6, 0.95)), float(rng.uniform(0.6, 0.95)))
            objects.append(SceneObject(label, (x, y), radius, float(rng.random()), hsv, prototypical))
        return SceneSpec(
            key=self.key(index),
            size=self.size,
            background_seed=int(rng.integers(2**62)),
            objects=tuple(objects),
        )

    def __getitem__(self, index: int) -> Sample:
        return render(self.spec(index))

    def key(self, index: int) -> str:
        """Return the name of scene ``index``."""
        return f"scene-{self.seed}-{index:06d}"

    def identity(self, index: int) -> str:
        """Return all that determines scene ``index``, without rendering it."""
        return f"scenes-v{GENERATOR_VERSION}-{self.seed}-{self.max_objects}-{self.size}-{index}"

    def digest(self) -> str:
        """Return a SHA-256 over the generator's version and arguments, which determine every pixel."""
        text = f"scenes-v{GENERATOR_VERSION}-{self.seed}-{self.count}-{self.size}-{self.max_objects}"
        return hashlib.sha256(text.encode()).hexdigest()


def largest_label(sample: Sample) -> int:
    """Return the class of the object with the most visible pixels, which the bundled classifier is trained to name."""
    return max(sample.instances, key=lambda instance: int(instance.mask.sum())).label


def check_scenes(size: int) -> None:
    """Draw scenes with one disc in red and in cyan: its mask is where they differ, and red is red.

    Raises:
        DataError: if a mask lies elsewhere or red is another colour.
    """
    data, disc = Scenes(seed=0, count=3, size=size, max_objects=1), CLASSES.index("disc")
    for index in range(len(data)):
        spec = data.spec(index)
        discs = [[replace(item, label=disc, hsv=(hue, 0.9, 0.9)) for item in spec.objects] for hue in (0.0, 0.5)]
        red, cyan = (render(replace(spec, objects=tuple(objects))) for objects in discs)
        changed = (red.image - cyan.image).abs().amax(0) > 0
        for instance in red.instances:
            check_red(red.image, instance.mask, "a scene with a red object")
            check_centre(changed, instance.mask, "the mask of a scene's object")


@register.dataset("scenes")
@dataclass(frozen=True)
class ScenesSource(Source):
    """Procedural scenes of the model's input size."""

    seed: Natural
    count: Positive
    max_objects: Positive = 4

    def open(self, size: tuple[int, int], resampling: Resampling) -> Scenes:
        """Return the scenes, drawn at ``size``: nothing of them is resized.

        Raises:
            UsageError: if the size is not square.
        """
        if size[0] != size[1]:
            raise UsageError(f"scenes are square, the model's input is {size[0]} x {size[1]}")
        return Scenes(self.seed, self.count, size[0], self.max_objects)

    def check(self, size: tuple[int, int]) -> None:
        """Draw scenes with a disc in two colours (`check_scenes`)."""
        if size[0] == size[1]:
            check_scenes(size[0])
