"""Scenes: deterministic, exactly labelled, with prototypical hues most objects wear."""

from __future__ import annotations

import colorsys
import hashlib

import numpy as np
import torch

from invsuite.data.base import check_images, from_unit_range
from invsuite.data.scenes import CLASSES, Scenes, largest_label, prototypical_hue, render


def digest(image: torch.Tensor) -> str:
    return hashlib.sha256(from_unit_range(image).numpy().tobytes()).hexdigest()


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    long, short = Scenes(5, 100), Scenes(5, 4)
    assert digest(long[3].image) == digest(short[3].image)
    assert digest(long[3].image) != digest(Scenes(6, 4)[3].image)
    assert Scenes(5, 4).digest() != Scenes(6, 4).digest()


def test_pinned_scene() -> None:
    """Pixels may not drift: every result on scenes depends on them."""
    spread = [float(Scenes(1, 8)[i].image.double().mean()) for i in range(8)]
    np.testing.assert_allclose(spread, PINNED_MEANS, atol=2e-5)


def test_images_boxes_and_masks_fit() -> None:
    for index in range(60):
        sample = Scenes(2, 60)[index]
        check_images(sample.image[None])
        assert 1 <= len(sample.instances) <= 4
        seen = np.zeros((96, 96), dtype=int)
        for instance in sample.instances:
            x0, y0, x1, y1 = (int(v) for v in instance.box)
            inside = np.zeros((96, 96), dtype=bool)
            inside[y0:y1, x0:x1] = True
            assert not (instance.mask & ~inside).any()
            assert instance.mask[y0].any()
            assert instance.mask[y1 - 1].any()
            assert instance.mask[:, x0].any()
            assert instance.mask[:, x1 - 1].any()
            seen += instance.mask
        assert seen.max() == 1, "visible masks do not overlap"


def test_masks_show_the_objects_own_hue() -> None:
    """The mask is where the object is: pixels inside wear its hue, and most outside do not."""
    data = Scenes(3, 30, max_objects=1)
    for index in range(30):
        spec, sample = data.spec(index), data[index]
        pixels = sample.image[:, torch.from_numpy(sample.instances[0].mask)].numpy().T
        hues = np.array([colorsys.rgb_to_hsv(*p)[0] for p in pixels])
        turn = np.abs((hues - spec.objects[0].hsv[0] + 0.5) % 1 - 0.5)
        assert np.median(turn) < 0.02


def test_most_but_not_all_objects_wear_the_prototypical_hue() -> None:
    objects = [o for i in range(400) for o in Scenes(4, 400).spec(i).objects]
    share = np.mean([o.prototypical for o in objects])
    assert 0.75 < share < 0.85
    for item in objects:
        if item.prototypical:
            turn = abs((item.hsv[0] - prototypical_hue(item.label) + 0.5) % 1 - 0.5)
            assert turn < 0.1
    counts = np.bincount([o.label for o in objects], minlength=len(CLASSES))
    assert counts.min() > 0.5 * counts.mean()


def test_recolouring_an_object_changes_its_pixels_only() -> None:
    from dataclasses import replace

    data = Scenes(7, 20)
    spec = data.spec(2)
    first = spec.objects[0]
    turned = replace(spec, objects=(replace(first, hsv=((first.hsv[0] + 0.3) % 1, *first.hsv[1:])), *spec.objects[1:]))
    before, after = render(spec), render(turned)
    changed = (before.image - after.image).abs().sum(0) > 0.02
    grown = torch.from_numpy(before.instances[0].mask)
    grown = torch.nn.functional.max_pool2d(grown.float()[None, None], 5, 1, 2)[0, 0] > 0
    assert changed.any()
    assert not (changed & ~grown).any()


def test_largest_label_is_by_visible_area() -> None:
    sample = Scenes(8, 5)[1]
    areas = {i.label: int(i.mask.sum()) for i in sample.instances}
    assert areas[largest_label(sample)] == max(areas.values())


PINNED_MEANS = [0.521405, 0.374691, 0.45138, 0.459589, 0.512063, 0.576752, 0.624727, 0.401068]
