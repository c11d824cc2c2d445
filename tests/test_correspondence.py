"""Spatial measures against independent implementations, and against reconstructions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import copy, defined, noisy_by_content, scene_split, scoring, smeared
from scipy import ndimage
from scipy.spatial.distance import pdist
from scipy.stats import f_oneway, spearmanr
from torchmetrics.functional.classification import binary_auroc

from invsuite.data.base import Instance, Sample, bounding_box
from invsuite.metrics import make_metric
from invsuite.metrics.base import Metric, shuffle
from invsuite.metrics.correspondence import (
    CentroidShift,
    ChangeAuc,
    Correspondence,
    Leak,
    auc,
    centroid_shift,
    change_map,
    lift,
    share_inside,
)
from invsuite.metrics.patches import (
    AffinityCorrelation,
    PatchMatch,
    PatchMatch1,
    PatchMatch2,
    affinity,
    cut_patches,
    matched_share,
)
from invsuite.metrics.segments import BoundaryF, ObjectUnity, borders, boundary_f, edges, segment_maps, variance_between

RELIT: tuple[Metric, ...] = (Correspondence(), CentroidShift(), ChangeAuc(), Leak())
WHOLE: tuple[Metric, ...] = (
    *(BoundaryF(), PatchMatch(), PatchMatch1(), PatchMatch2(), AffinityCorrelation(), ObjectUnity()),
)


def blurred(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False)


def moved(images: torch.Tensor) -> torch.Tensor:
    return images.roll((31, 17), (2, 3))


def noisy_maps(seed: int = 0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Change maps (with ties, as clipped pixels make them) and masks."""
    generator = torch.Generator().manual_seed(seed)
    maps = (torch.rand(count, 20, 24, generator=generator) * 8).floor().double() / 8
    masks = torch.zeros(count, 20, 24, dtype=torch.bool)
    for index in range(count):
        masks[index, 2 + index : 11, 5 : 12 + 3 * index] = True
    return maps + 0.5 * masks, masks


def test_change_measures_agree_with_independent_implementations() -> None:
    maps, masks = noisy_maps()
    for found, energy, mask in zip(centroid_shift(maps, masks), maps.numpy(), masks.numpy(), strict=True):
        a, b = ndimage.center_of_mass(energy), ndimage.center_of_mass(mask)
        assert float(found) == pytest.approx(np.hypot(a[0] - b[0], a[1] - b[1]), abs=1e-9)
    expected = [float(binary_auroc(m.flatten(), t.flatten().int())) for m, t in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(auc(maps, masks), expected, atol=1e-6)
    inside = [np.average(t, weights=m) for m, t in zip(maps.numpy(), masks.numpy(), strict=True)]
    np.testing.assert_allclose(share_inside(maps, masks), inside, atol=1e-12)
    np.testing.assert_allclose(lift(maps, masks), inside / masks.double().mean((1, 2)).numpy(), atol=1e-12)


def test_change_measures_tell_inside_from_everywhere_and_outside() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, 5:10, 5:10] = True
    base = torch.full((1, 3, 20, 20), 0.5)
    changes = {"inside": 0.1 * mask, "everywhere": torch.tensor(0.1), "outside": 0.1 * ~mask}
    maps = {name: change_map(base, base + change) for name, change in changes.items()}
    for name, expected in {"inside": 16.0, "everywhere": 1.0, "outside": 0.0}.items():
        assert float(lift(maps[name], mask)) == pytest.approx(expected, rel=1e-4)
    for name, expected in {"inside": 1.0, "everywhere": 0.5, "outside": 0.0}.items():
        assert float(auc(maps[name], mask)) == pytest.approx(expected)
    for name, expected in {"inside": 0.0, "everywhere": np.hypot(2.5, 2.5)}.items():
        assert float(centroid_shift(maps[name], mask)) == pytest.approx(expected, abs=1e-3)
    assert bool(change_map(base, base.clone()).isnan().all())


