"""Colour edits and measures against independent implementations, and against reconstructions whose answer is known."""

from __future__ import annotations

import colorsys
import math

import colour
import numpy as np
import pytest
import torch
from helpers import Reconstruct, copy, defined, scene_split, scored_model, scoring, smeared
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, lab2lch, rgb2lab

from invsuite.data.base import Sample
from invsuite.data.edits import scale_chroma, set_hue, swap_channels, turn_hue, turn_hue_lch
from invsuite.data.scenes import CLASSES, prototypical_hue
from invsuite.data.split import Split
from invsuite.errors import NotApplicable
from invsuite.metrics import make_metric
from invsuite.metrics.base import Scoring
from invsuite.metrics.colour import (
    ChromaGain,
    ChromaGainGrey,
    ColourEdit,
    ColourGainSet,
    ColourGainSwap,
    ColourGainSwapImage,
    ColourLeak,
    DeltaE,
    HueGain,
    HueGainImage,
    HueGainLch,
    slope,
    turn_of_hue,
)
from invsuite.metrics.consistency import PAIRED
from invsuite.metrics.correspondence import Correspondence
from invsuite.metrics.prototype import CONCENTRATION, Prototype, PullToPrototype, prototypes, pull, usual_colour
from invsuite.metrics.regions import Regions
from invsuite.metrics.representation import RepresentationShift, pair_distance, representations
from invsuite.results.statistics import summarise

GAINS: tuple[ColourEdit, ...] = (
    *(HueGain(), HueGainImage(), HueGainLch(), ChromaGain(), ChromaGainGrey()),
    *(ColourGainSet(), ColourGainSwap(), ColourGainSwapImage()),
)


def patch(hue: float, saturation: float = 0.7, value: float = 0.8, side: int = 8) -> torch.Tensor:
    """A flat image (3, side, side)."""
    return torch.tensor(colorsys.hsv_to_rgb(hue % 1, saturation, value)).view(3, 1, 1).expand(3, side, side)


def everywhere(images: torch.Tensor) -> Regions:
    return Regions(torch.ones(images[:, 0].shape, dtype=torch.bool))


def lch(image: torch.Tensor) -> np.ndarray:
    return lab2lch(rgb2lab(image.permute(1, 2, 0).double().numpy()))


def hue_gain(before: torch.Tensor, after: torch.Tensor, turns: float) -> float:
    """Hue gain of one object that fills the image, shown as strongly coloured as it can be."""
    regions = everywhere(before[None])
    a, b = regions.hue_and_chroma(before[None]), regions.hue_and_chroma(after[None])
    return float(turn_of_hue(a, b, np.ones_like(a[1]), regions, turns)[0])


# -- edits


def colours(seed: int = 0) -> torch.Tensor:
    """Random colours (3, 30, 30), some without chroma."""
    image = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(seed))
    image[:, :3] = image[:1, :3]
    return image


WHOLE = np.ones((30, 30), dtype=bool)


@pytest.mark.parametrize("turns", [0.1, 1 / 3, -0.4])
def test_a_turn_in_lch_keeps_lightness_and_turns_the_hue(turns: float) -> None:
    image = colours()
    before, after = lch(image), lch(turn_hue_lch(image, WHOLE, turns))
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=0.02)
    assert (after[..., 1] <= before[..., 1] + 0.02).all(), "chroma is kept, or reduced into the gamut"
    assert 0.2 < (after[..., 1] > before[..., 1] - 0.02).mean() < 0.95, "both happen among random colours"
    coloured = after[..., 1] > 5
    turned = (after[..., 2] - before[..., 2])[coloured] - 2 * math.pi * turns
    np.testing.assert_allclose(np.angle(np.exp(1j * turned)), 0.0, atol=0.01)


