"""How stages relate: against definitions written out, on chains whose answer is known, and through a whole run."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY_SUITE, invoke, scene_split, scoring

from invsuite.benchmark import stage_relations
from invsuite.benchmark.cells import LoadedModel, Selection, make_plan
from invsuite.benchmark.suite import load_suite
from invsuite.errors import NotApplicable
from invsuite.methods.ridge import images_from
from invsuite.metrics.interlayer import (
    CrossApplication,
    centred_gram,
    cka_intervals,
    debiased_cka,
    relate,
    ridge_r2,
    rows_of,
)
from invsuite.models.base import Layout, Model
from invsuite.report.results import load_results
from invsuite.results.store import Store


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The U-statistic itself: the mean over every four different examples (Song et al. 2012, eq. 4)."""
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(len(k)), 4)]
    return float(np.mean(terms))


def test_cka_agrees_with_the_u_statistic() -> None:
    torch.manual_seed(0)
    first = torch.randn(7, 5, dtype=torch.float64)
    pair = [first, first[:, :3] ** 2 + torch.randn(7, 3, dtype=torch.float64)]
    k, m = ((x @ x.T).numpy() for x in pair)
    expected = unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    found = debiased_cka(torch.stack([centred_gram(x) for x in pair]))
    assert float(found[0, 1]) == pytest.approx(expected, abs=1e-9)
    assert float(found[0, 0]) == pytest.approx(1.0)


def test_cka_sees_no_rotation_scale_or_likeness_of_chance() -> None:
    torch.manual_seed(1)
    x = torch.randn(60, 40, dtype=torch.float64) + 5
    rotation, _ = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))
    unrelated = torch.randn(60, 400, dtype=torch.float64)
    grams = torch.stack([centred_gram(f) for f in (x, 3 * x @ rotation + 1, unrelated)])
    found, (low, high) = debiased_cka(grams), cka_intervals(grams)
    assert float(found[0, 1]) == pytest.approx(1.0)
    assert abs(float(found[0, 2])) < 0.15
    biased = float((grams[0] * grams[2]).sum() / (grams[0].norm() * grams[2].norm()))
    assert biased > 0.4, "the plain estimate takes many features for likeness"
    assert float(low[0, 2]) < 0 < float(high[0, 2])


def test_intervals_of_cka_cover() -> None:
    """Of two noisy views of one signal, against the value of very many examples."""
    generator = torch.Generator().manual_seed(2)

    def views(n: int) -> torch.Tensor:
        signal = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
        return torch.stack([centred_gram(signal + 0.7 * part) for part in noise])

    truth = float(debiased_cka(views(3000))[0, 1])
    hits = 0
    for _ in range(60):
        low, high = cka_intervals(views(64))
        hits += float(low[0, 1]) <= truth <= float(high[0, 1])
    assert 52 <= hits <= 60


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1.0), (1.0, 0.5)])
def test_ridge_r2_of_a_known_share(noise: float, expected: float) -> None:
    torch.manual_seed(3)
    weight = torch.linalg.qr(torch.randn(6, 6))[0] * torch.tensor([1.0, 10, 100, 1, 1, 1])  # scales do not count
    place = torch.randn(1, 4, 6) * 5  # nor do means of places

    def pair(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(n, 4, 6)
        y = x @ weight
        return x, y + noise * torch.randn(n, 4, 6) * weight.norm(dim=0) + place

    found = ridge_r2(pair(300), pair(100))
    assert found.value == pytest.approx(expected, abs=0.04)
    assert found.interval is not None
    assert found.interval[0] - 1e-6 <= expected <= found.interval[1] + 0.02


def test_ridge_r2_of_the_unrelated_is_nothing() -> None:
    """As many features as images: least squares would predict noise."""
    torch.manual_seed(4)
    fit, held = (tuple(torch.randn(n, 1, 40) for _ in range(2)) for n in (48, 30))
    assert ridge_r2(fit, held).value == pytest.approx(0.0, abs=0.05)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="do not vary"):
        ridge_r2((fit[0], torch.ones(48, 1, 2)), (held[0], torch.ones(30, 1, 2)))