def test_a_copy_scores_the_ceiling() -> None:
    material = scoring(copy)
    for metric in (*RELIT, *WHOLE):
        found = metric.compute(material)
        assert len(defined(found)) >= 6
        assert np.mean(defined(found)) == pytest.approx(found.ceiling, abs=1e-6)
    assert np.mean(defined(ChangeAuc().compute(material))) == 1.0
    assert np.mean(defined(Leak().compute(material))) == pytest.approx(0.0, abs=1e-12)
    assert max(defined(CentroidShift().compute(material))) < 1.0
    assert set(defined(PatchMatch().compute(material))) == {1.0}
    np.testing.assert_allclose(defined(AffinityCorrelation().compute(material)), 1.0)
    for value, sample in zip(Correspondence().compute(material).per_image, material.samples, strict=True):
        shares = [1 / float(i.mask.mean()) for i in sample.instances]
        assert value is None or min(abs(value - s) for s in shares) < 1e-3 * value


def test_a_reconstruction_with_everything_out_of_place_scores_about_the_floor() -> None:
    material, straight = scoring(moved), scoring(copy)
    for metric in (*RELIT, *WHOLE):
        found, best = metric.compute(material), metric.compute(straight)
        assert found.floor is not None
        assert best.ceiling is not None
        share = (np.mean(defined(found)) - best.ceiling) / (found.floor - best.ceiling)
        assert share > 0.7, f"{metric.name}: {np.mean(defined(found))} of {best.ceiling} down to {found.floor}"


def test_floors_are_those_of_chance() -> None:
    material = scoring(noisy_by_content)
    area = np.mean([max(float(i.mask.mean()) for i in s.instances) for s in material.samples])
    floors = {metric.name: metric.compute(material).floor for metric in (*RELIT, *WHOLE)}
    assert floors["correspondence"] == pytest.approx(1.0, abs=0.15)
    assert floors["change_auc"] == pytest.approx(0.5, abs=0.02)
    assert floors["leak"] == pytest.approx(1 - area, abs=0.03)
    assert floors["patch_match"] == pytest.approx(1 / 60, abs=0.01), "1 of 81 candidates, fewer near the frame"
    assert floors["affinity_correlation"] == pytest.approx(0.0, abs=0.05)
    assert floors["object_unity"] == pytest.approx(0.01, abs=0.02)


def test_measures_without_a_change_or_a_texture_are_undefined() -> None:
    material = scoring(lambda x: torch.full_like(x, 0.4), 3)
    for metric in RELIT:
        found = metric.compute(material)
        assert found.per_image == [None] * 3
        assert found.undefined == "the reconstruction does not change"
    for metric, reason in ((AffinityCorrelation(), "flat"), (ObjectUnity(), "the reconstruction is flat")):
        found = metric.compute(material)
        assert found.per_image == [None] * 3
        assert reason in found.undefined
    assert PatchMatch().compute(material).per_image == [0.0] * 3
    assert BoundaryF().compute(material).per_image == [0.0] * 3
    plain = [Sample("plain", torch.full((3, 96, 96), 0.5))]
    assert PatchMatch().compute(scoring(copy, 1, plain)).undefined == "the original has no texture"


def test_without_masks_the_measures_of_objects_are_undefined() -> None:
    unmasked = [Sample(s.key, s.image) for s in scene_split(906, 2).samples()]
    material = scoring(copy, 2, unmasked)
    for metric in (*RELIT, BoundaryF(), ObjectUnity()):
        found = metric.compute(material)
        assert found.per_image == [None, None]
        assert "object mask" in found.undefined
    assert PatchMatch().compute(material).per_image == [1.0, 1.0], "patches need no masks"


def test_one_edit_is_reconstructed_once_for_all_its_measures() -> None:
    calls = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images

    material = scoring(counted)
    for metric in RELIT:
        metric.compute(material)
    assert len(calls) == 2, "once for the images, once for the edited ones"


def test_shuffling_keeps_every_square_and_the_rest() -> None:
    maps = torch.arange(2 * 1 * 7 * 9, dtype=torch.float32).view(2, 1, 7, 9)
    found = shuffle(maps, 3)
    assert torch.equal(found[:, :, 6:], maps[:, :, 6:])
    assert torch.equal(found.flatten(1).sort(1).values, maps.flatten(1))
    squares = {tuple(maps[0, 0, y : y + 3, x : x + 3].flatten().tolist()) for y in (0, 3) for x in (0, 3, 6)}
    assert {tuple(found[0, 0, y : y + 3, x : x + 3].flatten().tolist()) for y in (0, 3) for x in (0, 3, 6)} == squares
    assert not torch.equal(found, maps)