def test_colours_beyond_srgb_lose_as_little_chroma_as_they_must() -> None:
    """colour-science finds the edited colours at the edge of sRGB: a little more chroma is outside."""
    image = colours(1)
    before, after = lch(image), lch(turn_hue_lch(image, WHOLE, 0.3))
    reduced = (after[..., 1] < before[..., 1] - 0.5) & (after[..., 1] > 1)
    assert reduced.sum() > 50
    stronger = after[reduced] * [1, 1.02, 1]
    lab = np.stack([stronger[:, 0], *(stronger[:, 1] * f(stronger[:, 2]) for f in (np.cos, np.sin))], 1)
    rgb = colour.XYZ_to_sRGB(colour.Lab_to_XYZ(lab), apply_cctf_encoding=False)
    assert ((rgb < 0) | (rgb > 1)).any(1).all()


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_scaling_chroma_keeps_lightness_and_hue(factor: float) -> None:
    image = colours(2)
    before, after = lch(image), lch(scale_chroma(image, WHOLE, factor))
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=0.02)
    wanted = factor * before[..., 1]
    if factor <= 1:
        np.testing.assert_allclose(after[..., 1], wanted, atol=0.03)
    else:
        assert (after[..., 1] <= wanted + 0.03).all()
        assert (after[..., 1] >= before[..., 1] - 0.03).all()
    strong = (after[..., 1] > 5) & (before[..., 1] > 5)
    np.testing.assert_allclose(np.angle(np.exp(1j * (after - before)[..., 2][strong])), 0.0, atol=0.01)


def test_setting_a_hue_and_swapping_channels() -> None:
    image = colours(3)
    done = set_hue(image, WHOLE, 0.6)
    for (y, x), (h, s, v) in {
        (y, x): colorsys.rgb_to_hsv(*done[:, y, x].tolist()) for y, x in ((5, 5), (9, 20), (29, 1))
    }.items():
        assert h == pytest.approx(0.6, abs=1e-4)
        assert (s, v) == pytest.approx(colorsys.rgb_to_hsv(*image[:, y, x].tolist())[1:], abs=1e-5)
    assert torch.equal(swap_channels(image, WHOLE, (2, 1, 0)), image.flip(0))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.floats(-1, 1), st.floats(0, 4))
def test_edits_stay_in_range_and_inside_their_mask(seed: int, turns: float, factor: float) -> None:
    image = colours(seed)
    mask = np.random.default_rng(seed).random((30, 30)) < 0.3
    for edited in (
        turn_hue(image, mask, turns),
        turn_hue_lch(image, mask, turns),
        set_hue(image, mask, turns % 1.0),
        scale_chroma(image, mask, factor),
        swap_channels(image, mask, (1, 2, 0)),
    ):
        assert edited.dtype == image.dtype
        assert 0.0 <= float(edited.min()) <= float(edited.max()) <= 1.0
        assert torch.equal(edited[:, ~torch.from_numpy(mask)], image[:, ~torch.from_numpy(mask)])


# -- known truth


def painter(samples: list[Sample]) -> Reconstruct:
    """A reconstruction of ``samples``, edited or not, that shows every object in its class's colour."""

    def painted(images: torch.Tensor) -> torch.Tensor:
        made = images.clone()
        for image in made:
            own = min(samples, key=lambda s: float((s.image - image).abs().median()))
            for item in own.instances:
                rgb = colorsys.hsv_to_rgb(prototypical_hue(item.label), 0.8, 0.8)
                image[:, torch.from_numpy(item.mask)] = torch.tensor(rgb).view(3, 1)
        return made

    return painted


def known_truth() -> tuple[Scoring, Scoring]:
    """The same scenes, copied and painted in class colours; prototypes are measured on other scenes."""
    samples = scene_split(906, 24).samples()
    fit = scene_split(907, 160)
    return scoring(copy, 24, samples, fit=fit), scoring(painter(samples), 24, samples, fit=fit)


