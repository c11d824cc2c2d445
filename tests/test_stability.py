"""Stability on inverses whose answer to a small change is known."""

from __future__ import annotations

import pytest
import torch
from helpers import scoring

from invsuite.metrics import make_metric
from invsuite.metrics.stability import change_ratio, followed

NAMES = ("stability_noise", "stability_shift", "stability_jpeg")


def defined(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("reconstruct", "expected"), [(lambda x: x, 1.0), (lambda x: 0.5 * x + 0.2, 0.5)])
def test_a_known_gain_is_measured(name: str, reconstruct, expected: float) -> None:  # type: ignore[no-untyped-def]
    values = make_metric(name).compute(scoring(reconstruct))
    assert defined(values.per_image) == pytest.approx([expected] * 8, abs=1e-4)
    assert values.facts["followed"] == pytest.approx(expected, abs=1e-4)
    assert values.ceiling == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_an_inverse_that_takes_similar_images_for_any_two_is_at_the_floor(name: str) -> None:
    """One that answers with noise of its own for every content changes as much as between two images."""

    def chaotic(images: torch.Tensor) -> torch.Tensor:
        answers = []
        for image in images:
            seed = int(image.double().mul(1e6).sum()) % 2**31
            answers.append(torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(answers)

    values = make_metric(name).compute(scoring(chaotic))
    changed = defined(values.per_image)
    assert values.floor is not None
    assert sum(changed) / len(changed) == pytest.approx(values.floor, rel=0.05)
    assert values.floor > 2
    assert abs(values.facts["followed"]) < 0.05 * values.floor, "what changes is not what was changed"


def test_a_constant_does_not_change_and_a_shift_that_is_undone_does_not_follow() -> None:
    assert defined(make_metric("stability_shift").compute(scoring(lambda x: 0 * x + 0.5)).per_image) == [0.0] * 8
    images = torch.rand(2, 3, 6, 6)
    changed = images + torch.randn_like(images)
    assert torch.allclose(change_ratio(images, changed, images, changed), torch.ones(2))
    other = images + (changed - images).flip(-1)
    assert torch.allclose(change_ratio(images, changed, images, other), torch.ones(2))
    assert bool((followed(images, changed, images, other).abs() < 0.5).all())
    assert bool(change_ratio(images, images, images, changed).isnan().all())


def test_the_disturbances_are_small_and_keep_the_range() -> None:
    image = torch.rand(3, 32, 32)
    for name in NAMES:
        changed = make_metric(name).disturb(image)  # type: ignore[attr-defined]
        assert changed.shape == image.shape
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
        assert not torch.equal(changed, image)
        assert torch.equal(changed, make_metric(name).disturb(image))  # type: ignore[attr-defined]
    noise = make_metric("stability_noise").disturb(image) - image  # type: ignore[attr-defined]
    assert 1 < 255 * float(noise.std()) < 2.1
    assert torch.equal(make_metric("stability_shift").disturb(image)[..., 1:], image[..., :-1])  # type: ignore[attr-defined]