def test_rows_are_places_or_the_mean() -> None:
    layout = Layout("tokens", 5, (2, 3), 7, prefix=1)
    tensor = torch.randn(4, 7, 5)
    torch.testing.assert_close(rows_of(tensor, layout, places=True), tensor[:, 1:])
    torch.testing.assert_close(rows_of(tensor, layout, places=False), tensor.mean(1, keepdim=True))
    feature_map = torch.randn(4, 5, 2, 3)
    torch.testing.assert_close(
        rows_of(feature_map, Layout("map", 5, (2, 3)), places=True)[:, 1], feature_map[..., 0, 1]
    )


def test_related_stages_of_a_linear_chain(linear_chain: Model) -> None:
    """Both stages are the image turned: CKA and R2 are 1, and a later stage is no further than an earlier one."""
    found = relate(linear_chain, ("second", "first"), scene_split(41, 300, 24), scene_split(42, 20, 24))
    assert found["stages"] == ["first", "second"]
    np.testing.assert_allclose(found["cka"]["value"], 1.0, atol=1e-6)
    np.testing.assert_allclose(found["ridge_r2"]["value"], 1.0, atol=0.01)
    assert found["cka"]["n"] == 256
    assert (found["ridge_r2"]["n"], found["ridge_r2"]["n_fit"]) == (20, 256)
    assert found["ridge_r2"]["rows"] == [["itself", "places"], ["places", "itself"]]
    with pytest.raises(NotApplicable, match="at least 8 fit images"):
        relate(linear_chain, ("first",), scene_split(41, 7, 24), scene_split(42, 2, 24))


def test_stages_without_a_common_grid_are_related_by_their_means(detr: Model) -> None:
    found = relate(detr, ("backbone", "encoder", "decoder"), scene_split(41, 40), scene_split(42, 12))
    assert found["ridge_r2"]["rows"][0] == ["itself", "places", "images"]
    for name in ("cka", "ridge_r2"):
        value, low, high = (np.array(found[name][key]) for key in ("value", "low", "high"))
        assert (low <= value + 1e-9).all()
        assert (value <= high + 1e-9).all()
    value = np.array(found["cka"]["value"])
    assert value[0, 1] > value[0, 2], "the backbone is nearer to the encoder than to the queries"


def exact_inverse_of_the_first(model: Model, tensor: torch.Tensor) -> torch.Tensor:
    weight = model.components[0].module.patch.weight.view(192, 192)  # type: ignore[union-attr,operator]
    return (images_from(tensor @ weight, (3, 3), (24, 24)) + 0.5).clamp(0, 1)


def test_cross_application_of_a_known_inverse(linear_chain: Model) -> None:
    samples = scene_split(906, 6, 24).samples()

    def invert(tensor: torch.Tensor) -> torch.Tensor:
        return exact_inverse_of_the_first(linear_chain, tensor) * 0.9 + 0.05  # not quite, so that there is an error

    def reconstruct(images: torch.Tensor) -> torch.Tensor:
        return invert(linear_chain.represent(images, ["first"])["first"].tensor)

    material = scoring(reconstruct, 4, samples, linear_chain, "first", invert)
    material.subject.stages = ("first", "second", "head")
    found = CrossApplication().compute(material)
    wrong = invert(linear_chain.represent(material.images, ["second"])["second"].tensor)
    ratios = [
        float((b - c).square().mean().sqrt() / (a - c).square().mean().sqrt())
        for a, b, c in zip(material.reconstructions, wrong, material.images, strict=True)
    ]
    assert min(ratios) > 1.5
    assert found.per_image[:4] == pytest.approx(ratios[:4], rel=1e-4)
    assert found.per_image[4:] == [None, None], "as many images as edits use"
    assert list(found.facts["row"]) == ["first", "second"], "the head has another layout"
    assert found.facts["row"]["first"]["mean"] == 1.0
    assert found.facts["row"]["second"]["mean"] == pytest.approx(np.mean(ratios[:4]), rel=1e-4)