def test_a_copy_and_a_painting_in_class_colours_score_as_they_must() -> None:
    """On scenes with known truth, a copy scores gain 1, lift at its ceiling, pull 0; a painting gain 0 and pull 1."""
    copied, painted = known_truth()
    for metric in GAINS:
        gains = defined(metric.compute(copied))
        assert len(gains) >= 20, metric.name
        np.testing.assert_allclose(gains, 1.0, atol=0.02, err_msg=metric.name)
    lifts = Correspondence().compute(copied)
    assert np.mean(defined(lifts)) == pytest.approx(lifts.ceiling)
    pulls = PullToPrototype().compute(copied)
    assert len(defined(pulls)) >= 15
    np.testing.assert_allclose(defined(pulls), 0.0, atol=1e-6)

    for metric in GAINS:
        if metric.target == "object":
            gains = defined(metric.compute(painted))
            assert len(gains) >= 20, metric.name
            np.testing.assert_allclose(gains, 0.0, atol=1e-6, err_msg=metric.name)
    pulls = PullToPrototype().compute(painted)
    assert len(defined(pulls)) >= 15
    assert np.mean(defined(pulls)) == pytest.approx(1.0, abs=0.05)
    assert np.ptp(defined(pulls)) < 0.5
    assert pulls.floor is not None
    assert abs(pulls.floor) < 0.5, "not pulled to the colours of other classes"


def test_the_other_colour_measures_of_a_copy_and_of_a_painting() -> None:
    copied, painted = known_truth()
    assert max(defined(DeltaE().compute(copied))) == pytest.approx(0.0, abs=1e-6)
    assert max(defined(ColourLeak().compute(copied))) == pytest.approx(0.0, abs=1e-9)
    assert np.mean(defined(DeltaE().compute(painted))) > 20
    still = ColourLeak().compute(painted)
    assert defined(still) == []
    assert still.undefined == "the reconstruction does not change"


def test_grey_reconstructions_have_no_hue_and_no_chroma_gain() -> None:
    material = scoring(lambda x: x.mean(1, keepdim=True).expand_as(x).contiguous(), 4)
    for metric in (HueGain(), HueGainLch(), PullToPrototype()):
        found = metric.compute(material)
        assert defined(found) == []
        assert "the reconstructed object has no chroma" in found.undefined
    for metric in (ChromaGain(), ColourGainSwap()):
        np.testing.assert_allclose(defined(metric.compute(material)), 0.0, atol=1e-3)


def test_half_the_chroma_is_half_the_gain() -> None:
    """A reconstruction of half the CIELab chroma turns hues as far, and changes chroma by half as much."""

    def pale(images: torch.Tensor) -> torch.Tensor:
        whole = np.ones(images.shape[-2:], dtype=bool)
        return torch.stack([scale_chroma(image, whole, 0.5) for image in images])

    material = scoring(pale, 4)
    np.testing.assert_allclose(defined(ChromaGain().compute(material)), 0.5, atol=0.01)
    np.testing.assert_allclose(defined(ColourGainSwap().compute(material)), 0.5, atol=0.01)
    np.testing.assert_allclose(defined(HueGainLch().compute(material)), 1.0, atol=0.01)


# -- gains


@pytest.mark.parametrize("turns", [-0.3, 0.1, 1 / 3, 0.45])
def test_hue_gain_of_a_known_turn(turns: float) -> None:
    for hue in (0.0, 0.4, 0.95):
        assert hue_gain(patch(hue), patch(hue + turns), turns) == pytest.approx(1.0, abs=0.01)
        assert hue_gain(patch(hue), patch(hue + turns / 2), turns) == pytest.approx(0.5, abs=0.01)
        assert hue_gain(patch(hue), patch(hue), turns) == pytest.approx(0.0)