def small_pair() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([s.image for s in scene_split(906, 2, 48).samples()])
    return images, blurred(images)


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_patch_match_agrees_with_a_loop_over_patches(radius: int) -> None:
    images, made = small_pair()
    truth, grid = cut_patches(images, 6)
    found, _ = cut_patches(made, 6)
    assert grid == (6, 6)
    assert torch.equal(truth[0, 8, 1].view(8, 8), images[0, 1, 8:16, 16:24])

    def unit(patch: np.ndarray) -> np.ndarray:
        return np.concatenate([channel - channel.mean() for channel in patch])

    for index in range(2):
        hits = []
        for place in range(36):
            row, column = divmod(place, 6)
            candidates = {}
            for y in range(max(0, row - 2), min(6, row + 3)):
                for x in range(max(0, column - 2), min(6, column + 3)):
                    a, b = unit(found[index, place].double().numpy()), unit(truth[index, y * 6 + x].double().numpy())
                    candidates[y, x] = np.corrcoef(a, b)[0, 1]
            y, x = max(candidates, key=lambda at: candidates[at])
            hits.append(max(abs(y - row), abs(x - column)) <= radius)
        share = matched_share(truth, found, grid, radius, reach=2)[index]
        assert float(share) == pytest.approx(np.mean(hits), abs=1e-6)


def test_patches_one_place_off_match_at_radius_one() -> None:
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    material = scoring(lambda x: x.roll(8, 3), 1, [Sample("noise", images[0])])
    inner = 11 / 12  # the first column has come round from the other side
    found = [metric.compute(material).per_image[0] for metric in (PatchMatch(), PatchMatch1(), PatchMatch2())]
    assert found[0] == pytest.approx(0.0, abs=0.02)
    assert found[1] == pytest.approx(inner, abs=0.03)
    assert found[2] == pytest.approx(inner, abs=0.06)


def test_patch_match_ignores_contrast_and_colour_cast() -> None:
    material = scoring(lambda x: 0.5 * x + torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), 3)
    np.testing.assert_allclose(PatchMatch().compute(material).per_image, 1.0)


def test_affinity_agrees_with_scipy() -> None:
    material = scoring(blurred, 3)
    distances = [
        [pdist(cut_patches(x[None], 12)[0][0].flatten(1).double().numpy()) for x in stack]
        for stack in (material.images, material.reconstructions)
    ]
    own = affinity(cut_patches(material.images, 12)[0])
    np.testing.assert_allclose(own, np.square(distances[0]) / 192, atol=1e-9)
    expected = [spearmanr(a, b).statistic for a, b in zip(*distances, strict=True)]
    np.testing.assert_allclose(AffinityCorrelation().compute(material).per_image, expected, atol=1e-6)


def test_unity_agrees_with_an_analysis_of_variance() -> None:
    """Eta squared from scipy's F statistic of a one-way analysis of variance, on grey images: one channel thrice."""
    samples = scene_split(906, 4).samples()
    grey = torch.stack([s.image for s in samples]).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    segments = segment_maps(samples)
    for found, image, part in zip(variance_between(grey, segments), grey[:, 0].double(), segments, strict=True):
        groups = [image[part == k].numpy() for k in part.unique()]
        f, k, n = f_oneway(*groups).statistic, len(groups), image.numel()
        assert float(found) == pytest.approx(f * (k - 1) / (f * (k - 1) + n - k), abs=1e-6)


def test_unity_of_flat_and_torn_objects() -> None:
    sample = scene_split(906, 1).sample(0)
    segments = segment_maps([sample])
    flat = segments[:, None].expand(-1, 3, -1, -1).float() / max(1, int(segments.max()))
    assert float(variance_between(flat, segments)) == pytest.approx(1.0)
    checks = (torch.arange(96)[:, None] + torch.arange(96)).remainder(2).float().expand(1, 3, -1, -1)
    assert float(variance_between(checks, segments)) < 0.01


def square_sample() -> Sample:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:25, 12:30] = True
    image = torch.full((3, 40, 40), 0.2)
    image[1, torch.from_numpy(mask)] = 0.8
    return Sample("square", image, (Instance(mask, 0, bounding_box(mask)),))