def test_cross_application_at_its_ends(linear_chain: Model, detr: Model) -> None:
    samples = scene_split(906, 3, 24).samples()
    grey = scoring(lambda x: torch.full_like(x, 0.5), 3, samples, linear_chain, "first")
    grey.subject.stages = ("first", "second")
    assert CrossApplication().compute(grey).per_image == pytest.approx([1.0] * 3), "all stages mean nothing to it"
    perfect = scoring(lambda x: x.clone(), 3, samples, linear_chain, "first")
    perfect.subject.stages = ("first", "second")
    found = CrossApplication().compute(perfect)
    assert found.per_image == [None] * 3
    assert found.undefined == "its own reconstruction is perfect"
    alone = scoring(lambda x: x, 1, model=detr, stage="encoder")
    alone.subject.stages = ("backbone", "encoder", "decoder")
    with pytest.raises(NotApplicable, match="no other stage of the suite has the layout of 'encoder'"):
        CrossApplication().compute(alone)


def test_a_run_relates_every_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TINY_SUITE.replace('"psnr", "ssim", "lpips", "correspondence", "hue_gain"', '"psnr", "cross_application"')
    path = tmp_path / "suite.toml"
    path.write_text("interlayer = true\n" + text.lstrip())
    out = tmp_path / "results"
    words = ("bench", "--suite", path, "--out", out, "--methods", "mean,ridge")
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    store = Store(out / "records" / "tiny")
    related = sorted(store.interlayer().records(), key=lambda r: r.cell.model)
    assert [r.cell.model for r in related] == ["detr", "vit"]
    assert all(r.ok and r.provenance.versions["torch"] for r in related)
    assert len(list(store.records())) == len(load_results(out)) == 8, "no cell among them"

    page = (out / "tiny.md").read_text()
    for wanted in ("## Between stages", "CKA (n=64)", "Ridge R2 (n=6)", "Cross-application, ridge (n=3)", "ᵐ"):
        assert wanted in page
    for model in ("vit", "detr"):
        assert (out / f"tiny-{model}-interlayer.png").stat().st_size > 5000
        assert f"![tiny-{model}-interlayer.png]" in page

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(stage_relations, "relate", refuse)
    assert invoke(*words).exit_code == 0
    assert invoke("report", "--suite", path, "--out", out).exit_code == 0
    assert (out / "tiny.md").read_text() == page

    fewer = path.read_text().replace('["embed", "block03"]', '["embed", "block02"]')
    path.write_text(fewer)
    result = invoke(*words)
    assert result.exit_code == 1, "other stages are another record, which fails here and says so"
    assert "AssertionError: computed again" in result.output


def test_a_suite_relates_nothing_unless_it_asks(tiny_suite: Path) -> None:
    assert not load_suite(str(tiny_suite)).interlayer


def test_identities_of_relations_cover_what_changes_them(tmp_path: Path) -> None:
    def names(text: str) -> list[str]:
        path = tmp_path / "suite.toml"
        path.write_text(text)
        plan = make_plan(load_suite(str(path)), Selection(models=("vit",)), lambda note: None)
        return [stage_relations.relation_id(entry) for entry in plan.models if isinstance(entry, LoadedModel)]

    same = names(TINY_SUITE)
    assert names(TINY_SUITE.replace("edits = 3", "edits = 4")) == same
    assert names(TINY_SUITE.replace('"embed", "block03"', '"block03", "embed"')) == same
    assert names(TINY_SUITE.replace('"block03"', '"block02"')) != same
    assert names(TINY_SUITE.replace("seed = 33", "seed = 34")) != same