def half_grey(seed: int) -> torch.Tensor:
    """Grey pixels (3, 8, 8) with the noise of a hue."""
    return 0.5 + 1e-4 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_pixels_without_chroma_do_not_count() -> None:
    """Grey pixels have a hue of pure noise; adding them to an object must not move any of its measures."""
    before, after = patch(0.1, 0.8), patch(0.1 + 1 / 3, 0.8)
    mixed = torch.cat([before, half_grey(0)], -1), torch.cat([after, half_grey(1)], -1)
    assert hue_gain(*mixed, 1 / 3) == pytest.approx(hue_gain(before, after, 1 / 3), abs=1e-3)
    # shown grey there, whatever the reconstruction makes of it: half of the pixels keep their colour
    shown = torch.cat([before, half_grey(2)], -1)[None], torch.cat([after, half_grey(2)], -1)[None]
    made = torch.cat([before, before], -1)[None], torch.cat([after, before], -1)[None]
    regions = everywhere(made[0])
    weight = regions.hue_and_chroma(shown[0])[1]
    gain = turn_of_hue(*(regions.hue_and_chroma(m) for m in made), weight, regions, 1 / 3)
    assert float(gain[0]) == pytest.approx(1.0, abs=0.01)
    labs = [regions.lab(x)[:, 1:] for x in (*shown, *made)]
    assert float(slope(labs[3] - labs[2], labs[1] - labs[0], regions)[0][0]) == pytest.approx(1.0, abs=0.01)


def test_an_object_without_chroma_has_no_gain() -> None:
    sample = scene_split(906, 1).sample(0)
    mask = torch.from_numpy(np.any([i.mask for i in sample.instances], axis=0))
    grey = sample.image.clone()
    grey[:, mask] = grey.mean(0)[mask]
    material = scoring(copy, 1, [Sample("grey", grey, sample.instances)])
    for metric, reason in (
        (HueGain(), "the object shown has no chroma"),
        (HueGainLch(), "the object shown has no chroma"),
        (ChromaGain(), "the edit does not change the colour shown"),
        (ColourGainSwap(), "the edit does not change the colour shown"),
        (PullToPrototype(), "the object shown has no chroma"),
    ):
        found = metric.compute(material)
        assert found.per_image == [None]
        assert reason in found.undefined


def test_the_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    shown, change = rng.normal(size=(2, 64, 2))
    images = torch.zeros(2, 3, 4, 8)
    found, size = slope(change, shown, everywhere(images))
    for index, rows in enumerate((slice(0, 32), slice(32, 64))):
        expected = np.linalg.lstsq(shown[rows].reshape(-1, 1), change[rows].ravel(), rcond=None)[0][0]
        assert found[index] == pytest.approx(expected)
        assert size[index] == pytest.approx(np.sqrt((shown[rows] ** 2).sum(1).mean()))


def test_hue_is_the_angle_of_hsv() -> None:
    colours = torch.rand(1, 3, 1, 200, dtype=torch.float64)
    hue, chroma = everywhere(colours).hue_and_chroma(colours)
    for index in range(200):
        expected, saturation, value = colorsys.rgb_to_hsv(*colours[0, :, 0, index].tolist())
        assert float(chroma[index]) == pytest.approx(saturation * value, abs=1e-6)
        assert abs((float(hue[index]) / (2 * math.pi) - expected + 0.5) % 1 - 0.5) < 1e-6


# -- Delta E and leak