def test_small_segments_lie_over_large_ones() -> None:
    sample = square_sample()
    inner = np.zeros((40, 40), dtype=bool)
    inner[15:18, 15:18] = True
    both = Sample("two", sample.image, (Instance(inner, 1, bounding_box(inner)), *sample.instances))
    (segments,) = segment_maps([both])
    assert segments.unique().tolist() == [0, 1, 2]
    assert (segments[10, 12], segments[15, 15], segments[0, 0]) == (1, 2, 0)


def test_edge_strength_is_the_sobel_gradient_of_scipy() -> None:
    images, _ = small_pair()
    for found, image in zip(edges(images), images.double().numpy(), strict=True):
        gradients = [[ndimage.sobel(c, axis, mode="nearest") / 8 for axis in (0, 1)] for c in image]
        strongest = np.max([np.hypot(y, x) for y, x in gradients], axis=0)
        kept = found.numpy() > 0
        np.testing.assert_allclose(found.numpy()[kept], strongest[kept], atol=1e-6)
        assert 0.05 < kept.mean() < 0.5, "thinned"


def test_thinning_leaves_a_line_of_a_blurred_border() -> None:
    for direction in (0, 1):
        ramp = torch.linspace(-8, 8, 41).sigmoid().expand(41, 41)
        found = edges((ramp.T if direction else ramp).expand(1, 3, -1, -1))[0]
        line = (found > 0.5 * found.max()).nonzero()[:, 1 - direction]
        assert line.unique().tolist() == [20]


def test_boundary_f_agrees_with_distance_transforms() -> None:
    """Precision and recall by distances to the nearest pixel of the other set, over the image's own strengths."""
    samples = scene_split(906, 2, 48).samples()
    truth = borders(segment_maps(samples))
    strength = edges(torch.stack([s.image for s in samples]))
    for found, edge, border in zip(boundary_f(strength, truth, 1.5), strength.numpy(), truth.numpy(), strict=True):
        strengths = np.sort(edge[edge > 0])[::-1]
        best = 0.0
        for level in range(1, 33):
            chosen = edge >= strengths[int(np.ceil(len(strengths) * level / 32)) - 1]
            precision = (ndimage.distance_transform_edt(~border)[chosen] <= 1.5).mean()
            recall = (ndimage.distance_transform_edt(~chosen)[border] <= 1.5).mean()
            best = max(best, 2 * precision * recall / (precision + recall))
        assert float(found) == pytest.approx(best, abs=1e-6)


def test_boundary_f_of_known_borders() -> None:
    sample = square_sample()
    material = scoring(copy, 1, [sample])
    assert defined(BoundaryF().compute(material)) == [pytest.approx(1.0)]
    shifted = scoring(lambda x: x.roll((9, 9), (2, 3)), 1, [sample])
    assert defined(BoundaryF().compute(shifted))[0] < 0.3
    near = scoring(lambda x: x.roll(1, 3), 1, [sample])
    assert defined(BoundaryF().compute(near))[0] > 0.95, "one pixel is within the tolerance"


def test_boundary_f_falls_with_blur_and_displacement() -> None:
    means = [np.mean(defined(BoundaryF().compute(scoring(f)))) for f in (copy, blurred, moved)]
    assert means[0] > means[1] + 0.1 > means[2] + 0.3


PINNED = {
    "correspondence": [11.739, 22.791, 13.254],
    "centroid_shift": [0.028879, 0.15267, 0.05418],
    "change_auc": [1.0, 1.0, 1.0],
    "leak": [0.016631, 0.010801, 0.0091334],
    "boundary_f": [0.98775, 0.93421, 0.98885],
    "patch_match": [0.97917, 1.0, 0.97222],
    "patch_match_1": [0.99306, 1.0, 0.97917],
    "patch_match_2": [0.99306, 1.0, 0.99306],
    "affinity_correlation": [0.98403, 0.98724, 0.9868],
    "object_unity": [0.76458, 0.41364, 0.67592],
}


@pytest.mark.parametrize("name", PINNED)
def test_pinned_values(name: str) -> None:
    """Values of one reconstruction, so that a change of a measure is seen and its version raised."""
    found = make_metric(name).compute(scoring(smeared, 3))
    np.testing.assert_allclose(found.per_image, PINNED[name], rtol=2e-3, atol=2e-4)