#: L, a, b of two colours and their CIEDE2000 difference: Sharma, Wu & Dalal 2005, table 1
SHARMA = (
    (50.0, 2.6772, -79.7751, 50.0, 0.0, -82.7485, 2.0425),
    (50.0, 3.1571, -77.2803, 50.0, 0.0, -82.7485, 2.8615),
    (50.0, -1.3802, -84.2814, 50.0, 0.0, -82.7485, 1.0000),
    (50.0, 0.0, 0.0, 50.0, -1.0, 2.0, 2.3669),
    (50.0, 2.49, -0.001, 50.0, -2.49, 0.0009, 7.1792),
    (50.0, 2.5, 0.0, 73.0, 25.0, -18.0, 27.1492),
    (50.0, 2.5, 0.0, 58.0, 24.0, 15.0, 19.4535),
    (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
    (2.0776, 0.0795, -1.135, 0.9033, -0.0636, -0.5514, 0.9082),
)


def test_delta_e_is_the_published_one() -> None:
    table = np.array(SHARMA)
    np.testing.assert_allclose(deltaE_ciede2000(table[:, :3], table[:, 3:6]), table[:, 6], atol=1e-4)


def test_delta_e_agrees_with_colour_science() -> None:
    material = scoring(smeared, 3)
    found = DeltaE().compute(material)
    edits = material.edits(DeltaE().edit_name, DeltaE().edit)
    for index, row in enumerate(edits.rows):
        inside = edits.masks[index]
        shown, made = (x[index][:, inside].T.double().numpy() for x in (edits.edited, edits.after))
        labs = [colour.XYZ_to_Lab(colour.sRGB_to_XYZ(x)) for x in (shown, made)]
        expected = colour.delta_E(*labs, method="CIE 2000").mean()
        assert found.per_image[row] == pytest.approx(expected, abs=0.02)


def test_colour_leak_of_a_known_spread() -> None:
    """A reconstruction that is shifted wholly off the object leaks all of it; lightness alone is no leak."""
    assert min(defined(ColourLeak().compute(scoring(lambda x: x.roll(48, 3), 4)))) > 0.95
    found = ColourLeak().compute(scoring(smeared, 4))
    assert 0.01 < np.mean(defined(found)) < 0.5
    assert found.ceiling == pytest.approx(0.0, abs=1e-9)
    assert found.floor is not None
    assert found.floor > 0.8


# -- prototypes


def test_prototypes_are_the_hues_the_generator_gives() -> None:
    found = prototypes(scene_split(907, 160))
    assert set(found) == set(CLASSES)
    for label, name in enumerate(CLASSES):
        true = lch(patch(prototypical_hue(label), 0.8, 0.8))[0, 0, 2]
        assert found[name].usual
        assert abs(np.angle(np.exp(1j * (found[name].hue - true)))) < 0.08
        assert found[name].concentration > CONCENTRATION


def test_random_hues_make_no_prototype() -> None:
    rng = np.random.default_rng(0)
    usual = 0
    for _ in range(200):
        angle = rng.uniform(0, 2 * np.pi, 12)
        usual += usual_colour(40 * np.stack([np.cos(angle), np.sin(angle)], 1)).usual
    assert usual <= 20, "5 % of random samples, and a margin"
    assert not Prototype(0.0, 0.9, 2).usual, "two objects of one hue prove nothing"
    grey = usual_colour(np.zeros((50, 2)))
    assert not grey.usual


def test_prototypes_weigh_objects_by_their_chroma() -> None:
    strong, pale = np.array([40.0, 0.0]), np.array([0.0, 0.4])
    found = usual_colour(np.stack([strong] * 10 + [pale] * 10))
    assert found.hue == 0.0
    assert found.concentration == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize("start", [0.0, 2.0, 3.0, -3.0])
def test_pull_runs_from_the_hue_shown_to_the_prototype(start: float) -> None:
    shown, prototype = np.array([start] * 4), np.array([start + 2.0] * 4)
    made = start + np.array([0.0, 1.0, 2.0, -1.0])
    np.testing.assert_allclose(pull(made, shown, prototype), [0.0, 0.5, 1.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(pull(-made, -shown, -prototype), [0.0, 0.5, 1.0, -0.5], atol=1e-12)


class Photos:
    """A folder of photos: no classes, no masks."""

    name = "photos"
    classes = ()


def test_without_class_colours_the_pull_is_not_defined() -> None:
    with pytest.raises(NotApplicable, match="'photos' has no object masks"):
        PullToPrototype().compute(scoring(copy, 2, fit=Split(Photos(), (0, 1))))  # type: ignore[arg-type]
    few = PullToPrototype().compute(scoring(copy, 4, fit=scene_split(907, 1)))
    assert defined(few) == []
    assert "no usual hue on the fit images" in few.undefined
    with pytest.raises(NotApplicable, match="no class"):
        PullToPrototype(target="image").compute(scoring(copy, 2))


# -- representation, and what all share


def test_representation_shift_is_a_share_of_the_distance_of_random_images() -> None:
    model, material = scored_model(), scoring(copy, 3)
    images = torch.cat([s.image[None] for s in material.subject.fit.samples()])[:PAIRED]
    flat = model.represent(images, ["block03"])["block03"].tensor.flatten(1).double().numpy()
    distances = [np.linalg.norm(a - b) for i, a in enumerate(flat) for b in flat[:i]]
    assert pair_distance(model, "block03", material.subject.fit) == pytest.approx(np.mean(distances), rel=1e-5)
    found = RepresentationShift().compute(material)
    edits = material.edits(DeltaE().edit_name, DeltaE().edit)
    before, after = (representations(model, "block03", x) for x in (edits.images, edits.edited))
    expected = np.linalg.norm((after - before).numpy(), axis=1) / np.mean(distances)
    np.testing.assert_allclose(defined(found), expected, rtol=1e-4)
    assert all(0.0 < v < 1.5 for v in defined(found))
    np.testing.assert_allclose(defined(RepresentationShift(turns=1.0).compute(material)), 0.0, atol=1e-3)


def test_without_masks_the_measures_of_objects_are_undefined() -> None:
    material = scoring(copy, 1, [Sample("plain", colours().repeat(1, 4, 4)[:, :96, :96])])
    for metric in (*GAINS, DeltaE(), ColourLeak(), RepresentationShift(), PullToPrototype()):
        found = metric.compute(material)
        if metric.target == "image":
            assert defined(found) == [pytest.approx(1.0, abs=0.02)]
        else:
            assert found.per_image == [None]
            assert "no scored image has an object mask" in found.undefined


def test_the_turned_object_is_reconstructed_once_for_all_its_measures() -> None:
    calls = []

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images

    material = scoring(counted, 3)
    for metric in (HueGain(), DeltaE(), ColourLeak(), RepresentationShift(), PullToPrototype()):
        metric.compute(material)
    assert len(calls) == 2, "once for the images, once for the edited ones"
    HueGainImage().compute(material)
    assert len(calls) == 3, "the whole image is another edit of the same name"


def test_gains_fall_with_smear() -> None:
    means = [summarise(m.compute(scoring(smeared, 4)).per_image).mean or 0.0 for m in (ChromaGain(), ColourGainSwap())]
    assert all(0.2 < mean < 0.9 for mean in means)


PINNED: dict[str, list[float | None]] = {
    "hue_gain": [0.99683, 0.9806, 0.99945],
    "hue_gain_image": [1.0, 1.0, 1.0],
    "hue_gain_lch": [1.0257, 0.9262, 0.87632],
    "chroma_gain": [0.89624, 0.81737, 0.80928],
    "chroma_gain_grey": [0.7963, 0.77389, 0.76061],
    "colour_gain_set": [0.72692, 0.81573, 0.76746],
    "colour_gain_swap": [0.70711, 0.77936, 0.82],
    "colour_gain_swap_image": [0.71046, 0.75686, 0.75755],
    "delta_e": [6.0598, 4.5057, 3.6625],
    "colour_leak": [0.03254, 0.017919, 0.01419],
    "representation_shift": [0.863, 0.48445, 0.69418],
    "pull_to_prototype": [None, 0.0034381, 0.043799],
}


@pytest.mark.parametrize("name", PINNED)
def test_pinned_values(name: str) -> None:
    """Values of one reconstruction, so that a change of a measure is seen and its version raised."""
    found = make_metric(name).compute(scoring(smeared, 3))
    expected = [np.nan if v is None else v for v in PINNED[name]]
    np.testing.assert_allclose([np.nan if v is None else v for v in found.per_image], expected, rtol=2e-3, atol=5e-4)
